//! How work on a tree is watched, and what went wrong with single paths.

use crate::{FilesError, show};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Problems a report names; what is beyond is counted.
pub const MAX_PROBLEMS: usize = 100;

/// Watches and ends work that goes on in other threads.
#[derive(Debug, Default)]
pub struct Monitor {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Monitor {
    /// Asks the work to end at the next file.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn go_on(&self) -> Result<(), FilesError> {
        if self.is_cancelled() { Err(FilesError::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What went wrong, path by path.
#[derive(Debug, Default)]
pub struct Problems(Mutex<(Vec<String>, u64)>);

impl Problems {
    pub fn add(&self, path: &[u8], why: impl std::fmt::Display) {
        let mut problems = self.0.lock();
        if problems.0.len() < MAX_PROBLEMS {
            let text = format!("{}: {why}", show(path));
            problems.0.push(text.chars().take(lifeboat_base::limits::MAX_TEXT).collect());
        }
        problems.1 += 1;
    }

    /// The first of them as `PATH: why`, and how many there are.
    pub fn take(&self) -> (Vec<String>, u64) {
        std::mem::take(&mut *self.0.lock())
    }
}
