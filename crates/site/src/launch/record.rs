//! `run.json`: what any process needs to take a run over. Written whole to a new file, synced,
//! then renamed, so a crash leaves the old or the new one.

use super::accel::Accel;
use super::error::LaunchError;
use super::process::ProcessId;
use super::spec::RunSpec;
use lifeboat_base::WallTime;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Version of `run.json` written and read here.
const VERSION: u32 = 1;

/// Largest `run.json` that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// A guest TCP port and where it is reached at 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarded {
    pub guest_port: u16,
    pub host_port: u16,
}

/// A run as it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    pub version: u32,
    pub spec: RunSpec,
    pub forwards: Vec<Forwarded>,
    pub accel: Accel,
    /// Boot of the host the process belongs to: pids mean nothing after another.
    pub boot_id: String,
    /// `None` until QEMU answered.
    pub process: Option<ProcessId>,
    /// By this site's clock.
    pub started: WallTime,
    /// Somebody asked for the end: it is then no crash.
    pub stop_requested: bool,
}

impl RunRecord {
    pub(super) fn new(
        spec: RunSpec,
        forwards: Vec<Forwarded>,
        accel: Accel,
        boot_id: String,
        started: WallTime,
    ) -> Self {
        Self {
            version: VERSION,
            spec,
            forwards,
            accel,
            boot_id,
            process: None,
            started,
            stop_requested: false,
        }
    }

    /// `None` when the directory holds no run.
    pub(super) fn load(paths: &RunPaths) -> Result<Option<Self>, LaunchError> {
        let path = paths.record();
        let mut text = String::new();
        match File::open(&path).and_then(|f| f.take(MAX_RECORD).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LaunchError::io("read", &path)(e)),
        }
        let bad = |why: String| LaunchError::Record { path: path.clone(), why };
        let record: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if record.version != VERSION {
            return Err(bad(format!("it has version {}, this program reads {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    pub(super) fn save(&self, paths: &RunPaths) -> Result<(), LaunchError> {
        let path = paths.record();
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| LaunchError::Record { path: path.clone(), why: e.to_string() })?;
        write_whole(&path, &text).map_err(LaunchError::io("write", &path))
    }
}

/// Replaces a file so that no crash leaves a part of it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// The identity of the host's current boot.
pub(super) fn boot_id() -> Result<String, LaunchError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path).map(|s| s.trim().to_string()).map_err(LaunchError::io("read", path))
}

/// The files of a run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths(PathBuf);

impl RunPaths {
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_path_buf())
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub fn record(&self) -> PathBuf {
        self.0.join("run.json")
    }

    pub fn qmp(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }

    /// A second monitor, so that people never hold the one Lifeboat needs.
    pub fn monitor(&self) -> PathBuf {
        self.0.join("monitor.sock")
    }

    pub fn console(&self) -> PathBuf {
        self.0.join("serial.sock")
    }

    pub fn serial_log(&self) -> PathBuf {
        self.0.join("serial.log")
    }

    pub fn qemu_log(&self) -> PathBuf {
        self.0.join("qemu.log")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.0.join("qemu.pid")
    }

    pub fn screen(&self) -> PathBuf {
        self.0.join("screen.png")
    }

    pub(super) fn uefi_vars(&self) -> PathBuf {
        self.0.join("uefi-vars.fd")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn sockets(&self) -> [PathBuf; 3] {
        [self.qmp(), self.monitor(), self.console()]
    }
}
