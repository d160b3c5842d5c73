//! How a recovered machine is built.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a recovered machine is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchSettings {
    pub cpus: u32,
    pub memory_mib: u64,
    pub network: Network,
    pub bus: DiskBus,
    pub firmware: Firmware,
    /// Guest TCP ports to reach from this site's host, on loopback. Ports of checks are added.
    pub ports: Vec<u16>,
    /// MAC address of the network card; made from the run's id by default.
    pub mac: Option<String>,
}

impl Default for LaunchSettings {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory_mib: 1024,
            network: Network::Isolated,
            bus: DiskBus::Virtio,
            firmware: Firmware::Bios,
            ports: Vec::new(),
            mac: None,
        }
    }
}

/// Written `isolated`, `user`, `none` or `bridge:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Network {
    /// The guest reaches nothing; the site reaches its forwarded ports.
    Isolated,
    /// Outgoing connections are translated to the site's host.
    User,
    None,
    Bridge(String),
}

impl utoipa::PartialSchema for Network {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        String::schema()
    }
}

impl ToSchema for Network {}

impl TryFrom<String> for Network {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        match s.as_str() {
            "isolated" => Ok(Self::Isolated),
            "user" => Ok(Self::User),
            "none" => Ok(Self::None),
            _ => match s.strip_prefix("bridge:") {
                Some(b)
                    if !b.is_empty()
                        && b.len() <= 15
                        && b.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) =>
                {
                    Ok(Self::Bridge(b.into()))
                }
                _ => Err(format!("'{s}' is not a network; write isolated, user, none or bridge:NAME")),
            },
        }
    }
}

impl From<Network> for String {
    fn from(n: Network) -> String {
        match n {
            Network::Isolated => "isolated".into(),
            Network::User => "user".into(),
            Network::None => "none".into(),
            Network::Bridge(b) => format!("bridge:{b}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    Virtio,
    Scsi,
    Sata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    Bios,
    Uefi,
}
