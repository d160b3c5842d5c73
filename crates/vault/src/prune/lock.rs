//! Locks that the store itself holds (S3 Object Lock): against whoever has the store's credentials, not only against who
//! asks Lifeboat.
//!
//! Invariant: once this returned without saying what it lacks, neither the snapshot, its names and locks, the vault's keys,
//! nor any pack the snapshot needs can be deleted before the date, in any copy that has locks. A prune that wants one of
//! these packs leaves it, and says so.

use super::marks::{self, LIVE, Marks};
use super::reach::{Marker, Reach, Trouble};
use super::{TreeFormat, Watch};
use crate::error::{StoreError, VaultError};
use crate::id::ObjectName;
use crate::snapshot::{Snapshot, pack_object};
use crate::store::Locked;
use crate::vault::{Vault, marker};
use lifeboat_base::WallTime;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

/// How much longer than asked for what several snapshots share is locked, so that not every snapshot asks for all of it
/// again.
const LONGER: Duration = Duration::from_secs(86_400);

/// What a store locked of a snapshot.
#[derive(Debug)]
pub struct InStore {
    /// Objects asked for; 0 where the store has no locks.
    pub objects: u64,
    /// Why not everything is locked in every copy that has locks.
    pub lacks: Option<VaultError>,
}

impl Vault {
    /// Locks all that a snapshot needs in the store until `until`, what it shares with others up to a day longer. A longer
    /// lock stays. Of a damaged snapshot it locks what can be found of it.
    ///
    /// # Errors
    /// What the store says; then some objects are locked and others not, and asking again does the rest.
    pub fn lock_in_store(
        &self,
        snapshot: &Snapshot,
        until: WallTime,
        trees: &dyn TreeFormat,
        watch: Watch<'_>,
    ) -> Result<InStore, VaultError> {
        let store = self.store();
        if !store.has_locks()? {
            return Ok(InStore { objects: 0, lacks: None });
        }
        let (mut shared, mut lacks) = self.packs_needed(snapshot, trees)?;
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
        let objects = (shared.len() + own.len()) as u64;
        let longer = until.saturating_add(LONGER);
        let shared = shared.into_iter().map(|name| (name, longer));
        for (n, (name, long)) in shared.chain(own.into_iter().map(|name| (name, until))).enumerate() {
            if !watch("locking", n as u64, objects) {
                return Err(VaultError::Cancelled);
            }
            let known = &self.shared.locked;
            if known.lock().get(&name).is_some_and(|locked| *locked >= until) {
                continue;
            }
            match store.lock(&name, long) {
                // Longer already.
                Ok(Locked::Everywhere) | Err(StoreError::Locked { .. }) => {
                    known.lock().insert(name, long);
                }
                Ok(Locked::Partly(e)) => lacks = lacks.or(Some(e.into())),
                Err(e @ StoreError::NotFound(_)) => lacks = lacks.or(Some(e.into())),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(InStore { objects, lacks })
    }

    /// One pack for each chunk a snapshot refers to, none of which was going to go, and what of it is damaged.
    fn packs_needed(
        &self,
        snapshot: &Snapshot,
        trees: &dyn TreeFormat,
    ) -> Result<(Vec<ObjectName>, Option<VaultError>), VaultError> {
        let mut marks = Marks::build(self.index())?;
        let mut marker = Marker::new(Reach { vault: self, trees });
        let mut damage = None;
        marker.mark(&mut marks, snapshot, &mut |trouble| {
            damage.get_or_insert(match trouble {
                Trouble::Missing(r) => VaultError::Missing(*r.id()),
                Trouble::Unreadable(_, e) => e,
            });
            Ok(())
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
        Ok((names, damage))
    }
}
