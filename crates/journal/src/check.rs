//! Checking what is stored.

use crate::error::{Damage, JournalError};
use crate::index::{self, Head};
use crate::segment::{ScanOptions, Segment, scan};
use crate::state::{SegmentState, Shared};
use lifeboat_base::{PointId, Seq};
use std::io;

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
        (state.segments.clone(), state.open.is_some(), state.damage.clone())
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
    let state = shared.state.read();
    for d in damage {
        let first = state.barriers.iter().find(|b| b.seq >= d.first).filter(|_| d.first <= d.last);
        let points = first.zip(state.barriers.last()).map(|(a, b)| (a.id(), b.id()));
        report.findings.push(Finding { damage: d, points });
    }
    Ok(report)
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
        let scanned = scan(segment, &ScanOptions { len: s.summary.len, verify: true })?;
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
