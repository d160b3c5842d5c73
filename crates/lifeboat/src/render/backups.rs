//! Backups of files: sets, backups, what is in them.

use super::servers::Facts;
use super::table::{Cell, Table};
use super::text::{ago, millis, moment, one_line};
use super::vault::{held, retention};
use crate::out::Style;
use lifeboat_api::types::{Backup, BackupSetInfo, FileChangeKind, FileChanges, FileEntry, FileKind};
use lifeboat_base::{WallTime, format_bytes};
use std::fmt::Write;

/// Enough of an id to name it in a command.
pub fn short_id(id: &str) -> String {
    id.chars().take(8).collect()
}

fn host(agent: Option<&str>) -> String {
    agent.map_or_else(|| "this site".into(), one_line)
}

pub fn sets(all: &[BackupSetInfo], now: WallTime, style: Style) -> String {
    if all.is_empty() {
        return "no backup sets yet; make one: lifeboat backup create PATH".into();
    }
    let mut table = Table::new(["SET", "ON", "PATHS", "SCHEDULE", "NEXT", "LAST", ">BACKUPS", "TROUBLE"]);
    for i in all {
        let trouble = i.error.as_deref().map(one_line).unwrap_or_default();
        table.row([
            i.set.name.as_str().into(),
            host(i.set.agent.as_deref()).into(),
            i.set.paths.join(", ").into(),
            i.set.schedule.as_deref().unwrap_or("-").into(),
            i.next.map_or_else(|| "-".into(), |t| ago(now, t)).into(),
            i.last.as_ref().map_or_else(|| "none yet".into(), |b| ago(now, b.time)).into(),
            i.backups.to_string().into(),
            Cell::painted(&trouble, style.red(&trouble)),
        ]);
    }
    let mut out = table.render("");
    for i in all {
        let _ = writeln!(out, "{} keeps {}", i.set.name, retention(&i.set.retention));
    }
    out
}

pub fn table(all: &[Backup], now: WallTime) -> String {
    if all.is_empty() {
        return "no backups here; make one: lifeboat backup create PATH".into();
    }
    let mut table = Table::new([
        "BACKUP",
        "SET",
        "ON",
        "TIME (UTC)",
        "AGE",
        ">FILES",
        ">SIZE",
        ">ADDED",
        ">UNREAD",
        "KEPT",
    ]);
    for b in all {
        table.row([
            short_id(&b.id).into(),
            b.set.as_str().into(),
            host(b.agent.as_deref()).into(),
            moment(b.time).into(),
            ago(now, b.time).into(),
            b.files.to_string().into(),
            format_bytes(b.bytes).into(),
            format_bytes(b.added_bytes).into(),
            b.error_count.to_string().into(),
            held(false, Some(&b.hold)).into(),
        ]);
    }
    table.render("")
}

/// A backup that was just made.
pub fn made(b: &Backup) -> String {
    let mut out = format!(
        "backup {} of {}: {} files, {}; {} files read, {} added, {}\n",
        short_id(&b.id),
        b.set,
        b.files,
        format_bytes(b.bytes),
        b.files_read,
        format_bytes(b.added_bytes),
        millis(b.duration_ms)
    );
    unread(&mut out, b);
    out
}

fn unread(out: &mut String, b: &Backup) {
    if b.error_count == 0 {
        return;
    }
    let _ = writeln!(out, "not read: {}", b.error_count);
    for e in &b.errors {
        let _ = writeln!(out, "  {}", one_line(e));
    }
    if b.error_count > b.errors.len() as u64 {
        let _ = writeln!(out, "  and {} more", b.error_count - b.errors.len() as u64);
    }
}

pub fn full(b: &Backup, now: WallTime, style: Style) -> String {
    let mut out = Facts::default();
    out.fact("backup", format!("{}  {}", style.bold(&short_id(&b.id)), style.dim(&b.id)));
    out.fact("set", format!("{}, on {}", b.set, host(b.agent.as_deref())));
    out.fact(
        "made",
        format!("{} UTC ({}), took {}", moment(b.time), ago(now, b.time), millis(b.duration_ms)),
    );
    out.fact("paths", b.paths.iter().map(|p| one_line(p)).collect::<Vec<_>>().join(", "));
    out.fact("holds", format!("{} files, {}", b.files, format_bytes(b.bytes)));
    out.fact("added", format!("{}; {} files were read", format_bytes(b.added_bytes), b.files_read));
    out.fact("kept", held(false, Some(&b.hold)));
    let mut text = out.text();
    unread(&mut text, b);
    text
}

/// As `ls -l` shows it.
pub fn entries(all: &[FileEntry], _style: Style) -> String {
    let mut table = Table::new(["MODE", ">UID", ">GID", ">SIZE", "MODIFIED (UTC)", "NAME"]);
    for e in all {
        let name = match &e.target {
            Some(target) => format!("{} -> {}", e.name, target),
            None if e.kind == FileKind::Directory => format!("{}/", e.name),
            None => e.name.clone(),
        };
        table.row([
            mode(e).into(),
            e.uid.to_string().into(),
            e.gid.to_string().into(),
            e.size.to_string().into(),
            moment(e.modified).into(),
            name.into(),
        ]);
    }
    table.render("")
}

/// `drwxr-xr-x`
fn mode(e: &FileEntry) -> String {
    let kind = match e.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::Block => 'b',
        FileKind::Char => 'c',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = e.mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, e.mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub fn changes(all: &FileChanges, style: Style) -> String {
    if all.changes.is_empty() && !all.truncated {
        return "they are equal".into();
    }
    let mut out = String::new();
    for c in &all.changes {
        let (mark, size) = match c.change {
            FileChangeKind::Added => (style.green("+"), format_bytes(c.after)),
            FileChangeKind::Removed => (style.red("-"), format_bytes(c.before)),
            FileChangeKind::Content => {
                (style.yellow("M"), format!("{} -> {}", format_bytes(c.before), format_bytes(c.after)))
            }
            FileChangeKind::Metadata => ("U".into(), "metadata".into()),
            FileChangeKind::Type => (style.yellow("T"), "another type".into()),
        };
        let _ = writeln!(out, "{mark} {}  ({size})", one_line(&c.path));
    }
    if all.truncated {
        let _ = writeln!(
            out,
            "only the first {} differences are shown; mount both to see the rest: lifeboat backup mount",
            all.changes.len()
        );
    }
    out
}

#[cfg(test)]
mod tests;
