//! Keeps strangers from flooding the audit log.
//!
//! Invariants: the first refusal of a kind within a window is always told; at most [`MOST`] kinds per window are;
//! the others are counted, and the count is told with the first refusal after the window. Memory is bounded.

use parking_lot::Mutex;
use std::collections::HashSet;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(60);
/// Most entries per window.
const MOST: usize = 30;

/// What to do with a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub tell: bool,
    /// Refusals of the window before that were only counted.
    pub untold: u64,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Duration>,
    told: HashSet<String>,
    untold: u64,
}

/// One per source of refusals.
#[derive(Debug, Default)]
pub struct RefusalLimit(Mutex<Window>);

impl RefusalLimit {
    /// `kind` says which refusals are alike; `now` is monotonic.
    pub fn judge(&self, kind: &str, now: Duration) -> Verdict {
        let mut w = self.0.lock();
        let mut untold = 0;
        if w.began.is_none_or(|b| now.saturating_sub(b) >= WINDOW) {
            untold = w.untold;
            *w = Window { began: Some(now), ..Window::default() };
        }
        let tell = w.told.len() < MOST && w.told.insert(kind.to_string());
        if !tell {
            w.untold += 1;
        }
        Verdict { tell, untold }
    }
}

#[cfg(test)]
mod tests;
