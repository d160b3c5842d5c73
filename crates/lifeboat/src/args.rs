//! What can be typed. Help texts here are the reference a stranger reads first.

pub mod groups;
pub mod launch;
pub mod replication;
pub mod values;

use clap::{ArgGroup, Args, Parser, Subcommand};
use groups::GroupCommand;
use launch::LaunchArgs;
use replication::{ReplicationArgs, WatchArgs};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use values::{duration, point, size};

/// Exit codes, shown by `--help`; [`crate::failure::Exit`] is their only maker.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or impossible values
  3  no such server, point, run or operation
  4  refused: not allowed, or not in the present state
  5  the site or what it needs cannot be reached now
  6  the checks of a drill or failover did not pass, or source and copy differ
  7  stored data is damaged

A first hour:
  lifeboat init /srv/lifeboat --name dr-1 --advertise dr-1.example.org
  lifeboat serve --dir /srv/lifeboat
  lifeboat login --url https://dr-1.example.org:8443 --fingerprint SHA256 --token TOKEN
  lifeboat token create --agent
  lifeboat protect web-1 --agent host-a --qmp /run/vm/web-1.qmp --wait
  lifeboat drill web-1 --check tcp:80
  lifeboat status";

/// Disaster recovery for running servers: copy them as they change, run them at a second site.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
#[command(infer_subcommands = false, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Address of the site's API, for example https://dr-1.example.org:8443
    #[arg(long, global = true, env = "LIFEBOAT_URL", value_name = "URL", help_heading = "Site")]
    pub url: Option<String>,
    /// SHA-256 fingerprint of the site's certificate authority, as `init` printed it
    #[arg(long, global = true, env = "LIFEBOAT_FINGERPRINT", value_name = "HEX", help_heading = "Site")]
    pub fingerprint: Option<String>,
    /// Access token
    #[arg(
        long,
        global = true,
        env = "LIFEBOAT_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Site"
    )]
    pub token: Option<String>,
    /// Print what the API answered, as JSON
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// No colours (also NO_COLOR=1)
    #[arg(long, global = true, help_heading = "Output")]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a site: configuration, certificate authority, keys, store and the first token
    Init(InitArgs),
    /// Run a site until SIGTERM or Ctrl-C
    Serve(ServeArgs),
    /// Remember a site and a token for the commands below
    Login,
    /// One screen: alarms, servers, runs, operations, and what to do next
    #[command(visible_alias = "st")]
    Status(StatusArgs),
    /// Protect a running machine, file or block device
    Protect(Box<ProtectArgs>),
    /// List protected servers
    Servers,
    /// Show one server
    Server(Name),
    /// Change how a server is kept, replicated, watched and launched
    Set(Box<SetArgs>),
    /// Stop replication; recovery points are kept
    Stop(Name),
    /// Replicate again after `stop` or a failed failover
    Resume(Name),
    /// Forget a stopped server and delete its recovery points
    Delete(DeleteArgs),
    /// Let a server go on that is held because the store is older than its data
    Accept(AcceptArgs),
    /// Show the measured RPO: now, over the hour and day, and by the minute
    Rpo(RpoArgs),
    /// Compare source and copy, block by block, while both go on
    Verify(VerifyArgs),
    /// Look for damage in what is stored, and name the points it affects
    Check(CheckJournalArgs),
    /// Groups of servers that are brought back to one moment together
    #[command(subcommand)]
    Group(GroupCommand),
    /// List recovery points, or find the one at a moment
    Points(PointsArgs),
    /// Serve a recovery point as an NBD disk on this site's host
    Mount(MountArgs),
    /// List mounts
    Mounts,
    /// End a mount
    Unmount(MountId),
    /// Write a recovery point to an image file (run this on the site's host)
    Export(ExportArgs),
    /// List what old sources wrote after a failover, or delete it
    Branches(BranchesArgs),
    /// Run a recovery point in isolation and check it; replication goes on
    Drill(DrillArgs),
    /// Remove the machine of a drill now, or that of a committed failover; its report is kept
    Cleanup(CleanupArgs),
    /// List runs: machines launched by drills and failovers
    Runs,
    /// Show one run with its checks and measured times
    Run(RunId),
    /// Save a picture of a run's screen (PNG)
    Screen(ScreenArgs),
    /// Print the serial console of a run
    #[command(visible_alias = "console")]
    Serial(SerialArgs),
    /// Run a server here for real; replication of it ends
    Failover(FailoverArgs),
    /// Make a failover final: no other point can be chosen; points stay until the server is deleted
    Commit(CommitArgs),
    /// List operations
    #[command(visible_alias = "ops")]
    Operations,
    /// Show one operation with its steps
    #[command(visible_alias = "operation")]
    Op(OpArgs),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// List agents, or revoke one
    Agents(AgentsArgs),
    /// Show the audit log, or verify its chain
    Audit(AuditArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  lifeboat completion bash > /etc/bash_completion.d/lifeboat")]
    Completion { shell: clap_complete::Shell },
    /// Print the OpenAPI description of the API
    Openapi,
}

#[derive(Debug, Args)]
pub struct Name {
    /// Name of the server
    pub name: String,
}

#[derive(Debug, Args)]
pub struct RunId {
    /// Id of the run, or enough of its start to be the only one
    pub run: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lifeboat cleanup 65e3cd52                   a drill's machine
  lifeboat cleanup 7a1d9417 --delete-disks    the machine of a committed failover, with all it wrote")]
pub struct CleanupArgs {
    /// Id of the run, or enough of its start to be the only one
    pub run: String,
    /// End the machine of a failover too, and delete its disks for good
    #[arg(long)]
    pub delete_disks: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct MountId {
    /// Id of the mount, as `mount` printed it
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lifeboat init /srv/lifeboat --name dr-1 --advertise dr-1.example.org --advertise 192.0.2.10")]
pub struct InitArgs {
    /// State directory; must be empty or absent
    #[arg(env = "LIFEBOAT_DIR", default_value = "/var/lib/lifeboat", value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the site, shown to people
    #[arg(long, default_value = "site-1")]
    pub name: String,
    /// Where the API listens
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDR:PORT")]
    pub listen_api: SocketAddr,
    /// Where agents' replication sessions arrive
    #[arg(long, default_value = "0.0.0.0:1500", value_name = "ADDR:PORT")]
    pub listen_replication: SocketAddr,
    /// Host name or address by which agents and people reach this site; may be repeated, the first is told to agents
    #[arg(long, value_name = "HOST")]
    pub advertise: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// State directory, as given to `init`
    #[arg(long, env = "LIFEBOAT_DIR", default_value = "/var/lib/lifeboat", value_name = "DIR")]
    pub dir: PathBuf,
    /// What to log: error, warn, info, debug, trace, or a filter such as info,lifeboat_site=debug
    #[arg(long, env = "RUST_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Redraw every second until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Exit with 6 when there is an alarm, for monitoring
    #[arg(long, conflicts_with = "watch")]
    pub check: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("capture").required(true)), after_help = "\
Examples:
  A running QEMU machine, all its writable disks, without a reboot:
    lifeboat protect web-1 --agent host-a --qmp /run/vm/web-1.qmp --wait
  A file or block device, written through an NBD export from now on:
    lifeboat protect db-1 --agent host-a --export /dev/vg0/db --listen tcp:127.0.0.1:10809
  The same, and no flush completes before this site has it:
    lifeboat protect db-1 --agent host-a --export /dev/vg0/db --mode sync --on-loss degrade")]
pub struct ProtectArgs {
    /// Name of the server: lower-case letters, digits, '.', '_' and '-'
    pub name: String,
    /// The agent beside it (name or id)
    #[arg(long)]
    pub agent: String,
    /// QMP Unix socket of the running machine, as the agent's host sees it
    #[arg(long, value_name = "SOCKET", group = "capture")]
    pub qmp: Option<String>,
    /// Block node of a disk; may be repeated [default: every writable disk]
    #[arg(long, value_name = "NODE", requires = "qmp", conflicts_with = "export")]
    pub disk: Vec<String>,
    /// File or block device at the agent's host; may be repeated, one disk each
    #[arg(long, value_name = "PATH", group = "capture")]
    pub export: Vec<String>,
    /// Where the NBD export listens: unix:PATH or tcp:ADDR:PORT
    #[arg(long, value_name = "ADDRESS", requires = "export")]
    pub listen: Option<String>,
    /// Keep every moment for at least this long
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "TIME")]
    pub window: Duration,
    /// Keep at most this much journal
    #[arg(long, default_value = "64GiB", value_parser = size, value_name = "SIZE")]
    pub window_bytes: u64,
    #[command(flatten)]
    pub replication: ReplicationArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// Show the scan and the initial sync until the server is replicating
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples (what is not named stays as it is):
  lifeboat set db-1 --mode sync --on-loss degrade --loss-seconds 10
  lifeboat set web-1 --window 7d --window-bytes 500GiB --rpo-alarm 30s
  lifeboat set web-1 --memory 4GiB --port 80 --port 443")]
pub struct SetArgs {
    /// Name of the server
    pub name: String,
    /// Keep every moment for at least this long
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub window: Option<Duration>,
    /// Keep at most this much journal
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub window_bytes: Option<u64>,
    #[command(flatten)]
    pub replication: ReplicationArgs,
    #[command(flatten)]
    pub watch: WatchArgs,
    #[command(flatten)]
    pub launch: LaunchArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A server is held when this site's store was restored from a backup older than a failover.
First see what runs at this site (lifeboat runs, and the runs/ directory) and which points
there are (lifeboat points NAME). Afterwards it can be resumed and failed over again.")]
pub struct AcceptArgs {
    /// Name of the server
    pub name: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct RpoArgs {
    /// Name of the server
    pub name: String,
    /// How many minutes to show
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1440), value_name = "N")]
    pub minutes: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What differs is named, sent anew, and an alarm; the exit code is 6 then.
Example:
  lifeboat verify web-1 --rate 200MiB")]
pub struct VerifyArgs {
    /// Name of the server
    pub name: String,
    /// Read at most this much of the source per second; 0 for no limit [default: the server's own rate]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub rate: Option<u64>,
    /// Show how far it is until it is over [default]
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,
    /// Start it and return
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true)), after_help = "\
The exit code is 7 when anything is damaged.
Examples:
  lifeboat check web-1
  lifeboat check --all --full")]
pub struct CheckJournalArgs {
    /// Name of the server
    #[arg(group = "which")]
    pub name: Option<String>,
    /// Every server of this site
    #[arg(long, group = "which")]
    pub all: bool,
    /// Read every record, not only what says where they are; takes as long as reading all of it
    #[arg(long)]
    pub full: bool,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
A branch is what an old source wrote after its epoch was over, kept beside the line and never merged.
Examples:
  lifeboat branches
  lifeboat mount web-1 --branch b1.7f3a
  lifeboat branches delete web-1 b1.7f3a"
)]
pub struct BranchesArgs {
    /// Name of the server [default: all]
    pub name: Option<String>,
    #[command(subcommand)]
    pub command: Option<BranchesCommand>,
}

#[derive(Debug, Subcommand)]
pub enum BranchesCommand {
    /// Delete a branch for good
    Delete(BranchDeleteArgs),
}

#[derive(Debug, Args)]
pub struct BranchDeleteArgs {
    /// Name of the server
    pub name: String,
    /// Id of the branch
    #[arg(value_name = "ID")]
    pub branch: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Name of the server
    pub name: String,
    /// Say that its recovery points go, too
    #[arg(long)]
    pub delete_points: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

const POINT_FORMS: &str = "\
A point is written as:
  latest                          the newest one
  p1.4711                         a point's id
  20s, 5m, 2h, 1d                 an age
  '2026-11-20 03:14:15'           a moment, UTC
  2026-11-20T03:14:15+01:00       a moment with its zone";

#[derive(Debug, Args)]
#[command(after_help = POINT_FORMS)]
pub struct PointsArgs {
    /// Name of the server
    pub name: String,
    /// Only the newest point at or before this moment
    #[arg(long, value_name = "POINT", value_parser = point, conflicts_with_all = ["from", "to", "limit"])]
    pub at: Option<String>,
    /// Oldest to list
    #[arg(long, value_name = "POINT", value_parser = point)]
    pub from: Option<String>,
    /// Newest to list
    #[arg(long, value_name = "POINT", value_parser = point)]
    pub to: Option<String>,
    /// Most lines; points are thinned evenly to it
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = POINT_FORMS)]
pub struct MountArgs {
    /// Name of the server
    pub name: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = point)]
    pub point: String,
    /// A divergent branch instead of a point, as `branches` shows it
    #[arg(long, value_name = "ID", conflicts_with = "point")]
    pub branch: Option<String>,
    /// Allow writes, into an overlay that is thrown away
    #[arg(long)]
    pub writable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lifeboat export web-1 --point '2026-11-20 03:14:15' --format qcow2 -o web-1.qcow2")]
pub struct ExportArgs {
    /// Name of the server
    pub name: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = point)]
    pub point: String,
    /// A divergent branch instead of a point, as `branches` shows it
    #[arg(long, value_name = "ID", conflicts_with = "point")]
    pub branch: Option<String>,
    #[arg(long, value_enum, default_value = "raw")]
    pub format: ImageFormat,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Index of the disk, where the server has several
    #[arg(long, value_name = "N")]
    pub disk: Option<u16>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// tcp:PORT, http:PORT[/PATH], serial:REGEX or script:FILE; may be repeated
    #[arg(help_heading = "Checks", long = "check", value_name = "CHECK")]
    pub checks: Vec<String>,
    /// The checks must pass within this time
    #[arg(help_heading = "Checks", long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub check_timeout: Duration,
    /// Run this file on the site's host after the checks, with the run's facts in its environment
    #[arg(help_heading = "Checks", long, value_name = "FILE")]
    pub post_script: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  lifeboat drill web-1
  lifeboat drill web-1 --point 20s --check http:80/health --keep 0s
  lifeboat drill web-1 --memory 4GiB --network user --check 'serial:login:' --detach
  lifeboat drill cleanup RUN"
)]
pub struct DrillArgs {
    /// Name of the server
    #[arg(required = true)]
    pub name: Option<String>,
    #[command(subcommand)]
    pub command: Option<DrillCommand>,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = point)]
    pub point: String,
    #[command(flatten)]
    pub launch: LaunchArgs,
    #[command(flatten)]
    pub checks: CheckArgs,
    /// Clean up by itself after this time; 0s means as soon as the checks are over
    #[arg(long, default_value = "30m", value_parser = duration, value_name = "TIME")]
    pub keep: Duration,
    /// Show the steps until the checks are over [default]
    #[arg(long, conflicts_with = "detach")]
    pub wait: bool,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Remove the machine of a drill now; its report is kept
    Cleanup(RunId),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lifeboat failover web-1
  lifeboat failover web-1 --point 5m --check tcp:443 --yes
Another point, after a failover (what the present machine wrote is thrown away):
  lifeboat failover web-1 --point '2026-11-20 03:14:15' --discard-current")]
pub struct FailoverArgs {
    /// Name of the server
    pub name: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = point)]
    pub point: String,
    #[command(flatten)]
    pub launch: LaunchArgs,
    #[command(flatten)]
    pub checks: CheckArgs,
    /// Throw away the machine of an earlier failover with all it wrote, and run another point
    #[arg(long)]
    pub discard_current: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Name of the server
    pub name: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct ScreenArgs {
    /// Id of the run, or enough of its start to be the only one
    pub run: String,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct SerialArgs {
    /// Id of the run, or enough of its start to be the only one
    pub run: String,
}

#[derive(Debug, Args)]
pub struct OpArgs {
    /// Id of the operation, or enough of its start to be the only one
    pub id: String,
    /// Show the steps until it ends
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Reads
    Viewer,
    /// Reads, drills, mounts, fails over
    Operator,
    /// Everything, tokens and agents included
    Admin,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is shown once
    #[command(after_help = "\
Examples:
  lifeboat token create --agent --name host-a
  lifeboat token create --role operator --name anna --ttl 90d")]
    Create(TokenCreateArgs),
    /// List tokens, without their secrets
    List,
    /// End a token now
    Revoke {
        /// Id of the token, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true)))]
pub struct TokenCreateArgs {
    /// A one-time token with which an agent joins
    #[arg(long, group = "kind")]
    pub agent: bool,
    /// A token for a person or a program
    #[arg(long, value_enum, group = "kind")]
    pub role: Option<Role>,
    /// For agents the agent's name, for people a name in the audit log
    #[arg(long)]
    pub name: Option<String>,
    /// How long it is valid [default: agents 1h, people for ever]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct AgentsArgs {
    #[command(subcommand)]
    pub command: Option<AgentsCommand>,
}

#[derive(Debug, Subcommand)]
pub enum AgentsCommand {
    /// Refuse an agent from now on and cut its sessions
    Revoke {
        /// Name or id of the agent
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub command: Option<AuditCommand>,
    /// Most lines, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no entry was changed or removed
    Verify,
}

#[cfg(test)]
mod tests;
