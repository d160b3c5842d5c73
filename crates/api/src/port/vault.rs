//! The vault and the backups of files, as control sees them.

use super::PortError;
use crate::types::{
    Backup, BackupSet, BackupSetInfo, Catalogue, ErrorCode, FileChanges, FileEntry, HoldRequest, PointInfo,
    VaultClock, VaultJob, VaultJobRequest, VaultState, VaultStatus, VaultUsage,
};
use async_trait::async_trait;
use lifeboat_base::{PointId, ServerId};
use tokio::sync::mpsc;

/// A file's content on its way: pieces in order; an error ends it.
pub type Content = mpsc::Receiver<Result<bytes::Bytes, PortError>>;

/// Where files are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesAt {
    /// A backup's id, or a set's name for its newest.
    Backup(String),
    /// The file systems on a server's disks at a point: the first part of a path is the disk and partition, as
    /// `disk0p1`; the root lists them.
    Point { server: ServerId, point: PointId },
}

/// Part of [`SitePort`](super::SitePort). Calls may be repeated.
#[async_trait]
pub trait VaultPort: Send + Sync {
    fn status(&self) -> VaultStatus;
    async fn usage(&self, by_point: bool) -> Result<VaultUsage, PortError>;

    /// Starts long work; a second of a kind that may run once only is a conflict that names the first.
    async fn start(&self, job: VaultJobRequest) -> Result<VaultJob, PortError>;
    /// Newest first.
    fn jobs(&self) -> Vec<VaultJob>;
    fn job(&self, id: &str) -> Result<VaultJob, PortError>;
    /// Asks it to end; what it has done stays, and nothing half done counts.
    fn cancel(&self, id: &str) -> Result<(), PortError>;

    /// Names, releases or locks a point. A point that is in the journal only is first put into the vault.
    async fn hold_point(
        &self,
        server: ServerId,
        point: PointId,
        hold: HoldRequest,
    ) -> Result<PointInfo, PortError>;
    async fn hold_backup(&self, backup: &str, hold: HoldRequest) -> Result<Backup, PortError>;
    /// Deletes a backup; one that is locked is refused.
    async fn delete_backup(&self, backup: &str) -> Result<(), PortError>;

    /// New content is sealed with a new key from now on; gives its generation.
    async fn rotate_key(&self) -> Result<u32, PortError>;

    /// The time that retention and locks count by.
    fn clock(&self) -> Result<VaultClock, PortError>;
    /// A person says that the machine's clock is right: from now on that time is it.
    async fn accept_clock(&self) -> Result<VaultClock, PortError>;

    /// Whether all the vault keeps of a server may be deleted with it: asked before the server is forgotten.
    ///
    /// # Errors
    /// Says until when a point is locked, or that a named one has to be released first, or that the vault cannot be
    /// asked now.
    async fn may_forget(&self, server: ServerId) -> Result<(), PortError>;

    /// Makes the sets that are held equal to these: schedules, retention.
    async fn ensure_backup_sets(&self, sets: &[BackupSet]) -> Result<(), PortError>;
    fn backup_sets(&self) -> Vec<BackupSetInfo>;
    /// Newest first.
    async fn backups(&self, set: Option<&str>) -> Result<Vec<Backup>, PortError>;
    async fn backup(&self, backup: &str) -> Result<Backup, PortError>;
    async fn diff(&self, older: &str, newer: &str) -> Result<FileChanges, PortError>;
    /// What a directory holds, or the file itself; sorted by name.
    async fn list_files(&self, at: FilesAt, path: &str) -> Result<Vec<FileEntry>, PortError>;
    /// A file's content.
    async fn read_file(&self, at: FilesAt, path: &str) -> Result<Content, PortError>;
    /// Shows a backup as a read-only file system at a directory of this site's host.
    async fn mount_backup(&self, backup: &str, directory: &str) -> Result<(), PortError>;
    async fn unmount_backup(&self, directory: &str) -> Result<(), PortError>;

    /// Keeps what a new site needs to know, in the vault; written only when it differs from what is there.
    async fn put_catalogue(&self, catalogue: &Catalogue) -> Result<(), PortError>;
    /// The newest one there, whoever wrote it.
    async fn catalogue(&self) -> Result<Option<Catalogue>, PortError>;
}

/// A site without a vault.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoVault;

fn none<T>() -> Result<T, PortError> {
    Err(PortError::new(ErrorCode::Conflict, "this site has no vault")
        .hint("set [vault] location in site.toml and restart 'lifeboat serve'"))
}

#[async_trait]
impl VaultPort for NoVault {
    fn status(&self) -> VaultStatus {
        VaultStatus {
            state: VaultState::Off,
            reason: None,
            id: None,
            format: 0,
            copies: Vec::new(),
            quorum: 0,
            key_generation: 0,
            packs: 0,
            chunks: 0,
            stored_bytes: 0,
            snapshots: 0,
            index_percent: 0,
            backlog_bytes: 0,
            last_scrub: None,
            scrub_percent: 0,
            findings: Vec::new(),
        }
    }

    async fn usage(&self, _by_point: bool) -> Result<VaultUsage, PortError> {
        none()
    }

    async fn start(&self, _job: VaultJobRequest) -> Result<VaultJob, PortError> {
        none()
    }

    fn jobs(&self) -> Vec<VaultJob> {
        Vec::new()
    }

    fn job(&self, _id: &str) -> Result<VaultJob, PortError> {
        none()
    }

    fn cancel(&self, _id: &str) -> Result<(), PortError> {
        none()
    }

    async fn hold_point(
        &self,
        _server: ServerId,
        _point: PointId,
        _hold: HoldRequest,
    ) -> Result<PointInfo, PortError> {
        none()
    }

    async fn hold_backup(&self, _backup: &str, _hold: HoldRequest) -> Result<Backup, PortError> {
        none()
    }

    async fn delete_backup(&self, _backup: &str) -> Result<(), PortError> {
        none()
    }

    async fn rotate_key(&self) -> Result<u32, PortError> {
        none()
    }

    fn clock(&self) -> Result<VaultClock, PortError> {
        none()
    }

    async fn accept_clock(&self) -> Result<VaultClock, PortError> {
        none()
    }

    async fn may_forget(&self, _server: ServerId) -> Result<(), PortError> {
        Ok(())
    }

    async fn ensure_backup_sets(&self, sets: &[BackupSet]) -> Result<(), PortError> {
        if sets.is_empty() { Ok(()) } else { none() }
    }

    fn backup_sets(&self) -> Vec<BackupSetInfo> {
        Vec::new()
    }

    async fn backups(&self, _set: Option<&str>) -> Result<Vec<Backup>, PortError> {
        none()
    }

    async fn backup(&self, _backup: &str) -> Result<Backup, PortError> {
        none()
    }

    async fn diff(&self, _older: &str, _newer: &str) -> Result<FileChanges, PortError> {
        none()
    }

    async fn list_files(&self, _at: FilesAt, _path: &str) -> Result<Vec<FileEntry>, PortError> {
        none()
    }

    async fn read_file(&self, _at: FilesAt, _path: &str) -> Result<Content, PortError> {
        none()
    }

    async fn mount_backup(&self, _backup: &str, _directory: &str) -> Result<(), PortError> {
        none()
    }

    async fn unmount_backup(&self, _directory: &str) -> Result<(), PortError> {
        none()
    }

    async fn put_catalogue(&self, _catalogue: &Catalogue) -> Result<(), PortError> {
        Ok(())
    }

    async fn catalogue(&self) -> Result<Option<Catalogue>, PortError> {
        Ok(None)
    }
}
