//! `lifeboat backup`.

use super::retention::RetentionArgs;
use super::vault::{DetachArgs, HoldFlags};
use clap::{Args, Subcommand};
use std::path::PathBuf;

const BACKUP_FORMS: &str = "\
A backup is named by its id, by the first digits of it (at least 8), or by a set's name for its newest.";

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back up directories and files: makes or changes a set, then runs it
    Create(CreateArgs),
    /// Run a set again
    Run(RunArgs),
    /// List sets: what is backed up, how often, and how it went
    Sets,
    /// Forget a set; its backups stay
    Forget(SetName),
    /// List backups, newest first
    List(ListArgs),
    /// Show one backup
    Show(BackupName),
    /// List what a directory of a backup holds
    Ls(LsArgs),
    /// Show what differs between two backups
    Diff(DiffArgs),
    /// Bring files back, to where they were or to another directory, on the site's host or an agent's
    Restore(RestoreArgs),
    /// Write a file of a backup to standard output or to FILE
    Dump(DumpArgs),
    /// Show a backup as a read-only file system on the site's host
    Mount(MountBackupArgs),
    /// End that
    Unmount(UnmountBackupArgs),
    /// Name a backup, release it, or lock it
    Hold(HoldBackupArgs),
    /// Delete a backup for good
    Delete(DeleteBackupArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lifeboat backup create /etc /srv/www --name www --exclude '*.log'
  lifeboat backup create /home --agent host-a --schedule '30 2 * * *' --retention gfs
  lifeboat backup create / --one-file-system --keep-rule 'every 1d for 30d' --only-define")]
pub struct CreateArgs {
    /// Directories and files; of the site's own host, or of the agent's
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Name of the set [default: the last part of the first path]
    #[arg(long)]
    pub name: Option<String>,
    /// The agent on whose host the paths are (name or id) [default: the site's own host]
    #[arg(long)]
    pub agent: Option<String>,
    /// Leave out what matches, as in .gitignore; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Leave nothing out any more
    #[arg(long, conflicts_with = "exclude")]
    pub no_exclude: bool,
    /// Do not go into other file systems
    #[arg(long)]
    pub one_file_system: bool,
    /// Go into other file systems again
    #[arg(long, conflicts_with = "one_file_system")]
    pub no_one_file_system: bool,
    /// Run it by itself: minute, hour, day, month, weekday, in the site's time zone
    #[arg(long, value_name = "CRON")]
    pub schedule: Option<String>,
    /// Run it by hand only from now on
    #[arg(long, conflicts_with = "schedule")]
    pub no_schedule: bool,
    #[command(flatten)]
    pub retention: RetentionArgs,
    /// Make or change the set, and do not run it now
    #[arg(long)]
    pub only_define: bool,
    /// Start it and return
    #[arg(long, conflicts_with = "only_define")]
    pub detach: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the set
    pub set: String,
    #[command(flatten)]
    pub detach: DetachArgs,
}

#[derive(Debug, Args)]
pub struct SetName {
    /// Name of the set
    pub set: String,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only backups of this set
    pub set: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_FORMS)]
pub struct BackupName {
    /// Which backup
    pub backup: String,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_FORMS)]
pub struct LsArgs {
    /// Which backup
    pub backup: String,
    /// Directory within it
    #[arg(default_value = "")]
    pub path: String,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_FORMS)]
pub struct DiffArgs {
    /// The older backup
    pub older: String,
    /// The newer backup
    pub newer: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A backup is named by its id, by the first digits of it (at least 8), or by a set's name for its newest.
Examples:
  lifeboat backup restore www --to /srv/restored
  lifeboat backup restore 4f1c22aa --path /etc/ssh --to / --overwrite --verify
  lifeboat backup restore home --to / --agent host-a --verify")]
pub struct RestoreArgs {
    /// Which backup
    pub backup: String,
    /// Directory under which the tree is put, made if its parent is there; / for where it came from, which a backup made through an agent
    /// takes --agent for
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// The agent on whose host the directory is (name or id) [default: the site's own host]
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only this path of the backup; may be repeated
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// Replace what is there already
    #[arg(long)]
    pub overwrite: bool,
    /// Read everything back afterwards and compare
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub detach: DetachArgs,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_FORMS)]
pub struct DumpArgs {
    /// Which backup
    pub backup: String,
    /// The file
    pub path: String,
    /// File to write; it must not exist
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_FORMS)]
pub struct MountBackupArgs {
    /// Which backup
    pub backup: String,
    /// An empty directory of the site's host
    pub directory: PathBuf,
}

#[derive(Debug, Args)]
pub struct UnmountBackupArgs {
    /// The directory it was mounted at
    pub directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = BACKUP_FORMS)]
pub struct HoldBackupArgs {
    /// Which backup
    pub backup: String,
    #[command(flatten)]
    pub hold: HoldFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A backup is named by its id, by the first digits of it (at least 8), or by a set's name for its newest; with --yes not by a \
name, because nobody has seen which backup that is.")]
pub struct DeleteBackupArgs {
    /// Which backup
    pub backup: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}
