//! What can go wrong, by what the caller should do about it.

use lifeboat_base::{DiskId, Epoch, PointId, Seq};
use std::fmt;
use std::io;

/// Part of a segment that does not hold what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// File name of the segment.
    pub segment: String,
    /// Where in the file the damage begins, in bytes.
    pub offset: u64,
    /// Sequence numbers that are lost, both inclusive. `first > last`: none.
    pub first: Seq,
    pub last: Seq,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} is damaged at byte {}", self.segment, self.offset)?;
        if self.first > self.last {
            write!(f, "; no record of the stream is lost")
        } else {
            write!(f, "; records {} to {} are lost", self.first, self.last)
        }
    }
}

/// Why the journal did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal is open in another process; stop that one first")]
    Locked,
    #[error("the journal was written with another key; give the key it was created with")]
    WrongKey,
    /// Both copies of the manifest are unusable.
    #[error(
        "the manifest is damaged ({0}); restore 'manifest' or 'manifest.copy' from a backup of this directory"
    )]
    Manifest(String),
    #[error(
        "epoch {got} is not the journal's epoch {current}; another writer has taken over or has not been told"
    )]
    StaleEpoch { current: Epoch, got: Epoch },
    #[error("record {got} does not follow record {last}; send the stream again from {}", last.next())]
    Gap { last: Seq, got: Seq },
    /// The record contradicts itself or its disk. Nothing of it was stored.
    #[error("record {seq} is not valid: {why}")]
    Invalid { seq: Seq, why: &'static str },
    /// Nothing was acknowledged and nothing was lost: make room, then commit again.
    #[error("no space is left for the journal; free some, the same commit can then be tried again")]
    NoSpace,
    /// An earlier write or sync failed, so it is not known what is on the disk.
    #[error("the journal stopped after a failed write ({0}); open it again")]
    Poisoned(String),
    #[error("the trim plan is out of date; make a new one")]
    PlanStale,
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl JournalError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| {
            if no_space(&source) { Self::NoSpace } else { Self::Io { what, source } }
        }
    }
}

pub(crate) fn no_space(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a recovery point could not be found or opened.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    #[error("there is no recovery point yet")]
    NoPoints,
    #[error("that is before the window; the oldest recovery point is {oldest}")]
    BeforeWindow { oldest: PointId },
    #[error("there is no recovery point {id}")]
    Unknown { id: PointId },
    #[error("{disk} does not exist at that point")]
    UnknownDisk { disk: DiskId },
    /// The point needs records that are lost.
    #[error("the point cannot be opened: {0}; choose a point before the damage")]
    Damaged(Damage),
    #[error(transparent)]
    Journal(#[from] JournalError),
}
