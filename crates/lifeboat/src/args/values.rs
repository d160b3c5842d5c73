//! How durations and sizes are written.

use super::replication::RpoAlarm;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use lifeboat_api::types::RetentionRule;
use lifeboat_base::{PointSpec, WallTime};
use std::time::Duration;

/// Longest duration that makes sense anywhere: ten years.
const MAX_SECONDS: u64 = 10 * 366 * 86_400;

/// Reads `30s`, `30m`, `24h`, `7d`, `2w`.
///
/// # Errors
/// A text for people, without the value, which clap shows itself.
pub fn duration(text: &str) -> Result<Duration, String> {
    lifeboat_base::point::parse_age(text.trim())
        .filter(|d| d.as_secs() <= MAX_SECONDS)
        .ok_or_else(|| "write a whole number with a unit: 30s, 30m, 24h, 7d or 2w".to_string())
}

/// Reads `512`, `64KiB`, `64MiB`, `64GiB`, `1TiB` (powers of 1024) and `64KB`, `64MB`, `64GB`, `1TB` (powers of
/// 1000); result in bytes.
///
/// # Errors
/// A text for people, without the value, which clap shows itself.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || "write a whole number with a unit: 512MiB, 64GiB or 1TiB".to_string();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let count: u64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    count.checked_mul(unit).ok_or_else(bad)
}

/// As [`size`], in whole MiB and at least one.
///
/// # Errors
/// As [`size`].
pub fn mebibytes(text: &str) -> Result<u64, String> {
    match size(text)? >> 20 {
        0 => Err("write at least 1MiB, for example 2GiB".into()),
        n => Ok(n),
    }
}

/// A recovery point as a person writes it. Times without a zone are UTC, as they are shown.
///
/// # Errors
/// When it names no point in any form.
pub fn point(text: &str) -> Result<String, String> {
    let text = text.trim();
    PointSpec::parse(text, WallTime(0), &TimeZone::UTC).map_err(|e| e.to_string())?;
    match text.parse::<Timestamp>() {
        Err(_) => Ok(text.parse::<DateTime>().map_or_else(|_| text.to_string(), |t| format!("{t}Z"))),
        Ok(_) => Ok(text.to_string()),
    }
}

/// A point of a group as a person writes it: `g42`, or any form of [`point`] that is no server's point id.
///
/// # Errors
/// When it names no point in any form.
pub fn group_point(text: &str) -> Result<String, String> {
    let text = text.trim();
    let numbered = text.strip_prefix('g').is_some_and(|d| d.parse::<u64>().is_ok());
    match text.starts_with('p') {
        false if numbered => Ok(text.to_string()),
        false => point(text).map_err(|_| {
            "write latest, g42, an age such as 5m, or a time such as '2026-11-20 03:14:15'".to_string()
        }),
        true => Err("that is a point of one server; a group's is written g42".into()),
    }
}

/// Whole hours, or `never`, which is 0.
///
/// # Errors
/// A text for people, without the value, which clap shows itself.
pub fn hours(text: &str) -> Result<u32, String> {
    let bad = || "write whole hours or days, such as 12h or 7d, or never".to_string();
    if text.trim().eq_ignore_ascii_case("never") {
        return Ok(0);
    }
    let seconds = duration(text).map_err(|_| bad())?.as_secs();
    match u32::try_from(seconds / 3600) {
        Ok(hours) if hours > 0 && seconds % 3600 == 0 => Ok(hours),
        _ => Err(bad()),
    }
}

/// A duration of at least a second, or `site`.
///
/// # Errors
/// A text for people, without the value, which clap shows itself.
pub fn rpo_alarm(text: &str) -> Result<RpoAlarm, String> {
    if text.trim().eq_ignore_ascii_case("site") {
        return Ok(RpoAlarm::Site);
    }
    match duration(text).ok().and_then(|d| u32::try_from(d.as_secs()).ok()) {
        Some(seconds) if seconds > 0 => Ok(RpoAlarm::After(seconds)),
        _ => Err("write a time of at least 1s, such as 30s or 5m, or site".into()),
    }
}

/// `every 1h for 2d`
///
/// # Errors
/// When it is no rule.
pub fn rule(text: &str) -> Result<RetentionRule, String> {
    let bad = || "write 'every TIME for TIME', such as 'every 1h for 2d'".to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["every", every, "for", keep] => Ok(RetentionRule {
            every_seconds: duration(every).map_err(|_| bad())?.as_secs(),
            keep_seconds: duration(keep).map_err(|_| bad())?.as_secs(),
        }),
        _ => Err(bad()),
    }
}

/// `SERVER=CHECK`
///
/// # Errors
/// When one of them is missing.
pub fn check_of(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((server, check)) if !server.is_empty() && !check.is_empty() => {
            Ok((server.to_string(), check.to_string()))
        }
        _ => Err("write SERVER=CHECK, such as web-1=tcp:80".into()),
    }
}

#[cfg(test)]
mod tests;
