//! A point of a disk as a block device.
//!
//! Invariants: bytes are served only after checksum, seal, place and content checksum agreed; whatever does not is
//! `Corrupt`. The segments it reads stay while it lives.

use crate::error::PointError;
use crate::format::Kind;
use crate::segment::{ReadError, content};
use crate::state::{Place, SegmentState, Shared, effect};
use bytes::Bytes;
use lifeboat_base::limits::MIB;
use lifeboat_base::{DiskId, Seq};
use lifeboat_block::device::check_range;
use lifeboat_block::{BlockDevice, BlockError, Extent, ExtentKind, ExtentTable, HistoryItem, ZeroMode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Decoded content kept in memory per open point, in bytes.
const CACHE: usize = 4 * MIB;
/// Longest list of extents given at once.
const MAX_RUNS: usize = 4096;

/// A disk as it was at one point. Read-only; made of places in the journal, copied nowhere.
pub struct PointDevice {
    /// Keeps the journal locked: nobody else may write while this is read.
    _shared: Arc<Shared>,
    disk: DiskId,
    seq: Seq,
    size: u64,
    segments: Vec<SegmentState>,
    table: ExtentTable<Place>,
    cache: Mutex<Cache>,
}

impl PointDevice {
    pub(crate) fn open(shared: Arc<Shared>, disk: DiskId, seq: Seq) -> Result<Self, PointError> {
        let (size, damage) = {
            let state = shared.state.read();
            let size = state.disks_at(seq).into_iter().find(|d| d.disk == disk).map(|d| d.size);
            let lost = |d: &&crate::Damage| d.first <= seq && d.first <= d.last;
            (size, state.damage.iter().filter(lost).max_by_key(|d| d.last).cloned())
        };
        let mut items: Vec<HistoryItem<Place>> = Vec::new();
        let mut wiped = Seq::ZERO;
        let segments = shared.history(Some(disk), seq, |segment, e| {
            let (offset, len, zero) = effect(&e);
            if zero && offset == 0 && size.is_some_and(|size| len >= size) {
                // Nothing before matters any more.
                items.clear();
                wiped = e.seq;
            }
            let value = if zero { Place::ZERO } else { Place { segment, pos: e.pos, skip: 0 } };
            items.push(HistoryItem { offset, len, value });
        })?;
        if let Some(damage) = damage.filter(|d| d.last >= wiped) {
            return Err(PointError::Damaged(damage));
        }
        let size = size.ok_or(PointError::UnknownDisk { disk })?;
        let table = ExtentTable::build(&items, |place| !place.is_zero());
        Ok(Self { _shared: shared, disk, seq, size, segments, table, cache: Mutex::default() })
    }

    /// Last record this device includes.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Number of extents the map holds.
    pub fn extents(&self) -> usize {
        self.table.len()
    }

    /// Whether any byte of the range was written. Looks at the map only.
    pub fn has_data(&self, offset: u64, len: u64) -> bool {
        self.table.iter_range(offset, len).any(|run| run.value.is_some())
    }

    /// The content of the record under an extent that begins at `offset`.
    fn content(&self, place: Place, offset: u64, len: u64) -> Result<Bytes, BlockError> {
        let key = (place.segment, place.pos);
        if let Some(hit) = self.cache.lock().get(key) {
            return Ok(hit);
        }
        let Some(SegmentState { segment, .. }) = self.segments.get(place.segment as usize) else {
            return Err(BlockError::Corrupt("an extent names no segment".into()));
        };
        let corrupt = |why: &str| {
            BlockError::Corrupt(format!(
                "segment {} at byte {}, {} offset {offset}: {why}; choose another point or run a check",
                segment.name(),
                place.pos,
                self.disk,
            ))
        };
        let fail = |e: ReadError| match e {
            ReadError::Corrupt(why) => corrupt(why),
            ReadError::Io(e) => e.into(),
        };
        let hint = u64::from(place.skip) + len;
        let (header, payload) = segment.read(place.pos, hint.max(4096) as usize).map_err(fail)?;
        if header.kind != Kind::Data
            || header.disk != self.disk
            || header.offset + u64::from(place.skip) != offset
            || header.len < u64::from(place.skip) + len
        {
            return Err(corrupt(&format!("record {} is not the one its index names", header.seq)));
        }
        let named = |e| match e {
            ReadError::Corrupt(why) => corrupt(&format!("record {}: {why}", header.seq)),
            ReadError::Io(e) => e.into(),
        };
        let content = content(&header, &payload).map_err(named)?;
        self.cache.lock().put(key, content.clone());
        Ok(content)
    }
}

impl BlockDevice for PointDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(self.size, offset, buf.len() as u64)?;
        for run in self.table.iter_range(offset, buf.len() as u64) {
            let out = &mut buf[(run.offset - offset) as usize..(run.end() - offset) as usize];
            match run.value {
                None => out.fill(0),
                Some(place) => {
                    let content = self.content(place, run.offset, run.len)?;
                    let skip = place.skip as usize;
                    let part = content.get(skip..skip + out.len());
                    let short = || BlockError::Corrupt("a record is shorter than its index says".into());
                    out.copy_from_slice(part.ok_or_else(short)?);
                }
            }
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _data: Bytes) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _mode: ZeroMode) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.size, offset, len)?;
        let mut runs: Vec<Extent> = Vec::new();
        for run in self.table.iter_range(offset, len) {
            let kind = if run.value.is_some() { ExtentKind::Data } else { ExtentKind::Hole };
            let full = runs.len() >= MAX_RUNS;
            match runs.last_mut() {
                Some(last) if last.kind == kind => last.len += run.len,
                _ if full => break,
                _ => runs.push(Extent { len: run.len, kind }),
            }
        }
        Ok(runs)
    }
}

type CacheKey = (u32, u32);

/// Least recently used out first, bounded in bytes.
#[derive(Default)]
struct Cache {
    map: HashMap<CacheKey, (Bytes, u64)>,
    order: BTreeMap<u64, CacheKey>,
    bytes: usize,
    tick: u64,
}

impl Cache {
    fn get(&mut self, key: CacheKey) -> Option<Bytes> {
        self.tick += 1;
        let (content, used) = self.map.get_mut(&key)?;
        self.order.remove(used);
        *used = self.tick;
        self.order.insert(self.tick, key);
        Some(content.clone())
    }

    fn put(&mut self, key: CacheKey, content: Bytes) {
        self.tick += 1;
        self.bytes += content.len();
        if let Some((old, used)) = self.map.insert(key, (content, self.tick)) {
            self.bytes -= old.len();
            self.order.remove(&used);
        }
        self.order.insert(self.tick, key);
        while self.bytes > CACHE
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.bytes -= self.map.remove(&oldest).map_or(0, |(content, _)| content.len());
        }
    }
}

#[cfg(test)]
mod tests;
