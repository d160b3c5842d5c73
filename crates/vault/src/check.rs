//! Whether the vault is whole: what is damaged or missing, and which snapshots that touches.
//!
//! Invariants: what is found has the name of the object it is in; a snapshot that no finding touches can be read, as far
//! as was looked; looking changes nothing but the local index. What only damaged packs have does not count as there any
//! more, so that the next session that meets it stores it again.
//!
//! - structure: every small object opens under its name; every pack is there in its size; whatever a snapshot refers to,
//!   down to the last chunk, is in a pack that is there. Nodes of maps and trees are read for that, content is not;
//! - content: packs are read back, unsealed, decompressed, and every chunk in them is proven by its id.

mod objects;
mod packs;
mod repair;
mod scrub;
mod touch;

pub use repair::{LostChunk, Mending, RepairReport, Source};
pub use scrub::{Scrub, Scrubbed};

use crate::error::VaultError;
use crate::id::{ChunkId, PackId};
use crate::index::PackInfo;
use crate::prune::marks::{self, LOST, Marks, Packs, each_with_places};
use crate::prune::reach::{Marker, Reach, Trouble};
use crate::prune::{TreeFormat, Watch};
use crate::snapshot::{Snapshot, pack_object};
use crate::vault::Vault;
use lifeboat_base::Secret;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Most findings a report lists; what is beyond is counted.
pub const MAX_FINDINGS: usize = 1000;
/// Most snapshots one finding lists.
pub const MAX_TOUCHED: usize = 100;
/// Most lost chunks that are known one by one.
const MAX_LOST: usize = 4 << 20;

/// A check of a vault.
pub struct Check<'a> {
    pub vault: &'a Vault,
    pub trees: &'a dyn TreeFormat,
    /// What opens the vault's keys; without any they are not looked at.
    pub site_keys: &'a [Secret],
    /// How many of a hundred packs to read back.
    pub read_percent: u8,
    pub watch: Watch<'a>,
}

/// Something damaged or missing.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The object's name, or what is known of it.
    pub object: String,
    pub what: String,
    /// Snapshots it touches, newest first, at most [`MAX_TOUCHED`].
    pub touches: Vec<Arc<Snapshot>>,
    /// All of them.
    pub touched: u64,
    pub repaired: bool,
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    pub snapshots: u64,
    pub packs: u64,
    pub chunks: u64,
    /// Packs that were read back.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
}

/// Packs that are gone, by the first bytes of the ids of the chunks they had.
pub(crate) type Gone = HashMap<[u8; 16], PackId>;

/// What of a pack cannot be relied on.
#[derive(Debug, Clone)]
pub(crate) struct Bad {
    pub pack: PackId,
    pub what: String,
    /// These chunks; `None`: all.
    pub chunks: Option<HashSet<[u8; 16]>>,
}

impl Bad {
    /// Whether anything is lost by it: another copy may have it.
    pub fn loses(&self) -> bool {
        self.chunks.as_ref().is_none_or(|chunks| !chunks.is_empty())
    }
}

/// Findings while they are collected.
#[derive(Default)]
pub(crate) struct Found {
    list: Vec<Finding>,
    by_object: HashMap<String, u32>,
    more: u64,
    /// Which finding a lost chunk belongs to, by slot, and by id where it has none.
    slots: HashMap<usize, u32>,
    missing: HashMap<ChunkId, u32>,
}

impl Found {
    /// Adds a finding, or gives that of the same object; `None` when there are too many.
    pub fn add(&mut self, object: &str, what: impl Into<String>) -> Option<u32> {
        if let Some(&n) = self.by_object.get(object) {
            return Some(n);
        }
        if self.list.len() >= MAX_FINDINGS {
            self.more += 1;
            return None;
        }
        let n = self.list.len() as u32;
        self.list.push(Finding {
            object: object.to_string(),
            what: what.into(),
            touches: Vec::new(),
            touched: 0,
            repaired: false,
        });
        self.by_object.insert(object.to_string(), n);
        Some(n)
    }

    /// Adds one of an object that is about a snapshot; where that is known it is touched.
    fn add_about(&mut self, object: &str, what: impl Into<String>, snapshot: Option<Arc<Snapshot>>) {
        if let Some(finding) = self.add(object, what).and_then(|n| self.list.get_mut(n as usize))
            && finding.touches.is_empty()
        {
            finding.touched = u64::from(snapshot.is_some());
            finding.touches = snapshot.into_iter().collect();
        }
    }

    fn lose(&mut self, slot: usize, finding: Option<u32>) {
        if let Some(n) = finding
            && self.slots.len() < MAX_LOST
        {
            self.slots.entry(slot).or_insert(n);
        }
    }
}

impl Check<'_> {
    /// Looks.
    ///
    /// # Errors
    /// What keeps it from looking: the store does not answer, `Cancelled`. Damage is a finding.
    pub fn run(&self) -> Result<CheckReport, VaultError> {
        self.vault.drop_caches();
        let cleared = self.vault.index().cleared();
        let mut found = Found::default();
        let (mut bad, gone) = self.look_at_objects(&mut found)?;
        let refreshed = self.vault.refresh(&|done, total| {
            (self.watch)("reading directories", done, total);
        })?;
        for (object, why) in &refreshed.damaged {
            found.add(object, why);
        }
        let packs = marks::packs_of(self.vault.index())?;
        let (packs_read, bytes_read) = self.read_some(&packs, &mut bad)?;
        let (report, _) = judge(self.vault, self.trees, self.watch, found, bad, gone)?;
        self.vault.still_indexed(cleared)?;
        Ok(CheckReport { packs_read, bytes_read, ..report })
    }

    pub(crate) fn watch(&self, step: &str, done: u64, total: u64) -> Result<(), VaultError> {
        if (self.watch)(step, done, total) { Ok(()) } else { Err(VaultError::Cancelled) }
    }

    /// Reads so many percent of the packs back; which ones, chance decides.
    fn read_some(&self, packs: &Packs, bad: &mut Vec<Bad>) -> Result<(u64, u64), VaultError> {
        let wanted = (packs.len() as u64 * u64::from(self.read_percent.min(100))).div_ceil(100);
        let entropy = &self.vault.shared.entropy;
        let mut order: Vec<(u64, &PackInfo)> = packs.values().map(|p| (entropy.next_u64(), p)).collect();
        order.sort_by_key(|(chance, p)| (*chance, p.id));
        let mut bytes = 0;
        for (n, (_, pack)) in order.iter().take(wanted as usize).enumerate() {
            self.watch("reading packs back", n as u64, wanted)?;
            if bad.iter().any(|b| b.pack == pack.id) {
                continue;
            }
            bytes += pack.size;
            bad.extend(packs::read_back(self.vault, pack)?);
        }
        Ok((wanted, bytes))
    }
}

/// Finds out what follows from what is bad: which chunks are lost, and which snapshots that touches.
pub(crate) fn judge(
    vault: &Vault,
    trees: &dyn TreeFormat,
    watch: Watch<'_>,
    mut found: Found,
    bad: Vec<Bad>,
    gone: Gone,
) -> Result<(CheckReport, Vec<ChunkId>), VaultError> {
    let packs = marks::packs_of(vault.index())?;
    let mut marks = Marks::build(vault.index())?;
    for b in &bad {
        found.add(pack_object(&b.pack).as_str(), b.what.clone());
    }
    lose_chunks(vault, &packs, &mut marks, &mut found, &bad)?;
    vault.distrust(bad.iter().filter(|b| b.loses()).map(|b| b.pack));

    let snapshots = vault.snapshots();
    let mut marker = Marker::new(Reach { vault, trees });
    for (n, snapshot) in snapshots.iter().enumerate() {
        if !watch("following what points refer to", n as u64, snapshots.len() as u64) {
            return Err(VaultError::Cancelled);
        }
        let mut troubles = Vec::new();
        marker.mark(&mut marks, snapshot, &mut |trouble| {
            troubles.push(trouble);
            Ok(())
        })?;
        troubles.into_iter().for_each(|t| note(&mut found, &mut marks, &gone, t));
    }
    let chunks = marks.len() as u64;
    let lost = touch::find(Reach { vault, trees }, &mut marks, &snapshots, &mut found)?;
    // What nothing needs any more and no pack can be read for is of no interest; a pack that is damaged is, always.
    let report = CheckReport {
        snapshots: snapshots.len() as u64,
        packs: packs.len() as u64,
        chunks,
        findings: found.list,
        more: found.more,
        ..CheckReport::default()
    };
    Ok((report, lost))
}

/// Marks the chunks no good place is left of.
fn lose_chunks(
    vault: &Vault,
    packs: &Packs,
    marks: &mut Marks,
    found: &mut Found,
    bad: &[Bad],
) -> Result<(), VaultError> {
    if bad.is_empty() {
        return Ok(());
    }
    let numbers = marks::numbers(packs);
    let by_number: HashMap<u32, (&Bad, Option<u32>)> = bad
        .iter()
        .filter_map(|b| {
            Some((*numbers.get(&b.pack)?, (b, found.by_object.get(pack_object(&b.pack).as_str()).copied())))
        })
        .collect();
    let mut lost = Vec::new();
    each_with_places(vault.index(), marks, |slot, places| {
        let why = |k: &crate::index::Known| {
            let (bad, finding) = by_number.get(&k.place.pack)?;
            bad.chunks.as_ref().is_none_or(|c| c.contains(&k.short)).then_some(*finding)
        };
        if places.iter().all(|k| why(k).is_some()) {
            lost.push((slot, places.first().and_then(why).flatten()));
        }
        Ok(())
    })?;
    for (slot, finding) in lost {
        marks.set(slot, LOST);
        found.lose(slot, finding);
    }
    Ok(())
}

/// Takes down what a walk met.
fn note(found: &mut Found, marks: &mut Marks, gone: &Gone, trouble: Trouble) {
    match trouble {
        Trouble::Missing(r) => {
            let finding = match gone.get(&r.id().short()) {
                Some(pack) => found.add(pack_object(pack).as_str(), "the pack is gone"),
                None => found.add("packs/", "a pack is gone, which one is not known: chunks are in none"),
            };
            if let Some(n) = finding
                && found.missing.len() < MAX_LOST
            {
                found.missing.entry(*r.id()).or_insert(n);
            }
        }
        Trouble::Unreadable(r, e) => {
            let Some(slot) = marks.slot(r.id()) else { return };
            let finding = match (found.slots.get(&slot), e) {
                (Some(&n), _) => Some(n),
                (None, VaultError::Damaged { object, why }) => found.add(&object, why),
                (None, VaultError::Store(crate::StoreError::NotFound(name))) => {
                    found.add(name.as_str(), "the pack is gone")
                }
                (None, e) => found.add(&format!("chunk {}", r.id()), e.to_string()),
            };
            marks.set(slot, LOST);
            found.lose(slot, finding);
        }
    }
}

#[cfg(test)]
mod tests;
