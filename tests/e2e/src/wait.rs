//! Waiting for a condition, with a deadline; never for time.

use lifeboat_sim::clock;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(20);

/// Asks until `condition` holds.
///
/// # Panics
/// When it does not within `deadline`.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_some(what, deadline, || condition().then_some(()));
}

/// Asks until there is an answer, and returns it.
///
/// # Panics
/// When there is none within `deadline`.
pub fn wait_some<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = clock::elapsed();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(clock::elapsed() - start < deadline, "waited {deadline:?} for {what}");
        clock::pace(EVERY);
    }
}
