//! `fullsync`: the first copy of a real disk.

use crate::lifeboat::Lifeboat;
use crate::peers::QemuMirror;
use crate::report::{Goal, Report, median};
use crate::system::Place;
use crate::{Options, disk};
use anyhow::Result;
use lifeboat_base::{Entropy as _, SeededEntropy};
use lifeboat_e2e::TestDir;
use lifeboat_sim::clock;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// How many times faster than QEMU's mirror the copy must be.
const GOAL: f64 = 1.5;

/// Something that copies a whole disk.
pub trait FullSync {
    fn name(&self) -> &'static str;

    /// From the command to the copy being complete, and how many bytes had to be on stable storage by then.
    ///
    /// # Errors
    /// When it does not get there.
    fn sync(&self, place: &Place) -> Result<(Duration, u64)>;
}

/// Runs it if it is wanted.
///
/// # Errors
/// When the disk cannot be made or a copy fails.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let home = TestDir::within(&options.dir, "bench-disk");
    let disk = home.join("disk.img");
    disk::debian(&disk)?;
    let systems: [&dyn FullSync; 2] = [&QemuMirror, &Lifeboat];
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut bytes = 0;
    for run in 1..=options.runs {
        for system in &systems {
            let dir = TestDir::within(&options.dir, "bench");
            // The copy before this one is not to be written back during this one.
            std::process::Command::new("sync").status()?;
            let place = Place { dir: dir.path().to_path_buf(), disk: disk.clone() };
            let (took, stored) = system.sync(&place)?;
            eprintln!("  fullsync {} run {run}: {:.2} s", system.name(), took.as_secs_f64());
            times.entry(system.name()).or_default().push(took.as_secs_f64());
            bytes = bytes.max(stored);
        }
        let floor = plain_write(&options.dir, bytes)?.as_secs_f64();
        eprintln!("  fullsync disk run {run}: {floor:.2} s");
        times.entry("disk").or_default().push(floor);
    }
    let peer = median(&times["qemu-mirror"]);
    report.line("peer.qemu-mirror.fullsync", peer, "s", Goal::None);
    // What nobody who waits for stable storage can beat: the journal's bytes, written in one go.
    report.line("peer.disk.fullsync", median(&times["disk"]), "s", Goal::None);
    report.line("fullsync", median(&times["lifeboat"]), "s", Goal::AtMost(peer / GOAL));
    Ok(())
}

/// How long writing `bytes` and one fdatasync take, without anything else: `dd conv=fdatasync`.
fn plain_write(dir: &Path, bytes: u64) -> Result<Duration> {
    let dir = TestDir::within(dir, "bench");
    std::process::Command::new("sync").status()?;
    let mut part = vec![0; 4 << 20];
    SeededEntropy::new(2).fill(&mut part);
    let start = clock::elapsed();
    let mut file = File::create(dir.join("plain"))?;
    for _ in 0..bytes.div_ceil(part.len() as u64) {
        file.write_all(&part)?;
    }
    file.sync_data()?;
    Ok(clock::elapsed() - start)
}
