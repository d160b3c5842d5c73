//! The time that retention and locks count by. A machine's clock may be set ten years ahead by mistake, by a bad time
//! server or by somebody who wants locks to end; nothing expires early because of it.
//!
//! Invariants:
//! - the guarded time never goes back, but for a person who accepts the machine's clock;
//! - while a process lives it advances at most as fast as the monotonic clock;
//! - over restarts it follows the machine's clock by at most its credit, which is never more than [`RESTART_CREDIT`] and
//!   grows again only as fast as processes really run: over any time at all, the guarded time gains at most
//!   `RESTART_CREDIT` + twice the time that processes ran;
//! - the state comes from the caller's file, or, where that is lost, from the newest time the vault itself knows, without
//!   any credit: losing the file gains nothing.
//!
//! While the machine's clock is behind, the guarded time goes on at half speed until the clock has caught up.

use lifeboat_base::{Clock, WallTime};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// What restarts may add, at most, to the time retention counts by, unless a person accepts more.
pub const RESTART_CREDIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A difference to the machine's clock larger than this is reported.
pub const REPORT_ABOVE: Duration = Duration::from_secs(5 * 60);

/// What is kept over a restart. Losing it, or an old one, delays expiry and never hastens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardState {
    /// The guarded time when it was saved.
    pub time: WallTime,
    /// How much of a gap the next start may believe.
    pub credit: Duration,
}

impl GuardState {
    /// One line: `lifeboat-clock 1 NANOSECONDS CREDIT_SECONDS`.
    pub fn to_text(&self) -> String {
        format!("lifeboat-clock 1 {} {}\n", self.time.0, self.credit.as_secs())
    }

    /// `None` where it is not what [`to_text`](Self::to_text) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("lifeboat-clock 1 ")?.strip_suffix('\n')?.split(' ');
        let time = WallTime(words.next()?.parse().ok()?);
        let credit = Duration::from_secs(words.next()?.parse().ok()?).min(RESTART_CREDIT);
        words.next().is_none().then_some(Self { time, credit })
    }
}

/// Gives the time that retention and locks count by.
pub struct ClockGuard {
    clock: Arc<dyn Clock>,
    now: Mutex<Now>,
}

struct Now {
    time: WallTime,
    /// The monotonic time at which `time` was so.
    at: Duration,
    credit: Duration,
}

impl ClockGuard {
    /// Begins with what was saved and the newest time at which something was made in the vault.
    pub fn start(
        clock: Arc<dyn Clock>,
        saved: Option<GuardState>,
        newest_in_vault: Option<WallTime>,
    ) -> Self {
        let wall = clock.wall();
        let target = wall.max(newest_in_vault.unwrap_or_default());
        let (known, credit) = match (saved, newest_in_vault) {
            (Some(state), _) => (state.time, state.credit.min(RESTART_CREDIT)),
            (None, Some(newest)) => (newest, Duration::ZERO),
            // An empty vault: nothing can expire early.
            (None, None) => (wall, RESTART_CREDIT),
        };
        let step = target.since(known).min(credit);
        let time = known.saturating_add(step);
        let at = clock.monotonic();
        Self { now: Mutex::new(Now { time, at, credit: credit.saturating_sub(step) }), clock }
    }

    /// The time to make points at, and to judge them by.
    pub fn now(&self) -> WallTime {
        let mut now = self.now.lock();
        self.advance(&mut now);
        now.time
    }

    fn advance(&self, now: &mut Now) {
        let at = self.clock.monotonic();
        let passed = at.saturating_sub(now.at);
        let ahead = self.clock.wall().since(now.time);
        // As far as the machine's clock goes, and half as far where that is behind.
        now.time = now.time.saturating_add(passed.min(ahead.max(passed / 2)));
        now.at = at;
        now.credit = now.credit.saturating_add(passed).min(RESTART_CREDIT);
    }

    /// What to save: now and then, and at the end.
    pub fn state(&self) -> GuardState {
        let mut now = self.now.lock();
        self.advance(&mut now);
        GuardState { time: now.time, credit: now.credit }
    }

    /// What a person has to know, while the machine's clock differs.
    pub fn report(&self) -> Option<String> {
        let time = self.now();
        let wall = self.clock.wall();
        let (by, way, meanwhile) = if wall > time {
            (wall.since(time), "ahead of", "points and locks last longer than their dates say")
        } else {
            (time.since(wall), "behind", "points and locks last as long as they were made to")
        };
        (by > REPORT_ABOVE).then(|| {
            format!(
                "the machine's clock ({wall}) is {} {way} the time that retention counts by ({time}); nothing expires \
                 early: {meanwhile}. Set the clock right, or, where it is right, accept it: \
                 lifeboat vault clock --accept",
                roughly(by)
            )
        })
    }

    /// A person says that the machine's clock is right: the guarded time becomes it. Gives it before and after.
    pub fn accept(&self) -> (WallTime, WallTime) {
        let mut now = self.now.lock();
        self.advance(&mut now);
        let before = now.time;
        now.time = self.clock.wall();
        (before, now.time)
    }
}

impl std::fmt::Debug for ClockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClockGuard({})", self.now())
    }
}

fn roughly(d: Duration) -> String {
    match d.as_secs() {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} minutes", s / 60),
    }
}

#[cfg(test)]
mod tests;
