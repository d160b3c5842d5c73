//! A point of a disk as a block device.
//!
//! Invariants: bytes are served only after checksum, seal, place and content checksum agreed; whatever does not is
//! `Corrupt`. The segments it reads stay while it lives.

use crate::base::BaseDisk;
use crate::error::{Damage, PointError};
use crate::segment::{ReadError, content};
use crate::state::{Begin, Place, SegmentState, Shared, effect};
use bytes::Bytes;
use lifeboat_base::limits::{BLOCK, MIB};
use lifeboat_base::{DiskId, Seq};
use lifeboat_block::device::check_range;
use lifeboat_block::{BlockDevice, BlockError, Extent, ExtentKind, ExtentTable, HistoryItem, ZeroMode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Decoded content kept in memory per open point, in bytes.
const CACHE: usize = 4 * MIB;
/// How often damage that turns up while opening makes it begin anew.
const RETRIES: usize = 8;
/// Longest list of extents given at once.
const MAX_RUNS: usize = 4096;

/// What is where the map has no extent.
enum Below {
    Zeros,
    /// Nobody knows: damage took it.
    Lost,
    Device(Arc<PointDevice>),
    Base(BaseDisk),
}

/// A disk as it was at one point. Read-only; made of places in the journal, copied nowhere.
pub struct PointDevice {
    /// Keeps the journal locked: nobody else may write while this is read.
    _shared: Arc<Shared>,
    disk: DiskId,
    seq: Seq,
    size: u64,
    segments: Vec<SegmentState>,
    table: ExtentTable<Place>,
    below: Below,
    cache: Mutex<Cache>,
}

impl PointDevice {
    /// A disk after record `seq`.
    pub(crate) fn open(shared: Arc<Shared>, disk: DiskId, seq: Seq) -> Result<Self, PointError> {
        let mut map = Map::load_known(&shared, disk, seq)?;
        if let Some(damage) = map.damage.take()
            && !map.forget_before_damage()
        {
            return Err(PointError::Damaged(damage));
        }
        let below = map.below();
        map.device(shared, disk, seq, below)
    }

    /// Everything committed, also what was supplied since the last record; what damage took is an error where it is read.
    pub(crate) fn open_known(shared: Arc<Shared>, disk: DiskId) -> Result<Self, PointError> {
        let durable = shared.state.read().durable;
        let mut map = Map::load_known(&shared, disk, durable.next())?;
        let whole = map.damage.is_none() || map.forget_before_damage();
        let below = if whole { map.below() } else { Below::Lost };
        map.device(shared, disk, durable, below)
    }

    /// What follows `below` up to record `seq`, over it.
    pub(crate) fn open_over(shared: Arc<Shared>, below: Arc<Self>, seq: Seq) -> Result<Self, PointError> {
        let mut map = Map::load(&shared, below.disk, Begin::After(below.seq), seq)?;
        match map.damage.take().filter(|d| d.last > below.seq) {
            Some(damage) => Err(PointError::Damaged(damage)),
            None => map.device(shared, below.disk, seq, Below::Device(below)),
        }
    }

    /// Last record this device includes.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Number of extents the map holds.
    pub fn extents(&self) -> usize {
        self.table.len()
    }

    /// Whether any byte of the range may be other than zero. Looks at maps only.
    pub fn has_data(&self, offset: u64, len: u64) -> bool {
        let mut data = false;
        self.each_kind(offset, len, &mut |kind, _| {
            data = kind == ExtentKind::Data;
            !data
        });
        data
    }

    /// Whether any of the range is in the base below the journal, which may be far away.
    pub fn leans(&self, offset: u64, len: u64) -> bool {
        let mut runs = self.table.iter_range(offset, len).filter(|run| run.value.is_none());
        match &self.below {
            Below::Zeros | Below::Lost => false,
            Below::Device(below) => runs.any(|run| {
                let there = below.size.saturating_sub(run.offset).min(run.len);
                there > 0 && below.leans(run.offset, there)
            }),
            Below::Base(base) => runs.any(|run| base.there(run.offset, run.len) > 0),
        }
    }

    /// Opens what lies below, if there is anything and it is needed.
    ///
    /// # Errors
    /// Why that cannot be read now.
    pub fn ready(&self) -> Result<(), BlockError> {
        match &self.below {
            Below::Zeros | Below::Lost => Ok(()),
            Below::Device(below) => below.ready(),
            Below::Base(base) => {
                let hidden =
                    self.table.iter_range(0, base.there(0, self.size)).all(|run| run.value.is_some());
                if hidden { Ok(()) } else { base.device().map(drop) }
            }
        }
    }

    /// Where nothing is mapped.
    fn read_below(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        match &self.below {
            Below::Zeros => out.fill(0),
            Below::Lost => {
                return Err(BlockError::Corrupt(format!(
                    "{} offset {offset}: lost by damage and not sent again yet",
                    self.disk
                )));
            }
            Below::Device(below) => {
                // A disk that has grown is empty where it grew.
                let there = below.size.saturating_sub(offset).min(out.len() as u64) as usize;
                let (old, new) = out.split_at_mut(there);
                if there > 0 {
                    below.read(offset, old)?;
                }
                new.fill(0);
            }
            Below::Base(base) => {
                let there = base.there(offset, out.len() as u64) as usize;
                let (old, new) = out.split_at_mut(there);
                if there > 0 {
                    base.device()?.read(offset, old)?;
                }
                new.fill(0);
            }
        }
        Ok(())
    }

    /// Kinds of the range, in order, until `add` says that it is enough.
    fn each_kind(&self, offset: u64, len: u64, add: &mut impl FnMut(ExtentKind, u64) -> bool) -> bool {
        for run in self.table.iter_range(offset, len) {
            let go_on = match (run.value, &self.below) {
                (Some(place), _) if place.is_zero() => add(ExtentKind::Hole, run.len),
                (Some(_), _) | (None, Below::Lost) => add(ExtentKind::Data, run.len),
                (None, Below::Zeros) => add(ExtentKind::Hole, run.len),
                (None, Below::Device(below)) => {
                    let there = below.size.saturating_sub(run.offset).min(run.len);
                    (there == 0 || below.each_kind(run.offset, there, add))
                        && (there == run.len || add(ExtentKind::Hole, run.len - there))
                }
                (None, Below::Base(base)) => {
                    let there = base.there(run.offset, run.len);
                    (there == 0 || base.each_kind(run.offset, there, add))
                        && (there == run.len || add(ExtentKind::Hole, run.len - there))
                }
            };
            if !go_on {
                return false;
            }
        }
        true
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
        if !header.kind.is_content()
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
                None => self.read_below(run.offset, out)?,
                Some(place) if place.is_zero() => out.fill(0),
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

    fn has_hash(&self, offset: u64, hash: &[u8; 32]) -> Result<Option<bool>, BlockError> {
        let len = BLOCK as u64;
        check_range(self.size, offset, len)?;
        if self.table.iter_range(offset, len).any(|run| run.value.is_some()) {
            return Ok(None);
        }
        match &self.below {
            Below::Zeros | Below::Lost => Ok(None),
            Below::Device(below) if offset + len <= below.size => below.has_hash(offset, hash),
            Below::Base(base) if base.there(offset, len) == len => base.device()?.has_hash(offset, hash),
            Below::Device(_) | Below::Base(_) => Ok(None),
        }
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.size, offset, len)?;
        let mut runs: Vec<Extent> = Vec::new();
        self.each_kind(offset, len, &mut |kind, len| {
            let full = runs.len() >= MAX_RUNS;
            match runs.last_mut() {
                Some(last) if last.kind == kind => last.len += len,
                _ if full => return false,
                _ => runs.push(Extent { len, kind }),
            }
            true
        });
        Ok(runs)
    }
}

/// A disk's history while a device is made of it.
struct Map {
    size: Option<u64>,
    /// The latest damage that may matter.
    damage: Option<Damage>,
    items: Vec<HistoryItem<Place>>,
    /// How many of `items` are not later than that damage.
    before: usize,
    segments: Vec<SegmentState>,
    /// `None` when nothing lies below.
    base: Option<BaseDisk>,
}

impl Map {
    /// From the start, with all damage that reading finds: the point may not need what is lost.
    fn load_known(shared: &Shared, disk: DiskId, upto: Seq) -> Result<Self, PointError> {
        for _ in 0..RETRIES {
            match Self::load(shared, disk, Begin::Base, upto) {
                // Only reading found it; it is known now.
                Err(PointError::Damaged(_)) => {}
                other => return other,
            }
        }
        Self::load(shared, disk, Begin::Base, upto)
    }

    fn load(shared: &Shared, disk: DiskId, from: Begin, upto: Seq) -> Result<Self, PointError> {
        let (size, damage) = {
            let state = shared.state.read();
            let size = state.disks_at(upto).into_iter().find(|d| d.disk == disk).map(|d| d.size);
            let lost = |d: &&Damage| d.first <= upto && state.lost(d);
            (size, state.damage.iter().filter(lost).max_by_key(|d| d.last).cloned())
        };
        let lost_to = damage.as_ref().map_or(Seq::ZERO, |d| d.last);
        let (mut items, mut before) = (Vec::new(), 0);
        let history = shared.history(Some(disk), from, upto, |segment, e| {
            let (offset, len, zero) = effect(&e);
            if from == Begin::Base && zero && offset == 0 && size.is_some_and(|size| len >= size) {
                // Nothing before matters any more.
                items.clear();
                before = 0;
            }
            let value = if zero { Place::ZERO } else { Place { segment, pos: e.pos, skip: 0 } };
            items.push(HistoryItem { offset, len, value });
            if e.seq <= lost_to {
                before = items.len();
            }
        })?;
        let base = history.base.as_ref().and_then(|base| shared.base_disk(base, disk));
        Ok(Self { size, damage, items, before, segments: history.segments, base })
    }

    fn below(&mut self) -> Below {
        self.base.take().map_or(Below::Zeros, Below::Base)
    }

    /// Drops what came before the damage. `true` when what came after it covers the whole disk, so that nothing lost
    /// can show.
    fn forget_before_damage(&mut self) -> bool {
        self.items.drain(..self.before);
        self.before = 0;
        let Some(size) = self.size else { return false };
        let covered = ExtentTable::build(&self.items, |_| true);
        covered.iter_range(0, size).all(|run| run.value.is_some())
    }

    fn device(
        self,
        shared: Arc<Shared>,
        disk: DiskId,
        seq: Seq,
        below: Below,
    ) -> Result<PointDevice, PointError> {
        let size = self.size.ok_or(PointError::UnknownDisk { disk })?;
        // Zeros hide what is below; over nothing they are nothing.
        let bare = matches!(below, Below::Zeros);
        let table = ExtentTable::build(&self.items, |place| !bare || !place.is_zero());
        let segments = self.segments;
        let cache = Mutex::default();
        let device = PointDevice { _shared: shared, disk, seq, size, segments, table, below, cache };
        // At once where that can be done: whoever keeps bases keeps those that are open.
        if let Err(e) = device.ready() {
            tracing::debug!("{disk} after record {seq} stands on a base that cannot be opened yet: {e}");
        }
        Ok(device)
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
