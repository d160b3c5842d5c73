//! What a request may say, before anything looks at what it means.
//!
//! Invariant: a value that passed here is bounded in length and count, and a name that passed is safe in a path,
//! a log line and a DNS label's neighbourhood.

mod vault;

pub use vault::{backup_set, directory, hold, path_within, restore, retention};

use lifeboat_api::types::{
    ApiError, CaptureSpec, ErrorCode, GroupRequest, LaunchOverrides, LaunchSettings, ReplicationMode,
    ReplicationSpec, WatchSpec, WindowSpec,
};
use lifeboat_base::limits::{MAX_CHECKS, MAX_DISKS, MAX_GROUP, MAX_HOLD, MAX_NAME, MAX_TEXT};
use std::collections::HashSet;
use std::time::Duration;

const MAX_CPUS: u32 = 256;
const MIN_MEMORY_MIB: u64 = 32;
const MAX_MEMORY_MIB: u64 = 4 << 20;
const MAX_PORTS: usize = 64;
const MIN_WINDOW_BYTES: u64 = 1 << 20;
const MAX_WINDOW_SECONDS: u64 = 10 * 366 * 86_400;
const MAX_CHECK_SECONDS: u64 = 86_400;
const MAX_KEEP_SECONDS: u64 = 30 * 86_400;
const MAX_LOSS_SECONDS: u32 = 3600;
const MIN_SPOOL: u64 = 16 << 20;
const MAX_SPOOL: u64 = 1 << 40;
const MAX_RPO_ALARM: u32 = 30 * 86_400;
const MAX_VERIFY_HOURS: u32 = 366 * 24;
const MIN_VERIFY_RATE: u64 = 64 << 10;
const MAX_GROUP_SECONDS: u32 = 7 * 86_400;
const MIN_HOLD_MS: u32 = 10;
/// A path of a Unix socket fits into 107 bytes of its address.
const MAX_SOCKET: usize = 107;

/// A drill is kept no longer.
pub const LONGEST_KEEP: Duration = Duration::from_secs(MAX_KEEP_SECONDS);

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

/// Text from outside as an error may show it.
pub fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A name of a server, agent or token: `[a-z0-9][a-z0-9._-]{0,63}`, and not in the form of an id.
pub fn name(what: &str, text: &str) -> Result<(), ApiError> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fine = text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(legal)
        && text.bytes().all(|c| legal(c) || b"._-".contains(&c));
    if !fine {
        return Err(invalid(format!("'{}' cannot be the name of {what}", shown(text))).hint(format!(
            "use up to {MAX_NAME} lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )));
    }
    if text.len() >= 32 && uuid::Uuid::try_parse(text).is_ok() {
        return Err(
            invalid(format!("'{text}' cannot be the name of {what}")).hint("it has the form of an id")
        );
    }
    Ok(())
}

/// A free text: not empty, at most [`MAX_TEXT`] bytes, no control characters.
pub fn text(what: &str, text: &str) -> Result<(), ApiError> {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(invalid(format!("{what} must be 1 to {MAX_TEXT} bytes without control characters")));
    }
    Ok(())
}

fn absolute(what: &str, path: &str, longest: usize) -> Result<(), ApiError> {
    text(what, path)?;
    if !path.starts_with('/') || path.len() > longest {
        return Err(invalid(format!(
            "{what} '{}' must be an absolute path of at most {longest} bytes",
            shown(path)
        )));
    }
    Ok(())
}

fn distinct(what: &str, items: &[String]) -> Result<(), ApiError> {
    if items.len() > MAX_DISKS {
        return Err(invalid(format!("a server has at most {MAX_DISKS} disks")));
    }
    let mut seen = HashSet::new();
    match items.iter().find(|i| !seen.insert(i.as_str())) {
        Some(twice) => Err(invalid(format!("{what} '{}' is named twice", shown(twice)))),
        None => Ok(()),
    }
}

pub fn capture(capture: &CaptureSpec) -> Result<(), ApiError> {
    match capture {
        CaptureSpec::Mirror { qmp, disks } => {
            absolute("the QMP socket", qmp, MAX_SOCKET)?;
            disks.iter().try_for_each(|d| text("a block node name", d))?;
            distinct("the disk", disks)
        }
        CaptureSpec::Splitter { paths, listen } => {
            if paths.is_empty() {
                return Err(invalid("no disk was named").hint("name the file or block device to protect"));
            }
            paths.iter().try_for_each(|p| absolute("the disk", p, MAX_TEXT))?;
            distinct("the disk", paths)?;
            match listen.as_deref() {
                None => Ok(()),
                Some(l) => match (l.strip_prefix("unix:"), l.strip_prefix("tcp:")) {
                    (Some(path), _) => absolute("the listening socket", path, MAX_SOCKET),
                    (_, Some(address)) => text("the listening address", address),
                    _ => Err(invalid(format!("'{}' is no place to listen", shown(l)))
                        .hint("write unix:PATH or tcp:ADDRESS:PORT")),
                },
            }
        }
    }
}

pub fn window(window: &WindowSpec) -> Result<(), ApiError> {
    if !(1..=MAX_WINDOW_SECONDS).contains(&window.seconds) {
        return Err(invalid("the window must be 1 second to 10 years long"));
    }
    if window.bytes < MIN_WINDOW_BYTES {
        return Err(invalid("the window must have at least 1 MiB"));
    }
    Ok(())
}

/// How a server is replicated, by what its capture can do.
pub fn replication(r: &ReplicationSpec, capture: &CaptureSpec) -> Result<(), ApiError> {
    if r.mode == ReplicationMode::Sync && matches!(capture, CaptureSpec::Mirror { .. }) {
        return Err(invalid(
            "a mirror cannot be synchronous: QEMU's mirror does not pass the guest's flushes on",
        )
        .hint("serve the disk through a splitter: protect it with --export PATH instead of --qmp"));
    }
    if !(1..=MAX_LOSS_SECONDS).contains(&r.loss_seconds) {
        return Err(invalid(format!(
            "flushes can wait 1 to {MAX_LOSS_SECONDS} seconds for the site, not {}",
            r.loss_seconds
        )));
    }
    if r.spool_bytes != 0 && !(MIN_SPOOL..=MAX_SPOOL).contains(&r.spool_bytes) {
        return Err(invalid("a spool has 16 MiB to 1 TiB").hint("write 0 for none"));
    }
    Ok(())
}

/// How a server is watched over.
pub fn watch(w: &WatchSpec) -> Result<(), ApiError> {
    if w.rpo_alarm_seconds.is_some_and(|s| !(1..=MAX_RPO_ALARM).contains(&s)) {
        return Err(invalid("the RPO alarm is 1 second to 30 days"));
    }
    if w.verify_hours > MAX_VERIFY_HOURS {
        return Err(invalid(format!("a comparison is made every 1 to {MAX_VERIFY_HOURS} hours"))
            .hint("write 0 for never"));
    }
    verify_rate(w.verify_rate)
}

/// Bytes per second that a comparison reads.
pub fn verify_rate(rate: u64) -> Result<(), ApiError> {
    if rate != 0 && rate < MIN_VERIFY_RATE {
        return Err(invalid("a comparison reads at least 64 KiB per second").hint("write 0 for no limit"));
    }
    Ok(())
}

/// A group, but for whether its servers exist.
pub fn group(g: &GroupRequest) -> Result<(), ApiError> {
    name("a group", &g.name)?;
    if !(1..=MAX_GROUP).contains(&g.servers.len()) {
        return Err(invalid(format!("a group has 1 to {MAX_GROUP} servers, not {}", g.servers.len())));
    }
    g.servers.iter().try_for_each(|s| text("a server", s))?;
    if g.every_seconds > MAX_GROUP_SECONDS {
        return Err(invalid("a group gets a point at least every 7 days").hint("write 0 for only when asked"));
    }
    let longest = u32::try_from(MAX_HOLD.as_millis()).unwrap_or(u32::MAX);
    if !(MIN_HOLD_MS..=longest).contains(&g.hold_ms) {
        return Err(invalid(format!(
            "writes can be held for {MIN_HOLD_MS} to {longest} ms, not {}",
            g.hold_ms
        )));
    }
    Ok(())
}

pub fn launch(l: &LaunchSettings) -> Result<(), ApiError> {
    if !(1..=MAX_CPUS).contains(&l.cpus) {
        return Err(invalid(format!("a machine has 1 to {MAX_CPUS} CPUs, not {}", l.cpus)));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&l.memory_mib) {
        return Err(invalid(format!(
            "a machine has {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB of memory, not {}",
            l.memory_mib
        )));
    }
    if l.ports.len() > MAX_PORTS || l.ports.contains(&0) {
        return Err(invalid(format!("at most {MAX_PORTS} ports can be forwarded, each 1 to 65535")));
    }
    match &l.mac {
        Some(mac) if !is_mac(mac) => Err(invalid(format!("'{}' is not a MAC address", shown(mac)))
            .hint("write six bytes in hex, such as 52:54:00:12:34:56, the first one even")),
        _ => Ok(()),
    }
}

/// A unicast MAC address with colons.
fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |p: &&str| p.len() == 2 && p.bytes().all(|c| c.is_ascii_hexdigit());
    let even = |p: &str| u8::from_str_radix(p, 16).is_ok_and(|b| b & 1 == 0);
    parts.len() == 6 && parts.iter().all(hex) && even(parts[0])
}

/// The server's settings with what a request overrides, checked.
pub fn overridden(base: &LaunchSettings, o: &LaunchOverrides) -> Result<LaunchSettings, ApiError> {
    let merged = LaunchSettings {
        cpus: o.cpus.unwrap_or(base.cpus),
        memory_mib: o.memory_mib.unwrap_or(base.memory_mib),
        network: o.network.clone().unwrap_or_else(|| base.network.clone()),
        bus: o.bus.unwrap_or(base.bus),
        firmware: o.firmware.unwrap_or(base.firmware),
        ports: if o.ports.is_empty() { base.ports.clone() } else { o.ports.clone() },
        mac: o.mac.clone().or_else(|| base.mac.clone()),
    };
    launch(&merged)?;
    Ok(merged)
}

/// What a drill and a failover have in common.
pub fn checks(point: &str, checks: &[String], script: Option<&str>, seconds: u64) -> Result<(), ApiError> {
    text("the point", point)?;
    if checks.len() > MAX_CHECKS {
        return Err(invalid(format!("at most {MAX_CHECKS} checks can be run")));
    }
    checks.iter().try_for_each(|c| text("a check", c))?;
    if let Some(script) = script {
        absolute("the post script", script, MAX_TEXT)?;
    }
    if !(1..=MAX_CHECK_SECONDS).contains(&seconds) {
        return Err(invalid(format!("checks take 1 to {MAX_CHECK_SECONDS} seconds")));
    }
    Ok(())
}

pub fn keep(seconds: u64) -> Result<(), ApiError> {
    if seconds > MAX_KEEP_SECONDS {
        return Err(invalid("a drill is kept for at most 30 days"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
