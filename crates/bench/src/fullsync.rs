//! `fullsync`: the first copy of a real disk.

use crate::peers::QemuMirror;
use crate::report::{Goal, Report, median};
use crate::system::Place;
use crate::{Options, disk};
use anyhow::Result;
use lifeboat_e2e::TestDir;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many times faster than QEMU's mirror the copy must be.
const GOAL: f64 = 1.5;

/// Something that copies a whole disk.
pub trait FullSync {
    fn name(&self) -> &'static str;

    /// From the command to the copy being complete.
    ///
    /// # Errors
    /// When it does not get there.
    fn sync(&self, place: &Place) -> Result<Duration>;
}

/// Lifeboat's initial sync through agent and site, once they can be started; its name is `lifeboat`.
fn lifeboat() -> Option<Box<dyn FullSync>> {
    None
}

/// Runs it if it is wanted.
///
/// # Errors
/// When the disk cannot be made or a copy fails.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let home = TestDir::within(&options.dir, "bench-disk");
    let disk = home.join("disk.img");
    disk::debian(&disk)?;
    let mut systems: Vec<Box<dyn FullSync>> = vec![Box::new(QemuMirror)];
    systems.extend(lifeboat());
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in 1..=options.runs {
        for system in &systems {
            let dir = TestDir::within(&options.dir, "bench");
            // The copy before this one is not to be written back during this one.
            std::process::Command::new("sync").status()?;
            let took =
                system.sync(&Place { dir: dir.path().to_path_buf(), disk: disk.clone() })?.as_secs_f64();
            eprintln!("  fullsync {} run {run}: {took:.2} s", system.name());
            times.entry(system.name()).or_default().push(took);
        }
    }
    let peer = median(&times["qemu-mirror"]);
    report.line("peer.qemu-mirror.fullsync", peer, "s", Goal::None);
    if let Some(ours) = times.get("lifeboat") {
        report.line("fullsync", median(ours), "s", Goal::AtMost(peer / GOAL));
    }
    Ok(())
}
