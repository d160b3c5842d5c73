//! Bringing back what is damaged or missing.
//!
//! Invariants: nothing is put in place that was not proven: an object by opening it under its name, content by its id. What
//! cannot be brought back stays a finding, and nothing that is readable is touched.
//!
//! From where, in this order: other copies of the vault; the local index, which remembers the texts of snapshots, names and
//! locks; a source that still has the content.

use super::{Check, Finding, Found, MAX_FINDINGS, judge, objects, packs};
use crate::error::VaultError;
use crate::id::{ChunkId, ObjectName, PackId};
use crate::map::{self, Visit};
use crate::object::ObjectType;
use crate::pack::{Codec, Kind, PackWriter};
use crate::plan;
use crate::session::{new_pack, store_pack};
use crate::snapshot::{Owner, Snapshot, pack_object};
use crate::store::Put;
use bytes::Bytes;
use lifeboat_base::DiskId;
use lifeboat_base::limits::BLOCK;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Content that is lost and needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostChunk {
    pub id: ChunkId,
    /// Where the newest snapshot that has it on a disk has it: owner, disk, offset in bytes. The disk may hold something else
    /// there by now; whatever is given is proven.
    pub at: Option<(Owner, DiskId, u64)>,
}

/// What may still have content the vault has lost.
pub trait Source: Send + Sync {
    /// The content of the chunk, as far as known. Something else is refused, not stored.
    fn chunk(&self, lost: &LostChunk) -> Option<Bytes>;
}

/// What a repair did.
#[derive(Debug, Clone, Default)]
pub struct RepairReport {
    /// Objects brought back from other copies.
    pub copied: u64,
    /// Bytes of them.
    pub copied_bytes: u64,
    /// Objects written again from what the local index remembers.
    pub rewritten: u64,
    /// Chunks taken from a source again.
    pub from_source: u64,
    /// What is still damaged or missing.
    pub left: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
}

/// A repair: a check, and from where to bring back what it finds.
pub struct Mending<'a> {
    pub check: Check<'a>,
    pub sources: &'a [&'a dyn Source],
}

impl Mending<'_> {
    /// Looks, brings back what it can, and looks again.
    ///
    /// # Errors
    /// What keeps it from looking or from writing; what was brought back until then stays.
    pub fn run(&self) -> Result<RepairReport, VaultError> {
        let check = &self.check;
        let vault = check.vault;
        // Before it is refreshed: afterwards the index knows only what there is.
        let texts: HashMap<String, Vec<u8>> = vault.index().texts()?.into_iter().collect();
        let mut report = RepairReport::default();
        self.fill_copies(&mut report)?;
        let first = check.run()?;
        for finding in &first.findings {
            if let Some(name) = ObjectName::new(finding.object.clone())
                && !self.mend(&name, &mut report)?
            {
                self.rewrite(&name, &texts, &mut report)?;
            }
        }
        vault.drop_caches();
        vault.refresh(&|_, _| {})?;
        let (_, lost) = self.look()?;
        report.from_source = self.ask_sources(&lost)?;
        let (second, _) = self.look()?;
        report.left = self.left(first.findings, second.findings)?;
        report.more = (report.left.len() as u64).saturating_sub(MAX_FINDINGS as u64) + second.more;
        report.left.truncate(MAX_FINDINGS);
        Ok(report)
    }

    /// The structure as it is now.
    fn look(&self) -> Result<(super::CheckReport, Vec<ChunkId>), VaultError> {
        let check = &self.check;
        let mut found = Found::default();
        let (bad, gone) = check.look_at_objects(&mut found)?;
        judge(check.vault, check.trees, check.watch, found, bad, gone)
    }

    /// Findings of before that still stand, and those of now.
    fn left(&self, before: Vec<Finding>, now: Vec<Finding>) -> Result<Vec<Finding>, VaultError> {
        let named: HashSet<String> = now.iter().map(|f| f.object.clone()).collect();
        let mut left = now;
        for finding in before.into_iter().filter(|f| !named.contains(&f.object)) {
            // A pack with damage in its content is still so where a snapshot needs what is broken.
            if finding.object.starts_with("packs/") && self.still_touched(&finding)? {
                left.push(finding);
            }
        }
        Ok(left)
    }

    fn still_touched(&self, finding: &Finding) -> Result<bool, VaultError> {
        let check = &self.check;
        let id = finding.object.rsplit('/').next().and_then(PackId::parse);
        let Some(pack) = id.map(|id| check.vault.index().pack_by_id(&id)).transpose()?.flatten() else {
            return Ok(false);
        };
        let Some(bad) = packs::read_back(check.vault, &pack)? else { return Ok(false) };
        let mut found = Found::default();
        found.add(&finding.object, &finding.what);
        let (report, _) = judge(check.vault, check.trees, check.watch, found, vec![bad], HashMap::new())?;
        Ok(report.findings.iter().any(|f| f.touched > 0))
    }

    /// Brings each copy what it lacks.
    fn fill_copies(&self, report: &mut RepairReport) -> Result<(), VaultError> {
        let good = |name: &ObjectName, bytes: &Bytes| self.is_good(name, bytes);
        let mut cancelled = false;
        let done = self.check.vault.store().repair(&good, &mut |step| {
            cancelled = !(self.check.watch)("filling copies", step.done, step.total);
            if cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        report.copied += done.copied;
        report.copied_bytes += done.bytes;
        if cancelled { Err(VaultError::Cancelled) } else { Ok(()) }
    }

    /// Makes all copies of an object what a good one is; whether all are now.
    fn mend(&self, name: &ObjectName, report: &mut RepairReport) -> Result<bool, VaultError> {
        let done = self.check.vault.store().mend(name, &|name, bytes| self.is_good(name, bytes))?;
        report.copied += u64::from(done.mended);
        report.copied_bytes += done.bytes;
        Ok(done.left == 0)
    }

    fn is_good(&self, name: &ObjectName, bytes: &Bytes) -> bool {
        let vault = self.check.vault;
        match name
            .as_str()
            .strip_prefix("packs/")
            .and_then(|rest| rest.rsplit('/').next())
            .and_then(PackId::parse)
        {
            Some(id) if pack_object(&id) == *name => packs::prove(vault, &id, bytes).why.is_none(),
            Some(_) => false,
            None => objects::verify(vault, self.check.site_keys, name, bytes).is_ok(),
        }
    }

    /// Puts a snapshot, name or lock back as the index remembers it, and a prune's plan as this process does.
    fn rewrite(
        &self,
        name: &ObjectName,
        texts: &HashMap<String, Vec<u8>>,
        report: &mut RepairReport,
    ) -> Result<(), VaultError> {
        let vault = self.check.vault;
        if plan::epoch_of(name).is_some() {
            report.rewritten += u64::from(vault.replace_plan(name)?);
            return Ok(());
        }
        let Some(text) = texts.get(name.as_str()).filter(|t| !t.is_empty()) else { return Ok(()) };
        let kind = match Snapshot::id_of(name) {
            Some(_) => ObjectType::Snapshot,
            None if objects::subject(name).is_some() => ObjectType::Hold,
            None => return Ok(()),
        };
        let there = vault.store().size(name).is_ok();
        // One that is gone may have been deleted on purpose, by another process: only what is there and damaged.
        if !there {
            return Ok(());
        }
        vault.store().delete(name)?;
        if vault.put_object(name, kind, text)? == Put::Created {
            vault.index().put_texts(&[(name.as_str().to_string(), text.clone())])?;
            report.rewritten += 1;
        }
        Ok(())
    }

    /// Asks for what is lost; gives how many came.
    fn ask_sources(&self, lost: &[ChunkId]) -> Result<u64, VaultError> {
        if lost.is_empty() || self.sources.is_empty() {
            return Ok(0);
        }
        let vault = self.check.vault;
        let places = self.places(lost)?;
        let mut pack: Option<PackWriter> = None;
        let mut came = 0;
        for (n, id) in lost.iter().enumerate() {
            self.check.watch("asking sources", n as u64, lost.len() as u64)?;
            let wanted = LostChunk { id: *id, at: places.get(id).cloned() };
            let content = self
                .sources
                .iter()
                .filter_map(|s| s.chunk(&wanted))
                .find(|c| !c.is_empty() && vault.content_id(&blake3::hash(c)) == *id);
            let Some(content) = content else { continue };
            came += 1;
            let mut open = match pack.take() {
                Some(open) => open,
                None => new_pack(vault, Kind::Data)?,
            };
            open.push(&content, Codec::Raw, content.len() as u32, vec![(*id, content.len() as u32)]);
            if open.len() >= vault.settings().pack_bytes {
                store_pack(vault, open.finish())?;
            } else {
                pack = Some(open);
            }
        }
        if let Some(open) = pack {
            store_pack(vault, open.finish())?;
        }
        vault.drop_caches();
        Ok(came)
    }

    /// Where the newest snapshots have the lost chunks on their disks.
    fn places(&self, lost: &[ChunkId]) -> Result<HashMap<ChunkId, (Owner, DiskId, u64)>, VaultError> {
        let lost: HashSet<ChunkId> = lost.iter().copied().collect();
        let mut places = HashMap::new();
        let mut newest: Vec<Arc<Snapshot>> = self.check.vault.snapshots();
        newest.sort_by_key(|s| std::cmp::Reverse((s.body.site_time, s.id)));
        let mut entered = HashSet::new();
        for snapshot in newest {
            for disk in &snapshot.body.disks {
                let walked = map::walk(self.check.vault, &disk.map, &mut |visit| match visit {
                    Visit::Node { id, .. } => Ok(!lost.contains(id) && entered.insert(*id)),
                    Visit::Chunk { number, id } => {
                        if lost.contains(id) {
                            places.entry(*id).or_insert((
                                snapshot.owner.clone(),
                                disk.disk,
                                number * BLOCK as u64,
                            ));
                        }
                        Ok(true)
                    }
                });
                match walked {
                    Err(e) if !crate::prune::reach::is_damage(&e) => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(places)
    }
}
