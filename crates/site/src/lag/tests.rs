use super::*;

const S: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Some day in 2026.
const DAY: WallTime = WallTime(1_767_225_600_000_000_000);

fn at(d: Duration) -> WallTime {
    DAY.saturating_add(d)
}

/// A session whose source is right and whose link takes no time.
fn session(now: Duration) -> Coverage {
    let mut c = Coverage::default();
    c.heard(at(now), now);
    c.cover(at(now), now);
    c
}

#[test]
fn nothing_is_known_before_the_first_point() {
    let mut c = Coverage::default();
    c.heard(DAY, S);
    assert_eq!(c.age(2 * S), None);
    c.cover(DAY, 2 * S);
    assert_eq!(c.age(2 * S), Some(S));
}

/// Failure 17.
#[test]
fn a_source_clock_that_goes_back_hides_no_lag() {
    let mut c = session(10 * S);
    // An hour back; then the link is lost.
    c.heard(at(11 * S).saturating_sub(HOUR), 11 * S);
    c.cover(at(11 * S).saturating_sub(HOUR), 11 * S);
    assert_eq!(c.age(11 * S), Some(Duration::ZERO), "measured anew");
    assert_eq!(c.age(71 * S), Some(60 * S), "a minute without a word is a minute of lag");
}

#[test]
fn a_source_clock_that_leaps_ahead_hides_no_lag() {
    let mut c = session(10 * S);
    // A barrier arrives before the heartbeat that tells of the leap.
    c.cover(at(11 * S).saturating_add(HOUR), 11 * S);
    c.heard(at(12 * S).saturating_add(HOUR), 12 * S);
    c.cover(at(12 * S).saturating_add(HOUR), 12 * S);
    assert_eq!(c.age(72 * S), Some(60 * S));
}

/// Failure 16: heartbeats wait behind data, and so do barriers.
#[test]
fn time_in_a_slow_link_is_lag() {
    let mut c = session(10 * S);
    for i in 11..70 {
        // The queue grows until a heartbeat takes six seconds.
        let (now, source) = (i * S, if i < 22 { 10 * S + (i - 10) * S / 2 } else { (i - 6) * S });
        c.heard(at(source), now);
        c.cover(at(source), now);
    }
    let age = c.age(69 * S).expect("covered");
    assert!(age > Duration::from_millis(5900) && age <= 6 * S, "{age:?}");
}

#[test]
fn clocks_that_drift_apart_are_followed() {
    let mut c = session(Duration::ZERO);
    let mut now = Duration::ZERO;
    for _ in 0..7 * 24 * 3600 {
        now += S;
        // The source loses 100 millionths: a minute in a week.
        let source = at(now - now / 10_000);
        c.heard(source, now);
        c.cover(source, now);
    }
    assert!(c.age(now).expect("covered") < Duration::from_millis(10), "{:?}", c.age(now));
}

#[test]
fn a_restart_counts_on_from_the_newest_point() {
    let c = Coverage::restored(HOUR, 3 * S);
    assert_eq!(c.age(3 * S), Some(HOUR));
    assert_eq!(c.age(10 * S), Some(HOUR + 7 * S));
}

#[test]
fn hostile_times_do_no_harm() {
    let mut c = Coverage::default();
    for time in [0, u64::MAX, 1, i64::MAX as u64, i64::MAX as u64 + 1] {
        c.heard(WallTime(time), S);
        c.cover(WallTime(u64::MAX - time), S);
        assert!(c.age(2 * S).is_some_and(|a| a >= S), "the future is not covered");
    }
}
