//! How durations and sizes are written.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
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

#[cfg(test)]
mod tests;
