//! Checks: whether a launched machine does its job, found out from outside.
//!
//! ```text
//! tcp:PORT             the guest's own TCP accepts a connection
//! http:PORT[/PATH]     GET answers with a status below 500
//! http://HOST[:PORT]/  the same at an address this host reaches
//! serial:REGEX         a line the guest prints on its serial port matches
//! script:FILE          the script ends with 0; it finds the run's facts in its environment
//! ```
//! A check is tried until it passes, its deadline is over, or the machine has ended.

mod probe;

use super::cancel::Cancel;
use super::error::LaunchError;
use super::process::run_tool;
use super::record::RunRecord;
use super::run::RunHandle;
use lifeboat_api::types::CheckResult;
use probe::{Attempt, Target};
use regex::bytes::{Regex, RegexBuilder};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

/// Time between two tries.
const AGAIN: Duration = Duration::from_millis(250);

/// Time for one try over the network.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Longest text of a check, in bytes.
const MAX_CHECK: usize = 1024;

/// Largest compiled expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// Longest detail of a result, in bytes.
const MAX_DETAIL: usize = 1000;

/// One check, parsed.
#[derive(Debug, Clone)]
pub struct Check {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Tcp(u16),
    Http { port: u16, path: String },
    Url { host: String, port: u16, path: String },
    Serial(Regex),
    Script(PathBuf),
}

/// A check nobody can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{check}' is no check: {why}; write tcp:PORT, http:PORT/PATH, http://HOST/PATH, serial:REGEX or script:FILE"
)]
pub struct CheckSyntax {
    check: String,
    why: String,
}

impl FromStr for Check {
    type Err = CheckSyntax;

    fn from_str(s: &str) -> Result<Self, CheckSyntax> {
        let bad = |why: String| CheckSyntax { check: s.chars().take(100).collect(), why };
        if s.len() > MAX_CHECK || s.chars().any(char::is_control) {
            return Err(bad(format!("it has control characters or more than {MAX_CHECK} bytes")));
        }
        let (kind, rest) = s.split_once(':').ok_or_else(|| bad("it has no kind".into()))?;
        let kind = match kind {
            "tcp" => Kind::Tcp(port(rest).map_err(bad)?),
            "http" => match rest.strip_prefix("//") {
                Some(url) => parse_url(url).map_err(bad)?,
                None => {
                    let (number, path) = split_path(rest);
                    Kind::Http { port: port(number).map_err(bad)?, path: checked_path(path).map_err(bad)? }
                }
            },
            "serial" if !rest.is_empty() => Kind::Serial(
                RegexBuilder::new(rest)
                    .multi_line(true)
                    .crlf(true)
                    .size_limit(MAX_REGEX)
                    .build()
                    .map_err(|e| bad(e.to_string().replace('\n', " ")))?,
            ),
            "script" if Path::new(rest).is_absolute() => Kind::Script(rest.into()),
            "script" => return Err(bad("a script is named with its whole path".into())),
            "serial" => return Err(bad("the expression is empty".into())),
            other => return Err(bad(format!("'{other}' is unknown"))),
        };
        Ok(Self { text: s.into(), kind })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Check {
    /// Guest ports that must be forwarded for this check.
    pub fn ports(&self) -> Vec<u16> {
        match self.kind {
            Kind::Tcp(port) | Kind::Http { port, .. } => vec![port],
            _ => Vec::new(),
        }
    }
}

fn port(s: &str) -> Result<u16, String> {
    let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    match s.parse() {
        Ok(p) if p > 0 && digits => Ok(p),
        _ => Err(format!("'{s}' is no port")),
    }
}

fn split_path(s: &str) -> (&str, &str) {
    s.find('/').map_or((s, "/"), |at| s.split_at(at))
}

/// No spaces: the path becomes part of a request line.
fn checked_path(path: &str) -> Result<String, String> {
    if path.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(path.into())
    } else {
        Err("write the path percent-encoded".into())
    }
}

fn parse_url(url: &str) -> Result<Kind, String> {
    let (authority, path) = split_path(url);
    let (host, number) = match authority.rsplit_once(':') {
        Some((host, number)) if !host.contains(':') || host.ends_with(']') => (host, port(number)?),
        _ => (authority, 80),
    };
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    if host.is_empty() || !plain {
        return Err(format!("'{host}' is no host"));
    }
    Ok(Kind::Url { host: host.into(), port: number, path: checked_path(path)? })
}

impl RunHandle {
    /// Runs one check until it passes, `deadline` is over, the machine has ended or `cancel` is set.
    /// `took_ms` is the time from this call to the end of the try that decided.
    pub fn check(&self, check: &Check, deadline: Duration, cancel: &Cancel) -> CheckResult {
        let clock = self.inner.clock.clone();
        let started = clock.monotonic();
        let until = started + deadline;
        let mut serial = probe::SerialScan::new(self.paths.serial_log());
        let result = |passed: bool, detail: &str| CheckResult {
            check: check.text.clone(),
            passed,
            detail: bounded(detail),
            took_ms: millis(clock.monotonic().saturating_sub(started)),
        };
        loop {
            let left = until.saturating_sub(clock.monotonic());
            // Before the try: what the guest printed before its end still counts.
            let ended = self.ended_state();
            let detail = match self.attempt(check, left, &mut serial) {
                Ok(Attempt::Passed(detail)) => return result(true, &detail),
                Ok(Attempt::NotYet(detail)) => detail,
                Ok(Attempt::Never(detail)) => return result(false, &detail),
                Err(e) => e.to_string(),
            };
            if let Some(state) = ended {
                return result(false, &format!("the machine has ended: {state}; {detail}"));
            }
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return result(false, &format!("not within {:.1} s: {detail}", deadline.as_secs_f64()));
            }
            if cancel.wait(AGAIN.min(left)) {
                return result(false, &format!("cancelled: {detail}"));
            }
        }
    }

    /// Runs a script once with the run's facts in its environment.
    pub fn post_script(&self, script: &Path, deadline: Duration) -> CheckResult {
        let clock = &self.inner.clock;
        let started = clock.monotonic();
        let (passed, detail) = match self.script(script, deadline) {
            Ok(Attempt::Passed(detail)) => (true, detail),
            Ok(Attempt::NotYet(detail) | Attempt::Never(detail)) => (false, detail),
            Err(e) => (false, e.to_string()),
        };
        CheckResult {
            check: format!("script:{}", script.display()),
            passed,
            detail: bounded(&detail),
            took_ms: millis(clock.monotonic().saturating_sub(started)),
        }
    }

    fn ended_state(&self) -> Option<String> {
        match self.state() {
            Ok(s) if s.alive() && s != super::run::RunState::PoweredOff => None,
            Ok(s) => Some(s.to_string()),
            // Not readable is not ended.
            Err(_) => None,
        }
    }

    fn attempt(
        &self,
        check: &Check,
        left: Duration,
        serial: &mut probe::SerialScan,
    ) -> Result<Attempt, LaunchError> {
        let time = left.min(ATTEMPT);
        let clock = &*self.inner.clock;
        Ok(match &check.kind {
            Kind::Tcp(port) => {
                let target = self.target(&self.record()?, *port)?;
                probe::tcp(&target, time, clock, &|host_port| self.guest_side(host_port))
            }
            Kind::Http { port, path } => {
                let target = self.target(&self.record()?, *port)?;
                probe::http(&target.address(), path, time, clock)
            }
            Kind::Url { host, port, path } => probe::http(&format!("{host}:{port}"), path, time, clock),
            Kind::Serial(regex) => serial.look(regex)?,
            Kind::Script(script) => self.script(script, left)?,
        })
    }

    /// Where a guest port is reached.
    fn target(&self, record: &RunRecord, guest_port: u16) -> Result<Target, LaunchError> {
        if let Some(f) = record.forwards.iter().find(|f| f.guest_port == guest_port) {
            return Ok(Target::Forwarded(f.host_port));
        }
        match &record.spec.address {
            Some(address) => Ok(Target::Direct(format!("{address}:{guest_port}"))),
            None => Err(LaunchError::Spec(format!(
                "guest port {guest_port} is neither forwarded nor is the guest's address known"
            ))),
        }
    }

    fn guest_side(&self, host_port: u16) -> Result<super::network::GuestSide, LaunchError> {
        let table = self.live_qmp()?.human("info usernet")?;
        Ok(super::network::guest_side(&table, host_port))
    }

    fn script(&self, script: &Path, time: Duration) -> Result<Attempt, LaunchError> {
        if !script.is_file() {
            return Ok(Attempt::Never(format!("there is no script {}", script.display())));
        }
        let mut command = Command::new(script);
        command.env_clear().envs(self.facts()?).current_dir(self.paths.dir());
        for keep in ["PATH", "HOME", "LANG"] {
            if let Some(value) = std::env::var_os(keep) {
                command.env(keep, value);
            }
        }
        let end = match run_tool(&mut command, "that holds its interpreter", time, &*self.inner.clock) {
            Err(LaunchError::Tool { output, .. }) => {
                return Ok(Attempt::Never(format!("{} cannot be run: {output}", script.display())));
            }
            other => other?,
        };
        let last = end.output.lines().last().unwrap_or_default();
        let detail = if last.is_empty() { end.how() } else { format!("{}: {last}", end.how()) };
        Ok(if end.ok() { Attempt::Passed(detail) } else { Attempt::NotYet(detail) })
    }

    /// The run's facts, as scripts see them.
    ///
    /// # Errors
    /// When the directory holds no run.
    pub fn facts(&self) -> Result<Vec<(String, String)>, LaunchError> {
        let record = self.record()?;
        let spec = &record.spec;
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let address = match (&spec.address, record.forwards.is_empty()) {
            (Some(address), true) => address.clone(),
            (_, false) => "127.0.0.1".to_string(),
            (None, true) => String::new(),
        };
        let mut facts: Vec<(String, String)> = [
            ("RUN_ID", spec.run_id.to_string()),
            ("NAME", spec.name.clone()),
            ("SERVER", spec.server.clone()),
            ("POINT", spec.point.clone()),
            ("ADDRESS", address),
            ("ACCEL", record.accel.kind.name().into()),
            ("DIR", text(self.paths.dir())),
            ("SERIAL_LOG", text(&self.paths.serial_log())),
            ("QMP", text(&self.paths.monitor())),
        ]
        .into_iter()
        .map(|(k, v)| (format!("LIFEBOAT_{k}"), v))
        .collect();
        for f in &record.forwards {
            facts.push((format!("LIFEBOAT_PORT_{}", f.guest_port), f.host_port.to_string()));
        }
        Ok(facts)
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Control characters out, length bounded: this goes to screens and logs.
fn bounded(detail: &str) -> String {
    let mut out: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if out.len() > MAX_DETAIL {
        out.truncate(out.floor_char_boundary(MAX_DETAIL));
        out.push_str("...");
    }
    out
}

/// A system error in few words.
fn reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests;
