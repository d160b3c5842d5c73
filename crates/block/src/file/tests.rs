#![allow(clippy::unwrap_used)]

use super::*;

fn device(size: u64) -> (tempfile::TempDir, FileDevice) {
    let dir = tempfile::tempdir().unwrap();
    let device = FileDevice::create(&dir.path().join("disk"), size).unwrap();
    (dir, device)
}

#[test]
fn bytes_come_back_and_survive_reopening() {
    let (dir, d) = device(1 << 20);
    d.write(4095, Bytes::from_static(b"hello")).unwrap();
    d.flush().unwrap();
    drop(d);
    let d = FileDevice::open(&dir.path().join("disk"), true).unwrap();
    let mut buf = [0; 7];
    d.read(4094, &mut buf).unwrap();
    assert_eq!(&buf, b"\0hello\0");
    assert!(d.read_only());
    assert!(matches!(d.write(0, Bytes::from_static(b"x")), Err(BlockError::ReadOnly)));
    assert!(matches!(d.trim(0, 1), Err(BlockError::ReadOnly)));
}

#[test]
fn zeroes_read_back_in_both_modes_at_any_alignment() {
    for mode in [ZeroMode::MayPunch, ZeroMode::Allocate] {
        let (_dir, d) = device(256 * 1024);
        d.write(0, vec![7; 256 * 1024].into()).unwrap();
        d.write_zeroes(4097, 70_000, mode).unwrap();
        let mut buf = vec![1; 256 * 1024];
        d.read(0, &mut buf).unwrap();
        assert!(buf.iter().enumerate().all(|(i, b)| (*b == 0) == (4097..74_097).contains(&i)), "{mode:?}");
        d.write_zeroes(0, 0, mode).unwrap();
    }
}

#[test]
fn status_names_holes_and_sums_up() {
    let (_dir, d) = device(1 << 20);
    d.write(512 * 1024, vec![1; 4096].into()).unwrap();
    let runs = d.status(0, 1 << 20).unwrap();
    assert_eq!(runs.iter().map(|r| r.len).sum::<u64>(), 1 << 20);
    assert_eq!(runs[0].kind, ExtentKind::Hole);
    let inside = d.status(512 * 1024 + 1, 10).unwrap();
    assert_eq!(inside, [Extent { len: 10, kind: ExtentKind::Data }]);
    assert_eq!(d.status(5, 0).unwrap().iter().map(|r| r.len).sum::<u64>(), 0);
}

#[test]
fn what_lies_outside_is_refused() {
    let (_dir, d) = device(4096);
    assert!(matches!(d.read(4090, &mut [0; 7]), Err(BlockError::OutOfRange { .. })));
    assert!(matches!(d.write(u64::MAX, Bytes::from_static(b"x")), Err(BlockError::OutOfRange { .. })));
    assert!(matches!(d.status(1, 4096), Err(BlockError::OutOfRange { .. })));
}

#[test]
fn a_file_that_shrank_is_an_error_not_zeros() {
    let (dir, d) = device(8192);
    std::fs::OpenOptions::new().write(true).open(dir.path().join("disk")).unwrap().set_len(4096).unwrap();
    let e = d.read(4096, &mut [0; 1]).unwrap_err();
    assert!(e.to_string().contains("shorter"), "{e}");
}

#[test]
fn create_never_overwrites_and_open_wants_a_disk() {
    let (dir, _d) = device(4096);
    assert_eq!(
        FileDevice::create(&dir.path().join("disk"), 1).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert!(FileDevice::open(dir.path(), true).is_err());
    let e = FileDevice::open(Path::new("/dev/null"), false).unwrap_err();
    assert!(e.to_string().contains("neither a regular file nor a block device"), "{e}");
}
