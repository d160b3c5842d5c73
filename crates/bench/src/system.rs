//! What can be put under a load: a peer, or Lifeboat.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where one run takes place.
#[derive(Debug)]
pub struct Place {
    /// Empty and its own.
    pub dir: PathBuf,
    /// The disk to serve: raw, filled, may be written to.
    pub disk: PathBuf,
}

/// Something that serves a disk over NBD.
pub trait System {
    fn name(&self) -> &'static str;

    /// Starts serving; returns when the first request will be answered at full speed (a mirror is ready, a full sync is over).
    ///
    /// # Errors
    /// When a program does not start.
    fn start(&self, place: &Place) -> Result<Box<dyn Running>>;
}

/// A started [`System`]. Dropping stops it.
pub trait Running {
    /// The NBD URI the load goes to.
    fn uri(&self) -> String;

    /// Called right before the load.
    fn load_begins(&mut self) {}

    /// Called right at the end of the load, before anything is stopped.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn after_load(&mut self) -> Result<AfterLoad> {
        Ok(AfterLoad::default())
    }
}

/// What is known of a system when its load has just ended.
#[derive(Debug, Default, Clone)]
pub struct AfterLoad {
    /// How far the copy is behind; `None` for systems that have no copy or are never behind.
    pub lag: Option<Duration>,
    /// Whether the lag was growing over the second half of the load.
    pub lag_growing: bool,
    /// Peak resident memory by program, in bytes.
    pub memory: Vec<(&'static str, u64)>,
}

/// The most memory a process ever had resident, in bytes.
///
/// # Errors
/// When the process is gone.
pub fn peak_memory(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// `nbd+unix` URI of an export on a socket.
pub fn unix_uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}
