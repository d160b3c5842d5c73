//! Where blobs go to and come from.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;

/// BLAKE3 of a blob's content.
pub use blake3::Hash;

/// Largest blob of either kind, in bytes.
pub const MAX_BLOB: usize = lifeboat_base::limits::MIB;

/// What a blob holds; kinds are kept apart so that trees can be looked at without touching content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// A piece of a file.
    File,
    /// A directory, or a list of pieces.
    Tree,
}

/// Why a blob cannot be had or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    #[error("content {0} is not there")]
    Missing(Hash),
    #[error("content {0} is not what was stored")]
    Damaged(Hash),
    /// It is more than a tree can say.
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Store(String),
}

/// Takes blobs. Calls come from several threads at once.
pub trait BlobSink: Send + Sync {
    /// Whether it is there already, or on its way. `false` when in doubt: then it is put.
    fn has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError>;

    /// Whether what an earlier tree names is there still. Where asking costs much, it may say so unasked and find out
    /// before the new tree counts.
    fn still_has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        self.has(kind, hash)
    }

    /// Keeps content whose hash is `hash`; at most [`MAX_BLOB`]. What is there already costs nothing. May wait for room.
    fn put(&self, kind: BlobKind, hash: Hash, content: Bytes) -> Result<(), BlobError>;
}

/// Gives blobs. Calls come from several threads at once.
pub trait BlobSource: Send + Sync {
    /// The content, proven to have this hash.
    fn get(&self, kind: BlobKind, hash: &Hash) -> Result<Bytes, BlobError>;

    /// What is read soon, in this order: where an answer takes long, it may be fetched meanwhile. `len` is what the tree
    /// says, 0 where it does not. A directory stands for those below it as well.
    fn ahead(&self, _kind: BlobKind, _hash: &Hash, _len: u64) {}
}

/// Blobs in memory: for tests, and for the trees an agent remembers.
#[derive(Debug, Default)]
pub struct MemoryBlobs(Mutex<HashMap<Hash, (BlobKind, Bytes)>>);

impl MemoryBlobs {
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.0.lock().values().map(|(_, b)| b.len() as u64).sum()
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }

    pub fn remove(&self, hash: &Hash) {
        self.0.lock().remove(hash);
    }

    /// Puts content under its own hash.
    pub fn add(&self, kind: BlobKind, content: Bytes) -> Hash {
        let hash = blake3::hash(&content);
        self.0.lock().insert(hash, (kind, content));
        hash
    }

    /// Everything held, in no order.
    pub fn all(&self) -> Vec<(BlobKind, Bytes)> {
        self.0.lock().values().cloned().collect()
    }
}

impl BlobSink for MemoryBlobs {
    fn has(&self, _kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        Ok(self.0.lock().contains_key(hash))
    }

    fn put(&self, kind: BlobKind, hash: Hash, content: Bytes) -> Result<(), BlobError> {
        self.0.lock().insert(hash, (kind, content));
        Ok(())
    }
}

impl BlobSource for MemoryBlobs {
    fn get(&self, kind: BlobKind, hash: &Hash) -> Result<Bytes, BlobError> {
        let found = self.0.lock().get(hash).cloned();
        match found {
            Some((k, content)) if k == kind => {
                if blake3::hash(&content) == *hash {
                    Ok(content)
                } else {
                    Err(BlobError::Damaged(*hash))
                }
            }
            _ => Err(BlobError::Missing(*hash)),
        }
    }
}
