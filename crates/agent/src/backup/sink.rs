//! Where a walk's blobs go: offered, and sent if they are needed.
//!
//! Invariants: blobs leave in the order in which they were put, so what a tree names leaves before the tree; what is
//! offered and not answered is at most [`BACKUP_WINDOW`] bytes and [`BACKUP_OFFERS`] offers, or one blob.

use super::Remembered;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use lifeboat_base::limits::{BACKUP_OFFER, BACKUP_OFFERS, BACKUP_WINDOW, MAX_REMEMBERED_TREE};
use lifeboat_files::blob::MemoryBlobs;
use lifeboat_files::{BlobError, BlobKind, BlobSink, BlobSource, Hash};
use lifeboat_replicate::message::{BackupBlob, BackupFrame, BackupNeeded, BackupOffer, BlobRef, backup};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashSet, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Bytes that make an offer, if it has not enough blobs before.
const BATCH: usize = 2 << 20;
/// Hashes remembered as offered; forgetting them costs an offer each.
const OFFERED: usize = 1 << 20;

type Blob = (BlobKind, Hash, Bytes);

#[derive(Default)]
struct Window {
    /// Not offered yet.
    batch: Vec<Blob>,
    batch_bytes: usize,
    /// Offered, oldest first.
    out: VecDeque<Vec<Blob>>,
    /// Bytes of both.
    bytes: usize,
    /// By kind: a file may hold what a directory is stored as.
    offered: HashSet<(BlobKind, Hash)>,
    closed: bool,
}

/// See the module's text.
pub struct Sink {
    /// Never full: it holds no more than what is not answered.
    offers: mpsc::Sender<BackupFrame>,
    previous: Option<Remembered>,
    /// Every blob of the tree that is walked, as long as it is small enough to be remembered.
    trees: MemoryBlobs,
    /// Bytes of them; beyond the bound there are none any more.
    tree_bytes: AtomicU64,
    root: OnceLock<Hash>,
    window: Mutex<Window>,
    moved: Condvar,
}

fn ended() -> BlobError {
    BlobError::Store("the session with the site ended".into())
}

impl Sink {
    /// And where its offers come out.
    pub fn new(previous: Option<Remembered>) -> (Self, mpsc::Receiver<BackupFrame>) {
        let (offers, out) = mpsc::channel(2 * BACKUP_OFFERS);
        let sink = Self {
            offers,
            previous,
            trees: MemoryBlobs::default(),
            tree_bytes: AtomicU64::new(0),
            root: OnceLock::new(),
            window: Mutex::default(),
            moved: Condvar::new(),
        };
        (sink, out)
    }

    pub fn previous(&self) -> Option<&Remembered> {
        self.previous.as_ref()
    }

    pub fn set_root(&self, root: Hash) {
        let _ = self.root.set(root);
    }

    /// The tree that was walked, if it is to be remembered.
    pub fn walked(&self) -> Option<(Hash, &MemoryBlobs)> {
        let fits = self.tree_bytes.load(Ordering::Relaxed) <= MAX_REMEMBERED_TREE;
        Some((*self.root.get()?, &self.trees)).filter(|_| fits)
    }

    /// Keeps a tree's blob for the next backup. One that is not kept costs an offer.
    fn remember(&self, hash: Hash, blob: &Bytes) -> Result<(), BlobError> {
        let len = blob.len() as u64;
        if self.tree_bytes.fetch_add(len, Ordering::Relaxed).saturating_add(len) > MAX_REMEMBERED_TREE {
            self.trees.clear();
            return Ok(());
        }
        self.trees.put(BlobKind::Tree, hash, blob.clone())
    }

    /// Nothing more can be put.
    pub fn close(&self) {
        self.window.lock().closed = true;
        self.moved.notify_all();
    }

    /// Offers what waits.
    fn offer(&self, window: &mut Window) -> Result<(), BlobError> {
        if window.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut window.batch);
        window.batch_bytes = 0;
        let blob = |(kind, hash, _): &Blob| BlobRef {
            hash: hash.as_bytes().to_vec(),
            tree: *kind == BlobKind::Tree,
        };
        let offer = backup::Body::Offer(BackupOffer { blobs: batch.iter().map(blob).collect() });
        window.out.push_back(batch);
        // Under the lock: offers are answered in their order.
        self.offers.try_send(BackupFrame { body: Some(offer) }).map_err(|_| ended())
    }

    /// Waits until everything put has been answered and sent.
    pub fn finish(&self) -> Result<(), BlobError> {
        let mut window = self.window.lock();
        self.offer(&mut window)?;
        while !window.out.is_empty() && !window.closed {
            self.moved.wait(&mut window);
        }
        if window.closed { Err(ended()) } else { Ok(()) }
    }

    /// The site's answer to the oldest offer: sends what it lacks.
    pub async fn answered(&self, needed: &BackupNeeded, frames: &mpsc::Sender<BackupFrame>) -> Result<()> {
        let offer =
            self.window.lock().out.front().cloned().context("the site answered what was not offered")?;
        for n in &needed.blobs {
            let blob = offer.get(*n as usize).context("the site asked for what was not offered")?;
            let blob = BackupBlob { tree: blob.0 == BlobKind::Tree, content: blob.2.clone() };
            let frame = BackupFrame { body: Some(backup::Body::Blob(blob)) };
            frames.send(frame).await.context("the session ended")?;
        }
        let mut window = self.window.lock();
        let answered = window.out.pop_front();
        ensure!(answered.is_some(), "the site answered twice");
        window.bytes -= offer.iter().map(|b| b.2.len()).sum::<usize>();
        self.moved.notify_all();
        Ok(())
    }
}

impl BlobSink for Sink {
    fn has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        Ok(match kind {
            BlobKind::Tree => BlobSink::has(&self.trees, kind, hash)?,
            BlobKind::File => self.window.lock().offered.contains(&(kind, *hash)),
        })
    }

    /// What the remembered tree names is there: the site looks after it when it takes the new one.
    fn still_has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        let Some((_, blobs)) = &self.previous else { return Ok(false) };
        if kind == BlobKind::Tree {
            let Ok(blob) = blobs.get(kind, hash) else { return Ok(false) };
            self.remember(*hash, &blob)?;
        }
        Ok(true)
    }

    fn put(&self, kind: BlobKind, hash: Hash, content: Bytes) -> Result<(), BlobError> {
        if kind == BlobKind::Tree {
            self.remember(hash, &content)?;
            if let Some((_, blobs)) = &self.previous
                && blobs.has(kind, &hash)?
            {
                return Ok(());
            }
        }
        let mut window = self.window.lock();
        while !window.closed
            && (window.out.len() >= BACKUP_OFFERS
                || (window.bytes > 0 && window.bytes + content.len() > BACKUP_WINDOW))
        {
            if window.out.is_empty() {
                self.offer(&mut window)?;
            }
            self.moved.wait(&mut window);
        }
        if window.closed {
            return Err(ended());
        }
        if window.offered.len() >= OFFERED {
            window.offered.clear();
        }
        // Not before it has its place: what names it must not overtake it.
        if !window.offered.insert((kind, hash)) {
            return Ok(());
        }
        window.bytes += content.len();
        window.batch_bytes += content.len();
        window.batch.push((kind, hash, content));
        if window.batch.len() >= BACKUP_OFFER || window.batch_bytes >= BATCH {
            self.offer(&mut window)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
