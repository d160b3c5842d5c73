//! Which blocks of an offer the site lacks.
//!
//! Invariants: a block is called present only when reading it back gave just the offered hash. In a sync, blocks written
//! since the snapshot count as lacking: that costs a record, never a wrong answer. An exact offer is answered by the content
//! at its place in the stream, and the caller has committed everything before it. What is in the base, which may be far
//! away, is told by its id where that is enough, and keeps the stream waiting for [`LOOK_FOR`] at most.

use super::Finder;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Seq};
use lifeboat_block::{BlockDevice, BlockError};
use lifeboat_journal::{JournalReader, PointDevice, PointError};
use lifeboat_replicate::dirty::DirtyMap;
use lifeboat_replicate::wire::{BlockHash, Offer, ZERO_HASH, hash_block};
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Extents above a snapshot past which another is made.
const MOST_RECENT: usize = 1 << 16;
/// How long what exact offers are compared with is kept without one.
const IDLE: Duration = Duration::from_secs(60);
/// How long one offer may keep the journal's only thread waiting for what is elsewhere; an exact one longer, since what is not
/// compared then cannot be said to be equal.
pub(super) const LOOK_FOR: Duration = Duration::from_secs(2);
const EXACT_FOR: Duration = Duration::from_secs(5);

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
    /// Who reads what is in a base.
    pub finder: Option<Arc<dyn Finder>>,
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
    recent: Option<Arc<PointDevice>>,
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
    pub(super) fn lacking(&self, source: &Source, offer: &Offer) -> Vec<bool> {
        let Some(s) = self.disks.iter().find(|s| s.disk == offer.disk) else {
            return vec![true; offer.hashes.len()];
        };
        compare(source, &s.device, offer, |at| s.written.covers(at, 1)).0
    }

    /// What is lacking at this place of the stream, and whether all of the offer could be compared. Everything before it is
    /// committed.
    pub(super) fn lacking_now(
        &mut self,
        source: &Source,
        offer: &Offer,
        now: Duration,
    ) -> Result<(Vec<bool>, bool), PointError> {
        self.used = now;
        let Some(s) = self.disks.iter_mut().find(|s| s.disk == offer.disk) else {
            return Ok((vec![true; offer.hashes.len()], true));
        };
        let len = (offer.hashes.len() * BLOCK) as u64;
        let touched =
            s.written.next_run(offer.offset, BLOCK as u64).is_some_and(|(at, _)| at < offer.offset + len);
        if touched {
            // With what was supplied since the last record.
            let upto = source.reader.durable_seq().next();
            let over = source.reader.open_over(Arc::clone(&s.device), upto);
            match over {
                Ok(recent) if recent.extents() <= MOST_RECENT => s.recent = Some(Arc::new(recent)),
                // Too much, or folded or replaced by a base meanwhile.
                Ok(_) | Err(PointError::BeforeWindow { .. } | PointError::NoPoints) => {
                    s.device = Arc::new(source.live(s.disk)?);
                    s.recent = None;
                }
                Err(e) => return Err(e),
            }
            s.written.clear(0, u64::MAX);
        }
        Ok(compare(source, s.recent.as_ref().unwrap_or(&s.device), offer, |_| false))
    }
}

/// What of an offer a device lacks, and whether all of it could be compared. What could not counts as lacking in a sync, and
/// as there in an exact offer, whose answers are called differences.
fn compare(
    source: &Source,
    device: &Arc<PointDevice>,
    offer: &Offer,
    unknown: impl Fn(u64) -> bool,
) -> (Vec<bool>, bool) {
    let mut lacking = vec![true; offer.hashes.len()];
    let mut elsewhere = Vec::new();
    let mut buf = vec![0; BLOCK];
    for (i, hash) in offer.hashes.iter().enumerate() {
        let at = offer.offset + (i * BLOCK) as u64;
        let len = (BLOCK as u64).min(device.size().saturating_sub(at));
        if len == 0 || unknown(at) {
            continue;
        }
        if source.finder.is_some() && device.leans(at, len) {
            lacking[i] = !offer.exact;
            elsewhere.push((i, at, *hash));
            continue;
        }
        // A damaged block is one the source can mend.
        lacking[i] = !is_same(device, at, hash, &mut buf[..len as usize]).unwrap_or(false);
    }
    let Some(finder) = source.finder.as_ref().filter(|_| !elsewhere.is_empty()) else {
        return (lacking, true);
    };
    let (asked, device) = (elsewhere.len(), Arc::clone(device));
    let look = move |(i, at, hash): (usize, u64, BlockHash)| {
        let len = (BLOCK as u64).min(device.size() - at);
        match is_same(&device, at, &hash, &mut buf[..len as usize]) {
            Ok(same) => ControlFlow::Continue(Some((i, same))),
            // A damaged block is one the source can mend.
            Err(BlockError::Corrupt(_)) => ControlFlow::Continue(Some((i, false))),
            // The rest would not be told either.
            Err(e) => {
                tracing::debug!("what is offered is not compared with the base: {e}");
                ControlFlow::Break(())
            }
        }
    };
    let told = look_up(&**finder, if offer.exact { EXACT_FOR } else { LOOK_FOR }, elsewhere, look);
    told.iter().for_each(|(i, same)| lacking[*i] = !same);
    (lacking, told.len() == asked)
}

/// Looks at items beside the journal's thread, for so long at most or until `look` breaks; what it had found by then.
pub(super) fn look_up<T: Send + 'static, R: Send + 'static>(
    finder: &dyn Finder,
    limit: Duration,
    items: Vec<T>,
    mut look: impl FnMut(T) -> ControlFlow<(), Option<R>> + Send + 'static,
) -> Vec<R> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::downgrade(&found);
    let work = move || {
        for item in items {
            // Nobody waits any more?
            let Some(into) = into.upgrade() else { return };
            match look(item) {
                ControlFlow::Continue(one) => into.lock().extend(one),
                ControlFlow::Break(()) => return,
            }
        }
    };
    finder.within(limit, Box::new(work));
    std::mem::take(&mut *found.lock())
}

/// Whether the block at `at` has the hash; `buf` is as long as it.
fn is_same(device: &PointDevice, at: u64, hash: &BlockHash, buf: &mut [u8]) -> Result<bool, BlockError> {
    let whole = buf.len() == BLOCK;
    if let Some(same) = if whole { device.has_hash(at, hash)? } else { None } {
        return Ok(same);
    }
    if !device.has_data(at, buf.len() as u64) {
        return Ok(*hash == ZERO_HASH);
    }
    device.read(at, buf)?;
    Ok(hash_block(buf) == *hash)
}

#[cfg(test)]
mod tests;
