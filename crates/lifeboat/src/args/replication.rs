//! How a server is replicated and watched over, as flags of `protect` and `set`.

use super::values::{hours, rpo_alarm, size};
use clap::{Args, ValueEnum};
use lifeboat_api::types::{OnLoss, ReplicationMode, ReplicationSpec, WatchSpec};

const REPLICATION: &str = "Replication";
const WATCH: &str = "Watching";

// What a value means stands with its flag: clap would make the help of the whole command four times as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Async,
    Sync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Loss {
    Block,
    Degrade,
}

/// When an RPO is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpoAlarm {
    /// By the site's own limit.
    Site,
    /// Past this many seconds.
    After(u32),
}

#[derive(Debug, Clone, Default, Args)]
pub struct ReplicationArgs {
    /// async: writes complete at the source and the copy follows; sync: a flush completes once this site has
    /// everything before it (with --export only); async at first
    #[arg(help_heading = REPLICATION, long, value_enum)]
    pub mode: Option<Mode>,
    /// What synchronous flushes do when this site does not answer in time: block, they fail and nothing is lost;
    /// degrade, they go on without it, with an alarm; block at first
    #[arg(help_heading = REPLICATION, long, value_enum)]
    pub on_loss: Option<Loss>,
    /// How many seconds synchronous flushes wait for this site; 30 at first
    #[arg(help_heading = REPLICATION, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub loss_seconds: Option<u32>,
    /// Disk the agent may use to keep what cannot be sent now; 0 for none; 4GiB at first
    #[arg(help_heading = REPLICATION, long, value_parser = size, value_name = "SIZE")]
    pub spool: Option<u64>,
}

impl ReplicationArgs {
    /// These flags over `base`; `None` when none is given.
    pub fn over(&self, base: &ReplicationSpec) -> Option<ReplicationSpec> {
        let given = self.mode.is_some()
            || self.on_loss.is_some()
            || self.loss_seconds.is_some()
            || self.spool.is_some();
        given.then(|| ReplicationSpec {
            mode: match self.mode {
                None => base.mode,
                Some(Mode::Async) => ReplicationMode::Async,
                Some(Mode::Sync) => ReplicationMode::Sync,
            },
            on_loss: match self.on_loss {
                None => base.on_loss,
                Some(Loss::Block) => OnLoss::Block,
                Some(Loss::Degrade) => OnLoss::Degrade,
            },
            loss_seconds: self.loss_seconds.unwrap_or(base.loss_seconds),
            spool_bytes: self.spool.unwrap_or(base.spool_bytes),
        })
    }
}

#[derive(Debug, Clone, Default, Args)]
pub struct WatchArgs {
    /// Alarm when the newest point is older than this; `site`, as at first, for the site's own limit
    #[arg(help_heading = WATCH, long, value_parser = rpo_alarm, value_name = "TIME")]
    pub rpo_alarm: Option<RpoAlarm>,
    /// Compare source and copy this often by itself, in whole hours, or `never`; 7d at first
    #[arg(help_heading = WATCH, long, value_parser = hours, value_name = "TIME")]
    pub verify_every: Option<u32>,
    /// Read at most this much of the source per second for it; 0 for no limit; 64MiB at first
    #[arg(help_heading = WATCH, long, value_parser = size, value_name = "SIZE")]
    pub verify_rate: Option<u64>,
}

impl WatchArgs {
    /// These flags over `base`; `None` when none is given.
    pub fn over(&self, base: &WatchSpec) -> Option<WatchSpec> {
        let given = self.rpo_alarm.is_some() || self.verify_every.is_some() || self.verify_rate.is_some();
        given.then(|| WatchSpec {
            rpo_alarm_seconds: match self.rpo_alarm {
                None => base.rpo_alarm_seconds,
                Some(RpoAlarm::Site) => None,
                Some(RpoAlarm::After(seconds)) => Some(seconds),
            },
            verify_hours: self.verify_every.unwrap_or(base.verify_hours),
            verify_rate: self.verify_rate.unwrap_or(base.verify_rate),
        })
    }
}
