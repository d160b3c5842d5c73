//! Locks that the store itself holds (S3 Object Lock): against whoever has the store's credentials, not only against who
//! asks Lifeboat.
//!
//! Invariant: once this returned, neither the snapshot, its names and locks, the vault's keys, nor any pack the snapshot
//! needs can be deleted before the date. A prune that wants one of these packs leaves it, and says so.

use super::marks::{self, LIVE, Marks};
use super::reach::{Marker, Reach, Trouble};
use super::{TreeFormat, Watch};
use crate::error::{StoreError, VaultError};
use crate::id::ObjectName;
use crate::snapshot::{Snapshot, pack_object};
use crate::vault::{Vault, marker};
use lifeboat_base::WallTime;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

/// How much longer than asked for what several snapshots share is locked, so that not every snapshot asks for all of it
/// again.
const LONGER: Duration = Duration::from_secs(86_400);

impl Vault {
    /// Locks all that a snapshot needs in the store until `until`, what it shares with others up to a day longer; gives how
    /// many objects, 0 where the store has no locks. A longer lock stays.
    ///
    /// # Errors
    /// `Damaged` and the like where what it needs cannot be read; what the store says; then some are locked and others not,
    /// and asking again does the rest.
    pub fn lock_in_store(
        &self,
        snapshot: &Snapshot,
        until: WallTime,
        trees: &dyn TreeFormat,
        watch: Watch<'_>,
    ) -> Result<u64, VaultError> {
        let store = self.store();
        if !store.abilities().locks {
            return Ok(0);
        }
        let mut shared = self.packs_needed(snapshot, trees)?;
        shared.push(marker());
        let mut own = vec![Snapshot::object(&snapshot.owner, &snapshot.id, &self.keys().id)?];
        for (prefix, names) in
            [("keys/".to_string(), &mut shared), (format!("holds/{}/", snapshot.id), &mut own)]
        {
            store.list(&prefix, &mut |o| {
                names.push(o.name);
                ControlFlow::Continue(())
            })?;
        }
        let count = (shared.len() + own.len()) as u64;
        let longer = until.saturating_add(LONGER);
        let shared = shared.into_iter().map(|name| (name, longer));
        for (n, (name, long)) in shared.chain(own.into_iter().map(|name| (name, until))).enumerate() {
            if !watch("locking", n as u64, count) {
                return Err(VaultError::Cancelled);
            }
            let known = &self.shared.locked;
            if known.lock().get(&name).is_some_and(|locked| *locked >= until) {
                continue;
            }
            match store.lock(&name, long) {
                // Longer already.
                Ok(()) | Err(StoreError::Locked { .. }) => {}
                Err(e) => return Err(e.into()),
            }
            known.lock().insert(name, long);
        }
        Ok(count)
    }

    /// One pack for each chunk a snapshot refers to, none of which was going to go.
    fn packs_needed(
        &self,
        snapshot: &Snapshot,
        trees: &dyn TreeFormat,
    ) -> Result<Vec<ObjectName>, VaultError> {
        let mut marks = Marks::build(self.index())?;
        let mut marker = Marker::new(Reach { vault: self, trees });
        marker.mark(&mut marks, snapshot, &mut |trouble| match trouble {
            Trouble::Missing(r) => Err(VaultError::Missing(*r.id())),
            Trouble::Unreadable(_, e) => Err(e),
        })?;
        let packs = marks::packs_of(self.index())?;
        let condemned = self.shared.state.read().condemned.clone();
        let going: HashSet<u32> =
            packs.values().filter(|p| condemned.contains(&p.id)).map(|p| p.number).collect();
        let mut needed = HashSet::new();
        marks::each_with_places(self.index(), &marks, |slot, places| {
            if marks.has(slot, LIVE) {
                let stays = places.iter().find(|k| !going.contains(&k.place.pack));
                needed.extend(stays.or(places.first()).map(|k| k.place.pack));
            }
            Ok(())
        })?;
        let mut names: Vec<ObjectName> =
            needed.iter().filter_map(|n| packs.get(n)).map(|p| pack_object(&p.id)).collect();
        names.sort();
        Ok(names)
    }
}
