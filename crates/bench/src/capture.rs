//! `capture.*`: what a disk under protection can take, beside disks that are only served or mirrored.

use crate::Options;
use crate::disk;
use crate::fio::{self, Job, Outcome};
use crate::lifeboat::Lifeboat;
use crate::peers::{Nbdkit, QemuMirror, QemuNbd};
use crate::report::{Goal, Report, median};
use crate::system::{AfterLoad, Place, System};
use anyhow::Result;
use lifeboat_base::format_bytes;
use lifeboat_e2e::TestDir;
use std::collections::BTreeMap;

/// Most the copy may be behind when the load ends, in seconds.
const MAX_LAG: f64 = 1.0;
const MIB: f64 = 1048576.0;

/// Outcomes by system, in the order of the runs.
#[derive(Default)]
struct Results(BTreeMap<&'static str, Vec<(Outcome, AfterLoad)>>);

impl Results {
    fn peers(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied().filter(|name| *name != "lifeboat")
    }

    fn median(&self, name: &str, value: impl Fn(&Outcome) -> f64) -> f64 {
        median(&self.0.get(name).map_or(vec![], |all| all.iter().map(|(o, _)| value(o)).collect()))
    }
}

/// Runs all workloads that are wanted.
///
/// # Errors
/// When a system does not start or fio fails.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let size = options.disk_mib << 20;
    let small = Job {
        pattern: "randwrite",
        block: 4096,
        depth: 32,
        seconds: options.seconds,
        size,
        rate: None,
        flush: None,
        offset: 0,
    };
    let large = Job {
        pattern: "write",
        block: 256 << 10,
        depth: 8,
        seconds: options.peer_seconds,
        size,
        rate: None,
        flush: None,
        offset: 0,
    };
    if options.wants("capture.randwrite4k") {
        let results = measure(options, &small)?;
        report_small(&results, report);
    }
    if options.wants("capture.write256k") {
        let results = measure(options, &large)?;
        let mbps = |name| results.median(name, |o| o.mbps);
        for peer in results.peers() {
            report.line(&format!("peer.{peer}.write256k"), mbps(peer), "MB/s", Goal::None);
        }
        report.line("capture.write256k", mbps("lifeboat"), "MB/s", Goal::AtLeast(mbps("qemu-nbd")));
    }
    Ok(())
}

fn measure(options: &Options, job: &Job) -> Result<Results> {
    let mut systems: Vec<&dyn System> = vec![&QemuMirror, &QemuNbd];
    if options.nbdkit {
        systems.push(&Nbdkit);
    }
    systems.push(&Lifeboat);
    let mut results = Results::default();
    for run in 1..=options.runs {
        for system in &systems {
            let seconds = if system.name() == "lifeboat" { job.seconds } else { options.peer_seconds };
            let (outcome, after) = once(options, *system, &Job { seconds, ..*job })?;
            eprintln!(
                "  {} {} run {run}: {:.0} iops, {:.0} MB/s, p99 {:.2} ms, lag {}, {}",
                job.pattern,
                system.name(),
                outcome.iops,
                outcome.mbps,
                outcome.p99_ms,
                after.lag.map_or("-".into(), |l| format!("{l:?}")),
                after
                    .memory
                    .iter()
                    .map(|(p, b)| format!("{p} {}", format_bytes(*b)))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            results.0.entry(system.name()).or_default().push((outcome, after));
        }
    }
    Ok(results)
}

fn once(options: &Options, system: &dyn System, job: &Job) -> Result<(Outcome, AfterLoad)> {
    let dir = TestDir::within(&options.dir, "bench");
    let place = Place { dir: dir.path().to_path_buf(), disk: dir.join("disk.img") };
    disk::filled(&place.disk, options.disk_mib)?;
    let mut running = system.start(&place)?;
    // What making and copying the disk left to be written back is nobody's load.
    std::process::Command::new("sync").status()?;
    running.load_begins();
    let outcome = fio::run(&running.uri(), job)?;
    let after = running.after_load()?;
    Ok((outcome, after))
}

fn report_small(results: &Results, report: &mut Report) {
    let (iops, p99) =
        (|name: &str| results.median(name, |o| o.iops), |name: &str| results.median(name, |o| o.p99_ms));
    for peer in results.peers() {
        report.line(&format!("peer.{peer}.randwrite4k"), iops(peer), "/s", Goal::None);
        report.line(&format!("peer.{peer}.randwrite4k.p99"), p99(peer), "ms", Goal::None);
    }
    let Some(runs) = results.0.get("lifeboat") else { return };
    let goal = (2.0 * iops("qemu-mirror")).max(iops("qemu-nbd"));
    report.line("capture.randwrite4k", iops("lifeboat"), "/s", Goal::AtLeast(goal));
    report.line("capture.randwrite4k.p99", p99("lifeboat"), "ms", Goal::AtMost(p99("qemu-nbd")));
    let lags: Vec<f64> = runs.iter().filter_map(|(_, a)| a.lag).map(|l| l.as_secs_f64()).collect();
    report.line("capture.lag", median(&lags), "s", Goal::AtMost(MAX_LAG));
    let growing = runs.iter().filter(|(_, a)| a.lag_growing).count() as f64;
    report.line("capture.lag.growing", growing, "", Goal::AtMost(runs.len() as f64 / 2.0));
    for (program, most) in [("agent", 150.0), ("site", 300.0)] {
        let of = |a: &AfterLoad| a.memory.iter().find(|(p, _)| *p == program).map(|(_, b)| *b as f64 / MIB);
        let peaks: Vec<f64> = runs.iter().filter_map(|(_, a)| of(a)).collect();
        report.line(&format!("memory.{program}"), median(&peaks), "MiB", Goal::AtMost(most));
    }
}
