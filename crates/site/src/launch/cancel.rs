//! A wait that can be cut short.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// Ends waits early, for good. One is shared by everything that shall end together.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: Mutex<bool>,
    wake: Condvar,
}

impl Cancel {
    pub fn cancel(&self) {
        *self.cancelled.lock() = true;
        self.wake.notify_all();
    }

    pub fn cancelled(&self) -> bool {
        *self.cancelled.lock()
    }

    /// Waits; true when cancelled meanwhile or before.
    pub fn wait(&self, time: Duration) -> bool {
        let mut cancelled = self.cancelled.lock();
        self.wake.wait_while_for(&mut cancelled, |c| !*c, time);
        *cancelled
    }
}
