//! Which blocks of an offer the site lacks.
//!
//! Invariants: a block is called present only when reading it back gave just the offered hash. In a sync, blocks written
//! since the snapshot count as lacking: that costs a record, never a wrong answer. An exact offer is answered by the content
//! at its place in the stream, and the caller has committed everything before it.

use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Seq};
use lifeboat_block::BlockDevice;
use lifeboat_journal::{JournalReader, PointDevice, PointError};
use lifeboat_replicate::dirty::DirtyMap;
use lifeboat_replicate::wire::{Offer, ZERO_HASH, hash_block};
use std::sync::Arc;
use std::time::Duration;

/// Extents above a snapshot past which another is made.
const MOST_RECENT: usize = 1 << 16;
/// How long what exact offers are compared with is kept without one.
const IDLE: Duration = Duration::from_secs(60);

/// What a branch grows from.
#[derive(Clone)]
pub struct Trunk {
    pub line: JournalReader,
    /// Its last record that belongs to the branch too.
    pub base: Seq,
}

/// Where content comes from.
pub(super) struct Source {
    pub reader: JournalReader,
    pub trunk: Option<Trunk>,
}

impl Source {
    /// A disk as of the last committed record.
    fn live(&self, disk: DiskId) -> Result<PointDevice, PointError> {
        let Some(trunk) = &self.trunk else { return self.reader.open_live(disk) };
        match trunk.line.open_at(disk, trunk.base) {
            Ok(below) => self.reader.open_over(Arc::new(below), self.reader.durable_seq()),
            // A disk that came later.
            Err(PointError::UnknownDisk { .. }) => self.reader.open_live(disk),
            Err(e) => Err(e),
        }
    }
}

/// The content the site holds, as of a moment of one session.
pub(super) struct View {
    disks: Vec<Snapshot>,
    /// When an exact offer was last compared with it.
    used: Duration,
}

struct Snapshot {
    disk: DiskId,
    device: Arc<PointDevice>,
    /// Blocks written since the snapshot.
    written: DirtyMap,
    /// What was written between the snapshot and a later moment, over it. For exact offers.
    recent: Option<PointDevice>,
}

impl View {
    pub(super) fn open(source: &Source, now: Duration) -> Result<Self, PointError> {
        let snapshot = |d: &lifeboat_journal::DiskInfo| -> Result<_, PointError> {
            let device = Arc::new(source.live(d.disk)?);
            Ok(Snapshot { disk: d.disk, device, written: DirtyMap::new(d.size), recent: None })
        };
        let disks = source.reader.disks().iter().map(snapshot).collect::<Result<_, _>>()?;
        Ok(Self { disks, used: now })
    }

    pub(super) fn wrote(&mut self, disk: DiskId, offset: u64, len: u64) {
        if let Some(s) = self.disks.iter_mut().find(|s| s.disk == disk) {
            s.written.mark(offset, len);
        }
    }

    pub(super) fn idle(&self, now: Duration) -> bool {
        now.saturating_sub(self.used) > IDLE
    }

    /// For a sync: what is lacking for sure and what may be.
    pub(super) fn lacking(&self, offer: &Offer) -> Vec<bool> {
        let Some(s) = self.disks.iter().find(|s| s.disk == offer.disk) else {
            return vec![true; offer.hashes.len()];
        };
        compare(&s.device, offer, |at| s.written.covers(at, 1))
    }

    /// What is lacking at this place of the stream. Everything before it is committed.
    pub(super) fn lacking_now(
        &mut self,
        source: &Source,
        offer: &Offer,
        now: Duration,
    ) -> Result<Vec<bool>, PointError> {
        self.used = now;
        let Some(s) = self.disks.iter_mut().find(|s| s.disk == offer.disk) else {
            return Ok(vec![true; offer.hashes.len()]);
        };
        let len = (offer.hashes.len() * BLOCK) as u64;
        let touched =
            s.written.next_run(offer.offset, BLOCK as u64).is_some_and(|(at, _)| at < offer.offset + len);
        if touched {
            let upto = source.reader.durable_seq();
            let over = source.reader.open_over(Arc::clone(&s.device), upto);
            match over {
                Ok(recent) if recent.extents() <= MOST_RECENT => s.recent = Some(recent),
                // Too much, or folded meanwhile.
                Ok(_) | Err(PointError::BeforeWindow { .. }) => {
                    s.device = Arc::new(source.live(s.disk)?);
                    s.recent = None;
                }
                Err(e) => return Err(e),
            }
            s.written.clear(0, u64::MAX);
        }
        Ok(compare(s.recent.as_ref().unwrap_or(&s.device), offer, |_| false))
    }
}

fn compare(device: &PointDevice, offer: &Offer, unknown: impl Fn(u64) -> bool) -> Vec<bool> {
    let size = device.size();
    let mut buf = vec![0; BLOCK];
    let mut lacking = Vec::with_capacity(offer.hashes.len());
    for (i, hash) in offer.hashes.iter().enumerate() {
        let at = offer.offset + (i * BLOCK) as u64;
        let len = (BLOCK as u64).min(size.saturating_sub(at));
        if len == 0 || unknown(at) {
            lacking.push(true);
            continue;
        }
        let same = if !device.has_data(at, len) {
            *hash == ZERO_HASH
        } else {
            let block = &mut buf[..len as usize];
            // A damaged block is one the source can mend.
            device.read(at, block).is_ok() && hash_block(block) == *hash
        };
        lacking.push(!same);
    }
    lacking
}

#[cfg(test)]
mod tests;
