//! What of the vault and the backups needs a person.

use super::App;
use super::alarms::{Alarms, Urgency};
use lifeboat_api::types::{BackupSetInfo, VaultState, VaultStatus};
use lifeboat_base::format_bytes;
use std::time::Duration;

/// A backlog that does not shrink for so long is an alarm, where it is more than [`MUCH`].
const LONG: Duration = Duration::from_secs(3600);
const MUCH: u64 = 1 << 30;

/// The least that a large backlog was, and since when, by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    least: u64,
    since: Duration,
}

impl Backlog {
    /// What is remembered after `bytes` were seen at `now`; a small backlog is none.
    fn after(old: Option<Backlog>, now: Duration, bytes: u64) -> Option<Backlog> {
        match old {
            _ if bytes < MUCH => None,
            Some(old) if bytes >= old.least => Some(old),
            _ => Some(Backlog { least: bytes, since: now }),
        }
    }
}

impl App {
    /// Remembers whether the journal's backlog shrinks.
    pub(super) fn watch_backlog(&self) {
        let (now, bytes) = (self.clock.monotonic(), self.port().status().backlog_bytes);
        let mut backlog = self.backlog.lock();
        *backlog = Backlog::after(*backlog, now, bytes);
    }

    pub(super) fn vault_alarms(&self, alarms: &mut Alarms, v: &VaultStatus, waits: bool) {
        let reason = v.reason.as_deref().unwrap_or("no reason is known; see the site's log");
        match v.state {
            VaultState::Unavailable => {
                let text = format!(
                    "the vault cannot be reached, so journals are kept beyond their window and older points cannot \
                     be opened: {reason}"
                );
                alarms.push((Urgency::Now, text));
            }
            VaultState::Degraded => alarms.push((Urgency::Soon, format!("the vault: {reason}"))),
            VaultState::Off | VaultState::Opening | VaultState::Ready => {}
        }
        if waits {
            let why = self.vault_trouble.lock().clone().map_or(String::new(), |w| format!(" ({w})"));
            let text = format!(
                "this site was attached to a vault and has not read its catalogue yet{why}; its servers are listed once \
                 the vault is open: `lifeboat vault status`"
            );
            alarms.push((Urgency::Soon, text));
        }
        // Where there is one place only, its absence is the vault's, which is told above.
        for copy in v.copies.iter().filter(|c| !c.reachable && v.copies.len() > 1) {
            let why = copy.error.as_deref().unwrap_or("no reason is known");
            let text = format!("the vault's copy at {} cannot be reached: {why}", copy.location);
            alarms.push((Urgency::Soon, text));
        }
        for copy in v.copies.iter().filter(|c| c.reachable && c.lacking > 0) {
            let text = format!(
                "the vault's copy at {} lacks {} objects; bring them: `lifeboat vault repair`",
                copy.location, copy.lacking
            );
            alarms.push((Urgency::Later, text));
        }
        let damaged: Vec<_> = v.findings.iter().filter(|f| !f.repaired).collect();
        if let Some(first) = damaged.first() {
            let touched = match first.touches.first() {
                Some(point) => format!(", which touches {point}"),
                None => String::new(),
            };
            let text = format!(
                "{} objects of the vault are damaged or missing, the first {} ({}){touched}; `lifeboat vault repair`",
                damaged.len(),
                first.object,
                first.what
            );
            alarms.push((Urgency::Now, text));
        }
        // Before the first look nobody knows for how long it is there.
        let since = self.backlog.lock().map(|b| b.since);
        let stuck = since.map_or(Duration::ZERO, |s| self.clock.monotonic().saturating_sub(s));
        if v.state != VaultState::Off && v.backlog_bytes >= MUCH && stuck >= LONG {
            let text = format!(
                "{} of journals are due to go to the vault, and it has not become less for {} h; see `lifeboat vault \
                 status`",
                format_bytes(v.backlog_bytes),
                stuck.as_secs() / 3600
            );
            alarms.push((Urgency::Soon, text));
        }
    }
}

pub(super) fn set_alarm(alarms: &mut Alarms, info: &BackupSetInfo) {
    if let Some(why) = &info.error {
        let text = format!(
            "backup set {0}: the last backup failed: {why}; again: `lifeboat backup run {0}`",
            info.set.name
        );
        alarms.push((Urgency::Soon, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_as_old_as_when_it_last_shrank_from_the_clocks_zero_on() {
        let at = Duration::from_secs;
        assert!(Backlog::after(None, at(0), MUCH - 1).is_none());
        let first = Backlog::after(None, at(0), 8 * MUCH);
        assert_eq!(first.unwrap().since, at(0));
        let grown = Backlog::after(first, at(9), 9 * MUCH);
        assert_eq!(grown.map(|b| (b.since, b.least)), Some((at(0), 8 * MUCH)));
        let shrunk = Backlog::after(grown, at(10), 7 * MUCH);
        assert_eq!(shrunk.unwrap().since, at(10));
        assert!(Backlog::after(shrunk, at(11), MUCH - 1).is_none());
    }
}
