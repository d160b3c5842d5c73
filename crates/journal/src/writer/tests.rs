#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{DISK, Rig, Source, key, small};
use lifeboat_base::{ManualClock, SeededEntropy};
use lifeboat_block::BlockDevice;
use lifeboat_block::storage::{StorageCall, StorageFault};
use proptest::prelude::*;

fn fault(call: StorageCall, errno: i32, half: bool) -> StorageFault {
    StorageFault { call: Some(call), nth: 1, forever: false, errno, half }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn i1_every_point_reads_as_the_source_was(seed: u64, parts in prop::collection::vec((1..25usize, 0..3u8), 1..8)) {
        let rig = Rig::new();
        let mut source = Source::new(seed);
        let mut journal = rig.open();
        for (n, end) in parts {
            source.random(n).send(&mut journal);
            match end {
                0 => {}
                1 => {
                    journal.close().unwrap();
                    journal = rig.open();
                }
                _ => {
                    drop(journal);
                    let (again, report) = rig.try_open().unwrap();
                    prop_assert_eq!((report.truncated, report.damage), (None, Vec::new()));
                    journal = again;
                }
            }
            prop_assert_eq!(journal.last_seq(), source.seq);
            source.verify(&journal.reader());
            for (disk, content) in &source.now {
                let live = journal.reader().open_live(*disk).unwrap();
                prop_assert!(crate::testing::read_all(&live).unwrap() == *content);
            }
        }
        prop_assert!(journal.reader().check(true).unwrap().is_clean() || journal.current.is_some());
        prop_assert!(journal.reader().check(true).unwrap().findings.is_empty());
    }
}

#[test]
fn i4_only_the_current_epoch_is_taken_each_record_once_without_gaps() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    source.disk(0, DISK).write(0, 0, b"one").barrier();
    let first = source.take();
    journal.append(&first).unwrap();
    journal.append(&first).unwrap();
    assert_eq!(journal.last_seq(), Seq(3), "sent twice, taken once");

    source.write(0, 0, b"lost").write(0, 0, b"two");
    let gap = source.take();
    let e = journal.append(&gap[1..]).unwrap_err();
    assert_eq!(e.to_string(), "record 5 does not follow record 3; send the stream again from 4");

    journal.set_epoch(Epoch(2)).unwrap();
    let e = journal.append(&gap).unwrap_err();
    assert!(matches!(e, JournalError::StaleEpoch { current: Epoch(2), got: Epoch(0) }));
    assert!(matches!(journal.set_epoch(Epoch(1)), Err(JournalError::StaleEpoch { .. })));
    journal.set_epoch(Epoch(2)).unwrap();
    drop(journal);

    let mut journal = rig.open();
    assert_eq!((journal.epoch(), journal.last_seq()), (Epoch(2), Seq(3)), "an epoch outlasts a crash");
    assert!(journal.append(&gap).is_err());
    source.epoch = Epoch(2);
    source.seq = Seq(3);
    source.write(0, 0, b"new").barrier().send(&mut journal);
    assert_eq!(journal.latest_point(), Some(PointId { epoch: Epoch(2), seq: Seq(5) }));
}

#[test]
fn records_that_contradict_themselves_or_their_disk_are_refused() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    source.disk(0, DISK).send(&mut journal);
    let mut refuse = |body: Body, why: &str| {
        let record = Record { epoch: Epoch(0), seq: Seq(2), time: Default::default(), body };
        let e = journal.append(&[record]).unwrap_err().to_string();
        assert_eq!(e, format!("record 2 is not valid: {why}"));
    };
    let data = |disk, offset, len, crc| Body::Data {
        disk: DiskId(disk),
        offset,
        len,
        codec: Codec::Raw,
        crc,
        payload: bytes::Bytes::from_static(b"abc"),
    };
    let crc = crc32c::crc32c(b"abc");
    refuse(data(1, 0, 3, crc), "its disk was never announced");
    refuse(data(0, DISK - 2, 3, crc), "it lies outside of its disk");
    refuse(data(0, u64::MAX, 3, crc), "it lies outside of its disk");
    refuse(data(0, 0, 3, crc ^ 1), "its content does not match its checksum");
    refuse(data(0, 0, 4, crc), "its content does not match its checksum");
    refuse(data(0, 0, 0, crc), "its length is out of bounds");
    refuse(Body::Zero { disk: DiskId(0), offset: 1, len: DISK }, "it lies outside of its disk");
    refuse(Body::Disk { disk: DiskId(64), size: 1 }, "its disk's number or size is out of bounds");
    refuse(Body::Disk { disk: DiskId(0), size: MAX_DISK + 1 }, "its disk's number or size is out of bounds");
    assert_eq!(journal.last_seq(), Seq(1));
}

#[test]
fn i2_a_failed_sync_is_never_an_acknowledgement() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(2);
    source.random(5).barrier().send(&mut journal);
    let acknowledged = source.seq;
    source.write(0, 0, b"in danger").barrier();
    journal.append(&source.take()).unwrap();
    rig.storage.fail(fault(StorageCall::Sync, EIO, false));
    assert!(matches!(journal.commit(), Err(JournalError::Io { .. })));
    for _ in 0..2 {
        assert!(
            matches!(journal.commit(), Err(JournalError::Poisoned(_))),
            "the disk is fine again, but who knows"
        );
    }
    assert!(matches!(journal.append(&[]), Err(JournalError::Poisoned(_))));
    assert!(matches!(journal.set_epoch(Epoch(9)), Err(JournalError::Poisoned(_))));
    assert_eq!(journal.durable_seq(), acknowledged);

    let after = rig.on(rig.storage.after_power_loss());
    let journal = after.open();
    assert_eq!(journal.last_seq(), acknowledged);
    source.points.pop();
    source.verify(&journal.reader());
}

#[test]
fn a_full_disk_is_not_the_end() {
    for half in [false, true] {
        let rig = Rig::new();
        let mut journal = rig.open();
        let mut source = Source::new(3);
        source.random(4).barrier().send(&mut journal);
        let before = journal.durable_seq();
        let used = |b: Vec<u8>| b.iter().rposition(|b| *b != 0);
        let size = used(rig.storage.bytes(&rig.names(".seg")[0]).unwrap());
        source.write(0, 10, b"no room").barrier();
        journal.append(&source.take()).unwrap();
        rig.storage.fail(StorageFault { forever: true, ..fault(StorageCall::Write, ENOSPC, half) });
        for _ in 0..3 {
            assert!(matches!(journal.commit(), Err(JournalError::NoSpace)));
            assert_eq!(used(rig.storage.bytes(&rig.names(".seg")[0]).unwrap()), size, "rolled back");
        }
        assert_eq!(journal.durable_seq(), before);
        let old = source.points[0].0;
        journal.reader().open_point(old, DiskId(0)).unwrap();
        rig.storage.heal();
        assert_eq!(journal.commit().unwrap().seq, source.seq);
        source.random(10).barrier().send(&mut journal);
        source.verify(&journal.reader());
        drop(journal);
        source.verify(&rig.open().reader());
    }
}

#[test]
fn a_full_disk_when_a_segment_starts_is_not_the_end_either() {
    for call in [StorageCall::Create, StorageCall::Write] {
        let rig = Rig::new();
        let mut journal = rig.open();
        let mut source = Source::new(4);
        source.disk(0, DISK);
        let records = source.take();
        rig.storage.fail(fault(call, ENOSPC, true));
        assert!(matches!(journal.append(&records), Err(JournalError::NoSpace)));
        assert!(rig.names(".seg").is_empty(), "nothing half-made is left");
        journal.append(&records).unwrap();
        journal.commit().unwrap();
    }
}

#[test]
fn i1_i2_any_failed_call_loses_nothing_acknowledged() {
    for errno in [EIO, ENOSPC] {
        for nth in 1.. {
            let rig = Rig::new();
            rig.storage.fail(StorageFault { call: None, nth, forever: false, errno, half: true });
            let mut source = Source::new(5);
            let mut acknowledged = Seq::ZERO;
            let mut failed = false;
            let mut work = || -> Result<(), JournalError> {
                let (mut journal, _) = rig.try_open()?;
                for round in 0..6 {
                    source.random(12).barrier();
                    journal.append(&source.take())?;
                    acknowledged = journal.commit()?.seq;
                    if round == 3 {
                        journal.close()?;
                        journal = rig.try_open()?.0;
                    }
                }
                Ok(())
            };
            failed |= work().is_err();
            let reached = rig.storage.calls() >= nth;
            for left in [rig.storage.after_power_loss(), rig.storage.after_kill()] {
                let after = rig.on(left);
                let (journal, report) = after.try_open().unwrap();
                assert_eq!(report.damage, [], "call {nth}");
                assert!(journal.last_seq() >= acknowledged, "call {nth}: lost what was acknowledged");
                assert!(journal.last_seq() <= source.seq);
                let kept = journal.last_seq();
                let mut known = Source::new(0);
                known.points = source.points.iter().filter(|(id, _)| id.seq <= kept).cloned().collect();
                known.verify(&journal.reader());
            }
            if !reached {
                assert!(!failed);
                break;
            }
        }
    }
}

#[test]
fn a_second_opener_and_a_wrong_key_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |key: &crate::JournalKey| {
        Journal::open(
            &dir.path().join("web-1"),
            key,
            small(),
            Arc::new(ManualClock::default()),
            Arc::new(SeededEntropy::new(1)),
        )
    };
    let (mut journal, report) = open(&key()).unwrap();
    assert!(report.created);
    let mut source = Source::new(6);
    source.random(30).barrier().send(&mut journal);
    assert!(matches!(open(&key()), Err(JournalError::Locked)));
    let mounted = journal.reader().open_point(source.points[0].0, DiskId(0)).unwrap();
    drop(journal);
    assert!(matches!(open(&key()), Err(JournalError::Locked)), "a mount still reads it");
    drop(mounted);
    assert!(matches!(open(&crate::JournalKey([8; 32])), Err(JournalError::WrongKey)));
    let (journal, report) = open(&key()).unwrap();
    assert!(!report.created && report.damage.is_empty());
    source.verify(&journal.reader());
}

#[test]
fn a_segment_is_never_appended_to_after_a_restart() {
    let rig = Rig::new();
    let mut source = Source::new(7);
    let mut seen: std::collections::HashMap<String, Vec<u8>> = Default::default();
    for _ in 0..4 {
        let mut journal = rig.open();
        source.random(3).barrier().send(&mut journal);
        drop(journal);
        for (name, bytes) in &seen {
            // Only room that was never used may have been given back.
            let now = rig.storage.bytes(name).unwrap();
            assert!(bytes.starts_with(&now) && bytes[now.len()..].iter().all(|b| *b == 0), "{name} changed");
        }
        seen = rig.names(".seg").into_iter().map(|n| (n.clone(), rig.storage.bytes(&n).unwrap())).collect();
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_big_batch_is_spilled_and_still_one_commit() {
    let rig = Rig { config: crate::JournalConfig::default(), ..Rig::new() };
    let mut journal = rig.open();
    let mut source = Source::new(8);
    source.disk(0, 64 << 20);
    let content: Vec<u8> = (0..MAX_RECORD).map(|i| (i * 7 % 253) as u8).collect();
    for n in 0..60u64 {
        let mut noisy = content.clone();
        lifeboat_base::SeededEntropy::new(n).fill(&mut noisy);
        source.write(0, n * MAX_RECORD as u64, &noisy);
    }
    source.barrier();
    journal.append(&source.take()).unwrap();
    assert_eq!(journal.durable_seq(), Seq::ZERO);
    assert!(journal.reader().points(&Default::default()).is_empty(), "not committed, not shown");
    journal.commit().unwrap();
    let device = journal.reader().open_point(source.points[0].0, DiskId(0)).unwrap();
    assert_eq!(device.size(), 64 << 20);
    source.verify(&journal.reader());
}

#[test]
fn a_journal_may_begin_after_another_ones_record_and_is_read_over_it() {
    let (line, branch) = (Rig::new(), Rig::new());
    let mut trunk = line.open();
    let mut source = Source::new(21);
    source.disk(0, DISK).write(0, 0, &[1; 2000]).write(0, 5000, &[2; 2000]).barrier().send(&mut trunk);
    let base = trunk.last_seq();
    let disks = trunk.disks();
    let mut fork = branch.open();
    fork.begin_after(base, &disks).unwrap();
    assert_eq!((fork.last_seq(), fork.durable_seq(), fork.disks()), (base, base, disks.clone()));
    let mut other = Source::new(22);
    (other.seq, other.now) = (base, source.now.clone());
    other.zero(0, 100, 50).write(0, 5500, &[9; 10]).barrier().send(&mut fork);
    // The line goes its own way under the same numbers.
    source.write(0, 0, &[66; 4096]).barrier().send(&mut trunk);

    let image = |fork: &Journal, upto| {
        let below = Arc::new(trunk.reader().open_at(DiskId(0), base).unwrap());
        let device = fork.reader().open_over(below, upto).unwrap();
        assert!(device.has_data(0, 100) && !device.has_data(100, 50));
        let kinds: Vec<_> = device
            .status(0, 2100)
            .unwrap()
            .iter()
            .map(|e| (e.len, e.kind == lifeboat_block::ExtentKind::Data))
            .collect();
        assert_eq!(kinds, [(100, true), (50, false), (1850, true), (100, false)]);
        crate::testing::read_all(&device).unwrap()
    };
    assert!(image(&fork, other.seq) == other.now[&DiskId(0)]);
    drop(fork);
    let mut fork = branch.open();
    assert_eq!(fork.last_seq(), other.seq);
    fork.begin_after(base, &disks).unwrap();
    assert_eq!((fork.last_seq(), fork.disks()), (other.seq, disks.clone()));
    assert!(matches!(fork.begin_after(base.next(), &disks), Err(JournalError::Invalid { .. })));
    other.write(0, 1, b"more").barrier().send(&mut fork);
    assert!(image(&fork, other.seq) == other.now[&DiskId(0)]);
    assert_eq!(fork.reader().content().unwrap(), (3, 14));
    source.verify(&trunk.reader());
}
