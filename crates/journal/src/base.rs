//! What lies below the journal's records: an image of the disks that is kept elsewhere.
//!
//! Invariants:
//! - the base holds every record up to its sequence number, and nothing after it;
//! - it is named in the manifest on stable storage before anything it replaces goes, and whoever keeps it keeps it until
//!   the manifest names another and nobody reads it any more;
//! - a base that cannot be read is a named error where its bytes are needed; what the journal holds itself stays
//!   readable, and the stream goes on.
//!
//! ```text
//!            base.seq                          barrier
//!  elsewhere ────┤                                │
//!  journal       ├─ record ─ record ─ record ─────┤      a point = the base, and over it the records up to the barrier
//! ```

use crate::error::{Damage, JournalError};
use crate::fold::JournalKeeper;
use crate::index::DiskChange;
use crate::state::{DiskInfo, SegmentState, Shared, State};
use lifeboat_base::{DiskId, Seq};
use lifeboat_block::{BlockDevice, BlockError, ExtentKind};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Keeps bases. Calls block.
pub trait Elsewhere: Send + Sync {
    /// A disk of a base. It must stay readable as long as the device lives.
    ///
    /// # Errors
    /// That it cannot be read now, in words that say what to do.
    fn base(&self, id: [u8; 16], disk: DiskId) -> Result<Arc<dyn BlockDevice>, BlockError>;
}

/// Which base a journal stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseInfo {
    /// Its name where it is kept.
    pub id: [u8; 16],
    /// The last record it includes.
    pub seq: Seq,
    /// The disks at that record.
    pub disks: Vec<DiskInfo>,
}

/// A base as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub info: BaseInfo,
    /// The window's clock at the newest point it replaces, in seconds.
    pub clock: u32,
}

impl Base {
    /// The sizes of its disks, as changes at its record.
    pub(crate) fn changes(&self) -> impl Iterator<Item = DiskChange> + '_ {
        let seq = self.info.seq;
        self.info.disks.iter().map(move |d| DiskChange { seq, size: d.size, disk: d.disk })
    }
}

/// A disk of the base below a point.
pub(crate) struct BaseDisk {
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
    pub id: [u8; 16],
    pub disk: DiskId,
    /// In bytes, at the base's record.
    pub size: u64,
    pub opened: Mutex<Option<Arc<dyn BlockDevice>>>,
}

impl BaseDisk {
    /// The device, opened when it is first needed.
    pub(crate) fn device(&self) -> Result<Arc<dyn BlockDevice>, BlockError> {
        let mut opened = self.opened.lock();
        if let Some(device) = &*opened {
            return Ok(Arc::clone(device));
        }
        let Some(elsewhere) = &self.elsewhere else {
            let text = "older content is kept in the vault, which is not open; see 'lifeboat vault status'";
            return Err(BlockError::Io(io::Error::other(text)));
        };
        let device = elsewhere.base(self.id, self.disk)?;
        if device.size() != self.size {
            return Err(BlockError::Corrupt(format!(
                "the base of {} has {} bytes and should have {}",
                self.disk,
                device.size(),
                self.size
            )));
        }
        Ok(Arc::clone(opened.insert(device)))
    }

    /// Bytes of `offset..offset+len` the base has; a disk that has grown is empty where it grew.
    pub(crate) fn there(&self, offset: u64, len: u64) -> u64 {
        self.size.saturating_sub(offset).min(len)
    }

    /// Gives the kinds of a range that lies within the base to `add`, until it says that it is enough. What cannot be told
    /// counts as data: reading it says why.
    pub(crate) fn each_kind(
        &self,
        offset: u64,
        len: u64,
        add: &mut impl FnMut(ExtentKind, u64) -> bool,
    ) -> bool {
        let mut at = offset;
        let end = offset + len;
        let device = self.device();
        while at < end {
            let runs = device.as_ref().ok().and_then(|d| d.status(at, end - at).ok()).unwrap_or_default();
            let told: u64 = runs.iter().map(|r| r.len).sum();
            if told == 0 {
                return add(ExtentKind::Data, end - at);
            }
            for run in runs {
                let len = run.len.min(end - at);
                if len > 0 && !add(run.kind, len) {
                    return false;
                }
                at += len;
            }
        }
        true
    }
}

/// What moving the base on did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdvanceReport {
    pub points_dropped: usize,
    pub segments_dropped: usize,
    pub bytes_freed: u64,
    /// Damage that nothing needs any more: the base was read back without it.
    pub healed: Vec<Damage>,
}

impl JournalKeeper {
    /// Makes an image kept elsewhere the base: it must hold every record up to `seq` and outlast a power cut already. Points
    /// before it are no points of the journal any more. Segments go that hold nothing after it, once nobody reads them.
    ///
    /// # Errors
    /// `PlanStale` when `seq` is before the oldest point that can be opened, or not on stable storage; `NoSpace` and what the
    /// system reports: the old base stays then. After any other error it is not known which base stands, and both must stay.
    pub fn advance_base(&self, id: [u8; 16], seq: Seq) -> Result<AdvanceReport, JournalError> {
        let shared = &*self.shared;
        let _alone = shared.trimming.lock();
        let (base, gone) = {
            let state = shared.state.read();
            if seq < state.horizon || seq > state.durable || seq < state.from() {
                return Err(JournalError::PlanStale);
            }
            let clock = u32::try_from(shared.window_clock().as_secs()).unwrap_or(u32::MAX);
            let info = BaseInfo { id, seq, disks: state.disks_at(seq) };
            (Base { info, clock }, state.replaced_by(seq))
        };
        let mut report = AdvanceReport::default();
        let mut dropped = Vec::new();
        shared.update_manifest(
            |m| {
                m.horizon = m.horizon.max(seq);
                m.base = Some(base.clone());
                m.local = true;
                m.segments.retain(|l| !gone.contains(&l.id));
            },
            |state| {
                (report.points_dropped, dropped) = state.stand_on(base.clone(), &gone);
                let names: HashSet<String> = dropped.iter().map(|s| s.segment.name()).collect();
                let damage = state.damage.extract_if(.., |d| names.contains(&d.segment));
                report.healed.extend(damage);
                report.healed.extend(state.found.extract_if(.., |d| names.contains(&d.segment)));
            },
        )?;
        report.segments_dropped = dropped.len();
        report.bytes_freed = dropped.iter().map(|s| s.summary.len).sum();
        dropped.iter().for_each(|s: &SegmentState| s.segment.doomed.store(true, Ordering::Release));
        Ok(report)
    }
}

impl State {
    /// Reading begins after this record: the base's last, or the first of all.
    pub(crate) fn from(&self) -> Seq {
        self.base.as_ref().map_or(Seq::ZERO, |b| b.info.seq)
    }

    /// Finished segments without anything after `seq`. What was supplied stands before the record after a segment's last,
    /// so a segment that ends with `seq` itself may still be needed.
    fn replaced_by(&self, seq: Seq) -> HashSet<[u8; 16]> {
        let finished = self.segments.len() - usize::from(self.open.is_some());
        let old = self.segments[..finished].iter().take_while(|s| s.summary.last < seq);
        old.map(|s| s.segment.id).collect()
    }

    /// Lets go of what the base replaces; tells how many points that are, and which segments.
    fn stand_on(&mut self, base: Base, gone: &HashSet<[u8; 16]>) -> (usize, Vec<SegmentState>) {
        let seq = base.info.seq;
        self.horizon = self.horizon.max(seq);
        let points = self.barriers.partition_point(|b| b.seq < self.horizon);
        self.barriers.drain(..points);
        self.disks.retain(|d| d.seq > seq);
        self.disks.splice(0..0, base.changes());
        self.base = Some(Arc::new(base));
        (points, self.segments.extract_if(.., |s| gone.contains(&s.segment.id)).collect())
    }
}

impl Shared {
    /// What lies below the records of `disk`.
    pub(crate) fn base_disk(&self, base: &Base, disk: DiskId) -> Option<BaseDisk> {
        let size = base.info.disks.iter().find(|d| d.disk == disk)?.size;
        let elsewhere = self.elsewhere.read().clone();
        Some(BaseDisk { elsewhere, id: base.info.id, disk, size, opened: Mutex::default() })
    }
}

#[cfg(test)]
mod tests;
