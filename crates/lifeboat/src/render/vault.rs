//! The vault: how it stands, what it takes, and what long work came to.

use super::servers::Facts;
use super::table::{Cell, Table};
use super::text::{ago, coarse, moment, one_line, span};
use crate::out::Style;
use lifeboat_api::types::{
    PrunePlan, PruneReport, RestoreReport, RetentionPreset, RetentionSpec, VaultCheckReport, VaultClock,
    VaultFinding, VaultHold, VaultJob, VaultJobResult, VaultJobState, VaultRepairReport, VaultState,
    VaultStatus, VaultUsage,
};
use lifeboat_base::{WallTime, format_bytes};
use std::fmt::Write;
use std::time::Duration;

/// Lines of a list that are shown; the rest is counted.
const SHOWN: usize = 20;

pub fn state(state: VaultState, style: Style) -> String {
    match state {
        VaultState::Off => style.dim("off"),
        VaultState::Opening => style.yellow("opening"),
        VaultState::Ready => style.green("ready"),
        VaultState::Degraded => style.red("degraded"),
        VaultState::Unavailable => style.red("UNAVAILABLE"),
    }
}

pub fn status(v: &VaultStatus, now: WallTime, style: Style) -> String {
    let mut out = Facts::default();
    let mut condition = state(v.state, style);
    if let Some(why) = &v.reason {
        let _ = write!(condition, ": {}", one_line(why));
    }
    out.fact("vault", condition);
    if v.state == VaultState::Off {
        out.fact("next", "set [vault] location in site.toml and restart `lifeboat serve`".into());
        return out.text();
    }
    if v.index_percent < 100 && v.state == VaultState::Opening {
        out.fact("index", format!("being made, {} %", v.index_percent));
    }
    if let Some(id) = &v.id {
        out.fact("id", format!("{id}, format {}, key generation {}", v.format, v.key_generation));
    }
    for (n, c) in v.copies.iter().enumerate() {
        let mut text = one_line(&c.location);
        match (&c.error, c.reachable) {
            (_, true) => {}
            (Some(why), false) => {
                let _ = write!(text, ", {}: {}", style.red("away"), one_line(why));
            }
            (None, false) => {
                let _ = write!(text, ", {}", style.red("away"));
            }
        }
        if c.lacking > 0 {
            let _ = write!(text, ", lacks {} objects", c.lacking);
        }
        if c.locks {
            text.push_str(", locks objects");
        }
        let name = if v.copies.len() == 1 { "kept in".to_string() } else { format!("copy {}", n + 1) };
        out.fact(&name, text);
    }
    if v.copies.len() > 1 {
        out.fact("quorum", format!("a write needs {} of {}", v.quorum, v.copies.len()));
    }
    out.fact(
        "holds",
        format!("{} points and backups, {} chunks in {} packs", v.snapshots, v.chunks, v.packs),
    );
    out.fact("stored", format_bytes(v.stored_bytes));
    out.fact("backlog", format!("{} of journals", format_bytes(v.backlog_bytes)));
    let last =
        v.last_scrub.map_or_else(|| "no round is over yet".into(), |t| format!("last over {}", ago(now, t)));
    out.fact("scrub", format!("{} % of this round, {last}", v.scrub_percent));
    let mut text = out.text();
    text.push_str(&findings("damaged or missing", &v.findings, style));
    text
}

/// One line of it, for the screen.
pub fn line(v: &VaultStatus, style: Style) -> String {
    let mut text = format!("vault  {}", state(v.state, style));
    match v.state {
        VaultState::Off => return text,
        VaultState::Opening => {
            let _ = write!(text, ", index {} %", v.index_percent);
        }
        _ => {
            let _ = write!(text, ", {} points and backups in {}", v.snapshots, format_bytes(v.stored_bytes));
        }
    }
    if v.backlog_bytes > 0 {
        let _ = write!(text, ", backlog {}", format_bytes(v.backlog_bytes));
    }
    text
}

fn findings(title: &str, all: &[VaultFinding], style: Style) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{}\n", style.bold(&title.to_uppercase()));
    for f in all.iter().take(SHOWN) {
        let mark = if f.repaired { style.green("repaired") } else { style.red("DAMAGED") };
        let _ = writeln!(out, "  {mark}  {}: {}", one_line(&f.object), one_line(&f.what));
        for touched in f.touches.iter().take(SHOWN) {
            let _ = writeln!(out, "      touches {}", one_line(touched));
        }
        more(&mut out, "      ", f.touches.len());
    }
    more(&mut out, "  ", all.len());
    out
}

fn more(out: &mut String, indent: &str, all: usize) {
    if all > SHOWN {
        let _ = writeln!(out, "{indent}and {} more; --json lists them", all - SHOWN);
    }
}

fn list(out: &mut String, title: &str, lines: &[String], all: u64) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}");
    for line in lines.iter().take(SHOWN) {
        let _ = writeln!(out, "  {}", one_line(line));
    }
    let shown = lines.len().min(SHOWN) as u64;
    if all > shown {
        let _ = writeln!(out, "  and {} more", all - shown);
    }
}

pub fn usage(u: &VaultUsage, style: Style) -> String {
    let mut table = Table::new(["OWNER", ">POINTS", ">LOGICAL", ">UNIQUE", ">STORED", ">ITS OWN"]);
    for row in u.owners.iter().chain([&u.total]) {
        table.row([
            row.owner.as_str().into(),
            row.points.to_string().into(),
            format_bytes(row.logical_bytes).into(),
            format_bytes(row.unique_bytes).into(),
            format_bytes(row.stored_bytes).into(),
            format_bytes(row.own_bytes).into(),
        ]);
    }
    let mut out = table.render("");
    for owner in u.owners.iter().filter(|o| !o.by_point.is_empty()) {
        let mut table = Table::new(["POINT", ">LOGICAL", ">ITS OWN"]);
        for p in &owner.by_point {
            table.row([
                p.point.as_str().into(),
                format_bytes(p.logical_bytes).into(),
                format_bytes(p.own_bytes).into(),
            ]);
        }
        let _ = write!(out, "\n{}\n{}", style.bold(&owner.owner), table.render("  "));
    }
    let _ = writeln!(
        out,
        "\ndeduplication {:.1} to 1, compression {:.1} to 1; a prune would free {}",
        u.dedup_ratio,
        u.compression_ratio,
        format_bytes(u.reclaimable_bytes)
    );
    out
}

/// A job's kind, in words.
pub fn kind(kind: &str) -> &'static str {
    match kind {
        "check" => "the check of the vault",
        "scrub" => "the scrub of the vault",
        "repair" => "the repair of the vault",
        "prune-plan" => "planning the prune",
        "prune" => "the prune",
        "reindex" => "making the index anew",
        "backup" => "the backup",
        "restore" => "the restore",
        _ => "the job",
    }
}

fn job_state(j: &VaultJob, style: Style) -> Cell {
    match j.state {
        VaultJobState::Running => "running".into(),
        VaultJobState::Succeeded => Cell::painted("succeeded", style.green("succeeded")),
        VaultJobState::Failed => Cell::painted("failed", style.red("failed")),
        VaultJobState::Cancelled => "cancelled".into(),
    }
}

/// `reads packs back, 12 of 40 packs`
pub fn progress(j: &VaultJob) -> String {
    let count = |n: u64| if j.unit == "bytes" { format_bytes(n) } else { n.to_string() };
    let unit = match j.unit.as_str() {
        "bytes" | "" => String::new(),
        unit => format!(" {unit}"),
    };
    let step = one_line(&j.step);
    match (j.done, j.total) {
        (0, 0) => step,
        (done, 0) => format!("{step}, {}{unit}", count(done)),
        (done, total) => format!("{step}, {} of {}{unit}", count(done), count(total)),
    }
}

pub fn jobs(all: &[VaultJob], now: WallTime, style: Style) -> String {
    if all.is_empty() {
        return "no jobs since `lifeboat serve` was started".into();
    }
    let mut table = Table::new(["JOB", "KIND", "ON", "STATE", "STARTED", "HOW FAR"]);
    for j in all {
        let far = match (&j.error, j.state) {
            (Some(why), _) => one_line(why),
            (None, VaultJobState::Running) => progress(j),
            _ => String::new(),
        };
        table.row([
            j.id.as_str().into(),
            j.kind.as_str().into(),
            j.subject.as_str().into(),
            job_state(j, style),
            ago(now, j.started).into(),
            far.into(),
        ]);
    }
    table.render("")
}

pub fn job(j: &VaultJob, now: WallTime, style: Style) -> String {
    let mut out = format!("{}{}\n", jobs(std::slice::from_ref(j), now, style), "");
    if j.state != VaultJobState::Running {
        out.push_str(&job_result(j, style));
    }
    out
}

pub fn job_result(j: &VaultJob, style: Style) -> String {
    let took = j.ended.map(|e| format!(", {}", span(e.since(j.started)))).unwrap_or_default();
    match &j.result {
        None => format!("{}: {:?}{took}", kind(&j.kind), j.state).to_lowercase(),
        Some(VaultJobResult::Check(c)) => check(c, &took, style),
        Some(VaultJobResult::Repair(r)) => repair(r, &took, style),
        Some(VaultJobResult::PrunePlan(p)) => plan(p),
        Some(VaultJobResult::Prune(p)) => pruned(p, &took),
        Some(VaultJobResult::Reindex { packs, chunks }) => {
            format!("the index is new: {chunks} chunks in {packs} packs{took}")
        }
        Some(VaultJobResult::Backup(b)) => super::backups::made(b),
        Some(VaultJobResult::Restore(r)) => restored(r, &took),
    }
}

fn check(c: &VaultCheckReport, took: &str, style: Style) -> String {
    let read = match c.packs_read {
        0 => "no content read back".into(),
        n => format!("{n} packs read back, {}", format_bytes(c.bytes_read)),
    };
    let what =
        format!("{} points and backups, {} chunks in {} packs; {read}{took}", c.snapshots, c.chunks, c.packs);
    if c.findings.is_empty() {
        return format!("{}: {what}", style.green("the vault is whole"));
    }
    let mut out = format!("{}: {what}\n", style.red("THE VAULT IS DAMAGED"));
    out.push_str(&findings("findings", &c.findings, style));
    if c.more > 0 {
        let _ = writeln!(out, "  and {} findings more", c.more);
    }
    out
}

fn repair(r: &VaultRepairReport, took: &str, style: Style) -> String {
    let mut out = format!(
        "{} objects brought from other copies ({}), {} chunks taken from sources{took}\n",
        r.copied,
        format_bytes(r.copied_bytes),
        r.from_source
    );
    match r.left.is_empty() {
        true => out.push_str("nothing is damaged or missing any more"),
        false => out.push_str(&findings("still damaged or missing", &r.left, style)),
    }
    out
}

pub fn plan(p: &PrunePlan) -> String {
    let mut out = format!(
        "a prune forgets {} points and backups, deletes {} packs, repacks {}, copies {} for it, and frees {}\n",
        p.forget_count,
        p.packs_deleted,
        p.packs_repacked,
        format_bytes(p.copied_bytes),
        format_bytes(p.freed_bytes)
    );
    list(&mut out, "forgotten:", &p.forget, p.forget_count);
    list(&mut out, "kept although no rule asks for it:", &p.kept, p.kept.len() as u64);
    out
}

fn pruned(p: &PruneReport, took: &str) -> String {
    let mut out = format!(
        "{} points and backups forgotten, {} packs deleted, {} repacked, {} freed{took}\n",
        p.forgotten,
        p.packs_deleted,
        p.packs_repacked,
        format_bytes(p.freed_bytes)
    );
    list(&mut out, "left for the next prune:", &p.left, p.left.len() as u64);
    out
}

fn restored(r: &RestoreReport, took: &str) -> String {
    let verified =
        if r.verified > 0 { format!(", {} read back and equal", r.verified) } else { String::new() };
    let mut out = format!("{} entries, {} restored{verified}{took}\n", r.files, format_bytes(r.bytes));
    list(&mut out, "not restored:", &r.errors, r.error_count);
    out
}

/// `journal, vault until 2026-11-27, 'before-upgrade', locked until ...`
pub fn held(journal: bool, hold: Option<&VaultHold>) -> String {
    let place = match (journal, hold.is_some()) {
        (true, true) => "journal, vault",
        (false, true) => "vault",
        (_, false) => return "journal".into(),
    };
    let mut text = place.to_string();
    let Some(h) = hold else { return text };
    match (&h.name, h.keep_until) {
        (Some(name), _) => {
            let _ = write!(text, " as '{}'", one_line(name));
        }
        (None, Some(until)) => {
            let _ = write!(text, " until {}", moment(until));
        }
        (None, None) => {}
    }
    if let Some(until) = h.locked_until {
        let _ = write!(text, ", locked until {}", moment(until));
    }
    text
}

/// `every 10 min for 1 h, hourly for 24 h, daily for 7 d; locked for 30 d`
pub fn retention(r: &RetentionSpec) -> String {
    let time = |s: u64| coarse(Duration::from_secs(s));
    let mut text = match r.preset {
        RetentionPreset::Aws => "aws: every 10 min for 1 h, hourly for 24 h, daily for 7 d".to_string(),
        RetentionPreset::Hbr24 => "hbr24: 24 hourly points".into(),
        RetentionPreset::Gfs => {
            "gfs: hourly for a day, daily for a week, weekly, monthly, yearly for 7 y".into()
        }
        RetentionPreset::None => "none: only what a person names".into(),
        RetentionPreset::Own => {
            let rules: Vec<String> = r
                .rules
                .iter()
                .map(|r| format!("every {} for {}", time(r.every_seconds), time(r.keep_seconds)))
                .collect();
            format!("own: {}", rules.join(", "))
        }
    };
    if r.lock_seconds > 0 {
        let _ = write!(text, "; nobody can delete a new point for {}", time(r.lock_seconds));
    }
    text
}

/// What retention and locks count by.
pub fn clock(c: &VaultClock) -> String {
    let mut out =
        format!("points and locks count by  {}\nthe site's host has         {}", c.counted, c.machine);
    if let Some(report) = &c.report {
        let _ = write!(out, "\n{}", one_line(report));
    }
    out
}

#[cfg(test)]
mod tests;
