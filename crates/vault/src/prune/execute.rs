//! Carrying a plan out. The steps and why they are safe: see [`super`].

use super::marks::{LIVE, Marks, Packs};
use super::reach::{Marker, Reach, is_damage};
use super::repack::Repacker;
use super::{Choice, Patience, Prune, PrunePlan, PruneReport, Special, Waiting, choose, marks, tally};
use crate::error::{StoreError, VaultError};
use crate::id::{PackId, SnapshotId};
use crate::object::ObjectType;
use crate::plan::{encode_plan, plan_object};
use crate::snapshot::{Owner, Snapshot, pack_object};
use crate::store::Put;
use std::collections::HashSet;
use std::sync::Arc;

impl Prune<'_> {
    /// Does what the plan shows, as far as it still holds. `patience` says what to do about sessions under way, and is asked
    /// again and again.
    ///
    /// # Errors
    /// `Fenced` when another pruner began meanwhile; `Refused` where it is not clear what is needed; what the store says;
    /// `Cancelled`. Whatever happened, nothing that is needed is gone, and the next prune goes on.
    pub fn execute(
        &self,
        plan: &PrunePlan,
        patience: &dyn Fn(&Waiting) -> Patience,
    ) -> Result<PruneReport, VaultError> {
        let mut report = PruneReport::default();
        // Where a copy is away, what it alone has is not listed, and what is deleted would come back with it.
        self.vault.store().whole()?;
        let cleared = self.vault.index().cleared();
        let epoch = self.vault.next_epoch()?;
        self.refresh()?;
        self.forget_planned(plan, &mut report)?;

        let snapshots = self.vault.snapshots();
        let writing = self.vault.being_written();
        let (mut marks, packs) = self.mark_all(&snapshots)?;
        let before = self.condemned(&packs);
        let uses = tally(self.vault, &marks, &before)?;
        let choice = choose(&packs, &uses, &before, &writing, &self.thrift);
        // What an earlier plan was going to delete stays condemned unless it turned out to be needed: its pruner may still
        // be at it.
        let again = before.iter().filter(|n| uses.get(n).is_none_or(|u| u.live == 0)).copied();
        let going: HashSet<u32> = choice.dead.iter().chain(&choice.repack).copied().chain(again).collect();
        self.vault.still_indexed(cleared)?;
        let published = self.publish(epoch, &packs, &going)?;
        self.empty_packs(&choice, &packs, &marks, &going, &mut report)?;

        if let Some(session) = self.outlast_sessions(patience)? {
            report.left.push(format!(
                "a session that began at {} goes on; what may be deleted after it stays for the next prune",
                session.begun
            ));
            return Ok(report);
        }
        let needed = self.look_again(&mut marks, &snapshots, &going)?;
        self.vault.still_indexed(cleared)?;
        self.still_newest(epoch)?;
        let gone = self.delete_packs(&packs, &going, &needed, &mut report)?;
        self.tidy(epoch, published.into_iter().filter(|id| !gone.contains(id)).collect())?;
        Ok(report)
    }

    fn still_newest(&self, epoch: u32) -> Result<(), VaultError> {
        match self.vault.list_plans()?.newest {
            newest if newest == epoch => Ok(()),
            newest => Err(VaultError::Fenced(format!(
                "another prune (epoch {newest}) began after this one (epoch {epoch}) and goes on in its place"
            ))),
        }
    }

    /// Forgets what the plan shows and what still may be forgotten.
    fn forget_planned(&self, plan: &PrunePlan, report: &mut PruneReport) -> Result<(), VaultError> {
        let shown: HashSet<SnapshotId> = plan.forget.iter().map(|b| b.snapshot.id).collect();
        let (forget, ..) = self.judge();
        let now: Vec<_> = forget.into_iter().filter(|b| shown.contains(&b.snapshot.id)).collect();
        for (n, because) in now.iter().enumerate() {
            self.watch("forgetting", n as u64, now.len() as u64)?;
            // Much may have happened since it was judged.
            let kept = |s: &Snapshot| match (&s.owner, self.keeping.special(s)) {
                (Owner::Base(_), _) => None,
                (_, Special::Keep(why)) => Some(why),
                _ => None,
            };
            match self.vault.forget_unless(&because.snapshot.id, self.now, &kept) {
                Ok(()) => report.forgotten += 1,
                Err(VaultError::Refused { why, .. }) => {
                    report.left.push(format!("snapshot {}: {why}", because.snapshot.id));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Gives what is condemned now.
    fn publish(&self, epoch: u32, packs: &Packs, going: &HashSet<u32>) -> Result<Vec<PackId>, VaultError> {
        let mut ids: HashSet<PackId> = going.iter().filter_map(|n| packs.get(n)).map(|p| p.id).collect();
        // Also what no index can tell anything about.
        let known: HashSet<PackId> = packs.values().map(|p| p.id).collect();
        let before: Vec<PackId> = self.vault.shared.state.read().condemned.iter().copied().collect();
        for id in before.into_iter().filter(|id| !known.contains(id)) {
            if !matches!(self.vault.store().size(&pack_object(&id)), Err(StoreError::NotFound(_))) {
                ids.insert(id);
            }
        }
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort();
        match self.vault.put_object(&plan_object(epoch)?, ObjectType::Plan, &encode_plan(&ids))? {
            Put::Created => self.vault.see_pruner().map(|_| ids),
            Put::Exists => Err(VaultError::Fenced(format!("somebody else uses epoch {epoch}"))),
        }
    }

    fn empty_packs(
        &self,
        choice: &Choice,
        packs: &Packs,
        marks: &Marks,
        going: &HashSet<u32>,
        report: &mut PruneReport,
    ) -> Result<(), VaultError> {
        let mut repacker = Repacker::new(self.vault, marks, going);
        for (n, pack) in choice.repack.iter().filter_map(|n| packs.get(n)).enumerate() {
            self.watch("repacking", n as u64, choice.repack.len() as u64)?;
            match repacker.empty(pack) {
                Ok(()) => report.packs_repacked += 1,
                Err(e) if is_damage(&e) => {
                    report.left.push(format!("{}: {e}; it stays as it is", pack_object(&pack.id)));
                }
                Err(e) => return Err(e),
            }
        }
        repacker.finish()?;
        report.copied = repacker.copied;
        Ok(())
    }

    /// Marks what came while sessions were waited for. Gives the packs that have the only copy of something needed.
    fn look_again(
        &self,
        marks: &mut Marks,
        seen: &[Arc<Snapshot>],
        going: &HashSet<u32>,
    ) -> Result<HashSet<u32>, VaultError> {
        self.vault.store().whole()?;
        self.refresh()?;
        let seen: HashSet<SnapshotId> = seen.iter().map(|s| s.id).collect();
        let fresh: Vec<_> = self.vault.snapshots().into_iter().filter(|s| !seen.contains(&s.id)).collect();
        let mut marker = Marker::new(Reach { vault: self.vault, trees: self.trees });
        self.mark(marks, &mut marker, &fresh)?;
        let mut needed = HashSet::new();
        marks::each_with_places(self.vault.index(), marks, |slot, places| {
            if marks.has(slot, LIVE) && places.iter().all(|k| going.contains(&k.place.pack)) {
                needed.extend(places.iter().map(|k| k.place.pack));
            }
            Ok(())
        })?;
        Ok(needed)
    }

    /// Gives the packs that are gone.
    fn delete_packs(
        &self,
        packs: &Packs,
        going: &HashSet<u32>,
        needed: &HashSet<u32>,
        report: &mut PruneReport,
    ) -> Result<HashSet<PackId>, VaultError> {
        let mut list: Vec<_> = going.difference(needed).filter_map(|n| packs.get(n)).collect();
        list.sort_by_key(|p| p.number);
        let (mut gone, mut numbers) = (HashSet::new(), Vec::new());
        let mut freed = 0;
        for (n, pack) in list.iter().enumerate() {
            self.watch("deleting packs", n as u64, list.len() as u64)?;
            match self.vault.store().delete(&pack_object(&pack.id)) {
                Ok(()) => {
                    report.packs_deleted += 1;
                    freed += pack.size;
                    gone.insert(pack.id);
                    numbers.push(pack.number);
                }
                Err(e @ StoreError::Locked { .. }) => report.left.push(e.to_string()),
                Err(e) => return Err(e.into()),
            }
        }
        self.vault.index().remove_packs(&numbers)?;
        report.freed = freed.saturating_sub(report.copied);
        Ok(gone)
    }

    /// Takes away what earlier prunes left: their claims and plans, of which this one took over what matters, marks of
    /// snapshots that are gone.
    fn tidy(&self, epoch: u32, left: Vec<PackId>) -> Result<(), VaultError> {
        self.watch("tidying up", 0, 0)?;
        let v = self.vault;
        for object in v.list_plans()?.before(epoch) {
            v.store().delete(&object)?;
        }
        v.plan_is_done(epoch, left);
        let orphans: Vec<SnapshotId> = {
            let state = v.shared.state.read();
            let gone = state
                .holds
                .iter()
                .filter(|(id, (_, hold))| hold.forgotten && !state.snapshots.contains_key(id));
            gone.map(|(id, _)| *id).collect()
        };
        orphans.iter().try_for_each(|id| v.remove_holds(id))?;
        v.store().reap()?;
        v.index().settle()
    }
}
