//! The tree of the last backup of a set, on this host.
//!
//! ```text
//! | 0          8         40      |  then for each blob
//! | "LBTREE01" | root (32)       |  len u32 LE | content |
//! ```
//! A cache and nothing more: what does not have its hash is left out when it is read, and what is missing is read anew
//! from the files. Names and hashes of this host's own files are in it, so it is for its owner only.

use super::Remembered;
use super::sink::Sink;
use crate::identity::write_private;
use bytes::Bytes;
use lifeboat_base::limits::MAX_REMEMBERED_TREE;
use lifeboat_files::blob::{MAX_BLOB, MemoryBlobs};
use lifeboat_files::{BlobKind, Hash};
use std::fs;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"LBTREE01";
/// Sets that are remembered; the oldest give way.
const MOST: usize = 32;

/// Where a set's tree is kept.
#[derive(Debug, Clone)]
pub struct Memory(PathBuf);

impl Memory {
    pub fn of(dir: &Path, set: &str) -> Self {
        Self(dir.join("backup").join(format!("{}.tree", blake3::hash(set.as_bytes()).to_hex())))
    }

    /// What is remembered, if it is whole enough to begin with.
    pub(crate) fn load(&self) -> Option<Remembered> {
        let size = fs::metadata(&self.0).ok()?.len();
        // Lengths and header on top of the blobs.
        if size > 2 * MAX_REMEMBERED_TREE {
            return None;
        }
        decode(&Bytes::from(fs::read(&self.0).ok()?))
    }

    /// Remembers the tree that was walked. Failing costs the next backup time.
    pub(crate) fn save(&self, sink: &Sink) {
        let _ = fs::remove_file(&self.0);
        let Some((root, blobs)) = sink.walked() else {
            tracing::info!("the tree is too large to be remembered; the next backup reads every file");
            return;
        };
        let saved = self.room().and_then(|()| write_private(&self.0, &encode(&root, blobs)));
        if let Err(e) = saved {
            tracing::warn!("the tree cannot be remembered, so the next backup reads every file: {e:#}");
        }
    }

    /// Makes the directory, and room in it.
    fn room(&self) -> anyhow::Result<()> {
        let Some(dir) = self.0.parent() else { return Ok(()) };
        fs::create_dir_all(dir)?;
        let mut there: Vec<_> = fs::read_dir(dir)?
            .filter_map(Result::ok)
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        there.sort();
        for (_, path) in there.iter().rev().skip(MOST - 1) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn encode(root: &Hash, blobs: &MemoryBlobs) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(root.as_bytes());
    for (_, blob) in blobs.all() {
        out.extend_from_slice(&u32::try_from(blob.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&blob);
    }
    out
}

fn decode(text: &Bytes) -> Option<Remembered> {
    let body = text.strip_prefix(MAGIC)?;
    let root: [u8; 32] = body.get(..32)?.try_into().ok()?;
    let blobs = MemoryBlobs::default();
    let mut at = MAGIC.len() + 32;
    while at < text.len() {
        let len: [u8; 4] = text.get(at..at + 4)?.try_into().ok()?;
        let len = u32::from_le_bytes(len) as usize;
        at += 4;
        if len > MAX_BLOB || at + len > text.len() {
            return None;
        }
        // Under the hash it has, not under one that is claimed.
        blobs.add(BlobKind::Tree, text.slice(at..at + len));
        at += len;
    }
    Some((Hash::from_bytes(root), blobs))
}

#[cfg(test)]
mod tests;
