//! `vault`: what a backup costs, beside restic and borg, on the same data in the same run.
//!
//! - A turn of one system is: a full backup of a disk, restoring it, changing the disk, and a backup of what changed; every
//!   system gets its own copy of the disk and the same changes. What was restored is compared with the disk, byte for byte.
//! - Times are of everything a user waits for: opening the repository (its local cache included) to the backup being on
//!   stable storage. Sizes are of the repository's files, caches left out.
//! - borg runs twice, as it comes (lz4) and with `zstd,3`. What is compared is the better of the peers: the faster rate,
//!   the smaller size.
//! - restic and borg find out what changed by reading the disk; Lifeboat is told by its journal. That is what is compared.

mod archives;
mod data;
mod mount;
mod own;

use crate::Options;
use crate::report::{Goal, Report, median};
use anyhow::{Result, bail};
use archives::{Archive, Borg, Restic, Rustic};
use lifeboat_e2e::TestDir;
use own::Own;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const MB: f64 = 1e6;

/// Most runs of each: a turn of all systems takes minutes.
const RUNS: usize = 3;

/// By system and what was measured.
type Values = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// Runs what of it is wanted.
///
/// # Errors
/// When data cannot be made, a program fails, or what is restored is not what was backed up.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let wants = |name: &str| options.wants(name) || options.only.iter().any(|o| name.starts_with(o.as_str()));
    if ["vault.full", "vault.incremental", "vault.restore"].into_iter().any(wants) {
        disks(options, report)?;
    }
    if wants("vault.files") {
        files(options, report)?;
    }
    if wants("vault.appliance") {
        appliance(options, report)?;
    }
    if wants("vault.mount") {
        mount::run(options, report)?;
    }
    Ok(())
}

fn runs(options: &Options) -> usize {
    options.runs.clamp(1, RUNS)
}

/// Every system, the peers first.
fn systems(dir: &Path) -> Vec<Box<dyn Archive>> {
    let mut all: Vec<Box<dyn Archive>> = vec![
        Box::new(Restic::new(dir)),
        Box::new(Borg::new(dir, "borg", "lz4")),
        Box::new(Borg::new(dir, "borg-zstd3", "zstd,3")),
    ];
    if let Some(rustic) = Rustic::new(dir) {
        all.push(Box::new(rustic));
    }
    all.push(Box::new(Own::new(dir)));
    all
}

/// All but ours, which is the last.
fn peers() -> Vec<&'static str> {
    let mut names: Vec<_> = systems(Path::new("/")).iter().map(|s| s.name()).collect();
    names.pop();
    names
}

/// What was written before shall not be written back during what is measured.
fn calm() -> Result<()> {
    Command::new("sync").status()?;
    Ok(())
}

fn note(values: &mut Values, system: &'static str, what: &'static str, value: f64) {
    eprintln!("  vault {system} {what}: {value:.2}");
    values.entry((system, what)).or_default().push(value);
}

fn disks(options: &Options, report: &mut Report) -> Result<()> {
    let mut values = Values::new();
    for _ in 0..runs(options) {
        for system in 0..=peers().len() {
            let dir = TestDir::within(&options.dir, "bench-vault");
            let image = dir.join("disk.img");
            data::debian(&image)?;
            let mut archive = systems(dir.path()).swap_remove(system);
            one_disk(archive.as_mut(), &dir, &image, &mut values)?;
        }
    }
    let got = |system, what| values.get(&(system, what)).map(|v| median(v)).unwrap_or_default();
    let peers = peers();
    for what in ["full MB/s", "full stored MB", "incremental s", "incremental added MB", "restore MB/s"] {
        for peer in &peers {
            let (row, unit) = what.rsplit_once(' ').unwrap_or((what, ""));
            report.line(
                &format!("peer.{peer}.vault.{}", row.replace(' ', ".")),
                got(*peer, what),
                unit,
                Goal::None,
            );
        }
    }
    let borg = |what, better: fn(f64, f64) -> f64| better(got("borg", what), got("borg-zstd3", what));
    let own = |what| got("lifeboat", what);
    let rate = f64::max(3.0 * got("restic", "full MB/s"), 1.5 * borg("full MB/s", f64::max));
    report.line("vault.full", own("full MB/s"), "MB/s", Goal::AtLeast(rate));
    let stored = f64::min(got("restic", "full stored MB"), borg("full stored MB", f64::min));
    report.line("vault.full.stored", own("full stored MB"), "MB", Goal::AtMost(1.05 * stored));
    let restic = got("restic", "incremental s");
    report.line("vault.incremental", own("incremental s"), "s", Goal::AtMost(restic / 10.0));
    let added = borg("incremental added MB", f64::min);
    report.line("vault.incremental.added", own("incremental added MB"), "MB", Goal::AtMost(added));
    let rate = 2.0 * borg("restore MB/s", f64::max);
    report.line("vault.restore", own("restore MB/s"), "MB/s", Goal::AtLeast(rate));
    Ok(())
}

/// One system's turn.
fn one_disk(archive: &mut dyn Archive, dir: &TestDir, image: &Path, values: &mut Values) -> Result<()> {
    let name = archive.name();
    let megabytes = image.metadata()?.len() as f64 / MB;
    archive.init()?;
    calm()?;
    let took = archive.back_up(image, None)?;
    note(values, name, "full MB/s", megabytes / took.as_secs_f64());
    let stored = archive.stored()?;
    note(values, name, "full stored MB", stored as f64 / MB);
    let out = dir.make("restored");
    calm()?;
    let took = archive.restore(image, &out)?;
    note(values, name, "restore MB/s", megabytes / took.as_secs_f64());
    same(image, &data::find(&out, "disk.img")?)?;
    std::fs::remove_dir_all(&out)?;
    let changed = data::change(image)?;
    calm()?;
    let took = archive.back_up(image, Some(&changed))?;
    note(values, name, "incremental s", took.as_secs_f64());
    note(values, name, "incremental added MB", (archive.stored()?.saturating_sub(stored)) as f64 / MB);
    let out = dir.make("restored");
    archive.restore(image, &out)?;
    same(image, &data::find(&out, "disk.img")?)
}

fn same(one: &Path, other: &Path) -> Result<()> {
    if !Command::new("cmp").args(["-s"]).arg(one).arg(other).status()?.success() {
        bail!("{} does not hold what was backed up", other.display());
    }
    Ok(())
}

fn files(options: &Options, report: &mut Report) -> Result<()> {
    let mut values = Values::new();
    let home = TestDir::within(&options.dir, "bench-vault");
    for _ in 0..runs(options) {
        let tree = data::tree(&home)?;
        for system in 0..=peers().len() {
            let dir = TestDir::within(&options.dir, "bench-vault");
            let mut archive = systems(dir.path()).swap_remove(system);
            archive.init()?;
            calm()?;
            let took = archive.back_up(&tree, None)?;
            note(&mut values, archive.name(), "files s", took.as_secs_f64());
            note(&mut values, archive.name(), "files stored MB", archive.stored()? as f64 / MB);
            // One file of a hundred, others for each system: the tree is the same for all but for what they change.
            data::touch_files(&tree, system as u64)?;
            calm()?;
            let took = archive.back_up(&tree, None)?;
            note(&mut values, archive.name(), "files.changed s", took.as_secs_f64());
        }
        std::fs::remove_dir_all(&tree)?;
    }
    let got = |system, what| values.get(&(system, what)).map(|v| median(v)).unwrap_or_default();
    for what in ["files s", "files stored MB", "files.changed s"] {
        for system in peers() {
            let (row, unit) = what.rsplit_once(' ').unwrap_or((what, ""));
            report.line(
                &format!("peer.{system}.vault.{}", row.replace(' ', ".")),
                got(system, what),
                unit,
                Goal::None,
            );
        }
    }
    for what in ["files s", "files.changed s"] {
        let (row, unit) = what.rsplit_once(' ').unwrap_or((what, ""));
        report.line(
            &format!("vault.{row}"),
            got("lifeboat", what),
            unit,
            Goal::AtMost(got("restic", what) / 1.5),
        );
    }
    report.line("vault.files.stored", got("lifeboat", "files stored MB"), "MB", Goal::None);
    Ok(())
}

/// Sustained backup and restore of content that compresses two to one, every chunk of it new.
fn appliance(options: &Options, report: &mut Report) -> Result<()> {
    const GOAL: f64 = 417.0;
    let (mut there, mut back) = (Vec::new(), Vec::new());
    for _ in 0..runs(options) {
        let dir = TestDir::within(&options.dir, "bench-vault");
        let image = dir.join("disk.img");
        data::compressible(&image, 3 << 30)?;
        let megabytes = image.metadata()?.len() as f64 / MB;
        let mut own = Own::new(dir.path());
        own.init()?;
        calm()?;
        let took = own.back_up(&image, None)?.as_secs_f64();
        eprintln!("  vault.appliance: {took:.2} s, {:.0} MB stored", own.stored()? as f64 / MB);
        there.push(megabytes / took);
        // Not the disk's speed is of interest, which a copy of that size shows.
        let took = own.read_all(&image)?.as_secs_f64();
        back.push(megabytes / took);
    }
    report.line("vault.appliance.backup", median(&there), "MB/s", Goal::AtLeast(GOAL));
    report.line("vault.appliance.restore", median(&back), "MB/s", Goal::AtLeast(GOAL));
    Ok(())
}
