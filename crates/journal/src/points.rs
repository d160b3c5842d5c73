//! Finding recovery points.

use crate::base::BaseInfo;
use crate::check::{CheckReport, Finding};
use crate::device::PointDevice;
use crate::error::{JournalError, PointError};
use crate::format::Kind;
use crate::index::Barrier;
use crate::state::{Begin, DiskInfo, Shared, effect};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Epoch, PointId, PointSpec, Seq, WallTime};
use lifeboat_block::BarrierKind;
use std::sync::Arc;

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointInfo {
    pub id: PointId,
    /// The source's clock when the barrier was cut.
    pub source_time: WallTime,
    /// This site's clock when the barrier arrived.
    pub site_time: WallTime,
    pub kind: BarrierKind,
    /// Bytes of data written since the point listed before this one in time.
    pub bytes_since_previous: u64,
}

/// Runs of blocks noted before they are merged.
const MOST_RUNS: usize = 1 << 18;

/// Runs of whole blocks, from and to.
struct Runs {
    all: Vec<(u64, u64)>,
    merge_at: usize,
}

impl Runs {
    fn add(&mut self, from: u64, to: u64, size: u64) {
        if from >= to {
            return;
        }
        let block = BLOCK as u64;
        let (from, to) = (from - from % block, to.next_multiple_of(block).min(size));
        match self.all.last_mut() {
            Some(last) if last.0 <= from && from <= last.1 => last.1 = last.1.max(to),
            _ => self.all.push((from, to)),
        }
        if self.all.len() >= self.merge_at {
            self.merge();
            self.merge_at = (2 * self.all.len()).max(MOST_RUNS);
        }
    }

    fn merge(&mut self) {
        self.all.sort_unstable();
        self.all.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            if joins {
                last.1 = last.1.max(next.1);
            }
            joins
        });
    }
}

/// Which points to list. Times are the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointQuery {
    /// Not older than this.
    pub from: Option<WallTime>,
    /// Not newer than this.
    pub to: Option<WallTime>,
    /// At most this many.
    pub limit: usize,
    /// Spread the points over the whole window instead of listing the newest ones.
    pub sampled: bool,
}

impl Default for PointQuery {
    fn default() -> Self {
        Self { from: None, to: None, limit: 100, sampled: true }
    }
}

/// How much there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all segments.
    pub bytes: u64,
    pub segments: usize,
    pub records: u64,
    pub points: usize,
    pub oldest: Option<PointInfo>,
    pub newest: Option<PointInfo>,
    /// Places known to be damaged, whether or not a point still needs them.
    pub damaged: usize,
}

/// Reads a journal while its writer writes. Cheap to clone.
#[derive(Clone)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

fn info(b: &Barrier) -> PointInfo {
    PointInfo {
        id: b.id(),
        source_time: b.source,
        site_time: b.site,
        kind: b.kind,
        bytes_since_previous: b.bytes,
    }
}

impl JournalReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Points on stable storage, newest first.
    pub fn points(&self, query: &PointQuery) -> Vec<PointInfo> {
        let state = self.shared.state.read();
        let wanted = |b: &&Barrier| {
            query.from.is_none_or(|from| b.source >= from) && query.to.is_none_or(|to| b.source <= to)
        };
        let (mut first, mut last, mut count) = (WallTime(u64::MAX), WallTime(0), 0);
        for b in state.barriers.iter().filter(wanted) {
            (first, last, count) = (first.min(b.source), last.max(b.source), count + 1);
        }
        let limit = query.limit as u64;
        let sampled = query.sampled && count > limit;
        // The newest of each of `limit` equal spans of time.
        let span = (last.0.saturating_sub(first.0) / limit.max(1)).max(1);
        let bucket = |b: &Barrier| (last.0 - b.source.0) / span;
        let mut out: Vec<PointInfo> = Vec::new();
        let mut seen = None;
        for b in state.barriers.iter().rev().filter(wanted) {
            let skip = sampled && (seen.is_some_and(|s| bucket(b) <= s) || out.len() as u64 >= limit);
            if skip {
                // Its bytes belong to the newer point that stays.
                if let Some(newer) = out.last_mut() {
                    newer.bytes_since_previous += b.bytes;
                }
                continue;
            }
            if out.len() as u64 >= limit {
                break;
            }
            seen = Some(bucket(b));
            out.push(info(b));
        }
        out
    }

    /// Finds the point that is meant.
    ///
    /// # Errors
    /// `NoPoints`, `BeforeWindow`, `Unknown`.
    pub fn resolve(&self, spec: &PointSpec) -> Result<PointInfo, PointError> {
        let state = self.shared.state.read();
        let (Some(oldest), Some(newest)) = (state.barriers.first(), state.barriers.last()) else {
            return Err(PointError::NoPoints);
        };
        let before = PointError::BeforeWindow { oldest: oldest.id() };
        match spec {
            PointSpec::Latest => Ok(info(newest)),
            PointSpec::At(time) => {
                state.barriers.iter().rev().find(|b| b.source <= *time).map(info).ok_or(before)
            }
            PointSpec::Id(id) => match state.barriers.binary_search_by_key(&id.seq, |b| b.seq) {
                Ok(at) if state.barriers[at].epoch == id.epoch => Ok(info(&state.barriers[at])),
                Err(0) => Err(before),
                _ => Err(PointError::Unknown { id: *id }),
            },
        }
    }

    /// Opens one disk at a point, read-only. The point stays readable as long as the device lives, whatever is
    /// trimmed meanwhile.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); `UnknownDisk`; `Damaged` when the point needs records that are lost.
    pub fn open_point(&self, id: PointId, disk: DiskId) -> Result<PointDevice, PointError> {
        self.resolve(&PointSpec::Id(id))?;
        PointDevice::open(self.shared.clone(), disk, id.seq)
    }

    /// The content of a disk up to the last committed record, whether or not a barrier follows it. What damage took
    /// and nothing has replaced since reads as `Corrupt`.
    ///
    /// # Errors
    /// `UnknownDisk`, and what the system reports.
    pub fn open_live(&self, disk: DiskId) -> Result<PointDevice, PointError> {
        PointDevice::open_known(self.shared.clone(), disk)
    }

    /// A disk as it was after record `seq`, whether or not that is a barrier.
    ///
    /// # Errors
    /// `BeforeWindow`, `UnknownDisk`, `Damaged`.
    pub fn open_at(&self, disk: DiskId, seq: Seq) -> Result<PointDevice, PointError> {
        PointDevice::open(self.shared.clone(), disk, seq)
    }

    /// What was written up to record `upto` of this journal and after what `below` includes, over `below`.
    ///
    /// # Errors
    /// `UnknownDisk`; `Damaged`; `BeforeWindow` when `below` ends before the window, since what lies between may have
    /// been folded: open it anew.
    pub fn open_over(&self, below: Arc<PointDevice>, upto: Seq) -> Result<PointDevice, PointError> {
        PointDevice::open_over(self.shared.clone(), below, upto)
    }

    /// Whether the content after record `seq` can still be told.
    pub fn reaches(&self, seq: Seq) -> bool {
        let state = self.shared.state.read();
        seq >= state.horizon && seq <= state.durable
    }

    /// The first point after record `seq`.
    pub fn point_after(&self, seq: Seq) -> Option<PointInfo> {
        let state = self.shared.state.read();
        let at = state.barriers.partition_point(|b| b.seq <= seq);
        state.barriers.get(at).map(info)
    }

    /// The disks after record `seq`.
    pub fn disks_after(&self, seq: Seq) -> Vec<DiskInfo> {
        self.shared.state.read().disks_at(seq)
    }

    /// Writes kept here and their bytes of content, zeros not counted. Reads every index.
    ///
    /// # Errors
    /// `Damaged`, and what the system reports.
    pub fn content(&self) -> Result<(u64, u64), PointError> {
        let (mut writes, mut bytes) = (0, 0);
        self.shared.history(None, Begin::Start, Seq(u64::MAX), |_, e| {
            writes += u64::from(e.kind != Kind::Disk);
            bytes += if e.kind.is_content() { e.len } else { 0 };
        })?;
        Ok((writes, bytes))
    }

    /// The disks of a point.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn disks_at(&self, id: PointId) -> Result<Vec<DiskInfo>, PointError> {
        self.resolve(&PointSpec::Id(id))?;
        Ok(self.shared.state.read().disks_at(id.seq))
    }

    /// The disks as of the last committed record.
    pub fn disks(&self) -> Vec<DiskInfo> {
        let state = self.shared.state.read();
        state.disks_at(state.durable)
    }

    /// Last record on stable storage.
    pub fn durable_seq(&self) -> Seq {
        self.shared.state.read().durable
    }

    pub fn epoch(&self) -> Epoch {
        self.shared.state.read().epoch
    }

    pub fn usage(&self) -> Usage {
        let state = self.shared.state.read();
        Usage {
            bytes: state.segments.iter().map(|s| s.summary.len).sum(),
            segments: state.segments.len(),
            records: state.segments.iter().map(|s| u64::from(s.summary.records)).sum(),
            points: state.barriers.len(),
            oldest: state.barriers.first().map(info),
            newest: state.barriers.last().map(info),
            damaged: {
                // What the base holds is not lost; of damage that lost no record nobody knows what it means.
                let matters = |d: &&crate::Damage| d.first > d.last || state.lost(d);
                state.damage.iter().chain(&state.found).filter(matters).count()
            },
        }
    }

    /// The journal's own id, for ever.
    pub fn id(&self) -> [u8; 16] {
        self.shared.journal
    }

    /// Which base stands after a restart is known: no change of the manifest is in doubt.
    pub fn is_sure(&self) -> bool {
        self.shared.manifest.lock().is_sure()
    }

    /// What lies below the records.
    pub fn base(&self) -> Option<BaseInfo> {
        self.shared.state.read().base.as_ref().map(|b| b.info.clone())
    }

    /// Whether any content was ever taken, be it without a record of the stream.
    pub fn has_content(&self) -> bool {
        let state = self.shared.state.read();
        state.base.is_some()
            || !state.barriers.is_empty()
            || state.segments.iter().any(|s| s.summary.tail > 0)
    }

    /// How far the base can be moved on so that all finished segments go, and their bytes. `None` where there are none.
    pub fn finished(&self) -> Option<(Seq, u64)> {
        let state = self.shared.state.read();
        let finished = &state.segments[..state.segments.len() - usize::from(state.open.is_some())];
        let last = finished.last()?.summary.last;
        let bytes = finished.iter().map(|s| s.summary.len).sum();
        Some((last.next().min(state.durable), bytes))
    }

    /// Bytes of finished segments that hold nothing from record `seq` on.
    pub fn bytes_before(&self, seq: Seq) -> u64 {
        let state = self.shared.state.read();
        let finished = &state.segments[..state.segments.len() - usize::from(state.open.is_some())];
        finished.iter().take_while(|s| s.summary.last < seq).map(|s| s.summary.len).sum()
    }

    /// Which parts of a disk may differ between record `from` and record `to`: whole blocks, in order, disjoint, within the
    /// disk as it is at `to`. All of it where damage hides what was written.
    ///
    /// # Errors
    /// `BeforeWindow` or `NoPoints` when either is before the oldest point, except that `from` may be the base; `UnknownDisk`; `Damaged`.
    pub fn changed(&self, disk: DiskId, from: Seq, to: Seq) -> Result<Vec<(u64, u64)>, PointError> {
        let (old, size, damaged) = {
            let state = self.shared.state.read();
            let size_at = |seq| state.disks_at(seq).into_iter().find(|d| d.disk == disk).map(|d| d.size);
            let (old, size) = (size_at(from), size_at(to));
            let lost = |d: &crate::Damage| d.first <= d.last && d.first <= to && d.last > from;
            (old.unwrap_or(0), size, state.damage.iter().chain(&state.found).any(lost))
        };
        let size = size.ok_or(PointError::UnknownDisk { disk })?;
        let mut runs = Runs { all: Vec::new(), merge_at: MOST_RUNS };
        self.shared.history(Some(disk), Begin::After(from), to, |_, e| {
            let (offset, len, _) = effect(&e);
            runs.add(offset.min(size), offset.saturating_add(len).min(size), size);
        })?;
        if old != size {
            // The last block is shorter or longer now, and what follows is new.
            runs.add(old.min(size).saturating_sub(1), size, size);
        }
        if damaged && size > 0 {
            return Ok(vec![(0, size)]);
        }
        runs.merge();
        Ok(runs.all.into_iter().map(|(from, to)| (from, to - from)).collect())
    }

    /// Looks at every segment: headers and indexes, or with `full` every record, unsealed and decoded.
    ///
    /// # Errors
    /// What the system reports; damage is in the report.
    pub fn check(&self, full: bool) -> Result<CheckReport, JournalError> {
        crate::check::check(&self.shared, full)
    }

    /// Damage known by now that a point still needs, each with these points. Cheap while there is none.
    ///
    /// # Errors
    /// What the system reports.
    pub fn damage(&self) -> Result<Vec<Finding>, JournalError> {
        crate::check::known(&self.shared)
    }
}

#[cfg(test)]
mod tests;
