//! Drill, failover, commit.

use super::RunId;
use super::launch::LaunchArgs;
use super::values::duration;
use super::vault::named_point;
use clap::{Args, Subcommand};
use std::time::Duration;

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
    #[arg(long, default_value = "latest", value_parser = named_point)]
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
    #[arg(long, default_value = "latest", value_parser = named_point)]
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
