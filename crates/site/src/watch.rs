//! What is watched of a server besides its stream: RPO history, the pace of catching up, damage, quarrels.
//!
//! Invariants: everything here is bounded; nothing here decides what is stored; what is alarming stays seen for
//! [`SHOWN`], also after it is over.

use crate::Site;
use crate::rpo::{self, RpoHistory};
use crate::server::ServerCell;
use crate::verify::Verification;
use lifeboat_journal::Finding;
use lifeboat_replicate::message::SyncState;
use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How often everything is sampled.
const TICK: Duration = Duration::from_secs(1);
/// How often damage is judged anew: what was lost may be written again, or leave the window.
const JUDGE_EVERY: Duration = Duration::from_secs(30);
/// How long a quarrel is shown.
pub(crate) const SHOWN: Duration = Duration::from_secs(3600);
/// Different quarrels shown.
const MOST_TROUBLES: usize = 8;
/// Samples of the pace: the last seconds.
const PACE: usize = 15;
const RPO_FILE: &str = "rpo";

/// See the module's text.
#[derive(Default)]
pub struct Watched {
    pub rpo: RpoHistory,
    pub(crate) pace: Pace,
    pub(crate) verify: Option<Verification>,
    /// Damage that points still need.
    pub(crate) damage: Vec<Finding>,
    judged: Option<(Duration, usize)>,
    pub(crate) troubles: Troubles,
    /// The state of synchronous mode that was noted last.
    pub(crate) sync: Option<SyncState>,
    /// End of the degraded time that was noted last, by the source's clock.
    pub(crate) degraded_until: u64,
}

/// What happened lately that a person should know of.
#[derive(Default)]
pub(crate) struct Troubles(Vec<(Duration, String)>);

impl Troubles {
    pub(crate) fn add(&mut self, now: Duration, text: String) {
        self.0.retain(|(at, known)| *known != text && now.saturating_sub(*at) < SHOWN);
        if self.0.len() >= MOST_TROUBLES {
            self.0.remove(0);
        }
        self.0.push((now, text));
    }

    /// The newest of them.
    pub(crate) fn newest(&self, now: Duration) -> Option<&str> {
        self.0.iter().rev().find(|(at, _)| now.saturating_sub(*at) < SHOWN).map(|(_, text)| text.as_str())
    }
}

/// How fast a server catches up.
#[derive(Default)]
pub(crate) struct Pace {
    /// When, lag in bytes, content received so far in bytes.
    samples: VecDeque<(Duration, u64, u64)>,
}

impl Pace {
    pub(crate) fn sample(&mut self, now: Duration, lag: u64, content: u64) {
        if self.samples.len() >= PACE {
            self.samples.pop_front();
        }
        self.samples.push_back((now, lag, content));
    }

    /// Seconds until a lag of `lag` bytes is gone, as things go now. `None` when it does not shrink.
    pub(crate) fn eta(&self, lag: u64) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let millis = last.0.saturating_sub(first.0).as_millis();
        if millis == 0 || last.1 > first.1 {
            return None;
        }
        let shrunk = first.1 - last.1;
        // A lag that is told seldom stands still for seconds while content arrives.
        let gone = if shrunk > 0 { shrunk } else { last.2.saturating_sub(first.2) };
        if gone == 0 {
            return None;
        }
        u64::try_from(u128::from(lag) * millis / 1000 / u128::from(gone)).ok()
    }
}

impl ServerCell {
    /// Age of the newest durable point; `None` before the first.
    pub(crate) fn rpo(&self, now: Duration) -> Option<Duration> {
        self.reader.point_after(lifeboat_base::Seq::ZERO)?;
        self.measured.lock().coverage.age(now)
    }
}

impl Site {
    /// Samples every server, until the site goes down.
    pub(crate) async fn watch_loop(self: Arc<Self>) {
        let mut stop = self.shutdown.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            let site = Arc::clone(&self);
            // Indexes may be read and small files written.
            if let Err(e) = tokio::task::spawn_blocking(move || site.watch_all()).await {
                tracing::error!("watching the servers: {e}");
            }
        }
    }

    fn watch_all(&self) {
        let cells: Vec<_> = self.cells.read().values().cloned().collect();
        for cell in cells {
            self.watch(&cell);
        }
    }

    /// One look at a server.
    pub(crate) fn watch(&self, cell: &ServerCell) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        let (active, id) = {
            let spec = cell.spec.read();
            (spec.active, spec.id)
        };
        let age = cell.rpo(now).filter(|_| active);
        let lag = {
            let m = cell.measured.lock();
            m.report.as_ref().map_or(m.lag_bytes, |r| r.lag_bytes)
        };
        let content = cell.content.load(Ordering::Relaxed);
        let file = {
            let mut w = cell.watched.lock();
            w.pace.sample(now, lag, content);
            let begins = age.is_some_and(|age| w.rpo.sample(age, now, wall));
            begins.then(|| w.rpo.encode())
        };
        if let Some(bytes) = file
            && let Err(e) = replace(&self.server_dir(id), RPO_FILE, &bytes)
        {
            tracing::warn!("the history of the RPO was not stored: {e}");
        }
        self.watch_verify(cell);
        self.judge_damage(cell, now);
    }

    /// Finds out which points known damage touches.
    pub(crate) fn judge_damage(&self, cell: &ServerCell, now: Duration) {
        let damaged = cell.reader.usage().damaged;
        {
            let mut w = cell.watched.lock();
            if damaged == 0 {
                w.damage.clear();
                return;
            }
            let fresh =
                |(at, known): (Duration, usize)| known == damaged && now.saturating_sub(at) < JUDGE_EVERY;
            if w.judged.is_some_and(fresh) {
                return;
            }
        }
        match cell.reader.damage() {
            Ok(damage) => {
                let mut w = cell.watched.lock();
                (w.damage, w.judged) = (damage, Some((now, damaged)));
            }
            Err(e) => tracing::warn!("looking at damage: {e}"),
        }
    }

    /// Reads what an earlier process kept of a server.
    pub(crate) fn restore_watched(&self, cell: &ServerCell) {
        let dir = self.server_dir(cell.spec.read().id);
        let path = dir.join(RPO_FILE);
        if fs::metadata(&path).is_ok_and(|m| m.len() <= rpo::LONGEST)
            && let Ok(bytes) = fs::read(&path)
        {
            match RpoHistory::decode(&bytes, self.clock.monotonic(), self.clock.wall()) {
                Some(history) => cell.watched.lock().rpo = history,
                None => tracing::warn!("{} is damaged; its history begins anew", path.display()),
            }
        }
        self.restore_verify(cell);
        self.judge_damage(cell, self.clock.monotonic());
    }

    /// Something a person should see in the server's state for a while, besides the audit log.
    pub(crate) fn trouble(&self, cell: &ServerCell, text: String) {
        tracing::warn!(server = cell.spec.read().name, "{text}");
        cell.watched.lock().troubles.add(self.clock.monotonic(), text);
    }
}

/// Replaces a file at once. Not synced: it may be the old one after a power cut.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, dir.join(name))
}

#[cfg(test)]
mod tests;
