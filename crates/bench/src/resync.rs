//! `resync.after_kill`: what a kill of the agent costs on a large disk: bytes compared and bytes sent again.

use crate::Options;
use crate::fio::{self, Job};
use crate::lifeboat::{NAME, Pair};
use crate::report::{Goal, Report, median};
use anyhow::{Context as _, Result, bail};
use lifeboat_base::{Entropy as _, SeededEntropy};
use lifeboat_e2e::TestDir;
use lifeboat_sim::{clock, oracle};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

const DISK: u64 = 64 << 30;
const HOT: u64 = 1 << 30;
const HOT_AT: u64 = 16 << 30;
const BLOCK: u64 = 64 << 10;
/// Bytes a second of the load under which the agent is killed.
const RATE: u64 = 20_000_000;
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs it if it is wanted.
///
/// # Errors
/// When a part does not start or the copy does not catch up.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (mut hashed, mut sent, mut seconds, mut memory) = (vec![], vec![], vec![], vec![]);
    for run in 1..=options.runs.min(3) {
        let one = once(options)?;
        eprintln!(
            "  resync run {run}: {:.0} MiB differed, {:.0} MiB compared, {:.0} MiB sent again, {:.1} s, agent {:.0} MiB",
            mib(one.differed),
            mib(one.hashed),
            mib(one.sent),
            one.took.as_secs_f64(),
            mib(one.memory)
        );
        hashed.push(one.hashed as f64 * 100.0 / DISK as f64);
        sent.push(one.sent as f64 / one.differed.max(1) as f64);
        seconds.push(one.took.as_secs_f64());
        memory.push(mib(one.memory));
    }
    report.line("resync.after_kill.compared", median(&hashed), "%", Goal::AtMost(5.0));
    report.line("resync.after_kill.sent", median(&sent), "x", Goal::AtMost(1.1));
    report.line("resync.after_kill.time", median(&seconds), "s", Goal::None);
    report.line("resync.after_kill.memory", median(&memory), "MiB", Goal::AtMost(150.0));
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

struct Cost {
    differed: u64,
    hashed: u64,
    sent: u64,
    took: Duration,
    memory: u64,
}

fn once(options: &Options) -> Result<Cost> {
    let dir = TestDir::within(&options.dir, "bench");
    let disk = dir.join("disk.img");
    let file = File::options().read(true).write(true).create_new(true).open(&disk)?;
    file.set_len(DISK)?;
    let entropy = SeededEntropy::new(3);
    let mut part = vec![0; 1 << 20];
    for at in (0..HOT).step_by(part.len()) {
        entropy.fill(&mut part);
        file.write_all_at(&part, HOT_AT + at)?;
    }
    file.sync_all()?;
    let mut pair = Pair::start(dir.path());
    pair.protect(NAME, &disk);
    pair.wait_live(NAME)?;
    wait("the first copy's marks to be taken back", || Ok(pair.agent_told("suspect_bytes")? == 0))?;

    let job = Job {
        pattern: "randwrite",
        block: 4096,
        depth: 16,
        seconds: 3600,
        size: HOT,
        rate: Some(RATE),
        flush: None,
        offset: HOT_AT,
    };
    let mut load = fio::start(&pair.uri(NAME), &job)?;
    clock::pace(Duration::from_secs(options.peer_seconds.max(15)));
    pair.agent.process.kill();
    // Its disk is gone: that fails it.
    let _ = load.wait();

    // What the newest point lacks; a little more than what the site lacks.
    let point = pair.site.mount(NAME, "latest");
    let there = oracle::open(&point.1[0], None)?;
    let (mut ours, mut theirs) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
    let mut differed = 0;
    for at in (HOT_AT..HOT_AT + HOT).step_by(BLOCK as usize) {
        file.read_exact_at(&mut ours, at)?;
        there.read(at, &mut theirs)?;
        differed += if ours == theirs { 0 } else { BLOCK };
    }
    drop(there);
    pair.site.ok(&["unmount", &point.0]);

    let start = clock::elapsed();
    pair.agent.restart();
    let site = std::sync::Arc::clone(&pair.site);
    pair.agent.wait_connected(&site);
    wait("the copy to catch up", || {
        let r = &site.server(NAME)["runtime"];
        let hashed = pair.agent_told("hashed_bytes").unwrap_or(0);
        Ok(r["health"] == "ready" && r["lag_bytes"] == 0 && hashed > 0)
    })?;
    let took = clock::elapsed() - start;
    Ok(Cost {
        differed,
        hashed: pair.agent_told("hashed_bytes")?,
        sent: pair.agent_told("sent_bytes")?,
        took,
        memory: pair.memory()?.iter().find(|m| m.0 == "agent").context("no agent")?.1,
    })
}

fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = clock::elapsed();
    while !done()? {
        if clock::elapsed() - start > PATIENCE {
            bail!("waited {PATIENCE:?} for {what}");
        }
        clock::pace(Duration::from_millis(250));
    }
    Ok(())
}
