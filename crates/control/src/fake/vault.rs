//! A vault for tests: what is told, what is refused, and what is away.

use super::err;
use async_trait::async_trait;
use lifeboat_api::port::{Content, FilesAt, NoVault, PortError, VaultPort};
use lifeboat_api::types::*;
use lifeboat_base::{PointId, ServerId, WallTime};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// What the fake vault holds.
#[derive(Default)]
pub struct VaultWorld {
    /// There is one only while it has a status.
    pub status: Option<VaultStatus>,
    pub sets: Vec<BackupSet>,
    /// How often sets were told.
    pub told: usize,
    pub catalogue: Option<Catalogue>,
    /// Catalogues that were put.
    pub puts: usize,
    pub refuse: Option<PortError>,
    pub points: BTreeMap<(ServerId, PointId), VaultHold>,
    pub backups: Vec<Backup>,
    pub jobs: Vec<VaultJob>,
    pub generation: u32,
    /// What retention counts by, and the machine's clock.
    pub clocks: (WallTime, WallTime),
    pub mounts: Vec<String>,
    /// Pieces of every file; an error ends one.
    pub content: Vec<Result<bytes::Bytes, PortError>>,
}

#[derive(Default)]
pub struct FakeVault(pub Mutex<VaultWorld>);

impl FakeVault {
    /// From here on there is one, and it works.
    pub fn ready(&self) {
        self.state(VaultState::Ready, None);
    }

    pub fn state(&self, state: VaultState, reason: Option<&str>) {
        let mut w = self.0.lock();
        let status = VaultStatus {
            state,
            reason: reason.map(Into::into),
            id: Some("0f".repeat(16)),
            format: 1,
            quorum: 1,
            key_generation: 1,
            index_percent: 100,
            ..NoVault.status()
        };
        w.status = Some(status);
    }

    pub fn change(&self, f: impl FnOnce(&mut VaultStatus)) {
        f(self.0.lock().status.as_mut().expect("a vault"));
    }

    /// The world, or why it cannot be looked at.
    fn open(&self) -> Result<parking_lot::MutexGuard<'_, VaultWorld>, PortError> {
        let world = self.0.lock();
        if let Some(e) = &world.refuse {
            return Err(e.clone());
        }
        match world.status.as_ref().map(|s| s.state) {
            Some(VaultState::Ready | VaultState::Degraded) => Ok(world),
            _ => Err(err(ErrorCode::Unavailable, "the vault is away")),
        }
    }

    pub fn backup(id: &str, set: &str, agent: Option<&str>) -> Backup {
        Backup {
            id: id.into(),
            set: set.into(),
            agent: agent.map(Into::into),
            time: WallTime(1),
            paths: vec!["/etc".into()],
            files: 2,
            bytes: 10,
            files_read: 2,
            added_bytes: 5,
            duration_ms: 3,
            errors: Vec::new(),
            error_count: 0,
            hold: hold(),
        }
    }
}

pub fn hold() -> VaultHold {
    VaultHold { snapshot: "00".repeat(16), name: None, keep_until: None, locked_until: None, added_bytes: 1 }
}

fn missing(what: &str) -> PortError {
    err(ErrorCode::NotFound, &format!("there is no such {what}"))
}

#[async_trait]
impl VaultPort for FakeVault {
    fn status(&self) -> VaultStatus {
        self.0.lock().status.clone().unwrap_or_else(|| NoVault.status())
    }

    async fn usage(&self, _by_point: bool) -> Result<VaultUsage, PortError> {
        drop(self.open()?);
        let total = VaultUsageRow {
            owner: "all".into(),
            points: 1,
            logical_bytes: 8,
            unique_bytes: 4,
            stored_bytes: 2,
            own_bytes: 2,
            by_point: Vec::new(),
        };
        Ok(VaultUsage {
            total,
            owners: Vec::new(),
            dedup_ratio: 2.0,
            compression_ratio: 2.0,
            reclaimable_bytes: 0,
        })
    }

    async fn start(&self, job: VaultJobRequest) -> Result<VaultJob, PortError> {
        let mut w = self.open()?;
        let value = serde_json::to_value(&job).expect("a job");
        let subject = match &job {
            VaultJobRequest::Restore(RestoreRequest { backup, target, agent: Some(agent), .. }) => {
                format!("{backup} to {target} on {agent}")
            }
            VaultJobRequest::Restore(r) => format!("{} to {}", r.backup, r.target),
            _ => value["set"].as_str().unwrap_or_default().into(),
        };
        let job = VaultJob {
            id: format!("j{}", w.jobs.len() + 1),
            kind: value["kind"].as_str().expect("a kind").into(),
            subject,
            state: VaultJobState::Running,
            started: WallTime(1),
            ended: None,
            done: 0,
            total: 0,
            unit: "packs".into(),
            step: String::new(),
            error: None,
            result: None,
        };
        w.jobs.insert(0, job.clone());
        Ok(job)
    }

    fn jobs(&self) -> Vec<VaultJob> {
        self.0.lock().jobs.clone()
    }

    fn job(&self, id: &str) -> Result<VaultJob, PortError> {
        self.0.lock().jobs.iter().find(|j| j.id == id).cloned().ok_or_else(|| missing("job"))
    }

    fn cancel(&self, id: &str) -> Result<(), PortError> {
        let mut w = self.0.lock();
        let job = w.jobs.iter_mut().find(|j| j.id == id).ok_or_else(|| missing("job"))?;
        job.state = VaultJobState::Cancelled;
        Ok(())
    }

    async fn hold_point(
        &self,
        server: ServerId,
        point: PointId,
        ask: HoldRequest,
    ) -> Result<PointInfo, PortError> {
        let mut w = self.open()?;
        let kept = w.points.entry((server, point)).or_insert_with(hold);
        kept.name = if ask.release { None } else { ask.name.or(kept.name.take()) };
        if let Some(s) = ask.lock_seconds {
            kept.locked_until = Some(WallTime(s * 1_000_000_000));
        }
        Ok(PointInfo {
            id: point,
            time: WallTime(1),
            received: WallTime(1),
            kind: PointKind::Crash,
            bytes_since: 0,
            journal: true,
            vault: Some(kept.clone()),
        })
    }

    async fn hold_backup(&self, backup: &str, ask: HoldRequest) -> Result<Backup, PortError> {
        let mut w = self.open()?;
        let found = w.backups.iter_mut().find(|b| b.id == backup).ok_or_else(|| missing("backup"))?;
        found.hold.name = ask.name;
        Ok(found.clone())
    }

    async fn delete_backup(&self, backup: &str) -> Result<(), PortError> {
        self.open()?.backups.retain(|b| b.id != backup);
        Ok(())
    }

    fn clock(&self) -> Result<VaultClock, PortError> {
        let vault = self.0.lock();
        let report = (vault.clocks.0 != vault.clocks.1).then(|| "the machine's clock differs".to_string());
        Ok(VaultClock { counted: vault.clocks.0, machine: vault.clocks.1, report })
    }

    async fn accept_clock(&self) -> Result<VaultClock, PortError> {
        {
            let mut vault = self.0.lock();
            vault.clocks.0 = vault.clocks.1;
        }
        self.clock()
    }

    async fn rotate_key(&self) -> Result<u32, PortError> {
        let mut w = self.open()?;
        w.generation += 1;
        Ok(w.generation + 1)
    }

    async fn may_forget(&self, server: ServerId) -> Result<(), PortError> {
        let w = self.0.lock();
        if w.status.is_none() {
            return Ok(());
        }
        drop(w);
        let w = self.open()?;
        match w.points.iter().find(|((s, _), h)| *s == server && h.locked_until.is_some()) {
            None => Ok(()),
            Some(((_, point), _)) => Err(err(ErrorCode::Conflict, &format!("{point} is locked"))),
        }
    }

    async fn ensure_backup_sets(&self, sets: &[BackupSet]) -> Result<(), PortError> {
        let mut w = self.open()?;
        w.sets = sets.to_vec();
        w.told += 1;
        Ok(())
    }

    fn backup_sets(&self) -> Vec<BackupSetInfo> {
        let w = self.0.lock();
        let info = |s: &BackupSet| BackupSetInfo {
            set: s.clone(),
            backups: w.backups.iter().filter(|b| b.set == s.name).count() as u64,
            last: w.backups.iter().find(|b| b.set == s.name).cloned(),
            error: None,
            next: None,
        };
        w.sets.iter().map(info).collect()
    }

    async fn backups(&self, set: Option<&str>) -> Result<Vec<Backup>, PortError> {
        let w = self.open()?;
        let known = |s: &str| w.sets.iter().any(|k| k.name == s) || w.backups.iter().any(|b| b.set == s);
        if set.is_some_and(|s| !known(s)) {
            return Err(missing("backup set"));
        }
        Ok(w.backups.iter().filter(|b| set.is_none_or(|s| b.set == s)).cloned().collect())
    }

    async fn backup(&self, backup: &str) -> Result<Backup, PortError> {
        let w = self.open()?;
        let short = backup.to_ascii_lowercase();
        let found = w.backups.iter().find(|b| b.set == backup || b.id.starts_with(&short));
        found.cloned().ok_or_else(|| missing("backup"))
    }

    async fn diff(&self, older: &str, newer: &str) -> Result<FileChanges, PortError> {
        drop(self.open()?);
        let path = format!("{older}..{newer}");
        let change = FileChange { path, change: FileChangeKind::Added, before: 0, after: 1 };
        Ok(FileChanges { changes: vec![change], truncated: false })
    }

    async fn list_files(&self, at: FilesAt, path: &str) -> Result<Vec<FileEntry>, PortError> {
        drop(self.open()?);
        Ok(vec![FileEntry {
            name: format!("{at:?} {path}"),
            kind: FileKind::File,
            size: 3,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: WallTime(1),
            target: None,
        }])
    }

    async fn read_file(&self, _at: FilesAt, _path: &str) -> Result<Content, PortError> {
        let pieces = self.open()?.content.clone();
        let (send, content) = mpsc::channel(1);
        tokio::spawn(async move {
            for piece in pieces {
                if send.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Ok(content)
    }

    async fn mount_backup(&self, _backup: &str, directory: &str) -> Result<(), PortError> {
        self.open()?.mounts.push(directory.into());
        Ok(())
    }

    async fn unmount_backup(&self, directory: &str) -> Result<(), PortError> {
        self.open()?.mounts.retain(|m| m != directory);
        Ok(())
    }

    async fn put_catalogue(&self, catalogue: &Catalogue) -> Result<(), PortError> {
        let mut w = self.open()?;
        w.catalogue = Some(catalogue.clone());
        w.puts += 1;
        Ok(())
    }

    async fn catalogue(&self) -> Result<Option<Catalogue>, PortError> {
        Ok(self.open()?.catalogue.clone())
    }
}
