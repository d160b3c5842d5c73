//! `lifeboat-fuzz`: fresh mutations by the clock, and the upkeep of the stored inputs.

use clap::Parser;
use lifeboat_base::{Clock, Entropy, SystemClock, SystemEntropy};
use lifeboat_fuzz::{TARGETS, Target, bound, campaign, target};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static WATCHED: bound::Watched = bound::Watched;

#[derive(Parser)]
#[command(name = "lifeboat-fuzz", about = "Hostile bytes for every parser that sees some from outside")]
enum Command {
    /// Mutations with fresh seeds; failing inputs are kept in the corpus, to be stored with the fix
    Run {
        /// Seconds, all targets together
        #[arg(long = "for", default_value_t = 60)]
        seconds: u64,
        /// Only this one
        #[arg(long)]
        target: Option<String>,
        /// Instead of a fresh one
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run one file
    Replay { target: String, file: PathBuf },
    /// Write what the product's encoders make into the corpus
    Seeds,
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Run { seconds, target: name, seed } => {
            let chosen: Vec<Target> = match name.as_deref().map(target) {
                None => TARGETS.to_vec(),
                Some(Some(t)) => vec![t],
                Some(None) => return fail("there is no such target"),
            };
            let seed = seed.unwrap_or_else(|| SystemEntropy.next_u64());
            run(&chosen, Duration::from_secs(seconds), seed)
        }
        Command::Replay { target: name, file } => match (target(&name), std::fs::read(&file)) {
            (Some(t), Ok(input)) => match campaign::try_one(&t, &input) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => fail(&why),
            },
            _ => fail("there is no such target, or no such file"),
        },
        Command::Seeds => seeds(),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("lifeboat-fuzz: {why}");
    ExitCode::FAILURE
}

/// Each target gets its share of the time; what is left over goes to those after it.
fn run(targets: &[Target], time: Duration, seed: u64) -> ExitCode {
    let start = SystemClock.monotonic();
    let (mut total, mut broken) = (0, 0);
    for (n, t) in targets.iter().enumerate() {
        let corpus = match campaign::corpus(t) {
            Ok(c) => c.into_iter().map(|(_, bytes)| bytes).collect(),
            Err(e) => return fail(&format!("{}: {e}; run lifeboat-fuzz seeds", t.name)),
        };
        let until = start + time * (n as u32 + 1) / targets.len() as u32;
        let over = move || SystemClock.monotonic() >= until;
        match campaign::mutations(*t, corpus, seed ^ n as u64, u64::MAX, over) {
            Ok(tried) => {
                total += tried;
                println!("{:<14} {tried:>9} executions", t.name);
            }
            Err(b) => {
                broken += 1;
                println!("{:<14} BROKEN: {}", t.name, b.why);
                match campaign::keep(&campaign::corpus_dir(t), "failed", &b.input) {
                    Ok(path) => println!("  replay: lifeboat-fuzz replay {} {}", t.name, path.display()),
                    Err(e) => println!("  and could not be kept: {e}"),
                }
            }
        }
    }
    println!("fuzz: {} targets, {total} executions, {broken} broken, seed {seed}", targets.len());
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn seeds() -> ExitCode {
    for t in TARGETS {
        let dir = campaign::corpus_dir(t);
        for old in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if old.file_name().to_string_lossy().starts_with("seed-") {
                let _ = std::fs::remove_file(old.path());
            }
        }
        for input in (t.seeds)() {
            if let Err(e) = campaign::keep(&dir, "seed", &input) {
                return fail(&format!("{}: {e}", dir.display()));
            }
        }
    }
    ExitCode::SUCCESS
}
