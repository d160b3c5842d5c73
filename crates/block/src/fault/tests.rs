#![allow(clippy::unwrap_used)]

use super::*;
use crate::MemoryDevice;

fn device() -> (FaultDevice, Arc<MemoryDevice>) {
    let inner = Arc::new(MemoryDevice::new(4096));
    (FaultDevice::new(inner.clone()), inner)
}

fn byte(d: &dyn BlockDevice, at: u64) -> u8 {
    let mut b = [0];
    d.read(at, &mut b).unwrap();
    b[0]
}

#[test]
fn the_nth_call_of_a_kind_fails_once() {
    let (d, _) = device();
    d.fail(Fault { call: Some(Call::Flush), nth: 2, forever: false, failure: Failure::Eio });
    d.flush().unwrap();
    d.write(0, Bytes::from_static(b"x")).unwrap();
    assert!(matches!(d.flush(), Err(BlockError::Io(e)) if e.raw_os_error() == Some(libc::EIO)));
    d.flush().unwrap();
    assert_eq!(d.calls(), 4);
}

#[test]
fn forever_lasts_until_healed() {
    let (d, inner) = device();
    d.fail(Fault { call: None, nth: 1, forever: true, failure: Failure::NoSpace });
    for _ in 0..3 {
        assert!(matches!(d.write(0, Bytes::from_static(b"x")), Err(BlockError::NoSpace)));
    }
    assert_eq!(byte(&*inner, 0), 0);
    d.heal();
    d.write(0, Bytes::from_static(b"x")).unwrap();
    assert_eq!(byte(&*inner, 0), b'x');
}

#[test]
fn power_loss_keeps_what_was_flushed_and_what_the_test_chooses() {
    let (d, inner) = device();
    d.hold_unflushed();
    d.write(0, Bytes::from_static(b"aaaa")).unwrap();
    d.flush().unwrap();
    d.write(0, Bytes::from_static(b"bbbb")).unwrap();
    d.write(2, Bytes::from_static(b"cc")).unwrap();
    d.trim(1, 1).unwrap();
    let mut seen = [0; 4];
    d.read(0, &mut seen).unwrap();
    assert_eq!(&seen, b"b\0cc", "held writes are read back");
    assert_eq!(byte(&*inner, 0), b'a', "the inner device has not seen them");

    // The first is torn after one byte, the second lost, the third kept.
    d.power_loss(|n, len| [1, 0, len][n]).unwrap();
    let mut after = [0; 4];
    d.read(0, &mut after).unwrap();
    assert_eq!(&after, b"b\0aa");
    d.power_loss(|_, _| panic!("nothing is left to lose")).unwrap();
}

#[test]
fn a_failed_flush_leaves_writes_at_risk() {
    let (d, _) = device();
    d.hold_unflushed();
    d.write(0, Bytes::from_static(b"z")).unwrap();
    d.fail(Fault { call: Some(Call::Flush), nth: 1, forever: false, failure: Failure::Eio });
    assert!(d.flush().is_err());
    d.power_loss(|_, _| 0).unwrap();
    assert_eq!(byte(&d, 0), 0);
}
