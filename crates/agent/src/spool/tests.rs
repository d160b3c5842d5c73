use super::*;
use lifeboat_base::SeededEntropy;

fn open(dir: &Path) -> Spool {
    Spool::open(dir, &SeededEntropy::new(5)).expect("opens")
}

fn read(spool: &Spool, slot: Slot) -> io::Result<Bytes> {
    let (id, bytes) = spool.find(slot)?.read()?;
    spool.open_sealed(id, bytes)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).expect("dir").map(|e| e.expect("entry").path()).collect()
}

#[test]
fn frames_come_back_and_released_files_go() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("spool");
    let mut spool = open(&path);
    let frame = |n: u64| vec![n as u8; 3 << 20];
    let slots: Vec<Slot> = (0..50).map(|n| spool.write(&frame(n)).expect("writes")).collect();
    assert_eq!(slots.iter().map(|s| s.id).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    assert_eq!(files(&path).len(), 3);
    for (n, slot) in slots.iter().enumerate() {
        assert_eq!(read(&spool, *slot).expect("reads"), frame(n as u64));
    }
    let held = spool.find(slots[10]).expect("there");
    spool.release(30);
    assert_eq!(files(&path).len(), 2);
    assert!(read(&spool, slots[29]).is_err());
    assert_eq!(read(&spool, slots[30]).expect("reads"), frame(30));
    let (id, bytes) = held.read().expect("a frame that was found stays readable");
    assert_eq!(spool.open_sealed(id, bytes).expect("opens"), frame(10));
    spool.release(50);
    assert_eq!(files(&path).len(), 0);
    assert_eq!(spool.write(b"next").expect("writes").id, 50);
    drop(spool);
    assert!(!path.exists());
}

/// I3, and what a stolen disk tells.
#[test]
fn a_changed_or_swapped_frame_is_an_error_and_nothing_is_readable() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("spool");
    let mut spool = open(&path);
    let secret = b"the content of a machine's disk".repeat(100);
    let (a, b) = (spool.write(&secret).expect("writes"), spool.write(&secret).expect("writes"));
    let file = &files(&path)[0];
    let raw = fs::read(file).expect("reads");
    assert!(!raw.windows(20).any(|w| secret.windows(20).any(|s| s == w)));
    let (_, sealed_b) = spool.find(b).expect("there").read().expect("reads");
    let (_, nonce) = spool.find(a).expect("there").read().expect("reads").0;
    assert!(spool.open_sealed((a.id, nonce), sealed_b).is_err(), "another frame's bytes");
    let mut changed = raw;
    changed[17] ^= 1;
    fs::write(file, changed).expect("writes");
    assert_eq!(read(&spool, a).expect_err("damaged").kind(), io::ErrorKind::InvalidData);
    assert!(read(&spool, b).is_ok());
}

#[test]
fn what_another_process_left_is_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("spool");
    let mut spool = open(&path);
    spool.write(b"left behind").expect("writes");
    std::mem::forget(spool);
    let spool = open(&path);
    assert_eq!(files(&path).len(), 0);
    assert!(spool.find(Slot { id: 0, len: 11 }).is_err());
}
