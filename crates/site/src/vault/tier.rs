//! From the journal into the vault.
//!
//! Invariants:
//! - a snapshot is made of content that was read back and proven; where any of it cannot be read there is no snapshot;
//! - a journal's base moves only to a snapshot that is in the vault, and the base it stood on before goes only when it is
//!   certain that the journal stands on the new one, and nobody reads the old;
//! - only what changed since the nearest earlier snapshot of the same journal is read.
//!
//! ```text
//! make:     nearest earlier snapshot ──> its map, and over it every block the journal says may differ ──> commit
//! move_base: make(Owner::Base) ──> advance_base (manifest) ──> reap: bases of this journal it does not stand on
//! ```
//! A crash between any two steps leaves a snapshot too many, which `reap` finds.

use lifeboat_base::{DiskId, PointId, Seq, ServerId, WallTime};
use lifeboat_block::{BlockDevice, BlockError};
use lifeboat_journal::{AdvanceReport, JournalError, JournalKeeper, JournalReader, PointError};
use lifeboat_vault::ingest::{self, IngestError};
use lifeboat_vault::{
    DiskRoot, Owner, Session, Snapshot, SnapshotBody, SnapshotId, Stats, Vault, VaultError,
};
use std::collections::HashSet;
use std::sync::Arc;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Point(#[from] PointError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal: {0}")]
    Content(#[from] BlockError),
}

impl From<IngestError> for TierError {
    fn from(e: IngestError) -> Self {
        match e {
            IngestError::Vault(e) => Self::Vault(e),
            IngestError::Source(e) => Self::Content(e),
        }
    }
}

/// What a snapshot is to be of.
#[derive(Debug, Clone)]
pub struct Made {
    pub at: Seq,
    pub point: Option<PointId>,
    /// As in [`SnapshotBody`].
    pub consistency: u8,
    pub source_time: WallTime,
    pub site_time: WallTime,
    pub locked_until: Option<WallTime>,
}

/// One server's way into the vault. Calls block.
pub struct Tier<'a> {
    pub vault: &'a Vault,
    pub server: ServerId,
    pub reader: &'a JournalReader,
    /// Told how many bytes were just read; waits where that was too fast, and says whether to go on.
    pub pace: &'a dyn Fn(u64) -> bool,
}

impl Tier<'_> {
    /// Puts the disks as they are after a record into the vault.
    ///
    /// # Errors
    /// `Fenced` when a pruner ended the session: it has to be made anew. What cannot be read.
    pub fn make(&self, owner: Owner, of: &Made) -> Result<Arc<Snapshot>, TierError> {
        let session = self.vault.begin(owner)?;
        let below = self.nearest(of.at);
        let mut disks = Vec::new();
        for d in self.reader.disks_after(of.at) {
            let from = below.as_ref().and_then(|(seq, s)| Some((*seq, *s.disk(d.disk)?)));
            disks.push(self.disk(&session, d.disk, from, of.at)?);
        }
        // Where the base was moved past it meanwhile, its disks may be those of another time, or none.
        if !self.reader.reaches(of.at) {
            return Err(PointError::NoPoints.into());
        }
        let body = SnapshotBody {
            point: of.point,
            consistency: of.consistency,
            source_time: of.source_time,
            site_time: of.site_time,
            disks,
            tree: None,
            details: self.reader.id().to_vec(),
            stats: Stats::default(),
            locked_until: of.locked_until,
        };
        Ok(session.commit(body)?)
    }

    /// Makes the state after record `seq` what the journal stands on.
    ///
    /// # Errors
    /// As [`make`](Self::make), and what the journal says; it stands on what it stood on then.
    pub fn move_base(
        &self,
        keeper: &JournalKeeper,
        seq: Seq,
        now: WallTime,
    ) -> Result<AdvanceReport, TierError> {
        let made = Made {
            at: seq,
            point: Some(PointId { epoch: self.reader.epoch(), seq }),
            consistency: 0,
            source_time: now,
            site_time: now,
            locked_until: None,
        };
        let snapshot = self.make(Owner::Base(self.server), &made)?;
        let report = keeper.advance_base(snapshot.id.0, seq)?;
        for damage in &report.healed {
            tracing::info!("{damage}; the vault holds all that was read back since");
        }
        Ok(report)
    }

    /// Deletes bases this journal made and does not stand on. `used` are read by somebody.
    ///
    /// # Errors
    /// What the vault says; the rest is for the next time.
    pub fn reap(&self, used: &HashSet<SnapshotId>, now: WallTime) -> Result<usize, TierError> {
        if !self.reader.is_sure() {
            return Ok(0);
        }
        let stands_on = self.reader.base().map(|b| SnapshotId(b.id));
        let mut reaped = 0;
        for s in self.vault.snapshots_of(&Owner::Base(self.server)) {
            let mine = s.body.details == self.reader.id();
            if mine && Some(s.id) != stands_on && !used.contains(&s.id) {
                self.vault.forget(&s.id, now)?;
                reaped += 1;
            }
        }
        Ok(reaped)
    }

    /// The newest snapshot of this journal that is not after record `at` and from which the journal can tell what changed.
    fn nearest(&self, at: Seq) -> Option<(Seq, Arc<Snapshot>)> {
        let base = self.reader.base().filter(|b| b.seq <= at);
        let base = base.and_then(|b| Some((b.seq, self.vault.snapshot(&SnapshotId(b.id))?)));
        let mine = self.vault.snapshots_of(&Owner::Server(self.server)).into_iter();
        let mine = mine.filter(|s| s.body.details == self.reader.id());
        let points = mine.filter_map(|s| Some((s.body.point?.seq, s)));
        points
            .filter(|(seq, _)| *seq <= at && self.reader.reaches(*seq))
            .chain(base)
            .max_by_key(|(seq, _)| *seq)
    }

    fn disk(
        &self,
        session: &Session,
        disk: DiskId,
        from: Option<(Seq, DiskRoot)>,
        at: Seq,
    ) -> Result<DiskRoot, TierError> {
        let device = self.reader.open_at(disk, at)?;
        let size = device.size();
        let runs = match &from {
            Some((seq, _)) => self.reader.changed(disk, *seq, at)?,
            None => vec![(0, size)],
        };
        let old = from.map(|(_, root)| root);
        let ranges = runs.into_iter().map(|(offset, len)| offset..offset + len);
        Ok(ingest::disk(session, disk, &device, old, ranges, self.pace)?)
    }
}

#[cfg(test)]
mod tests;
