//! What a server's state is called, and why, in words that say what comes next.
//!
//! `Lag` heals by itself and says how long that takes, where it is known. `Stalled` says what a person must do. Only one
//! reason is told, the worst.

use crate::Site;
use crate::server::{Measured, ServerCell};
use lifeboat_api::types::{
    Health, OnLoss, ReplicationMode, SyncModeState, SyncPhase, SyncProgress, SyncStatus,
};
use lifeboat_base::{WallTime, format_bytes};
use lifeboat_journal::Finding;
use lifeboat_replicate::message::{Phase, ServerReport, SyncState};
use std::time::Duration;

/// RPO past which replication is called late.
const LATE: Duration = Duration::from_secs(15);
/// Silence of the agent past which a person is called for.
const LOST: Duration = Duration::from_secs(120);

/// A server's state in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub health: Health,
    pub reason: Option<String>,
    pub ready_in_seconds: Option<u64>,
}

impl Judgement {
    fn new(health: Health, reason: impl Into<String>) -> Self {
        Self { health, reason: Some(reason.into()), ready_in_seconds: None }
    }
}

/// What is known when a server is judged.
pub(crate) struct Facts<'a> {
    pub name: &'a str,
    pub mode: ReplicationMode,
    pub on_loss: OnLoss,
    pub measured: &'a Measured,
    pub agent_here: bool,
    pub rpo: Option<Duration>,
    /// Until it has caught up, in seconds.
    pub eta: Option<u64>,
    pub lag_bytes: u64,
    pub damage: &'a [Finding],
    /// Whether the newest point needs what is damaged.
    pub newest_damaged: bool,
    pub trouble: Option<&'a str>,
}

impl Facts<'_> {
    pub(crate) fn judge(&self) -> Judgement {
        let m = self.measured;
        let age = self.rpo.unwrap_or_default();
        if let Some(fault) = &m.fault {
            return Judgement::new(Health::Stalled, fault.clone());
        }
        if !self.agent_here {
            let text = "the agent is not connected: look at its host and at 'lifeboat-agent status' there";
            let lost = age > LOST || self.rpo.is_none();
            return Judgement::new(if lost { Health::Stalled } else { Health::Lag }, text);
        }
        let said = m.report.as_ref().map(|r| r.stalled.clone()).filter(|s| !s.is_empty());
        if m.report.as_ref().is_some_and(|r| r.capture == "stalled") {
            return Judgement { health: Health::Stalled, reason: said, ready_in_seconds: None };
        }
        if let Some(j) = self.broken_promise() {
            return j;
        }
        if self.newest_damaged {
            return Judgement::new(Health::Stalled, self.damaged());
        }
        if self.rpo.is_none() {
            if let Some(text) = self.trouble {
                return Judgement::new(Health::Lag, text);
            }
            return Judgement { health: Health::Unknown, reason: said, ready_in_seconds: None };
        }
        self.behind(age, said)
            .or_else(|| self.not_synchronous_yet())
            .or_else(|| (!self.damage.is_empty()).then(|| Judgement::new(Health::Lag, self.damaged())))
            .or_else(|| self.trouble.map(|text| Judgement::new(Health::Lag, text)))
            .unwrap_or(Judgement { health: Health::Ready, reason: None, ready_in_seconds: None })
    }

    fn behind(&self, age: Duration, said: Option<String>) -> Option<Judgement> {
        let connected = self.measured.session.is_some();
        if connected && self.measured.live && age <= LATE && said.is_none() {
            return None;
        }
        if !connected {
            let health = if age > LOST { Health::Stalled } else { Health::Lag };
            let text = said.unwrap_or_else(|| "the stream is reconnecting; this heals itself".into());
            return Some(Judgement::new(health, text));
        }
        let reason = said.unwrap_or_else(|| self.catching_up());
        Some(Judgement { health: Health::Lag, reason: Some(reason), ready_in_seconds: self.eta })
    }

    fn catching_up(&self) -> String {
        let mut text = "catching up".to_owned();
        if self.lag_bytes > 0 {
            text.push_str(&format!(": {} to go", format_bytes(self.lag_bytes)));
        }
        if let Some(eta) = self.eta {
            text.push_str(&format!(", about {}", seconds(eta)));
        }
        text + "; this heals itself"
    }

    /// What synchronous mode promises and does not keep now.
    fn broken_promise(&self) -> Option<Judgement> {
        if self.mode != ReplicationMode::Sync {
            return None;
        }
        match sync_state(self.measured.report.as_ref()) {
            SyncModeState::Blocked => {
                let then = match self.on_loss {
                    OnLoss::Block => "they fail when the time limit is over",
                    OnLoss::Degrade => "they go on without the site when the time limit is over",
                };
                let text = format!(
                    "flushes at the source wait for this site and get no acknowledgement; {then}: \
                     look at the link and at this site's disk"
                );
                Some(Judgement::new(Health::Stalled, text))
            }
            SyncModeState::Degraded => {
                let text = format!(
                    "degraded: flushes go on without the site, what they confirm could be lost; {}",
                    self.catching_up()
                );
                Some(Judgement { ready_in_seconds: self.eta, ..Judgement::new(Health::Lag, text) })
            }
            _ => None,
        }
    }

    fn not_synchronous_yet(&self) -> Option<Judgement> {
        if self.mode != ReplicationMode::Sync
            || sync_state(self.measured.report.as_ref()) == SyncModeState::Synchronous
        {
            return None;
        }
        let text = "flushes do not wait for the site yet; this heals itself";
        Some(Judgement::new(Health::Lag, text))
    }

    fn damaged(&self) -> String {
        let first = self.damage.iter().filter_map(|f| f.points).map(|(first, _)| first).min();
        let last = self.damage.iter().filter_map(|f| f.points).map(|(_, last)| last).max();
        let points = match (first, last) {
            (Some(a), Some(b)) if a == b => format!("point {a} needs"),
            (Some(a), Some(b)) => format!("points from {a} to {b} need"),
            _ => "some points need".into(),
        };
        let then = if self.newest_damaged {
            format!("'lifeboat verify {}' sends it anew", self.name)
        } else {
            "newer points are whole".into()
        };
        let name = self.name;
        format!("the journal is damaged: {points} what is lost; {then}; see 'lifeboat check {name} --full'")
    }
}

fn seconds(n: u64) -> String {
    match n {
        0..120 => format!("{} s", n.max(1)),
        120..7200 => format!("{} min", n.div_ceil(60)),
        _ => format!("{} h", n.div_ceil(3600)),
    }
}

fn sync_state(report: Option<&ServerReport>) -> SyncModeState {
    match report.map(|r| SyncState::try_from(r.sync_state)) {
        Some(Ok(SyncState::NotYet)) => SyncModeState::NotYet,
        Some(Ok(SyncState::Synchronous)) => SyncModeState::Synchronous,
        Some(Ok(SyncState::Blocked)) => SyncModeState::Blocked,
        Some(Ok(SyncState::Degraded)) => SyncModeState::Degraded,
        Some(Ok(SyncState::Asynchronous) | Err(_)) | None => SyncModeState::Unknown,
    }
}

/// How synchronous mode stands; averages of what the agent summed up.
pub(crate) fn sync_status(report: Option<&ServerReport>) -> SyncStatus {
    let state = sync_state(report);
    let since = report.map(|r| r.sync_since).filter(|at| *at > 0 && state != SyncModeState::Synchronous);
    let f = report.and_then(|r| r.flushes).unwrap_or_default();
    let average = |sum: u64| sum.checked_div(f.count).unwrap_or(0) / 1000;
    SyncStatus {
        state,
        since: since.map(WallTime),
        flushes: f.count,
        source_us: average(f.source),
        encode_us: average(f.encode),
        site_us: average(f.site),
        longest_us: f.longest / 1000,
    }
}

pub(crate) fn sync_progress(r: &ServerReport) -> Option<SyncProgress> {
    let phase = match Phase::try_from(r.phase).unwrap_or(Phase::Idle) {
        Phase::Idle | Phase::Live => return None,
        Phase::Scan => SyncPhase::Scan,
        Phase::Full => SyncPhase::Full,
        Phase::Resync => SyncPhase::Resync,
    };
    let left = r.total_bytes.saturating_sub(r.done_bytes);
    Some(SyncProgress {
        phase,
        total_bytes: r.total_bytes,
        done_bytes: r.done_bytes,
        sent_bytes: r.sent_bytes,
        rate: r.rate,
        eta_seconds: left.checked_div(r.rate),
    })
}

impl Site {
    pub(crate) fn judge(&self, cell: &ServerCell, measured: &Measured, rpo: Option<Duration>) -> Judgement {
        let spec = cell.spec.read();
        if !spec.active {
            return Judgement { health: Health::Unknown, reason: None, ready_in_seconds: None };
        }
        let now = self.clock.monotonic();
        let report = measured.report.as_ref();
        let lag_bytes = report.map_or(measured.lag_bytes, |r| r.lag_bytes);
        let newest = cell.reader.usage().newest.map(|p| p.id);
        let w = cell.watched.lock();
        let by_sync = report.and_then(sync_progress).and_then(|p| p.eta_seconds);
        let facts = Facts {
            name: &spec.name,
            mode: spec.replication.mode,
            on_loss: spec.replication.on_loss,
            measured,
            agent_here: self.sessions.agents.lock().contains_key(&spec.agent),
            rpo,
            eta: by_sync.or_else(|| w.pace.eta(lag_bytes)),
            lag_bytes,
            damage: &w.damage,
            newest_damaged: newest
                .is_some_and(|id| w.damage.iter().any(|f| f.points.is_some_and(|(_, last)| last >= id))),
            trouble: w.troubles.newest(now),
        };
        facts.judge()
    }

    /// A report came: changes of synchronous mode go to the audit log.
    pub(crate) fn note_sync(&self, cell: &ServerCell, report: &ServerReport) {
        let (name, mode) = {
            let spec = cell.spec.read();
            (spec.name.clone(), spec.replication.mode)
        };
        let state = SyncState::try_from(report.sync_state).unwrap_or(SyncState::Asynchronous);
        let (before, unheard) = {
            let mut w = cell.watched.lock();
            let before = w.sync.replace(state);
            let newer = report.degraded_until > w.degraded_until;
            w.degraded_until = w.degraded_until.max(report.degraded_until);
            (before, newer && before != Some(SyncState::Degraded))
        };
        if mode == ReplicationMode::Sync && unheard {
            let text = format!(
                "flushes went on without the site from {} to {} by the source's clock",
                WallTime(report.degraded_from),
                WallTime(report.degraded_until)
            );
            self.note("sync.degraded", &name, "degraded", &text);
            self.trouble(cell, text);
        }
        if mode != ReplicationMode::Sync || before == Some(state) {
            return;
        }
        let broken = |s: Option<SyncState>| matches!(s, Some(SyncState::Degraded | SyncState::Blocked));
        let since = match report.sync_since {
            0 => String::new(),
            at => format!(" since {} by the source's clock", WallTime(at)),
        };
        match state {
            SyncState::Degraded => {
                let text = format!("flushes go on without the site{since}");
                self.note("sync.degraded", &name, "degraded", &text);
            }
            SyncState::Blocked => {
                let text = format!("flushes wait for the site{since}");
                self.note("sync.blocked", &name, "blocked", &text);
            }
            SyncState::Synchronous if broken(before) => {
                self.note("sync.restored", &name, "done", "every flush waits for the site again");
            }
            SyncState::Synchronous | SyncState::NotYet | SyncState::Asynchronous => {
                if broken(before) {
                    // Restored only when flushes wait again: what came before is not forgotten on the way there.
                    cell.watched.lock().sync = before;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
