//! What lies below a journal's records, and content for what is offered.
//!
//! Invariant: a snapshot somebody reads is known here for as long as the device lives, and is not deleted meanwhile.

use super::SiteVault;
use crate::server::Finder;
use bytes::Bytes;
use lifeboat_base::DiskId;
use lifeboat_block::{BlockDevice, BlockError};
use lifeboat_journal::Elsewhere;
use lifeboat_replicate::wire::BlockHash;
use lifeboat_vault::{SnapshotId, VaultDevice, VaultError};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long nothing is looked up for offers after the vault could not be read: asking the agent is always right.
const QUIET: Duration = Duration::from_secs(30);
/// Offers that are looked up at a time.
const LOOKING: usize = 16;

/// Which snapshots are read now.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<SnapshotId, Vec<Weak<VaultDevice>>>>);

impl Uses {
    pub(crate) fn note(&self, id: SnapshotId, device: &Arc<VaultDevice>) {
        let mut uses = self.0.lock();
        let devices = uses.entry(id).or_default();
        devices.retain(|d| d.strong_count() > 0);
        devices.push(Arc::downgrade(device));
    }

    pub(crate) fn all(&self) -> HashSet<SnapshotId> {
        let mut uses = self.0.lock();
        uses.retain(|_, devices| devices.iter().any(|d| d.strong_count() > 0));
        uses.keys().copied().collect()
    }
}

impl SiteVault {
    /// A disk of a snapshot, which stays while the device lives.
    ///
    /// # Errors
    /// `Invalid` when the snapshot has no such disk, or is not there.
    pub(crate) fn disk_of(&self, id: SnapshotId, disk: DiskId) -> Result<Arc<VaultDevice>, VaultError> {
        let vault = self.open().map_err(|e| VaultError::Io {
            what: "the vault".into(),
            source: io::Error::other(e.to_string()),
        })?;
        let snapshot = vault.snapshot(&id).ok_or_else(|| VaultError::Damaged {
            object: format!("snapshot {id}"),
            why: "it is not in the vault; see 'lifeboat vault check'".into(),
        })?;
        let device = Arc::new(vault.device(&snapshot, disk)?);
        self.uses.note(id, &device);
        // Is it deleted by somebody who has not seen the note?
        if vault.is_going(&id) {
            return Err(VaultError::Damaged {
                object: format!("snapshot {id}"),
                why: "it was deleted just now".into(),
            });
        }
        Ok(device)
    }
}

impl Elsewhere for SiteVault {
    fn base(&self, id: [u8; 16], disk: DiskId) -> Result<Arc<dyn BlockDevice>, BlockError> {
        Ok(self.disk_of(SnapshotId(id), disk)?)
    }
}

impl Finder for SiteVault {
    fn find(&self, hash: &BlockHash, len: usize) -> Option<Bytes> {
        let now = self.clock.monotonic();
        if now < *self.quiet_until.lock() {
            return None;
        }
        let vault = self.open().ok()?;
        let id = vault.content_id(&blake3::Hash::from_bytes(*hash));
        let found = vault.has(&id).and_then(|there| if there { vault.read(&id).map(Some) } else { Ok(None) });
        match found {
            Ok(content) => content.filter(|c| c.len() == len),
            Err(e) => {
                tracing::warn!("content that is offered cannot be looked up in the vault: {e}");
                *self.quiet_until.lock() = now + QUIET;
                None
            }
        }
    }

    fn within(&self, limit: Duration, work: Box<dyn FnOnce() + Send>) {
        if self.clock.monotonic() >= *self.quiet_until.lock() {
            self.looks.within(limit, work);
        }
    }
}

/// Threads that look something up for offers.
#[derive(Clone, Default)]
pub(super) struct Looks(Arc<Mutex<Looking>>);

#[derive(Default)]
struct Looking {
    running: usize,
    /// Of those, the ones nobody waits for any more: what they wait for does not answer.
    late: usize,
}

impl Looks {
    /// Runs `work` on a thread and waits for so long at most; not at all while an earlier one is late.
    fn within(&self, limit: Duration, work: Box<dyn FnOnce() + Send>) {
        {
            let mut looking = self.0.lock();
            if looking.late > 0 || looking.running >= LOOKING {
                return;
            }
            looking.running += 1;
        }
        let (done, ended) = sync_channel(1);
        let turn = Turn { looks: self.clone(), done };
        let run = move || {
            let _turn = turn;
            work();
        };
        if let Err(e) = std::thread::Builder::new().name("vault-look".into()).spawn(run) {
            return tracing::warn!("nothing is looked up for offers: {e}");
        }
        if ended.recv_timeout(limit).is_err() {
            let mut looking = self.0.lock();
            // With the lock held the thread does not end.
            looking.late += usize::from(ended.try_recv().is_err());
            drop(ended);
        }
    }
}

/// One thread's turn, which ends with it.
struct Turn {
    looks: Looks,
    /// Closed where nobody waits any more.
    done: SyncSender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut looking = self.looks.0.lock();
        let waited_for = self.done.try_send(()).is_ok();
        looking.running -= 1;
        looking.late -= usize::from(!waited_for);
    }
}

#[cfg(test)]
mod tests;
