//! Events QEMU sends by itself, delivered to any number of listeners.

use lifeboat_base::limits::QMP_EVENTS;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// For example `BLOCK_JOB_READY`.
    pub name: String,
    pub data: Value,
    /// QEMU's clock, in microseconds since 1970; 0 when QEMU had none.
    pub micros: u64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    dropped: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// One listener's events, from the moment it was made. Bounded: when it does not keep up, the
/// oldest are dropped and counted.
#[derive(Debug)]
pub struct Events(Arc<Shared>);

impl Events {
    /// The next event; waits up to `timeout`. `None` after the time, or when the connection has
    /// ended and nothing is left (see [`closed`](Self::closed)).
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        let mut state = self.0.state.lock();
        self.0.wake.wait_while_for(&mut state, |s| s.queue.is_empty() && !s.closed, timeout);
        state.queue.pop_front()
    }

    /// How many events were dropped because nobody took them.
    pub fn dropped(&self) -> u64 {
        self.0.state.lock().dropped
    }

    /// True when the connection has ended and every event was taken.
    pub fn closed(&self) -> bool {
        let state = self.0.state.lock();
        state.closed && state.queue.is_empty()
    }
}

/// The sending end: everyone who listens.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<HubState>,
}

#[derive(Debug, Default)]
struct HubState {
    listeners: Vec<Weak<Shared>>,
    closed: bool,
}

impl Hub {
    pub(crate) fn listen(&self) -> Events {
        let shared = Arc::new(Shared::default());
        let mut hub = self.state.lock();
        if hub.closed {
            shared.state.lock().closed = true;
        } else {
            hub.listeners.retain(|l| l.strong_count() > 0);
            hub.listeners.push(Arc::downgrade(&shared));
        }
        Events(shared)
    }

    pub(crate) fn send(&self, event: &Event) {
        for listener in self.state.lock().listeners.iter().filter_map(Weak::upgrade) {
            let mut state = listener.state.lock();
            if state.queue.len() >= QMP_EVENTS {
                state.queue.pop_front();
                state.dropped += 1;
            }
            state.queue.push_back(event.clone());
            drop(state);
            listener.wake.notify_all();
        }
    }

    pub(crate) fn close(&self) {
        let mut hub = self.state.lock();
        hub.closed = true;
        for listener in hub.listeners.drain(..).filter_map(|l| l.upgrade()) {
            listener.state.lock().closed = true;
            listener.wake.notify_all();
        }
    }
}
