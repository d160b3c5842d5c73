//! Keeps overlapping writes apart, so that the order they land in is the order they are sent in.

use parking_lot::{Condvar, Mutex};

/// Byte ranges being written. Few at a time (one per connection), so a list serves.
#[derive(Debug, Default)]
pub struct RangeLock {
    held: Mutex<Vec<(u64, u64)>>,
    released: Condvar,
}

/// Holds a range until dropped.
#[derive(Debug)]
pub struct RangeGuard<'a> {
    lock: &'a RangeLock,
    range: (u64, u64),
}

impl RangeLock {
    /// Waits until nobody holds any byte of `offset..offset+len`, then holds it.
    pub fn lock(&self, offset: u64, len: u64) -> RangeGuard<'_> {
        let range = (offset, offset.saturating_add(len));
        let mut held = self.held.lock();
        while held.iter().any(|h| h.0 < range.1 && range.0 < h.1) {
            self.released.wait(&mut held);
        }
        held.push(range);
        RangeGuard { lock: self, range }
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(i) = held.iter().position(|h| *h == self.range) {
            held.swap_remove(i);
        }
        // Nobody can be waiting while nobody else is held or holding.
        self.lock.released.notify_all();
    }
}

#[cfg(test)]
mod tests;
