#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{DISK, Rig, Source, key};
use crate::{Damage, PointError};
use lifeboat_base::DiskId;
use lifeboat_block::storage::{MemoryStorage, StorageCall, StorageFault};

#[test]
fn a_mark_reads_back_and_a_damaged_one_says_nothing() {
    let (storage, mac) = (MemoryStorage::new(), key().mac());
    assert_eq!(Mark::load(&storage, &mac), None);
    let mark = Mark { segment: [7; 16], length: 12_345, last: Seq(99) };
    MarkFile::default().put(&storage, &mac, &mark);
    assert_eq!(Mark::load(&storage, &mac), Some(mark.clone()));
    for at in 0..BODY + MAC {
        let damaged = storage.after_kill();
        damaged.tamper(NAME, |b| b[at] ^= 1);
        assert_eq!(Mark::load(&damaged, &mac), None, "byte {at}");
    }
    storage.tamper(NAME, |b| b.truncate(BODY));
    assert_eq!(Mark::load(&storage, &mac), None);
}

/// Failure 5 and 6: what was acknowledged last has nothing after it that vouches for it.
#[test]
fn i3_rot_in_the_last_acknowledged_batch_is_damage_and_not_a_torn_tail() {
    let mut rig = Rig::new();
    rig.config.segment_bytes = 1 << 20;
    let mut journal = rig.open();
    let mut source = Source::new(3);
    source.disk(0, DISK).write(0, 0, b"safe").barrier().send(&mut journal);
    let before = journal.last_seq();
    let name = rig.names(".seg").remove(0);
    let used = |rig: &Rig| rig.storage.bytes(&name).unwrap().iter().rposition(|b| *b != 0).unwrap() + 1;
    let (start, _) = (used(&rig), source.write(0, 512, &[5; 700]).barrier().send(&mut journal));
    let end = used(&rig);
    drop(journal);
    for at in (start..end).step_by(7) {
        let after = rig.on(rig.storage.after_kill());
        after.storage.tamper(&name, |b| b[at] ^= 1);
        let (journal, report) = after.try_open().unwrap();
        let [Damage { first, last, .. }] = &report.damage[..] else { panic!("byte {at}: {report:?}") };
        assert!(*first > before && *last <= source.seq && first <= last, "byte {at}: {report:?}");
        assert_eq!(report.truncated, None, "byte {at}");
        assert_eq!(journal.last_seq(), source.seq, "no number is given twice");
        let reader = journal.reader();
        reader.open_point(source.points[0].0, DiskId(0)).unwrap();
        assert!(source.never_wrong(&reader) > 0);
        drop((journal, reader));
        // And again: the damage is not forgotten.
        assert!(!after.try_open().unwrap().1.damage.is_empty());
    }
    // Cut short, which a file system may do to a file, is found all the same.
    let after = rig.on(rig.storage.after_kill());
    after.storage.tamper(&name, |b| b.truncate(start + 10));
    let (journal, report) = after.try_open().unwrap();
    assert_eq!(report.damage.len(), 1);
    assert!(matches!(
        journal.reader().open_point(source.points[0].0, DiskId(0)).map(drop),
        Ok(()) | Err(PointError::Damaged(_))
    ));
}

#[test]
fn a_mark_that_cannot_be_written_costs_nothing() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(4);
    source.disk(0, DISK).barrier();
    journal.append(&source.take()).unwrap();
    // Creating the segment comes first, then the mark.
    journal.commit().unwrap();
    drop(journal);
    rig.storage.remove(NAME).unwrap();
    let mut journal = rig.open();
    source.write(0, 0, b"x");
    journal.append(&source.take()).unwrap();
    rig.storage.fail(StorageFault {
        call: Some(StorageCall::Create),
        nth: 1,
        forever: true,
        errno: 28,
        half: false,
    });
    assert_eq!(journal.commit().unwrap().seq, source.seq);
    rig.storage.heal();
    source.barrier().send(&mut journal);
    drop(journal);
    source.verify(&rig.open().reader());
}
