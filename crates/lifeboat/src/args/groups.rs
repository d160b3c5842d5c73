//! `lifeboat group`.

use super::values::{check_of, duration, group_point};
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::time::Duration;

const POINT_FORMS: &str = "\
A point of a group is written as:
  latest                          the newest one
  g42                             a point's id
  20s, 5m, 2h, 1d                 an age
  '2026-11-20 03:14:15'           a moment, UTC
  2026-11-20T03:14:15+01:00       a moment with its zone";

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Make a group: its servers get one recovery point at one moment, again and again
    Create(GroupCreateArgs),
    /// List groups
    List,
    /// Show one group
    Show(GroupName),
    /// Forget a group and its points; its servers and their points stay
    Delete(GroupDeleteArgs),
    /// List the points of a group
    Points(GroupPointsArgs),
    /// Make a point of a group now
    Point(GroupName),
    /// Run all servers of a group in isolation from one point, and check them
    Drill(GroupDrillArgs),
    /// Run all servers of a group here for real from one point; replication of them ends
    Failover(GroupFailoverArgs),
}

#[derive(Debug, Args)]
pub struct GroupName {
    /// Name of the group
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lifeboat group create shop web-1 db-1 --every 30s")]
pub struct GroupCreateArgs {
    /// Name of the group
    pub name: String,
    /// Its servers
    #[arg(required = true, value_name = "SERVER")]
    pub servers: Vec<String>,
    /// How often it gets a point; 0s for only when asked
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub every: Duration,
    /// Longest time writes may be held for a point, in milliseconds
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=2000), value_name = "N")]
    pub hold_ms: u32,
}

#[derive(Debug, Args)]
pub struct GroupDeleteArgs {
    /// Name of the group
    pub name: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct GroupPointsArgs {
    /// Name of the group
    pub name: String,
    /// Most lines, newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

#[derive(Debug, Clone, Args)]
pub struct GroupCheckArgs {
    /// SERVER=CHECK, the check as for `drill`; may be repeated
    #[arg(help_heading = "Checks", long = "check", value_name = "SERVER=CHECK", value_parser = check_of)]
    pub checks: Vec<(String, String)>,
    /// The checks must pass within this time
    #[arg(help_heading = "Checks", long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub check_timeout: Duration,
}

impl GroupCheckArgs {
    pub fn by_server(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (server, check) in &self.checks {
            all.entry(server.clone()).or_default().push(check.clone());
        }
        all
    }
}

#[derive(Debug, Args)]
#[command(after_help = POINT_FORMS)]
pub struct GroupDrillArgs {
    /// Name of the group
    pub name: String,
    /// Which point of the group
    #[arg(long, default_value = "latest", value_parser = group_point)]
    pub point: String,
    #[command(flatten)]
    pub checks: GroupCheckArgs,
    /// Clean up by itself after this time; 0s means as soon as the checks are over
    #[arg(long, default_value = "30m", value_parser = duration, value_name = "TIME")]
    pub keep: Duration,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}

#[derive(Debug, Args)]
#[command(after_help = POINT_FORMS)]
pub struct GroupFailoverArgs {
    /// Name of the group
    pub name: String,
    /// Which point of the group
    #[arg(long, default_value = "latest", value_parser = group_point)]
    pub point: String,
    #[command(flatten)]
    pub checks: GroupCheckArgs,
    /// Throw away the machines of an earlier failover with all they wrote, and run another point
    #[arg(long)]
    pub discard_current: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Start it and return
    #[arg(long)]
    pub detach: bool,
}
