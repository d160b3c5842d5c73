//! What the vault holds, and who needs how much of it.
//!
//! Invariants: stored bytes are those of sealed frames, shared out among the chunks in them; what several share counts for
//! each as part of what it has, and for none as its own. What is damaged is left out. 29 bytes of memory a chunk.

use crate::error::VaultError;
use crate::prune::marks::{self, CLEAN, ENTERED, LIVE, Marks, each_with_places};
use crate::prune::reach::{Reach, Ref, is_damage};
use crate::prune::{TreeFormat, Watch};
use crate::snapshot::{Owner, Snapshot};
use crate::vault::Vault;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Content is a node, for what is counted.
const NODE: u8 = CLEAN;
/// Several need it.
const SHARED: u32 = u32::MAX;

/// What somebody has in the vault, in bytes.
#[derive(Debug, Clone, Default)]
pub struct UsageRow {
    /// `None` for all together.
    pub owner: Option<Owner>,
    pub snapshots: u64,
    /// What all its snapshots stand for, holes left out.
    pub logical: u64,
    /// Different content among that.
    pub unique: u64,
    /// What that takes, compressed and sealed, maps and trees included.
    pub stored: u64,
    /// Part of it nobody else needs: what deleting all of it would free.
    pub own: u64,
    /// By snapshot, newest first, where asked for.
    pub by_snapshot: Vec<SnapshotUsage>,
}

/// What one snapshot has.
#[derive(Debug, Clone)]
pub struct SnapshotUsage {
    pub snapshot: Arc<Snapshot>,
    pub logical: u64,
    /// Stored bytes no other snapshot needs.
    pub own: u64,
}

/// Answer to [`usage`].
#[derive(Debug, Clone, Default)]
pub struct Usage {
    pub total: UsageRow,
    /// The largest first.
    pub owners: Vec<UsageRow>,
    pub packs: u64,
    /// Bytes of all packs.
    pub packs_bytes: u64,
    /// Stored bytes nothing refers to.
    pub unreferenced: u64,
}

impl Usage {
    /// Bytes the snapshots stand for, by bytes of different content; 1 for an empty vault.
    pub fn dedup_ratio(&self) -> f64 {
        ratio(self.total.logical, self.total.unique)
    }

    /// Bytes of different content, by bytes stored; 1 for an empty vault.
    pub fn compression_ratio(&self) -> f64 {
        ratio(self.total.unique, self.total.stored)
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 1.0 } else { a as f64 / b as f64 }
}

/// Is told the slot, and whether it is a node; says whether to look below.
type Enter<'a> = &'a mut dyn FnMut(&mut Marks, &mut [u32], usize, bool) -> bool;

struct Counting<'a> {
    reach: Reach<'a>,
    marks: Marks,
    /// Of each chunk: its length, and what it takes in the store.
    sizes: Vec<(u32, u32)>,
    /// Who needs it: 0 nobody, a number, or [`SHARED`].
    tags: Vec<u32>,
}

/// Counts. With `by_snapshot` also what each snapshot has for itself.
///
/// # Errors
/// What keeps it from reading maps and trees; `Cancelled`.
pub fn usage(
    vault: &Vault,
    trees: &dyn TreeFormat,
    by_snapshot: bool,
    watch: Watch<'_>,
) -> Result<Usage, VaultError> {
    let marks = Marks::build(vault.index())?;
    let mut sizes = vec![(0, 0); marks.len()];
    let mut all = 0;
    each_with_places(vault.index(), &marks, |slot, places| {
        if let Some(first) = places.first() {
            sizes[slot] = (first.place.len, u32::try_from(marks::share(first)).unwrap_or(u32::MAX));
        }
        all += places.iter().map(marks::share).sum::<u64>();
        Ok(())
    })?;
    let tags = vec![0; marks.len()];
    let mut counting = Counting { reach: Reach { vault, trees }, marks, sizes, tags };

    let mut owners: BTreeMap<Owner, Vec<Arc<Snapshot>>> = BTreeMap::new();
    for snapshot in vault.snapshots() {
        owners.entry(snapshot.owner.clone()).or_default().push(snapshot);
    }
    let mut rows = Vec::new();
    for (n, (owner, snapshots)) in owners.iter().enumerate() {
        if !watch("counting", n as u64, owners.len() as u64) {
            return Err(VaultError::Cancelled);
        }
        rows.push(counting.owner(n as u32 + 1, owner, snapshots)?);
    }
    for (slot, tag) in counting.tags.iter().enumerate() {
        if let Some(row) = (*tag as usize).checked_sub(1).and_then(|n| rows.get_mut(n)) {
            row.own += u64::from(counting.sizes[slot].1);
        }
    }
    let mut total = counting.total();
    total.snapshots = rows.iter().map(|r| r.snapshots).sum();
    total.logical = rows.iter().map(|r| r.logical).sum();
    if by_snapshot {
        counting.snapshots(&mut rows, &owners, watch)?;
    }
    rows.sort_by_key(|r| (Reverse(r.stored), r.owner.clone()));
    let packs = vault.index().packs()?;
    Ok(Usage {
        unreferenced: all.saturating_sub(total.stored),
        total,
        owners: rows,
        packs: packs.len() as u64,
        packs_bytes: packs.iter().map(|p| p.size).sum(),
    })
}

impl Counting<'_> {
    /// Walks everything below a snapshot; `enter` says whether to look below something.
    fn walk(&mut self, snapshot: &Snapshot, enter: Enter<'_>) -> Result<(), VaultError> {
        let mut stack = self.reach.roots(snapshot);
        while let Some(r) = stack.pop() {
            let Some(slot) = self.marks.slot(r.id()) else { continue };
            let node = !matches!(r, Ref::Chunk { .. });
            if enter(&mut self.marks, &mut self.tags, slot, node) && node {
                match self.reach.below(&r, &mut stack) {
                    Ok(()) => {}
                    Err(e) if is_damage(&e) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn owner(
        &mut self,
        tag: u32,
        owner: &Owner,
        snapshots: &[Arc<Snapshot>],
    ) -> Result<UsageRow, VaultError> {
        self.marks.clear(ENTERED);
        let mut row = UsageRow {
            owner: Some(owner.clone()),
            snapshots: snapshots.len() as u64,
            logical: snapshots.iter().map(|s| s.logical()).sum(),
            ..UsageRow::default()
        };
        for snapshot in snapshots {
            let sizes = std::mem::take(&mut self.sizes);
            let walked = self.walk(snapshot, &mut |marks, tags, slot, node| {
                if !marks.set(slot, ENTERED) {
                    return false;
                }
                marks.set(slot, LIVE);
                let (len, stored) = sizes[slot];
                row.stored += u64::from(stored);
                if node {
                    marks.set(slot, NODE);
                } else {
                    row.unique += u64::from(len);
                }
                tags[slot] = if tags[slot] == 0 { tag } else { SHARED };
                true
            });
            self.sizes = sizes;
            walked?;
        }
        Ok(row)
    }

    fn total(&self) -> UsageRow {
        let mut row = UsageRow::default();
        for (slot, (len, stored)) in self.sizes.iter().enumerate() {
            if self.marks.has(slot, LIVE) {
                row.stored += u64::from(*stored);
                row.unique += if self.marks.has(slot, NODE) { 0 } else { u64::from(*len) };
            }
        }
        row.own = row.stored;
        row
    }

    /// What each snapshot has that no other needs.
    fn snapshots(
        &mut self,
        rows: &mut [UsageRow],
        owners: &BTreeMap<Owner, Vec<Arc<Snapshot>>>,
        watch: Watch<'_>,
    ) -> Result<(), VaultError> {
        self.tags.fill(0);
        let all: Vec<&Arc<Snapshot>> = owners.values().flatten().collect();
        for (n, snapshot) in all.iter().enumerate() {
            if !watch("counting points", n as u64, all.len() as u64) {
                return Err(VaultError::Cancelled);
            }
            let tag = n as u32 + 1;
            self.walk(snapshot, &mut |_, tags, slot, _| {
                let before = tags[slot];
                // Below what several need everything is needed by several already.
                let enter = before != tag && before != SHARED;
                if enter {
                    tags[slot] = if before == 0 { tag } else { SHARED };
                }
                enter
            })?;
        }
        let mut own = vec![0u64; all.len()];
        for (slot, tag) in self.tags.iter().enumerate() {
            if let Some(n) = (*tag as usize).checked_sub(1).filter(|&n| n < own.len()) {
                own[n] += u64::from(self.sizes[slot].1);
            }
        }
        for (snapshot, own) in all.into_iter().zip(own) {
            if let Some(row) = rows.iter_mut().find(|r| r.owner.as_ref() == Some(&snapshot.owner)) {
                row.by_snapshot.push(SnapshotUsage {
                    snapshot: Arc::clone(snapshot),
                    logical: snapshot.logical(),
                    own,
                });
            }
        }
        for row in rows {
            row.by_snapshot.sort_by_key(|s| Reverse((s.snapshot.body.site_time, s.snapshot.id)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
