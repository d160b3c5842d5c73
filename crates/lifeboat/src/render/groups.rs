//! Groups and their points.

use super::servers::Facts;
use super::table::{Cell, Table};
use super::text::{ago, coarse, moment, one_line};
use crate::out::Style;
use lifeboat_api::types::{Group, GroupPoint};
use lifeboat_base::WallTime;
use std::time::Duration;

fn every(g: &Group) -> String {
    match g.every_seconds {
        0 => "when asked".into(),
        s => coarse(Duration::from_secs(u64::from(s))),
    }
}

pub fn table(groups: &[Group], now: WallTime, style: Style) -> String {
    if groups.is_empty() {
        return "no groups yet; make one: lifeboat group create NAME SERVER SERVER".into();
    }
    let mut table = Table::new(["GROUP", "SERVERS", "EVERY", "LAST POINT", "TROUBLE"]);
    for g in groups {
        let last = g.latest.as_ref();
        let trouble = g.trouble.as_deref().map(one_line).unwrap_or_default();
        table.row([
            g.name.as_str().into(),
            g.servers.join(", ").into(),
            every(g).into(),
            last.map_or_else(|| "none yet".into(), |p| format!("{} ({})", p.id, ago(now, p.time))).into(),
            Cell::painted(&trouble, style.red(&trouble)),
        ]);
    }
    table.render("")
}

/// One group, a fact a line.
pub fn full(g: &Group, now: WallTime, style: Style) -> String {
    let mut out = Facts::default();
    out.fact("group", style.bold(&g.name));
    out.fact("servers", g.servers.join(", "));
    out.fact("a point every", every(g));
    out.fact("holds writes", format!("at most {} ms", g.hold_ms));
    match &g.latest {
        None => out.fact("newest point", "none yet".into()),
        Some(p) => {
            out.fact("newest point", format!("{} at {} UTC ({})", p.id, moment(p.time), ago(now, p.time)));
            for m in &p.members {
                out.fact(&format!("  {}", m.server), m.point.to_string());
            }
            out.fact("  writes held", held(p));
        }
    }
    if let Some(trouble) = &g.trouble {
        out.fact("trouble", style.red(&one_line(trouble)));
    }
    out.text()
}

fn held(p: &GroupPoint) -> String {
    format!("{}.{} ms", p.held_us / 1000, p.held_us % 1000 / 100)
}

pub fn points(points: &[GroupPoint], now: WallTime) -> String {
    if points.is_empty() {
        return "this group has no points; `lifeboat group show` says what is in the way".into();
    }
    let mut table = Table::new(["POINT", "TIME (UTC)", "AGE", ">HELD", "SERVERS"]);
    for p in points {
        let parts: Vec<String> = p.members.iter().map(|m| format!("{} {}", m.server, m.point)).collect();
        table.row([
            p.id.as_str().into(),
            moment(p.time).into(),
            ago(now, p.time).into(),
            held(p).into(),
            parts.join(", ").into(),
        ]);
    }
    table.render("")
}

#[cfg(test)]
mod tests;
