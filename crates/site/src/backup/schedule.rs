//! When sets are due.
//!
//! Invariants: a run that was missed, however often, is made once; a run that failed is tried again, ever more rarely,
//! until the next one succeeds; one that a person ended counts as made; a schedule counts from when it was given, also
//! over restarts.

use super::Backups;
use crate::Site;
use croner::Cron;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{BackupSet, ErrorCode};
use lifeboat_base::WallTime;
use lifeboat_base::limits::MAX_NAME;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether anything is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long after a failure it is tried again, the first time and at most.
const RETRY: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
const FILE: &str = "backup-schedules.json";

/// What is known of a set's next run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// When its schedule was given, or a run was ended by a person.
    pub since: WallTime,
    /// Failures in a row, and until when (monotonic) it is left alone for them.
    failures: u32,
    quiet_until: Duration,
}

impl Due {
    pub fn new(since: WallTime) -> Self {
        Self { since, failures: 0, quiet_until: Duration::ZERO }
    }

    /// The next run after `last`, the newest backup; `None` without a schedule.
    pub fn next(
        &self,
        set: &BackupSet,
        last: Option<WallTime>,
        zone: &jiff::tz::TimeZone,
    ) -> Option<WallTime> {
        let cron = parse(set).ok().flatten()?;
        let from = last.map_or(self.since, |l| l.max(self.since)).to_jiff().to_zoned(zone.clone());
        let next = cron.find_next_occurrence(&from, false).ok()?;
        Some(WallTime::from_jiff(next.timestamp()))
    }

    fn failed(&mut self, now: Duration) {
        let wait = RETRY.saturating_mul(1 << self.failures.min(10)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.quiet_until = now + wait;
    }
}

/// The schedule of a set.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(set: &BackupSet) -> Result<Option<Cron>, PortError> {
    let Some(text) = &set.schedule else { return Ok(None) };
    let wrong = |why: String| {
        PortError::new(ErrorCode::Invalid, format!("'{text}' is no schedule: {why}"))
            .hint("minute hour day month weekday, for example '0 3 * * *' for every night at three")
    };
    if text.len() > MAX_NAME {
        return Err(wrong("it is too long".into()));
    }
    Cron::from_str(text).map(Some).map_err(|e| wrong(e.to_string()))
}

#[derive(Serialize, Deserialize)]
pub(super) struct Since {
    pub since: WallTime,
    pub schedule: Option<String>,
}

pub(super) fn load(dir: &Path) -> HashMap<String, Since> {
    let text = std::fs::read(dir.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Losing it costs a missed run at most.
pub(super) fn save<'a>(dir: &Path, sets: impl Iterator<Item = (&'a BackupSet, WallTime)>) {
    let since = |(set, since): (&BackupSet, WallTime)| {
        (set.name.clone(), Since { since, schedule: set.schedule.clone() })
    };
    let all: HashMap<String, Since> = sets.map(since).collect();
    let new = dir.join("backup-schedules.new");
    let text = serde_json::to_vec(&all).unwrap_or_default();
    let saved = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, dir.join(FILE)));
    if let Err(e) = saved {
        tracing::warn!("schedules of backups cannot be written down: {e}");
    }
}

impl Backups {
    /// Sets that are to run now.
    fn due(&self) -> Vec<String> {
        let Ok(vault) = self.vault.open() else { return Vec::new() };
        let (now, monotonic) = (self.clock.wall(), self.clock.monotonic());
        let mut sets = self.sets.lock();
        // Given while a clock was ahead: it counts from now then.
        sets.values_mut().for_each(|s| s.due.since = s.due.since.min(now));
        let due = sets.values().filter(|state| {
            let last = Self::newest(&vault, &state.set.name).map(|s| s.body.source_time);
            // A backup from the future (a clock that was wrong) does not keep the next from being made for ever.
            let last = last.filter(|l| *l <= now);
            let next = state.due.next(&state.set, last, &self.zone);
            monotonic >= state.due.quiet_until && next.is_some_and(|n| n <= now)
        });
        due.map(|s| s.set.name.clone()).collect()
    }

    /// How a run ended; `cancelled`: because a person said so.
    pub(super) fn note(&self, set: &str, error: Option<&PortError>, cancelled: bool) {
        let now = self.clock.monotonic();
        let mut sets = self.sets.lock();
        let Some(state) = sets.get_mut(set) else { return };
        state.error = error.map(ToString::to_string);
        match error {
            Some(_) if cancelled => {
                state.due = Due::new(self.clock.wall());
                save(&self.dir, sets.values().map(|s| (&s.set, s.due.since)));
            }
            Some(_) => state.due.failed(now),
            None => state.due.failures = 0,
        }
    }
}

impl Site {
    /// Starts what is due.
    pub(crate) fn start_due_backups(self: &Arc<Self>) {
        for set in self.backups.due() {
            match self.start_backup(&set) {
                Ok(job) => tracing::info!(set, job = job.id, "a backup is due"),
                // One that is under way, mostly.
                Err(e) => tracing::debug!(set, "a backup is due: {e}"),
            }
        }
    }

    pub(crate) async fn backup_loop(self: Arc<Self>) {
        let mut shutdown: watch::Receiver<bool> = self.shutdown.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = shutdown.wait_for(|s| *s) => return,
            }
            let site = Arc::clone(&self);
            let looked = move || {
                site.start_due_backups();
                site.disk_files.sweep(site.clock.monotonic());
            };
            let _ = tokio::task::spawn_blocking(looked).await;
        }
    }
}

#[cfg(test)]
mod tests;
