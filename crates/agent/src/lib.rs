//! The agent: the process beside the protected server that captures its writes and sends them.
//!
//! ```text
//!  QEMU mirror --NBD--> Sink ----\                       encoder        session
//!  NBD clients -------> Split ----> Stream (queue, dirty map) -> frames -> TLS -> site
//!                         |          ^ sync reads what is dirty
//!                     file, disk ----/
//! ```
//! A capture never waits for the network (the queue turns into dirty blocks when it is full), and
//! the source never depends on the agent longer than a write lasts.

pub mod backup;
pub mod capture;
pub mod identity;
pub mod restore;
pub mod session;
pub mod spool;
pub mod stream;
pub mod streams;
pub mod supervisor;
pub mod tracking;

#[cfg(test)]
mod testing;
