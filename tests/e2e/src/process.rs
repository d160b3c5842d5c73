//! A process that ends with its guard.

use crate::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running program; its output is in a log file. Dropping kills it, and so does the end of the thread that started it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with stdout and stderr in `dir/NAME.log` (appended).
    ///
    /// # Panics
    /// When it cannot start.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                // A test runner that is itself killed leaves nothing behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; run scripts/setup.sh test"));
        Self { name: name.into(), child, log }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until its log holds `text`.
    ///
    /// # Panics
    /// When it ends first or `deadline` passes.
    pub fn wait_said(&mut self, text: &str, deadline: Duration) {
        let name = self.name.clone();
        wait_for(&format!("{name} to say {text:?}, log {}", self.log.display()), deadline, || {
            let running = self.running();
            let said = self.said();
            assert!(running || said.contains(text), "{name} ended without saying {text:?}:\n{said}");
            said.contains(text)
        });
    }

    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.pid(), signal);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it goes on past `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait_for(&format!("{name} to end"), deadline, || !self.running());
        self.child.wait().unwrap()
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Panics
    /// When it goes on past `deadline`.
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(deadline)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
