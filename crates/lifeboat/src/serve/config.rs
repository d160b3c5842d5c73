//! `site.toml`: what an operator decides about a site. Plain data; unknown keys are refused.

pub mod vault;

use self::vault::Vault;
use super::state::CONFIG;
use crate::args::InitArgs;
use crate::args::vault::AttachArgs;
use crate::failure::{Exit, Failure, Outcome};
use lifeboat_base::limits::MAX_NAME;
use lifeboat_site::launch::AccelKind;
use serde::Deserialize;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// Largest `site.toml` read, in bytes.
const MAX_CONFIG: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    pub name: String,
    /// Host names and addresses by which this site is reached; the first is told to agents.
    #[serde(default)]
    pub advertise: Vec<String>,
    #[serde(default)]
    pub api: Api,
    #[serde(default)]
    pub replication: Replication,
    #[serde(default)]
    pub machines: Machines,
    #[serde(default)]
    pub alarms: Alarms,
    #[serde(default)]
    pub vault: Vault,
    #[serde(default)]
    pub log: Log,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    pub listen: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replication {
    pub listen: SocketAddr,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machines {
    pub acceleration: Acceleration,
}

/// How recovered machines are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// A tiny guest tries `kvm`, with a deadline.
    #[default]
    Probe,
    Kvm,
    Tcg,
}

impl Acceleration {
    /// What is to be used without trying; `None` means to try.
    pub fn forced(self) -> Option<AccelKind> {
        match self {
            Self::Probe => None,
            Self::Kvm => Some(AccelKind::Kvm),
            Self::Tcg => Some(AccelKind::Tcg),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alarms {
    /// A server whose RPO is over this is an alarm.
    pub rpo_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: String,
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::new(ANY, 8443) }
    }
}

impl Default for Replication {
    fn default() -> Self {
        Self { listen: SocketAddr::new(ANY, 1500) }
    }
}

impl Default for Alarms {
    fn default() -> Self {
        Self { rpo_seconds: 60 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into() }
    }
}

impl SiteConfig {
    /// Reads `site.toml` of a state directory.
    ///
    /// # Errors
    /// When there is none, or it is not right; the error names file, line and key.
    pub fn load(dir: &Path) -> Outcome<Self> {
        let path = dir.join(CONFIG);
        match fs::metadata(&path) {
            Ok(m) if m.len() > MAX_CONFIG => {
                return Err(Failure::usage(format!("{} is longer than {MAX_CONFIG} bytes", path.display())));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::new(Exit::NotFound, format!("there is no site in {}", dir.display()))
                    .hint(format!(
                        "make one: lifeboat init {}, or name another directory with --dir",
                        dir.display()
                    )));
            }
            _ => {}
        }
        let text = fs::read_to_string(&path)
            .map_err(|e| Failure::io(format_args!("read {}", path.display()), &e))?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, file: &str) -> Outcome<Self> {
        let config: Self = toml::from_str(text).map_err(|e| {
            Failure::usage(format!("{}: {}", place(&e, text, file), e.message().trim()))
                .hint("correct that line; every key is explained in the file that `lifeboat init` writes")
        })?;
        config.check().map_err(|(key, why)| {
            let line = text.lines().position(|l| l.trim_start().starts_with(last_part(key)));
            let place = line.map_or_else(|| file.to_string(), |l| format!("{file}:{}", l + 1));
            Failure::usage(format!("{place}: {key}: {why}")).hint("correct that line")
        })?;
        Ok(config)
    }

    /// Values that are well-formed and still impossible, with their key.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return Err(("name", format!("must be 1 to {MAX_NAME} characters")));
        }
        if let Some(bad) = self.advertise.iter().find(|h| !is_host(h)) {
            return Err((
                "advertise",
                format!("'{bad}' is no host name or address (write it without a port)"),
            ));
        }
        if self.api.listen == self.replication.listen && self.api.listen.port() != 0 {
            return Err(("replication.listen", "is the same as api.listen".into()));
        }
        if self.alarms.rpo_seconds == 0 {
            return Err(("alarms.rpo_seconds", "must be at least 1".into()));
        }
        self.vault.check()
    }

    /// A site made of a vault and its recovery kit.
    ///
    /// # Errors
    /// When a flag's value is impossible.
    pub fn from_attach(args: &AttachArgs, name: &str) -> Outcome<Self> {
        let config = Self {
            name: args.name.clone().unwrap_or_else(|| name.to_string()),
            advertise: args.advertise.clone(),
            api: Api { listen: args.listen_api },
            replication: Replication { listen: args.listen_replication },
            machines: Machines::default(),
            alarms: Alarms::default(),
            vault: Vault::from_args(Some(&args.location), &args.place)?,
            log: Log::default(),
        };
        config.check().map_err(|(key, why)| Failure::usage(format!("{key}: {why}")))?;
        Ok(config)
    }

    /// # Errors
    /// When a flag's value is impossible.
    pub fn from_init(args: &InitArgs) -> Outcome<Self> {
        let config = Self {
            name: args.name.clone(),
            advertise: args.advertise.clone(),
            api: Api { listen: args.listen_api },
            replication: Replication { listen: args.listen_replication },
            machines: Machines::default(),
            alarms: Alarms::default(),
            vault: Vault::from_args(args.vault.as_deref(), &args.place)?,
            log: Log::default(),
        };
        config.check().map_err(|(key, why)| Failure::usage(format!("{key}: {why}")))?;
        Ok(config)
    }

    /// `https://HOST:PORT` for people: the first advertised name, or where the API listens.
    pub fn api_url(&self) -> String {
        let ip = self.api.listen.ip();
        let host = match self.advertise.first() {
            Some(host) => host.clone(),
            None if ip.is_unspecified() => "localhost".into(),
            None => ip.to_string(),
        };
        format!("https://{}:{}", bracketed(&host), self.api.listen.port())
    }

    /// The host that agents are told; empty where they use the address they joined through.
    pub fn advertised_host(&self) -> String {
        self.advertise.first().map(|h| bracketed(h)).unwrap_or_default()
    }

    /// The commented file that `init` writes.
    pub fn to_text(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let advertise: Vec<_> = self.advertise.iter().map(|h| quoted(h)).collect();
        format!(
            "\
# Lifeboat site. Read when `lifeboat serve` starts; unknown keys are refused.

# Name of the site, shown to people.
name = {name}

# Host names and addresses by which agents and people reach this site, without ports. They stand in
# the site's certificate; the first is told to agents. Empty: the address an agent joined through.
advertise = [{advertise}]

[api]
# Where the control API listens.
listen = \"{api}\"

[replication]
# Where replication sessions of agents arrive.
listen = \"{replication}\"

[machines]
# How recovered machines are run: kvm, tcg (emulation, slow), or probe: try kvm with a tiny guest and a
# deadline, and fall back to tcg.
acceleration = \"{acceleration}\"

[alarms]
# A server whose measured RPO is over this many seconds is an alarm.
rpo_seconds = {rpo}

{vault}
[log]
# error, warn, info, debug, trace, or a filter such as \"info,lifeboat_site=debug\".
# RUST_LOG and --log win over it.
level = {level}
",
            name = quoted(&self.name),
            advertise = advertise.join(", "),
            api = self.api.listen,
            replication = self.replication.listen,
            acceleration = self.machines.acceleration.name(),
            rpo = self.alarms.rpo_seconds,
            vault = self.vault.to_text(),
            level = quoted(&self.log.level),
        )
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.into() }
}

/// `FILE:LINE: KEY`, as far as the error tells. What is missing stands on no line.
fn place(e: &toml::de::Error, text: &str, file: &str) -> String {
    let start =
        e.span().map(|s| s.start.min(text.len())).filter(|_| !e.message().starts_with("missing field"));
    let Some(start) = start else { return file.to_string() };
    let line = text[..start].matches('\n').count();
    let key = text.lines().nth(line).and_then(|l| l.split_once('=')).map(|(key, _)| key.trim());
    match key.filter(|k| !k.is_empty() && !e.message().contains(&format!("`{k}`"))) {
        Some(key) => format!("{file}:{}: {key}", line + 1),
        None => format!("{file}:{}", line + 1),
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// A DNS name or an IP address, without port or scheme.
fn is_host(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

#[cfg(test)]
mod tests;
