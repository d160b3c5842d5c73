//! Bringing the local index in line with the store.
//!
//! Invariants: afterwards the index has every pack that was in the store when it began and is still there, and every
//! snapshot and hold; what cannot be read is told and does not keep the rest away. Running it again costs a listing.

use crate::error::{StoreError, VaultError};
use crate::id::{ObjectName, PackId, SnapshotId};
use crate::index::PackInfo;
use crate::object::ObjectType;
use crate::pack::{FrameEntry, PackHead, TRAILER, Trailer};
use crate::snapshot::{Hold, Snapshot, pack_object};
use crate::store::Part;
use crate::vault::Vault;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes read from a pack's end at first: the directory of a full pack of 64 KiB chunks fits.
const TAIL: u64 = 64 << 10;
/// Packs whose directories are fetched at a time.
const PARALLEL: usize = 8;
/// Packs added to the index at a time.
const BATCH: usize = 64;

/// What a refresh did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Refreshed {
    pub packs_added: u64,
    pub packs_gone: u64,
    pub snapshots_added: u64,
    pub snapshots_gone: u64,
    /// Objects that could not be read, and why. Everything else is there.
    pub damaged: Vec<(String, String)>,
}

/// Tells how far it is: objects done, objects in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

impl Vault {
    /// Makes the index equal to what is in the store.
    ///
    /// # Errors
    /// What the store says; what was learned so far stays.
    pub fn refresh(&self, progress: Progress<'_>) -> Result<Refreshed, VaultError> {
        self.refresh_all(false, progress)
    }

    /// Makes the index anew: reads what every pack and every text says, whatever is known of it. What is known stays until
    /// it is replaced, so that who reads meanwhile, or after this broke off, finds everything.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn reindex(&self, progress: Progress<'_>) -> Result<Refreshed, VaultError> {
        // Before and after: a chunk's entry moves, and who counts all of them may see it twice or not at all.
        self.shared.index.moves();
        let done = self.refresh_all(true, progress).and_then(|done| {
            self.shared.index.sweep()?;
            self.shared.index.settle()?;
            Ok(done)
        });
        self.shared.index.moves();
        self.drop_caches();
        done
    }

    fn refresh_all(&self, anew: bool, progress: Progress<'_>) -> Result<Refreshed, VaultError> {
        let mut done = Refreshed::default();
        let mut damaged = Vec::new();
        let plan = self.see_pruner_past(&mut |e| {
            damaged.push(e);
            Ok(())
        })?;
        self.read_packs(anew, progress, &mut done)?;
        if damaged.is_empty() {
            self.refreshed_at(plan);
        }
        self.refresh_texts("snapshots/", anew, &mut done)?;
        self.refresh_texts("holds/", anew, &mut done)?;
        self.see_pruner_past(&mut |_| Ok(()))?;
        self.shared.index.settle()?;
        self.load_texts()?;
        for e in damaged {
            if let VaultError::Damaged { object, why } = e {
                done.damaged.push((object, why));
            }
        }
        Ok(done)
    }

    pub(crate) fn refresh_packs(
        &self,
        progress: Progress<'_>,
        done: &mut Refreshed,
    ) -> Result<(), VaultError> {
        self.read_packs(false, progress, done)
    }

    /// Reads the directories of packs that are not known; `anew`: of all.
    fn read_packs(&self, anew: bool, progress: Progress<'_>, done: &mut Refreshed) -> Result<(), VaultError> {
        let s = &*self.shared;
        let known: HashMap<PackId, PackInfo> = s.index.packs()?.into_iter().map(|p| (p.id, p)).collect();
        let (mut seen, mut fresh) = (HashSet::new(), Vec::new());
        s.store.list("packs/", &mut |o| {
            let id = o.name.as_str().rsplit('/').next().and_then(PackId::parse);
            if let Some(id) = id.filter(|id| pack_object(id) == o.name) {
                seen.insert(id);
                if anew || !known.contains_key(&id) {
                    fresh.push((id, o.size));
                }
            }
            ControlFlow::Continue(())
        })?;
        // One that is not in the listing may have been made after it began: the index has it, so it was in the store once.
        let mut gone = Vec::new();
        for p in known.values().filter(|p| !seen.contains(&p.id)) {
            if matches!(s.store.size(&pack_object(&p.id)), Err(StoreError::NotFound(_))) {
                gone.push(p.number);
            }
        }
        s.index.remove_packs(&gone)?;
        done.packs_gone = gone.len() as u64;
        if !gone.is_empty() {
            self.drop_caches();
        }
        let add = |packs: &[_]| if anew { s.index.renew_packs(packs) } else { s.index.add_packs(packs) };
        let total = fresh.len() as u64;
        let next = AtomicUsize::new(0);
        let out = Mutex::new((Vec::new(), 0u64, &mut *done, None));
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(fresh.len()) {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some((id, size)) = fresh.get(n) else { return };
                        let read = self.read_directory(id, *size);
                        let mut out = out.lock();
                        let (batch, count, done, failed) = &mut *out;
                        match read {
                            Ok((head, frames)) => batch.push((head, *size, frames)),
                            // It went meanwhile.
                            Err(VaultError::Store(StoreError::NotFound(_))) => {}
                            Err(e @ (VaultError::Damaged { .. } | VaultError::WrongKey)) => {
                                done.damaged.push((pack_object(id).to_string(), e.to_string()));
                            }
                            Err(e) => {
                                *failed = Some(e);
                                next.store(fresh.len(), Ordering::Relaxed);
                            }
                        }
                        *count += 1;
                        progress(*count, total);
                        if batch.len() >= BATCH {
                            let added = add(batch);
                            done.packs_added += batch.len() as u64;
                            batch.clear();
                            if let Err(e) = added {
                                *failed = Some(e);
                            }
                        }
                    }
                });
            }
        });
        let (batch, _, done, failed) = out.into_inner();
        done.packs_added += batch.len() as u64;
        add(&batch)?;
        failed.map_or(Ok(()), Err)
    }

    /// What a pack says is in it.
    ///
    /// # Errors
    /// `Damaged`; what the store says.
    pub(crate) fn read_directory(
        &self,
        id: &PackId,
        size: u64,
    ) -> Result<(PackHead, Vec<FrameEntry>), VaultError> {
        let s = &*self.shared;
        let name = pack_object(id);
        let damaged = |why: &str| VaultError::damaged(&name, why);
        let head = s.store.get(&name, Part::Range { offset: 0, len: crate::pack::HEADER as u64 })?;
        let head = PackHead::decode(&head).map_err(damaged)?;
        if head.id != *id || head.vault != s.id {
            return Err(damaged("it is another pack than its name says"));
        }
        let mut tail = s.store.get(&name, Part::Tail(TAIL))?;
        let trailer = Trailer::decode(&tail, size).map_err(damaged)?;
        let wanted = u64::from(trailer.directory) + TRAILER as u64;
        if wanted > tail.len() as u64 {
            tail = s.store.get(&name, Part::Tail(wanted))?;
        }
        let from =
            (tail.len() as u64).checked_sub(wanted).ok_or_else(|| damaged("it is cut short"))? as usize;
        let sealed = &tail[from..tail.len() - TRAILER];
        let info = PackInfo {
            number: 0,
            id: *id,
            kind: head.kind,
            generation: head.generation,
            size,
            chunks: 0,
            raw: 0,
        };
        let frames = self.open_pack(&info)?.directory(sealed, size - wanted, &trailer)?;
        Ok((head, frames))
    }

    fn refresh_texts(&self, prefix: &str, anew: bool, done: &mut Refreshed) -> Result<(), VaultError> {
        let s = &*self.shared;
        let mut known: HashSet<String> =
            s.index.texts()?.into_iter().map(|(n, _)| n).filter(|n| n.starts_with(prefix)).collect();
        let mut fresh = Vec::new();
        s.store.list(prefix, &mut |o| {
            if !known.remove(o.name.as_str()) || anew {
                fresh.push(o.name);
            }
            ControlFlow::Continue(())
        })?;
        for name in known {
            let object = ObjectName::new(name.clone());
            if object.is_some_and(|o| matches!(s.store.size(&o), Err(StoreError::NotFound(_)))) {
                s.index.remove_text(&name)?;
                done.snapshots_gone += u64::from(prefix == "snapshots/");
            }
        }
        let mut texts = Vec::new();
        for name in fresh {
            match self.read_text(&name) {
                Ok(text) => texts.push((name.as_str().to_string(), text)),
                Err(VaultError::Store(StoreError::NotFound(_))) => {}
                Err(e @ (VaultError::Damaged { .. } | VaultError::WrongKey)) => {
                    done.damaged.push((name.to_string(), e.to_string()));
                }
                Err(e) => return Err(e),
            }
        }
        // An empty text is a tombstone.
        let snapshots = texts.iter().filter(|(_, text)| prefix == "snapshots/" && !text.is_empty());
        done.snapshots_added += snapshots.count() as u64;
        s.index.put_texts(&texts)
    }

    /// The text of a snapshot or hold; empty for a tombstone.
    fn read_text(&self, name: &ObjectName) -> Result<Vec<u8>, VaultError> {
        let sealed = crate::keys::read_bounded(&*self.shared.store, name, crate::vault::MAX_OBJECT)?;
        match self.open_bytes(name, &sealed)? {
            (ObjectType::Snapshot, text) => {
                self.parse_snapshot(name, &text)?;
                Ok(text)
            }
            (ObjectType::Hold, text) => {
                Hold::decode(&text).map_err(|why| VaultError::damaged(name, why))?;
                Ok(text)
            }
            (ObjectType::Tombstone, _) => Ok(Vec::new()),
            (other, _) => Err(VaultError::damaged(name, format!("there is a {other:?} in its place"))),
        }
    }

    pub(crate) fn parse_snapshot(&self, name: &ObjectName, text: &[u8]) -> Result<Snapshot, VaultError> {
        let snapshot = Snapshot::decode(text).map_err(|why| VaultError::damaged(name, why))?;
        let own = Snapshot::object(&snapshot.owner, &snapshot.id, &self.shared.keys.read().0.id)?;
        if own == *name { Ok(snapshot) } else { Err(VaultError::damaged(name, "it is another snapshot")) }
    }

    /// Takes over what the index knows of snapshots and holds.
    pub(crate) fn load_texts(&self) -> Result<(), VaultError> {
        // Held from before the index is read: what a session adds meanwhile comes after.
        let mut state = self.shared.state.write();
        let mut snapshots: BTreeMap<SnapshotId, Arc<Snapshot>> = BTreeMap::new();
        let mut holds: BTreeMap<SnapshotId, (u32, Hold)> = BTreeMap::new();
        for (name, text) in self.shared.index.texts()? {
            let Some(name) = ObjectName::new(name) else { continue };
            if let Some((id, number)) = Hold::of_object(&name) {
                let hold = Hold::decode(&text).map_err(|why| VaultError::damaged(&name, why))?;
                let known = holds.entry(id).or_default();
                if number > known.0 {
                    *known = (number, hold);
                }
            } else if !text.is_empty() {
                let snapshot = self.parse_snapshot(&name, &text)?;
                snapshots.insert(snapshot.id, Arc::new(snapshot));
            }
        }
        (state.snapshots, state.holds) = (snapshots, holds);
        Ok(())
    }
}
