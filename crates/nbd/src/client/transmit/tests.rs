use super::*;

#[test]
fn what_has_arrived_is_told_exactly() {
    let mut a = Arrived::default();
    for (from, to) in [(10, 20), (30, 40), (0, 10), (20, 30)] {
        assert!(!a.is_whole(40));
        a.add(from, to).unwrap();
    }
    assert!(a.is_whole(40));
    for (from, to) in [(0, 1), (39, 41), (0, 40), (5, 5)] {
        assert!(a.add(from, to).is_err(), "{from}..{to}");
    }
}

#[test]
fn a_read_in_too_many_pieces_is_given_up() {
    let mut a = Arrived::default();
    let failed = (0..2 * MAX_GAPS).find(|i| a.add(i * 2, i * 2 + 1).is_err());
    assert_eq!(failed, Some(MAX_GAPS));
}

#[test]
fn states_become_kinds_and_the_last_run_is_cut() {
    let kinds: Vec<_> =
        extents(&[(10, 0), (10, 1), (10, 2), (100, 3)], 40, false).iter().map(|e| (e.len, e.kind)).collect();
    use ExtentKind::{Data, Hole, Zero};
    assert_eq!(kinds, [(10, Data), (10, Data), (10, Zero), (10, Hole)]);
}

/// QEMU's dirty bitmaps: bit 0 is dirty, whatever it means elsewhere.
#[test]
fn a_dirty_bitmaps_runs_are_dirty_or_clean() {
    let runs: Vec<_> =
        extents(&[(10, 0), (10, 1), (100, 0)], 40, true).iter().map(|e| (e.len, e.kind)).collect();
    assert_eq!(runs, [(10, ExtentKind::Hole), (10, ExtentKind::Data), (20, ExtentKind::Hole)]);
}
