//! `lifeboat-sim`: what test guests run, and the oracle.

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lifeboat_sim::oracle::{self, Order, Require, Sink};
use lifeboat_sim::service::{self, Settings};
use lifeboat_sim::witness::Witness;
use lifeboat_sim::{clock, ledger};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Lifeboat's test programs", version)]
enum Command {
    /// The guests' service: a ledger that grows, tells a witness and answers HTTP
    Ledger(LedgerArgs),
    /// Hears numbers and keeps them with its own time
    Witness {
        #[arg(long, default_value = "127.0.0.1:9000")]
        listen: String,
        #[arg(long)]
        out: PathBuf,
    },
    /// Verifies ledgers; prints `last=N lines ok` for each
    LedgerCheck {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Simulated worlds with faults, one for each seed; exit code 1 when one of them goes wrong
    #[cfg(feature = "world")]
    World(WorldArgs),
    /// Self-describing writes and their judgement
    #[command(subcommand)]
    Oracle(OracleCommand),
}

#[cfg(feature = "world")]
#[derive(Args)]
struct WorldArgs {
    /// One seed
    #[arg(long, conflicts_with_all = ["seeds", "for_seconds"])]
    seed: Option<u64>,
    /// Seeds A..B, without B
    #[arg(long, conflicts_with = "for_seconds")]
    seeds: Option<String>,
    /// Fresh seeds until the time is over
    #[arg(long = "for")]
    for_seconds: Option<u64>,
    /// Prints every step
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Args)]
struct LedgerArgs {
    #[arg(long)]
    dir: PathBuf,
    /// HOST:PORT of a witness
    #[arg(long)]
    witness: Option<String>,
    /// Port to answer HTTP on
    #[arg(long, default_value_t = 80)]
    http: u16,
    /// Lines a second
    #[arg(long, default_value_t = 10)]
    hz: u32,
}

#[derive(Subcommand)]
enum OracleCommand {
    /// Writes to disks that read as zeros, or goes on with the ledger that is there
    Write(Box<WriteArgs>),
    /// Judges an image; exit code 1 when it is not what the ledger allows
    Check(CheckArgs),
    /// Keeps the ledger for a writer on another machine (`--ledger tcp:HOST:PORT`)
    Collect {
        #[arg(long, default_value = "127.0.0.1:9001")]
        listen: String,
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Args)]
struct WriteArgs {
    /// A disk, again for each one of a group: nbd-unix:SOCKET, nbd-tcp:HOST:PORT/EXPORT, file:PATH, direct:PATH
    #[arg(long = "target", required = true)]
    targets: Vec<String>,
    /// Bytes, for files to be made
    #[arg(long)]
    size: Option<u64>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Operations, if that is sooner
    #[arg(long, default_value_t = u64::MAX)]
    writes: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A file, or tcp:HOST:PORT of `oracle collect`
    #[arg(long)]
    ledger: String,
    #[arg(long, default_value_t = 8)]
    depth: u32,
    #[arg(long, default_value_t = 100)]
    flush_every: u64,
    #[arg(long, default_value_t = 1000)]
    barrier_every: u64,
    #[arg(long, default_value_t = 5)]
    zero_percent: u64,
    /// Most 4 KiB blocks in one operation
    #[arg(long, default_value_t = 4)]
    max_blocks: u64,
    /// Operations a second; 0 for no limit
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Lets operations in flight share blocks
    #[arg(long)]
    overlap: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OrderArg {
    Prefix,
    Flush,
}

#[derive(Args)]
struct CheckArgs {
    /// The disks in the order they were written; as --target of `write`
    #[arg(long = "image", required = true)]
    images: Vec<String>,
    #[arg(long)]
    ledger: PathBuf,
    /// The image is exactly this barrier; `last` for the newest
    #[arg(long, conflicts_with_all = ["flush", "all"])]
    barrier: Option<String>,
    /// The image holds at least what this flush covered
    #[arg(long, conflicts_with = "all")]
    flush: Option<u64>,
    /// The image holds at least everything completed
    #[arg(long)]
    all: bool,
    /// What orders writes: being a prefix of the stream, or flushes only
    #[arg(long, value_enum, default_value = "prefix")]
    order: OrderArg,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Ledger(args) => run_ledger(&args),
        Command::Witness { listen, out } => Witness::start(&listen, &out)
            .with_context(|| format!("listening on {listen}"))
            .map(|w| serve_forever("witness", w.address())),
        Command::LedgerCheck { files } => check_ledgers(&files),
        #[cfg(feature = "world")]
        Command::World(args) => run_worlds(&args),
        Command::Oracle(OracleCommand::Write(args)) => write_oracle(&args),
        Command::Oracle(OracleCommand::Check(args)) => check_oracle(&args),
        Command::Oracle(OracleCommand::Collect { listen, out }) => oracle::Collector::start(&listen, &out)
            .with_context(|| format!("listening on {listen}"))
            .map(|c| serve_forever("oracle", c.address())),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("lifeboat-sim: {e:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(feature = "world")]
fn run_worlds(args: &WorldArgs) -> anyhow::Result<ExitCode> {
    use lifeboat_sim::world::{Mutant, Tally, run};
    let seeds: Box<dyn Iterator<Item = u64>> = match (args.seed, &args.seeds, args.for_seconds) {
        (Some(seed), ..) => Box::new(std::iter::once(seed)),
        (None, Some(range), _) => {
            let (from, to) = range.split_once("..").context("--seeds wants A..B")?;
            Box::new(from.parse::<u64>()?..to.parse::<u64>()?)
        }
        (None, None, Some(seconds)) => {
            // Far from the fixed ones, and other ones every time.
            let first = clock::unix_ms() << 16;
            let start = clock::elapsed();
            let more = move |_: &u64| (clock::elapsed() - start).as_secs() < seconds;
            Box::new((first..).take_while(more))
        }
        (None, None, None) => bail!("say --seed N, --seeds A..B or --for SECONDS"),
    };
    let mut tally = Tally::default();
    for seed in seeds {
        let outcome = run(seed, Mutant::None, args.verbose);
        if let Some(what) = &outcome.violation {
            eprintln!("seed {seed}: {what}");
        }
        if args.seed.is_some() {
            println!("seed {seed}: trace {}, {} events", outcome.trace, outcome.events);
        }
        tally.add(&outcome);
    }
    print!("{tally}");
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve_forever(what: &str, address: std::net::SocketAddr) -> ExitCode {
    println!("{what}: listening on {address}");
    loop {
        clock::pace(Duration::from_secs(3600));
    }
}

fn run_ledger(args: &LedgerArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings {
        dir: args.dir.clone(),
        witness: args.witness.clone(),
        http: format!("0.0.0.0:{}", args.http),
        hz: args.hz,
    };
    service::run(&settings, &Arc::default(), |_| ())?;
    Ok(ExitCode::SUCCESS)
}

fn check_ledgers(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut good = true;
    for file in files {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        match ledger::verify(&bytes) {
            Ok(c) => println!("{}: last={} lines ok, torn tail of {} bytes", file.display(), c.last, c.tail),
            Err(e) => {
                good = false;
                println!("{}: DAMAGED: {e}", file.display());
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_oracle(args: &WriteArgs) -> anyhow::Result<ExitCode> {
    let targets = args
        .targets
        .iter()
        .map(|name| oracle::open(name, args.size).with_context(|| name.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (sink, history): (Box<dyn Sink>, _) = match args.ledger.strip_prefix("tcp:") {
        Some(address) => {
            let (sink, history) = oracle::TcpSink::connect(address)?;
            (Box::new(sink), history)
        }
        None => {
            let (sink, history) = oracle::FileSink::open(Path::new(&args.ledger))?;
            (Box::new(sink), history)
        }
    };
    let settings = oracle::Settings {
        seed: args.seed,
        time: Duration::from_secs_f64(args.seconds.clamp(0.0, 1e9)),
        writes: args.writes,
        depth: args.depth.clamp(1, 256),
        flush_every: args.flush_every,
        barrier_every: args.barrier_every,
        zero_percent: args.zero_percent,
        max_blocks: args.max_blocks.clamp(1, 1024),
        overlap: args.overlap,
        rate: args.rate,
    };
    let report = oracle::write(&targets, &*sink, history.as_ref(), &settings, &AtomicBool::new(false))?;
    println!(
        "oracle: {} operations, {} failed, {} flushes, {} barriers in {:.1} s",
        report.operations, report.failed, report.flushes, report.barriers, report.seconds
    );
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_oracle(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let images = args
        .images
        .iter()
        .map(|name| oracle::open(name, None).with_context(|| name.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let barrier = match args.barrier.as_deref() {
        None => None,
        Some("last") => match oracle::History::open(&args.ledger, None)?.barriers().last() {
            Some(n) => Some(*n),
            None => bail!("the ledger has no barrier yet"),
        },
        Some(n) => Some(n.parse().context("--barrier wants a number or 'last'")?),
    };
    let history = oracle::History::open(&args.ledger, barrier)?;
    let require = match (barrier, args.flush, args.all) {
        (Some(n), ..) => Require::Exact(n),
        (None, Some(n), _) => Require::Flush(n),
        (None, None, true) => Require::All,
        (None, None, false) => Require::Nothing,
    };
    let order = match args.order {
        OrderArg::Prefix => Order::Prefix,
        OrderArg::Flush => Order::Flush,
    };
    let verdict = oracle::check(&images, &history, require, order)?;
    println!("{verdict}");
    Ok(if verdict.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
