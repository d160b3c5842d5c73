#![allow(clippy::unwrap_used)]

use super::*;
use crate::PointError;
use crate::testing::{DISK, Rig, Source};
use lifeboat_base::DiskId;

/// A journal of several commits in one segment, dropped as a crash would.
fn crashed(rounds: usize, config_bytes: u64) -> (Rig, Source) {
    let mut rig = Rig::new();
    rig.config.segment_bytes = config_bytes;
    let mut journal = rig.open();
    let mut source = Source::new(11);
    source.disk(0, DISK).disk(1, DISK / 2);
    for n in 0..rounds {
        let fill = [n as u8 + 1; 100];
        source.write(0, n as u64 * 50, &fill).write(1, n as u64 * 10, &fill[..37]).barrier();
        source.send(&mut journal);
    }
    drop(journal);
    (rig, source)
}

/// Bytes of a file without the room made ahead.
fn used(rig: &Rig, name: &str) -> usize {
    rig.storage.bytes(name).unwrap().iter().rposition(|b| *b != 0).unwrap() + 1
}

#[test]
fn a_torn_tail_of_every_length_is_cut_to_the_last_whole_record() {
    let (rig, source) = crashed(4, 1 << 20);
    let name = rig.names(".seg").remove(0);
    let mut whole = rig.storage.bytes(&name).unwrap();
    let room = whole.len();
    whole.truncate(whole.iter().rposition(|b| *b != 0).unwrap() + 1);
    assert!(room > whole.len(), "room is made ahead");
    for cut in SEGMENT_HEADER..=whole.len() {
        for (garbage, zeros) in [(0, 0), (0, 300), (1, 0), (200, 5000)] {
            let after = rig.on(rig.storage.after_kill());
            // A tail is torn by a power cut, which takes the mark too: with it, this would be damage.
            lifeboat_block::storage::Storage::remove(&after.storage, "mark").unwrap();
            after.storage.tamper(&name, |b| {
                b.truncate(cut);
                b.extend((0..garbage).map(|i| i as u8 | 1));
                b.extend((0..zeros).map(|_| 0));
            });
            let (mut journal, report) = after.try_open().unwrap();
            assert_eq!(report.damage, [], "cut at {cut}");
            let kept = journal.last_seq();
            let torn = report.truncated.clone().map_or(0, |t| t.cut);
            let left = after.storage.bytes(&name).unwrap();
            if garbage > 0 {
                assert_eq!(left.len() as u64 + torn, (cut + garbage) as u64);
            } else {
                // Zeros that were cut off may have come back as room.
                assert!(left.len() as u64 + torn <= (cut + zeros) as u64);
            }
            assert!(whole.starts_with(&left));
            let mut known = Source::new(0);
            known.points = source.points.iter().filter(|(id, _)| id.seq <= kept).cloned().collect();
            known.verify(&journal.reader());
            if cut == whole.len() {
                assert_eq!(kept, source.seq);
            }
            // And the stream goes on from there.
            known.seq = kept;
            known.now = known.points.last().map(|(_, image)| image.clone()).unwrap_or_default();
            known
                .disk(0, DISK)
                .disk(1, DISK / 2)
                .zero(0, 0, DISK)
                .zero(1, 0, DISK / 2)
                .barrier()
                .send(&mut journal);
            known.verify(&journal.reader());
            drop(journal);
            known.verify(&after.open().reader());
        }
    }
}

#[test]
fn i3_a_flipped_bit_anywhere_is_never_wrong_bytes() {
    for clean in [false, true] {
        let (rig, source) = crashed(5, 700);
        if clean {
            rig.open().close().unwrap();
        } else {
            rig.names(".idx")
                .iter()
                .for_each(|n| lifeboat_block::storage::Storage::remove(&rig.storage, n).unwrap());
        }
        let files: Vec<String> = ["seg", "idx"].iter().flat_map(|e| rig.names(e)).collect();
        for name in files {
            for at in 0..used(&rig, &name) {
                let after = rig.on(rig.storage.after_kill());
                after.storage.tamper(&name, |b| b[at] ^= 1 << (at % 8));
                let (journal, report) = after.try_open().unwrap();
                let reader = journal.reader();
                let errors = source.never_wrong(&reader);
                let check = reader.check(true).unwrap();
                let context = format!("{name} byte {at} clean {clean}: {report:?} {check:?}");
                if name.ends_with("idx") {
                    assert_eq!((errors, check.findings.len()), (0, 0), "{context}");
                    assert!(
                        report.indexes_rebuilt > 0 || !check.bad_indexes.is_empty() || clean,
                        "{context}"
                    );
                } else {
                    let noticed = !check.findings.is_empty() || report.truncated.is_some();
                    assert!(noticed, "{context}");
                    assert!(check.findings.iter().all(|f| f.damage.segment == name), "{context}");
                    if report.damage.is_empty() && report.truncated.is_none() {
                        assert!(check.findings.iter().any(|f| f.points.is_some()), "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn i3_damage_before_the_tail_is_not_a_tail() {
    let (rig, source) = crashed(6, 1 << 20);
    let name = rig.names(".seg").remove(0);
    let whole = used(&rig, &name);
    // In the middle: later commits say that these bytes were safe.
    rig.storage.tamper(&name, |b| b[whole / 2] ^= 4);
    let (journal, report) = rig.try_open().unwrap();
    assert_eq!(report.truncated, None);
    let [damage] = &report.damage[..] else { panic!("{report:?}") };
    assert_eq!(damage.segment, name);
    assert_eq!(damage.first, damage.last);
    assert_eq!(journal.last_seq(), source.seq);
    let reader = journal.reader();
    for (id, image) in &source.points {
        let opened = reader.open_point(*id, DiskId(0));
        if id.seq < damage.first {
            assert!(crate::testing::read_all(&opened.unwrap()).unwrap() == image[&DiskId(0)]);
        } else {
            let Err(PointError::Damaged(d)) = opened else { panic!("{id} must name the damage") };
            assert_eq!(d, *damage);
        }
    }
}

#[test]
fn a_wiped_disk_needs_nothing_of_what_was_lost() {
    let (rig, mut source) = crashed(6, 1 << 20);
    let name = rig.names(".seg").remove(0);
    let whole = used(&rig, &name);
    rig.storage.tamper(&name, |b| b[whole / 2] ^= 4);
    let mut journal = rig.open();
    source.zero(0, 0, DISK).write(0, 5, b"sent again").barrier().send(&mut journal);
    let (id, image) = source.points.last().unwrap();
    let device = journal.reader().open_point(*id, DiskId(0)).unwrap();
    assert!(crate::testing::read_all(&device).unwrap() == image[&DiskId(0)]);
    assert!(matches!(journal.reader().open_point(*id, DiskId(1)), Err(PointError::Damaged(_))));
}

#[test]
fn two_records_that_changed_places_are_noticed() {
    for clean in [false, true] {
        let rig = Rig { config: crate::JournalConfig::default(), ..Rig::new() };
        let mut journal = rig.open();
        let mut source = Source::new(12);
        source.disk(0, DISK).write(0, 0, b"AAAA").write(0, 0, b"BBBB").barrier().send(&mut journal);
        source.write(0, 8, b"x").barrier().send(&mut journal);
        if clean {
            journal.close().unwrap();
        } else {
            drop(journal);
        }
        let name = rig.names(".seg").remove(0);
        let (a, b, size) = (SEGMENT_HEADER + 80, SEGMENT_HEADER + 164, 84);
        rig.storage.tamper(&name, |bytes| {
            let first = bytes[a..a + size].to_vec();
            bytes.copy_within(b..b + size, a);
            bytes[b..b + size].copy_from_slice(&first);
        });
        let (journal, report) = rig.try_open().unwrap();
        assert!(source.never_wrong(&journal.reader()) > 0);
        assert_eq!(report.damage.is_empty(), clean, "an index stands in until the record is read");
        assert!(!journal.reader().check(true).unwrap().findings.is_empty());
    }
}

#[test]
fn a_missing_or_swapped_segment_is_named() {
    let (rig, source) = crashed(8, 700);
    let names = rig.names(".seg");
    assert!(names.len() > 3);
    let gone = rig.on(rig.storage.after_kill());
    lifeboat_block::storage::Storage::remove(&gone.storage, &names[1]).unwrap();
    let (journal, report) = gone.try_open().unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!((&report.damage[0].segment, report.damage[0].offset), (&names[1], 0));
    assert!(report.damage[0].first <= report.damage[0].last);
    assert!(source.never_wrong(&journal.reader()) > 0);
    assert_eq!(journal.last_seq(), source.seq);

    let swapped = rig.on(rig.storage.after_kill());
    let (a, b) = (swapped.storage.bytes(&names[1]).unwrap(), swapped.storage.bytes(&names[2]).unwrap());
    swapped.storage.tamper(&names[1], |x| *x = b);
    swapped.storage.tamper(&names[2], |x| *x = a);
    let (journal, report) = swapped.try_open().unwrap();
    assert_eq!(report.damage.len(), 2, "{report:?}");
    assert!(source.never_wrong(&journal.reader()) > 0);
}

#[test]
fn the_manifest_has_a_copy_and_is_never_guessed() {
    let (rig, source) = crashed(3, 1 << 20);
    for at in 0..rig.storage.bytes(NAMES[0]).unwrap().len() {
        let after = rig.on(rig.storage.after_kill());
        after.storage.tamper(NAMES[0], |b| b[at] ^= 0x10);
        let (journal, report) = after.try_open().unwrap();
        assert!(report.manifest_repaired, "byte {at}");
        source.verify(&journal.reader());
        drop(journal);
        assert!(!after.try_open().unwrap().1.manifest_repaired);

        let both = rig.on(rig.storage.after_kill());
        NAMES.iter().for_each(|n| both.storage.tamper(n, |b| b[at] ^= 0x10));
        assert!(matches!(both.try_open(), Err(JournalError::Manifest(_))), "byte {at}");
    }
    let none = rig.on(rig.storage.after_kill());
    NAMES.iter().for_each(|n| lifeboat_block::storage::Storage::remove(&none.storage, n).unwrap());
    assert!(
        matches!(none.try_open(), Err(JournalError::Manifest(_))),
        "never a new journal over old segments"
    );
}

#[test]
fn unfinished_files_are_removed() {
    let (rig, source) = crashed(2, 1 << 20);
    let stray = format!("{:016x}-{:032x}.seg", 1, 77);
    lifeboat_block::storage::Storage::create(&rig.storage, &stray).unwrap();
    lifeboat_block::storage::Storage::create(&rig.storage, "notes.txt").unwrap();
    let (journal, report) = rig.try_open().unwrap();
    assert_eq!(report.removed, [stray]);
    assert!(rig.storage.bytes("notes.txt").is_some(), "not ours");
    source.verify(&journal.reader());
}

/// Failure 6 and 7, by somebody who has no key but can make a checksum right again.
#[test]
fn i3_a_forged_header_is_never_believed() {
    let (rig, source) = crashed(4, 1 << 20);
    let name = rig.names(".seg").remove(0);
    // The second write of the second round: its place on the disk is changed.
    rig.storage.tamper(&name, |b| {
        use crate::format::{Header, RECORD_HEADER, record_crc, set_crc};
        let mut at = SEGMENT_HEADER;
        for _ in 0..6 {
            at += Header::decode(&b[at..]).unwrap().stored();
        }
        let end = at + Header::decode(&b[at..]).unwrap().stored();
        b[at + 24] ^= 1;
        let mut head: [u8; RECORD_HEADER] = b[at..at + RECORD_HEADER].try_into().unwrap();
        set_crc(&mut head, 0);
        let crc = record_crc(&head, &b[at + RECORD_HEADER..end]);
        set_crc(&mut b[at..], crc);
        assert!(crate::format::parse(&b[at..]).is_some(), "the checksum is right");
    });
    let (journal, report) = rig.try_open().unwrap();
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert!(source.never_wrong(&journal.reader()) > 0);
}

/// Failures 1, 2, 8: what an opening finds, it may tell the agent, so no power cut may take it any more; not even when a
/// sync failed before, after which syncing alone saves nothing.
#[test]
fn i2_what_is_found_after_a_kill_outlives_a_power_cut() {
    use lifeboat_block::storage::{StorageCall, StorageFault};
    for bytes in [700, 1 << 20] {
        for forever in [false, true] {
            let mut rig = Rig::new();
            rig.config.segment_bytes = bytes;
            let mut journal = rig.open();
            let mut source = Source::new(5);
            source.disk(0, DISK).write(0, 0, &[1; 100]).barrier().send(&mut journal);
            source.write(0, 50, &[2; 100]).barrier();
            journal.append(&source.take()).unwrap();
            let call = Some(StorageCall::Sync);
            rig.storage.fail(StorageFault { call, nth: 1, forever, errno: 5, half: false });
            journal.commit().unwrap_err();
            drop(journal);
            rig.storage.heal();
            let found = rig.open().last_seq();
            let after = rig.on(rig.storage.after_power_loss()).open();
            assert!(after.last_seq() >= found, "{found} was found, {} is left", after.last_seq());
            let mut known = Source::new(0);
            known.points = source.points.iter().filter(|(id, _)| id.seq <= found).cloned().collect();
            known.verify(&after.reader());
        }
    }
}
