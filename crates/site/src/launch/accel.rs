//! Chooses the accelerator by trying it.
//!
//! A `/dev/kvm` that opens proves little: where it is an emulation, or nested without help from
//! below, firmware still runs while an ordinary kernel would take hours. So a tiny guest does what a
//! kernel does first: a whole firmware boot, a disk read, long mode with paging, interrupts from
//! a timer, and fifty million instructions at a stretch. Even plain translation
//! does that in under a second; what does not end within the deadline is not worth booting a server on.
//!
//! The answer is kept in a file for this boot of the host and this QEMU.

use super::error::LaunchError;
use super::process::{ToolEnd, run_tool};
use super::record::{boot_id, write_whole};
use lifeboat_base::Clock;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Package of the emulator, as Debian and its kin name it.
pub(super) const QEMU_PACKAGE: &str = "qemu-system-x86";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelKind {
    Kvm,
    /// QEMU's own translation: right, but many times slower.
    Tcg,
}

impl AccelKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The processor guests get.
    pub(super) fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// The accelerator of this host, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accel {
    pub kind: AccelKind,
    pub reason: String,
}

/// What the probe needs to know.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    pub qemu: &'a Path,
    /// Usually `/dev/kvm`.
    pub device: &'a Path,
    /// Where the answer is kept.
    pub cache: &'a Path,
    pub deadline: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    boot_id: String,
    qemu: String,
    accel: Accel,
}

impl Probe<'_> {
    /// # Errors
    /// [`LaunchError::Missing`] when QEMU is not installed; a KVM that does not work is an answer.
    pub(super) fn run(&self, clock: &dyn Clock) -> Result<Accel, LaunchError> {
        let qemu = self.version(clock)?;
        let tcg = |reason: String| Accel { kind: AccelKind::Tcg, reason };
        if let Err(e) = OpenOptions::new().read(true).write(true).open(self.device) {
            let device = self.device.display();
            return Ok(tcg(match e.kind() {
                io::ErrorKind::NotFound => format!("{device} does not exist: this host offers no KVM"),
                io::ErrorKind::PermissionDenied => {
                    format!("no permission to open {device}: add the user to the group kvm")
                }
                _ => format!("{device} cannot be opened: {e}"),
            }));
        }
        let boot_id = boot_id()?;
        if let Some(accel) = self.cached(&boot_id, &qemu) {
            return Ok(accel);
        }
        let accel = self.try_guest(AccelKind::Kvm, AccelKind::Kvm.cpu(), clock)?;
        tracing::info!(kind = accel.kind.name(), reason = %accel.reason, "accelerator probed");
        let cached = Cached { boot_id, qemu, accel };
        let text = serde_json::to_vec_pretty(&cached).unwrap_or_default();
        write_whole(self.cache, &text).map_err(LaunchError::io("write", self.cache))?;
        Ok(cached.accel)
    }

    fn version(&self, clock: &dyn Clock) -> Result<String, LaunchError> {
        let end =
            run_tool(Command::new(self.qemu).arg("--version"), QEMU_PACKAGE, Duration::from_secs(20), clock)?;
        if !end.ok() {
            let what = format!("'{} --version' ({})", self.qemu.display(), end.how());
            return Err(LaunchError::Tool { what, output: end.output });
        }
        Ok(end.output.lines().next().unwrap_or_default().to_string())
    }

    /// A damaged or foreign answer is no answer.
    fn cached(&self, boot_id: &str, qemu: &str) -> Option<Accel> {
        let cached: Cached = serde_json::from_slice(&fs::read(self.cache).ok()?).ok()?;
        (cached.boot_id == boot_id && cached.qemu == qemu).then_some(cached.accel)
    }

    /// Runs the tiny guest.
    fn try_guest(&self, kind: AccelKind, cpu: &str, clock: &dyn Clock) -> Result<Accel, LaunchError> {
        let image = ProbeImage::create(self.cache)?;
        let node = serde_json::json!({"driver": "raw", "node-name": "disk", "read-only": true,
            "file": {"driver": "file", "filename": image.0}});
        let mut command = Command::new(self.qemu);
        command
            .args(["-accel", kind.name(), "-cpu", cpu, "-machine", "q35", "-m", "32"])
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-blockdev", &node.to_string(), "-device", "virtio-blk-pci,drive=disk"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
        let started = clock.monotonic();
        let end = run_tool(&mut command, QEMU_PACKAGE, self.deadline, clock)?;
        let took = clock.monotonic().saturating_sub(started).as_millis();
        Ok(judge(&end, kind, took, self.deadline))
    }
}

fn judge(end: &ToolEnd, kind: AccelKind, took_ms: u128, deadline: Duration) -> Accel {
    let tcg = |reason: String| Accel { kind: AccelKind::Tcg, reason };
    match end.status {
        Some(s) if s.code() == Some(DONE) => {
            Accel { kind, reason: format!("a guest of the probe ran in {took_ms} ms") }
        }
        Some(_) => {
            let last = end.output.lines().last().unwrap_or("it printed nothing");
            tcg(format!("KVM does not run guests here: QEMU ended the probe's ({}: {last})", end.how()))
        }
        None => tcg(format!(
            "KVM opens, but a guest of the probe hung or crawled: not done after {:.1} s",
            deadline.as_secs_f64()
        )),
    }
}

/// Exit code when the guest got to its end: it writes 0x31, and QEMU ends with twice that plus one.
const DONE: i32 = 0x31 * 2 + 1;

/// Size of the probe's disk in bytes; firmware does not boot one of a single sector.
const IMAGE: u64 = 1 << 20;

/// The probe's disk, gone when dropped.
struct ProbeImage(PathBuf);

impl ProbeImage {
    fn create(beside: &Path) -> Result<Self, LaunchError> {
        let mut name = beside.as_os_str().to_os_string();
        name.push(format!(".probe-{}", std::process::id()));
        let image = Self(name.into());
        let write = || {
            fs::write(&image.0, BOOT_SECTOR)?;
            OpenOptions::new().write(true).open(&image.0)?.set_len(IMAGE)
        };
        write().map_err(LaunchError::io("write", &image.0))?;
        Ok(image)
    }
}

impl Drop for ProbeImage {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The tiny guest: 16-bit code loaded at 0x7c00. Its tables: page tables at 0x1000, 0x2000 and
/// 0x3000 (one 2 MiB page onto itself), interrupt table at 0x4000 with the timer at vector 32.
#[rustfmt::skip]
const BOOT_SECTOR: [u8; 512] = sector(&[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // cli; ds = es = ss = 0
    0xbc, 0x00, 0x7c, 0xea, 0x11, 0x7c, 0x00, 0x00,       // sp = 0x7c00; cs = 0
    0xfc, 0xbf, 0x00, 0x10, 0xb9, 0x00, 0x14,             // clear 0x1000..0x6000
    0x66, 0x31, 0xc0, 0x66, 0xf3, 0xab,
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20,                   // page tables
    0xc7, 0x06, 0x00, 0x20, 0x03, 0x30,
    0xc6, 0x06, 0x00, 0x30, 0x83,
    0xc7, 0x06, 0x00, 0x42, 0xc4, 0x7c,                   // gate 32: tick, code segment, interrupt
    0xc7, 0x06, 0x02, 0x42, 0x08, 0x00,
    0xc6, 0x06, 0x05, 0x42, 0x8e,
    0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21,       // interrupt controller: vectors from 32,
    0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,
    0xb0, 0xfe, 0xe6, 0x21, 0xb0, 0xff, 0xe6, 0xa1,       // the timer alone let through
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0xa9, 0xe6, 0x40,       // timer: 1 kHz
    0xb0, 0x04, 0xe6, 0x40,
    0x66, 0x0f, 0x01, 0x16, 0xe8, 0x7c,                   // lgdt
    0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, // cr4: PAE
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, // cr3
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32,       // EFER: long mode
    0x0d, 0x00, 0x01, 0x0f, 0x30,
    0x0f, 0x20, 0xc0, 0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, // cr0: protection and paging
    0x0f, 0x22, 0xc0, 0xea, 0x9a, 0x7c, 0x08, 0x00,       // into 64-bit code
    0xb8, 0x10, 0x00, 0x00, 0x00, 0x8e, 0xd8, 0x8e, 0xd0, // ds = ss = data
    0x0f, 0x01, 0x1c, 0x25, 0xee, 0x7c, 0x00, 0x00,       // lidt
    0x31, 0xdb, 0xfb,                                     // ticks = 0; interrupts on
    0xb9, 0x80, 0xf0, 0xfa, 0x02, 0xff, 0xc9, 0x75, 0xfc, // count down from 50,000,000
    0xf4, 0x83, 0xfb, 0x14, 0x72, 0xfa,                   // sleep until 20 ticks came
    0xb0, 0x31, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd,             // end with 0x31
    0xff, 0xc3, 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58,       // tick: count, acknowledge
    0x48, 0xcf, 0x66, 0x90,
    0, 0, 0, 0, 0, 0, 0, 0,                               // segments: none,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00,       // 64-bit code,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x92, 0x00, 0x00,       // data
    0x17, 0x00, 0xd0, 0x7c, 0x00, 0x00,                   // segment table: 24 bytes at 0x7cd0
    0x0f, 0x02, 0x00, 0x40, 0, 0, 0, 0, 0, 0,             // interrupt table: 528 bytes at 0x4000
]);

/// Code padded to a sector that firmware takes for a boot sector.
pub(super) const fn sector(code: &[u8]) -> [u8; 512] {
    let mut out = [0; 512];
    let mut n = 0;
    while n < code.len() {
        out[n] = code[n];
        n += 1;
    }
    out[510] = 0x55;
    out[511] = 0xaa;
    out
}

#[cfg(test)]
mod tests;
