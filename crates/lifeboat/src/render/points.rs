//! Recovery points and mounts.

use super::table::Table;
use super::text::{ago, moment, one_line};
use super::vault::held;
use lifeboat_api::types::{Mount, PointInfo, PointKind};
use lifeboat_base::{WallTime, format_bytes};
use std::fmt::Write;

pub fn kind(kind: PointKind) -> &'static str {
    match kind {
        PointKind::Crash => "crash",
        PointKind::Filesystem => "filesystem",
        PointKind::Application => "application",
    }
}

pub fn table(points: &[PointInfo], now: WallTime) -> String {
    if points.is_empty() {
        return "no recovery points here; while the initial sync runs there are none yet".into();
    }
    let mut table = Table::new(["POINT", "TIME (UTC)", "AGE", "CONSISTENT", ">SIZE SINCE", "KEPT IN"]);
    for p in points {
        table.row([
            p.id.to_string().into(),
            p.time.to_jiff().strftime("%Y-%m-%d %H:%M:%S%.3f").to_string().into(),
            ago(now, p.time).into(),
            kind(p.kind).into(),
            format_bytes(p.bytes_since).into(),
            held(p.journal, p.vault.as_ref()).into(),
        ]);
    }
    table.render("")
}

/// `p1.4711 of 2026-11-20 03:14:15 (3 s ago)`
pub fn words(p: &PointInfo, now: WallTime) -> String {
    format!("{} of {} UTC ({})", p.id, moment(p.time), ago(now, p.time))
}

pub fn mounts(mounts: &[Mount]) -> String {
    if mounts.is_empty() {
        return "no mounts".into();
    }
    let mut table = Table::new(["MOUNT", "SERVER", "POINT", "ACCESS", "DISK", ">SIZE", "URI"]);
    for m in mounts {
        let access = if m.writable { "copy-on-write" } else { "read-only" };
        for d in &m.disks {
            table.row([
                m.id.as_str().into(),
                m.server.as_str().into(),
                m.point.id.to_string().into(),
                access.into(),
                format!("{} {}", d.index, one_line(&d.name)).into(),
                format_bytes(d.size).into(),
                d.uri.as_str().into(),
            ]);
        }
    }
    table.render("")
}

/// A fresh mount, and what can be done with it.
pub fn mounted(m: &Mount, now: WallTime) -> String {
    let access = if m.writable { "writable (writes are thrown away with the mount)" } else { "read-only" };
    let mut out = format!("mount {}: {} {}, {access}\n", m.id, m.server, words(&m.point, now));
    for d in &m.disks {
        let _ =
            writeln!(out, "  disk {} ({}, {}): {}", d.index, one_line(&d.name), format_bytes(d.size), d.uri);
    }
    let _ = write!(out, "end it with: lifeboat unmount {}", m.id);
    out
}
