//! `lifeboat-agent`

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use lifeboat_agent::identity::{Identity, Join, join};
use lifeboat_agent::session::{ControlChannel, Link, run_control};
use lifeboat_agent::streams::Streams;
use lifeboat_agent::supervisor::{Supervisor, lock_directory};
use lifeboat_base::limits::HEARTBEAT_EVERY;
use lifeboat_base::{Clock, Entropy, SystemClock, SystemEntropy};
use lifeboat_replicate::message::{Phase, Report, SyncState};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Captures the writes of servers on this host and sends them to a Lifeboat site.
#[derive(Parser)]
#[command(name = "lifeboat-agent", version, after_help = AFTER)]
struct Args {
    /// State directory: key, certificate, sockets
    #[arg(long, global = true, default_value = "/var/lib/lifeboat-agent", env = "LIFEBOAT_AGENT_DIR")]
    dir: PathBuf,
    /// What to log: error, warn, info, debug, trace, or tracing directives
    #[arg(long, global = true, default_value = "info", env = "RUST_LOG")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "\
First steps:
  at the site:    lifeboat token create --agent
  on this host:   lifeboat-agent join --site https://SITE:8443 --token lbj_...
                  lifeboat-agent run
  at the site:    lifeboat protect web-1 --agent NAME --qmp /run/web-1.qmp

What is captured is decided at the site; this program only needs to run.";

#[derive(Subcommand)]
enum Command {
    /// Joins a site: makes a key, has it certified, pins the site
    Join {
        /// URL of the site's API
        #[arg(long)]
        site: String,
        /// The join token, from 'lifeboat token create --agent' at the site
        #[arg(long, env = "LIFEBOAT_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// Name of this agent at the site [default: the host's name]
        #[arg(long)]
        name: Option<String>,
        /// HOST:PORT of the site's replication listener, where it differs from what the site says
        #[arg(long)]
        replication: Option<String>,
    },
    /// Captures and sends until stopped (SIGTERM or SIGINT)
    Run {
        /// Let the site bring no files back to this host, whoever asks [also: no_restore = true in agent.toml]
        #[arg(long)]
        no_restore: bool,
    },
    /// Shows what the running agent does
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Prints a shell completion script
    Completion { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    lifeboat_base::memory::keep();
    let args = Args::parse();
    let outcome = match args.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "lifeboat-agent", &mut std::io::stdout());
            Ok(())
        }
        Command::Status { json } => status(&args.dir, json),
        Command::Join { site, token, name, replication } => {
            let name = name.unwrap_or_else(host_name);
            block_on(join(Join { dir: args.dir.clone(), site, token, name, replication })).map(|config| {
                println!("Joined as '{}' ({}).", config.name, config.id);
                println!("Replication goes to {}. Start it with: lifeboat-agent run", config.replication);
            })
        }
        Command::Run { no_restore } => {
            log_to_stderr(&args.log);
            block_on(run(args.dir, no_restore))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_lowercase();
    if name.is_empty() { "agent".into() } else { name }
}

fn log_to_stderr(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| "info".into());
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if journald {
        log.without_time().init();
    } else {
        log.init();
    }
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(future)
}

async fn run(dir: PathBuf, no_restore: bool) -> Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let identity = Arc::new(Identity::load(&dir, Arc::clone(&clock))?);
    let _lock = lock_directory(&identity)?;
    tracing::info!(name = identity.config().name, site = identity.replication(), "agent starts");
    let link = Link { identity: Arc::clone(&identity), instance: entropy.next_u64(), entropy };
    let (assignments_in, mut assignments) = mpsc::channel(4);
    let (report_out, report) = watch::channel(Report::default());
    let (connected_out, connected) = watch::channel(false);
    let streams = Arc::new(Streams::default());
    let control = tokio::spawn(run_control(
        link.clone(),
        ControlChannel {
            assignments: assignments_in,
            report,
            connected: connected_out,
            streams: Arc::clone(&streams),
            restores: !no_restore && !identity.config().no_restore,
        },
    ));
    let mut supervisor = Supervisor::new(link, clock, tokio::runtime::Handle::current(), streams)?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    supervisor = tokio::task::spawn_blocking(move || {
        supervisor.restore();
        supervisor
    })
    .await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut tick = tokio::time::interval(HEARTBEAT_EVERY);
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            Some(wanted) = assignments.recv() => {
                supervisor = tokio::task::spawn_blocking(move || {
                    supervisor.apply(wanted, true);
                    supervisor
                })
                .await
                .context("the supervisor died")?;
            }
            _ = tick.tick() => {
                let report = supervisor.report();
                let connected = *connected.borrow();
                if let Err(e) = write_status(&identity, &supervisor, &report, connected) {
                    tracing::debug!("status file: {e:#}");
                }
                report_out.send_replace(report);
            }
        }
    }
    tracing::info!("agent stops");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tokio::task::spawn_blocking(move || supervisor.stop_all()).await?;
    control.abort();
    let _ = std::fs::remove_file(identity.dir().join("status.json"));
    Ok(())
}

/// The report as a file, for `lifeboat-agent status`.
fn write_status(
    identity: &Identity,
    supervisor: &Supervisor,
    report: &Report,
    connected: bool,
) -> Result<()> {
    let servers: Vec<_> = report
        .servers
        .iter()
        .map(|s| {
            json!({
                "server": lifeboat_base::ServerId::from_slice(&s.server).map(|i| i.to_string()).unwrap_or_default(),
                "capture": s.capture,
                "reason": s.stalled,
                "phase": phase_name(s.phase),
                "total_bytes": s.total_bytes,
                "done_bytes": s.done_bytes,
                "sent_bytes": s.sent_bytes,
                "lag_bytes": s.lag_bytes,
                "spool_bytes": s.spool_bytes,
                "hashed_bytes": s.hashed_bytes,
                "sync": sync_name(s.sync_state),
                "suspect_bytes": supervisor.suspect_bytes(&s.server),
                "disks": s.disks.iter().map(|d| json!({"name": d.name, "size": d.size})).collect::<Vec<_>>(),
                "exports": s.exports,
            })
        })
        .collect();
    let status = json!({
        "name": identity.config().name,
        "id": identity.config().id,
        "site": identity.replication(),
        "connected": connected,
        "pid": std::process::id(),
        "servers": servers,
    });
    // For people to look at now: it need not survive a crash.
    let temp = identity.dir().join("status.new");
    std::fs::write(&temp, status.to_string())?;
    std::fs::rename(&temp, identity.dir().join("status.json"))?;
    Ok(())
}

fn sync_name(state: i32) -> &'static str {
    match SyncState::try_from(state).unwrap_or(SyncState::Asynchronous) {
        SyncState::Asynchronous => "asynchronous",
        SyncState::NotYet => "not yet synchronous",
        SyncState::Synchronous => "synchronous",
        SyncState::Blocked => "flushes wait for the site",
        SyncState::Degraded => "degraded: flushes go on without the site",
    }
}

fn phase_name(phase: i32) -> &'static str {
    match Phase::try_from(phase).unwrap_or(Phase::Idle) {
        Phase::Idle => "idle",
        Phase::Scan => "scan",
        Phase::Full => "full sync",
        Phase::Resync => "resync",
        Phase::Live => "live",
    }
}

fn status(dir: &std::path::Path, as_json: bool) -> Result<()> {
    let path = dir.join("status.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no agent runs on {}; start it with: lifeboat-agent run", dir.display()))?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let word = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    println!("agent  {} ({})", word(&status["name"]), word(&status["id"]));
    let link = if status["connected"].as_bool() == Some(true) { "connected" } else { "not connected" };
    println!("site   {} ({link})", word(&status["site"]));
    for s in status["servers"].as_array().into_iter().flatten() {
        let lag = lifeboat_base::format_bytes(s["lag_bytes"].as_u64().unwrap_or(0));
        println!("server {}  {}  {}  lag {lag}", word(&s["server"]), word(&s["capture"]), word(&s["phase"]));
        if word(&s["sync"]) != "asynchronous" {
            println!("       {}", word(&s["sync"]));
        }
        if let Some(bytes) = s["spool_bytes"].as_u64().filter(|b| *b > 0) {
            println!("       {} wait in the spool", lifeboat_base::format_bytes(bytes));
        }
        if let Some(bytes) = s["suspect_bytes"].as_u64() {
            println!("       a restart would compare {}", lifeboat_base::format_bytes(bytes));
        }
        for e in s["exports"].as_array().into_iter().flatten() {
            println!("       {}", word(e));
        }
        if !word(&s["reason"]).is_empty() {
            println!("       {}", word(&s["reason"]));
        }
    }
    Ok(())
}
