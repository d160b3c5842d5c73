//! What can go wrong, in kinds that tell the caller what to do next.

use crate::id::{ChunkId, ObjectName};
use lifeboat_base::WallTime;
use std::io;

/// Why a store could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is not there")]
    NotFound(ObjectName),
    /// Credentials or policy; trying again changes nothing.
    #[error("{store} does not allow it: {why}")]
    Denied { store: String, why: String },
    /// Nobody answered, or not in time, after the store's own retries. It may have happened all the same.
    #[error("{store} does not answer: {why}")]
    Unreachable { store: String, why: String },
    #[error("no space is left in {0}")]
    NoSpace(String),
    /// The store keeps the object for a time that is not over.
    #[error("{name} is locked{}", until.map(|t| format!(" until {t}")).unwrap_or_default())]
    Locked { name: ObjectName, until: Option<WallTime> },
    /// The store answered something it must not.
    #[error("{store}: {why}")]
    Broken { store: String, why: String },
}

impl StoreError {
    /// A file system's error, said about `store`.
    pub fn from_io(store: &str, name: Option<&ObjectName>, e: &io::Error) -> Self {
        let store = store.to_string();
        match (e.kind(), name) {
            (io::ErrorKind::NotFound, Some(name)) => Self::NotFound(name.clone()),
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => Self::NoSpace(store),
            (io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem, _) => {
                Self::Denied { store, why: e.to_string() }
            }
            _ => Self::Broken { store, why: e.to_string() },
        }
    }
}

/// Why the vault could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no vault at the place named, or one of another kind.
    #[error("there is no vault here: {0}")]
    NoVault(String),
    #[error("the vault is of format {found}; this version of Lifeboat reads up to {known}")]
    Version { found: u16, known: u16 },
    #[error("the key does not open this vault")]
    WrongKey,
    /// Stored bytes are not what was written. Never served as data (I3).
    #[error("{object} is damaged: {why}")]
    Damaged { object: String, why: String },
    /// No pack has it.
    #[error("chunk {0} is in no pack of the vault")]
    Missing(ChunkId),
    /// The session was ended by a pruner, or by another process; its point was not made.
    #[error("the session was ended: {0}")]
    Fenced(String),
    /// What was asked is forbidden until a date.
    #[error("refused: {why}")]
    Refused { why: String, until: Option<WallTime> },
    /// The local index cannot be used; it is a cache and can be made again.
    #[error("the local index: {0}")]
    Index(String),
    #[error("invalid: {0}")]
    Invalid(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

impl VaultError {
    pub(crate) fn damaged(object: impl ToString, why: impl Into<String>) -> Self {
        Self::Damaged { object: object.to_string(), why: why.into() }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(StoreError::Unreachable { .. } | StoreError::NoSpace(_)))
    }
}

impl From<VaultError> for lifeboat_block::BlockError {
    fn from(e: VaultError) -> Self {
        match e {
            VaultError::Damaged { .. } | VaultError::Missing(_) | VaultError::WrongKey => {
                Self::Corrupt(e.to_string())
            }
            VaultError::Store(StoreError::NotFound(_)) => Self::Corrupt(e.to_string()),
            VaultError::Store(StoreError::NoSpace(_)) => Self::NoSpace,
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}
