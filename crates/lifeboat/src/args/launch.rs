//! Flags that say how a recovered machine is built.

use super::values::mebibytes;
use clap::Args;
use lifeboat_api::types::{DiskBus, Firmware, LaunchOverrides, LaunchSettings, Network};

const MACHINE: &str = "Recovered machine";

#[derive(Debug, Clone, Default, Args)]
pub struct LaunchArgs {
    /// Virtual processors
    #[arg(help_heading = MACHINE, long, visible_alias = "cpu", value_parser = clap::value_parser!(u32).range(1..=255), value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory, for example 2GiB
    #[arg(help_heading = MACHINE, long, value_parser = mebibytes, value_name = "SIZE")]
    pub memory: Option<u64>,
    /// isolated, user (outgoing connections work), none, or bridge:NAME
    #[arg(help_heading = MACHINE, long, value_parser = network)]
    pub network: Option<Network>,
    /// Disk controller: virtio, scsi or sata
    #[arg(help_heading = MACHINE, long, value_parser = bus)]
    pub bus: Option<DiskBus>,
    /// bios or uefi
    #[arg(help_heading = MACHINE, long, value_parser = firmware)]
    pub firmware: Option<Firmware>,
    /// Guest TCP port to reach from the site's host; may be repeated
    #[arg(help_heading = MACHINE, long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// MAC address of the network card
    #[arg(help_heading = MACHINE, long)]
    pub mac: Option<String>,
}

fn network(text: &str) -> Result<Network, String> {
    Network::try_from(text.to_string())
}

fn bus(text: &str) -> Result<DiskBus, String> {
    match text {
        "virtio" => Ok(DiskBus::Virtio),
        "scsi" => Ok(DiskBus::Scsi),
        "sata" => Ok(DiskBus::Sata),
        _ => Err("write virtio, scsi or sata".into()),
    }
}

fn firmware(text: &str) -> Result<Firmware, String> {
    match text {
        "bios" => Ok(Firmware::Bios),
        "uefi" => Ok(Firmware::Uefi),
        _ => Err("write bios or uefi".into()),
    }
}

impl LaunchArgs {
    /// What these flags change of a server's own settings.
    pub fn overrides(&self) -> LaunchOverrides {
        LaunchOverrides {
            cpus: self.cpus,
            memory_mib: self.memory,
            network: self.network.clone(),
            bus: self.bus,
            firmware: self.firmware,
            ports: self.ports.clone(),
            mac: self.mac.clone(),
        }
    }

    /// These flags over `base`, as a server's own settings.
    pub fn over(&self, base: &LaunchSettings) -> LaunchSettings {
        LaunchSettings {
            cpus: self.cpus.unwrap_or(base.cpus),
            memory_mib: self.memory.unwrap_or(base.memory_mib),
            network: self.network.clone().unwrap_or_else(|| base.network.clone()),
            bus: self.bus.unwrap_or(base.bus),
            firmware: self.firmware.unwrap_or(base.firmware),
            ports: if self.ports.is_empty() { base.ports.clone() } else { self.ports.clone() },
            mac: self.mac.clone().or_else(|| base.mac.clone()),
        }
    }
}
