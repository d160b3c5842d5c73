//! Small words: how long, how old, how far.

use lifeboat_base::{WallTime, format_bytes};
use std::time::Duration;

/// `850 ms`, `3.2 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 if d.subsec_millis() > 0 => format!("{} ms", d.subsec_millis()),
        0..60 => format!("{:.1} s", d.as_secs_f64()),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

pub fn millis(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

/// `-` where nothing is known.
pub fn maybe_millis(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".into(), millis)
}

/// `2026-11-20 03:14:15` in UTC.
pub fn moment(t: WallTime) -> String {
    t.to_jiff().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `3 s ago`; a time to come is `in 3 s`.
pub fn ago(now: WallTime, then: WallTime) -> String {
    if then > now {
        format!("in {}", coarse(then.since(now)))
    } else {
        format!("{} ago", coarse(now.since(then)))
    }
}

/// One unit only: `3 s`, `5 min`, `2 h`, `4 d`.
pub fn coarse(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// `[######----] 60 %`
pub fn bar(done: u64, total: u64, width: usize) -> String {
    let part = if total == 0 { 1.0 } else { (done as f64 / total as f64).clamp(0.0, 1.0) };
    let full = (part * width as f64).floor() as usize;
    format!("[{}{}] {:>3} %", "#".repeat(full), "-".repeat(width - full), (part * 100.0).floor() as u64)
}

pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", format_bytes(bytes_per_second))
}

/// Text of a peer on one line, without control characters.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The first eight digits of an id: enough to name it in a command.
pub fn short(id: impl ToString) -> String {
    id.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests;
