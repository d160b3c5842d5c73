//! A small blocking client for QEMU's monitor protocol (QMP): JSON lines over a Unix socket.
//!
//! Invariants:
//! - every reply is matched to its command by id; a reply that comes after its command timed out is
//!   dropped, never taken for another's;
//! - nothing waits for ever: connect, greeting, write and each reply have a deadline;
//! - memory is bounded: a message by [`MAX_QMP_MESSAGE`](lifeboat_base::limits::MAX_QMP_MESSAGE), the
//!   events of each listener by [`QMP_EVENTS`](lifeboat_base::limits::QMP_EVENTS);
//! - when the connection ends every waiting command fails with [`QmpError::Closed`] at once.
//!
//! QMP serves **one client at a time per socket**. Hold a [`Qmp`] only while it is needed, or give
//! QEMU a second `-qmp` socket for it.

mod client;
mod commands;
mod error;
mod events;

pub use client::{Qmp, Version};
pub use commands::{
    BlockInfo, BlockInserted, BlockJob, DirtyBitmap, ImageInfo, JobInfo, Mirror, MirrorSync, NamedNode,
    NbdExport, OnError, Status, StreamJob,
};
pub use error::QmpError;
pub use events::{Event, Events};
