use super::*;
use crate::testing::{FakeSite, content, start, until};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Entropy, SeededEntropy, SystemClock};
use lifeboat_block::fault::{Call, Failure, Fault};
use lifeboat_block::{FaultDevice, MemoryDevice};

const SIZE: u64 = 12 * BLOCK as u64 + 1024;

/// A source that lets others go ahead between a change and the news of it.
struct Polite(MemoryDevice);

impl Polite {
    fn after(done: Result<(), BlockError>) -> Result<(), BlockError> {
        (0..4).for_each(|_| std::thread::yield_now());
        done
    }
}

impl BlockDevice for Polite {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        Self::after(self.0.write(offset, data))
    }
    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError> {
        Self::after(self.0.write_zeroes(offset, len, mode))
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.0.flush()
    }
    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        self.0.status(offset, len)
    }
}

const ROUNDS: u64 = 30;

/// One random change.
fn step(device: &dyn BlockDevice, entropy: &SeededEntropy) -> Result<(), BlockError> {
    let r = entropy.next_u64();
    let len = [512, 40_000, 150_000, 400_000][(r % 4) as usize];
    let offset = (r >> 8) % (SIZE - len);
    match (r >> 3) % 8 {
        0 => device.write_zeroes(offset, len, ZeroMode::MayPunch),
        1 => device.trim(offset, len),
        2 => device.flush(),
        _ => device.write(offset, Bytes::from(vec![(r >> 40) as u8; len as usize])),
    }
}

/// I1, failure 14 and 15: four connections that overwrite each other, while the link comes and goes.
#[test]
fn overlapping_writes_of_many_connections_leave_an_exact_copy() {
    let inner: Arc<dyn BlockDevice> = Arc::new(Polite(MemoryDevice::new(SIZE)));
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![Arc::clone(&inner)], Suspects::All);
    let split = SplitDevice::new(Arc::clone(&inner), Arc::clone(&run.stream), None, DiskId(0));
    {
        let _session = site.welcome(&run.stream);
        until("the first sync", || run.stream.status().drained);
    }
    // Many short rounds: what one write spoils, a later one covers up.
    for round in 0..ROUNDS {
        let session = site.welcome(&run.stream);
        let points = site.points();
        std::thread::scope(|s| {
            for i in 0..4 {
                let split = &split;
                s.spawn(move || {
                    let entropy = SeededEntropy::new(round * 4 + i);
                    for _ in 0..12 {
                        step(split, &entropy).expect("step");
                    }
                });
            }
            if round % 3 > 0 {
                until("a point", || site.points() > points);
            }
            drop(session);
        });
        let _session = site.welcome(&run.stream);
        until("the copy", || run.stream.drain(Duration::from_secs(60)));
        assert!(site.images() == [content(&*inner)], "round {round}: the copy differs");
        assert!(site.latest() == site.images(), "round {round}: the newest point differs");
    }
}

/// Failure 11: the user sees the error, and the copy what the source became.
#[test]
fn a_write_that_failed_halfway_is_compared() {
    let memory = Arc::new(MemoryDevice::new(SIZE));
    let inner = Arc::new(FaultDevice::new(memory.clone()));
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![inner.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    let split = SplitDevice::new(inner.clone(), Arc::clone(&run.stream), None, DiskId(0));
    until("the first sync", || run.stream.status().drained);
    let points = site.points();
    inner.fail(Fault { call: Some(Call::Write), nth: 1, forever: false, failure: Failure::Eio });
    // Half of it lands.
    memory.write(100, Bytes::from(vec![1; 4500])).expect("write");
    split.write(100, Bytes::from(vec![1; 9000])).expect_err("the user sees it");
    until("the comparison", || run.stream.status().drained && site.points() > points);
    assert!(site.latest() == [content(&*memory)]);
    let points = site.points();
    split.write(SIZE, Bytes::from_static(b"beyond")).expect_err("out of range");
    assert!(run.stream.status().drained, "what cannot have changed anything costs nothing");
    assert_eq!(site.points(), points);
}

#[test]
fn addresses_are_read_and_said_back() {
    let unix = Listen::parse("unix:/run/a.sock").expect("unix");
    assert_eq!(unix.uri("disk0"), "nbd+unix:///disk0?socket=/run/a.sock");
    assert_eq!(
        Listen::parse("tcp:127.0.0.1:10809").expect("tcp").uri("disk1"),
        "nbds://127.0.0.1:10809/disk1"
    );
    let long = format!("unix:/{}", "x".repeat(107));
    for bad in ["", "unix:relative.sock", "tcp:localhost", "tcp:1.2.3.4", "/run/a.sock", &long] {
        let e = Listen::parse(bad).expect_err(bad);
        assert!(e.invalid && e.to_string().contains("tcp:ADDRESS:PORT"), "{e}");
    }
}

#[test]
fn a_disk_is_served_once_at_its_size_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (disk, socket) = (dir.path().join("disk.raw"), dir.path().join("s.nbd"));
    std::fs::File::create(&disk).and_then(|f| f.set_len(SIZE)).expect("disk");
    let settings = |size| SplitterSettings {
        paths: vec![disk.clone()],
        sizes: vec![size],
        listen: Listen::Unix(socket.clone()),
        tls: None,
        tracking: None,
        found: Suspects::All,
        until: WallTime(0),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (run, state) = (start(&[SIZE]), StateCell::default());
    let begin = |size| Splitter::start(&settings(size), &run.stream, &clock, &state);
    let e = begin(SIZE + 1).err().expect("another size");
    assert!(e.to_string().contains("when it was protected"), "{e}");
    let running = begin(SIZE).expect("served");
    assert_eq!(state.get(), CaptureState::Attached);
    let e = begin(SIZE).err().expect("served already");
    assert!(e.to_string().contains("in use by another agent"), "{e}");
    running.stop(&run.stream, &state);
    assert_eq!(state.get(), CaptureState::Stopped);
    assert!(!socket.exists(), "the socket is left behind");
    begin(SIZE).expect("served again").stop(&run.stream, &state);
    std::fs::File::create(&disk).expect("empty");
    assert!(begin(SIZE).err().expect("empty").to_string().contains("is empty"));
    std::fs::remove_file(&disk).expect("remove");
    assert!(begin(SIZE).err().expect("gone").invalid);
}

/// I1: who writes to the source while no agent is there is not seen, and not overlooked.
#[test]
fn a_file_that_was_changed_after_the_last_sign_of_life_is_noticed() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("disk.img");
    std::fs::write(&path, b"content").expect("write");
    let file = File::open(&path).expect("opens");
    let meta = file.metadata().expect("metadata");
    let changed = meta.ctime() as u64 * 1_000_000_000 + meta.ctime_nsec() as u64;
    assert!(changed_since(&file, WallTime(changed - 1)));
    assert!(!changed_since(&file, WallTime(changed)));
    // An older file that is put there keeps its time of change, and gets a time of arrival.
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("sets");
    assert!(changed_since(&file, WallTime(changed - 1)));
    let device = File::open("/dev/null").expect("opens");
    assert!(!changed_since(&device, WallTime(0)), "of a device it is not known");
}
