use super::*;
use lifeboat_base::SeededEntropy;
use lifeboat_block::storage::{MemoryStorage, StorageCall, StorageFault};

const REGION: u64 = 4 << 20;
const SIZE: u64 = 40 * REGION + 512;
const DISK: DiskId = DiskId(0);

fn spec() -> TrackSpec {
    TrackSpec {
        server: ServerId::from_slice(&[7; 16]).expect("an id"),
        epoch: Epoch(1),
        sizes: vec![SIZE, 3 * REGION],
        intents: true,
    }
}

fn open(storage: &MemoryStorage, instance: u64) -> (Arc<Tracking>, Found) {
    let (tracking, found) = Tracking::open(storage, &spec(), &SeededEntropy::new(instance)).expect("opens");
    let what = if found.suspects == Suspects::All { Settle::SuspectAll } else { Settle::Adopt };
    tracking.settle(instance, what).expect("settles");
    (tracking, found)
}

fn suspects(found: &Found) -> Vec<(DiskId, u64, u64)> {
    match &found.suspects {
        Suspects::Only { ranges, .. } => ranges.clone(),
        Suspects::All => panic!("everything is suspected"),
    }
}

/// Rotates until nothing but what is touched meanwhile is marked.
fn clear(t: &Tracking) {
    for seq in 1..=4 {
        t.rotate(Seq(seq), false, |_, _, _| false).expect("rotates");
    }
}

#[test]
fn a_new_log_suspects_everything_and_the_next_process_is_named() {
    let storage = MemoryStorage::new();
    let (_, found) = open(&storage, 1);
    assert_eq!(found, Found::nothing());
    let (_, found) = open(&storage.after_power_loss(), 2);
    assert_eq!(suspects(&found).len(), 41 + 3);
    assert_eq!(found.lineage, [1]);
}

/// I2, failures 1 and 2.
#[test]
fn a_write_is_marked_before_it_is_let_through_and_power_may_go_at_once() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    let intent = t.intend(DISK, 5 * REGION + 100, REGION);
    let (_, found) = open(&storage.after_power_loss(), 2);
    assert_eq!(suspects(&found), [(DISK, 5 * REGION, REGION), (DISK, 6 * REGION, REGION)]);
    drop(intent);
    let (_, found) = open(&storage.after_power_loss(), 3);
    assert_eq!(suspects(&found).len(), 2);
}

#[test]
fn a_short_last_region_and_a_second_disk_have_their_own_marks() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    drop(t.intend(DISK, SIZE - 1, 1));
    drop(t.intend(DiskId(1), 0, 1));
    let (_, found) = open(&storage.after_power_loss(), 2);
    assert_eq!(suspects(&found), [(DISK, 40 * REGION, 512), (DiskId(1), 0, REGION)]);
}

/// A mark stays while the write is under way, however long it takes, and for as long as it may not be at the site.
#[test]
fn a_mark_is_taken_back_only_after_two_quiet_rotations() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    let marked = |t: &Tracking| t.state.lock().disks[0].marked().count();
    let slow = t.intend(DISK, 0, 1);
    clear(&t);
    assert_eq!(marked(&t), 1, "under way");
    drop(slow);
    t.rotate(Seq(9), false, |_, _, _| false).expect("rotates");
    t.rotate(Seq(9), false, |_, _, _| false).expect("rotates");
    assert_eq!(marked(&t), 1, "captured at the end of the write");
    t.rotate(Seq(9), false, |_, _, _| false).expect("rotates");
    assert_eq!(marked(&t), 0);
}

/// What was dirty at a rotation is sent after it: only a mark set later covers that.
#[test]
fn a_suspect_region_outlives_its_sync_by_a_mark() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    drop(t.intend(DISK, 0, 1));
    let marked = |t: &Tracking| t.state.lock().disks[0].marked().count();
    for _ in 0..5 {
        t.rotate(Seq(9), false, |disk, at, _| disk == DISK && at == 0).expect("rotates");
        assert_eq!(marked(&t), 1);
    }
    t.rotate(Seq(9), false, |_, _, _| false).expect("rotates");
    assert_eq!(marked(&t), 1, "it was sent since, and nobody has said that it arrived");
    t.rotate(Seq(9), false, |_, _, _| false).expect("rotates");
    t.rotate(Seq(9), false, |_, _, _| false).expect("rotates");
    assert_eq!(marked(&t), 0);
}

#[test]
fn floor_lineage_and_base_are_kept() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    t.rotate(Seq(77), false, |_, _, _| false).expect("rotates");
    t.arm(true).expect("arms");
    t.keep_base(5, Seq(80), t.restarts()).expect("keeps");
    drop(t);
    let storage = storage.after_power_loss();
    let (t, found) = open(&storage, 2);
    assert!(matches!(found.suspects, Suspects::Only { floor: Seq(80), .. }));
    assert_eq!((found.armed, found.base, &found.lineage[..]), (true, 5, &[1][..]));
    t.rotate(Seq(81), false, |_, _, _| false).expect("rotates");
    assert_eq!(open(&storage.after_power_loss(), 3).1.lineage, [2, 1]);
    t.rotate(Seq(81), true, |_, _, _| false).expect("rotates");
    assert_eq!(open(&storage.after_power_loss(), 3).1.lineage, [2], "the site has records of process 2");
    for i in 4..40 {
        open(&storage, i);
    }
    let (t, found) = open(&storage, 40);
    assert_eq!(found.lineage.len(), MAX_LINEAGE);
    t.settle(50, Settle::SuspectAll).expect("settles");
    let (_, found) = open(&storage.after_power_loss(), 51);
    assert_eq!((suspects(&found).len(), &found.lineage[..], found.base), (44, &[50][..], 0));
    assert!(matches!(found.suspects, Suspects::Only { floor: Seq::ZERO, .. }));
}

/// A process that dies between the site's welcome and its first record is not the one the site knows.
#[test]
fn a_process_is_named_only_once_it_is_settled() {
    let storage = MemoryStorage::new();
    open(&storage, 1);
    let entropy = SeededEntropy::new(2);
    let (_, found) = Tracking::open(&storage, &spec(), &entropy).expect("opens");
    assert_eq!(found.lineage, [1]);
    let (_, found) = Tracking::open(&storage.after_power_loss(), &spec(), &entropy).expect("opens");
    assert_eq!(found.lineage, [1]);
}

#[test]
fn a_log_of_another_epoch_size_or_server_is_not_believed() {
    let storage = MemoryStorage::new();
    open(&storage, 1);
    for change in [
        |s: &mut TrackSpec| s.epoch = Epoch(2),
        |s: &mut TrackSpec| s.sizes[1] += 512,
        |s: &mut TrackSpec| s.intents = false,
    ] {
        let mut spec = spec();
        change(&mut spec);
        let copy = storage.after_power_loss();
        let (_, found) = Tracking::open(&copy, &spec, &SeededEntropy::new(1)).expect("opens");
        assert_eq!(found.suspects, Suspects::All);
    }
}

/// Failure 6: a flipped bit anywhere never makes a marked region look clean.
#[test]
fn a_flipped_bit_only_ever_suspects_more() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    drop(t.intend(DISK, 3 * REGION, 1));
    let name = file_name(spec().server);
    let whole = storage.open(&name).expect("opens");
    let len = whole.len().expect("len");
    for byte in (0..len).step_by(7) {
        let copy = storage.after_power_loss();
        let file = copy.open(&name).expect("opens");
        let mut b = [0];
        file.read_at(&mut b, byte).expect("reads");
        file.write_at(&[b[0] ^ 0x10], byte).expect("writes");
        let (_, found) = open(&copy, 2);
        let covered = match &found.suspects {
            Suspects::All => true,
            Suspects::Only { ranges, .. } => ranges.contains(&(DISK, 3 * REGION, REGION)),
        };
        assert!(covered, "byte {byte}");
    }
}

/// Failures 1 to 3 and 8: whatever I/O fails, and if the power goes then, torn or not, what was let through is suspect.
#[test]
fn whatever_fails_what_was_let_through_is_suspect_or_the_log_says_it_is_broken() {
    for nth in 1.. {
        let storage = MemoryStorage::new();
        let (t, _) = open(&storage, 1);
        clear(&t);
        storage.fail(StorageFault { call: None, nth, forever: false, errno: libc::EIO, half: true });
        let calls = storage.calls();
        let mut through = Vec::new();
        for i in [3u64, 17, 3, 30] {
            drop(t.intend(DISK, i * REGION, 1));
            if t.broken().is_none() {
                through.push((DISK, i * REGION, REGION));
            }
            let _ = t.rotate(Seq(100 + i), false, |_, _, _| false);
        }
        let clean = storage.calls() - calls < nth;
        assert!(clean || t.broken().is_some(), "an error is not passed over");
        storage.heal();
        for seed in 0..8 {
            let copy = storage.after_torn_power_loss(&SeededEntropy::new(seed));
            let (_, found) = open(&copy, 2);
            let Suspects::Only { ranges, .. } = found.suspects else { continue };
            for region in through.iter().rev().take(2) {
                assert!(ranges.contains(region), "call {nth}, seed {seed}: {region:?} is missing");
            }
        }
        if clean {
            return;
        }
    }
}

/// A thousand writers to one region pay for one sync, and none goes ahead of it.
#[test]
fn writers_wait_for_one_sync_together() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    let before = storage.calls();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for i in 0..200 {
                    let _intent = t.intend(DISK, i % 5 * REGION, 1);
                    assert!(t.state.lock().disks[0].is_persisted(i % 5, i % 5));
                }
            });
        }
    });
    assert!(storage.calls() - before <= 10, "{} calls", storage.calls() - before);
    assert!(t.state.lock().under_way.is_empty());
}

/// A copy of a whole disk does not sync for each region.
#[test]
fn writes_that_go_along_the_disk_are_marked_ahead() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    clear(&t);
    let before = storage.calls();
    for region in 0..40 {
        drop(t.intend(DISK, region * REGION, REGION));
    }
    let calls = storage.calls() - before;
    assert!(calls <= 10, "{calls} calls for 40 regions");
    clear(&t);
    assert_eq!(t.suspect_bytes(), 0, "marks ahead of the last write are taken back too");
}

#[test]
fn signs_of_life_tell_until_when_the_source_was_watched() {
    let storage = MemoryStorage::new();
    let (t, found) = open(&storage, 1);
    assert_eq!(found.until, WallTime(0));
    let second = 1_000_000_000;
    t.beat(WallTime(1000 * second), false).expect("beats");
    assert_eq!(open(&storage.after_power_loss(), 2).1.until, WallTime(1030 * second));
    t.beat(WallTime(1000 * second), true).expect("beats");
    assert_eq!(open(&storage.after_power_loss(), 2).1.until, WallTime(1002 * second));
}

#[test]
fn a_log_that_was_removed_is_gone() {
    let storage = MemoryStorage::new();
    open(&storage, 1);
    Tracking::remove(&storage, spec().server).expect("removes");
    Tracking::remove(&storage, spec().server).expect("again");
    assert_eq!(open(&storage.after_power_loss(), 2).1.suspects, Suspects::All);
}

/// I1: what was written after a log broke is on no later process's list, so none may believe the list.
#[test]
fn a_log_that_broke_is_believed_by_nobody() {
    for (call, forever) in [(StorageCall::Sync, true), (StorageCall::Write, true), (StorageCall::Sync, false)]
    {
        let storage = MemoryStorage::new();
        let (t, _) = open(&storage, 1);
        clear(&t);
        storage.fail(StorageFault { call: Some(call), nth: 1, forever, errno: libc::EIO, half: false });
        drop(t.intend(DISK, 7 * REGION, 1));
        assert!(t.broken().is_some());
        // The next process finds its disk sound again.
        storage.heal();
        for seed in 0..8 {
            let copy = storage.after_torn_power_loss(&SeededEntropy::new(seed));
            let (_, found) = Tracking::open(&copy, &spec(), &SeededEntropy::new(2)).expect("opens");
            assert!(found.suspects == Suspects::All || !t.may_write(), "{call:?}");
        }
        assert_eq!(t.may_write(), !forever, "{call:?}: once is enough to erase it");
        t.make_void();
        assert!(t.may_write());
    }
}

/// What found a base good before everything became suspect does not make it good after.
#[test]
fn a_base_that_was_found_out_before_a_restart_of_the_stream_is_not_kept() {
    let storage = MemoryStorage::new();
    let (t, _) = open(&storage, 1);
    let before = t.restarts();
    t.settle(1, Settle::SuspectAll).expect("settles");
    assert!(t.keep_base(5, Seq(80), before).is_err());
    assert_eq!(t.base(), 0);
    t.keep_base(5, Seq(80), t.restarts()).expect("keeps");
    assert_eq!(t.base(), 5);
}
