//! The oracle: writes whose blocks describe themselves, and the judgement of a recovered image.
//!
//! - The ledger of what was issued and what completed is kept elsewhere. A write is in it before it is sent; a completion
//!   only after it was heard. So "completed before issued", as the ledger tells it, is always true of the world.
//! - Every block of an image is read, also those nobody wrote: a misdirected write has nowhere to hide.
//! - A verdict without violations still tells what it compared.

mod block;
mod check;
mod log;
mod target;
mod write;

pub use block::{BLOCK, Content, Stamp, fingerprint};
pub use check::{Order, Require, Verdict, Violation, check};
pub use log::{Collector, Event, FileSink, History, Kind, Sink, TcpSink};
pub use target::{FileTarget, Target, open};
pub use write::{Report, Settings, write};

use std::io;

/// Why the oracle cannot work. Not a verdict: that is [`Verdict`].
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    #[error("ledger line {line}: {what}: {text:?}")]
    Ledger { line: u64, what: &'static str, text: String },
    #[error("the ledger holds {have} disks, {given} were given")]
    Disks { have: usize, given: usize },
    #[error("disk {disk} has {given} blocks, the ledger says {have}")]
    Size { disk: u32, have: u64, given: u64 },
    #[error("the ledger has no {0}")]
    NotThere(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests;
