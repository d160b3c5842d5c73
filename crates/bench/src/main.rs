//! `lifeboat-bench`: the goals of the project, each measured beside the peers it is compared with.
//!
//! - One line each on stdout: `name value goal ok|SHORT`; values are medians. What is going on goes to stderr.
//! - A peer and its subject run in turns in the same run on the same disk content, so that both see the same machine.
//! - Exit code 1 when a goal was missed.

mod capture;
mod disk;
mod fio;
mod fullsync;
mod peers;
mod report;
mod system;

use clap::Parser;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

/// What every benchmark needs to know.
#[derive(Parser, Debug)]
#[command(name = "lifeboat-bench", about = "Measures Lifeboat beside its peers")]
pub struct Options {
    /// Only benchmarks whose name begins with this; again for more
    #[arg(long)]
    only: Vec<String>,
    /// Runs of each; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of load on Lifeboat
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of load on a peer
    #[arg(long, default_value_t = 20)]
    peer_seconds: u64,
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
    let all: [(&str, Benchmark); 2] = [("capture", capture::run), ("fullsync", fullsync::run)];
    for (name, run) in all {
        // `--only capture.write` means a part of `capture`; which part, that one decides.
        if !options.only.is_empty() && !options.only.iter().any(|o| o.starts_with(name)) {
            continue;
        }
        if let Err(e) = run(&options, &mut report) {
            eprintln!("lifeboat-bench: {name}: {e:#}");
            report.failed();
        }
    }
    if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
