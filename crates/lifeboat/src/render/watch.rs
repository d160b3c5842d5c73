//! RPO, comparisons, checks, branches.

use super::table::{Cell, Table};
use super::text::{ago, bar, maybe_millis, millis, moment, one_line};
use crate::commands::Rpo;
use crate::out::Style;
use lifeboat_api::types::{
    Branch, CheckFinding, CheckReport, RpoMinute, RpoStats, VerifyState, VerifyStatus,
};
use lifeboat_base::{WallTime, format_bytes};
use std::fmt::Write;

/// More minutes than this are a line of bars and the worst of them.
const LISTED: usize = 15;
const WORST: usize = 10;
/// Ranges that differ and are named.
const RANGES: usize = 20;

pub fn rpo(r: &Rpo, style: Style) -> String {
    let mut out = format!("{}  RPO now {}\n\n", style.bold(&r.server), maybe_millis(r.now_ms));
    let mut table = Table::new(["OVER", ">P50", ">P99", ">MAX", ">SAMPLES"]);
    for (name, stats) in [("last hour", &r.hour), ("last day", &r.day)] {
        if let Some(s) = stats {
            table.row(cells(name, s));
        }
    }
    match (&r.hour, &r.day) {
        (None, None) => out.push_str("nothing is measured yet; that begins with the first recovery point\n"),
        _ => out.push_str(&table.render("")),
    }
    if r.minutes.is_empty() {
        return out;
    }
    if r.minutes.len() <= LISTED {
        out.push('\n');
        out.push_str(&minutes(r.minutes.iter()));
        return out;
    }
    let _ = write!(out, "\np99 by the minute, oldest first\n{}\n\nthe worst\n", spark(&r.minutes));
    let mut worst: Vec<&RpoMinute> = r.minutes.iter().collect();
    worst.sort_by_key(|m| std::cmp::Reverse((m.stats.p99_ms, m.start)));
    out.push_str(&minutes(worst.into_iter().take(WORST)));
    out
}

fn cells(name: &str, s: &RpoStats) -> [Cell; 5] {
    let samples = s.samples.to_string();
    [name.into(), millis(s.p50_ms).into(), millis(s.p99_ms).into(), millis(s.max_ms).into(), samples.into()]
}

fn minutes<'a>(all: impl Iterator<Item = &'a RpoMinute>) -> String {
    let mut table = Table::new(["MINUTE (UTC)", ">P50", ">P99", ">MAX", ">SAMPLES"]);
    for m in all {
        table.row(cells(&m.start.to_jiff().strftime("%Y-%m-%d %H:%M").to_string(), &m.stats));
    }
    table.render("")
}

/// A bar for each minute, oldest first, on a scale to the highest.
fn spark(newest_first: &[RpoMinute]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = newest_first.iter().map(|m| m.stats.p99_ms).max().unwrap_or_default().max(1);
    let level = |ms: u64| usize::try_from(ms.saturating_mul(8).saturating_sub(1) / most).unwrap_or(7).min(7);
    newest_first.iter().rev().map(|m| BARS[level(m.stats.p99_ms)]).collect()
}

/// `comparing [###-------]  30 % of 8.0 GiB`
pub fn progress(v: &VerifyStatus) -> String {
    if v.total_bytes == 0 {
        return "comparing".into();
    }
    format!("comparing {} of {}", bar(v.done_bytes, v.total_bytes, 10), format_bytes(v.total_bytes))
}

/// How the last comparison went, or goes, on one line.
pub fn comparison(v: &VerifyStatus, now: WallTime, style: Style) -> String {
    let when = ago(now, v.ended.unwrap_or(v.started));
    let all = format_bytes(v.done_bytes);
    match v.state {
        VerifyState::Running => progress(v),
        VerifyState::Equal => format!("{}, {all} compared {when}", style.green("equal")),
        VerifyState::Different => {
            let what = format!("{} differed", format_bytes(v.different_bytes));
            format!("{}, {all} compared {when}; that was sent anew", style.red(&what))
        }
        VerifyState::Failed => {
            let why = v.error.as_deref().unwrap_or("no reason is known");
            format!("{} {when}: {}", style.red("failed"), one_line(why))
        }
    }
}

/// A comparison that is over, with all that differed.
pub fn compared(server: &str, v: &VerifyStatus, now: WallTime, style: Style) -> String {
    let mut out = format!("{}: {}\n", style.bold(server), comparison(v, now, style));
    for d in v.different.iter().take(RANGES) {
        let _ = writeln!(out, "  disk {} at {}, {}", d.disk, d.offset, format_bytes(d.len));
    }
    if v.different.len() > RANGES {
        let _ = writeln!(out, "  and {} more places; all that are known: --json", v.different.len() - RANGES);
    }
    if let Some(point) = v.point {
        let _ = writeln!(out, "all that was compared is right from {point} on");
    }
    out
}

fn counted(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// One server's report.
pub fn checked(r: &CheckReport, style: Style) -> String {
    let depth = match r.records {
        0 => "records not read; read them too with --full".to_string(),
        n => format!("{} read", counted(n, "record")),
    };
    let verdict = match r.findings.len() as u64 {
        0 => style.green("whole"),
        n => style.red(&counted(n, "finding")),
    };
    let segments = counted(r.segments, "segment");
    let mut out = format!("{}: {verdict}, {segments}, {depth}\n", style.bold(&r.server));
    for f in &r.findings {
        let _ = writeln!(out, "  {}; {}", one_line(&f.what), affected(f));
    }
    for index in &r.bad_indexes {
        let _ = writeln!(out, "  the index {} was made again; no point is affected", one_line(index));
    }
    out
}

fn affected(f: &CheckFinding) -> String {
    match (f.first_point, f.last_point) {
        (Some(a), Some(b)) if a == b => format!("affects the point {a}"),
        (Some(a), Some(b)) => format!("affects points {a} to {b}"),
        (Some(a), None) => format!("affects points from {a} on"),
        (None, Some(b)) => format!("affects points up to {b}"),
        (None, None) => "no point that is left needs it".into(),
    }
}

pub fn all_checked(all: &[CheckReport], style: Style) -> String {
    if all.is_empty() {
        return "there is nothing to check: no server is protected".into();
    }
    all.iter().map(|r| checked(r, style)).collect()
}

pub fn branches(all: &[Branch], now: WallTime) -> String {
    if all.is_empty() {
        return "no branches".into();
    }
    let mut table =
        Table::new(["BRANCH", "SERVER", "AFTER", ">RECORDS", ">CONTENT", ">STORED", "NEWEST", "MOUNTABLE"]);
    for b in all {
        let mountable = if b.mountable { "yes" } else { "no: the point it follows has left the window" };
        table.row([
            b.id.as_str().into(),
            b.server.as_str().into(),
            b.base.to_string().into(),
            b.records.to_string().into(),
            format_bytes(b.content_bytes).into(),
            format_bytes(b.stored_bytes).into(),
            format!("{} ({})", moment(b.newest), ago(now, b.newest)).into(),
            mountable.into(),
        ]);
    }
    table.render("")
}

#[cfg(test)]
mod tests;
