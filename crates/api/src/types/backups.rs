//! Backups of files: sets, backups, what is in them, and bringing it back.

use super::{RetentionSpec, VaultHold};
use lifeboat_base::WallTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Directories and files that are backed up together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupSet {
    pub name: String,
    /// The agent on whose host the paths are; `None` for the site's own host.
    #[serde(default)]
    pub agent: Option<String>,
    /// Absolute; 1 to 64.
    pub paths: Vec<String>,
    /// Patterns as in `.gitignore`, at most 256.
    #[serde(default)]
    pub exclude: Vec<String>,
    #[serde(default)]
    pub one_file_system: bool,
    /// Cron expression in the site's time zone; `None` for by hand only.
    #[serde(default)]
    pub schedule: Option<String>,
    #[serde(default)]
    pub retention: RetentionSpec,
}

/// A set, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupSetInfo {
    pub set: BackupSet,
    pub backups: u64,
    pub last: Option<Backup>,
    /// Why the last try failed, if it did.
    pub error: Option<String>,
    #[schema(value_type = Option<String>)]
    pub next: Option<WallTime>,
}

/// One backup of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// 32 hexadecimal digits; the first 8 do where they name one only.
    pub id: String,
    pub set: String,
    pub agent: Option<String>,
    #[schema(value_type = String)]
    pub time: WallTime,
    pub paths: Vec<String>,
    pub files: u64,
    pub bytes: u64,
    /// Files whose content had to be read.
    pub files_read: u64,
    pub added_bytes: u64,
    pub duration_ms: u64,
    /// What could not be read, at most 100: `PATH: why`.
    pub errors: Vec<String>,
    pub error_count: u64,
    pub hold: VaultHold,
}

/// An entry of a backup or of a disk's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    /// Without the directory it is in. What is not UTF-8 is shown with replacement characters.
    pub name: String,
    pub kind: FileKind,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    #[schema(value_type = String)]
    pub modified: WallTime,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Block,
    Char,
}

/// What differs between two backups, in order of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChanges {
    pub changes: Vec<FileChange>,
    /// There is more than these.
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    pub path: String,
    pub change: FileChangeKind,
    /// Bytes before and after.
    pub before: u64,
    pub after: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileChangeKind {
    Added,
    Removed,
    Content,
    /// Owner, permissions, times or attributes.
    Metadata,
    Type,
}

/// What to bring back, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// A backup's id, or a set's name for its newest.
    pub backup: String,
    /// Paths within the backup; all when empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Directory under which the tree is put; `/` for where it came from, if it is of that host or an agent is named.
    pub target: String,
    /// The agent on whose host the directory is; `None` for this site's own host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What is there already is replaced; without it, its being there is an error.
    #[serde(default)]
    pub overwrite: bool,
    /// Reads everything back and compares.
    #[serde(default)]
    pub verify: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreReport {
    pub files: u64,
    pub bytes: u64,
    /// Files compared with the vault after they were written.
    pub verified: u64,
    /// What could not be brought back, at most 100: `PATH: why`.
    pub errors: Vec<String>,
    pub error_count: u64,
}

/// `GET /v1/backups?set=`, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BackupsQuery {
    /// Only backups of this set.
    #[serde(default)]
    pub set: Option<String>,
}

/// `GET .../files?path=` and `GET .../content?path=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FilesQuery {
    /// Within the backup, or within the disks of a point, where its first part is the disk and partition, as
    /// `disk0p1`. The root when empty.
    #[serde(default)]
    pub path: String,
}

/// `POST /v1/backups/{id}/mount`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupMountRequest {
    /// An empty directory of the site's host.
    pub directory: String,
}

/// `DELETE /v1/backup-mounts?directory=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BackupMountQuery {
    pub directory: String,
}
