use super::*;
use crate::capture::splitter::SplitDevice;
use crate::testing::{FakeSite, content, start, start_with, until};
use crate::tracking::TrackSpec;
use lifeboat_base::limits::{AGENT_QUEUE, MIB};
use lifeboat_base::{Entropy, SeededEntropy};
use lifeboat_block::fault::{Call, Failure, Fault};
use lifeboat_block::{FaultDevice, MemoryDevice};
use lifeboat_replicate::message::SyncState;

const SIZE: u64 = 40 * BLOCK as u64 + 512;

fn device(byte: u8) -> Arc<MemoryDevice> {
    let d = MemoryDevice::new(SIZE);
    d.write(5 * BLOCK as u64 + 100, Bytes::from(vec![byte; 3 * BLOCK])).expect("write");
    Arc::new(d)
}

fn change(device: &MemoryDevice, stream: &Stream, disk: u16, offset: u64, data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    device.write(offset, data.clone()).expect("write");
    stream.write(DiskId(disk), offset, data);
}

#[test]
fn several_disks_arrive_in_one_stream() {
    let (a, b) = (device(1), device(2));
    let site = FakeSite::new(&[SIZE, SIZE]);
    let run = start(&[SIZE, SIZE]);
    run.stream.attach(vec![a.clone(), b.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the first sync", || run.stream.status().drained);
    change(&a, &run.stream, 0, SIZE - 512, &[3; 512]);
    change(&b, &run.stream, 1, 0, &[4; 5000]);
    assert!(run.stream.drain(Duration::from_secs(60)));
    assert_eq!(site.latest(), [content(&*a), content(&*b)]);
}

/// Failure 10 and I5: no session at all, and more writes than are kept.
#[test]
fn a_capture_never_waits_for_the_network() {
    let size = 3 * AGENT_QUEUE as u64;
    let d = Arc::new(MemoryDevice::new(size));
    let site = FakeSite::new(&[size]);
    let run = start(&[size]);
    run.stream.attach(vec![d.clone()], Suspects::All);
    drop({
        let session = site.welcome(&run.stream);
        until("the first sync", || run.stream.status().drained);
        session
    });
    for i in 0..size / MIB as u64 {
        change(&d, &run.stream, 0, i * MIB as u64, &vec![i as u8 + 1; MIB]);
    }
    let points = site.points();
    let _session = site.welcome(&run.stream);
    until("the copy", || run.stream.status().drained && site.points() > points);
    assert_eq!(site.latest(), [content(&*d)]);
}

/// Failure 11.
#[test]
fn a_source_that_cannot_be_read_is_told_and_tried_again_without_a_storm() {
    let inner = device(1);
    let d = Arc::new(FaultDevice::new(inner.clone()));
    d.fail(Fault { call: Some(Call::Read), nth: 1, forever: true, failure: Failure::Eio });
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![d.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the trouble", || run.stream.trouble().is_some());
    let calls = d.calls();
    for _ in 0..500 {
        run.stream.with_sender(|_| ());
        std::thread::yield_now();
    }
    assert!(d.calls() - calls < 5, "{} reads of what cannot be read", d.calls() - calls);
    assert_eq!(site.points(), 0, "no point without the data");
    d.heal();
    until("the sync", || run.stream.status().drained);
    assert_eq!(run.stream.trouble(), None);
    assert_eq!(site.latest(), [content(&*inner)]);
}

/// A machine that is detached runs on: no point may mix what was captured with what it writes then.
#[test]
fn what_is_written_after_the_source_was_lost_is_in_no_point_before_it_is_compared() {
    let d = device(1);
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![d.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the first sync", || run.stream.status().drained);
    change(&d, &run.stream, 0, 700, b"the last write seen");
    run.stream.seal();
    let last_seen = content(&*d);
    d.write(0, Bytes::from_static(b"unseen")).expect("write");
    assert!(run.stream.drain(Duration::from_secs(60)), "what was captured is worth a moment");
    assert_eq!(site.latest(), [last_seen]);
    let points = site.points();
    run.stream.detach();
    run.stream.drain(Duration::from_millis(300));
    assert!(!run.stream.with_sender(|s| s.is_live()), "there is nothing to read from");
    assert_eq!(site.points(), points);
    run.stream.attach(vec![d.clone()], Suspects::All);
    until("the comparison", || run.stream.status().drained);
    assert_eq!(site.latest(), [content(&*d)]);
}

#[test]
fn fewer_disks_than_expected_is_trouble_and_no_panic() {
    let site = FakeSite::new(&[SIZE, SIZE]);
    let run = start(&[SIZE, SIZE]);
    run.stream.attach(vec![device(1)], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the trouble", || run.stream.trouble().is_some_and(|t| t.contains("fewer disks")));
}

/// A device that says nothing of where its data is.
struct Mute(MemoryDevice);

impl BlockDevice for Mute {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.0.write(offset, data)
    }
    fn write_zeroes(&self, offset: u64, len: u64, mode: lifeboat_block::ZeroMode) -> Result<(), BlockError> {
        self.0.write_zeroes(offset, len, mode)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
    fn status(&self, _: u64, _: u64) -> Result<Vec<lifeboat_block::Extent>, BlockError> {
        Ok(Vec::new())
    }
}

#[test]
fn a_source_that_tells_no_holes_is_read() {
    assert_eq!(holes(&Mute(MemoryDevice::new(SIZE)), 0, SIZE).expect("status"), []);
}

fn synchronous(limit: Duration, degrade: bool) -> StreamSettings {
    StreamSettings {
        policy: ConfirmPolicy::Synchronous { limit, degrade },
        ..StreamSettings::plain(Epoch(1), &[SIZE])
    }
}

fn state(stream: &Stream) -> SyncState {
    stream.confirm_status().state
}

/// I2: no flush is answered before a point that holds everything before it is durable at the site.
#[test]
fn a_synchronous_flush_is_answered_when_the_site_has_the_point() {
    let d = device(1);
    let site = FakeSite::new(&[SIZE]);
    let run = start_with(synchronous(Duration::from_secs(600), false));
    let split = SplitDevice::new(d.clone(), Arc::clone(&run.stream), None, DiskId(0));
    run.stream.attach(vec![d.clone()], Suspects::All);
    split.flush().expect("nothing is promised before the first copy");
    assert_eq!(state(&run.stream), SyncState::NotYet);
    let _session = site.welcome(&run.stream);
    until("the server is synchronous", || state(&run.stream) == SyncState::Synchronous);
    for i in 0..50u8 {
        split.write(u64::from(i) * 5000, Bytes::from(vec![i; 5000])).expect("write");
        split.flush().expect("flush");
        assert_eq!(site.latest(), [content(&*d)], "flush {i}");
    }
    let flushes = run.stream.confirm_status().flushes;
    assert_eq!(flushes.expect("sums").count, 50);
    // The site says nothing: the flush waits, for as long as that is.
    site.set_mute(true);
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            split.write(0, Bytes::from_static(b"waits")).expect("write");
            split.flush().expect("flush");
            answered.store(true, Ordering::SeqCst);
        });
        until("the state says blocked", || state(&run.stream) == SyncState::Blocked);
        assert!(!answered.load(Ordering::SeqCst));
        site.set_mute(false);
    });
    assert_eq!(state(&run.stream), SyncState::Synchronous);
}

#[test]
fn a_site_that_is_away_too_long_fails_the_flush_or_degrades_as_declared() {
    for degrade in [false, true] {
        let d = device(1);
        let site = FakeSite::new(&[SIZE]);
        let run = start_with(synchronous(Duration::from_millis(300), degrade));
        let split = SplitDevice::new(d.clone(), Arc::clone(&run.stream), None, DiskId(0));
        run.stream.attach(vec![d.clone()], Suspects::All);
        let session = site.welcome(&run.stream);
        until("the server is synchronous", || state(&run.stream) == SyncState::Synchronous);
        drop(session);
        split.write(0, Bytes::from_static(b"while the site is away")).expect("write");
        if degrade {
            split.flush().expect("goes on");
            assert_eq!(state(&run.stream), SyncState::Degraded);
            split.flush().expect("at once");
        } else {
            assert!(split.flush().is_err(), "never silence");
            assert_eq!(state(&run.stream), SyncState::Synchronous);
        }
        let _session = site.welcome(&run.stream);
        until("the promise is kept again", || state(&run.stream) == SyncState::Synchronous);
        // Told also when the site could not hear of it while it lasted.
        let (from, to) = run.stream.confirm_status().degraded;
        assert_eq!(from < to, degrade);
        split.flush().expect("flush");
        assert_eq!(site.latest(), [content(&*d)]);
    }
}

/// A link that is up and a site that says nothing: that is no reason to promise again.
#[test]
fn a_degraded_server_stays_so_until_the_site_has_acknowledged_something_new() {
    let d = device(1);
    let site = FakeSite::new(&[SIZE]);
    let run = start_with(synchronous(Duration::from_millis(100), true));
    let split = SplitDevice::new(d.clone(), Arc::clone(&run.stream), None, DiskId(0));
    run.stream.attach(vec![d.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the server is synchronous", || state(&run.stream) == SyncState::Synchronous);
    site.set_mute(true);
    split.write(0, Bytes::from_static(b"not acknowledged")).expect("write");
    split.flush().expect("goes on");
    assert_eq!(state(&run.stream), SyncState::Degraded);
    for _ in 0..20 {
        run.stream.promote();
        assert_eq!(state(&run.stream), SyncState::Degraded);
    }
    site.set_mute(false);
    until("the promise is kept again", || state(&run.stream) == SyncState::Synchronous);
    split.flush().expect("flush");
    assert_eq!(site.latest(), [content(&*d)]);
}

/// A synchronous server stays so over a restart of the agent.
#[test]
fn an_agent_that_was_synchronous_promises_from_its_first_flush_on() {
    let run = start_with(StreamSettings { armed: true, ..synchronous(Duration::from_millis(50), false) });
    let d = device(1);
    let split = SplitDevice::new(d.clone(), Arc::clone(&run.stream), None, DiskId(0));
    run.stream.attach(vec![d], Suspects::All);
    assert!(split.flush().is_err(), "the site does not have it");
}

/// Row 16: every point of a cut link arrives, from the spool.
#[test]
fn points_of_a_cut_link_are_in_the_spool() {
    let size = 4 * AGENT_QUEUE as u64;
    let d = Arc::new(MemoryDevice::new(size));
    let site = FakeSite::new(&[size]);
    let dir = tempfile::tempdir().expect("dir");
    let entropy = SeededEntropy::new(9);
    let run = start_with(StreamSettings {
        spool: Some(Spool::open(&dir.path().join("spool"), &entropy).expect("a spool")),
        spool_bytes: 1 << 30,
        ..StreamSettings::plain(Epoch(1), &[size])
    });
    run.stream.attach(vec![d.clone()], Suspects::All);
    drop({
        let session = site.welcome(&run.stream);
        until("the first sync", || run.stream.status().drained);
        session
    });
    let mut block = vec![0; MIB];
    for i in 0..size / MIB as u64 {
        entropy.fill(&mut block);
        // A source as fast as memory would overflow the queue: that costs points, which is not the matter here.
        until("the spool keeps up", || run.stream.with_sender(|s| s.queue_bytes() < AGENT_QUEUE - 2 * MIB));
        change(&d, &run.stream, 0, i * MIB as u64, &block);
    }
    assert!(run.stream.status().spool_bytes > 50 << 20, "{:?}", run.stream.status());
    assert_eq!(run.stream.status().phase, Phase::Live);
    let _session = site.welcome(&run.stream);
    until("all arrives", || run.stream.status().drained);
    assert_eq!(site.latest(), [content(&*d)]);
    let first = run.stream.status();
    assert_eq!(first.hashed_bytes, 0, "nothing was compared: {first:?}");
    until("the spool is emptied", || std::fs::read_dir(dir.path().join("spool")).expect("dir").count() == 0);
}

/// After a kill only what is suspect is read, and the copy is exact.
#[test]
fn a_killed_agent_compares_what_its_log_suspects_and_no_more() {
    const REGION: u64 = 4 << 20;
    let size = 16 * REGION;
    let d = Arc::new(MemoryDevice::new(size));
    for i in 0..16 {
        d.write(i * REGION, Bytes::from(vec![i as u8 + 1; 100_000])).expect("write");
    }
    let site = FakeSite::new(&[size]);
    let storage = lifeboat_block::storage::MemoryStorage::new();
    let spec = TrackSpec {
        server: lifeboat_base::ServerId::from_slice(&[3; 16]).expect("an id"),
        epoch: Epoch(1),
        sizes: vec![size],
        intents: true,
    };
    let open = |storage: &lifeboat_block::storage::MemoryStorage, instance| {
        let (tracking, found) = Tracking::open(storage, &spec, &SeededEntropy::new(1)).expect("a log");
        let settings = StreamSettings {
            instance,
            lineage: found.lineage.clone(),
            tracking: Some(tracking),
            ..StreamSettings::plain(Epoch(1), &[size])
        };
        (start_with(settings), found)
    };
    let storage = {
        let (run, found) = open(&storage, 1);
        let tracking = run.stream.tracking().cloned();
        let split = SplitDevice::new(d.clone(), Arc::clone(&run.stream), tracking, DiskId(0));
        run.stream.attach(vec![d.clone()], found.suspects);
        let _session = site.welcome(&run.stream);
        until("the first sync", || run.stream.status().drained);
        // As the keeper does every few seconds.
        for _ in 0..6 {
            run.stream.rotate();
            until("the mark", || run.stream.with_sender(|s| s.mark_passed().is_some()));
        }
        site.set_mute(true);
        split.write(5 * REGION + 7, Bytes::from_static(b"captured, and never acknowledged")).expect("write");
        storage.after_power_loss()
    };
    site.set_mute(false);
    let (run, found) = open(&storage, 2);
    assert_eq!(found.lineage, [1]);
    run.stream.attach(vec![d.clone()], found.suspects);
    let _session = site.welcome(&run.stream);
    until("the resync", || run.stream.status().drained);
    assert_eq!(site.latest(), [content(&*d)]);
    let status = run.stream.status();
    assert_eq!(status.hashed_bytes, BLOCK as u64 * 2, "the region's data, not its holes: {status:?}");
}

/// A log that can be neither kept nor erased: nothing is written before the site knows this process by a name that is not in it.
#[test]
fn a_log_that_broke_holds_writes_until_the_site_knows_another_name() {
    use lifeboat_block::storage::{MemoryStorage, StorageCall, StorageFault};
    let d = device(1);
    let site = FakeSite::new(&[SIZE]);
    let storage = MemoryStorage::new();
    let spec = TrackSpec {
        server: lifeboat_base::ServerId::from_slice(&[3; 16]).expect("an id"),
        epoch: Epoch(1),
        sizes: vec![SIZE],
        intents: true,
    };
    let (tracking, found) = Tracking::open(&storage, &spec, &SeededEntropy::new(1)).expect("a log");
    assert!(found.lineage.is_empty(), "the first process of all");
    let settings = StreamSettings {
        instance: 7,
        tracking: Some(tracking.clone()),
        ..StreamSettings::plain(Epoch(1), &[SIZE])
    };
    let run = start_with(settings);
    run.stream.attach(vec![d.clone()], Suspects::All);
    let session = site.welcome(&run.stream);
    until("the first sync", || run.stream.status().drained);
    for _ in 0..6 {
        run.stream.rotate();
        until("the mark", || run.stream.with_sender(|s| s.mark_passed().is_some()));
    }
    storage.fail(StorageFault {
        call: Some(StorageCall::Sync),
        nth: 1,
        forever: true,
        errno: libc::EIO,
        half: false,
    });
    let split = SplitDevice::new(d.clone(), Arc::clone(&run.stream), Some(tracking.clone()), DiskId(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            split.write(5, Bytes::from_static(b"held")).expect("write");
            done.store(true, Ordering::SeqCst);
        });
        until("the name is given up", || run.stream.names().0 != 7);
        assert!(!done.load(Ordering::SeqCst) && !tracking.may_write());
        // As a session does that finds its name changed.
        drop(session);
        let _session = site.welcome(&run.stream);
        until("the write goes on", || done.load(Ordering::SeqCst));
        until("the copy", || run.stream.status().drained);
    });
    assert_eq!(site.latest(), [content(&*d)]);
}
