//! The vault: a deduplicated, compressed, sealed store for points that outlive the journal and for backups of files.

mod cache;
pub mod check;
pub mod device;
pub mod error;
mod fetch;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod golden;
pub mod guard;
pub mod id;
pub mod index;
pub mod ingest;
pub mod keys;
pub mod map;
pub mod object;
pub mod pack;
mod plan;
pub mod prune;
mod read;
mod refresh;
pub mod retention;
pub mod session;
pub mod snapshot;
pub mod store;
#[cfg(test)]
mod testing;
pub mod usage;
pub mod vault;

pub use device::VaultDevice;
pub use error::{StoreError, VaultError};
pub use id::{ChunkId, ObjectName, PackId, SnapshotId, VaultId};
pub use keys::VaultKeys;
pub use object::ObjectType;
pub use pack::Kind;
pub use refresh::Refreshed;
pub use session::Session;
pub use snapshot::{DiskMap, DiskRoot, Hold, Owner, Snapshot, SnapshotBody, Stats};
pub use vault::{Settings, Vault, VaultOptions};

/// Version of the format that is written.
pub const FORMAT: u16 = 1;
