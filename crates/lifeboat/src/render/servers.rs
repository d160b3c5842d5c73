//! Protected servers: the list, and one in full.

use super::table::{Cell, Table};
use super::text::{ago, bar, coarse, maybe_millis, moment, one_line, rate, short};
use crate::out::Style;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{CaptureSpec, Health, LaunchSettings, Server, SyncPhase, SyncProgress};
use lifeboat_base::{WallTime, format_bytes};
use std::fmt::Write;
use std::time::Duration;

/// Columns of `status` and `servers`.
pub fn table(servers: &[Server], now: WallTime, style: Style, indent: &str) -> String {
    let mut table = Table::new(["NAME", "STATE", "HEALTH", ">RPO", ">LAG", "LAST POINT", "SYNC"]);
    for s in servers {
        let r = &s.runtime;
        let replicating = s.state == ServerState::Replicating;
        let rpo = if replicating { maybe_millis(r.rpo_ms) } else { "-".into() };
        let lag = if s.state.wants_capture() { format_bytes(r.lag_bytes) } else { "-".into() };
        let last = r
            .latest
            .as_ref()
            .map_or_else(|| "-".into(), |p| format!("{} ({})", moment(p.time), ago(now, p.time)));
        let sync = r.sync.as_ref().map(sync_line).unwrap_or_default();
        table.row([
            s.name.as_str().into(),
            s.state.name().into(),
            health(s, style),
            rpo.into(),
            lag.into(),
            last.into(),
            sync.into(),
        ]);
    }
    table.render(indent)
}

/// `ready`, `lag`, `stalled`, `offline` (no agent session while there should be one) or `-`.
fn health(server: &Server, style: Style) -> Cell {
    let offline = server.state.wants_capture() && !server.runtime.connected;
    match server.runtime.health {
        Health::Stalled => Cell::painted("stalled", style.red("stalled")),
        _ if offline => Cell::painted("offline", style.red("offline")),
        Health::Unknown => "-".into(),
        Health::Ready => Cell::painted("ready", style.green("ready")),
        Health::Lag => Cell::painted("lag", style.yellow("lag")),
    }
}

pub fn phase(phase: SyncPhase) -> &'static str {
    match phase {
        SyncPhase::Scan => "scan",
        SyncPhase::Full => "initial sync",
        SyncPhase::Resync => "resync",
    }
}

/// `initial sync [####------]  40 % of 8.0 GiB, 81.0 MiB/s, 61 s left`
pub fn sync_line(sync: &SyncProgress) -> String {
    let mut line = format!(
        "{} {} of {}",
        phase(sync.phase),
        bar(sync.done_bytes, sync.total_bytes, 10),
        format_bytes(sync.total_bytes)
    );
    if sync.rate > 0 {
        let _ = write!(line, ", {}", rate(sync.rate));
    }
    if let Some(eta) = sync.eta_seconds {
        let _ = write!(line, ", {} left", coarse(Duration::from_secs(eta)));
    }
    line
}

/// One server, a fact a line.
pub fn full(server: &Server, now: WallTime, style: Style) -> String {
    let mut out = Facts::default();
    let r = &server.runtime;
    out.fact("server", format!("{}  {}", style.bold(&server.name), style.dim(&server.id.to_string())));
    out.fact("state", format!("{}, epoch {}", server.state, server.epoch));
    out.fact("protected", format!("{} UTC ({})", moment(server.created), ago(now, server.created)));
    let mut condition = health_word(server).to_string();
    if let Some(reason) = &r.reason {
        let _ = write!(condition, ": {}", one_line(reason));
    }
    out.fact("health", condition);
    let link = if r.connected { "connected" } else { "not connected" };
    out.fact("agent", format!("{} ({link})", server.agent_name));
    out.fact("capture", capture(server));
    let disks = if server.disks.is_empty() { &r.disks } else { &server.disks };
    for d in disks {
        out.fact(&format!("disk {}", d.index), format!("{}, {}", one_line(&d.name), format_bytes(d.size)));
    }
    for uri in &r.exports {
        out.fact("export", one_line(uri));
    }
    if let Some(sync) = &r.sync {
        out.fact("sync", sync_line(sync));
    }
    out.fact("rpo", format!("{} (lag {})", maybe_millis(r.rpo_ms), format_bytes(r.lag_bytes)));
    if let (Some(oldest), Some(latest)) = (&r.oldest, &r.latest) {
        out.fact(
            "newest point",
            format!("{} at {} ({})", latest.id, moment(latest.time), ago(now, latest.time)),
        );
        out.fact(
            "oldest point",
            format!("{} at {} ({})", oldest.id, moment(oldest.time), ago(now, oldest.time)),
        );
    } else {
        out.fact("points", "none yet".into());
    }
    out.fact(
        "window",
        format!(
            "{} or {}; journal is {}",
            coarse(Duration::from_secs(server.window.seconds)),
            format_bytes(server.window.bytes),
            format_bytes(r.journal_bytes)
        ),
    );
    out.fact(
        "received",
        format!("{} for {} of content", format_bytes(r.received_bytes), format_bytes(r.content_bytes)),
    );
    out.fact("machine", launch(&server.launch));
    if let Some(run) = server.run {
        out.fact("runs as", short(run));
    }
    out.text()
}

fn health_word(server: &Server) -> &'static str {
    match server.runtime.health {
        Health::Unknown => "not judged",
        Health::Ready => "ready",
        Health::Lag => "lag",
        Health::Stalled => "stalled",
    }
}

fn capture(server: &Server) -> String {
    let how = match &server.capture {
        CaptureSpec::Mirror { qmp, disks } if disks.is_empty() => {
            format!("mirror by {qmp}, every writable disk")
        }
        CaptureSpec::Mirror { qmp, disks } => format!("mirror by {qmp}, {}", disks.join(", ")),
        CaptureSpec::Splitter { paths, .. } => format!("splitter over {}", paths.join(", ")),
    };
    match server.runtime.capture.as_str() {
        "" => one_line(&how),
        now => one_line(&format!("{how}; {now}")),
    }
}

/// `2 cpus, 1.0 GiB, network isolated, virtio, bios`
pub fn launch(l: &LaunchSettings) -> String {
    let cpus = if l.cpus == 1 { "1 cpu".into() } else { format!("{} cpus", l.cpus) };
    let bus = format!("{:?}", l.bus).to_lowercase();
    let firmware = format!("{:?}", l.firmware).to_lowercase();
    let network = String::from(l.network.clone());
    format!("{cpus}, {}, network {network}, {bus}, {firmware}", format_bytes(l.memory_mib << 20))
}

/// Lines of `name  value` with the names padded to one width.
#[derive(Debug, Default)]
pub struct Facts(Vec<(String, String)>);

impl Facts {
    pub fn fact(&mut self, name: &str, value: String) {
        self.0.push((name.into(), value));
    }

    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(n, _)| n.len()).max().unwrap_or_default();
        self.0.iter().fold(String::new(), |mut out, (name, value)| {
            let _ = writeln!(out, "{name:width$}  {value}");
            out
        })
    }
}

#[cfg(test)]
mod tests;
