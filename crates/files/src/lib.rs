//! Trees of files as content-addressed blobs: walk, cut, compare, restore, look into.
//!
//! Invariants:
//! - Nothing here knows the vault. A blob is named by the plain BLAKE3 of its content, and whoever reads one proves it.
//! - What comes out of a blob is hostile until [`tree`] has decoded it: every name is one path component, every length is
//!   bounded.
//! - A walk never follows a symbolic link, and a restore never writes outside of its target, whatever a tree says and
//!   whoever changes directories meanwhile: both go from directory to directory by file descriptor.
//! - What cannot be read or written is named in the report, and the rest goes on.
//!
//! ```text
//!  walk: directories --> entries --+--> readers: cut, hash --> BlobSink (vault, or an agent's session)
//!                                  `--> previous tree: what did not change is not read
//!  BlobSource --> reader: list, find, read --> diff, restore, mount
//! ```

pub mod blob;
pub mod cut;
pub mod diff;
pub mod entries;
pub mod exclude;
pub mod fuse;
pub mod mount;
pub mod reader;
pub mod report;
pub mod restore;
mod sys;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod walk;
mod wanted;

pub use blob::{BlobError, BlobKind, BlobSink, BlobSource, Hash};
pub use report::Monitor;

/// What ends work on a tree as a whole. What concerns one path only is in the reports.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the tree is damaged: {0}; 'lifeboat vault check' says what it touches")]
    Damaged(#[from] tree::TreeError),
    #[error("{path}: {why}")]
    Path { path: String, why: String },
    #[error("there is no {0} in this backup; list what is there with 'lifeboat backup ls'")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("it was cancelled")]
    Cancelled,
}

/// A path as people read it: what is not UTF-8 with replacement characters.
pub fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
