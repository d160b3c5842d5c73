use super::*;
use lifeboat_base::WallTime;

fn disk(index: u32, size: u64) -> Disk {
    Disk { index, name: format!("d{index}"), size }
}

fn zero(epoch: u32, seq: u64, offset: u64, len: u64) -> Record {
    Record {
        epoch: Epoch(epoch),
        seq: Seq(seq),
        time: WallTime(0),
        body: Body::Zero { disk: DiskId(0), offset, len },
    }
}

#[test]
fn resends_are_dropped_and_gaps_refused() {
    let mut r = Receiver::new(Epoch(1), Seq(4), &[disk(0, 100)], &[]).expect("session");
    let got = r.records(vec![zero(1, 3, 0, 1), zero(1, 4, 0, 1), zero(1, 5, 0, 1)]).expect("resend");
    assert_eq!(got.iter().map(|r| r.seq.0).collect::<Vec<_>>(), [5]);
    assert_eq!(r.records(vec![zero(1, 7, 0, 1)]), Err(ReceiveError::Gap { found: Seq(7), last: Seq(5) }));
    assert_eq!(r.records(vec![zero(1, 6, 0, 1)]).expect("goes on").len(), 1);
}

#[test]
fn another_epoch_is_refused_even_in_a_resend() {
    let mut r = Receiver::new(Epoch(2), Seq(4), &[disk(0, 100)], &[]).expect("session");
    for seq in [3, 5] {
        assert!(matches!(r.records(vec![zero(1, seq, 0, 1)]), Err(ReceiveError::Epoch { .. })));
    }
}

#[test]
fn nothing_outside_the_disks_passes() {
    let mut r = Receiver::new(Epoch(1), Seq(0), &[disk(0, 100)], &[]).expect("session");
    assert!(matches!(r.records(vec![zero(1, 1, 99, 2)]), Err(ReceiveError::OutOfDisk { .. })));
    assert!(matches!(r.records(vec![zero(1, 1, u64::MAX, 2)]), Err(ReceiveError::OutOfDisk { .. })));
    assert!(r.range(DiskId(1), 0, 1).is_err());
}

#[test]
fn impossible_or_shrunken_disks_are_refused() {
    let new = |disks: &[Disk], known: &[u64]| Receiver::new(Epoch(1), Seq(0), disks, known).map(drop);
    assert!(new(&[], &[]).is_err());
    assert!(new(&[disk(1, 100)], &[]).is_err());
    assert!(new(&[disk(0, 0)], &[]).is_err());
    assert!(new(&[disk(0, u64::MAX)], &[]).is_err());
    assert!(new(&[disk(0, 100)], &[100, 100]).is_err());
    let e = new(&[disk(0, 99)], &[100]).expect_err("shrank");
    assert!(e.to_string().contains("shrank from 100 to 99"), "{e}");
    assert!(new(&[disk(0, 101), disk(1, 5)], &[100]).is_ok());
}
