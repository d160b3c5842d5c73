//! Why a run could not be started or handled.

use lifeboat_qmp::QmpError;
use std::io;
use std::path::{Path, PathBuf};

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A program is not installed.
    #[error("'{program}' was not found: install the package {package}")]
    Missing { program: String, package: &'static str },
    /// The run cannot be built as asked.
    #[error("the run cannot be built: {0}")]
    Spec(String),
    /// A disk's mount is not served.
    #[error("disk {disk} is not served at {}: {why}; mount the point again", socket.display())]
    NoMount { disk: usize, socket: PathBuf, why: String },
    /// QEMU ended or said nothing.
    #[error("QEMU did not start: {why}\n{log}")]
    Start {
        why: String,
        /// The last lines of its log.
        log: String,
    },
    /// The process lives but its monitor does not answer.
    #[error("QEMU (process {pid}) lives but does not answer ({why}): wait, or end the run by stopping it")]
    Unresponsive { pid: u32, why: String },
    /// Something that needs a running machine was asked of one that is not.
    #[error("the machine is not running: {0}")]
    NotRunning(String),
    /// The directory is another run's.
    #[error("{} belongs to run {run}", path.display())]
    OtherRun { path: PathBuf, run: String },
    /// `run.json` is missing or damaged.
    #[error("{} does not describe a run: {why}", path.display())]
    Record { path: PathBuf, why: String },
    /// A helper program failed.
    #[error("{what} failed: {output}")]
    Tool { what: String, output: String },
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl LaunchError {
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_path_buf(), source }
    }
}
