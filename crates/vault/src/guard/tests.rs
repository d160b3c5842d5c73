use super::{ClockGuard, GuardState, RESTART_CREDIT};
use lifeboat_base::{Clock, ManualClock, WallTime};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const TEN_YEARS: Duration = Duration::from_secs(3652 * 86_400);

fn start(clock: &Arc<ManualClock>, saved: Option<GuardState>, newest: Option<WallTime>) -> ClockGuard {
    ClockGuard::start(clock.clone(), saved, newest)
}

#[test]
fn a_jump_ahead_moves_nothing_and_is_reported() {
    let clock = Arc::new(ManualClock::default());
    let began = clock.wall();
    let guard = start(&clock, None, None);
    clock.advance(HOUR);
    assert_eq!(guard.now(), began.saturating_add(HOUR));
    assert_eq!(guard.report(), None);

    clock.set_wall(clock.wall().saturating_add(TEN_YEARS));
    assert_eq!(guard.now(), began.saturating_add(HOUR), "row 17: no early expiry");
    clock.advance(HOUR);
    assert_eq!(guard.now(), began.saturating_add(2 * HOUR));
    assert_eq!(
        guard.report().unwrap(),
        "the machine's clock (2036-01-01T02:00:00.000Z) is 3652 days ahead of the time that retention counts by \
         (2026-01-01T02:00:00.000Z); nothing expires early: points and locks last longer than their dates say. Set the \
         clock right, or, where it is right, accept it: lifeboat vault clock --accept"
    );
    // Set right again: as if nothing had been.
    clock.set_wall(began.saturating_add(2 * HOUR));
    assert_eq!(guard.report(), None);
    clock.advance(HOUR);
    assert_eq!(guard.now(), began.saturating_add(3 * HOUR));
}

#[test]
fn a_jump_back_neither_stops_time_nor_hastens_it() {
    let clock = Arc::new(ManualClock::default());
    let began = clock.wall();
    let guard = start(&clock, None, None);
    clock.set_wall(WallTime(began.0 - u64::try_from(TEN_YEARS.as_nanos()).unwrap()));
    clock.advance(2 * HOUR);
    assert_eq!(guard.now(), began.saturating_add(HOUR), "half speed while the clock is behind");
    assert!(guard.report().unwrap().contains("3651 days behind"), "{:?}", guard.report());
    let (before, after) = guard.accept();
    assert_eq!((before, after), (began.saturating_add(HOUR), clock.wall()));
    assert_eq!(guard.report(), None);
}

#[test]
fn a_small_step_back_is_caught_up_with() {
    let clock = Arc::new(ManualClock::default());
    let guard = start(&clock, None, None);
    clock.set_wall(WallTime(clock.wall().0 - 60_000_000_000));
    for _ in 0..10 {
        clock.advance(Duration::from_secs(60));
        guard.now();
    }
    assert_eq!(guard.now(), clock.wall());
}

#[test]
fn a_restart_believes_a_week_and_many_restarts_no_more_than_one() {
    let clock = Arc::new(ManualClock::default());
    let guard = start(&clock, None, None);
    let state = guard.state();
    let began = state.time;

    // Three days off: believed.
    clock.set_wall(began.saturating_add(3 * DAY));
    let guard = start(&clock, Some(state), None);
    assert_eq!(guard.now(), began.saturating_add(3 * DAY));
    assert_eq!(guard.report(), None);

    // Ten years, and a hundred restarts.
    clock.set_wall(began.saturating_add(TEN_YEARS));
    let mut state = guard.state();
    for _ in 0..100 {
        state = start(&clock, Some(state), None).state();
    }
    assert_eq!(state.time, began.saturating_add(RESTART_CREDIT));
    let guard = start(&clock, Some(state), None);
    assert!(guard.report().is_some());
    // A person accepts: then it is the machine's clock.
    guard.accept();
    assert_eq!(guard.now(), clock.wall());
}

#[test]
fn without_its_state_the_vault_says_what_time_it_was() {
    let clock = Arc::new(ManualClock::default());
    let newest = clock.wall();
    clock.set_wall(newest.saturating_add(TEN_YEARS));
    let guard = start(&clock, None, Some(newest));
    assert_eq!(guard.now(), newest, "losing the file gains nothing");
    assert!(guard.report().is_some());

    // A machine whose clock is at 1970 after its battery died.
    clock.set_wall(WallTime(5));
    let guard = start(&clock, None, Some(newest));
    assert_eq!(guard.now(), newest, "new points are not made in the past");
    assert!(guard.report().is_some());
}

#[test]
fn a_vault_that_was_written_by_a_site_with_a_wrong_clock_is_believed_no_more_than_a_restart() {
    let clock = Arc::new(ManualClock::default());
    let state = start(&clock, None, None).state();
    let guard = start(&clock, Some(state), Some(clock.wall().saturating_add(TEN_YEARS)));
    assert_eq!(guard.now(), clock.wall().saturating_add(RESTART_CREDIT));
}

#[test]
fn the_state_is_one_line_and_nonsense_is_none() {
    let state = GuardState { time: WallTime(1_767_225_600_000_000_001), credit: DAY };
    assert_eq!(state.to_text(), "lifeboat-clock 1 1767225600000000001 86400\n");
    assert_eq!(GuardState::parse(&state.to_text()), Some(state));
    for bad in [
        "",
        "lifeboat-clock 1 5 5",
        "lifeboat-clock 1 5 5 5\n",
        "lifeboat-clock 2 5 5\n",
        "lifeboat-clock 1 -5 5\n",
    ] {
        assert_eq!(GuardState::parse(bad), None, "{bad:?}");
    }
    let much = GuardState::parse("lifeboat-clock 1 5 99999999999\n").unwrap();
    assert_eq!(much.credit, RESTART_CREDIT, "credit is never more than it may be");
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Jump(u64),
    Look,
    Save,
    Restart,
    LoseState,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u64..200_000).prop_map(Step::Pass),
        2 => any::<u64>().prop_map(Step::Jump),
        3 => Just(Step::Look),
        1 => Just(Step::Save),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseState),
    ];
    proptest::collection::vec(step, 1..100)
}

proptest! {
    /// Whatever the machine's clock does: between any two looks of one process the guarded time advances by no more than
    /// what really passed and never goes back; over everything it gains at most the credit and twice what processes ran.
    #[test]
    fn time_is_never_hastened(steps in steps()) {
        let clock = Arc::new(ManualClock::default());
        let began = clock.wall();
        let mut guard = start(&clock, None, None);
        let mut newest = guard.now();
        let mut state = Some(guard.state());
        let mut ran = Duration::ZERO;
        let mut last = (guard.now(), clock.monotonic());
        for step in steps {
            match step {
                Step::Pass(seconds) => {
                    clock.advance(Duration::from_secs(seconds));
                    ran += Duration::from_secs(seconds);
                }
                Step::Jump(to) => clock.set_wall(WallTime(to)),
                Step::Look => {
                    let now = guard.now();
                    prop_assert!(now >= last.0);
                    prop_assert!(now.since(last.0) <= clock.monotonic() - last.1);
                    last = (now, clock.monotonic());
                    // Something is made in the vault at this time.
                    newest = newest.max(now);
                }
                Step::Save => state = Some(guard.state()),
                Step::Restart | Step::LoseState => {
                    if matches!(step, Step::LoseState) {
                        state = None;
                    }
                    guard = start(&clock, state, Some(newest));
                    last = (guard.now(), clock.monotonic());
                    state = Some(guard.state());
                }
            }
            prop_assert!(guard.now().since(began) <= RESTART_CREDIT + 2 * ran, "after {ran:?}");
        }
    }
}
