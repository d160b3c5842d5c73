//! What keeps backups: rules, names, locks.

use super::{Backups, find, retention_of, unknown};
use crate::vault::{policy, vault_error};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{Backup, ErrorCode, HoldRequest};
use lifeboat_base::WallTime;
use lifeboat_vault::retention::{Candidate, Policy, Verdict, decide};
use lifeboat_vault::{Hold, Owner, Snapshot, SnapshotId, Vault};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

impl Backups {
    /// What keeps the backups of a set. A set that is not known here (any more) goes by what its newest backup says.
    pub fn policy(&self, vault: &Vault, set: &str) -> Policy {
        let known = self.sets.lock().get(set).map(|s| s.set.retention.clone());
        let spec = known.or_else(|| Self::newest(vault, set).map(|s| retention_of(&s))).unwrap_or_default();
        policy(&spec).unwrap_or_else(|e| {
            tracing::error!(set, "its retention is not understood, so the default counts: {e}");
            Policy::aws()
        })
    }

    /// What becomes of every backup.
    pub(super) fn verdicts(&self, vault: &Vault, now: WallTime) -> HashMap<SnapshotId, Verdict> {
        let mut by_set: HashMap<String, Vec<Candidate>> = HashMap::new();
        for snapshot in vault.snapshots() {
            if let Owner::Set(set) = &snapshot.owner {
                by_set.entry(set.clone()).or_default().push(candidate(vault, &snapshot));
            }
        }
        let decided = by_set.iter().flat_map(|(set, all)| decide(&self.policy(vault, set), all, now));
        decided.map(|v| (v.id, v)).collect()
    }

    /// Names, releases or locks a backup.
    pub(crate) fn hold(&self, name: &str, request: &HoldRequest) -> Result<Backup, PortError> {
        let vault = self.vault.open()?;
        let snapshot = find(&vault, name)?;
        let lock = request.lock_seconds.map(|s| self.vault.now().saturating_add(Duration::from_secs(s)));
        // Given what it has by then: two at once lose neither a name nor a lock.
        let change = |old: &Hold| Hold {
            name: if request.release { None } else { request.name.clone().or_else(|| old.name.clone()) },
            locked_until: lock.max(old.locked_until).max(snapshot.body.locked_until),
            ..Hold::default()
        };
        vault.change_hold(&snapshot.id, change).map_err(|e| vault_error(&e))?;
        self.backup(&snapshot.id.to_string())
    }

    /// Deletes a backup, by its id only: a set's name means another one each time.
    pub(crate) fn delete(&self, name: &str) -> Result<(), PortError> {
        let vault = self.vault.open()?;
        let snapshot = find(&vault, name)?;
        if name.len() < 8 || !snapshot.id.to_string().starts_with(&name.to_ascii_lowercase()) {
            return Err(unknown(name).hint("give the backup's id: lifeboat backup list"));
        }
        if self.in_use().contains(&snapshot.id) {
            return Err(PortError::new(ErrorCode::Conflict, "the backup is being read")
                .hint("unmount it, or wait for the restore to end: lifeboat vault jobs"));
        }
        vault.forget(&snapshot.id, self.vault.now()).map_err(|e| vault_error(&e))
    }
}

fn candidate(vault: &Vault, snapshot: &Arc<Snapshot>) -> Candidate {
    Candidate {
        id: snapshot.id,
        order: (0, 0),
        made: snapshot.body.site_time,
        name: vault.hold(&snapshot.id).name,
        locked_until: vault.locked_until(snapshot),
    }
}
