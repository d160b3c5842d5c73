//! The vault as control sees it.

use super::{Phase, SiteVault, vault_error};
use crate::port::{SiteHandle, blocking};
use async_trait::async_trait;
use lifeboat_api::port::{Content, FilesAt, PortError, VaultPort};
use lifeboat_api::types::{
    Backup, BackupSet, BackupSetInfo, Catalogue, ErrorCode, FileChanges, FileEntry, HoldRequest, PointInfo,
    VaultClock, VaultCopy, VaultJob, VaultJobRequest, VaultState, VaultStatus, VaultUsage,
};
use lifeboat_base::{PointId, ServerId};
use lifeboat_vault::Vault;
use lifeboat_vault::store::Health;
use std::sync::Arc;
use std::time::Duration;

/// How long a failure of tiering is told after it.
const RECENT: Duration = Duration::from_secs(120);

impl SiteVault {
    /// What needs a person, the worst first; and whether nothing works.
    fn trouble(&self) -> Option<(VaultState, String)> {
        let now = self.clock.monotonic();
        let failed = {
            let standing = self.standing.lock();
            let recent = |at: Duration| now.saturating_sub(at) < RECENT;
            let mut errors = standing.values().filter_map(|s| s.error.clone()).filter(|(at, _)| recent(*at));
            errors.next().map(|(_, why)| why)
        };
        if let Some(why) = failed {
            return Some((VaultState::Degraded, format!("a journal cannot go into it: {why}")));
        }
        let damaged = self.findings.lock().iter().filter(|f| !f.repaired).count();
        if damaged > 0 {
            let text =
                format!("{damaged} objects are damaged or missing; bring them back: lifeboat vault repair");
            return Some((VaultState::Degraded, text));
        }
        if let Some(why) = self.locks.lock().error() {
            let text = format!("locks cannot be set in the store, where they would bind everybody: {why}");
            return Some((VaultState::Degraded, text));
        }
        self.clock_report().map(|text| (VaultState::Degraded, text))
    }

    pub(crate) fn status(&self) -> VaultStatus {
        let scrub = self.scrub.lock().clone();
        let mut s = VaultStatus {
            state: VaultState::Off,
            reason: None,
            id: None,
            format: lifeboat_vault::FORMAT,
            copies: Vec::new(),
            quorum: 0,
            key_generation: 0,
            packs: 0,
            chunks: 0,
            stored_bytes: 0,
            snapshots: 0,
            index_percent: 0,
            backlog_bytes: self.backlog(),
            last_scrub: scrub.last,
            scrub_percent: scrub.percent,
            findings: self.findings.lock().clone(),
        };
        let mut away = None;
        self.phase(|phase| match phase {
            Phase::Off => {}
            Phase::Opening { done, total } => {
                s.state = VaultState::Opening;
                s.index_percent = (done * 100).checked_div(*total).unwrap_or(0).min(100) as u8;
                s.reason = Some(format!("the local index is made: {done} of {total} packs"));
            }
            Phase::Away { why } => {
                s.state = VaultState::Unavailable;
                away = Some(why.clone());
                s.reason = Some(format!("{why}; it is tried again by itself"));
            }
            Phase::Ready(vault) => {
                s.state = VaultState::Ready;
                s.index_percent = 100;
                fill(&mut s, vault);
            }
        });
        if s.state == VaultState::Ready
            && let Some((state, why)) = self.trouble()
        {
            (s.state, s.reason) = (state, Some(why));
        }
        if let Some(settings) = self.settings() {
            s.quorum = settings.quorum;
            s.copies = self.copies.lock().iter().map(copy).collect();
            if s.copies.is_empty() {
                let reachable = away.is_none();
                // Nothing is asked of the store here: that may take long, and waits.
                let location = settings.store.describe();
                s.copies.push(VaultCopy { location, reachable, error: away, lacking: 0, locks: false });
            }
            judge_copies(&mut s);
        }
        s
    }
}

fn copy(h: &Health) -> VaultCopy {
    VaultCopy {
        location: h.store.clone(),
        reachable: h.reachable,
        error: h.error.clone(),
        lacking: h.lacking,
        locks: h.locks,
    }
}

/// A copy that is away or not whole needs a person, and all of them away is no vault.
fn judge_copies(s: &mut VaultStatus) {
    if s.state != VaultState::Ready {
        return;
    }
    let Some(bad) = s.copies.iter().find(|c| !c.reachable || c.lacking > 0) else { return };
    let why = match &bad.error {
        Some(e) => format!("{} is away: {e}", bad.location),
        None => format!("{} lacks {} objects; bring them: lifeboat vault repair", bad.location, bad.lacking),
    };
    let all = s.copies.iter().all(|c| !c.reachable);
    s.state = if all { VaultState::Unavailable } else { VaultState::Degraded };
    s.reason = Some(why);
}

fn fill(s: &mut VaultStatus, vault: &Vault) {
    s.id = Some(vault.id().to_string());
    s.key_generation = vault.keys().generation();
    s.snapshots = vault.snapshots().len() as u64;
    match vault.index().totals() {
        Ok(all) => (s.packs, s.chunks, s.stored_bytes) = (all.packs, all.chunks, all.stored),
        Err(e) => s.reason = Some(e.to_string()),
    }
}

#[async_trait]
impl VaultPort for SiteHandle {
    fn status(&self) -> VaultStatus {
        self.vault.status()
    }

    async fn usage(&self, by_point: bool) -> Result<VaultUsage, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.usage(by_point)).await
    }

    async fn start(&self, job: VaultJobRequest) -> Result<VaultJob, PortError> {
        match job {
            VaultJobRequest::Check { read_percent } => self.start_check(read_percent),
            VaultJobRequest::Scrub => self.start_scrub(),
            VaultJobRequest::Repair => self.start_repair(),
            VaultJobRequest::PrunePlan => self.start_plan(),
            VaultJobRequest::Prune { plan } => self.start_prune(&plan),
            VaultJobRequest::Reindex => self.start_reindex(),
            VaultJobRequest::Backup { set } => self.start_backup(&set),
            VaultJobRequest::Restore(request) => self.start_restore(request),
        }
    }

    fn jobs(&self) -> Vec<VaultJob> {
        self.vault.jobs.list()
    }

    fn job(&self, id: &str) -> Result<VaultJob, PortError> {
        self.vault.jobs.get(id)
    }

    fn cancel(&self, id: &str) -> Result<(), PortError> {
        self.vault.jobs.cancel(id)
    }

    async fn hold_point(
        &self,
        server: ServerId,
        point: PointId,
        hold: HoldRequest,
    ) -> Result<PointInfo, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.hold_point(server, point, &hold)).await
    }

    async fn hold_backup(&self, backup: &str, hold: HoldRequest) -> Result<Backup, PortError> {
        let (site, backup) = (Arc::clone(&self.0), backup.to_owned());
        blocking(move || site.backups.hold(&backup, &hold)).await
    }

    async fn delete_backup(&self, backup: &str) -> Result<(), PortError> {
        let (site, backup) = (Arc::clone(&self.0), backup.to_owned());
        blocking(move || site.backups.delete(&backup)).await
    }

    async fn rotate_key(&self) -> Result<u32, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || {
            let vault = site.vault.open()?;
            let key = site.vault.settings().and_then(|s| s.site_keys.first());
            let key =
                key.ok_or_else(|| PortError::new(ErrorCode::Internal, "the vault's site key is not known"))?;
            vault.rotate_key(key).map_err(|e| vault_error(&e))
        })
        .await
    }

    fn clock(&self) -> Result<VaultClock, PortError> {
        self.vault.clock_state()
    }

    async fn accept_clock(&self) -> Result<VaultClock, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.vault.accept_clock()).await
    }

    async fn may_forget(&self, server: ServerId) -> Result<(), PortError> {
        self.0.may_forget(server)
    }

    async fn ensure_backup_sets(&self, sets: &[BackupSet]) -> Result<(), PortError> {
        self.backups.ensure(sets)
    }

    fn backup_sets(&self) -> Vec<BackupSetInfo> {
        self.backups.sets()
    }

    async fn backups(&self, set: Option<&str>) -> Result<Vec<Backup>, PortError> {
        let (site, set) = (Arc::clone(&self.0), set.map(str::to_owned));
        blocking(move || site.backups.list(set.as_deref())).await
    }

    async fn backup(&self, backup: &str) -> Result<Backup, PortError> {
        let (site, backup) = (Arc::clone(&self.0), backup.to_owned());
        blocking(move || site.backups.backup(&backup)).await
    }

    async fn diff(&self, older: &str, newer: &str) -> Result<FileChanges, PortError> {
        let (site, older, newer) = (Arc::clone(&self.0), older.to_owned(), newer.to_owned());
        blocking(move || site.backups.compare(&older, &newer)).await
    }

    async fn list_files(&self, at: FilesAt, path: &str) -> Result<Vec<FileEntry>, PortError> {
        let (site, path) = (Arc::clone(&self.0), path.to_owned());
        blocking(move || match at {
            FilesAt::Backup(backup) => site.backups.entries(&backup, &path),
            FilesAt::Point { server, point } => site.disk_entries(server, point, &path),
        })
        .await
    }

    async fn read_file(&self, at: FilesAt, path: &str) -> Result<Content, PortError> {
        match at {
            FilesAt::Backup(backup) => self.backups.content(&backup, path).await,
            FilesAt::Point { server, point } => self.disk_content(server, point, path).await,
        }
    }

    async fn mount_backup(&self, backup: &str, directory: &str) -> Result<(), PortError> {
        let (site, backup, directory) = (Arc::clone(&self.0), backup.to_owned(), directory.to_owned());
        blocking(move || site.backups.mount(&backup, &directory)).await
    }

    async fn unmount_backup(&self, directory: &str) -> Result<(), PortError> {
        let (site, directory) = (Arc::clone(&self.0), directory.to_owned());
        blocking(move || site.backups.unmount(&directory)).await
    }

    async fn put_catalogue(&self, catalogue: &Catalogue) -> Result<(), PortError> {
        let (site, catalogue) = (Arc::clone(&self.0), catalogue.clone());
        blocking(move || site.vault.put_catalogue(&catalogue)).await
    }

    async fn catalogue(&self) -> Result<Option<Catalogue>, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.vault.catalogue()).await
    }
}
