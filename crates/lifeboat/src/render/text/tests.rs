use super::*;

#[test]
fn spans_read_well() {
    for (ms, text) in [
        (0, "0.0 s"),
        (850, "850 ms"),
        (3_240, "3.2 s"),
        (250_000, "4 min 10 s"),
        (11_100_000, "3 h 5 min"),
        (187_200_000, "2 d 4 h"),
    ] {
        assert_eq!(millis(ms), text);
    }
}

#[test]
fn moments_are_utc_and_relative_either_way() {
    let now = WallTime(1_767_225_600_000_000_000);
    assert_eq!(moment(now), "2026-01-01 00:00:00");
    assert_eq!(ago(now, now.saturating_sub(Duration::from_secs(61))), "61 s ago");
    assert_eq!(ago(now, now.saturating_add(Duration::from_secs(1800))), "in 30 min");
}

#[test]
fn bars_fill_and_never_overflow() {
    assert_eq!(bar(0, 10, 10), "[----------]   0 %");
    assert_eq!(bar(6, 10, 10), "[######----]  60 %");
    assert_eq!(bar(20, 10, 4), "[####] 100 %");
    assert_eq!(bar(0, 0, 4), "[####] 100 %");
}

#[test]
fn almost_done_is_not_done() {
    assert_eq!(bar(999, 1000, 10), "[#########-]  99 %");
}
