//! The measured RPO over the last day.
//!
//! Invariants: memory is bounded, whatever the values; a quantile shown is never below the true one and at most an
//! eighth above it, the largest value is exact; a jump of the time of day moves no sample out of its minute, because
//! minutes are counted on the monotonic clock.
//!
//! One sample a second goes into the present minute's histogram: values below 16 ms each have a bucket, above that eight
//! share each power of two. Of a minute only the buckets in use are kept.
//!
//! On disk, one file per server, replaced every minute and not synced, since a lost minute costs nothing:
//!
//! ```text
//!   0  "LBRPO001"
//!   8  minutes u32, then each: start u64 (ns since 1970), largest u64 (ms), buckets u32,
//!      then each bucket: number u16, samples u16
//!  end 32 bytes: BLAKE3 of all of the above
//! ```

use lifeboat_api::types::{RpoMinute, RpoStats};
use lifeboat_base::WallTime;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Minutes kept: a day.
pub const MINUTES: usize = 24 * 60;
const HOUR: usize = 60;
const MAGIC: &[u8; 8] = b"LBRPO001";
/// Values below have a bucket each.
const EXACT: u64 = 16;
/// Buckets to each power of two above.
const STEPS: u64 = 8;
/// The last bucket's number: everything from 2^40 ms on.
const LAST: u16 = (EXACT + (40 - 4) * STEPS) as u16;
/// More than a day's file can be, in bytes.
pub const LONGEST: u64 = 1 << 20;

fn bucket(ms: u64) -> u16 {
    if ms < EXACT {
        return ms as u16;
    }
    let power = u64::from(ms.ilog2());
    let step = (ms >> (power - 3)) & (STEPS - 1);
    (EXACT + (power - 4) * STEPS + step).min(u64::from(LAST)) as u16
}

/// Largest value of a bucket.
fn top(bucket: u16) -> u64 {
    let n = u64::from(bucket);
    if n < EXACT {
        return n;
    }
    let (power, step) = ((n - EXACT) / STEPS + 4, (n - EXACT) % STEPS);
    (1 << power) + ((step + 1) << (power - 3)) - 1
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Histogram {
    counts: BTreeMap<u16, u32>,
    largest: u64,
}

impl Histogram {
    fn add(&mut self, ms: u64) {
        *self.counts.entry(bucket(ms)).or_default() += 1;
        self.largest = self.largest.max(ms);
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, n) in &other.counts {
            *self.counts.entry(*bucket).or_default() += n;
        }
        self.largest = self.largest.max(other.largest);
    }

    fn samples(&self) -> u64 {
        self.counts.values().map(|n| u64::from(*n)).sum()
    }

    /// The value that `percent` of the samples do not exceed.
    fn quantile(&self, percent: u64) -> u64 {
        let rank = (self.samples() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, n) in &self.counts {
            seen += u64::from(*n);
            if seen >= rank {
                return top(*bucket).min(self.largest);
            }
        }
        self.largest
    }

    fn stats(&self) -> Option<RpoStats> {
        let samples = self.samples();
        (samples > 0).then(|| RpoStats {
            p50_ms: self.quantile(50),
            p99_ms: self.quantile(99),
            max_ms: self.largest,
            samples,
        })
    }
}

#[derive(Debug, Clone)]
struct Minute {
    /// When it began, by the time of day then.
    start: WallTime,
    /// And in whole minutes of the monotonic clock, before its start if it was read from a file.
    number: i64,
    histogram: Histogram,
}

/// See the module's text.
#[derive(Debug, Default, Clone)]
pub struct RpoHistory {
    /// Oldest first.
    minutes: VecDeque<Minute>,
}

fn number(now: Duration) -> i64 {
    i64::try_from(now.as_secs() / MINUTE.as_secs()).unwrap_or(i64::MAX)
}

impl RpoHistory {
    /// Takes a sample. `true` when it begins another minute.
    pub fn sample(&mut self, age: Duration, now: Duration, wall: WallTime) -> bool {
        let number = number(now);
        let begins = self.minutes.back().is_none_or(|m| m.number != number);
        if begins {
            self.minutes.push_back(Minute { start: wall, number, histogram: Histogram::default() });
            while self.minutes.len() > MINUTES {
                self.minutes.pop_front();
            }
        }
        if let Some(minute) = self.minutes.back_mut() {
            minute.histogram.add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        }
        begins
    }

    fn over(&self, minutes: usize, now: Duration) -> Option<RpoStats> {
        let from = number(now).saturating_sub(minutes as i64);
        let mut all = Histogram::default();
        for m in self.minutes.iter().rev().take_while(|m| m.number > from) {
            all.merge(&m.histogram);
        }
        all.stats()
    }

    /// Over the last hour.
    pub fn hour(&self, now: Duration) -> Option<RpoStats> {
        self.over(HOUR, now)
    }

    /// Over the last day.
    pub fn day(&self, now: Duration) -> Option<RpoStats> {
        self.over(MINUTES, now)
    }

    /// By the minute, newest first.
    pub fn minutes(&self, limit: usize) -> Vec<RpoMinute> {
        let minute = |m: &Minute| m.histogram.stats().map(|stats| RpoMinute { start: m.start, stats });
        self.minutes.iter().rev().filter_map(minute).take(limit).collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut b = MAGIC.to_vec();
        b.extend_from_slice(&(self.minutes.len() as u32).to_le_bytes());
        for m in &self.minutes {
            b.extend_from_slice(&m.start.0.to_le_bytes());
            b.extend_from_slice(&m.histogram.largest.to_le_bytes());
            b.extend_from_slice(&(m.histogram.counts.len() as u32).to_le_bytes());
            for (bucket, n) in &m.histogram.counts {
                b.extend_from_slice(&bucket.to_le_bytes());
                b.extend_from_slice(&u16::try_from(*n).unwrap_or(u16::MAX).to_le_bytes());
            }
        }
        let sum = blake3::hash(&b);
        b.extend_from_slice(sum.as_bytes());
        b
    }

    /// What an earlier process kept; `None` when the bytes are not what was written. Minutes get their place by the time
    /// of day, so one that jumped meanwhile misplaces them, and nothing else.
    pub fn decode(bytes: &[u8], now: Duration, wall: WallTime) -> Option<Self> {
        let (mut b, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
        if blake3::hash(b).as_bytes() != sum || b.get(..8)? != MAGIC {
            return None;
        }
        let mut take = |n: usize| -> Option<u64> {
            let (head, rest) = b.split_at_checked(n)?;
            b = rest;
            let mut v = [0; 8];
            v[..n].copy_from_slice(head);
            Some(u64::from_le_bytes(v))
        };
        take(8)?;
        let count = usize::try_from(take(4)?).ok()?;
        let mut minutes = VecDeque::new();
        let this = number(now);
        for _ in 0..count.min(MINUTES) {
            let start = WallTime(take(8)?);
            let largest = take(8)?;
            let mut histogram = Histogram { counts: BTreeMap::new(), largest };
            for _ in 0..take(4)? {
                let bucket = u16::try_from(take(2)?).ok()?.min(LAST);
                histogram.counts.insert(bucket, u32::try_from(take(2)?).ok()?);
            }
            let ago = i64::try_from(wall.since(start).as_secs() / MINUTE.as_secs()).unwrap_or(i64::MAX);
            let number = this.saturating_sub(ago.max(1));
            minutes.push_back(Minute { start, number, histogram });
        }
        minutes.make_contiguous().sort_by_key(|m| m.number);
        Some(Self { minutes })
    }
}

#[cfg(test)]
mod tests;
