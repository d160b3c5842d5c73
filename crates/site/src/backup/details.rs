//! What a backup's snapshot says of itself: JSON in the manifest, so that any site can show it.

use lifeboat_api::types::{Backup, BackupSet, RetentionSpec, VaultHold};
use lifeboat_files::report::MAX_PROBLEMS;
use lifeboat_vault::retention::Verdict;
use lifeboat_vault::snapshot::MAX_DETAILS;
use lifeboat_vault::{Owner, Snapshot, Vault};
use serde::{Deserialize, Serialize};

/// New fields may be added.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    pub agent: Option<String>,
    pub paths: Vec<String>,
    pub errors: Vec<String>,
    pub error_count: u64,
    /// What keeps it where the set is not known.
    pub retention: RetentionSpec,
}

impl Details {
    pub fn new(set: &BackupSet, (errors, error_count): (Vec<String>, u64)) -> Self {
        Self {
            agent: set.agent.clone(),
            paths: set.paths.clone(),
            errors,
            error_count,
            retention: set.retention.clone(),
        }
    }

    /// What does not fit is left out: the backup is worth more than its list of errors.
    pub fn encode(mut self) -> Vec<u8> {
        self.errors.truncate(MAX_PROBLEMS);
        let text = serde_json::to_vec(&self).unwrap_or_default();
        if text.len() <= MAX_DETAILS {
            return text;
        }
        self.errors.clear();
        serde_json::to_vec(&self).unwrap_or_default()
    }

    pub fn decode(snapshot: &Snapshot) -> Option<Self> {
        serde_json::from_slice(&snapshot.body.details).ok()
    }

    pub fn backup(vault: &Vault, snapshot: &Snapshot, verdict: Option<&Verdict>) -> Option<Backup> {
        let Owner::Set(set) = &snapshot.owner else { return None };
        let details = Self::decode(snapshot).unwrap_or_default();
        let stats = &snapshot.body.stats;
        Some(Backup {
            id: snapshot.id.to_string(),
            set: set.clone(),
            agent: details.agent,
            time: snapshot.body.source_time,
            paths: details.paths,
            files: stats.files,
            bytes: stats.size,
            files_read: stats.files_read,
            added_bytes: stats.added,
            duration_ms: stats.millis,
            errors: details.errors,
            error_count: details.error_count,
            hold: hold(vault, snapshot, verdict),
        })
    }
}

fn hold(vault: &Vault, snapshot: &Snapshot, verdict: Option<&Verdict>) -> VaultHold {
    VaultHold {
        snapshot: snapshot.id.to_string(),
        name: vault.hold(&snapshot.id).name,
        keep_until: verdict.and_then(Verdict::until),
        locked_until: vault.locked_until(snapshot),
        added_bytes: snapshot.body.stats.added,
    }
}
