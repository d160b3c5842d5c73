//! What was used last, up to a number of bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Forgets what was not used for longest once there is too much.
pub(crate) struct Lru<K, V> {
    limit: usize,
    used: usize,
    tick: u64,
    entries: HashMap<K, (V, usize, u64)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V: Clone> Lru<K, V> {
    /// Holds at most `limit` bytes, by the sizes told.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: 0, tick: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    pub fn get(&mut self, key: &K) -> Option<V> {
        let (value, _, at) = self.entries.get_mut(key)?;
        self.order.remove(at);
        self.tick += 1;
        *at = self.tick;
        self.order.insert(self.tick, key.clone());
        Some(value.clone())
    }

    pub fn put(&mut self, key: K, value: V, size: usize) {
        self.remove(&key);
        self.tick += 1;
        self.order.insert(self.tick, key.clone());
        self.entries.insert(key, (value, size, self.tick));
        self.used += size;
        while self.used > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some((_, size, _)) = self.entries.remove(&oldest) {
                self.used -= size;
            }
        }
    }

    pub fn remove(&mut self, key: &K) {
        if let Some((_, size, at)) = self.entries.remove(key) {
            self.order.remove(&at);
            self.used -= size;
        }
    }

    pub fn clear(&mut self) {
        (self.used, self.entries, self.order) = (0, HashMap::new(), BTreeMap::new());
    }
}
