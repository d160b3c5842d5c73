//! `sync.randwrite4k`: 4 KiB writes, each flushed, to a server in synchronous mode: a flush comes back when the site's
//! journal has the point. Beside `qemu-nbd`, whose flush is the local disk's alone.

use crate::fio::{self, Job};
use crate::lifeboat::{NAME, Pair};
use crate::peers::QemuNbd;
use crate::report::{Goal, Report, median};
use crate::system::{Place, System as _};
use crate::{Options, disk};
use anyhow::{Context as _, Result, bail};
use lifeboat_e2e::TestDir;
use lifeboat_sim::clock;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// Runs it if it is wanted.
///
/// # Errors
/// When a part does not start or the load fails.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let job = |depth| Job {
        pattern: "randwrite",
        block: 4096,
        depth,
        seconds: options.peer_seconds,
        size: options.disk_mib << 20,
        rate: None,
        flush: Some(1),
        offset: 0,
    };
    for depth in [1, 32] {
        let (mut peer, mut ours, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for run in 1..=options.runs {
            let place = place(options)?;
            let running = QemuNbd.start(&place.1)?;
            let outcome = fio::run(&running.uri(), &job(depth))?;
            eprintln!("  sync depth {depth} run {run}: qemu-nbd {:.0} flushed writes/s", outcome.iops);
            peer.push(outcome.iops);
            drop(running);

            let place = self::place(options)?;
            let pair = Pair::start(&place.1.dir);
            pair.protect_with(NAME, &place.1.disk, &["--mode", "sync"]);
            pair.wait_live(NAME)?;
            wait_synchronous(&pair)?;
            let outcome = fio::run(&pair.uri(NAME), &job(depth))?;
            // The agent tells its sums twice a second.
            clock::pace(Duration::from_secs(2));
            let sync = pair.site.server(NAME)["runtime"]["sync_mode"].clone();
            let part = |key: &str| sync[key].as_f64().with_context(|| format!("no {key} in {sync}"));
            let one = [part("source_us")?, part("encode_us")?, part("site_us")?, part("longest_us")?];
            eprintln!(
                "  sync depth {depth} run {run}: lifeboat {:.0} flushed writes/s; a flush: source {:.0} us, frame {:.0} us, site {:.0} us",
                outcome.iops, one[0], one[1], one[2]
            );
            ours.push(outcome.iops);
            parts.push(one);
        }
        let name = format!("sync.randwrite4k.depth{depth}");
        report.line(&format!("peer.qemu-nbd.{name}"), median(&peer), "/s", Goal::None);
        report.line(&name, median(&ours), "/s", Goal::None);
        report.line(&format!("{name}.ratio"), median(&ours) / median(&peer).max(1e-9), "", Goal::None);
        for (i, what) in ["source", "frame", "site", "longest"].into_iter().enumerate() {
            let all: Vec<f64> = parts.iter().map(|p| p[i] / 1e3).collect();
            report.line(&format!("{name}.{what}"), median(&all), "ms", Goal::None);
        }
    }
    Ok(())
}

fn place(options: &Options) -> Result<(TestDir, Place)> {
    let dir = TestDir::within(&options.dir, "bench");
    let disk = dir.join("disk.img");
    disk::filled(&disk, options.disk_mib)?;
    let place = Place { dir: dir.path().to_owned(), disk };
    Ok((dir, place))
}

fn wait_synchronous(pair: &Pair) -> Result<()> {
    let start = clock::elapsed();
    while pair.site.server(NAME)["runtime"]["sync_mode"]["state"] != "synchronous" {
        if clock::elapsed() - start > SOON {
            bail!("the server did not become synchronous: {}", pair.site.server(NAME));
        }
        clock::pace(Duration::from_millis(200));
    }
    Ok(())
}
