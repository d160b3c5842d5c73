//! `failover.overhead`: from the command to a started QEMU.

use crate::Options;
use crate::lifeboat::Pair;
use crate::report::{Goal, Report, median};
use anyhow::{Context as _, Result};
use lifeboat_e2e::{GuestImage, TestDir, wait_some};
use lifeboat_sim::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, SystemTime};

const SOON: Duration = Duration::from_secs(60);

/// Runs it if it is wanted.
///
/// # Errors
/// When a part does not start.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let dir = TestDir::within(&options.dir, "bench");
    let image = GuestImage::new().build(dir.path(), "guest").remove(0);
    let mut pair = Pair::start(dir.path());
    // Which accelerator works is found out once, when the site starts.
    if let Some(site) = std::sync::Arc::get_mut(&mut pair.site) {
        site.process.wait_said("guests run with", SOON);
    }
    let mut times = Vec::new();
    for number in 1..=options.runs {
        // A failover ends a server's protection, so each run has a server of its own.
        let (name, disk) = (format!("web-{number}"), dir.join(&format!("web-{number}.img")));
        std::fs::copy(&image, &disk)?;
        pair.protect(&name, &disk);
        pair.wait_live(&name)?;
        let asked = clock::unix_ms();
        pair.site.ok(&["failover", &name, "--yes", "--detach", "--memory", "256MiB"]);
        let run = wait_some("the failover's QEMU", SOON, || {
            let runs = pair.site.json(&["runs"]);
            let run = runs.as_array()?.iter().find(|r| r["server"] == *name)?;
            run["times"]["started_ms"].is_u64().then(|| run.clone())
        });
        let pid = Path::new(run["directory"].as_str().context("the run has no directory")?).join("qemu.pid");
        // QEMU writes it when its disks are open and its machine is made.
        let started = unix_ms(pid.metadata()?.modified()?);
        let took = started.saturating_sub(asked);
        eprintln!("  failover run {number}: {took} ms; the site says {}", run["times"]);
        times.push(took as f64 / 1e3);
        // It outlives its site by design.
        kill(Pid::from_raw(std::fs::read_to_string(&pid)?.trim().parse()?), Signal::SIGKILL)?;
    }
    report.line("failover.overhead", median(&times), "s", Goal::AtMost(2.0));
    Ok(())
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
