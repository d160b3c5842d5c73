//! Runs machines from recovery points with QEMU.
//!
//! Invariants:
//! - a mount is only read: guest writes go to a qcow2 overlay of the run, so drills and failovers
//!   never change what they were started from;
//! - at most one QEMU per run directory: whoever launches holds the directory's lock, and a QEMU
//!   that lives there is adopted, never doubled;
//! - a run outlives the process that started it: own session, everything needed to find it again
//!   in `run.json`, and NBD reconnects while the mounts' server is away;
//! - a process is only signalled when its pid *and* its start time are the recorded ones;
//! - what the directory and QEMU say decides; nothing about a run is kept in memory alone.
//!
//! A run directory:
//! ```text
//! run.json      specification and process, see record.rs     disk0.qcow2  overlays (or elsewhere)
//! qmp.sock      Lifeboat's monitor                           serial.log   what the guest printed
//! monitor.sock  a monitor for people                         serial.sock  the guest's console
//! qemu.log      what QEMU printed      qemu.pid              screen.png   last picture taken
//! ```
//! The calls block; async callers use a blocking thread.

mod accel;
mod cancel;
mod check;
mod command;
mod error;
mod hydrate;
mod network;
mod overlay;
mod process;
mod record;
mod run;
mod spec;
mod start;

pub use accel::{Accel, AccelKind};
pub use cancel::Cancel;
pub use check::{Check, CheckSyntax};
pub use error::LaunchError;
pub use hydrate::{DiskHydration, Hydration};
pub use process::ProcessId;
pub use record::{Forwarded, RunPaths, RunRecord};
pub use run::{RunHandle, RunState, Stopped};
pub use spec::{Forward, RunDisk, RunSpec};
pub use start::{Launcher, LauncherSettings};

#[cfg(test)]
mod tests;
