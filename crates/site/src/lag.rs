//! How old the newest data is that is safe here: the measured RPO.
//!
//! Invariants: neither clock's jumps make data look fresher than it is for longer than one heartbeat, and
//! time spent waiting in a slow link counts. So everything is kept on this site's monotonic clock, and a
//! source time is moved there by the shortest way a heartbeat took lately, not by the last one's.

use lifeboat_base::WallTime;
use std::time::Duration;

/// How much longer the way may seem to become: clocks that drift apart by up to a thousandth are followed.
const DRIFT: i128 = 1000;

/// What is covered of one server. All times are nanoseconds.
#[derive(Debug, Default, Clone)]
pub struct Coverage {
    /// This site's monotonic clock minus the source's clock; unknown before the first heartbeat of a session.
    offset: Option<i128>,
    /// When that was measured, and the source's time then.
    heard: Duration,
    source: WallTime,
    /// Every write completed before this moment of the monotonic clock is durable here. May be before its start.
    covered: Option<i128>,
}

fn nanos(d: Duration) -> i128 {
    i128::try_from(d.as_nanos()).unwrap_or(i128::MAX)
}

impl Coverage {
    /// After a restart: the newest point arrived `age` ago.
    pub fn restored(age: Duration, now: Duration) -> Self {
        Self { covered: Some(nanos(now) - nanos(age)), ..Self::default() }
    }

    /// Another session: its first heartbeat measures anew.
    pub fn begin_session(&mut self) {
        self.offset = None;
    }

    /// A heartbeat carried the source's time.
    pub fn heard(&mut self, source: WallTime, now: Duration) {
        let measured = nanos(now) - i128::from(source.0);
        let elapsed = nanos(now.saturating_sub(self.heard));
        self.offset = Some(match self.offset {
            // A source whose clock went back is measured anew.
            Some(known) if source >= self.source => measured.min(known + elapsed / DRIFT),
            _ => measured,
        });
        (self.heard, self.source) = (now, source);
    }

    /// Every write completed at the source before `source` is durable. Ignored while the source's clock is unknown.
    pub fn cover(&mut self, source: WallTime, now: Duration) {
        let Some(offset) = self.offset else { return };
        let moment = (i128::from(source.0) + offset).min(nanos(now));
        self.covered = self.covered.max(Some(moment));
    }

    /// Age of what is covered; `None` before the first point.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        let age = self.covered.map(|c| nanos(now).saturating_sub(c).max(0))?;
        Some(Duration::from_nanos(u64::try_from(age).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests;
