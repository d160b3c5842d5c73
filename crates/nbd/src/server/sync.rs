//! Flushes, beside the connection's own thread, so that later requests need not wait for the disk.
//!
//! Invariants:
//! - a flush is answered only by a device flush that began after its request was taken up: one device flush
//!   answers all that were waiting when it began, and none that came later;
//! - a failed device flush answers all of them with the error and is not tried again.

use super::{Peer, serve::errno_of};
use crate::proto::command;
use crate::proto::transmission::{SIMPLE_REPLY_LEN, simple_reply};
use lifeboat_base::limits::MAX_NBD_FLUSHES;
use lifeboat_block::BlockDevice;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;

#[derive(Default)]
struct State {
    /// Cookies of the requests that wait.
    waiting: Vec<u64>,
    /// No more will come.
    closed: bool,
    /// The thread is gone, for whatever reason.
    dead: bool,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

pub(super) struct Flusher {
    peer: Arc<Peer>,
    device: Arc<dyn BlockDevice>,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// What became of a flush that was handed over.
pub(super) enum Submitted {
    /// The reply will be sent from the other thread.
    Accepted,
    /// There is no other thread: flush here.
    Inline,
}

impl Flusher {
    pub fn new(peer: Arc<Peer>, device: Arc<dyn BlockDevice>) -> Self {
        Self { peer, device, queue: Arc::default(), thread: None }
    }

    /// Flushes and answers `cookie` some time from now. Waits when too many flushes are under way.
    pub fn submit(&mut self, cookie: u64) -> Submitted {
        if self.thread.is_none() {
            let (peer, device) = (Arc::clone(&self.peer), Arc::clone(&self.device));
            let queue = Arc::clone(&self.queue);
            let spawned = std::thread::Builder::new()
                .name("nbd-flush".into())
                .spawn(move || run(&Running { peer, queue }, &*device));
            match spawned {
                Ok(thread) => self.thread = Some(thread),
                Err(_) => return Submitted::Inline,
            }
        }
        let mut state = self.queue.state.lock();
        while state.waiting.len() >= MAX_NBD_FLUSHES && !state.dead {
            self.queue.changed.wait(&mut state);
        }
        state.waiting.push(cookie);
        self.queue.changed.notify_all();
        Submitted::Accepted
    }
}

impl Drop for Flusher {
    /// Waits until every flush is answered.
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Running {
    peer: Arc<Peer>,
    queue: Arc<Queue>,
}

impl Drop for Running {
    /// Flushes still waiting here will never be answered (the device panicked or the client is gone), so the
    /// client must see the connection end.
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.dead = true;
        if !state.waiting.is_empty() || std::thread::panicking() {
            self.peer.transport.close();
        }
        self.queue.changed.notify_all();
    }
}

fn run(running: &Running, device: &dyn BlockDevice) {
    loop {
        let batch = {
            let mut state = running.queue.state.lock();
            while state.waiting.is_empty() && !state.closed {
                running.queue.changed.wait(&mut state);
            }
            if state.waiting.is_empty() {
                return;
            }
            running.queue.changed.notify_all();
            std::mem::take(&mut state.waiting)
        };
        let error = device.flush().err().map(|e| {
            tracing::warn!("NBD flush failed: {e}");
            errno_of(&e, command::FLUSH)
        });
        let mut replies = Vec::with_capacity(batch.len() * SIMPLE_REPLY_LEN);
        batch.iter().for_each(|&cookie| replies.extend_from_slice(&simple_reply(cookie, error)));
        if running.peer.transport.send(&replies, &[]).is_err() {
            running.peer.transport.close();
            return;
        }
    }
}
