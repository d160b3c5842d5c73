//! `catchup`: a link that is cut for a minute under load: how long until the server is ready again, beside the time the
//! backlog needs on that link.

use crate::fio::{self, Job};
use crate::lifeboat::{NAME, Pair};
use crate::report::{Goal, Report, median};
use crate::{Options, disk};
use anyhow::{Context as _, Result, bail};
use lifeboat_e2e::TestDir;
use lifeboat_e2e::proxy::{End, Plan, Proxy};
use lifeboat_sim::clock;
use std::time::Duration;

/// Bytes a second of the load, which goes on all the time.
const RATE: u64 = 20_000_000;
/// Bytes a second of the link.
const LINK: u64 = 100_000_000;
const CUT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs it if it is wanted.
///
/// # Errors
/// When a part does not start or the copy does not catch up.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (mut ratios, mut seconds, mut agent, mut site) = (vec![], vec![], vec![], vec![]);
    for run in 1..=options.runs.min(3) {
        let one = once(options)?;
        let transfer = one.backlog as f64 / LINK as f64;
        eprintln!(
            "  catchup run {run}: backlog {:.0} MB ({:.0} MB of it in the spool), {transfer:.1} s on this link, ready after {:.1} s",
            one.backlog as f64 / 1e6,
            one.spooled as f64 / 1e6,
            one.took.as_secs_f64()
        );
        ratios.push(one.took.as_secs_f64() / transfer.max(1e-9));
        seconds.push(one.took.as_secs_f64());
        for (name, bytes) in one.memory {
            let list = if name == "agent" { &mut agent } else { &mut site };
            list.push(bytes as f64 / f64::from(1 << 20));
        }
    }
    report.line("catchup.time", median(&seconds), "s", Goal::None);
    report.line("catchup", median(&ratios), "x", Goal::AtMost(1.5));
    report.line("catchup.memory.agent", median(&agent), "MiB", Goal::AtMost(150.0));
    report.line("catchup.memory.site", median(&site), "MiB", Goal::AtMost(300.0));
    Ok(())
}

struct Outcome {
    backlog: u64,
    spooled: u64,
    took: Duration,
    memory: Vec<(&'static str, u64)>,
}

fn once(options: &Options) -> Result<Outcome> {
    let dir = TestDir::within(&options.dir, "bench");
    let disk = dir.join("disk.img");
    disk::filled(&disk, options.disk_mib)?;
    let site = lifeboat_e2e::Site::start(dir.path(), "site", &lifeboat_e2e::Place::host());
    let link = Proxy::start(site.replication().parse()?);
    link.set(Plan::Throttle(LINK));
    let address = link.address().to_string();
    let agent = site.agent_by(dir.path(), "agent", &lifeboat_e2e::Place::host(), &address);
    let pair = Pair { site: std::sync::Arc::new(site), agent };
    pair.protect(NAME, &disk);
    pair.wait_live(NAME)?;
    let job = Job {
        pattern: "randwrite",
        block: 16 << 10,
        depth: 8,
        seconds: 3600,
        size: options.disk_mib << 20,
        rate: Some(RATE),
        flush: None,
        offset: 0,
    };
    let mut load = fio::start(&pair.uri(NAME), &job)?;
    clock::pace(Duration::from_secs(5));
    link.set(Plan::Hold);
    link.drop_all(End::Reset);
    clock::pace(CUT);
    let (backlog, spooled) = (pair.agent_told("lag_bytes")?, pair.agent_told("spool_bytes")?);
    let healed = clock::elapsed();
    link.set(Plan::Throttle(LINK));
    let took = loop {
        let took = clock::elapsed() - healed;
        // Not at once: the site has to hear of the backlog before it can call itself ready.
        let r = &pair.site.server(NAME)["runtime"];
        let behind = r["rpo_ms"].as_u64().unwrap_or(u64::MAX);
        if r["health"] == "ready" && behind < 2000 {
            break took;
        }
        if took > PATIENCE {
            load.kill().context("fio")?;
            bail!("not ready after {PATIENCE:?}: {r}");
        }
        clock::pace(Duration::from_millis(250));
    };
    let memory = pair.memory()?;
    load.kill().context("fio")?;
    let _ = load.wait();
    Ok(Outcome { backlog, spooled, took, memory })
}
