//! Processes: who one is, whether it lives, waiting for its end, and programs run to their end.
//!
//! A pid alone names nobody for long. A process here is a pid and its start time; it is signalled
//! through a pidfd that was opened before the start time was compared, so a recycled pid is never hit.

use super::error::LaunchError;
use lifeboat_base::Clock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A process, named so that no later one is mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks from the machine's boot to the process's start.
    pub start: u64,
}

impl ProcessId {
    /// The living process of this pid.
    pub(super) fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat)
            .filter(|(state, _)| !matches!(state, 'Z' | 'X'))
            .map(|(_, start)| Self { pid, start })
    }

    pub fn alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// `None` when it has ended.
    pub(super) fn handle(self) -> Option<Handle> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw)?;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        self.alive().then_some(Handle(fd))
    }
}

/// State letter and start time. The name in parentheses may hold anything, spaces and `)` too.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // Field 3 is the state, field 22 the start.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A hold on a process that no reuse of its pid can fool.
#[derive(Debug)]
pub(super) struct Handle(OwnedFd);

impl Handle {
    /// True when the process has ended within `timeout`.
    pub(super) fn wait(&self, timeout: Duration, clock: &dyn Clock) -> bool {
        let until = clock.monotonic() + timeout;
        loop {
            let left = until.saturating_sub(clock.monotonic());
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            let time = Timespec::try_from(left).ok();
            match rustix::event::poll(&mut fds, time.as_ref()) {
                Ok(n) => return n > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    pub(super) fn kill(&self) {
        // It may have ended already: then nothing is left to do.
        let _ = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
    }
}

/// How a program run by [`run_tool`] ended.
#[derive(Debug)]
pub(super) struct ToolEnd {
    /// `None`: it was killed at the deadline.
    pub status: Option<ExitStatus>,
    /// The end of what it printed, both streams, at most [`TOOL_OUTPUT`] bytes.
    pub output: String,
}

impl ToolEnd {
    pub(super) fn ok(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// How it ended, for people.
    pub(super) fn how(&self) -> String {
        match self.status {
            None => "ran out of time".into(),
            Some(s) => match (s.code(), s.signal()) {
                (Some(c), _) => format!("exit code {c}"),
                (None, Some(n)) => format!("ended by signal {n}"),
                (None, None) => "ended".into(),
            },
        }
    }
}

/// Bytes kept of a program's output.
const TOOL_OUTPUT: usize = 16 * 1024;

/// How long a program's output may stay open after its end: something it started may hold it.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Runs a program to its end or the deadline, then ends it and all of its process group.
///
/// # Errors
/// [`LaunchError::Missing`] when it is not installed.
pub(super) fn run_tool(
    command: &mut Command,
    package: &'static str,
    deadline: Duration,
    clock: &dyn Clock,
) -> Result<ToolEnd, LaunchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => LaunchError::Missing { program: program.clone(), package },
        _ => LaunchError::Tool { what: format!("starting '{program}'"), output: e.to_string() },
    };
    let (reader, writer) = io::pipe().map_err(failed)?;
    let writer2 = writer.try_clone().map_err(failed)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(writer2)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    // The command keeps the pipe's ends; without this the reader would wait for ourselves.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (tx, rx) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let _ = tx.send(read_tail(reader, TOOL_OUTPUT));
    });
    let ended = ProcessId::find(child.id())
        .and_then(ProcessId::handle)
        .is_none_or(|handle| handle.wait(deadline, clock));
    // The child is not reaped yet, so its group's number is still its own.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(failed)?;
    let output = rx.recv_timeout(OUTPUT_GRACE).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).trim().to_string();
    Ok(ToolEnd { status: ended.then_some(status), output })
}

fn read_tail(mut from: impl Read, most: usize) -> Vec<u8> {
    let mut tail = VecDeque::new();
    let mut buf = [0; 4096];
    while let Ok(n) = from.read(&mut buf) {
        if n == 0 {
            break;
        }
        tail.extend(&buf[..n]);
        let over = tail.len().saturating_sub(most);
        tail.drain(..over);
    }
    tail.into()
}

#[cfg(test)]
mod tests;
