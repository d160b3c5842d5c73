//! How a person names a recovery point.

use crate::time::WallTime;
use crate::units::PointId;
use std::time::Duration;

/// Which point is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointSpec {
    /// The newest barrier.
    Latest,
    /// Exactly this barrier.
    Id(PointId),
    /// The newest barrier at or before this moment of the source's clock.
    At(WallTime),
}

/// A point was written in no form we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no point; write 'latest', a point id such as p1.4711, an age such as 20s or 5m, \
     or a time such as '2026-11-20 03:14:15' or 2026-11-20T03:14:15Z"
)]
pub struct BadPoint(pub String);

impl PointSpec {
    /// Reads `latest`, `p1.4711`, an age (`20s`, `5m`, `2h`, `1d`, with or without ` ago`), an RFC 3339 time,
    /// or a date and time in the zone `zone`. `now` is what ages count back from.
    ///
    /// # Errors
    /// [`BadPoint`], with what was written cut to 64 characters.
    pub fn parse(text: &str, now: WallTime, zone: &jiff::tz::TimeZone) -> Result<Self, BadPoint> {
        let bad = || BadPoint(text.chars().take(64).collect());
        let t = text.trim();
        if t.len() > 64 || t.is_empty() {
            return Err(bad());
        }
        if t.eq_ignore_ascii_case("latest") {
            return Ok(Self::Latest);
        }
        if t.starts_with('p') {
            return t.parse().map(Self::Id).map_err(|_| bad());
        }
        if let Some(age) = parse_age(t.strip_suffix("ago").unwrap_or(t).trim()) {
            return Ok(Self::At(now.saturating_sub(age)));
        }
        if let Ok(ts) = t.parse::<jiff::Timestamp>() {
            return Ok(Self::At(WallTime::from_jiff(ts)));
        }
        t.parse::<jiff::civil::DateTime>()
            .ok()
            .and_then(|dt| dt.to_zoned(zone.clone()).ok())
            .map(|z| Self::At(WallTime::from_jiff(z.timestamp())))
            .ok_or_else(bad)
    }
}

/// `20s`, `5m`, `2h`, `1d`: whole numbers with one unit.
pub fn parse_age(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    count.checked_mul(unit).map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
