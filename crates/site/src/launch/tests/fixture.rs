//! A site with mounts, each a real NBD server over an image with a tiny guest on it.
//!
//! The guest prints `lifeboat ok`, writes a sector, then for ever reads the first sector of the next
//! 32 KiB and prints its first byte. The image holds one letter per 32 KiB, in order: what the
//! guest prints proves which bytes it read.

use super::super::accel::{AccelKind, sector};
use super::super::*;
use lifeboat_api::types::CheckResult;
use lifeboat_base::{Clock, RunId, SystemClock, SystemEntropy};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

/// More than anything here takes, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

const SIZE: usize = 16 << 20;

/// Letters stand for 32 KiB each.
const STEP: usize = 32 << 10;

/// 16-bit code at 0x7c00.
#[rustfmt::skip]
const GUEST: [u8; 512] = sector(&[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // cli; ds = es = ss = 0
    0xbc, 0x00, 0x7c, 0xea, 0x11, 0x7c, 0x00, 0x00,       // sp = 0x7c00; cs = 0
    0xfb, 0xfc, 0xbe, 0x7f, 0x7c, 0xe8, 0x4a, 0x00,       // sti; print the greeting
    0xb4, 0x43, 0xe8, 0x3b, 0x00, 0xbe, 0x8d, 0x7c,       // write sector 8
    0x73, 0x03, 0xbe, 0x95, 0x7c, 0xe8, 0x3a, 0x00,       // print whether that worked
    0xc7, 0x06, 0xa4, 0x7c, 0x00, 0x80,                   // from now on into 0x8000
    0x66, 0xc7, 0x06, 0xa8, 0x7c, 0x10, 0x00, 0x00, 0x00, // from sector 16
    0xb4, 0x42, 0xe8, 0x1c, 0x00, 0xa0, 0x00, 0x80,       // read; its first byte,
    0x73, 0x02, 0xb0, 0x21, 0xe8, 0x27, 0x00,             // or '!', is printed
    0x66, 0x83, 0x06, 0xa8, 0x7c, 0x40,                   // 64 sectors on,
    0x66, 0x81, 0x26, 0xa8, 0x7c, 0xff, 0x7f, 0x00, 0x00, // round at 16 MiB
    0xf4, 0xeb, 0xdf,                                     // sleep a tick, again
    0xb2, 0x80, 0xb0, 0x00, 0xbe, 0xa0, 0x7c, 0xcd, 0x13, 0xc3, // disk: int 0x13
    0xac, 0x84, 0xc0, 0x74, 0x05, 0xe8, 0x03, 0x00, 0xeb, 0xf6, 0xc3, // print a text
    0x88, 0xc3, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, // print a byte when the
    0x88, 0xd8, 0xba, 0xf8, 0x03, 0xee, 0xc3,             // serial port is ready
    b'l', b'i', b'f', b'e', b'b', b'o', b'a', b't', b' ', b'o', b'k', 13, 10, 0,
    b'w', b'r', b'o', b't', b'e', 13, 10, 0,
    b'n', b'o', b' ', b'w', b'r', b'i', b't', b'e', 13, 10, 0,
    0x10, 0x00, 0x01, 0x00, 0xb0, 0x7c, 0x00, 0x00,       // disk request: one sector, address,
    0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,       // number
    b'w', b'r', b'i', b't', b't', b'e', b'n', b' ', b'b', b'y', b' ', b't', b'h', b'e', b' ',
    b'g', b'u', b'e', b's', b't',
]);

/// A directory with everything in it; its machines end with it.
pub struct Site {
    dir: tempfile::TempDir,
    runs: Mutex<Vec<RunHandle>>,
    servers: Mutex<Vec<Option<Child>>>,
}

pub fn settings(dir: &Path) -> LauncherSettings {
    let mut settings = LauncherSettings::new(dir);
    settings.force_accel = Some(AccelKind::Tcg);
    settings.start_deadline = LONG;
    settings.qmp_timeout = LONG;
    settings
}

pub fn with(settings: LauncherSettings) -> Launcher {
    Launcher::new(settings, Arc::new(SystemClock))
}

pub fn launcher(dir: &Path) -> Launcher {
    with(settings(dir))
}

impl Site {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runs: Mutex::default(), servers: Mutex::default() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub fn launcher(&self) -> Launcher {
        launcher(self.dir())
    }

    pub fn spec(&self, mounts: &[&Mount<'_>]) -> RunSpec {
        let mut spec = RunSpec::new(RunId::random(&SystemEntropy), "web-1", &self.path("run"));
        spec.memory_mib = 64;
        spec.disposable = true;
        spec.disks = mounts
            .iter()
            .enumerate()
            .map(|(n, m)| RunDisk {
                nbd_socket: m.socket.clone(),
                export: "disk0".into(),
                size: SIZE as u64,
                overlay: self.path("run").join(format!("disk{n}.qcow2")),
            })
            .collect();
        // So that a test that fails ends its machine too.
        self.runs.lock().unwrap().push(self.unstarted(&spec.dir));
        spec
    }

    fn unstarted(&self, dir: &Path) -> RunHandle {
        self.launcher().handle(dir)
    }

    pub fn launch(&self, spec: &RunSpec) -> RunHandle {
        self.launcher().launch(spec).unwrap()
    }

    pub fn adopt(&self, dir: &Path) -> RunHandle {
        self.launcher().adopt(dir).unwrap()
    }

    pub fn script(&self, body: &str) -> PathBuf {
        let n = fs::read_dir(self.dir()).unwrap().count();
        let path = self.path(&format!("script {n}.sh"));
        // Written by a process of its own: while this one holds the file open for writing, a process
        // another test starts may inherit it, and running the script would fail.
        let text = format!("#!/bin/sh\n{body}\n");
        let made = Command::new("/bin/sh")
            .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &text])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for run in self.runs.lock().unwrap().drain(..) {
            if std::thread::panicking() {
                let log = String::from_utf8_lossy(&run.serial_tail(2000).unwrap_or_default()).into_owned();
                eprintln!(
                    "--- serial ---\n{log}\n--- qemu ---\n{}",
                    super::super::start::tail(&run.paths().qemu_log())
                );
            }
            if run.record().is_ok() {
                run.stop(Duration::ZERO).unwrap();
            }
        }
        // After the machines: one that waits for its mount ends late.
        for server in self.servers.get_mut().unwrap().iter_mut().flatten() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
}

/// A read-only NBD export of an image with the guest on it.
pub struct Mount<'a> {
    pub image: PathBuf,
    pub socket: PathBuf,
    site: &'a Site,
    /// Its server's place at the site.
    server: usize,
}

impl<'a> Mount<'a> {
    pub fn serve(site: &'a Site, name: &str) -> Self {
        let image = site.path(&format!("{name}.img"));
        let mut bytes = vec![0; SIZE];
        for (n, step) in bytes.chunks_mut(STEP).enumerate() {
            step.fill(letter(n));
        }
        bytes[..512].copy_from_slice(&GUEST);
        fs::write(&image, bytes).unwrap();
        let server = {
            let mut servers = site.servers.lock().unwrap();
            servers.push(None);
            servers.len() - 1
        };
        let it = Self { image, socket: site.path(&format!("{name}.sock")), site, server };
        it.restart();
        it
    }

    pub fn restart(&self) {
        let server = Command::new("qemu-nbd")
            .args(["--persistent", "--read-only", "--shared=8", "--format=raw", "--export-name=disk0"])
            .arg("--socket")
            .arg(&self.socket)
            .arg(&self.image)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("needs qemu-utils");
        self.site.servers.lock().unwrap()[self.server] = Some(server);
        until("the mount answers", || UnixStream::connect(&self.socket).is_ok());
    }

    /// As a crash of its process would.
    pub fn kill(&self) {
        if let Some(mut server) = self.site.servers.lock().unwrap()[self.server].take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn letter(n: usize) -> u8 {
    b'a' + u8::try_from(n % 26).unwrap()
}

/// Waits for a condition; fails after [`LONG`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let clock = SystemClock;
    let end = clock.monotonic() + LONG;
    let pause = Cancel::default();
    while !condition() {
        assert!(clock.monotonic() < end, "waited in vain until {what}");
        // Longer than two of the guest's steps, so that "stands still" means it.
        pause.wait(Duration::from_millis(300));
    }
}

/// Waits until the guest waits for its mount; returns how much it has printed.
pub fn stands_still(run: &RunHandle) -> usize {
    let mut seen = 0;
    until("the guest stands still", || {
        let now = run.serial_tail(1 << 20).unwrap().len();
        std::mem::replace(&mut seen, now) == now
    });
    seen
}

pub fn check(run: &RunHandle, text: &str, deadline: Duration) -> CheckResult {
    run.check(&text.parse().unwrap(), deadline, &Cancel::default())
}

/// Every byte the guest read was the right one.
pub fn assert_alphabet(run: &RunHandle) {
    let log = run.serial_tail(1 << 20).unwrap();
    let log = String::from_utf8(log).unwrap();
    let (_, read) = log.split_once("wrote\r\n").unwrap();
    let steps = SIZE / STEP;
    for (n, byte) in read.bytes().enumerate() {
        assert_eq!(char::from(byte), char::from(letter(n % steps)), "read {n} of {read}");
    }
}
