//! Replication between an agent and a site.
//!
//! - [`wire`]: frames and records as bytes; pure, bounded, versioned.
//! - [`message`]: handshake and control messages.
//! - [`dirty`]: which blocks of a disk may differ from the site's copy.
//! - [`sender`]: the sending end as a state machine without I/O.
//! - [`receiver`]: the receiving end's checks as a state machine without I/O.
//! - [`encode`]: records to frames: zero detection, compression, checksums.
//! - [`shell`]: frames over an asynchronous stream.

pub mod dirty;
pub mod encode;
pub mod message;
pub mod receiver;
pub mod sender;
pub mod shell;
pub mod wire;
