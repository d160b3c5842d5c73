#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{DISK, Rig, Source};

fn story(points: u64) -> (Rig, Source, crate::Journal) {
    let rig = Rig { config: crate::JournalConfig::default(), ..Rig::new() };
    let mut journal = rig.open();
    let mut source = Source::new(1);
    source.disk(0, DISK);
    for n in 0..points {
        source.write(0, n % DISK, &[n as u8]).barrier();
        rig.clock.advance(std::time::Duration::from_secs(1));
    }
    source.send(&mut journal);
    (rig, source, journal)
}

#[test]
fn points_are_newest_first_and_sampling_spreads_them() {
    let (_rig, source, journal) = story(1000);
    let reader = journal.reader();
    let plain = reader.points(&PointQuery { limit: 10, sampled: false, ..Default::default() });
    let newest: Vec<_> = source.points.iter().rev().take(10).map(|(id, _)| *id).collect();
    assert_eq!(plain.iter().map(|p| p.id).collect::<Vec<_>>(), newest);
    assert!(plain.iter().all(|p| p.bytes_since_previous == 1));

    let sampled = reader.points(&PointQuery { limit: 10, sampled: true, ..Default::default() });
    assert!((9..=10).contains(&sampled.len()), "{}", sampled.len());
    assert_eq!(sampled[0].id, source.points[999].0);
    assert_eq!(sampled.iter().map(|p| p.bytes_since_previous).sum::<u64>(), 1000, "sizes are added up");
    assert!(sampled.windows(2).all(|w| w[0].id.seq > w[1].id.seq));
    let gaps: Vec<u64> = sampled.windows(2).map(|w| w[0].source_time.0 - w[1].source_time.0).collect();
    assert!(gaps.iter().max().unwrap() < &(gaps.iter().min().unwrap() * 2), "{gaps:?}");

    let (from, to) = (plain[8].source_time, plain[3].source_time);
    let some = reader.points(&PointQuery { from: Some(from), to: Some(to), limit: 100, sampled: true });
    assert_eq!(some.iter().map(|p| p.id).collect::<Vec<_>>(), newest[3..=8]);
    assert!(reader.points(&PointQuery { limit: 0, ..Default::default() }).is_empty());
}

#[test]
fn what_a_person_says_resolves_to_a_barrier() {
    let (_rig, source, journal) = story(5);
    let reader = journal.reader();
    let (first, last) = (source.points[0].0, source.points[4].0);
    assert_eq!(reader.resolve(&PointSpec::Latest).unwrap().id, last);
    assert_eq!(reader.resolve(&PointSpec::Id(first)).unwrap().id, first);
    let third = reader.resolve(&PointSpec::Id(source.points[2].0)).unwrap();
    let between = third.source_time.saturating_add(std::time::Duration::from_millis(150));
    assert_eq!(reader.resolve(&PointSpec::At(between)).unwrap().id, third.id);
    assert_eq!(reader.resolve(&PointSpec::At(third.source_time)).unwrap().id, third.id);
    let e = reader.resolve(&PointSpec::At(WallTime(5))).unwrap_err();
    assert_eq!(e.to_string(), format!("that is before the window; the oldest recovery point is {first}"));
    let unknown = |epoch, seq| PointSpec::Id(PointId { epoch: Epoch(epoch), seq: Seq(seq) });
    assert!(matches!(reader.resolve(&unknown(0, 2)), Err(PointError::BeforeWindow { .. })));
    assert!(matches!(reader.resolve(&unknown(0, 4)), Err(PointError::Unknown { .. })), "no barrier");
    assert!(matches!(reader.resolve(&unknown(1, last.seq.0)), Err(PointError::Unknown { .. })));
    assert!(matches!(reader.resolve(&unknown(0, 99)), Err(PointError::Unknown { .. })));
}

#[test]
fn an_empty_journal_has_no_points() {
    let reader = Rig::new().open().reader();
    assert!(matches!(reader.resolve(&PointSpec::Latest), Err(PointError::NoPoints)));
    assert!(matches!(reader.open_live(DiskId(0)), Err(PointError::UnknownDisk { .. })));
    assert_eq!(reader.usage().points, 0);
}

#[test]
fn both_clocks_are_kept() {
    let (rig, source, mut journal) = story(1);
    rig.clock.set_wall(WallTime(77));
    let mut source = source;
    source.barrier().send(&mut journal);
    drop(journal);
    let point = rig.open().reader().resolve(&PointSpec::Latest).unwrap();
    assert_eq!((point.site_time, point.source_time), (WallTime(77), source.time));
}
