//! `lifeboat-bench`: the goals of the project, each measured beside the peers it is compared with.
//!
//! - One line each on stdout: `name value goal ok|SHORT`; values are medians. What is going on goes to stderr.
//! - A peer and its subject run in turns in the same run on the same disk content, so that both see the same machine.
//! - Exit code 1 when a goal was missed.

mod capture;
mod catchup;
mod disk;
mod failover;
mod fio;
mod fullsync;
mod lifeboat;
mod mount;
mod peers;
mod report;
mod resync;
mod rpo;
mod sync;
mod system;
mod vault;

use clap::Parser;
use report::Report;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Benchmarks, and the minutes each takes with the defaults:
  capture.randwrite4k  9   4 KiB writes through the splitter, beside QEMU's mirror and qemu-nbd; lag; memory
  capture.write256k    5   256 KiB writes, beside the same
  fullsync             2   the first copy of a 4 GiB Debian disk, beside QEMU's mirror (the first time: 3 more to build it)
  mount                1   a 1 TiB disk of a million scattered records: time to the first read; memory
  rpo                  3   what would be lost, while 20 MB/s are written
  failover             1   command to QEMU started
  sync.randwrite4k    10   flushed 4 KiB writes in synchronous mode, beside qemu-nbd; what a flush waits for
  resync.after_kill    5   a 64 GiB disk after a kill of the agent: bytes compared, bytes sent again
  catchup              6   a minute's cut of the link under 20 MB/s: time until ready again
  vault.full          20   a 4 GiB Debian disk into the vault, out of it, and what changed, beside restic and borg
    (vault.incremental, vault.restore: the same runs)
  vault.files          6   a Debian's files, then one in a hundred changed, beside the same
  vault.appliance      2   content that compresses two to one, there and back
  vault.mount          3   a 1 TiB disk's point: time to the first read; random reads of a point, beside qcow2
Prints `name value goal ok|SHORT`; lines named peer.* are what the goals are made of.
A quick look: lifeboat-bench --runs 1 --seconds 15 --peer-seconds 10 --rpo-seconds 10";

/// What every benchmark needs to know.
#[derive(Parser, Debug)]
#[command(name = "lifeboat-bench", about = "Measures Lifeboat beside its peers", after_help = HELP)]
pub struct Options {
    /// Only benchmarks whose name begins with this; again for more
    #[arg(long)]
    only: Vec<String>,
    /// Runs of each; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of small writes on Lifeboat
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of small writes on a peer, and of large writes on each
    #[arg(long, default_value_t = 15)]
    peer_seconds: u64,
    /// Seconds of each run of `rpo`
    #[arg(long, default_value_t = 30)]
    rpo_seconds: u64,
    /// Records in the journal that `mount` opens
    #[arg(long, default_value_t = 1_000_000)]
    records: usize,
    /// Also nbdkit, which no goal is compared with
    #[arg(long)]
    nbdkit: bool,
    /// Where disks are made: on a file system like the one real disks would be on
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Size of the disk under load, in MiB
    #[arg(long, default_value_t = 1024)]
    disk_mib: u64,
}

type Benchmark = fn(&Options, &mut Report) -> anyhow::Result<()>;

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| name.starts_with(o.as_str()))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut report = Report::default();
    let all: [(&str, Benchmark); 9] = [
        ("capture", capture::run),
        ("fullsync", fullsync::run),
        ("mount", mount::run),
        ("rpo", rpo::run),
        ("failover", failover::run),
        ("sync", sync::run),
        ("resync", resync::run),
        ("catchup", catchup::run),
        ("vault", vault::run),
    ];
    for (name, run) in all {
        // `--only capture.write` means a part of `capture`; which part, that one decides.
        if !options.only.is_empty() && !options.only.iter().any(|o| o.starts_with(name)) {
            continue;
        }
        // The helpers of the end-to-end tests panic; the other benchmarks shall be run all the same.
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(&options, &mut report)));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                eprintln!("lifeboat-bench: {name}: {e:#}");
                report.failed();
            }
            Err(_) => {
                eprintln!("lifeboat-bench: {name} did not run to its end");
                report.failed();
            }
        }
    }
    if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
