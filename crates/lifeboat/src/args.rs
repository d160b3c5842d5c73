//! What can be typed. Help texts here are the reference a stranger reads first.

mod access;
pub mod backup;
pub mod groups;
pub mod launch;
mod points;
mod recover;
pub mod replication;
pub mod retention;
pub mod values;
pub mod vault;

pub use access::{AgentsArgs, AgentsCommand, AuditArgs, AuditCommand, Role, TokenCommand, TokenCreateArgs};
pub use points::{CloneArgs, ExportArgs, ImageFormat, MountArgs, PointsArgs};
pub use recover::{CheckArgs, CommitArgs, DrillArgs, DrillCommand, FailoverArgs};

use backup::BackupCommand;
use clap::{ArgGroup, Args, Parser, Subcommand};
use groups::GroupCommand;
use launch::LaunchArgs;
use replication::{ReplicationArgs, WatchArgs};
use retention::RetentionArgs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use values::{duration, size};
use vault::{FilesArgs, HoldArgs, PlaceArgs, VaultCommand};

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
    /// Write all disks of a recovery point to a directory, to be a server of its own (run this on the site's host)
    Clone(CloneArgs),
    /// Keep a point under a name, release it, or lock it against everybody
    Hold(HoldArgs),
    /// Read single files on a server's disks as they were at a point
    Files(FilesArgs),
    /// The vault: points that last
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Backups of files
    #[command(subcommand)]
    Backup(BackupCommand),
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
  lifeboat init /srv/lifeboat --name dr-1 --advertise dr-1.example.org --advertise 192.0.2.10
  lifeboat init /srv/lifeboat --vault s3://backup/dr-1 --endpoint https://s3.example.org \\
    --access-key-file /etc/lifeboat/s3.key")]
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
    /// Where the vault is kept: a directory, s3://BUCKET/PREFIX, or `none` [default: DIR/vault]
    #[arg(long, value_name = "LOCATION")]
    pub vault: Option<String>,
    #[command(flatten)]
    pub place: PlaceArgs,
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
    pub retention: RetentionArgs,
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
    pub retention: RetentionArgs,
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

#[cfg(test)]
mod tests;
