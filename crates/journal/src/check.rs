//! Checking what is stored.

use crate::error::{Damage, JournalError, PointError};
use crate::index::{self, Barrier, Head};
use crate::segment::{ScanOptions, Segment, scan};
use crate::state::{Begin, DiskInfo, SegmentState, Shared, effect};
use lifeboat_base::{DiskId, PointId, Seq};
use lifeboat_block::ExtentMap;
use std::collections::BTreeMap;
use std::io;

/// How often damage that turns up while looking at damage makes it begin anew.
const RETRIES: usize = 8;

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub damage: Damage,
    /// First and last point that may need what is lost. `None` when no point does.
    pub points: Option<(PointId, PointId)>,
}

/// What a check looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub segments: usize,
    /// Records looked at; 0 unless the check was full.
    pub records: u64,
    pub findings: Vec<Finding>,
    /// Indexes that are damaged. They are made again by themselves; no point is affected.
    pub bad_indexes: Vec<String>,
}

impl CheckReport {
    /// Whether everything looked at is whole.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.bad_indexes.is_empty()
    }
}

pub(crate) fn check(shared: &Shared, full: bool) -> Result<CheckReport, JournalError> {
    let (segments, open, known) = {
        let state = shared.state.read();
        let mut known = state.damage.clone();
        // A full look finds these again, if they are still there.
        known.extend(state.found.iter().filter(|_| !full).cloned());
        (state.segments.clone(), state.open.is_some(), known)
    };
    let mut report = CheckReport { segments: segments.len(), ..CheckReport::default() };
    let mut damage = known;
    for (n, s) in segments.iter().enumerate() {
        let next = segments.get(n + 1).map(|next| next.segment.first);
        let finished = !(open && next.is_none());
        let found = check_one(shared, s, full, finished, &mut report)
            .map_err(JournalError::io(format!("cannot read {}", s.segment.name())))?;
        for mut d in found {
            let last = next.map_or(s.summary.last, |next| Seq(next.0 - 1));
            d.last = d.last.min(last.max(d.first));
            if !damage.iter().any(|k| k.segment == d.segment && k.offset == d.offset) {
                damage.push(d);
            }
        }
    }
    {
        let mut state = shared.state.write();
        let new = damage.iter().filter(|d| !state.damage.contains(d)).cloned().collect();
        // A quick look finds less than a full one; what that found stays known.
        if full {
            state.found = new;
        } else {
            let unknown = new.into_iter().filter(|d| !state.found.contains(d)).collect::<Vec<_>>();
            state.found.extend(unknown);
        }
    }
    report.findings = affected(shared, damage)?;
    Ok(report)
}

/// See [`JournalReader::damage`](crate::JournalReader::damage).
pub(crate) fn known(shared: &Shared) -> Result<Vec<Finding>, JournalError> {
    let damage: Vec<Damage> = {
        let state = shared.state.read();
        let there = |d: &&Damage| state.segments.iter().any(|s| s.segment.name() == d.segment);
        state.damage.iter().chain(&state.found).filter(there).cloned().collect()
    };
    let mut findings = affected(shared, damage)?;
    findings.retain(|f| f.points.is_some());
    Ok(findings)
}

/// Which points need what is lost: those after it and before everything it may have held was written again.
fn affected(shared: &Shared, damage: Vec<Damage>) -> Result<Vec<Finding>, JournalError> {
    let mut findings = Vec::with_capacity(damage.len());
    for d in damage {
        let lost = shared.state.read().lost(&d);
        let healed = if lost { healed_at(shared, &d)? } else { Some(d.first) };
        let state = shared.state.read();
        let needs = |b: &&Barrier| b.seq >= d.first && healed.is_none_or(|h| b.seq < h);
        let first = state.barriers.iter().find(needs);
        let last = state.barriers.iter().rev().find(needs);
        let points = first.zip(last).map(|(a, b)| (a.id(), b.id()));
        findings.push(Finding { damage: d, points });
    }
    Ok(findings)
}

/// The record with which everything that `lost` may have held is written again. `None`: not yet.
fn healed_at(shared: &Shared, lost: &Damage) -> Result<Option<Seq>, JournalError> {
    let (durable, disks, announced) = {
        let state = shared.state.read();
        let disks = state.disks_at(state.durable);
        // A disk cannot be opened before the first announcement of it that is left.
        let first = |d: &DiskInfo| state.disks.iter().find(|c| c.disk == d.disk).map(|c| c.seq);
        let announced = disks.iter().filter_map(first).max();
        (state.durable, disks, announced)
    };
    // Disks are numbered from 0 without a gap, so one that is missing was announced in what is lost.
    let gap = disks.is_empty() || disks.iter().enumerate().any(|(n, d)| usize::from(d.disk.0) != n);
    // Reading an index may find more damage, which is known from then on; then it is looked at again.
    for _ in 0..RETRIES {
        let whole = |d: &DiskInfo| (d.disk, Missing::new(0, d.size));
        let mut missing: BTreeMap<DiskId, Missing> = disks.iter().map(whole).collect();
        let (mut healed, mut hidden, mut indexed) = (None, gap, false);
        // From the start: a fold drops only what later records cover, so what covers the loss is there.
        let read = shared.history(None, Begin::Base, durable.next(), |_, e| {
            let (offset, len, _) = effect(&e);
            hidden |= !disks.iter().any(|d| d.disk == e.disk);
            if e.seq <= lost.last {
                // An index still knows what the one record was.
                let itself = e.seq == lost.first && u64::from(e.pos) == lost.offset;
                if itself && lost.first == lost.last {
                    missing = BTreeMap::from([(e.disk, Missing::new(offset, len))]);
                    indexed = true;
                }
                return;
            }
            if let Some(m) = missing.get_mut(&e.disk) {
                m.fill(offset, len);
            }
            if healed.is_none() && missing.values().all(|m| m.bytes == 0) {
                healed = Some(e.seq);
            }
        });
        match read {
            Ok(_) if indexed => return Ok(healed),
            Ok(_) if hidden => return Ok(None),
            Ok(_) => return Ok(healed.map(|h| announced.map_or(h, |a| h.max(a)))),
            Err(PointError::Journal(e)) => return Err(e),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// What of a range has not been written.
struct Missing {
    offset: u64,
    end: u64,
    bytes: u64,
    written: ExtentMap<()>,
}

impl Missing {
    fn new(offset: u64, len: u64) -> Self {
        Self { offset, end: offset + len, bytes: len, written: ExtentMap::new() }
    }

    fn fill(&mut self, offset: u64, len: u64) {
        let (from, to) = (offset.max(self.offset), (offset + len).min(self.end));
        if from >= to || self.bytes == 0 {
            return;
        }
        let gaps = self.written.iter_range(from, to - from).filter(|r| r.value.is_none());
        self.bytes -= gaps.map(|r| r.len).sum::<u64>();
        self.written.insert(from, to - from, ());
    }
}

fn check_one(
    shared: &Shared,
    s: &SegmentState,
    full: bool,
    finished: bool,
    report: &mut CheckReport,
) -> io::Result<Vec<Damage>> {
    let segment = &s.segment;
    let gone =
        |offset| vec![Damage { segment: segment.name(), offset, first: segment.first, last: Seq(u64::MAX) }];
    match segment.header(&shared.journal) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(gone(0)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(gone(0)),
        Err(e) => return Err(e),
    }
    if finished && !index_is_whole(shared, segment)? {
        report.bad_indexes.push(segment.index_name());
    }
    if full {
        let scanned = scan(segment, &ScanOptions { len: s.summary.len, durable: 0, verify: true })?;
        report.records += u64::from(scanned.head.summary.records);
        return Ok(scanned.damage);
    }
    let len = segment.file()?.len()?;
    Ok(if len < s.summary.len { gone(len) } else { Vec::new() })
}

fn index_is_whole(shared: &Shared, segment: &Segment) -> io::Result<bool> {
    let file = match shared.storage.open(&segment.index_name()) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let head: Option<Head> = index::load_head(&shared.mac, &segment.id, &*file)?;
    Ok(head.is_some() && index::each_entry(&shared.mac, &segment.id, &*file, |_| {})?)
}

#[cfg(test)]
mod tests;
