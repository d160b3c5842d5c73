//! When things end, by a clock that nobody sets.
//!
//! Invariant: what is to end at a moment of the wall clock ends when the time that was left at the first look has
//! passed by the monotonic clock, however the wall clock is moved meanwhile. Only a restart looks at the wall clock
//! anew, and even then nothing is given longer than `longest`.

use lifeboat_base::{Clock, WallTime};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// One per kind of thing.
#[derive(Debug)]
pub(super) struct Deadlines<K> {
    longest: Duration,
    /// What was said of it, and when that is by the monotonic clock.
    known: Mutex<HashMap<K, (WallTime, Duration)>>,
}

impl<K: Eq + Hash + Clone> Deadlines<K> {
    pub fn new(longest: Duration) -> Self {
        Self { longest, known: Mutex::default() }
    }

    /// Whether `key`, which was to end at `ends`, has ended. Another `ends` than before counts anew.
    pub fn over(&self, key: &K, ends: WallTime, clock: &dyn Clock) -> bool {
        let now = clock.monotonic();
        let mut known = self.known.lock();
        match known.get(key) {
            Some((said, at)) if *said == ends => now >= *at,
            _ => {
                let at = now.saturating_add(ends.since(clock.wall()).min(self.longest));
                known.insert(key.clone(), (ends, at));
                now >= at
            }
        }
    }

    /// Forgets what is gone.
    pub fn keep(&self, still: impl Fn(&K) -> bool) {
        self.known.lock().retain(|k, _| still(k));
    }
}

#[cfg(test)]
mod tests;
