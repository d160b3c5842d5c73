//! This crate's own clock seam (`lifeboat_base` would pull the crypto library into every guest).

use std::time::Duration;

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Time since the first call in this process.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn elapsed() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Lets time pass; for pacing a workload, never for waiting on something.
#[allow(clippy::disallowed_methods, reason = "pacing is the point")]
pub fn pace(time: Duration) {
    std::thread::sleep(time);
}

/// RFC 3339 with milliseconds, UTC.
pub fn rfc3339(ms: u64) -> String {
    let t =
        i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    format!("{t:.3}")
}
