//! The site's vault as the place of a tree's blobs, for one restore.
//!
//! ```text
//!  restore (threads) --get--> slot --urgent--> asks() --> session --> site
//!      `------------ahead---> slot --queued---^               |
//!         waits <------------ slot <------- came() <----------'
//! ```
//! What is announced is asked for while there is room for it, so that many requests are under way; what is read now is asked
//! for at once. A directory that is announced stands for all below it: what it names is queued when it comes.
//!
//! Invariants: content is given out only when it has the hash it was asked by; what was fetched ahead and is not read yet is
//! at most [`RESTORE_WINDOW`] of content and [`RESTORE_TREE_WINDOW`] of trees that came, with [`RESTORE_TREES`] under way;
//! what nobody reads any more makes room for what somebody will; a session that ends lets nobody wait.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use lifeboat_base::limits::{MAX_TEXT, RESTORE_GET, RESTORE_TREE_WINDOW, RESTORE_TREES, RESTORE_WINDOW};
use lifeboat_files::blob::MAX_BLOB;
use lifeboat_files::tree::{Reference, references, what};
use lifeboat_files::{BlobError, BlobKind, BlobSource, Hash};
use lifeboat_replicate::message::BlobRef;
use lifeboat_replicate::message::restore::{RestoreBlob, RestoreGet};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use tokio::sync::Notify;

/// Files' blobs fetched ahead that are under way or here.
const AHEAD: usize = 512;
/// Blobs of a kind that are queued; what is announced beyond is asked for when it is read.
const QUEUED: usize = 4096;
/// Directories queued of one blob.
const BELOW: usize = 256;
/// What came so many announcements ago and was not read will not be.
const STALE: u64 = 2048;

enum State {
    /// Announced.
    Queued,
    /// Asked for, or about to be because somebody waits.
    UnderWay,
    Here(Result<Bytes, BlobError>),
}

struct Slot {
    kind: BlobKind,
    state: State,
    /// Bytes counted for it.
    held: usize,
    /// Threads that wait for it.
    waiting: usize,
    /// What it names is wanted, too.
    below: bool,
    /// When it was announced.
    serial: u64,
}

#[derive(Default)]
struct Window {
    slots: HashMap<Hash, Slot>,
    /// Somebody waits for these.
    urgent: VecDeque<Hash>,
    /// May name what is not queued any more.
    trees: VecDeque<Hash>,
    files: VecDeque<(Hash, u64)>,
    /// Trees fetched ahead that are under way.
    trees_out: usize,
    /// Blobs of files fetched ahead that are under way or here.
    files_ahead: usize,
    held_trees: usize,
    held_files: usize,
    serial: u64,
    /// When it was last looked for what is stale.
    swept: u64,
    closed: bool,
}

/// See the module's text.
#[derive(Default)]
pub struct Source {
    window: Mutex<Window>,
    came: Condvar,
    /// There may be something to ask for.
    pub asked: Notify,
}

fn ended() -> BlobError {
    BlobError::Store("the session with the site ended".into())
}

impl Window {
    fn held(&mut self, kind: BlobKind) -> &mut usize {
        match kind {
            BlobKind::Tree => &mut self.held_trees,
            BlobKind::File => &mut self.held_files,
        }
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some(slot) = self.slots.remove(hash) {
            *self.held(slot.kind) -= slot.held;
            if slot.serial > 0 && slot.kind == BlobKind::File {
                self.files_ahead -= 1;
            }
        }
    }

    /// Queues what was announced: the newest tree first, files in their order. What is queued or here stays so.
    fn announce(&mut self, kind: BlobKind, hash: Hash, len: u64) {
        if let Some(slot) = self.slots.get_mut(&hash) {
            slot.below |= kind == BlobKind::Tree;
            return;
        }
        let full = match kind {
            BlobKind::Tree => self.trees.len() >= QUEUED,
            BlobKind::File => self.files.len() >= QUEUED,
        };
        if full {
            if kind == BlobKind::File {
                return;
            }
            // The oldest is read last.
            if let Some(old) = self.trees.pop_back()
                && self.slots.get(&old).is_some_and(|s| matches!(s.state, State::Queued))
            {
                self.slots.remove(&old);
            }
        }
        self.serial += 1;
        let below = kind == BlobKind::Tree;
        let slot = Slot { kind, state: State::Queued, held: 0, waiting: 0, below, serial: self.serial };
        self.slots.insert(hash, slot);
        match kind {
            BlobKind::Tree => self.trees.push_front(hash),
            BlobKind::File => self.files.push_back((hash, len)),
        }
    }

    /// Whether it waits in its queue still; it is under way from now on.
    fn leave_queue(&mut self, hash: &Hash, held: usize) -> bool {
        match self.slots.get_mut(hash) {
            Some(slot) if matches!(slot.state, State::Queued) => {
                (slot.state, slot.held) = (State::UnderWay, held);
                let kind = slot.kind;
                *self.held(kind) += held;
                match kind {
                    BlobKind::Tree => self.trees_out += 1,
                    BlobKind::File => self.files_ahead += 1,
                }
                true
            }
            _ => false,
        }
    }

    fn next_tree(&mut self) -> Option<Hash> {
        while self.trees_out < RESTORE_TREES && self.held_trees < RESTORE_TREE_WINDOW {
            let hash = self.trees.pop_front()?;
            if self.leave_queue(&hash, 0) {
                return Some(hash);
            }
        }
        None
    }

    fn next_file(&mut self) -> Option<Hash> {
        loop {
            let (hash, len) = *self.files.front()?;
            if self.slots.get(&hash).is_none_or(|s| !matches!(s.state, State::Queued)) {
                self.files.pop_front();
                continue;
            }
            let len = usize::try_from(len).unwrap_or(MAX_BLOB).min(MAX_BLOB);
            if self.files_ahead >= AHEAD || self.held_files + len > RESTORE_WINDOW {
                return None;
            }
            self.files.pop_front();
            if self.leave_queue(&hash, len) {
                return Some(hash);
            }
        }
    }

    /// Lets go of what came and is not going to be read.
    fn sweep(&mut self) {
        if self.serial < self.swept + STALE / 4 {
            return;
        }
        self.swept = self.serial;
        let before = self.serial.saturating_sub(STALE);
        let stale = |s: &Slot| s.serial < before && s.waiting == 0 && matches!(s.state, State::Here(_));
        let gone: Vec<Hash> = self.slots.iter().filter(|(_, s)| stale(s)).map(|(h, _)| *h).collect();
        gone.iter().for_each(|hash| self.remove(hash));
    }
}

impl Source {
    /// What to ask the site for now, if there is anything.
    pub fn asks(&self) -> Option<RestoreGet> {
        let mut window = self.window.lock();
        window.sweep();
        let mut blobs = Vec::new();
        while blobs.len() < RESTORE_GET {
            let next = match window.urgent.pop_front() {
                Some(hash) => Some(hash),
                None => window.next_tree().or_else(|| window.next_file()),
            };
            let Some(hash) = next else { break };
            let tree = window.slots.get(&hash).is_some_and(|s| s.kind == BlobKind::Tree);
            blobs.push(BlobRef { hash: hash.as_bytes().to_vec(), tree });
        }
        (!blobs.is_empty()).then_some(RestoreGet { blobs })
    }

    /// Takes an answer of the site.
    ///
    /// # Errors
    /// When it answers nothing that was asked.
    pub fn came(&self, blob: RestoreBlob) -> Result<()> {
        let hash: [u8; 32] =
            blob.hash.as_slice().try_into().ok().context("the site sent a hash of the wrong length")?;
        let hash = Hash::from_bytes(hash);
        ensure!(blob.content.len() <= MAX_BLOB, "the site sent a blob of {} bytes", blob.content.len());
        let result = if blob.missing {
            Err(BlobError::Missing(hash))
        } else if !blob.error.is_empty() {
            Err(BlobError::Store(blob.error.chars().take(MAX_TEXT / 4).collect()))
        } else if blake3::hash(&blob.content) == hash {
            Ok(blob.content)
        } else {
            Err(BlobError::Damaged(hash))
        };
        let mut window = self.window.lock();
        let Some(slot) = window.slots.get_mut(&hash).filter(|s| matches!(s.state, State::UnderWay)) else {
            bail!("the site sent what was not asked for");
        };
        let (kind, ahead, was) = (slot.kind, slot.serial > 0, slot.held);
        slot.held = result.as_ref().map_or(0, Bytes::len);
        let now = slot.held;
        let below = match &result {
            Ok(content) if slot.below => directories(content),
            _ => Vec::new(),
        };
        slot.state = State::Here(result);
        *window.held(kind) += now;
        *window.held(kind) -= was;
        if ahead && kind == BlobKind::Tree {
            window.trees_out -= 1;
        }
        // The first of them is read next.
        for hash in below.into_iter().rev() {
            window.announce(BlobKind::Tree, hash, 0);
        }
        drop(window);
        self.came.notify_all();
        self.asked.notify_one();
        Ok(())
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        self.window.lock().closed = true;
        self.came.notify_all();
    }

    /// Bytes that are held ahead, of trees and of files.
    #[cfg(test)]
    pub fn held(&self) -> (usize, usize) {
        let window = self.window.lock();
        (window.held_trees, window.held_files)
    }
}

/// The directories a directory's blob names; what does not decode is named by who reads it.
fn directories(blob: &[u8]) -> Vec<Hash> {
    let mut found = Vec::new();
    if let Ok(0) = what(blob) {
        let _ = references(blob, 0, &mut |r| {
            if let Reference::Tree(hash, 0) = r
                && found.len() < BELOW
            {
                found.push(hash);
            }
        });
    }
    found
}

impl BlobSource for Source {
    fn get(&self, kind: BlobKind, hash: &Hash) -> Result<Bytes, BlobError> {
        let mut window = self.window.lock();
        if window.closed {
            return Err(ended());
        }
        match window.slots.get_mut(hash) {
            None => {
                let state = State::UnderWay;
                let slot = Slot { kind, state, held: 0, waiting: 1, below: false, serial: 0 };
                window.slots.insert(*hash, slot);
                window.urgent.push_back(*hash);
            }
            Some(slot) => {
                slot.waiting += 1;
                if window.leave_queue(hash, 0) {
                    window.urgent.push_back(*hash);
                }
            }
        }
        self.asked.notify_one();
        loop {
            if window.closed {
                return Err(ended());
            }
            let Some(slot) = window.slots.get_mut(hash) else { return Err(ended()) };
            if let State::Here(result) = &slot.state {
                let result = result.clone();
                slot.waiting -= 1;
                if slot.waiting == 0 {
                    window.remove(hash);
                    self.asked.notify_one();
                }
                return result;
            }
            self.came.wait(&mut window);
        }
    }

    fn ahead(&self, kind: BlobKind, hash: &Hash, len: u64) {
        self.window.lock().announce(kind, *hash, len);
        self.asked.notify_one();
    }
}

#[cfg(test)]
mod tests;
