//! The life of one connection: registered, negotiated, served, forgotten.

use super::input::Input;
use super::negotiate::{self, Outcome};
use super::serve::Session;
use super::{Counters, Peer, Shared};
use crate::stream::{Deadline, Transport};
use parking_lot::Mutex;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Gives the connection a thread, or turns it away.
pub(super) fn start(shared: &Arc<Shared>, stream: OwnedFd) {
    let peer = Arc::new(Peer {
        transport: Transport::new(stream),
        export: Mutex::new(None),
        stopping: AtomicBool::new(false),
    });
    let id = {
        let mut registry = shared.registry.lock();
        if registry.closed || registry.peers.len() >= shared.settings.max_connections {
            drop(registry);
            Counters::add(&shared.counters.turned_away, 1);
            tracing::warn!("NBD connection turned away: {} are open", shared.settings.max_connections);
            return;
        }
        let id = registry.next;
        registry.next += 1;
        registry.peers.insert(id, Arc::clone(&peer));
        id
    };
    Counters::add(&shared.counters.accepted, 1);
    let registered = Registered { shared: Arc::clone(shared), id };
    let spawned = std::thread::Builder::new().name("nbd".into()).spawn(move || {
        if let Err(e) = run(&registered.shared, &peer) {
            tracing::debug!("NBD connection {id} ended: {e}");
        }
        // Here, not when the last reference goes: the client is to see the end now.
        peer.transport.say_goodbye();
        peer.transport.close();
        drop(peer);
        drop(registered);
    });
    if let Err(e) = spawned {
        tracing::warn!("no thread for an NBD connection: {e}");
    }
}

/// A place in the registry, given back however the thread ends.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let peer = self.shared.registry.lock().peers.remove(&self.id);
        if let Some(peer) = peer {
            peer.transport.close();
        }
        self.shared.changed.notify_all();
    }
}

fn run(shared: &Arc<Shared>, peer: &Arc<Peer>) -> io::Result<()> {
    peer.transport.tune_tcp();
    let at = shared.clock.monotonic() + shared.settings.handshake;
    peer.transport.set_deadline(Some(Deadline { clock: Arc::clone(&shared.clock), at }))?;
    let mut input = Input::default();
    let chosen = match negotiate::run(shared, peer, &mut input)? {
        Outcome::Serve(chosen) => chosen,
        Outcome::Done => return Ok(()),
    };
    peer.transport.set_deadline(None)?;
    Session::new(shared, peer, input, chosen).run()
}
