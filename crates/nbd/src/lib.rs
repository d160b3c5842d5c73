//! The Network Block Device protocol: pure bytes, a server over any
//! [`BlockDevice`](lifeboat_block::BlockDevice), and a client that is one.
//!
//! - [`proto`]: fixed newstyle handshake, simple and structured replies; no I/O.
//! - [`server`]: one thread per connection, replies gathered, payloads handed on without a copy.
//! - [`client`]: blocking, with several requests in flight.
//!
//! Left out on purpose: oldstyle negotiation, extended headers, resize, and `FAST_ZERO` (a device does not
//! tell how fast it makes zeros, so the flag is not offered and a request that carries it gets `ENOTSUP`).

pub mod client;
pub mod proto;
pub mod server;
mod stream;

pub use client::{Client, ClientSettings, ClientTls, NbdError};
pub use proto::Errno;
pub use server::{Counters, Export, Exports, ServeError, Server, ServerSettings, Stuck};
