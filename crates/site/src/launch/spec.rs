//! What a run is asked to be: plain data, checked before anything is made.

use super::error::LaunchError;
use super::record::RunPaths;
use lifeboat_api::types::{DiskBus, Firmware, Network};
use lifeboat_base::RunId;
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS, MAX_NAME};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One disk: a read-only mount below, the run's own writes above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDisk {
    /// Unix socket of the mount's NBD server.
    pub nbd_socket: PathBuf,
    pub export: String,
    /// Bytes.
    pub size: u64,
    /// Where the qcow2 overlay is made.
    pub overlay: PathBuf,
}

/// A guest TCP port reachable at 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    pub guest_port: u16,
    /// `None`: a free one is chosen at the start.
    pub host_port: Option<u16>,
}

/// A run, as asked for. Saved in its directory, so that any process can take it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    pub run_id: RunId,
    /// Name of the machine, for people.
    pub name: String,
    /// Facts for checks and scripts.
    pub server: String,
    pub point: String,
    pub dir: PathBuf,
    pub disks: Vec<RunDisk>,
    pub cpus: u32,
    pub memory_mib: u64,
    pub bus: DiskBus,
    pub network: Network,
    pub forwards: Vec<Forward>,
    /// Where the guest is reached when its network is a bridge.
    pub address: Option<String>,
    /// Made from the run's id by default.
    pub mac: Option<String>,
    pub firmware: Firmware,
    /// Boots this kernel instead of the disks' boot loader.
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub append: Option<String>,
    /// Further QEMU arguments, as they are.
    pub extra: Vec<String>,
    /// The guest's flushes need not reach storage: right for drills, never for failovers.
    pub disposable: bool,
}

impl RunSpec {
    /// A one-CPU machine with 1 GiB, isolated, without disks: fill in the rest.
    pub fn new(run_id: RunId, name: &str, dir: &Path) -> Self {
        Self {
            run_id,
            name: name.into(),
            server: name.into(),
            point: String::new(),
            dir: dir.into(),
            disks: Vec::new(),
            cpus: 1,
            memory_mib: 1024,
            bus: DiskBus::Virtio,
            network: Network::Isolated,
            forwards: Vec::new(),
            address: None,
            mac: None,
            firmware: Firmware::Bios,
            kernel: None,
            initrd: None,
            append: None,
            extra: Vec::new(),
            disposable: false,
        }
    }

    /// The network card's address: as asked, or locally administered and made from the run's id.
    pub(super) fn mac(&self) -> String {
        self.mac.clone().unwrap_or_else(|| {
            let b = self.run_id.as_bytes();
            format!("52:54:00:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2])
        })
    }

    pub(super) fn validate(&self) -> Result<(), LaunchError> {
        let bad = |why: String| Err(LaunchError::Spec(why));
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return bad(format!("a name has 1 to {MAX_NAME} printable characters"));
        }
        if self.disks.is_empty() && self.kernel.is_none() {
            return bad("it has no disk".into());
        }
        if self.disks.len() > MAX_DISKS {
            return bad(format!("it has {} disks, the most is {MAX_DISKS}", self.disks.len()));
        }
        if !(1..=255).contains(&self.cpus) {
            return bad(format!("{} CPUs asked for, 1 to 255 are possible", self.cpus));
        }
        if !(16..=64 << 20).contains(&self.memory_mib) {
            return bad(format!(
                "{} MiB of memory asked for, 16 MiB to 64 TiB are possible",
                self.memory_mib
            ));
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.append.is_some()) {
            return bad("an initrd or a kernel command line needs a kernel".into());
        }
        self.validate_disks()?;
        self.validate_network()?;
        for socket in RunPaths::new(&self.dir).sockets() {
            if socket.as_os_str().len() > 107 {
                return bad(format!(
                    "{} is too long for a socket; use a shorter directory",
                    socket.display()
                ));
            }
        }
        Ok(())
    }

    fn validate_disks(&self) -> Result<(), LaunchError> {
        let mut overlays = BTreeSet::new();
        for (n, disk) in self.disks.iter().enumerate() {
            if disk.size == 0 || disk.size > MAX_DISK || disk.size % 512 != 0 {
                return Err(LaunchError::Spec(format!(
                    "disk {n} has {} bytes; a disk is a multiple of 512 bytes, up to 1 PiB",
                    disk.size
                )));
            }
            if !overlays.insert(&disk.overlay) {
                return Err(LaunchError::Spec(format!("two disks share {}", disk.overlay.display())));
            }
        }
        let paths = self.disks.iter().flat_map(|d| [&d.nbd_socket, &d.overlay]);
        for path in paths.chain([&self.dir]).chain(&self.kernel).chain(&self.initrd) {
            if path.to_str().is_none() || !path.is_absolute() {
                let why = format!("{} must be an absolute path in UTF-8", path.display());
                return Err(LaunchError::Spec(why));
            }
        }
        Ok(())
    }

    fn validate_network(&self) -> Result<(), LaunchError> {
        let bad = |why: String| Err(LaunchError::Spec(why));
        if let Network::Bridge(name) = &self.network
            && Network::try_from(format!("bridge:{name}")).is_err()
        {
            return bad(format!("'{name}' is not the name of a bridge"));
        }
        if !self.forwards.is_empty() && !matches!(self.network, Network::Isolated | Network::User) {
            return bad("ports are forwarded on the isolated and the user network only".into());
        }
        let mut guest = BTreeSet::new();
        for f in &self.forwards {
            if f.guest_port == 0 || f.host_port == Some(0) || !guest.insert(f.guest_port) {
                return bad(format!("port {} cannot be forwarded: zero, or named twice", f.guest_port));
            }
        }
        if let Some(mac) = &self.mac {
            let parts: Option<Vec<u8>> = mac.split(':').map(hex_byte).collect();
            if !parts.is_some_and(|p| p.len() == 6 && p[0] & 1 == 0) {
                return bad(format!(
                    "'{mac}' is not a network card's address; write for example 52:54:00:12:34:56"
                ));
            }
        }
        Ok(())
    }
}

fn hex_byte(s: &str) -> Option<u8> {
    let digits = s.len() == 2 && s.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(s, 16).ok())?
}

#[cfg(test)]
mod tests;
