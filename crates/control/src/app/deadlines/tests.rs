use super::*;
use lifeboat_base::ManualClock;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn i17_moving_the_wall_clock_ends_nothing_early_and_keeps_nothing_for_ever() {
    for jump in [1, -1, 3600, -3600, 10 * 366 * 86_400, -10 * 366 * 86_400_i64] {
        let clock = ManualClock::default();
        clock.set_wall(WallTime(20 * 366 * 86_400 * 1_000_000_000));
        let deadlines = Deadlines::new(24 * HOUR);
        let ends = clock.wall().saturating_add(HOUR);
        assert!(!deadlines.over(&1, ends, &clock));
        let by = Duration::from_secs(jump.unsigned_abs());
        clock.set_wall(if jump > 0 {
            clock.wall().saturating_add(by)
        } else {
            clock.wall().saturating_sub(by)
        });
        assert!(!deadlines.over(&1, ends, &clock), "{jump}");
        clock.advance(HOUR - Duration::from_secs(1));
        assert!(!deadlines.over(&1, ends, &clock), "{jump}");
        clock.advance(Duration::from_secs(1));
        assert!(deadlines.over(&1, ends, &clock), "{jump}");
    }
}

#[test]
fn a_first_look_by_a_wrong_clock_gives_no_more_than_the_longest() {
    let clock = ManualClock::default();
    let deadlines = Deadlines::new(HOUR);
    let ends = clock.wall().saturating_add(HOUR * 24 * 3660);
    assert!(!deadlines.over(&"a", ends, &clock));
    clock.advance(HOUR);
    assert!(deadlines.over(&"a", ends, &clock));
}

#[test]
fn another_end_counts_anew_and_what_is_gone_is_forgotten() {
    let clock = ManualClock::default();
    let deadlines = Deadlines::new(24 * HOUR);
    let first = clock.wall().saturating_add(HOUR);
    assert!(!deadlines.over(&1, first, &clock));
    clock.advance(HOUR);
    let later = first.saturating_add(HOUR);
    assert!(!deadlines.over(&1, later, &clock));
    deadlines.keep(|k| *k != 1);
    assert!(deadlines.known.lock().is_empty());
}
