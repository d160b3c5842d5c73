//! Serves block devices over Unix sockets and TCP.
//!
//! Invariants:
//! - a write is replied to only after the device took it; a FLUSH, or a request with FUA, only after a device
//!   flush that began after the request came and ended well;
//! - a FLUSH covers every write replied to before it, on every connection (hence `CAN_MULTI_CONN`);
//! - a connection holds bounded memory whatever its client sends or does not read, and delays no other;
//! - shutdown ends, with an open socket or a client that takes no replies.
//!
//! Each connection has one thread, and a second one from its first flush on.

mod connection;
mod input;
mod listen;
mod negotiate;
mod output;
mod serve;
mod sync;

use crate::stream::Transport;
use lifeboat_base::Clock;
use lifeboat_base::limits::{HANDSHAKE, MAX_NBD_CONNECTIONS};
use lifeboat_block::BlockDevice;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long a connection that was cut off may take to notice.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// A device under a name.
#[derive(Clone)]
pub struct Export {
    pub device: Arc<dyn BlockDevice>,
    /// For people; shown by `nbdinfo --list`.
    pub description: String,
    /// Whether a flush on one connection covers the writes of all of them, as
    /// [`BlockDevice::flush`] promises.
    pub multi_conn: bool,
}

impl Export {
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        Self { device, description: String::new(), multi_conn: true }
    }
}

/// The exports of a server, by name; `""` is what a client gets that names none. Clones share one map, which
/// may change while the server runs: a connection keeps the export it has chosen.
#[derive(Clone, Default)]
pub struct Exports(Arc<RwLock<BTreeMap<String, Arc<Export>>>>);

impl Exports {
    /// One device, under the default name.
    pub fn single(device: Arc<dyn BlockDevice>) -> Self {
        let exports = Self::default();
        exports.insert("", Export::new(device));
        exports
    }

    /// Adds an export, or puts another one in its place for connections to come.
    pub fn insert(&self, name: &str, export: Export) {
        self.0.write().insert(name.to_owned(), Arc::new(export));
    }

    /// Connections to it go on; see [`Server::disconnect`].
    pub fn remove(&self, name: &str) -> Option<Arc<Export>> {
        self.0.write().remove(name)
    }

    pub fn get(&self, name: &str) -> Option<Arc<Export>> {
        self.0.read().get(name).cloned()
    }

    /// Names and descriptions, in order of name.
    pub fn list(&self) -> Vec<(String, String)> {
        self.0.read().iter().map(|(name, e)| (name.clone(), e.description.clone())).collect()
    }
}

/// How a server behaves.
#[derive(Clone)]
pub struct ServerSettings {
    /// Connections served at a time; one more is closed as soon as it is accepted.
    pub max_connections: usize,
    /// From accept to the end of the handshake.
    pub handshake: Duration,
    /// When given, nothing is told and nothing served without TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { max_connections: MAX_NBD_CONNECTIONS, handshake: HANDSHAKE, tls: None }
    }
}

/// What a server has done since it started, all connections together.
#[derive(Debug, Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    /// Connections turned away because of the limit.
    pub turned_away: AtomicU64,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub flushes: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Requests answered with an error.
    pub errors: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0} is in use by a running NBD server; stop that one or choose another socket path")]
    InUse(PathBuf),
    #[error("{0} exists and is no socket; move it away or choose another socket path")]
    NotASocket(PathBuf),
    #[error("cannot listen on {at}: {source}")]
    Listen { at: String, source: io::Error },
}

/// Connections that were still in a call to their device when shutdown gave up on them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{connections} NBD connections are stuck in their device; their threads were left behind")]
pub struct Stuck {
    pub connections: usize,
}

/// One connection, as seen from outside of its thread.
struct Peer {
    transport: Transport,
    /// The export it has chosen.
    export: Mutex<Option<String>>,
    /// Set before the socket is shut for receiving: nothing more is to be taken from it.
    stopping: AtomicBool,
}

impl Peer {
    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.transport.stop_receiving();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
struct Registry {
    peers: HashMap<u64, Arc<Peer>>,
    next: u64,
    closed: bool,
}

struct Shared {
    exports: Exports,
    settings: ServerSettings,
    clock: Arc<dyn Clock>,
    counters: Counters,
    registry: Mutex<Registry>,
    /// Told whenever a connection ends or the server stops.
    changed: Condvar,
}

/// A running server. Dropping it cuts all connections.
pub struct Server {
    shared: Arc<Shared>,
    listener: listen::Listener,
    stopped: bool,
}

impl Server {
    /// Serves on a Unix socket that only this user may open. A socket left behind by a dead server is replaced.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn listen_unix(
        path: &Path,
        exports: Exports,
        settings: ServerSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let shared = Shared::new(exports, settings, clock);
        let listener = listen::Listener::unix(path, Arc::clone(&shared))?;
        Ok(Self { shared, listener, stopped: false })
    }

    /// Serves on a TCP address; port 0 takes a free one. Give [`ServerSettings::tls`] unless the network is trusted.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn listen_tcp(
        address: SocketAddr,
        exports: Exports,
        settings: ServerSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServeError> {
        let shared = Shared::new(exports, settings, clock);
        let listener = listen::Listener::tcp(address, Arc::clone(&shared))?;
        Ok(Self { shared, listener, stopped: false })
    }

    /// Serves a client on a socket that is connected already, a pair for example.
    pub fn serve_stream(&self, stream: impl Into<OwnedFd>) {
        connection::start(&self.shared, stream.into());
    }

    /// The TCP address in use.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.address()
    }

    pub fn exports(&self) -> &Exports {
        &self.shared.exports
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Open connections, those in their handshake included.
    pub fn connections(&self) -> usize {
        self.shared.registry.lock().peers.len()
    }

    /// Open connections to one export.
    pub fn connections_to(&self, export: &str) -> usize {
        let registry = self.shared.registry.lock();
        registry.peers.values().filter(|p| p.export.lock().as_deref() == Some(export)).count()
    }

    /// Cuts the connections to one export, without waiting for them to end. New ones are still welcome unless
    /// the export was removed first.
    pub fn disconnect(&self, export: &str) {
        for peer in self.shared.registry.lock().peers.values() {
            if peer.export.lock().as_deref() == Some(export) {
                peer.stopping.store(true, Ordering::SeqCst);
                peer.transport.close();
            }
        }
    }

    /// Waits until no connection is open, at most `timeout`. Tells whether that came true.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        self.shared.wait_idle(timeout)
    }

    /// Stops accepting, lets each connection finish the requests it has received within `deadline`, then cuts
    /// what is left and removes the Unix socket.
    ///
    /// # Errors
    /// [`Stuck`] when a device call has not returned shortly after the deadline.
    pub fn shutdown(mut self, deadline: Duration) -> Result<(), Stuck> {
        self.stop(deadline)
    }

    fn stop(&mut self, deadline: Duration) -> Result<(), Stuck> {
        self.stopped = true;
        self.shared.registry.lock().closed = true;
        self.shared.changed.notify_all();
        self.listener.stop();
        self.shared.registry.lock().peers.values().for_each(|p| p.stop());
        if !self.shared.wait_idle(deadline) {
            self.shared.registry.lock().peers.values().for_each(|p| p.transport.close());
            if !self.shared.wait_idle(LAST_GRACE) {
                return Err(Stuck { connections: self.connections() });
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.stopped
            && let Err(e) = self.stop(Duration::ZERO)
        {
            tracing::warn!("{e}");
        }
    }
}

impl Shared {
    fn new(exports: Exports, settings: ServerSettings, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            exports,
            settings,
            clock,
            counters: Counters::default(),
            registry: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn is_closed(&self) -> bool {
        self.registry.lock().closed
    }

    /// Waits a moment before the next try of something that failed, less if the server stops.
    fn pause(&self, time: Duration) {
        let mut registry = self.registry.lock();
        if !registry.closed {
            self.changed.wait_for(&mut registry, time);
        }
    }

    fn wait_idle(&self, timeout: Duration) -> bool {
        let mut registry = self.registry.lock();
        !self.changed.wait_while_for(&mut registry, |r| !r.peers.is_empty(), timeout).timed_out()
    }
}
