//! Locks in the store itself, where it has them (S3 Object Lock): what is locked here is locked there, too, against whoever
//! has the store's credentials.
//!
//! Invariants: what is locked in the store was locked here first; what could not be locked there is told and tried again,
//! also after a restart; losing the file of what is done only asks the store again.

use super::{SiteVault, vault_error};
use crate::Site;
use crate::backup::Trees;
use crate::watch::replace;
use lifeboat_api::port::PortError;
use lifeboat_base::WallTime;
use lifeboat_vault::prune::InStore;
use lifeboat_vault::{Snapshot, SnapshotId, Vault};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often is looked whether something is to be locked.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long after a snapshot could not be locked whole it is tried again: that walks all of its map.
const LATER: Duration = Duration::from_secs(3600);
const FILE: &str = "vault-locks.json";

/// Until when snapshots are locked in the store.
#[derive(Default)]
pub(super) struct Locks {
    done: BTreeMap<SnapshotId, WallTime>,
    /// What could not be locked everywhere: when it is tried again, and why not.
    later: BTreeMap<SnapshotId, (WallTime, String)>,
    /// Why the store could not be asked.
    away: Option<String>,
}

impl Locks {
    pub fn load(dir: &Path) -> Self {
        let text = std::fs::read(dir.join(FILE)).ok();
        let rows: Vec<(String, WallTime)> =
            text.and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default();
        let done = rows.iter().filter_map(|(id, until)| Some((SnapshotId::parse(id)?, *until))).collect();
        Self { done, ..Self::default() }
    }

    /// Why not all that is locked here is locked in the store.
    pub fn error(&self) -> Option<&String> {
        self.away.as_ref().or_else(|| self.later.values().next().map(|(_, why)| why))
    }

    fn save(&self, dir: &Path) {
        let rows: Vec<(String, WallTime)> = self.done.iter().map(|(id, at)| (id.to_string(), *at)).collect();
        let saved =
            serde_json::to_vec(&rows).map_err(std::io::Error::from).and_then(|b| replace(dir, FILE, &b));
        if let Err(e) = saved {
            tracing::warn!("{}: {e}", dir.join(FILE).display());
        }
    }
}

impl Site {
    /// Locks in the store what is locked here, one snapshot after the other, until the site goes down.
    pub(crate) async fn lock_loop(self: Arc<Self>) {
        if !self.vault.is_set() {
            return;
        }
        let mut stop = self.shutdown.subscribe();
        let mut wait = LOOK_EVERY;
        while !*stop.borrow() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            let site = Arc::clone(&self);
            let done = tokio::task::spawn_blocking(move || site.lock_due()).await;
            wait = if done.is_ok_and(|all| all) { LOOK_EVERY } else { AGAIN };
        }
    }

    /// Locks all that is due; whether the store could be asked for all of it. Blocks.
    pub(crate) fn lock_due(&self) -> bool {
        let locking = self.vault.copies.lock().iter().any(|c| c.locks);
        let Some(vault) = self.vault.open().ok().filter(|_| locking) else { return true };
        for (snapshot, until) in self.vault.to_lock(&vault) {
            let goes_on = |_: &str, _: u64, _: u64| !*self.shutdown.borrow();
            if !goes_on("", 0, 0) {
                return true;
            }
            let locked = vault.lock_in_store(&snapshot, until, &Trees, &goes_on);
            let mut locks = self.vault.locks.lock();
            match locked {
                Ok(InStore { objects: 0, .. }) => return true,
                Ok(InStore { objects, lacks: None }) => {
                    tracing::info!(snapshot = %snapshot.id, %until, objects, "locked in the store, too");
                    locks.away = None;
                    locks.later.remove(&snapshot.id);
                    locks.done.insert(snapshot.id, until);
                    locks.save(&self.vault.dir);
                }
                // The others are not kept waiting by one.
                Ok(InStore { lacks: Some(e), .. }) => {
                    let why = vault_error(&e).message;
                    tracing::warn!(snapshot = %snapshot.id, "not all of it is locked in the store: {why}");
                    let again = self.vault.now().saturating_add(LATER);
                    locks.away = None;
                    locks.later.insert(snapshot.id, (again, why));
                }
                Err(e) => {
                    let e: PortError = vault_error(&e);
                    tracing::warn!(snapshot = %snapshot.id, "not locked in the store: {}", e.message);
                    locks.away = Some(e.message);
                    return false;
                }
            }
        }
        true
    }
}

impl SiteVault {
    /// What is locked here for longer than in the store, the oldest first.
    fn to_lock(&self, vault: &Vault) -> Vec<(Arc<Snapshot>, WallTime)> {
        let now = self.now();
        let mut due: Vec<_> = vault
            .snapshots()
            .into_iter()
            .filter_map(|s| vault.locked_until(&s).filter(|until| *until > now).map(|until| (s, until)))
            .collect();
        let mut locks = self.locks.lock();
        let ids: HashSet<SnapshotId> = due.iter().map(|(s, _)| s.id).collect();
        locks.done.retain(|id, _| ids.contains(id));
        locks.later.retain(|id, _| ids.contains(id));
        due.retain(|(s, until)| locks.done.get(&s.id).is_none_or(|done| done < until));
        due.retain(|(s, _)| locks.later.get(&s.id).is_none_or(|(again, _)| *again <= now));
        if due.is_empty() {
            locks.away = None;
        }
        due.sort_by_key(|(s, _)| s.body.site_time);
        due
    }
}
