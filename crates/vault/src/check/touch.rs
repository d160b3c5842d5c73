//! Which snapshots a finding touches.

use super::{Finding, Found, MAX_TOUCHED};
use crate::error::VaultError;
use crate::id::ChunkId;
use crate::prune::marks::{CLEAN, LOST, Marks};
use crate::prune::reach::{Reach, Ref, is_damage};
use crate::snapshot::Snapshot;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Findings below something; empty where all is well.
type Below = Arc<BTreeSet<u32>>;

struct Search<'a> {
    reach: Reach<'a>,
    marks: &'a mut Marks,
    found: &'a Found,
    /// What is below that which is not clean, or was looked into as more than one thing.
    known: HashMap<(ChunkId, u32), Below>,
    lost: HashSet<ChunkId>,
    none: Below,
}

/// Tells each finding the snapshots it touches. Gives the chunks that are lost and needed.
pub(super) fn find(
    reach: Reach<'_>,
    marks: &mut Marks,
    snapshots: &[Arc<Snapshot>],
    found: &mut Found,
) -> Result<Vec<ChunkId>, VaultError> {
    let mut touched: HashMap<u32, Vec<Arc<Snapshot>>> = HashMap::new();
    if found.slots.is_empty() && found.missing.is_empty() {
        return Ok(Vec::new());
    }
    let none = Below::default();
    let mut search = Search { reach, marks, found, known: HashMap::new(), lost: HashSet::new(), none };
    let mut newest: Vec<_> = snapshots.to_vec();
    newest.sort_by_key(|s| Reverse((s.body.site_time, s.id)));
    for snapshot in newest {
        let mut all = BTreeSet::new();
        for root in search.reach.roots(&snapshot) {
            all.extend(search.below(&root)?.iter().copied());
        }
        for n in all {
            touched.entry(n).or_default().push(Arc::clone(&snapshot));
        }
    }
    let lost = search.lost.into_iter().collect();
    for (n, snapshots) in touched {
        if let Some(finding) = found.list.get_mut(n as usize) {
            tell(finding, snapshots);
        }
    }
    Ok(lost)
}

fn tell(finding: &mut Finding, mut snapshots: Vec<Arc<Snapshot>>) {
    finding.touched = snapshots.len() as u64;
    snapshots.truncate(MAX_TOUCHED);
    finding.touches = snapshots;
}

impl Search<'_> {
    fn below(&mut self, r: &Ref) -> Result<Below, VaultError> {
        let slot = self.marks.slot(r.id());
        let own = match slot {
            Some(slot) if self.marks.has(slot, LOST) => Some(self.found.slots.get(&slot).copied()),
            None => self.found.missing.get(r.id()).map(|n| Some(*n)),
            Some(_) => None,
        };
        if let Some(finding) = own {
            self.lost.insert(*r.id());
            return Ok(Arc::new(finding.into_iter().collect()));
        }
        let what = match *r {
            Ref::Chunk { .. } => return Ok(Arc::clone(&self.none)),
            Ref::Node { .. } => 0,
            Ref::Tree { what, .. } => what + 1,
        };
        let plain = matches!(r, Ref::Node { .. }) || what == self.reach.trees.root() + 1;
        if plain && slot.is_some_and(|slot| self.marks.has(slot, CLEAN)) {
            return Ok(Arc::clone(&self.none));
        }
        if let Some(below) = self.known.get(&(*r.id(), what)) {
            return Ok(Arc::clone(below));
        }
        let mut children = Vec::new();
        match self.reach.below(r, &mut children) {
            Ok(()) => {}
            // It was readable a moment ago; the next check tells.
            Err(e) if is_damage(&e) => return Ok(Arc::clone(&self.none)),
            Err(e) => return Err(e),
        }
        let mut all = BTreeSet::new();
        for child in &children {
            let below = self.below(child)?;
            all.extend(below.iter().copied());
        }
        if let Some(slot) = slot.filter(|_| plain && all.is_empty()) {
            self.marks.set(slot, CLEAN);
            return Ok(Arc::clone(&self.none));
        }
        let all = Arc::new(all);
        self.known.insert((*r.id(), what), Arc::clone(&all));
        Ok(all)
    }
}
