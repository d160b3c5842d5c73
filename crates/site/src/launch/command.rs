//! QEMU's command line, made from a run: pure, nothing is touched here.
//!
//! What comes from outside is passed as JSON where QEMU takes JSON, and with its commas doubled
//! where it does not, so that no name or path becomes an option.

use super::record::{RunPaths, RunRecord};
use super::spec::RunDisk;
use lifeboat_api::types::{DiskBus, Network};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How long a guest waits for a mount's server that went away before it sees an error, in seconds.
const RECONNECT_SECONDS: u32 = 600;

/// How long QEMU tries to reach a mount at its start, in seconds.
const OPEN_SECONDS: u32 = 10;

/// What the host adds to a run.
#[derive(Debug, Clone, Default)]
pub(super) struct HostFacts {
    /// Per disk: its overlay still reads from the mount.
    pub needs_mount: Vec<bool>,
    /// UEFI code; the variables are in the run's directory.
    pub uefi_code: Option<PathBuf>,
    /// QEMU was built with seccomp.
    pub sandbox: bool,
}

/// Name of a disk's node in QEMU, and of its guest device.
pub(super) fn disk_node(index: usize) -> String {
    format!("disk{index}")
}

/// Name of the node that reads the mount.
pub(super) fn mount_node(index: usize) -> String {
    format!("mount{index}")
}

pub(super) fn arguments(run: &RunRecord, paths: &RunPaths, host: &HostFacts) -> Vec<String> {
    let spec = &run.spec;
    let mut args = Args(Vec::new());
    args.add("-name", format!("guest={}", escape(&spec.name)));
    args.add("-pidfile", text(&paths.pid_file()));
    let pflash = if host.uefi_code.is_some() { ",pflash0=uefi-code,pflash1=uefi-vars" } else { "" };
    args.add("-machine", format!("q35{pflash}"));
    args.add("-accel", run.accel.kind.name());
    args.add("-cpu", run.accel.kind.cpu());
    args.add("-smp", spec.cpus.to_string());
    args.add("-m", format!("{}M", spec.memory_mib));
    args.add("-rtc", "base=utc");
    // A guest that turns itself off leaves its QEMU: that tells an end from a crash, whoever looks.
    args.0.extend(["-nodefaults", "-no-user-config", "-no-shutdown"].map(String::from));
    if host.sandbox {
        args.add("-sandbox", sandbox(&spec.network));
    }
    args.add("-msg", "timestamp=on");
    args.add("-display", "none");
    args.add("-vga", "std");
    args.monitor("qmp", &paths.qmp());
    args.monitor("monitor", &paths.monitor());
    args.add(
        "-chardev",
        format!(
            "socket,id=serial0,path={},server=on,wait=off,logfile={},logappend=on",
            escape(&text(&paths.console())),
            escape(&text(&paths.serial_log()))
        ),
    );
    args.add("-serial", "chardev:serial0");
    args.device(&json!({"driver": "virtio-rng-pci", "addr": "2"}));
    if let Some(code) = &host.uefi_code {
        args.flash("uefi-code", code, true);
        args.flash("uefi-vars", &paths.uefi_vars(), false);
    }
    args.network(run);
    args.controllers(spec.bus, spec.disks.len());
    for (index, disk) in spec.disks.iter().enumerate() {
        let needs_mount = host.needs_mount.get(index).copied().unwrap_or(true);
        args.disk(index, disk, spec.bus, needs_mount, spec.disposable);
    }
    for (option, path) in [("-kernel", &spec.kernel), ("-initrd", &spec.initrd)] {
        if let Some(path) = path {
            args.add(option, text(path));
        }
    }
    if let Some(append) = &spec.append {
        args.add("-append", append.as_str());
    }
    args.0.extend(spec.extra.iter().cloned());
    args.0
}

/// The guest comes from outside: QEMU gets no more rights than it needs. A bridge needs its
/// privileged helper started.
fn sandbox(network: &Network) -> &'static str {
    match network {
        Network::Bridge(_) => "on,obsolete=deny,resourcecontrol=deny",
        _ => "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    }
}

/// SATA ports of one controller.
const SATA_PORTS: usize = 6;

struct Args(Vec<String>);

impl Args {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    fn device(&mut self, device: &Value) {
        self.add("-device", device.to_string());
    }

    fn blockdev(&mut self, node: &Value) {
        self.add("-blockdev", node.to_string());
    }

    fn monitor(&mut self, id: &str, socket: &Path) {
        self.add("-chardev", format!("socket,id={id},path={},server=on,wait=off", escape(&text(socket))));
        self.add("-mon", format!("chardev={id},mode=control"));
    }

    fn flash(&mut self, node: &str, file: &Path, read_only: bool) {
        self.blockdev(&json!({"driver": "raw", "node-name": node, "read-only": read_only,
            "file": {"driver": "file", "filename": text(file)}}));
    }

    fn network(&mut self, run: &RunRecord) {
        let backend = match &run.spec.network {
            Network::None => return,
            Network::Bridge(name) => json!({"type": "bridge", "id": "net0", "br": name}),
            user => {
                let forwards: Vec<Value> = run
                    .forwards
                    .iter()
                    .map(|f| json!({"str": format!("tcp:127.0.0.1:{}-:{}", f.host_port, f.guest_port)}))
                    .collect();
                json!({"type": "user", "id": "net0", "restrict": *user == Network::Isolated, "hostfwd": forwards})
            }
        };
        self.add("-netdev", backend.to_string());
        // Guests without virtio disks may have no virtio drivers at all.
        let card = if run.spec.bus == DiskBus::Sata { "e1000e" } else { "virtio-net-pci" };
        self.device(
            &json!({"driver": card, "id": "nic0", "netdev": "net0", "mac": run.spec.mac(), "addr": "3",
            "romfile": ""}),
        );
    }

    fn controllers(&mut self, bus: DiskBus, disks: usize) {
        match bus {
            DiskBus::Scsi => self.device(&json!({"driver": "virtio-scsi-pci", "id": "scsi0", "addr": "4"})),
            DiskBus::Sata => {
                for n in 0..disks.div_ceil(SATA_PORTS) {
                    let addr = format!("{:x}", 4 + n);
                    self.device(&json!({"driver": "ich9-ahci", "id": format!("sata{n}"), "addr": addr}));
                }
            }
            DiskBus::Virtio => {}
        }
    }

    fn disk(&mut self, index: usize, disk: &RunDisk, bus: DiskBus, needs_mount: bool, disposable: bool) {
        let (node, mount) = (disk_node(index), mount_node(index));
        if needs_mount {
            self.blockdev(&json!({"driver": "nbd", "node-name": mount, "read-only": true,
                "server": {"type": "unix", "path": text(&disk.nbd_socket)}, "export": disk.export,
                "reconnect-delay": RECONNECT_SECONDS, "open-timeout": OPEN_SECONDS}));
        }
        self.blockdev(&json!({"driver": "qcow2", "node-name": node, "discard": "unmap",
            "cache": {"no-flush": disposable},
            "file": {"driver": "file", "filename": text(&disk.overlay), "cache": {"no-flush": disposable}},
            "backing": needs_mount.then_some(mount)}));
        let mut device =
            json!({"id": format!("{node}-dev"), "drive": node, "serial": node, "bootindex": index});
        match bus {
            // Eight to a slot: there are 64 disks but only 32 slots.
            DiskBus::Virtio => {
                device["driver"] = json!("virtio-blk-pci");
                device["addr"] = json!(format!("{:x}.{}", 0x10 + index / 8, index % 8));
                device["multifunction"] = json!(true);
            }
            DiskBus::Scsi => {
                device["driver"] = json!("scsi-hd");
                device["bus"] = json!("scsi0.0");
                device["scsi-id"] = json!(index);
            }
            DiskBus::Sata => {
                device["driver"] = json!("ide-hd");
                device["bus"] = json!(format!("sata{}.{}", index / SATA_PORTS, index % SATA_PORTS));
            }
        }
        self.device(&device);
    }
}

/// Paths here were checked to be UTF-8.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A value within QEMU's comma-separated options.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests;
