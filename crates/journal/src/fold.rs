//! Trimming: the horizon moves on, and what lies before it is folded into a base.
//!
//! Invariants:
//! - every point at or after the horizon reads the same before and after, and after a crash at any step between;
//! - the horizon never goes back and never passes the newest point;
//! - a record is dropped only when later records at or before the horizon cover all of it; zeros also when nothing
//!   that stays lies below them;
//! - the old segments stay until the manifest names the new ones on stable storage, and until nobody reads them.
//!
//! A segment is folded when at most six tenths of it are live, so a byte freed costs at most one and a half bytes
//! written; a segment that is mostly live is left as it is, because it is its own base. Small segments, which
//! restarts make, are merged with their neighbours. The records keep their sequence numbers, so segments stay in
//! order and a fold needs no knowledge of any other. One run of at most eight segments is folded at a time: that
//! much room is needed for the time it takes.
//!
//! ```text
//! plan:    indexes up to the horizon ──> which records are live ──> runs of segments worth folding
//! execute: horizon into the manifest ──> per run: copy live records, sync ──> manifest ──> old files go
//! ```

use crate::error::{Damage, JournalError, PointError};
use crate::format::{Header, Kind, OVERHEAD, SEGMENT_HEADER};
use crate::index::{Entry, Head, Summary};
use crate::manifest::Listed;
use crate::segment::{ReadError, Segment, note};
use crate::state::{Begin, SegmentState, Shared, effect};
use crate::writer::{create_segment, seal_record, segment_id};
use bytes::Bytes;
use lifeboat_base::limits::MIB;
use lifeboat_base::{DiskId, PointId, Seq, format_bytes};
use lifeboat_block::storage::{LogFile, write_all};
use lifeboat_block::{ExtentMap, ExtentTable, HistoryItem, Piece};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Source segments folded together.
const RUN: usize = 8;

/// Some neighbouring segments and what of them stays.
#[derive(Debug, Clone)]
struct FoldRun {
    ids: Vec<[u8; 16]>,
    /// Per segment, per entry of its index: whether it stays.
    live: Vec<Vec<bool>>,
    live_bytes: u64,
    bytes: u64,
}

/// What a trim would do. Print it, then hand it to [`JournalKeeper::trim`].
#[derive(Debug, Clone)]
pub struct TrimPlan {
    horizon: Option<PointId>,
    points: usize,
    runs: Vec<FoldRun>,
}

impl TrimPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.points == 0 && self.runs.is_empty()
    }

    /// Oldest point that stays.
    pub fn horizon(&self) -> Option<PointId> {
        self.horizon
    }

    /// Points that go.
    pub fn points_dropped(&self) -> usize {
        self.points
    }

    /// Bytes that become free.
    pub fn bytes_freed(&self) -> u64 {
        self.runs.iter().map(|r| r.bytes.saturating_sub(r.live_bytes)).sum()
    }

    /// Bytes that are written again.
    pub fn bytes_written(&self) -> u64 {
        self.runs.iter().map(|r| r.live_bytes).sum()
    }
}

impl fmt::Display for TrimPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(horizon) = self.horizon.filter(|_| !self.is_empty()) else {
            return write!(f, "nothing to trim");
        };
        let segments: usize = self.runs.iter().map(|r| r.ids.len()).sum();
        write!(
            f,
            "drop {} points before {horizon}; fold {segments} segments in {} runs: free {}, write {}",
            self.points,
            self.runs.len(),
            format_bytes(self.bytes_freed()),
            format_bytes(self.bytes_written()),
        )
    }
}

/// What a trim did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrimReport {
    pub points_dropped: usize,
    pub segments_folded: usize,
    pub segments_written: usize,
    pub bytes_freed: u64,
    pub bytes_written: u64,
    /// Runs left as they are because a record in them could not be read.
    pub damage: Vec<Damage>,
}

/// Trims a journal while its writer writes and its points are mounted.
#[derive(Clone)]
pub struct JournalKeeper {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    segment: u32,
    nth: u32,
    /// Zeros, which need not stay when nothing lies below them.
    zero: bool,
}

impl Piece for Mark {
    fn advance(&self, _by: u64) -> Self {
        *self
    }
}

/// Everything up to the horizon.
#[derive(Default)]
struct Past {
    disks: BTreeMap<DiskId, Vec<HistoryItem<Mark>>>,
    live: Vec<Vec<bool>>,
    /// Bytes each entry takes in its file.
    stored: Vec<Vec<u32>>,
}

impl Past {
    fn load(shared: &Shared, upto: Seq) -> Result<(Vec<SegmentState>, Self), JournalError> {
        let mut past = Self::default();
        let (base, mut sizes) = {
            let state = shared.state.read();
            let sizes = state.base.iter().flat_map(|b| b.info.disks.iter().map(|d| (d.disk, d.size)));
            (state.from(), sizes.collect::<BTreeMap<DiskId, u64>>())
        };
        let segments = shared
            .history(None, Begin::Start, upto, |segment, e| {
                let n = segment as usize + 1;
                past.live.resize_with(n.max(past.live.len()), Vec::new);
                past.stored.resize_with(n.max(past.stored.len()), Vec::new);
                if e.seq <= base {
                    // The base has it.
                    past.live[n - 1].push(false);
                    past.stored[n - 1].push(OVERHEAD as u32 + e.payload);
                    return;
                }
                let (offset, len, zero) = effect(&e);
                // A disk's size stays when it says something new.
                let sized = e.kind == Kind::Disk && sizes.insert(e.disk, e.len) != Some(e.len);
                let nth = past.live[n - 1].len() as u32;
                past.live[n - 1].push(sized);
                past.stored[n - 1].push(OVERHEAD as u32 + e.payload);
                if e.kind != Kind::Disk || sized {
                    let value = Mark { segment, nth, zero: zero && !sized };
                    past.disks.entry(e.disk).or_default().push(HistoryItem { offset, len, value });
                }
            })
            .map_err(|e| match e {
                PointError::Journal(e) => e,
                other => JournalError::Io {
                    what: "cannot plan a trim".into(),
                    source: io::Error::other(other.to_string()),
                },
            })?
            .segments;
        past.live.resize_with(segments.len(), Vec::new);
        past.stored.resize_with(segments.len(), Vec::new);
        for items in past.disks.values() {
            for run in ExtentTable::build(items, |_| true).iter() {
                if let Some(mark) = run.value {
                    past.live[mark.segment as usize][mark.nth as usize] = true;
                }
            }
        }
        Ok((segments, past))
    }

    /// Lets go of zeros in the chosen segments that have nothing below them.
    fn drop_idle_zeros(&mut self, chosen: &[bool]) {
        for items in self.disks.values() {
            let in_question = |m: &Mark| m.zero && chosen[m.segment as usize];
            if !items.iter().any(|i| in_question(&i.value)) {
                continue;
            }
            let mut below = ExtentMap::new();
            for HistoryItem { offset, len, value: m } in items {
                let live = &mut self.live[m.segment as usize][m.nth as usize];
                if !m.zero {
                    // A disk's size is taken for data here, which can only keep a zero too many.
                    if *live || !chosen[m.segment as usize] {
                        below.insert(*offset, *len, ());
                    }
                } else if in_question(m) && below.iter_range(*offset, *len).all(|r| r.value.is_none()) {
                    *live = false;
                }
            }
        }
    }

    fn live_bytes(&self, segment: usize) -> u64 {
        let pairs = self.live[segment].iter().zip(&self.stored[segment]);
        pairs.filter(|(live, _)| **live).map(|(_, n)| u64::from(*n)).sum()
    }
}

impl JournalKeeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How far back points are kept from now on, in time and in bytes.
    pub fn set_window(&self, window: Duration, bytes: u64) {
        *self.shared.window.lock() = (window, bytes);
    }

    /// Decides what may go, by the window.
    ///
    /// # Errors
    /// What reading the indexes reports.
    pub fn plan_trim(&self) -> Result<TrimPlan, JournalError> {
        let shared = &*self.shared;
        let Some((horizon, points)) = self.horizon() else {
            return Ok(TrimPlan { horizon: None, points: 0, runs: Vec::new() });
        };
        let (segments, mut past) = Past::load(shared, horizon.seq)?;
        let (damaged, finished) = {
            let state = shared.state.read();
            let known = state.damage.iter().chain(&state.found);
            let names: HashSet<String> = known.map(|d| d.segment.clone()).collect();
            (names, state.segments.len() - usize::from(state.open.is_some()))
        };
        let may = |n: usize, s: &SegmentState| {
            n < finished && s.summary.last < horizon.seq && !damaged.contains(&s.segment.name())
        };
        let small = |s: &SegmentState| s.summary.len < shared.segment_bytes / 8;
        let worth: Vec<bool> = segments
            .iter()
            .enumerate()
            .map(|(n, s)| may(n, s) && (past.live_bytes(n) * 10 <= s.summary.len * 6 || small(s)))
            .collect();
        let chosen: Vec<bool> = (0..segments.len())
            .map(|n| {
                let worthy = |n: usize| worth.get(n).is_some_and(|w| *w);
                let alone = !worthy(n + 1) && !worthy(n.wrapping_sub(1));
                let dense = past.live_bytes(n) * 10 > segments[n].summary.len * 6;
                worth[n] && !(alone && dense)
            })
            .collect();
        // A wiped disk is what makes points after damage whole again, so then zeros stay; also where they hide a base.
        if damaged.is_empty() && shared.state.read().base.is_none() {
            past.drop_idle_zeros(&chosen);
        }
        let mut runs: Vec<FoldRun> = Vec::new();
        for (n, s) in segments.iter().enumerate().filter(|(n, _)| chosen[*n]) {
            let joins = n > 0 && chosen[n - 1] && runs.last().is_some_and(|r| r.ids.len() < RUN);
            if !joins {
                runs.push(FoldRun { ids: Vec::new(), live: Vec::new(), live_bytes: 0, bytes: 0 });
            }
            if let Some(run) = runs.last_mut() {
                run.ids.push(s.segment.id);
                run.live_bytes += past.live_bytes(n);
                run.bytes += s.summary.len;
                run.live.push(std::mem::take(&mut past.live[n]));
            }
        }
        Ok(TrimPlan { horizon: Some(horizon), points, runs })
    }

    /// Where the horizon belongs by the window, and how many points that costs. `None` when there are no points.
    pub fn horizon(&self) -> Option<(PointId, usize)> {
        let state = self.shared.state.read();
        let newest = state.barriers.last()?;
        // Time: the newest barrier that is a whole window older than the newest of all.
        let (window, window_bytes) = *self.shared.window.lock();
        let window = u32::try_from(window.as_secs()).unwrap_or(u32::MAX);
        let by_time = newest
            .clock
            .checked_sub(window)
            .map_or(0, |cut| state.barriers.partition_point(|b| b.clock <= cut).saturating_sub(1));
        // Bytes: the first barrier after the segments that are too much.
        let mut bytes = 0;
        let mut by_bytes = 0;
        for s in state.segments.iter().rev().filter(|s| !s.segment.base) {
            bytes += s.summary.len;
            if bytes > window_bytes {
                by_bytes = state.barriers.partition_point(|b| b.seq <= s.summary.last);
                break;
            }
        }
        let at = by_time.max(by_bytes).min(state.barriers.len() - 1);
        Some((state.barriers[at].id(), at))
    }

    /// Lets go of the points before the window, where they are at least so many, and of nothing else: a base does the rest.
    ///
    /// # Errors
    /// As [`trim`](Self::trim).
    pub fn drop_points(&self, many: usize) -> Result<usize, JournalError> {
        let Some((horizon, points)) = self.horizon().filter(|(_, points)| *points >= many) else {
            return Ok(0);
        };
        let plan = TrimPlan { horizon: Some(horizon), points, runs: Vec::new() };
        Ok(self.trim(&plan)?.points_dropped)
    }

    /// Carries out a plan. Runs beside the writer and beside mounts.
    ///
    /// # Errors
    /// `PlanStale`; `NoSpace` and what the system reports: what was finished stays, the rest is as before.
    pub fn trim(&self, plan: &TrimPlan) -> Result<TrimReport, JournalError> {
        let shared = &*self.shared;
        let _alone = shared.trimming.lock();
        let mut report = TrimReport::default();
        let Some(horizon) = plan.horizon else { return Ok(report) };
        let old_horizon = shared.state.read().horizon;
        if horizon.seq < old_horizon {
            return Err(JournalError::PlanStale);
        }
        if horizon.seq > old_horizon {
            let dropped = &mut report.points_dropped;
            shared.update_manifest(
                |m| m.horizon = horizon.seq,
                |state| {
                    state.horizon = horizon.seq;
                    let stay = state.barriers.partition_point(|b| b.seq < horizon.seq);
                    *dropped = state.barriers.drain(..stay).len();
                },
            )?;
        }
        for run in &plan.runs {
            let sources = self.sources(run)?;
            let mut output = Output::new(shared);
            match copy_live(shared, &sources, run, &mut output) {
                Ok(()) => self.switch(&sources, output, &mut report)?,
                Err(Stop::Damage(damage)) => {
                    output.discard();
                    report.damage.push(damage);
                }
                Err(Stop::Error(e)) => {
                    output.discard();
                    return Err(e);
                }
            }
        }
        Ok(report)
    }

    fn sources(&self, run: &FoldRun) -> Result<Vec<SegmentState>, JournalError> {
        let state = self.shared.state.read();
        let find = |id: &[u8; 16]| state.segments.iter().find(|s| s.segment.id == *id).cloned();
        run.ids.iter().map(find).collect::<Option<_>>().ok_or(JournalError::PlanStale)
    }

    fn switch(
        &self,
        sources: &[SegmentState],
        output: Output<'_>,
        report: &mut TrimReport,
    ) -> Result<(), JournalError> {
        let made = output.done;
        // Before the manifest can name them: from here on they may be the journal's.
        made.iter().for_each(|s| s.segment.doomed.store(false, Ordering::Release));
        let old: HashSet<[u8; 16]> = sources.iter().map(|s| s.segment.id).collect();
        let listed = |s: &SegmentState| Listed {
            id: s.segment.id,
            first: s.segment.first,
            len: s.summary.len,
            last: s.summary.last,
            base: true,
        };
        let mut gone = Vec::new();
        let result = self.shared.update_manifest(
            |m| {
                let at = m.segments.iter().position(|l| old.contains(&l.id)).unwrap_or(0);
                m.segments.retain(|l| !old.contains(&l.id));
                m.segments.splice(at..at, made.iter().map(listed));
            },
            |state| {
                let at = state.segments.iter().position(|s| old.contains(&s.segment.id)).unwrap_or(0);
                let (out, stay) = std::mem::take(&mut state.segments)
                    .into_iter()
                    .partition(|s| old.contains(&s.segment.id));
                (gone, state.segments) = (out, stay);
                state.segments.splice(at..at, made.iter().cloned());
            },
        );
        if let Err(e) = result {
            // When it is not known which manifest stands both sets of files have to stay.
            if matches!(e, JournalError::NoSpace) {
                made.iter().for_each(|s| s.segment.doomed.store(true, Ordering::Release));
            }
            return Err(e);
        }
        gone.iter().for_each(|s: &SegmentState| s.segment.doomed.store(true, Ordering::Release));
        let written: u64 = made.iter().map(|s| s.summary.len).sum();
        let bytes: u64 = gone.iter().map(|s| s.summary.len).sum();
        report.segments_folded += gone.len();
        report.segments_written += made.len();
        report.bytes_written += written;
        report.bytes_freed += bytes.saturating_sub(written);
        Ok(())
    }
}

enum Stop {
    Damage(Damage),
    Error(JournalError),
}

fn copy_live(
    shared: &Shared,
    sources: &[SegmentState],
    run: &FoldRun,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    for (source, live) in sources.iter().zip(&run.live) {
        let name = source.segment.name();
        let mut wanted: Vec<Entry> = Vec::new();
        let mut nth = 0;
        shared
            .each_entry(source, Seq(u64::MAX), |e| {
                if live.get(nth).copied().unwrap_or(true) {
                    wanted.push(e);
                }
                nth += 1;
            })
            .map_err(|e| match e {
                PointError::Damaged(d) => Stop::Damage(d),
                PointError::Journal(e) => Stop::Error(e),
                e => Stop::Error(JournalError::Io {
                    what: name.clone(),
                    source: io::Error::other(e.to_string()),
                }),
            })?;
        for e in wanted {
            match source.segment.read(e.pos, e.payload as usize) {
                Ok((h, _)) if h.seq != e.seq || h.kind != e.kind => {
                    let offset = u64::from(e.pos);
                    return Err(Stop::Damage(Damage { segment: name, offset, first: e.seq, last: e.seq }));
                }
                Ok((h, payload)) => output
                    .push(h, &payload)
                    .map_err(|e| Stop::Error(JournalError::io("cannot write a base segment")(e)))?,
                Err(ReadError::Corrupt(_)) => {
                    let offset = u64::from(e.pos);
                    return Err(Stop::Damage(Damage { segment: name, offset, first: e.seq, last: e.seq }));
                }
                Err(ReadError::Io(e)) => {
                    return Err(Stop::Error(JournalError::io(format!("cannot read {name}"))(e)));
                }
            }
        }
    }
    output.finish().map_err(|e| Stop::Error(JournalError::io("cannot write a base segment")(e)))
}

/// Base segments being written.
struct Output<'a> {
    shared: &'a Shared,
    done: Vec<SegmentState>,
    current: Option<Writing>,
}

struct Writing {
    segment: Arc<Segment>,
    file: Arc<dyn LogFile>,
    written: u64,
    buf: Vec<u8>,
    head: Head,
    entries: Vec<Entry>,
}

impl<'a> Output<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, done: Vec::new(), current: None }
    }

    fn push(&mut self, mut header: Header, payload: &Bytes) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|w| {
            w.written + w.buf.len() as u64 >= self.shared.segment_bytes
                || w.head.summary.records >= self.shared.segment_records
        }) {
            self.finish()?;
        }
        if self.current.is_none() {
            self.current = Some(self.start(&header)?);
        }
        let Some(w) = &mut self.current else { return Ok(()) };
        header.durable = 0;
        let pos = w.written + w.buf.len() as u64;
        seal_record(&w.segment, &header, pos, payload, &mut w.buf);
        note(&mut w.head, &mut w.entries, &header, pos, w.written + w.buf.len() as u64);
        if w.buf.len() >= MIB { w.write() } else { Ok(()) }
    }

    fn start(&self, header: &Header) -> io::Result<Writing> {
        let id = segment_id(&*self.shared.entropy);
        let segment = self.shared.segment(id, header.seq, true);
        // Until the manifest names it, it goes with its last user.
        segment.doomed.store(true, Ordering::Release);
        let file = create_segment(self.shared, &segment, header.epoch)?;
        let written = SEGMENT_HEADER as u64;
        let summary = Summary { len: written, first: header.seq, ..Summary::default() };
        let head = Head { summary, ..Head::default() };
        Ok(Writing { segment, file, written, buf: Vec::new(), head, entries: Vec::new() })
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(mut w) = self.current.take() else { return Ok(()) };
        w.write()?;
        w.file.sync()?;
        // Barriers count their bytes themselves; what is folded belongs to none.
        w.head.summary.tail = 0;
        self.shared.write_index(&w.segment, &w.head, &w.entries);
        self.done.push(SegmentState { segment: w.segment, summary: w.head.summary });
        Ok(())
    }

    /// Drops what was written; the files go with it.
    fn discard(self) {}
}

impl Writing {
    fn write(&mut self) -> io::Result<()> {
        write_all(&*self.file, &self.buf, self.written)?;
        self.written += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
