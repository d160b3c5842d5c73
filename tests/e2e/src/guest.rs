//! Guests: the disk built by `scripts/guest.sh`, and a QEMU that runs it.

use crate::net::Place;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::tool::{free_port, repository, run};
use crate::wait::{wait_for, wait_some};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Boot to service, on a slow machine under tcg.
pub const BOOT: Duration = Duration::from_secs(120);

/// Which guest to build.
#[derive(Debug, Clone, Default)]
pub struct GuestImage {
    witness: Option<u16>,
    size_mib: Option<u64>,
    oracle: Option<(u64, u16, String)>,
}

impl GuestImage {
    pub fn new() -> Self {
        Self::default()
    }

    /// The service tells its numbers to this port of the host QEMU runs on.
    #[must_use]
    pub fn witness(mut self, port: u16) -> Self {
        self.witness = Some(port);
        self
    }

    #[must_use]
    pub fn size_mib(mut self, size: u64) -> Self {
        self.size_mib = Some(size);
        self
    }

    /// A second disk of `mib`, written by the oracle; its ledger goes to a collector on the host's `port`.
    #[must_use]
    pub fn oracle(mut self, mib: u64, port: u16, arguments: &[&str]) -> Self {
        self.oracle = Some((mib, port, arguments.join(",")));
        self
    }

    /// Builds into `dir/NAME.img` (and `dir/NAME-data.img`); returns the disks in order.
    ///
    /// # Panics
    /// When the script fails.
    pub fn build(&self, dir: &Path, name: &str) -> Vec<PathBuf> {
        let image = dir.join(format!("{name}.img"));
        let mut command = Command::new(repository().join("scripts/guest.sh"));
        command.arg(&image).arg("--witness");
        command.arg(self.witness.map_or("none".into(), |port| format!("10.0.2.2:{port}")));
        if let Some(size) = self.size_mib {
            command.args(["--size", &size.to_string()]);
        }
        let mut disks = vec![image];
        if let Some((mib, port, arguments)) = &self.oracle {
            let data = dir.join(format!("{name}-data.img"));
            command.arg("--data").arg(&data).arg(mib.to_string());
            command.args(["--oracle", &format!("10.0.2.2:{port}"), "--oracle-args", arguments]);
            disks.push(data);
        }
        run(&mut command);
        disks
    }
}

/// A running source machine. Dropping kills it.
#[derive(Debug)]
pub struct Guest {
    pub process: Process,
    place: Place,
    qmp: PathBuf,
    serial: PathBuf,
    http: u16,
}

impl Guest {
    /// Starts QEMU (tcg: a `/dev/kvm` may be there and hang) at `place` with these raw disks, named `disk0`, `disk1`, ... in QMP.
    ///
    /// # Panics
    /// When QEMU does not answer over QMP.
    pub fn start(dir: &Path, name: &str, place: &Place, disks: &[PathBuf]) -> Self {
        let (qmp, serial) = (dir.join(format!("{name}.qmp")), dir.join(format!("{name}.serial")));
        let http = free_port();
        let mut command = place.command("qemu-system-x86_64");
        command.args(["-nodefaults", "-M", "q35,accel=tcg", "-cpu", "max", "-m", "256", "-smp", "1"]);
        command.args(["-display", "none", "-vga", "std", "-name", name]);
        command.arg("-serial").arg(format!("file:{}", serial.display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
        command.args(["-netdev", &format!("user,id=net0,hostfwd=tcp:127.0.0.1:{http}-:80")]);
        command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        for (n, disk) in disks.iter().enumerate() {
            let file = disk.display().to_string().replace(',', ",,");
            command.arg("-blockdev");
            command.arg(format!("driver=raw,node-name=disk{n},discard=unmap,file.driver=file,file.filename={file},file.discard=unmap"));
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{n},id=vd{n}")]);
        }
        let process = Process::start(name, dir, &mut command);
        let guest = Self { process, place: place.clone(), qmp, serial, http };
        drop(guest.qmp());
        guest
    }

    pub fn qmp_socket(&self) -> &Path {
        &self.qmp
    }

    /// A fresh QMP connection. QEMU serves one at a time: drop it before the product connects.
    ///
    /// # Panics
    /// When QEMU does not answer.
    pub fn qmp(&self) -> Qmp {
        wait_some("QEMU to answer over QMP", Duration::from_secs(30), || Qmp::connect(&self.qmp))
    }

    /// What the guest said on its serial console.
    pub fn serial(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// What the service answers; `None` when it does not.
    pub fn get(&self, path: &str) -> Option<String> {
        self.place.http_get(&format!("http://127.0.0.1:{}{path}", self.http))
    }

    /// The ledger's last number, as the service tells it.
    pub fn number(&self) -> Option<u64> {
        self.get("/number")?.trim().parse().ok()
    }

    /// Waits until the service answers.
    ///
    /// # Panics
    /// When it does not; the serial log is in the message.
    pub fn wait_ready(&mut self) {
        let this = std::cell::RefCell::new(self);
        wait_for("the guest's service", BOOT, || {
            let mut guest = this.borrow_mut();
            assert!(guest.process.running(), "QEMU ended:\n{}{}", guest.process.said(), guest.serial());
            guest.number().is_some()
        });
    }

    /// Waits until the ledger has passed `number`.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_number(&self, number: u64) {
        wait_for(&format!("line {number}"), BOOT, || self.number().is_some_and(|n| n >= number));
    }
}

/// The ledger in the ext4 of a guest's disk image, read without mounting, as a boot would find it: the file system's
/// journal is replayed in a copy first.
///
/// # Panics
/// When there is none.
pub fn ledger_of(image: &Path) -> Vec<u8> {
    let partition = partition_of(image);
    replay(&partition);
    run(Command::new("/usr/sbin/debugfs").args(["-R", "cat /ledger.log"]).arg(&partition)).stdout
}

/// Runs `e2fsck` on a copy of the data partition: first what it makes of the journal, then `-fn`, which must find nothing.
///
/// # Panics
/// When anything but the journal's replay was needed.
pub fn fsck(image: &Path) {
    let partition = partition_of(image);
    replay(&partition);
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&partition));
}

fn replay(partition: &Path) {
    let replay = Command::new("/usr/sbin/e2fsck").arg("-p").arg(partition).output().unwrap();
    assert!(matches!(replay.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&replay.stdout));
}

/// A copy of partition 2 beside the image.
fn partition_of(image: &Path) -> PathBuf {
    let out = image.with_extension("part2");
    let skip = format!("skip={}", DATA_AT >> 20);
    let (input, output) = (format!("if={}", image.display()), format!("of={}", out.display()));
    run(Command::new("dd").args([&input, &output, &skip, "bs=1M", "conv=sparse", "status=none"]));
    out
}

/// Where `scripts/guest.sh` puts partition 2, in bytes.
pub const DATA_AT: u64 = 41 << 20;
