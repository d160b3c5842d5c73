#![allow(clippy::unwrap_used)]

use crate::PointError;
use crate::testing::{Bases, DISK, Image, Rig, Source, read_all};
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Seq};
use lifeboat_block::storage::{MemoryStorage, Storage, StorageCall, StorageFault};
use lifeboat_block::{BlockDevice, BlockError, ExtentKind};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn open(rig: &Rig, bases: &Arc<Bases>) -> crate::Journal {
    let journal = rig.open();
    journal.set_elsewhere(bases.clone());
    journal
}

/// A place to move the base to: a barrier, or any record.
fn somewhere(source: &Source, reader: &crate::JournalReader) -> Seq {
    let from = reader.base().map_or(1, |b| b.seq.0);
    let at = Seq(from + source.below(source.seq.0 - from + 1));
    let barrier = source.points.iter().rev().find(|(id, _)| id.seq <= at).map(|(id, _)| id.seq);
    if source.below(2) == 0 { barrier.filter(|b| b.0 >= from).unwrap_or(at) } else { at }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// I1: whatever the base is moved to, every point that is left reads as the model says, also after a restart.
    #[test]
    fn i1_points_over_a_base_are_exact(seed: u64, rounds in 3..12usize) {
        let (mut rig, bases) = (Rig::new(), Arc::new(Bases::default()));
        let mut journal = open(&rig, &bases);
        let mut source = Source::new(seed);
        for n in 0..rounds as u8 {
            source.random(20).send(&mut journal);
            let seq = somewhere(&source, &journal.reader());
            bases.keep(n, &journal.reader(), seq);
            let before = journal.reader().usage();
            let report = journal.keeper().advance_base([n; 16], seq).unwrap();
            let after = journal.reader().usage();
            prop_assert_eq!(before.bytes - after.bytes, report.bytes_freed);
            prop_assert_eq!(before.points - after.points, report.points_dropped);
            if n > 0 {
                bases.forget(n - 1);
            }
            source.verify(&journal.reader());
            prop_assert!(journal.reader().check(true).unwrap().findings.is_empty());
            if source.below(3) == 0 {
                journal.close().unwrap();
                journal = open(&rig, &bases);
            } else if source.below(3) == 0 {
                drop(journal);
                rig = rig.on(rig.storage.after_power_loss());
                journal = open(&rig, &bases);
            }
            source.verify(&journal.reader());
            prop_assert_eq!(journal.last_seq(), source.seq);
        }
    }

    /// What tiering reads: every block that differs is in a run, whatever happened between.
    #[test]
    fn every_changed_block_is_told(seed: u64) {
        let rig = Rig::new();
        let mut journal = rig.open();
        let mut source = Source::new(seed);
        let blocks = 3 * BLOCK as u64 + 700;
        source.disk(0, blocks).disk(1, DISK);
        let mut states: Vec<(Seq, Image)> = Vec::new();
        for _ in 0..12 {
            let size = source.now[&DiskId(0)].len() as u64;
            let offset = source.below(size);
            let len = (1 + source.below(2000)).min(size - offset);
            match source.below(4) {
                0 => source.zero(0, offset, len),
                1 => source.disk(0, 1 + source.below(2 * blocks)),
                _ => source.write(0, offset, &vec![source.below(255) as u8; len as usize]),
            };
            states.push((source.seq, source.now.clone()));
        }
        source.barrier().send(&mut journal);
        let reader = journal.reader();
        for (from, old) in &states {
            for (to, new) in states.iter().filter(|(to, _)| to >= from) {
                let runs = reader.changed(DiskId(0), *from, *to).unwrap();
                let (old, new) = (&old[&DiskId(0)], &new[&DiskId(0)]);
                for (n, block) in new.chunks(BLOCK).enumerate() {
                    let at = (n * BLOCK) as u64;
                    let same = old.get(n * BLOCK..n * BLOCK + block.len()) == Some(block)
                        && (old.len() == new.len() || old.len() > n * BLOCK + BLOCK && new.len() > n * BLOCK + BLOCK);
                    let told = runs.iter().any(|(from, len)| *from <= at && at < from + len);
                    prop_assert!(same || told, "block {n} from {from} to {to}: {runs:?}");
                }
                prop_assert!(runs.iter().all(|(at, len)| at % BLOCK as u64 == 0 && at + len <= new.len() as u64));
                prop_assert!(runs.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0));
            }
        }
    }
}

/// A first copy of a large disk needs little room: without any point, the base is moved on record by record.
#[test]
fn a_first_copy_lands_without_a_point() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let mut journal = open(&rig, &bases);
    let mut source = Source::new(4);
    source.disk(0, DISK);
    let mut most = 0;
    for n in 0..40u8 {
        let content: Vec<u8> = (0..1000u32).map(|b| (b * 31 + u32::from(n)) as u8).collect();
        source.write(0, u64::from(n % 16) * 1000, &content).send(&mut journal);
        most = most.max(journal.reader().usage().bytes);
        if let Some((seq, _)) = journal.reader().finished() {
            bases.keep(n, &journal.reader(), seq);
            journal.keeper().advance_base([n; 16], seq).unwrap();
            assert_eq!(journal.reader().finished(), None);
        }
        if n % 10 == 9 {
            journal.close().unwrap();
            journal = open(&rig, &bases);
            assert!(journal.reader().has_content());
        }
    }
    assert!(most < 16 * 1024, "{most}");
    assert!(matches!(journal.reader().open_at(DiskId(0), Seq(3)), Err(PointError::NoPoints)));
    source.barrier().send(&mut journal);
    source.verify(&journal.reader());
    assert_eq!(rig.names(".seg").len(), journal.reader().usage().segments, "what went is deleted");
}

/// A journal whose segments all went knows where it stands.
#[test]
fn a_journal_of_a_base_alone_goes_on() {
    let (mut rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    rig.config.segment_bytes = 512;
    let mut journal = open(&rig, &bases);
    let mut source = Source::new(4);
    source.disk(0, DISK).write(0, 5, b"kept").barrier().send(&mut journal);
    journal.set_epoch(lifeboat_base::Epoch(3)).unwrap();
    source.epoch = lifeboat_base::Epoch(3);
    source.barrier().send(&mut journal);
    journal.close().unwrap();
    let journal = open(&rig, &bases);
    let disks = journal.disks();
    bases.keep(1, &journal.reader(), source.seq);
    journal.keeper().advance_base([1; 16], source.seq).unwrap();
    drop(journal);
    let mut journal = open(&rig, &bases);
    assert_eq!((journal.last_seq(), journal.epoch(), journal.disks()), (source.seq, source.epoch, disks));
    source.write(0, 9, b"more").barrier().send(&mut journal);
    source.verify(&journal.reader());
}

/// Failures 9, 18: the vault is away. What needs it says so, the rest reads, the stream goes on.
#[test]
fn a_base_that_is_away_hides_only_what_it_holds() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let mut journal = open(&rig, &bases);
    let mut source = Source::new(9);
    source.disk(0, DISK).write(0, 0, &[1; 8192]).barrier().send(&mut journal);
    bases.keep(1, &journal.reader(), source.seq);
    journal.keeper().advance_base([1; 16], source.seq).unwrap();
    source.write(0, 100, &[2; 300]).barrier().send(&mut journal);
    bases.away.store(true, Ordering::Relaxed);
    let newest = source.points[1].0;
    let device = journal.reader().open_point(newest, DiskId(0)).unwrap();
    let mut buf = [0; 300];
    device.read(100, &mut buf).unwrap();
    assert_eq!(buf, [2; 300]);
    for error in [device.read(0, &mut buf).unwrap_err(), device.ready().unwrap_err()] {
        assert!(matches!(&error, BlockError::Io(_)) && error.to_string().contains("away"), "{error}");
    }
    assert!(
        device.has_data(9000, 1) && device.status(0, DISK).unwrap()[0].kind == ExtentKind::Data,
        "no hole"
    );
    source.zero(0, 0, DISK).write(0, 0, b"all new").barrier().send(&mut journal);
    let whole = journal.reader().open_point(source.points[2].0, DiskId(0)).unwrap();
    whole.ready().unwrap();
    assert!(read_all(&whole).unwrap() == source.now[&DiskId(0)], "what needs nothing of it reads");
    bases.away.store(false, Ordering::Relaxed);
    device.ready().unwrap();
    source.verify(&journal.reader());
    let alone = rig.on(rig.storage.after_kill()).open();
    let text = alone.reader().open_point(newest, DiskId(0)).unwrap().ready().unwrap_err().to_string();
    assert!(text.contains("vault") && text.contains("not open"), "{text}");
}

/// Failures 1, 2, 9: each call of moving the base on fails, or the power is cut at it.
#[test]
fn i1_moving_the_base_on_may_end_at_any_call() {
    for errno in [5, 28] {
        for nth in 1.. {
            let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
            let mut journal = open(&rig, &bases);
            let mut source = Source::new(11);
            source.random(60).barrier().send(&mut journal);
            let old = source.seq;
            bases.keep(1, &journal.reader(), Seq(10));
            journal.keeper().advance_base([1; 16], Seq(10)).unwrap();
            source.random(60).barrier().send(&mut journal);
            bases.keep(2, &journal.reader(), old);
            rig.storage.fail(StorageFault { call: None, nth, forever: false, errno, half: true });
            let moved = journal.keeper().advance_base([2; 16], old);
            rig.storage.heal();
            let held = journal.reader().base().unwrap().id;
            assert_eq!(held, if moved.is_ok() { [2; 16] } else { [1; 16] });
            source.verify(&journal.reader());
            drop(journal);
            for storage in [rig.storage.after_kill(), rig.storage.after_power_loss()] {
                let rig = rig.on(storage);
                let mut journal = open(&rig, &bases);
                let found = journal.reader().base().unwrap().id;
                if moved.is_ok() {
                    assert_eq!(found, [2; 16], "what was said to be so is so");
                }
                source.verify(&journal.reader());
                let mut more = Source::new(1);
                (more.seq, more.now, more.points) = (source.seq, source.now.clone(), source.points.clone());
                more.random(9).barrier().send(&mut journal);
                more.verify(&journal.reader());
                assert_eq!(
                    rig.names(".seg").len(),
                    journal.reader().usage().segments,
                    "nothing is left over"
                );
            }
            if moved.is_ok() && nth > 12 {
                break;
            }
        }
    }
}

/// Failure 5: what the base holds is not lost any more; what came after it is.
#[test]
fn damage_before_the_base_is_healed_and_told() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let mut journal = open(&rig, &bases);
    let mut source = Source::new(12);
    source.disk(0, DISK).write(0, 0, &[1; 3000]).barrier();
    source.write(0, 0, &[2; 3000]).barrier().write(0, 6000, &[3; 2000]).barrier().send(&mut journal);
    let middle = source.points[1].0.seq;
    journal.close().unwrap();
    journal = open(&rig, &bases);
    source.write(0, 7000, &[3; 2000]).barrier().send(&mut journal);
    journal.close().unwrap();
    let names = rig.names(".seg");
    assert_eq!(names.len(), 2, "the story needs two segments");
    rig.storage.tamper(&names[0], |b| b[128 + 80 + 70] ^= 1);
    let mut journal = open(&rig, &bases);
    assert_eq!(journal.reader().check(true).unwrap().findings.len(), 1);
    // The second write covers the first, so that this can be read.
    bases.keep(1, &journal.reader(), middle);
    journal.keeper().advance_base([1; 16], middle).unwrap();
    assert_eq!(journal.reader().usage().damaged, 0);
    assert!(journal.reader().check(true).unwrap().findings.iter().all(|f| f.points.is_none()));
    source.verify(&journal.reader());
    source.write(0, 9000, &[4; 2000]).barrier().send(&mut journal);
    bases.keep(2, &journal.reader(), source.seq);
    let report = journal.keeper().advance_base([2; 16], source.seq).unwrap();
    assert_eq!(report.healed.len(), 1, "its segment went, and that is told: {report:?}");
    source.verify(&journal.reader());
}

#[test]
fn a_base_that_would_take_points_back_or_ahead_is_refused() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let mut journal = open(&rig, &bases);
    let mut source = Source::new(13);
    source.random(30).barrier().send(&mut journal);
    let keeper = journal.keeper();
    let refused = |seq| matches!(keeper.advance_base([9; 16], seq), Err(crate::JournalError::PlanStale));
    assert!(refused(source.seq.next()));
    bases.keep(1, &journal.reader(), Seq(9));
    keeper.advance_base([1; 16], Seq(9)).unwrap();
    assert!(refused(Seq(8)));
    assert!(journal.reader().changed(DiskId(0), Seq(9), source.seq).is_ok());
    assert!(journal.reader().changed(DiskId(0), Seq(8), source.seq).is_err());
    bases.keep(2, &journal.reader(), Seq(9));
    keeper.advance_base([2; 16], Seq(9)).unwrap();
    source.verify(&journal.reader());
}

/// A fold above a base, which is what a vault that is away for long leads to.
#[test]
fn a_fold_over_a_base_changes_no_point() {
    for seed in 0..12 {
        let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
        let mut journal = open(&rig, &bases);
        let mut source = Source::new(seed);
        source.random(40).barrier().send(&mut journal);
        let at = somewhere(&source, &journal.reader());
        bases.keep(1, &journal.reader(), at);
        journal.keeper().advance_base([1; 16], at).unwrap();
        for _ in 0..10 {
            source.random(15).barrier().send(&mut journal);
            rig.clock.advance(std::time::Duration::from_secs(900));
        }
        let plan = journal.keeper().plan_trim().unwrap();
        journal.keeper().trim(&plan).unwrap();
        source.verify(&journal.reader());
        drop(journal);
        let journal = open(&rig, &bases);
        source.verify(&journal.reader());
        // The next base is made from the one below, by what changed since.
        let horizon = journal.reader().usage().oldest.unwrap().id.seq;
        assert!(journal.reader().changed(DiskId(0), at, horizon).is_ok());
        bases.keep(2, &journal.reader(), horizon);
        journal.keeper().advance_base([2; 16], horizon).unwrap();
        bases.forget(1);
        source.verify(&journal.reader());
    }
}

fn supplied(rig: &Rig, bases: &Arc<Bases>) -> (crate::Journal, Source) {
    let mut journal = open(rig, bases);
    let mut source = Source::new(14);
    source.disk(0, DISK).write(0, 0, &[1; 4096]).barrier().send(&mut journal);
    for at in [1000u64, 9000] {
        let found = Bytes::from(vec![7; 2000]);
        journal.supply(DiskId(0), at, &found).unwrap();
        source.now.get_mut(&DiskId(0)).unwrap()[at as usize..at as usize + 2000].fill(7);
    }
    journal.commit().unwrap();
    (journal, source)
}

#[test]
fn i1_what_is_supplied_is_in_no_earlier_point_and_in_every_later_one() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let (mut journal, mut source) = supplied(&rig, &bases);
    source.verify(&journal.reader());
    let live = |j: &crate::Journal| read_all(&j.reader().open_live(DiskId(0)).unwrap()).unwrap();
    assert!(live(&journal) == source.now[&DiskId(0)]);
    assert_eq!(journal.last_seq(), source.seq, "it takes no number");
    // A restart before any record follows.
    drop(journal);
    let lost_power = rig.on(rig.storage.after_power_loss());
    assert!(live(&open(&lost_power, &bases)) == source.now[&DiskId(0)]);
    journal = open(&rig, &bases);
    assert!(live(&journal) == source.now[&DiskId(0)] && journal.reader().has_content());
    source.write(0, 1500, &[9; 100]).barrier().send(&mut journal);
    source.verify(&journal.reader());
    // Moved to the point before it, the base does not have it.
    bases.keep(1, &journal.reader(), source.points[0].0.seq);
    journal.keeper().advance_base([1; 16], source.points[0].0.seq).unwrap();
    source.verify(&journal.reader());
    let changed = journal.reader().changed(DiskId(0), source.points[0].0.seq, source.seq).unwrap();
    assert_eq!(changed, [(0, DISK)]);
    journal.close().unwrap();
    let journal = open(&rig, &bases);
    source.verify(&journal.reader());
    assert!(journal.reader().check(true).unwrap().is_clean());
}

/// The last thing in a finished segment, which holds nothing else the base lacks.
#[test]
fn i1_what_is_supplied_at_a_segments_end_stays() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let (journal, mut source) = supplied(&rig, &bases);
    journal.close().unwrap();
    let mut journal = open(&rig, &bases);
    bases.keep(1, &journal.reader(), source.seq);
    journal.keeper().advance_base([1; 16], source.seq).unwrap();
    source.barrier().send(&mut journal);
    source.verify(&journal.reader());
    journal.close().unwrap();
    let journal = open(&rig, &bases);
    let (seq, _) = journal.reader().finished().unwrap();
    bases.keep(2, &journal.reader(), seq);
    journal.keeper().advance_base([2; 16], seq).unwrap();
    source.verify(&journal.reader());
}

#[test]
fn what_is_supplied_is_held_to_the_same_bounds() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let (mut journal, source) = supplied(&rig, &bases);
    for (disk, offset, len) in [(0, DISK - 1, 2), (3, 0, 1), (0, 0, 0)] {
        let refused = journal.supply(DiskId(disk), offset, &Bytes::from(vec![1; len]));
        assert!(matches!(refused, Err(crate::JournalError::Invalid { .. })), "{disk} {offset} {len}");
    }
    journal.commit().unwrap();
    source.verify(&journal.reader());
}

/// Failure 4: torn at every byte length. Failure 6: a flipped bit anywhere is never wrong bytes.
#[test]
fn i3_what_is_supplied_is_whole_or_named() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let (mut journal, mut source) = supplied(&rig, &bases);
    source.barrier().send(&mut journal);
    let clean = |storage: &MemoryStorage| {
        for name in storage.list().unwrap().into_iter().filter(|n| n == "mark" || n.ends_with(".idx")) {
            storage.remove(&name).unwrap();
        }
    };
    drop(journal);
    let name = rig.names(".seg").remove(0);
    let whole = rig.storage.bytes(&name).unwrap().len();
    for at in 128..whole {
        let flipped = rig.on(rig.storage.after_kill());
        clean(&flipped.storage);
        flipped.storage.tamper(&name, |b| b[at] ^= 1 << (at % 8));
        let (journal, report) = flipped.try_open().unwrap();
        journal.set_elsewhere(bases.clone());
        source.never_wrong(&journal.reader());
        assert!(report.truncated.is_some() || !report.damage.is_empty(), "byte {at}");

        let torn = rig.on(rig.storage.after_kill());
        clean(&torn.storage);
        torn.storage.tamper(&name, |b| b.truncate(at));
        let (journal, report) = torn.try_open().unwrap();
        assert!(report.damage.is_empty(), "byte {at}: a tail is no damage: {report:?}");
        source.never_wrong(&journal.reader());
    }
}

/// Failure 8: nothing supplied is called there before it is on stable storage.
#[test]
fn i2_what_is_supplied_is_safe_when_committed() {
    let (rig, bases) = (Rig::new(), Arc::new(Bases::default()));
    let (mut journal, source) = supplied(&rig, &bases);
    let call = Some(StorageCall::Sync);
    rig.storage.fail(StorageFault { call, nth: 1, forever: true, errno: 5, half: false });
    journal.supply(DiskId(0), 0, &Bytes::from(vec![5; 512])).unwrap();
    assert!(journal.commit().is_err());
    assert!(journal.supply(DiskId(0), 0, &Bytes::from(vec![5; 512])).is_err(), "it stopped");
    rig.storage.heal();
    source.verify(&journal.reader());
}
