//! Protected servers: the list, and one in full.

use super::table::{Cell, Table};
use super::text::{ago, bar, coarse, maybe_millis, millis, moment, one_line, rate, short};
use crate::out::Style;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{
    CaptureSpec, Health, LaunchSettings, OnLoss, ReplicationMode, ReplicationSpec, Server, ServerRuntime,
    SyncModeState, SyncPhase, SyncProgress, SyncStatus, WatchSpec,
};
use lifeboat_base::{WallTime, format_bytes};
use std::fmt::Write;
use std::time::Duration;

/// Columns of `status` and `servers`.
pub fn table(servers: &[Server], now: WallTime, style: Style, indent: &str) -> String {
    let mut table = Table::new(["NAME", "STATE", "HEALTH", ">RPO", ">P99 1H", ">LAG", "LAST POINT", "SYNC"]);
    for s in servers {
        let r = &s.runtime;
        let replicating = s.state == ServerState::Replicating;
        let rpo = if replicating { maybe_millis(r.rpo_ms) } else { "-".into() };
        let p99 = r.rpo_hour.filter(|_| replicating).map_or_else(|| "-".into(), |h| millis(h.p99_ms));
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
            p99.into(),
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
    if server.stale.is_some() {
        return Cell::painted("held", style.red("held"));
    }
    if let Some(broken) = server.runtime.sync_mode.as_ref().filter(|_| !offline).and_then(broken_promise) {
        return Cell::painted(broken, style.red(broken));
    }
    if server.runtime.health == Health::Ready && synchronous(server) {
        return Cell::painted("ready, sync", style.green("ready, sync"));
    }
    let lag = match server.runtime.ready_in_seconds {
        Some(s) => format!("lag, ready in about {}", coarse(Duration::from_secs(s))),
        None => "lag".into(),
    };
    match server.runtime.health {
        Health::Stalled => Cell::painted("stalled", style.red("stalled")),
        _ if offline => Cell::painted("offline", style.red("offline")),
        Health::Unknown => "-".into(),
        Health::Ready => Cell::painted("ready", style.green("ready")),
        Health::Lag => Cell::painted(&lag, style.yellow(&lag)),
    }
}

/// A synchronous server that does not keep its promise, in a word.
fn broken_promise(sync: &SyncStatus) -> Option<&'static str> {
    match sync.state {
        SyncModeState::Blocked => Some("BLOCKED"),
        SyncModeState::Degraded => Some("DEGRADED"),
        SyncModeState::NotYet | SyncModeState::Synchronous | SyncModeState::Unknown => None,
    }
}

fn synchronous(server: &Server) -> bool {
    server.runtime.sync_mode.as_ref().is_some_and(|s| s.state == SyncModeState::Synchronous)
}

pub fn phase(phase: SyncPhase) -> &'static str {
    match phase {
        SyncPhase::Scan => "scan",
        SyncPhase::Full => "initial sync",
        SyncPhase::Resync => "resync",
    }
}

/// A sync of less has no rate and no end worth telling.
const RATED: u64 = 64 << 20;

/// `initial sync [####------]  40 % of 8.0 GiB, 81.0 MiB/s, 61 s left`
pub fn sync_line(sync: &SyncProgress) -> String {
    if sync.total_bytes == 0 {
        return phase(sync.phase).into();
    }
    let mut line = format!(
        "{} {} of {}",
        phase(sync.phase),
        bar(sync.done_bytes, sync.total_bytes, 10),
        format_bytes(sync.total_bytes)
    );
    // Over before a rate means anything.
    if sync.total_bytes < RATED {
        return line;
    }
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
    if let Some(why) = &server.stale {
        out.fact("held", format!("{}; then: lifeboat accept {}", one_line(why), server.name));
    }
    if let Some(s) = r.ready_in_seconds {
        out.fact("ready in", format!("about {}", coarse(Duration::from_secs(s))));
    }
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
    let spool = match r.spool_bytes {
        0 => String::new(),
        n => format!(", {} of it in the agent's spool", format_bytes(n)),
    };
    out.fact("rpo", format!("{} (lag {}{spool})", maybe_millis(r.rpo_ms), format_bytes(r.lag_bytes)));
    for (name, stats) in [("rpo, 1 h", &r.rpo_hour), ("rpo, 1 d", &r.rpo_day)] {
        if let Some(s) = stats {
            let [p50, p99, max] = [s.p50_ms, s.p99_ms, s.max_ms].map(millis);
            out.fact(name, format!("p50 {p50}, p99 {p99}, max {max}"));
        }
    }
    replication_facts(&mut out, server);
    out.fact("watch", watch(&server.watch));
    if let Some(v) = &r.verify {
        out.fact("compared", super::watch::comparison(v, now, style));
    }
    if r.branches > 0 {
        out.fact("branches", format!("{}; see them: lifeboat branches {}", r.branches, server.name));
    }
    point_facts(&mut out, r, now);
    out.fact(
        "window",
        format!(
            "{} or {}; journal is {}",
            coarse(Duration::from_secs(server.window.seconds)),
            format_bytes(server.window.bytes),
            format_bytes(r.journal_bytes)
        ),
    );
    out.fact("vault keeps", super::vault::retention(&server.retention));
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

fn point_facts(out: &mut Facts, r: &ServerRuntime, now: WallTime) {
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
}

/// What `set` left a server with.
pub fn settings(server: &Server) -> String {
    let mut out = Facts::default();
    out.fact("server", server.name.clone());
    let window = Duration::from_secs(server.window.seconds);
    out.fact("window", format!("{} or {}", coarse(window), format_bytes(server.window.bytes)));
    out.fact("replication", replication(&server.replication));
    out.fact("watch", watch(&server.watch));
    out.fact("vault keeps", super::vault::retention(&server.retention));
    out.fact("machine", launch(&server.launch));
    out.text()
}

/// `asynchronous, spool 4.0 GiB`
fn replication(r: &ReplicationSpec) -> String {
    let spool = match r.spool_bytes {
        0 => "no spool".into(),
        n => format!("spool {}", format_bytes(n)),
    };
    match (r.mode, r.on_loss) {
        (ReplicationMode::Async, _) => format!("asynchronous, {spool}"),
        (ReplicationMode::Sync, OnLoss::Block) => {
            format!("synchronous, flushes fail after {} s without this site, {spool}", r.loss_seconds)
        }
        (ReplicationMode::Sync, OnLoss::Degrade) => {
            format!("synchronous, flushes go on after {} s without this site, {spool}", r.loss_seconds)
        }
    }
}

fn replication_facts(out: &mut Facts, server: &Server) {
    out.fact("replication", replication(&server.replication));
    let Some(s) = &server.runtime.sync_mode else { return };
    let since = s.since.map(|t| format!(" since {} UTC", moment(t))).unwrap_or_default();
    let state = match s.state {
        SyncModeState::NotYet => "not yet synchronous: the copy is not complete".into(),
        SyncModeState::Synchronous => "synchronous".into(),
        SyncModeState::Blocked => format!("BLOCKED{since}: flushes wait for this site"),
        SyncModeState::Degraded => format!("DEGRADED{since}: flushes go on without this site"),
        SyncModeState::Unknown => "the agent has not said".into(),
    };
    out.fact("synchronous", state);
    if s.flushes > 0 {
        let [source, encode, site, longest] = [s.source_us, s.encode_us, s.site_us, s.longest_us].map(micros);
        out.fact(
            "flushes",
            format!("{}: source {source}, encoding {encode}, site {site}; longest {longest}", s.flushes),
        );
    }
}

fn micros(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

/// `RPO alarm by the site, compared every 7 d at 64.0 MiB/s`
fn watch(w: &WatchSpec) -> String {
    let alarm = match w.rpo_alarm_seconds {
        None => "RPO alarm by the site's limit".to_string(),
        Some(s) => format!("RPO alarm past {}", coarse(Duration::from_secs(u64::from(s)))),
    };
    match (w.verify_hours, w.verify_rate) {
        (0, _) => format!("{alarm}, compared only when asked"),
        (h, 0) => format!("{alarm}, compared every {}", coarse(Duration::from_secs(u64::from(h) * 3600))),
        (h, n) => {
            let every = coarse(Duration::from_secs(u64::from(h) * 3600));
            format!("{alarm}, compared every {every} at {}", rate(n))
        }
    }
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
