//! The one screen for three in the morning: what is wrong first, what to do next last.

use super::text::{moment, one_line, short};
use super::{admin, operations, runs, servers, vault};
use crate::out::Style;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{Health, OperationState, Run, RunKind, RunState, Server, SiteStatus, VaultState};
use lifeboat_base::format_bytes;
use std::fmt::Write;
use std::time::Duration;

/// An ended operation is shown this long.
const RECENT: Duration = Duration::from_secs(3600);

pub fn screen(s: &SiteStatus, style: Style) -> String {
    let mut out = format!(
        "{}  {} UTC  lifeboat {}  {} of {} free\n\n",
        style.bold(&s.site),
        moment(s.now),
        s.version,
        format_bytes(s.disk_free),
        format_bytes(s.disk_total)
    );
    if let Some(v) = s.vault.as_ref().filter(|v| v.state != VaultState::Off) {
        let _ = writeln!(out, "{}\n", vault::line(v, style));
    }
    if s.alarms.is_empty() {
        let _ = writeln!(out, "{}", style.green("No alarms."));
    } else {
        let _ = writeln!(out, "{}", style.red("ALARMS"));
        for alarm in &s.alarms {
            let _ = writeln!(out, "  {} {}", style.red("!"), one_line(alarm));
        }
    }
    section(&mut out, style, "SERVERS", !s.servers.is_empty(), || {
        servers::table(&s.servers, s.now, style, "  ")
    });
    for line in reasons(&s.servers) {
        let _ = writeln!(out, "  {line}");
    }
    let live: Vec<Run> = s.runs.iter().filter(|r| r.state != RunState::CleanedUp).cloned().collect();
    section(&mut out, style, "RUNS", !live.is_empty(), || runs::table(&live, s.now, style, "  "));
    let recent: Vec<_> = s
        .operations
        .iter()
        .filter(|o| o.state == OperationState::Running || o.ended.is_some_and(|e| s.now.since(e) < RECENT))
        .cloned()
        .collect();
    section(&mut out, style, "OPERATIONS", !recent.is_empty(), || {
        operations::table(&recent, s.now, style, "  ")
    });
    let away: Vec<_> = s.agents.iter().filter(|a| !a.connected && !a.revoked).cloned().collect();
    section(&mut out, style, "AGENTS NOT CONNECTED", !away.is_empty(), || {
        admin::agents(&away, s.now, style, "  ")
    });
    let next = advice(s);
    section(&mut out, style, "NEXT", !next.is_empty(), || next.iter().map(|n| format!("  {n}\n")).collect());
    out
}

fn section(out: &mut String, style: Style, title: &str, any: bool, body: impl FnOnce() -> String) {
    if any {
        let _ = write!(out, "\n{}\n{}", style.bold(title), body());
    }
}

/// Why a server is not well, in the site's words.
fn reasons(servers: &[Server]) -> Vec<String> {
    let sick = |s: &&Server| matches!(s.runtime.health, Health::Lag | Health::Stalled);
    let why = |s: &Server| s.runtime.reason.as_ref().map(|r| format!("{}: {}", s.name, one_line(r)));
    servers.iter().filter(sick).filter_map(why).collect()
}

/// What a person can do now, most urgent first.
fn advice(s: &SiteStatus) -> Vec<String> {
    let mut next = Vec::new();
    for server in &s.servers {
        next.extend(server_advice(server, &s.runs).map(|what| format!("{}: {what}", server.name)));
    }
    for op in s.operations.iter().filter(|o| o.state == OperationState::Running) {
        next.push(format!("watch the {}: lifeboat op {} --follow", operations::kind(op.kind), short(op.id)));
    }
    for run in s.runs.iter().filter(|r| r.kind == RunKind::Drill && r.state == RunState::Exited) {
        next.push(format!(
            "the drilled machine ended: lifeboat run {0}; then lifeboat cleanup {0}",
            short(run.id)
        ));
    }
    if s.agents.is_empty() {
        next.push("let an agent join: lifeboat token create --agent".into());
    } else if s.servers.is_empty() {
        next.push("protect a server: lifeboat protect NAME --agent AGENT --qmp SOCKET --wait".into());
    }
    next
}

fn server_advice(server: &Server, runs: &[Run]) -> Option<String> {
    let name = &server.name;
    let has_point = server.runtime.latest.is_some();
    if server.stale.is_some() {
        return Some(format!("is held: see what runs here and its points, then: lifeboat accept {name}"));
    }
    let unreachable = !server.runtime.connected || server.runtime.health == Health::Stalled;
    match server.state {
        ServerState::FailedOver => {
            let run = runs.iter().find(|r| Some(r.id) == server.run);
            let left = run.and_then(|r| r.hydrated_percent).filter(|p| *p < 100);
            let still = left.map(|p| format!(" (hydrated {p} %)")).unwrap_or_default();
            Some(format!(
                "runs here{still}; make it final: lifeboat commit {name}, or try another point: \
                 lifeboat failover {name} --point POINT --discard-current"
            ))
        }
        ServerState::Replicating if unreachable => Some(format!(
            "if the source is lost: lifeboat failover {name}; if it lives, see to its agent: lifeboat server {name}"
        )),
        ServerState::Initialized | ServerState::Scanning | ServerState::InitialSync if unreachable => {
            Some(format!("waits for its agent: lifeboat server {name}"))
        }
        ServerState::Stopped if has_point => Some(format!(
            "is not replicated: lifeboat resume {name}; its points can still be run: lifeboat failover {name}"
        )),
        ServerState::Stopped => Some(format!("is not replicated: lifeboat resume {name}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
