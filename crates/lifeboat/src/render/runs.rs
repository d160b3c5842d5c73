//! Runs: the list, and one with its checks and measured times.

use super::servers::{Facts, launch};
use super::table::{Cell, Table};
use super::text::{ago, maybe_millis, millis, moment, one_line, short};
use crate::out::Style;
use lifeboat_api::types::{CheckResult, Run, RunKind, RunState};
use lifeboat_base::WallTime;
use std::fmt::Write;

pub fn kind(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Drill => "drill",
        RunKind::Failover => "failover",
    }
}

fn state(run: &Run, style: Style) -> Cell {
    match run.state {
        RunState::Starting => "starting".into(),
        RunState::Running => Cell::painted("running", style.green("running")),
        RunState::Exited => Cell::painted("exited", style.red("exited")),
        RunState::CleanedUp => "cleaned up".into(),
    }
}

pub fn table(runs: &[Run], now: WallTime, style: Style, indent: &str) -> String {
    let mut table = Table::new(["RUN", "KIND", "SERVER", "POINT", "STATE", "STARTED", "ENDS", "REACH IT AT"]);
    for r in runs {
        let live = r.state != RunState::CleanedUp;
        let ends = match r.expires {
            Some(t) if live => ago(now, t),
            _ => "-".into(),
        };
        let reach = if live { forwards(r) } else { String::new() };
        table.row([
            short(r.id).into(),
            kind(r.kind).into(),
            r.server.as_str().into(),
            r.point.id.to_string().into(),
            state(r, style),
            ago(now, r.started).into(),
            ends.into(),
            reach.into(),
        ]);
    }
    table.render(indent)
}

fn forwards(run: &Run) -> String {
    let each: Vec<_> =
        run.forwards.iter().map(|f| format!("{} (port {})", f.address, f.guest_port)).collect();
    each.join(", ")
}

/// `passed  http:80/  (1.2 s)  200 OK`
pub fn check(c: &CheckResult, style: Style) -> String {
    let word = if c.passed { style.green("passed") } else { style.red("FAILED") };
    format!("{word}  {} ({}) {}", one_line(&c.check), millis(c.took_ms), one_line(&c.detail))
        .trim_end()
        .into()
}

/// One run in full.
pub fn full(run: &Run, now: WallTime, style: Style) -> String {
    let mut out = Facts::default();
    let word = format!("{} of {}", kind(run.kind), style.bold(&run.server));
    out.fact("run", format!("{word}  {}", style.dim(&run.id.to_string())));
    let state = match run.state {
        RunState::Starting => "starting",
        RunState::Running => "running",
        RunState::Exited => "exited: the machine ended by itself",
        RunState::CleanedUp => "cleaned up; only the report is left",
    };
    out.fact("state", state.into());
    out.fact("point", super::points::words(&run.point, run.started));
    out.fact("started", format!("{} UTC ({})", moment(run.started), ago(now, run.started)));
    if let (Some(t), true) = (run.expires, run.state != RunState::CleanedUp) {
        out.fact("cleans up", ago(now, t));
    }
    out.fact("machine", format!("{}, {}", launch(&run.launch), one_line(&run.acceleration)));
    for f in &run.forwards {
        out.fact(&format!("port {}", f.guest_port), format!("{} on the site's host", f.address));
    }
    if let Some(percent) = run.hydrated_percent {
        out.fact("hydrated", format!("{percent} % of the disks need the journal no more"));
    }
    for c in &run.checks {
        out.fact("check", check(c, style));
    }
    out.fact("times", times(run));
    out.fact("rpo", maybe_millis(run.rpo_ms));
    out.fact("files", one_line(&run.directory));
    let mut text = out.text();
    if run.kind == RunKind::Drill && matches!(run.state, RunState::Running | RunState::Exited) {
        let _ = writeln!(text, "\nend it with: lifeboat cleanup {}", short(run.id));
    }
    text
}

/// Measured from the request.
pub fn times(run: &Run) -> String {
    let t = &run.times;
    format!(
        "mounted after {}, started after {}, ready after {}",
        maybe_millis(t.mounted_ms),
        maybe_millis(t.started_ms),
        maybe_millis(t.ready_ms)
    )
}
