#![allow(clippy::unwrap_used)]

use crate::PointError;
use crate::testing::{DISK, Rig, Source};
use lifeboat_base::DiskId;
use lifeboat_block::storage::Storage;
use lifeboat_block::{BlockDevice, BlockError};

#[test]
fn a_check_names_what_is_damaged_and_the_points_it_may_touch() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    for _ in 0..6 {
        source.random(10).barrier().send(&mut journal);
    }
    let clean = journal.reader().check(true).unwrap();
    assert!(clean.is_clean(), "{clean:?}");
    assert!(clean.segments > 2 && clean.records == source.seq.0);

    let victim = rig.names(".seg").remove(1);
    rig.storage.tamper(&victim, |b| b[400] ^= 1);
    assert!(journal.reader().check(false).unwrap().is_clean(), "a quick check reads no records");
    let full = journal.reader().check(true).unwrap();
    let [finding] = &full.findings[..] else { panic!("{full:?}") };
    assert_eq!(finding.damage.segment, victim);
    let (first, last) = finding.points.unwrap();
    let affected = source.points.iter().find(|(id, _)| id.seq >= finding.damage.first).unwrap().0;
    assert_eq!(first, affected);
    // Exactly those that cannot be read: what was lost is written again after the last of them.
    for (id, image) in &source.points {
        let reads = |disk| {
            let device = journal.reader().open_point(*id, disk).unwrap();
            crate::testing::read_all(&device).is_ok()
        };
        let whole = image.keys().all(|disk| reads(*disk));
        assert_eq!(whole, *id < first || *id > last, "{id}");
    }
    assert_eq!(journal.reader().damage().unwrap(), full.findings, "it stays known");
    assert!(finding.damage.to_string().contains("are lost"));

    rig.storage.tamper(&victim, |b| b[3] ^= 1);
    let both = journal.reader().check(false).unwrap();
    assert_eq!(both.findings.len(), 2, "but it reads headers, and what was found before stays known");
    rig.storage.tamper(&victim, |b| {
        b[3] ^= 1;
        b[400] ^= 1;
    });
    let index = rig.names(".idx").remove(0);
    rig.storage.remove(&index).unwrap();
    let full = journal.reader().check(true).unwrap();
    assert_eq!((full.findings.len(), &full.bad_indexes[..]), (0, &[index.clone()][..]));
    let quick = journal.reader().check(false).unwrap();
    assert_eq!((quick.findings.len(), &quick.bad_indexes[..]), (0, &[index][..]), "healed, and forgotten");
    source.verify(&journal.reader());
}

/// A resync sends the whole disk again, in pieces; what comes after that needs nothing of what was lost.
#[test]
fn a_disk_that_was_sent_again_in_pieces_is_whole() {
    let mut rig = Rig::new();
    rig.config.segment_bytes = 1 << 20;
    let mut journal = rig.open();
    let mut source = Source::new(2);
    source.disk(0, DISK).write(0, 100, &[1; 300]).barrier().send(&mut journal);
    source.write(0, 900, &[2; 300]).barrier().send(&mut journal);
    source.write(0, 2000, &[3; 300]).barrier().send(&mut journal);
    drop(journal);
    let name = rig.names(".seg").remove(0);
    // The second write: found when the journal is opened, since no index stands in.
    rig.storage.tamper(&name, |b| b[128 + 3 * 80 + 300 + 70] ^= 1);
    let (mut journal, report) = rig.try_open().unwrap();
    assert_eq!(report.damage.len(), 1, "{report:?}");
    let reader = journal.reader();
    let latest = |s: &Source| s.points.last().unwrap().0;
    assert!(matches!(reader.open_point(latest(&source), DiskId(0)), Err(PointError::Damaged(_))));
    let live = reader.open_live(DiskId(0)).unwrap();
    assert!(matches!(live.read(0, &mut [0; 512]), Err(BlockError::Corrupt(_))), "lost, not zeros");
    assert!(live.has_data(0, 512), "nobody may take it for a hole");

    let half = DISK / 2;
    source.write(0, 0, &[7; 4096]).zero(0, 4096, half - 4096).barrier().send(&mut journal);
    assert!(matches!(reader.open_point(latest(&source), DiskId(0)), Err(PointError::Damaged(_))));
    let live = reader.open_live(DiskId(0)).unwrap();
    let mut sent = vec![9; half as usize];
    live.read(0, &mut sent).unwrap();
    assert!(sent == source.now[&DiskId(0)][..half as usize], "what was sent since is known");
    assert!(matches!(live.read(half - 1, &mut [0; 2]), Err(BlockError::Corrupt(_))));

    source.write(0, half, &[8; 5000]).zero(0, half + 5000, half - 5000).barrier().send(&mut journal);
    let (id, image) = source.points.last().unwrap();
    let device = reader.open_point(*id, DiskId(0)).unwrap();
    assert!(crate::testing::read_all(&device).unwrap() == image[&DiskId(0)]);
    let [finding] = &reader.damage().unwrap()[..] else { panic!("one damage") };
    let ids: Vec<_> = source.points.iter().map(|(id, _)| *id).collect();
    assert_eq!(finding.points, Some((ids[1], ids[3])), "the first is before it, the last needs it no more");
    source.never_wrong(&reader);
}

/// Without its announcement nobody knows how large a disk is, whatever else is there.
#[test]
fn a_lost_announcement_of_a_disk_is_named_for_every_point_without_another() {
    for lost in [0, 1] {
        let mut rig = Rig::new();
        rig.config.segment_bytes = 1 << 20;
        let mut journal = rig.open();
        let mut source = Source::new(3);
        source.disk(0, DISK).disk(1, DISK).zero(0, 0, DISK).zero(1, 0, DISK).barrier().send(&mut journal);
        drop(journal);
        let name = rig.names(".seg").remove(0);
        rig.storage.tamper(&name, |b| b[128 + lost * 80 + 37] ^= 1);
        let (mut journal, report) = rig.try_open().unwrap();
        assert_eq!(report.damage.len(), 1, "{report:?}");
        let reader = journal.reader();
        source.write(1 - lost as u16, 0, &[2; 300]).barrier().send(&mut journal);
        let ids: Vec<_> = source.points.iter().map(|(id, _)| *id).collect();
        let hidden = DiskId(lost as u16);
        for id in &ids {
            assert!(matches!(reader.open_point(*id, hidden), Err(PointError::Damaged(_))), "{id}");
        }
        let [finding] = &reader.check(true).unwrap().findings[..] else { panic!("one damage") };
        assert_eq!(finding.points, Some((ids[0], ids[1])), "disk {lost}");

        source.disk(lost as u16, DISK).barrier().send(&mut journal);
        let ids: Vec<_> = source.points.iter().map(|(id, _)| *id).collect();
        let [finding] = &reader.check(true).unwrap().findings[..] else { panic!("one damage") };
        assert_eq!(finding.points, Some((ids[0], ids[1])), "announced again: disk {lost}");
        reader.open_point(ids[2], hidden).unwrap();
        source.never_wrong(&reader);
    }
}

#[test]
fn damage_that_opening_a_point_finds_does_not_count_where_it_is_healed() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(4);
    source.disk(0, DISK).disk(1, DISK).write(0, 0, &[1; 300]).barrier();
    source.zero(0, 0, DISK).write(0, 10, &[3; 20]).barrier().send(&mut journal);
    source.random(40).barrier().send(&mut journal);
    let (segment, index) = (rig.names(".seg").remove(0), rig.names(".idx").remove(0));
    rig.storage.tamper(&index, |b| *b.last_mut().unwrap() ^= 1);
    rig.storage.tamper(&segment, |b| b[128 + 2 * 80 + 70] ^= 1);
    let (id, image) = &source.points[1];
    let device = journal.reader().open_point(*id, DiskId(0)).unwrap();
    assert!(crate::testing::read_all(&device).unwrap() == image[&DiskId(0)]);
    assert!(matches!(
        journal.reader().open_point(source.points[0].0, DiskId(0)),
        Err(PointError::Damaged(_))
    ));
}
