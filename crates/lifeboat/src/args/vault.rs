//! `lifeboat vault`, `lifeboat hold` and `lifeboat files`.

use super::values::{duration, point};
use clap::{ArgGroup, Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// How the vault stands: copies, sizes, backlog, what is damaged
    Status,
    /// What it holds by server and backup set: logical, unique and stored bytes
    Usage(UsageArgs),
    /// Look whether everything is there, and read some of it back
    Check(VaultCheckArgs),
    /// Read everything back within the scrub's budget
    Scrub(DetachArgs),
    /// Bring back what is damaged or missing, from other copies and from sources
    Repair(DetachArgs),
    /// Forget points no rule keeps, and free their room: shows the plan, then asks
    Prune(PruneArgs),
    /// Make the local index anew from the vault
    Reindex(DetachArgs),
    /// List long work
    Jobs,
    /// Show one job
    Job(JobArgs),
    /// Ask a job to end; what it has done stays
    Cancel(JobId),
    /// The time that retention and locks count by
    Clock(ClockArgs),
    /// Keys of the vault
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look whether a place can hold a vault (run this on the site's host)
    Probe(ProbeArgs),
    /// Make a new site from a vault and its recovery kit, after the old one is lost
    Attach(Box<AttachArgs>),
}

#[derive(Debug, Args)]
pub struct UsageArgs {
    /// By point, too
    #[arg(long)]
    pub points: bool,
}

#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is 7 when anything is damaged or missing.
Examples:
  lifeboat vault check
  lifeboat vault check --read-data 10")]
pub struct VaultCheckArgs {
    /// Read the content of so many percent of the packs back, too
    #[arg(long, default_value = "0", value_name = "PERCENT", value_parser = percent)]
    pub read_data: u8,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

/// `10` or `10%`
fn percent(text: &str) -> Result<u8, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    number.parse().ok().filter(|n| *n <= 100).ok_or_else(|| "write a percentage, 0 to 100".to_string())
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only show what would be done
    #[arg(long)]
    pub plan: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct JobArgs {
    /// Id of the job
    pub id: String,
    /// Show how far it is until it ends
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct JobId {
    /// Id of the job
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
What expires and what is locked goes by a time of the site's own, which a clock that jumps does not move: after a jump, a
week of standstill, or on a site made from a vault, it is behind, and points last longer than their dates say. Accept the
clock of the site's host only when it is right: points may expire and locks end by it.")]
pub struct ClockArgs {
    /// Count by the clock of the site's host from now on (role admin)
    #[arg(long)]
    pub accept: bool,
    /// Do not ask
    #[arg(long, requires = "accept")]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Seal new content with a new key from now on; what is there stays readable
    Rotate,
    /// Write a recovery kit: with it and the vault a new site recovers everything
    Kit(KitArgs),
    /// Replace the key that opens the vault, after a kit or the state directory got into wrong hands (run this on the site's
    /// host, while the site does not run)
    Replace(ReplaceArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
All recovery kits made until now open nothing afterwards: make a new one. Agents keep their changes while the site does not run.
Example:
  systemctl stop lifeboat && lifeboat vault key replace && systemctl start lifeboat")]
pub struct ReplaceArgs {
    /// State directory of the site
    #[arg(long, env = "LIFEBOAT_DIR", default_value = "/var/lib/lifeboat", value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Whoever has the kit and its passphrase can read everything: keep it apart from the site and from the vault.
Examples:
  lifeboat vault key kit --out dr-1.kit
  lifeboat vault key kit --out dr-1.kit --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")]
pub struct KitArgs {
    /// File to write; it must not exist
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// File whose first line is the passphrase [default: LIFEBOAT_KIT_PASSPHRASE, or asked for]
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    pub passphrase_file: Option<PathBuf>,
    /// Encrypt to this age recipient instead of a passphrase
    #[arg(long, value_name = "AGE1...")]
    pub recipient: Option<String>,
}

/// Where a vault is kept.
#[derive(Debug, Clone, Default, Args)]
pub struct PlaceArgs {
    /// S3 endpoint, for example https://s3.example.org
    #[arg(help_heading = "Object store", long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// S3 region
    #[arg(help_heading = "Object store", long, value_name = "NAME")]
    pub region: Option<String>,
    /// Write the bucket into the path, not into the host name
    #[arg(help_heading = "Object store", long)]
    pub path_style: bool,
    /// PEM file of the authority that signed the endpoint's certificate
    #[arg(help_heading = "Object store", long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Access key as AWS's own tools keep it: [default], aws_access_key_id = ..., aws_secret_access_key = ...
    /// [default: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY]
    #[arg(help_heading = "Object store", long, value_name = "FILE")]
    pub access_key_file: Option<PathBuf>,
    /// Section of that file [default: default]
    #[arg(help_heading = "Object store", long, value_name = "NAME", requires = "access_key_file")]
    pub profile: Option<String>,
    /// Speak plain http to an endpoint that has no https
    #[arg(help_heading = "Object store", long)]
    pub allow_http: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lifeboat vault probe s3://backup/dr-1 --endpoint https://s3.example.org --access-key-file /etc/lifeboat/s3.key")]
pub struct ProbeArgs {
    /// A directory, or s3://BUCKET/PREFIX
    pub location: String,
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lifeboat vault attach s3://backup/dr-1 --kit dr-1.kit --dir /srv/lifeboat --endpoint https://s3.example.org
  lifeboat vault attach /mnt/rescue/vault --kit dr-1.kit --dir /srv/lifeboat")]
pub struct AttachArgs {
    /// Where the vault is: a directory, or s3://BUCKET/PREFIX
    pub location: String,
    /// The recovery kit
    #[arg(long, value_name = "FILE")]
    pub kit: PathBuf,
    /// File whose first line is the passphrase [default: LIFEBOAT_KIT_PASSPHRASE, or asked for]
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    pub passphrase_file: Option<PathBuf>,
    /// age identity file, where the kit was encrypted to a recipient
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// State directory of the new site; must be empty or absent
    #[arg(long, env = "LIFEBOAT_DIR", default_value = "/var/lib/lifeboat", value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the site [default: as in the kit]
    #[arg(long)]
    pub name: Option<String>,
    /// Where the API listens
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDR:PORT")]
    pub listen_api: SocketAddr,
    /// Where agents' replication sessions arrive
    #[arg(long, default_value = "0.0.0.0:1500", value_name = "ADDR:PORT")]
    pub listen_replication: SocketAddr,
    /// Host name or address by which agents and people reach this site; may be repeated, the first is told to agents
    #[arg(long, value_name = "HOST")]
    pub advertise: Vec<String>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true)))]
pub struct HoldFlags {
    /// Keep it under this name until it is released
    #[arg(long, group = "what")]
    pub name: Option<String>,
    /// Take the name away; retention by rule counts again
    #[arg(long, group = "what", conflicts_with = "name")]
    pub release: bool,
    /// Lock it from now on: nobody can delete it before, admins included; cannot be taken back
    #[arg(long, group = "what", value_parser = duration, value_name = "TIME")]
    pub lock: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A point that is in the journal only is put into the vault first.
Examples:
  lifeboat hold web-1 latest --name before-upgrade
  lifeboat hold web-1 before-upgrade --release
  lifeboat hold web-1 p1.4711 --lock 30d")]
pub struct HoldArgs {
    /// Name of the server
    pub server: String,
    /// Which point
    #[arg(value_parser = named_point)]
    pub point: String,
    #[command(flatten)]
    pub hold: HoldFlags,
}

/// Any form of a point, or the name one was given.
pub fn named_point(text: &str) -> Result<String, String> {
    point(text).or_else(|e| {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let name = text.trim();
        if !name.is_empty() && name.len() <= 64 && name.chars().all(legal) { Ok(name.into()) } else { Err(e) }
    })
}

#[derive(Debug, Args)]
#[command(after_help = "\
Looks into the file systems on a server's disks, read-only, without starting it.
Examples:
  lifeboat files web-1 ls                               disks and partitions
  lifeboat files web-1 --point 2h ls disk0p1/etc
  lifeboat files web-1 get disk0p1/etc/fstab -o fstab")]
pub struct FilesArgs {
    /// Name of the server
    pub server: String,
    /// Which point
    #[arg(long, default_value = "latest", value_parser = named_point)]
    pub point: String,
    #[command(subcommand)]
    pub command: FilesCommand,
}

#[derive(Debug, Subcommand)]
pub enum FilesCommand {
    /// List a directory; without a path, the disks and their partitions
    Ls {
        /// For example disk0p1/etc
        #[arg(default_value = "")]
        path: String,
    },
    /// Write a file to standard output or to FILE
    Get {
        /// For example disk0p1/etc/fstab
        path: String,
        /// File to write; it must not exist
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}
