//! A run that was started: its state, its end, and a look at it.

use super::error::LaunchError;
use super::process::ProcessId;
use super::record::{RunPaths, RunRecord, boot_id};
use super::start::{Inner, lock, remove, tail};
use lifeboat_qmp::{Qmp, QmpError};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long QEMU may take to end after it was told to: it puts the overlays on storage, but it also
/// waits for a mount whose server is away.
const QUIT_DEADLINE: Duration = Duration::from_secs(10);

/// The same for a run whose overlays are thrown away.
const DISPOSABLE_QUIT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How often the power button is pressed again: a booting guest overlooks it.
const PRESS_EVERY: Duration = Duration::from_secs(5);

/// Largest picture of a screen that is read, in bytes.
const MAX_SCREEN: usize = 64 << 20;

/// How a run is, as found just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Described, but no QEMU of it was ever seen.
    NotStarted,
    Running,
    /// QEMU holds the guest, for example on an I/O error.
    Paused(String),
    /// The guest turned itself off; QEMU is still there.
    PoweredOff,
    /// Ended because it was asked to.
    Stopped,
    /// QEMU lives and does not answer.
    Unresponsive(String),
    /// The guest or QEMU ended without being asked to.
    Crashed(String),
}

impl RunState {
    /// There is a QEMU process.
    pub fn alive(&self) -> bool {
        matches!(self, Self::Running | Self::Paused(_) | Self::PoweredOff | Self::Unresponsive(_))
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => write!(f, "not started"),
            Self::Running => write!(f, "running"),
            Self::Paused(why) => write!(f, "paused ({why})"),
            Self::PoweredOff => write!(f, "powered off"),
            Self::Stopped => write!(f, "stopped"),
            Self::Unresponsive(why) => write!(f, "unresponsive ({why})"),
            Self::Crashed(why) => write!(f, "crashed ({why})"),
        }
    }
}

/// How a run was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It had ended already.
    Before,
    /// The guest turned itself off.
    PoweredOff,
    /// QEMU was told to end; the guest had no say.
    Quit,
    /// QEMU did not end by itself.
    Killed,
}

/// A run, started here or elsewhere. Holds nothing but the directory: any number of handles, in
/// any number of processes, see the same.
#[derive(Clone)]
pub struct RunHandle {
    pub(super) inner: Arc<Inner>,
    pub(super) paths: RunPaths,
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunHandle").field(&self.paths.dir()).finish()
    }
}

impl RunHandle {
    pub(super) fn new(inner: Arc<Inner>, paths: RunPaths) -> Self {
        Self { inner, paths }
    }

    pub fn paths(&self) -> &RunPaths {
        &self.paths
    }

    /// # Errors
    /// [`LaunchError::Record`] when the directory holds no run.
    pub fn record(&self) -> Result<RunRecord, LaunchError> {
        RunRecord::load(&self.paths)?.ok_or_else(|| LaunchError::Record {
            path: self.paths.record(),
            why: "there is no such file".into(),
        })
    }

    /// The run's living QEMU: the recorded one, or one started by somebody who died before recording it.
    pub(super) fn living(&self, record: &RunRecord) -> Option<ProcessId> {
        if boot_id().ok()? != record.boot_id {
            return None;
        }
        match record.process {
            Some(process) => process.alive().then_some(process),
            None => self.unrecorded(),
        }
    }

    /// The process QEMU's pid file names, if it was started with that pid file.
    fn unrecorded(&self) -> Option<ProcessId> {
        let pid_file = self.paths.pid_file();
        let pid = fs::read_to_string(&pid_file).ok()?.trim().parse().ok()?;
        let process = ProcessId::find(pid)?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = command.split(|b| *b == 0).any(|arg| Some(arg) == pid_file.to_str().map(str::as_bytes));
        (ours && process.alive()).then_some(process)
    }

    /// Makes sure that the living QEMU answers, and records it.
    pub(super) fn take_over(&self, mut record: RunRecord, process: ProcessId) -> Result<(), LaunchError> {
        self.qmp()
            .and_then(|q| Ok(q.query_status()?))
            .map_err(|e| LaunchError::Unresponsive { pid: process.pid, why: e.to_string() })?;
        if record.process != Some(process) {
            record.process = Some(process);
            record.save(&self.paths)?;
        }
        Ok(())
    }

    /// A connection to the monitor. Held briefly: it serves one at a time, others wait meanwhile.
    pub(super) fn qmp(&self) -> Result<Qmp, LaunchError> {
        Ok(Qmp::connect(&self.paths.qmp(), self.inner.settings.qmp_timeout)?)
    }

    /// The monitor of a machine that must be alive.
    pub(super) fn live_qmp(&self) -> Result<Qmp, LaunchError> {
        match self.qmp() {
            Err(LaunchError::Qmp(e)) if e.is_gone() => {
                Err(LaunchError::NotRunning(self.state()?.to_string()))
            }
            other => other,
        }
    }

    /// # Errors
    /// Only when the directory cannot be read: every way a run can be is a state.
    pub fn state(&self) -> Result<RunState, LaunchError> {
        let record = self.record()?;
        if self.living(&record).is_none() {
            return Ok(self.ended(&record));
        }
        let status = self.qmp().and_then(|q| Ok(q.query_status()?));
        // It may have ended while it was asked.
        if status.is_err() && self.living(&record).is_none() {
            return Ok(self.ended(&self.record()?));
        }
        Ok(match status {
            Err(e) => RunState::Unresponsive(e.to_string()),
            Ok(s) if s.running => RunState::Running,
            Ok(s) => match s.status.as_str() {
                "shutdown" => RunState::PoweredOff,
                "guest-panicked" => RunState::Crashed("the guest's kernel panicked".into()),
                "internal-error" => RunState::Crashed("QEMU reports an internal error".into()),
                other => RunState::Paused(other.into()),
            },
        })
    }

    fn ended(&self, record: &RunRecord) -> RunState {
        if record.stop_requested {
            return RunState::Stopped;
        }
        if record.process.is_none() {
            return RunState::NotStarted;
        }
        if boot_id().is_ok_and(|id| id != record.boot_id) {
            return RunState::Crashed("the host was restarted".into());
        }
        let log = tail(&self.paths.qemu_log());
        let last = log
            .lines()
            .last()
            .unwrap_or("QEMU's log is empty: it was killed, or the host had no memory left");
        RunState::Crashed(format!("QEMU ended: {last}"))
    }

    /// Lets a paused guest go on, for example when there is room again.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn resume(&self) -> Result<(), LaunchError> {
        Ok(self.live_qmp()?.cont()?)
    }

    /// Ends the run: presses the power button and waits up to `graceful` for the guest, then tells
    /// QEMU to end, then kills it. Done when it returns; done before is fine too.
    ///
    /// # Errors
    /// [`LaunchError::Unresponsive`] when not even a kill ended it.
    pub fn stop(&self, graceful: Duration) -> Result<Stopped, LaunchError> {
        let _lock = lock(&self.paths)?;
        self.stop_locked(graceful)
    }

    fn stop_locked(&self, graceful: Duration) -> Result<Stopped, LaunchError> {
        let mut record = self.record()?;
        let living = self.living(&record);
        if living.is_some() && !record.stop_requested {
            // First, so that the end is no crash even if this process dies now.
            record.stop_requested = true;
            record.process = living;
            record.save(&self.paths)?;
        }
        let Some(process) = living else { return Ok(Stopped::Before) };
        let Some(handle) = process.handle() else { return Ok(Stopped::Before) };
        let clock = &*self.inner.clock;
        let powered_off = match self.qmp() {
            Ok(qmp) => {
                let off = self.power_down(&qmp, graceful);
                // Its reply may wait for a mount as well: the process's end is what counts.
                let _ = qmp.execute_within("quit", serde_json::Value::Null, Duration::from_millis(500));
                off
            }
            Err(_) => false,
        };
        let patience = if record.spec.disposable { DISPOSABLE_QUIT_DEADLINE } else { QUIT_DEADLINE };
        if handle.wait(patience, clock) {
            return Ok(if powered_off { Stopped::PoweredOff } else { Stopped::Quit });
        }
        handle.kill();
        if handle.wait(KILL_DEADLINE, clock) {
            return Ok(Stopped::Killed);
        }
        Err(LaunchError::Unresponsive { pid: process.pid, why: "it does not even end when killed".into() })
    }

    /// True when the guest turned itself off.
    fn power_down(&self, qmp: &Qmp, graceful: Duration) -> bool {
        let events = qmp.events();
        let Ok(status) = qmp.query_status() else { return false };
        if status.status == "shutdown" {
            return true;
        }
        let clock = &self.inner.clock;
        let until = clock.monotonic() + graceful;
        let mut press = Duration::ZERO;
        while status.running && clock.monotonic() < until {
            let now = clock.monotonic();
            if now >= press {
                if qmp.system_powerdown().is_err() {
                    return false;
                }
                press = now + PRESS_EVERY;
            }
            match events.next(press.min(until).saturating_sub(now)) {
                Some(e) if e.name == "SHUTDOWN" => return true,
                None if events.closed() => return false,
                _ => {}
            }
        }
        false
    }

    /// Ends the run and removes it with its overlays. `keep_logs` leaves the logs, the picture and
    /// the record.
    ///
    /// # Errors
    /// What could not be removed; to call it again is right.
    pub fn cleanup(&self, keep_logs: bool) -> Result<(), LaunchError> {
        if !self.paths.dir().exists() {
            return Ok(());
        }
        let _lock = lock(&self.paths)?;
        if let Some(record) = RunRecord::load(&self.paths)? {
            self.stop_locked(Duration::ZERO)?;
            for disk in &record.spec.disks {
                remove(&disk.overlay)?;
            }
        }
        if keep_logs {
            let gone = [self.paths.pid_file(), self.paths.uefi_vars()];
            return self.paths.sockets().iter().chain(&gone).try_for_each(|p| remove(p));
        }
        fs::remove_dir_all(self.paths.dir()).map_err(LaunchError::io("remove", self.paths.dir()))
    }

    /// A picture of the guest's screen as PNG; `screen.png` in the run's directory is the same.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn screenshot(&self) -> Result<Vec<u8>, LaunchError> {
        let path = self.paths.screen();
        let new = path.with_extension("png.new");
        self.live_qmp()?.screendump(&new)?;
        let bytes = read_end(&new, MAX_SCREEN).map_err(LaunchError::io("read", &new))?;
        if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Err(QmpError::Protocol("its picture of the screen is no PNG".into()).into());
        }
        fs::rename(&new, &path).map_err(LaunchError::io("rename", &new))?;
        Ok(bytes)
    }

    /// The end of what the guest printed on its serial port, at most `bytes`.
    ///
    /// # Errors
    /// When the log cannot be read; one that is not there yet is empty.
    pub fn serial_tail(&self, bytes: usize) -> Result<Vec<u8>, LaunchError> {
        let path = self.paths.serial_log();
        match read_end(&path, bytes) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(LaunchError::io("read", &path)),
        }
    }
}

/// The last bytes of a file, at most `most`.
pub(super) fn read_end(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let most = most as u64;
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(len.saturating_sub(most)))?;
    let mut out = Vec::new();
    file.take(most).read_to_end(&mut out)?;
    Ok(out)
}
