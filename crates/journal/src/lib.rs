//! The journal: the append-only, sealed, checksummed log of one server's stream at the recovering site.
//!
//! Invariants:
//! - [`Journal::commit`] returns `Ok` only after the bytes are on stable storage; a failed write or sync is never
//!   retried into an acknowledgement (I2): the journal refuses everything until it is opened again;
//! - only records of the current epoch are taken, each sequence number once, without gaps (I4);
//! - what is read back is checked (CRC32C), unsealed (AES-256-GCM) and checked again (CRC32C of the content): it is the
//!   byte sequence that was captured or a named error (I3);
//! - a segment is written by one opening of the journal only. Its key is its own and a record's nonce is its
//!   position, so no nonce is ever used twice;
//! - the segments in the manifest, in order, cover disjoint and growing ranges of sequence numbers;
//! - folding changes no point at or after the horizon, and neither does moving the base on.
//!
//! A journal is a directory:
//!
//! ```text
//! lock                         held while open
//! mark                         how far the segment being written is durable                   (mark.rs)
//! manifest, manifest.copy      which segments belong to the journal, its epoch, its horizon   (manifest.rs)
//! 0000000000000001-5d0a….seg   a segment: header, records                                     (format.rs)
//! 0000000000000001-5d0a….idx   its index: barriers, disks, where each record is; can be rebuilt (index.rs)
//! ```
//!
//! ```text
//!  append ──> validate, seal into one buffer ──> commit: pwrite, fdatasync ──> visible to readers
//!                                                   │ segment full
//!                                                   └─> index written, next append starts a new segment
//!  reader ──> points, resolve, open_point: indexes up to the barrier ──> extent table ──> PointDevice
//!  keeper ──> plan_trim, trim: what lies before the horizon loses its superseded records
//!         └─> advance_base: what an image kept elsewhere holds goes                            (base.rs)
//! ```
//!
//! Memory: 48 bytes per barrier in the window, 40 per record of the current segment, and per mounted disk 32
//! bytes per live extent. Indexes of finished segments stay on disk and are read when a point is opened.

mod base;
mod check;
mod device;
mod error;
mod fold;
mod format;
mod index;
mod manifest;
mod mark;
mod open;
mod points;
mod seal;
mod segment;
mod state;
mod writer;

pub use base::{AdvanceReport, BaseInfo, Elsewhere};
pub use check::{CheckReport, Finding};
pub use device::PointDevice;
pub use error::{Damage, JournalError, PointError};
pub use fold::{JournalKeeper, TrimPlan, TrimReport};
pub use open::{OpenReport, Truncated};
pub use points::{JournalReader, PointInfo, PointQuery, Usage};
pub use seal::JournalKey;
pub use state::DiskInfo;
pub use writer::{Durable, Journal, JournalConfig};

#[cfg(test)]
mod testing;
