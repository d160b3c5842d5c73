//! Chance from one seed, and the clocks of the world's machines.

use lifeboat_base::{Clock, Entropy, WallTime};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;
pub const SEC: u64 = 1_000_000_000;

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Both ends included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len() as u64) as usize;
        from.get(at)
    }

    /// Another source of chance that depends on this one.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// The same for code that takes [`Entropy`].
pub struct SharedRng(Mutex<Rng>);

impl SharedRng {
    pub fn new(rng: Rng) -> Self {
        Self(Mutex::new(rng))
    }
}

impl Entropy for SharedRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// One machine's clock. The world moves it before it runs anything there.
#[derive(Debug)]
pub struct HostClock {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl Clock for HostClock {
    fn wall(&self) -> WallTime {
        WallTime(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic.load(Ordering::Relaxed))
    }
}

/// 2026-01-01T00:00:00Z.
const BASE: u64 = 1_767_225_600 * SEC;

/// A machine: how its clock goes.
pub struct Host {
    pub clock: std::sync::Arc<HostClock>,
    /// How far its time of day is off, in nanoseconds.
    pub offset: i64,
    /// How much faster its clock goes, in millionths.
    pub drift: i64,
    /// When it was started, in the world's time.
    pub boot: u64,
}

impl Host {
    pub fn new(rng: &mut Rng) -> Self {
        let clock = HostClock { wall: AtomicU64::new(BASE), monotonic: AtomicU64::new(0) };
        let drift = rng.between(0, 400) as i64 - 200;
        Self { clock: std::sync::Arc::new(clock), offset: 0, drift, boot: 0 }
    }

    /// The time here is what the world's is.
    pub fn set(&self, now: u64) {
        let own = |t: u64| (t as i64 + t as i64 / 1_000_000 * self.drift) as u64;
        self.clock.monotonic.store(own(now.saturating_sub(self.boot)), Ordering::Relaxed);
        self.clock.wall.store((BASE + own(now)).wrapping_add_signed(self.offset), Ordering::Relaxed);
    }
}
