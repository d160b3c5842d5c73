//! A directory that is being filled.

use super::Restore;
use super::write::apply;
use crate::sys::On;
use crate::tree::Meta;
use rustix::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module's text.
pub struct Folder {
    /// From the target on; empty for the target itself.
    pub path: Vec<u8>,
    pub fd: OwnedFd,
    /// Set when everything is in it. `None`: it was there before and stays as it is.
    meta: Option<Meta>,
    parent: Option<Arc<Folder>>,
    /// Those who still put something in: the thread that makes it, writers, subdirectories.
    holders: AtomicUsize,
}

impl Folder {
    /// Held once. Who gives a parent holds that for it.
    pub fn new(path: Vec<u8>, fd: OwnedFd, meta: Option<Meta>, parent: Option<Arc<Folder>>) -> Arc<Self> {
        Arc::new(Self { path, fd, meta, parent, holders: AtomicUsize::new(1) })
    }

    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    pub fn hold(&self) {
        self.holders.fetch_add(1, Ordering::AcqRel);
    }

    /// The last one that lets go finishes the directory, and lets go of the one above.
    pub fn release(self: &Arc<Self>, restore: &Restore<'_>) {
        let mut folder = Arc::clone(self);
        while folder.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            if let Some(meta) = &folder.meta
                && let Err(why) = apply(restore, On::File(folder.fd.as_fd()), meta)
            {
                restore.problems.add(&folder.path, why);
            }
            let Some(parent) = folder.parent.clone() else { return };
            folder = parent;
        }
    }
}
