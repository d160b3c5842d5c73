//! The vault as the place of a tree's blobs.
//!
//! Invariant: a blob's reference is the plain BLAKE3 of its content, which only sealed blobs hold; the vault knows it by
//! its own keyed id, and proves the content by it on every read.

use bytes::Bytes;
use lifeboat_files::tree::{Reference, references};
use lifeboat_files::{BlobError, BlobKind, BlobSink, BlobSource, Hash};
use lifeboat_vault::prune::{TreeFormat, TreeRef};
use lifeboat_vault::{Kind, Session, Vault, VaultError};
use parking_lot::Mutex;

pub(crate) fn kind(kind: BlobKind) -> Kind {
    match kind {
        BlobKind::File => Kind::Data,
        BlobKind::Tree => Kind::Meta,
    }
}

/// Puts blobs into a session.
pub(crate) struct VaultSink<'a> {
    session: &'a Session,
    failed: Mutex<Option<VaultError>>,
}

impl<'a> VaultSink<'a> {
    pub fn new(session: &'a Session) -> Self {
        Self { session, failed: Mutex::default() }
    }

    /// What the session met first.
    pub fn failed(&self) -> Option<VaultError> {
        self.failed.lock().take()
    }

    fn note(&self, e: VaultError) -> BlobError {
        let text = e.to_string();
        self.failed.lock().get_or_insert(e);
        BlobError::Store(text)
    }
}

impl BlobSink for VaultSink<'_> {
    fn has(&self, _: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        let id = self.session.vault().content_id(hash);
        self.session.has(&id).map_err(|e| self.note(e))
    }

    fn put(&self, blob: BlobKind, hash: Hash, content: Bytes) -> Result<(), BlobError> {
        self.session.put_hashed(kind(blob), &hash, content).map(drop).map_err(|e| self.note(e))
    }
}

/// Reads blobs from the vault.
pub(crate) struct VaultSource(Vault);

impl VaultSource {
    pub fn new(vault: Vault) -> Self {
        Self(vault)
    }
}

impl BlobSource for VaultSource {
    fn get(&self, _: BlobKind, hash: &Hash) -> Result<Bytes, BlobError> {
        self.0.read(&self.0.content_id(hash)).map_err(|e| match e {
            VaultError::Missing(_) => BlobError::Missing(*hash),
            // Its text names the object, which is what a person needs.
            e => BlobError::Store(e.to_string()),
        })
    }
}

/// How trees are read by who prunes and checks: 0 is a directory, n a list of depth n.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trees;

impl TreeFormat for Trees {
    fn root(&self) -> u32 {
        0
    }

    fn references(&self, what: u32, blob: &[u8], found: &mut dyn FnMut(TreeRef)) -> Result<(), String> {
        let mut give = |reference| {
            found(match reference {
                Reference::Content(hash) => TreeRef::Content { hash: *hash.as_bytes() },
                Reference::Tree(hash, what) => TreeRef::Blob { hash: *hash.as_bytes(), what },
            });
        };
        references(blob, what, &mut give).map_err(|e| e.to_string())
    }
}
