use super::*;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn overlapping_ranges_wait_and_others_do_not() {
    let lock = Arc::new(RangeLock::default());
    let first = lock.lock(100, 50);
    drop(lock.lock(0, 100));
    drop(lock.lock(150, 10));
    let (tell, told) = mpsc::channel();
    let other = Arc::clone(&lock);
    let thread = std::thread::spawn(move || {
        let _guard = other.lock(149, 10);
        tell.send(()).expect("listener");
    });
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "the overlapping lock was granted");
    drop(first);
    told.recv_timeout(Duration::from_secs(10)).expect("granted after release");
    thread.join().expect("thread");
}
