//! `rpo.p99`: what would be lost at any moment while a server writes at an everyday rate.

use crate::fio::{self, Job};
use crate::lifeboat::{NAME, Pair, Sampler};
use crate::report::{Goal, Report, median};
use crate::{Options, disk};
use anyhow::Result;
use lifeboat_e2e::TestDir;
use std::time::Duration;

/// Bytes a second of the load.
const RATE: u64 = 20_000_000;
const SAMPLE: Duration = Duration::from_millis(200);

/// Runs it if it is wanted.
///
/// # Errors
/// When a part does not start or the load fails.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let dir = TestDir::within(&options.dir, "bench");
    let disk = dir.join("disk.img");
    disk::filled(&disk, options.disk_mib)?;
    let pair = Pair::start(dir.path());
    pair.protect(NAME, &disk);
    pair.wait_live(NAME)?;
    let size = options.disk_mib << 20;
    let job = Job {
        pattern: "randwrite",
        block: 16 << 10,
        depth: 8,
        seconds: options.rpo_seconds,
        size,
        rate: Some(RATE),
        flush: None,
        offset: 0,
    };
    let (mut p99s, mut rates) = (Vec::new(), Vec::new());
    for run in 1..=options.runs {
        let sampler = Sampler::start(&pair.site, NAME, SAMPLE);
        let outcome = fio::run(&pair.uri(NAME), &job)?;
        let p99 = percentile(sampler.finish()?, 99) as f64 / 1e3;
        eprintln!("  rpo run {run}: {:.1} MB/s, p99 {p99:.3} s", outcome.mbps);
        p99s.push(p99);
        rates.push(outcome.mbps);
    }
    report.line("rpo.rate", median(&rates), "MB/s", Goal::AtLeast(RATE as f64 / 1e6 * 0.95));
    report.line("rpo.p99", median(&p99s), "s", Goal::AtMost(1.0));
    Ok(())
}

/// The value that `percent` of the samples do not exceed.
fn percentile(mut samples: Vec<u64>, percent: usize) -> u64 {
    samples.sort_unstable();
    let at = (samples.len() * percent).div_ceil(100).saturating_sub(1);
    samples.get(at).copied().unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests;
