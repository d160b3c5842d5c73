use super::*;
use crate::service::wait_until;

#[test]
fn what_is_told_is_seen_in_order_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("seen");
    let witness = Witness::start("127.0.0.1:0", &out).unwrap();
    let teller = Teller::start(witness.address().to_string());
    for n in 1..=50 {
        teller.tell(n);
    }
    assert!(wait_until(Duration::from_secs(10), || witness.last().is_some_and(|s| s.number == 50)));
    let kept: Vec<u64> = read(&out).unwrap().iter().map(|s| s.number).collect();
    assert_eq!(kept, (1..=50).collect::<Vec<_>>());
}

#[test]
fn nonsense_ends_that_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::start("127.0.0.1:0", &dir.path().join("seen")).unwrap();
    let mut bad = TcpStream::connect(witness.address()).unwrap();
    bad.write_all(&[b'9'; 4096]).unwrap();
    assert!(matches!(bad.read(&mut [0; 1]), Ok(0) | Err(_)));
    Teller::start(witness.address().to_string()).tell(7);
    assert!(wait_until(Duration::from_secs(10), || witness.last().is_some_and(|s| s.number == 7)));
}
