//! What outlives the journal, as flags of `protect`, `set` and `backup create`.

use super::values::{duration, rule};
use clap::{Args, ValueEnum};
use lifeboat_api::types::{RetentionPreset, RetentionRule, RetentionSpec};
use std::time::Duration;

const KEEPING: &str = "Keeping";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    Aws,
    Hbr24,
    Gfs,
    None,
    Own,
}

#[derive(Debug, Clone, Default, Args)]
pub struct RetentionArgs {
    /// What the vault keeps. aws: every 10 min for 1 h, hourly for 24 h, daily for 7 d; hbr24: 24 hourly; gfs: hourly
    /// for a day, daily for a week, weekly, monthly, yearly for 7 y; none: only what is named; own: see --keep-rule; aws at
    /// first
    #[arg(help_heading = KEEPING, long, value_enum)]
    pub retention: Option<Preset>,
    /// A rule of one's own, such as 'every 1h for 2d'; may be repeated
    #[arg(help_heading = KEEPING, long = "keep-rule", alias = "keep", value_name = "RULE", value_parser = rule)]
    pub keep: Vec<RetentionRule>,
    /// Nobody can delete new points before this time is over, admins included; 0s for no lock
    #[arg(help_heading = KEEPING, long, value_parser = duration, value_name = "TIME")]
    pub lock: Option<Duration>,
}

impl RetentionArgs {
    /// These flags over `base`; `None` when none is given.
    pub fn over(&self, base: &RetentionSpec) -> Option<RetentionSpec> {
        let given = self.retention.is_some() || !self.keep.is_empty() || self.lock.is_some();
        given.then(|| {
            let preset = match self.retention {
                // A rule says which preset it belongs to.
                None if !self.keep.is_empty() => RetentionPreset::Own,
                None => base.preset,
                Some(Preset::Aws) => RetentionPreset::Aws,
                Some(Preset::Hbr24) => RetentionPreset::Hbr24,
                Some(Preset::Gfs) => RetentionPreset::Gfs,
                Some(Preset::None) => RetentionPreset::None,
                Some(Preset::Own) => RetentionPreset::Own,
            };
            let rules = match (self.keep.is_empty(), preset) {
                (false, _) => self.keep.clone(),
                (true, RetentionPreset::Own) => base.rules.clone(),
                (true, _) => Vec::new(),
            };
            let lock_seconds = self.lock.map_or(base.lock_seconds, |l| l.as_secs());
            RetentionSpec { preset, rules, lock_seconds }
        })
    }
}
