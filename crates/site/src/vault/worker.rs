//! The vault's work in the background: it is opened, and servers go into it in turn.
//!
//! Invariants: one step of one server at a time, each bounded by what a journal may hold before the next; where the vault
//! fails, a journal past its bound in bytes folds instead, so that it stays bounded, and that is told.

use super::tier::Made;
use super::{SiteVault, Standing, Tier, TierError, policy};
use crate::Site;
use crate::server::{Beyond, Finder, ServerCell};
use lifeboat_api::port::ServerSpec;
use lifeboat_base::{PointId, Seq, ServerId, WallTime, format_bytes};
use lifeboat_block::BlockError;
use lifeboat_journal::{Elsewhere, PointInfo, PointQuery};
use lifeboat_vault::{Owner, Snapshot, StoreError, VaultError};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often servers are looked at that had nothing to do.
const TIER_EVERY: Duration = Duration::from_secs(10);
/// The first wait before opening is tried again, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Points of a journal among which those that rules ask for are chosen.
const CANDIDATES: usize = 512;
/// Points past the window that are let go of where their records stay for now.
const MANY_POINTS: usize = 4096;
/// How long a store that did not answer is not asked by the other servers.
const QUIET: Duration = Duration::from_secs(30);
/// How often the guarded time is written down, and copies are asked how they are.
const CLOCK_EVERY: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(30);

impl Site {
    /// What servers have besides their journals.
    pub(crate) fn beyond(&self) -> Option<Beyond> {
        self.vault.is_set().then(|| Beyond {
            elsewhere: Arc::clone(&self.vault) as Arc<dyn Elsewhere>,
            finder: Arc::clone(&self.vault) as Arc<dyn Finder>,
        })
    }

    /// Opens the vault and works on it until the site goes down.
    pub(crate) async fn vault_loop(self: Arc<Self>) {
        if !self.vault.is_set() {
            return;
        }
        let mut stop = self.shutdown.subscribe();
        let mut wait = AGAIN.0;
        while !self.open_vault().await {
            self.tier_round().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            wait = (wait * 2).min(AGAIN.1);
        }
        let (mut saved, mut asked) = (self.clock.monotonic(), None);
        while !*stop.borrow() {
            let busy = self.tier_round().await;
            if self.clock.monotonic().saturating_sub(saved) >= CLOCK_EVERY {
                saved = self.clock.monotonic();
                self.vault.save_clock();
            }
            let now = self.clock.monotonic();
            if asked.is_none_or(|at| now.saturating_sub(at) >= ASK_EVERY) {
                asked = Some(now);
                let vault = Arc::clone(&self.vault);
                if let Err(e) = tokio::task::spawn_blocking(move || vault.ask_copies()).await {
                    tracing::error!("asking the vault's copies died: {e}");
                }
            }
            self.start_due();
            if busy {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(TIER_EVERY) => {}
                () = self.vault.wake.notified() => {}
                _ = stop.wait_for(|s| *s) => {}
            }
        }
        self.vault.save_clock();
    }

    /// Tries to open the vault; whether it is open.
    async fn open_vault(&self) -> bool {
        let vault = Arc::clone(&self.vault);
        match tokio::task::spawn_blocking(move || vault.open_now()).await {
            Ok(Ok(())) => true,
            Ok(Err(e)) => {
                tracing::warn!("the vault cannot be opened yet: {e}");
                false
            }
            Err(e) => {
                tracing::error!("opening the vault died: {e}");
                false
            }
        }
    }

    /// One step for each server; whether any did something.
    pub(crate) async fn tier_round(self: &Arc<Self>) -> bool {
        let mut busy = false;
        let cells: Vec<_> = self.cells.read().values().cloned().collect();
        for cell in cells {
            if *self.shutdown.borrow() {
                return false;
            }
            let site = Arc::clone(self);
            busy |= tokio::task::spawn_blocking(move || site.tier_cell(&cell)).await.unwrap_or_else(|e| {
                tracing::error!("tiering died: {e}");
                false
            });
        }
        busy
    }

    /// One step for one server. Blocks.
    pub(crate) fn tier_cell(&self, cell: &ServerCell) -> bool {
        let _putting = cell.into_vault.read();
        if cell.going.load(Ordering::Acquire) {
            return false;
        }
        let spec = cell.spec.read().clone();
        let step = self.tier_unless_away(cell, &spec);
        let now = self.clock.monotonic();
        if let Err(TierError::Vault(VaultError::Fenced(why))) = &step {
            // What is known of the vault is not what is there.
            tracing::info!(server = spec.name, "{why}");
            if let Err(e) = self.vault.look_again() {
                tracing::warn!("the vault: {e}");
            }
        }
        let (did, error) = match step {
            Ok(did) => (did, None),
            Err(TierError::Vault(VaultError::Cancelled)) => (false, None),
            Err(e) => (false, Some(e)),
        };
        let backlog = self.backlog(cell);
        let standing = Standing { backlog, error: error.as_ref().map(|e| (now, e.to_string())) };
        self.vault.standing.lock().insert(spec.id, standing);
        if let Some(e) = error {
            tracing::warn!(server = spec.name, "nothing goes from its journal into the vault: {e}");
            self.bound(cell, &spec, &e);
        }
        did
    }

    /// Bounds journals while the vault is not open, or too slow for them: whatever its worker does.
    pub(crate) fn bound_now(&self, cell: &ServerCell) {
        let spec = cell.spec.read().clone();
        if cell.reader.usage().bytes <= spec.window.bytes {
            return;
        }
        let why = match self.vault.open() {
            Err(e) => e.to_string(),
            Ok(_) if self.backlog(cell) > spec.window.bytes => "it takes less than comes".into(),
            Ok(_) => return,
        };
        let why = VaultError::Io { what: "the vault".into(), source: std::io::Error::other(why) };
        self.bound(cell, &spec, &why.into());
    }

    /// A journal that cannot go into the vault stays within its bytes all the same.
    fn bound(&self, cell: &ServerCell, spec: &ServerSpec, why: &TierError) {
        if cell.reader.usage().bytes <= spec.window.bytes || self.carries_run(spec.id) {
            return;
        }
        let text = format!(
            "the journal is past its {} and nothing goes into the vault, so its oldest points go: {why}",
            format_bytes(spec.window.bytes)
        );
        self.trouble(cell, text);
        if let Err(e) = crate::fold(cell) {
            tracing::warn!("trimming a journal: {e}");
        }
    }

    /// A store that does not answer one server does not answer the next: each would wait as long.
    fn tier_unless_away(&self, cell: &ServerCell, spec: &ServerSpec) -> Result<bool, TierError> {
        let known = self.vault.unreachable.lock().clone();
        if let Some((_, why)) = known.filter(|(until, _)| self.clock.monotonic() < *until) {
            return Err(VaultError::Store(why).into());
        }
        let step = self.tier_step(cell, spec);
        *self.vault.unreachable.lock() = match &step {
            Err(TierError::Vault(VaultError::Store(why @ StoreError::Unreachable { .. }))) => {
                Some((self.clock.monotonic() + QUIET, why.clone()))
            }
            _ => None,
        };
        step
    }

    fn backlog(&self, cell: &ServerCell) -> u64 {
        match cell.keeper.horizon() {
            Some((horizon, _)) => cell.reader.bytes_before(horizon.seq),
            None => cell.reader.finished().map_or(0, |(_, bytes)| bytes),
        }
    }

    fn tier_step(&self, cell: &ServerCell, spec: &ServerSpec) -> Result<bool, TierError> {
        let unavailable = |e: lifeboat_api::port::PortError| VaultError::Io {
            what: "it is not open".into(),
            source: std::io::Error::other(e.to_string()),
        };
        let vault = self.vault.open().map_err(unavailable)?;
        let pace = self.tier_pace(cell);
        let tier = Tier { vault: &vault, server: spec.id, reader: &cell.reader, pace: &pace };
        let mut did = self.make_due(&tier, cell, spec)?;
        // The base stays behind what rules still ask for, as long as there is room for that. A run's point must outlive a
        // restart of this process, which a mount's hold on it does not.
        let waits = did && cell.reader.usage().bytes <= spec.window.bytes;
        if !waits && !self.carries_run(spec.id) {
            did |= self.move_on(&tier, cell, spec)?;
            cell.keeper.drop_points(MANY_POINTS)?;
        }
        // What cannot be deleted now keeps nothing from going on: a copy of the vault may be away.
        if let Err(e) = tier.reap(&self.vault.uses.all(), self.vault.now()) {
            tracing::warn!(server = spec.name, "a base that is needed no more stays for now: {e}");
        }
        Ok(did)
    }

    /// Waits as long as the settings ask for after so many bytes; `false` when the site or the server goes.
    pub(super) fn tier_pace<'a>(&self, cell: &'a ServerCell) -> impl Fn(u64) -> bool + use<'a> {
        let rate = self.vault.settings().map_or(0, |s| s.tier_rate);
        let runtime = tokio::runtime::Handle::try_current().ok().filter(|_| rate > 0);
        let stop = self.shutdown.subscribe();
        move |bytes| {
            if let Some(runtime) = &runtime {
                runtime.block_on(tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)));
            }
            !*stop.borrow() && !cell.going.load(Ordering::Acquire)
        }
    }

    /// Makes the oldest point that rules ask for and that is not in the vault. Where one cannot be read, the next of its
    /// period takes its place.
    fn make_due(&self, tier: &Tier<'_>, cell: &ServerCell, spec: &ServerSpec) -> Result<bool, TierError> {
        let policy = policy(&spec.retention).map_err(|e| VaultError::Invalid(e.to_string()))?;
        let there = tier.vault.snapshots_of(&Owner::Server(spec.id));
        let made: Vec<WallTime> = there.iter().map(|s| s.body.site_time).collect();
        let now = self.vault.now();
        if policy.next_due(&made, now).is_none_or(|due| due > now) {
            return Ok(false);
        }
        let known: HashSet<PointId> = there.iter().filter_map(|s| s.body.point).collect();
        let (points, times) = self.candidates(tier, spec.id, now);
        let Some(first) =
            policy.choose(&made, &times, now).into_iter().find(|n| !known.contains(&points[*n].id))
        else {
            return Ok(false);
        };
        let point = &points[first];
        match self.put_point(tier, spec, point, times[first]) {
            Ok(_) => {}
            Err(e @ (TierError::Content(BlockError::Corrupt(_)) | TierError::Point(_))) => {
                let text =
                    format!("point {} cannot go into the vault, and another takes its place: {e}", point.id);
                self.trouble(cell, text);
                self.vault.unreadable.lock().entry(spec.id).or_default().insert(point.id);
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Points of the journal that can be read, oldest first, and when each came by the guarded time.
    fn candidates(
        &self,
        tier: &Tier<'_>,
        server: ServerId,
        now: WallTime,
    ) -> (Vec<PointInfo>, Vec<WallTime>) {
        let query = PointQuery { limit: CANDIDATES, ..PointQuery::default() };
        let mut points = tier.reader.points(&query);
        if let Some(unreadable) = self.vault.unreadable.lock().get_mut(&server) {
            let there: HashSet<PointId> = points.iter().map(|p| p.id).collect();
            unreadable.retain(|id| there.contains(id));
            points.retain(|p| !unreadable.contains(&p.id));
        }
        if self.vault.clock_report().is_some() {
            // What the machine's clock said of earlier ones is not to be believed.
            points.truncate(1);
            return (points, vec![now]);
        }
        points.sort_by_key(|p| p.id.seq);
        let mut latest = WallTime(0);
        let times = points.iter().map(|p| {
            latest = latest.max(p.site_time.min(now));
            latest
        });
        let times = times.collect();
        (points, times)
    }

    /// Puts a point of the journal into the vault.
    pub(crate) fn put_point(
        &self,
        tier: &Tier<'_>,
        spec: &ServerSpec,
        point: &PointInfo,
        site_time: WallTime,
    ) -> Result<Arc<Snapshot>, TierError> {
        let lock = spec.retention.lock_seconds;
        let made = Made {
            at: point.id.seq,
            point: Some(point.id),
            consistency: point.kind as u8,
            source_time: point.source_time,
            site_time,
            locked_until: (lock > 0).then(|| self.vault.now().saturating_add(Duration::from_secs(lock))),
        };
        let snapshot = tier.make(Owner::Server(spec.id), &made)?;
        let s = &snapshot.body.stats;
        tracing::info!(server = spec.name, point = %point.id, read = s.read, new = s.new, added = s.added, "in the vault");
        Ok(snapshot)
    }

    /// Moves the base on, when that frees enough.
    fn move_on(&self, tier: &Tier<'_>, cell: &ServerCell, spec: &ServerSpec) -> Result<bool, TierError> {
        let worth = self.vault.settings().map_or(u64::MAX, |s| s.base_bytes);
        let Some(target) = self.base_target(tier, cell, spec, worth)? else { return Ok(false) };
        let report = tier.move_base(&cell.keeper, target, self.vault.now())?;
        tracing::info!(
            server = spec.name,
            record = %target,
            points = report.points_dropped,
            freed = report.bytes_freed,
            "the journal stands on the vault"
        );
        Ok(true)
    }

    /// The record after which the journal's window begins, if what is before it is worth it.
    fn base_target(
        &self,
        tier: &Tier<'_>,
        cell: &ServerCell,
        spec: &ServerSpec,
        worth: u64,
    ) -> Result<Option<Seq>, TierError> {
        let reader = &cell.reader;
        let Some((end, finished)) = reader.finished() else { return Ok(None) };
        let Some((horizon, _)) = cell.keeper.horizon() else {
            // A first copy: there is no point yet that could be lost.
            return Ok((finished >= worth).then_some(end));
        };
        if reader.bytes_before(horizon.seq) >= worth {
            return Ok(Some(horizon.seq));
        }
        // Since the newest point more came than the journal may hold, and no point: a long resync.
        let usage = reader.usage();
        let Some(newest) = usage.newest.filter(|_| usage.bytes > spec.window.bytes) else { return Ok(None) };
        if finished.saturating_sub(reader.bytes_before(newest.id.seq.next())) < worth {
            return Ok(None);
        }
        let there = tier.vault.snapshots_of(&Owner::Server(spec.id));
        if !there.iter().any(|s| s.body.point == Some(newest.id)) {
            self.put_point(tier, spec, &newest, newest.site_time.min(self.vault.now()))?;
        }
        Ok(Some(end))
    }
}

impl SiteVault {
    /// Journal bytes that are due to go, of all servers.
    pub(crate) fn backlog(&self) -> u64 {
        self.standing.lock().values().map(|s| s.backlog).sum()
    }
}
