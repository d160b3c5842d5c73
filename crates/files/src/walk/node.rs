//! A directory under way.

use crate::blob::Hash;
use crate::tree::Entry;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use std::sync::Arc;

/// A directory whose entries come in from several threads.
pub struct Node {
    /// Absolute; empty for the root.
    pub path: Vec<u8>,
    pub fd: OwnedFd,
    /// Its blob in the previous tree.
    pub before: Option<Hash>,
    /// Where its own entry goes when it is complete: the slot in its parent.
    parent: Mutex<Option<(Arc<Node>, usize, Entry)>>,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Option<Entry>>,
    /// Those who still have something to put in: the walker, readers, subdirectories.
    holders: usize,
}

impl Node {
    /// Held once: by the walker.
    pub fn new(
        path: Vec<u8>,
        fd: OwnedFd,
        before: Option<Hash>,
        parent: Option<(Arc<Node>, usize, Entry)>,
    ) -> Arc<Self> {
        let state = Mutex::new(State { slots: Vec::new(), holders: 1 });
        Arc::new(Self { path, fd, before, parent: Mutex::new(parent), state })
    }

    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    /// Room for so many entries, by name.
    pub fn reserve(&self, slots: usize) {
        self.state.lock().slots.resize_with(slots, || None);
    }

    pub fn set(&self, slot: usize, entry: Entry) {
        if let Some(place) = self.state.lock().slots.get_mut(slot) {
            *place = Some(entry);
        }
    }

    pub fn hold(&self) {
        self.state.lock().holders += 1;
    }

    /// Gives the entries to the last one that lets go.
    pub fn release(&self) -> Option<Vec<Entry>> {
        let mut state = self.state.lock();
        state.holders = state.holders.saturating_sub(1);
        (state.holders == 0).then(|| std::mem::take(&mut state.slots).into_iter().flatten().collect())
    }

    pub fn take_parent(&self) -> Option<(Arc<Node>, usize, Entry)> {
        self.parent.lock().take()
    }
}
