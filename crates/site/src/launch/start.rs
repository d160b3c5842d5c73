//! Starts a run, or finds it running.

use super::accel::{Accel, AccelKind, Probe, QEMU_PACKAGE};
use super::command::{HostFacts, arguments};
use super::error::LaunchError;
use super::network::choose_ports;
use super::overlay::{self, Header};
use super::process::ProcessId;
use super::record::{RunPaths, RunRecord, boot_id};
use super::run::RunHandle;
use super::spec::RunSpec;
use lifeboat_api::types::{Firmware, Network};
use lifeboat_base::Clock;
use lifeboat_qmp::{Qmp, QmpError};
use parking_lot::Mutex;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Starts tried when somebody else takes a port that was just found free.
const PORT_TRIES: usize = 3;

/// Where the launcher finds things, and how long it waits.
#[derive(Debug, Clone)]
pub struct LauncherSettings {
    pub qemu: PathBuf,
    pub qemu_img: PathBuf,
    pub kvm_device: PathBuf,
    /// Keeps the probe's answer between restarts.
    pub accel_cache: PathBuf,
    /// Use this accelerator without a probe.
    pub force_accel: Option<AccelKind>,
    pub probe_deadline: Duration,
    /// From QEMU's start to its monitor's first answer.
    pub start_deadline: Duration,
    /// For one monitor command.
    pub qmp_timeout: Duration,
    /// QEMU's seccomp filter; off only for a QEMU built without it.
    pub sandbox: bool,
    /// UEFI code and variable templates; the first pair that exists is used.
    pub firmware: Vec<(PathBuf, PathBuf)>,
}

impl LauncherSettings {
    /// As distributions install QEMU. `state` is a directory of the site that lasts.
    pub fn new(state: &Path) -> Self {
        let pair = |dir: &str, code: &str, vars: &str| (Path::new(dir).join(code), Path::new(dir).join(vars));
        Self {
            qemu: "qemu-system-x86_64".into(),
            qemu_img: "qemu-img".into(),
            kvm_device: "/dev/kvm".into(),
            accel_cache: state.join("accel.json"),
            force_accel: None,
            probe_deadline: Duration::from_secs(3),
            start_deadline: Duration::from_secs(30),
            qmp_timeout: Duration::from_secs(10),
            sandbox: true,
            firmware: vec![
                pair("/usr/share/OVMF", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
                pair("/usr/share/OVMF", "OVMF_CODE.fd", "OVMF_VARS.fd"),
                pair("/usr/share/edk2/ovmf", "OVMF_CODE.fd", "OVMF_VARS.fd"),
                pair("/usr/share/edk2/x64", "OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
            ],
        }
    }
}

/// What the launcher and its runs share.
pub(super) struct Inner {
    pub settings: LauncherSettings,
    pub clock: Arc<dyn Clock>,
    accel: Mutex<Option<Accel>>,
}

/// Starts machines and takes over those that run.
#[derive(Clone)]
pub struct Launcher(Arc<Inner>);

impl Launcher {
    pub fn new(settings: LauncherSettings, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { settings, clock, accel: Mutex::new(None) }))
    }

    /// How guests are run here. Probes once per boot of the host, which takes up to
    /// [`probe_deadline`](LauncherSettings::probe_deadline): ask at the site's start, so that no
    /// failover waits for it.
    ///
    /// # Errors
    /// [`LaunchError::Missing`] when QEMU is not installed.
    pub fn accel(&self) -> Result<Accel, LaunchError> {
        let s = &self.0.settings;
        if let Some(kind) = s.force_accel {
            return Ok(Accel { kind, reason: "set by the configuration".into() });
        }
        let mut known = self.0.accel.lock();
        if let Some(accel) = &*known {
            return Ok(accel.clone());
        }
        let probe =
            Probe { qemu: &s.qemu, device: &s.kvm_device, cache: &s.accel_cache, deadline: s.probe_deadline };
        let accel = probe.run(&*self.0.clock)?;
        *known = Some(accel.clone());
        Ok(accel)
    }

    /// Starts the run, or finds it running. A run that has ended is started again on its overlays.
    /// When nothing was there before and the start fails, nothing is there afterwards.
    ///
    /// # Errors
    /// What is missing or wrong, by name; [`LaunchError::Start`] with QEMU's last words.
    pub fn launch(&self, spec: &RunSpec) -> Result<RunHandle, LaunchError> {
        spec.validate()?;
        let paths = RunPaths::new(&spec.dir);
        let fresh = !spec.dir.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&spec.dir)
            .map_err(LaunchError::io("make", &spec.dir))?;
        let _lock = lock(&paths)?;
        let handle = self.handle(&spec.dir);
        if let Some(record) = RunRecord::load(&paths)? {
            if record.spec.run_id != spec.run_id {
                return Err(LaunchError::OtherRun {
                    path: spec.dir.clone(),
                    run: record.spec.run_id.to_string(),
                });
            }
            if let Some(process) = handle.living(&record) {
                handle.take_over(record, process)?;
                return Ok(handle);
            }
        }
        let mut made = Vec::new();
        let started = self.start(spec, &paths, &mut made);
        if started.is_err() && fresh {
            for overlay in made {
                let _ = fs::remove_file(overlay);
            }
            let _ = fs::remove_dir_all(&spec.dir);
        }
        started.map(|()| handle)
    }

    /// A run by its directory, looked at when it is used.
    pub fn handle(&self, dir: &Path) -> RunHandle {
        RunHandle::new(self.0.clone(), RunPaths::new(dir))
    }

    /// Takes over a run that any process started, running or not.
    ///
    /// # Errors
    /// [`LaunchError::Record`] when the directory holds no run.
    pub fn adopt(&self, dir: &Path) -> Result<RunHandle, LaunchError> {
        let handle = self.handle(dir);
        let record = handle.record()?;
        if let Some(process) = handle.living(&record)
            && record.process != Some(process)
        {
            // The starter died between QEMU's start and the record of it.
            let _lock = lock(handle.paths())?;
            handle.take_over(handle.record()?, process)?;
        }
        Ok(handle)
    }

    fn start(&self, spec: &RunSpec, paths: &RunPaths, made: &mut Vec<PathBuf>) -> Result<(), LaunchError> {
        let s = &self.0.settings;
        let accel = self.accel()?;
        let mut host = HostFacts { sandbox: s.sandbox, ..HostFacts::default() };
        for (index, disk) in spec.disks.iter().enumerate() {
            let needs = Header::read(&disk.overlay)?.is_none_or(|h| h.needs_backing);
            if needs {
                overlay::mount_answers(index, disk)?;
            }
            if overlay::ensure(&s.qemu_img, disk, &*self.0.clock)? {
                made.push(disk.overlay.clone());
            }
            host.needs_mount.push(needs);
        }
        if spec.firmware == Firmware::Uefi {
            host.uefi_code = Some(self.firmware(paths)?);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let forwards = choose_ports(&spec.forwards)?;
            let now = self.0.clock.wall();
            let mut record = RunRecord::new(spec.clone(), forwards, accel.clone(), boot_id()?, now);
            record.save(paths)?;
            match self.start_qemu(&record, paths, &host) {
                Ok(process) => {
                    record.process = Some(process);
                    return record.save(paths);
                }
                Err(LaunchError::Start { log, .. }) if tries < PORT_TRIES && log.contains(PORT_TAKEN) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The UEFI code; the run gets variables of its own.
    fn firmware(&self, paths: &RunPaths) -> Result<PathBuf, LaunchError> {
        let found = self.0.settings.firmware.iter().find(|(code, vars)| code.exists() && vars.exists());
        let Some((code, vars)) = found else {
            return Err(LaunchError::Missing { program: "UEFI firmware (OVMF)".into(), package: "ovmf" });
        };
        let own = paths.uefi_vars();
        if !own.exists() {
            fs::copy(vars, &own).map_err(LaunchError::io("write", &own))?;
        }
        Ok(code.clone())
    }

    fn start_qemu(
        &self,
        record: &RunRecord,
        paths: &RunPaths,
        host: &HostFacts,
    ) -> Result<ProcessId, LaunchError> {
        for stale in paths.sockets().into_iter().chain([paths.pid_file()]) {
            remove(&stale)?;
        }
        for log in [paths.serial_log(), paths.qemu_log()] {
            keep_previous(&log)?;
        }
        let child = self.spawn(record, paths, host)?;
        let process = ProcessId::find(child.id());
        // Whoever starts a process reaps it; the guest does not depend on this thread.
        let reaper = std::thread::Builder::new().name("qemu-reaper".into()).spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        if let Err(e) = reaper {
            tracing::warn!(error = %e, "QEMU will stay a zombie when it ends");
        }
        let failed = |why: &str| {
            let log = tail(&paths.qemu_log());
            let why = explain(&log, &record.spec.network).unwrap_or_else(|| why.into());
            LaunchError::Start { why, log }
        };
        let Some((process, handle)) = process.and_then(|p| Some((p, p.handle()?))) else {
            return Err(failed("it ended at once"));
        };
        let until = self.0.clock.monotonic() + self.0.settings.start_deadline;
        loop {
            let left = until.saturating_sub(self.0.clock.monotonic());
            match Qmp::connect(&paths.qmp(), left.min(self.0.settings.qmp_timeout)) {
                Ok(_) => return Ok(process),
                Err(e) if e.is_gone() || matches!(e, QmpError::Busy { .. } | QmpError::Timeout { .. }) => {}
                Err(e) => {
                    handle.kill();
                    return Err(e.into());
                }
            }
            if handle.wait(Duration::from_millis(10), &*self.0.clock) {
                return Err(failed("it ended at once"));
            }
            if left.is_zero() {
                handle.kill();
                let secs = self.0.settings.start_deadline.as_secs();
                return Err(failed(&format!("it did not answer within {secs} s")));
            }
        }
    }

    fn spawn(&self, record: &RunRecord, paths: &RunPaths, host: &HostFacts) -> Result<Child, LaunchError> {
        let qemu = &self.0.settings.qemu;
        let log_path = paths.qemu_log();
        let log = File::create(&log_path).map_err(LaunchError::io("write", &log_path))?;
        let log2 = log.try_clone().map_err(LaunchError::io("write", &log_path))?;
        let mut command = Command::new(qemu);
        command.args(arguments(record, paths, host)).stdin(Stdio::null()).stdout(log).stderr(log2);
        // SAFETY: both are plain system calls, async-signal-safe, and touch no memory of ours.
        unsafe {
            command.pre_exec(|| {
                // What this process was given open is not the guest's to hold, and it lives longer. An old kernel keeps it.
                libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
                rustix::process::setsid().map(drop).map_err(io::Error::from)
            });
        }
        command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                LaunchError::Missing { program: qemu.display().to_string(), package: QEMU_PACKAGE }
            }
            _ => LaunchError::Start { why: e.to_string(), log: String::new() },
        })
    }
}

/// What QEMU says when a host port is taken.
const PORT_TAKEN: &str = "Could not set up host forwarding rule";

/// QEMU's words for what an operator can put right, and how.
fn explain(log: &str, network: &Network) -> Option<String> {
    let has = |s: &str| log.contains(s);
    if let Network::Bridge(name) = network
        && (has("bridge helper failed") || has("bridge"))
    {
        return Some(format!(
            "the guest cannot be attached to bridge '{name}': the bridge must exist, /etc/qemu/bridge.conf must \
             hold 'allow {name}', and qemu-bridge-helper must be setuid root"
        ));
    }
    if has(PORT_TAKEN) {
        return Some("a port of this host that is to be forwarded is taken".into());
    }
    if has("Failed to get \"write\" lock") {
        return Some("another process uses a disk of this run".into());
    }
    if has("cannot set up guest memory") || has("Cannot allocate memory") {
        return Some("this host has not enough free memory: give the run less".into());
    }
    if has("-sandbox") {
        return Some("this QEMU has no seccomp: turn the launcher's sandbox off".into());
    }
    None
}

/// Held while a run is started, stopped or cleaned up. Ends with the process that holds it.
pub(super) fn lock(paths: &RunPaths) -> Result<File, LaunchError> {
    let path = paths.lock();
    let file = File::create(&path).map_err(LaunchError::io("write", &path))?;
    file.lock().map_err(LaunchError::io("lock", &path))?;
    Ok(file)
}

pub(super) fn remove(path: &Path) -> Result<(), LaunchError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LaunchError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// A start begins its logs anew: a check must not find what an earlier start printed.
fn keep_previous(log: &Path) -> Result<(), LaunchError> {
    let mut name = log.as_os_str().to_os_string();
    name.push(".1");
    match fs::rename(log, PathBuf::from(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(LaunchError::io("rename", log)(e)),
        _ => Ok(()),
    }
}

/// Lines of QEMU's log that go into an error.
const LOG_LINES: usize = 8;

/// Bytes of the end of a log that are looked at.
const LOG_BYTES: usize = 4096;

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let bytes = super::run::read_end(log, LOG_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests;
