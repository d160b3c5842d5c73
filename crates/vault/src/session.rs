//! Writing: a session makes one snapshot.
//!
//! Invariants: the session is announced before it looks anything up; a snapshot is put in place after every pack it
//! needs, so none ever names what is not there; where a pruner was first, or anything failed, there is no snapshot.
//!
//! ```text
//! put ── hash, look up ──> frame ──queue──> workers: zstd, seal into the open pack ──queue──> uploader: store, index
//! ```
//! Queues are short, so what is in memory is bounded: frames under way, one open pack of each kind, packs being stored.

use crate::error::{StoreError, VaultError};
use crate::id::{ChunkId, PackId, SnapshotId};
use crate::map::MapWriter;
use crate::object::ObjectType;
use crate::pack::{Codec, FrameEntry, Kind, PackHead, PackWriter};
use crate::snapshot::{
    DiskMap, Owner, SessionWire, Snapshot, SnapshotBody, Stats, pack_object, session_object,
};
use crate::store::Put;
use crate::vault::Vault;
use bytes::Bytes;
use lifeboat_base::aead::TAG;
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Frames that wait for a worker.
const FRAMES: usize = 4;
/// Raw bytes at which a frame of nodes is full: one is read at a time.
const META_FRAME: usize = 128 << 10;
/// Packs that wait to be stored, besides the one that is.
const PACKS: usize = 1;
/// Where compression saves less than a thirty-second part, reading is made faster without it.
const WORTH: usize = 32;

struct Frame {
    kind: Kind,
    chunks: Vec<(ChunkId, Bytes)>,
    raw: usize,
}

/// A pack that is full.
type Full = (PackHead, Vec<u8>, Vec<FrameEntry>);

/// What the session's threads share.
struct Pipe {
    session: SnapshotId,
    vault: Vault,
    open: [Mutex<Option<PackWriter>>; 2],
    failed: AtomicBool,
    why: Mutex<Option<VaultError>>,
    added: AtomicU64,
    /// Chunks this session has put and the index has not yet.
    put: Mutex<HashSet<[u8; 16]>>,
}

impl Pipe {
    /// Whether it is on its way into the vault, or there. In this order: what leaves the one is in the other before.
    fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        Ok(self.put.lock().contains(&id.short()) || self.vault.has(id)?)
    }

    fn fail(&self, e: VaultError) {
        self.why.lock().get_or_insert(e);
        self.failed.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<(), VaultError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let why = self.why.lock().take();
        Err(why.unwrap_or_else(|| VaultError::Fenced("an earlier step of it failed".into())))
    }
}

/// What waits for its frame to be full.
#[derive(Default)]
struct Waiting {
    data: (Vec<(ChunkId, Bytes)>, usize),
    meta: (Vec<(ChunkId, Bytes)>, usize),
    read: u64,
    new: u64,
}

/// See the module's text. Ends without a snapshot when it is dropped.
pub struct Session {
    vault: Vault,
    id: SnapshotId,
    owner: Owner,
    prune_epoch: u32,
    begun: Duration,
    waiting: Mutex<Waiting>,
    pipe: Arc<Pipe>,
    threads: Mutex<Threads>,
    /// A snapshot may still come to be of a put whose answer was lost: only a tombstone in its place ends that, and a
    /// pruner puts it where it finds the announcement.
    unsure: bool,
}

impl Session {
    pub(crate) fn begin(vault: &Vault, owner: Owner) -> Result<Self, VaultError> {
        let s = &*vault.shared;
        let id = SnapshotId::random(&*s.entropy);
        let (owner_kind, bytes) = owner.to_wire();
        let prune_epoch = s.state.read().prune_epoch;
        let writer = s.index.writer()?.to_vec();
        let wire = SessionWire { owner_kind, owner: bytes, begun: s.clock.wall().0, prune_epoch, writer };
        let mut session = Self {
            vault: vault.clone(),
            id,
            owner,
            prune_epoch,
            begun: s.clock.monotonic(),
            waiting: Mutex::default(),
            pipe: Arc::new(Pipe {
                session: id,
                vault: vault.clone(),
                open: [Mutex::new(None), Mutex::new(None)],
                failed: AtomicBool::new(false),
                why: Mutex::new(None),
                added: AtomicU64::new(0),
                put: Mutex::default(),
            }),
            threads: Mutex::default(),
            unsure: false,
        };
        s.writing.lock().insert(id, HashSet::new());
        vault.put_object(&session_object(&id)?, ObjectType::Session, &wire.encode_to_vec())?;
        // After it was announced: a pruner whose plan is not seen here finds this session.
        session.prune_epoch = vault.catch_up_with_pruners()?;
        Ok(session)
    }

    pub fn id(&self) -> SnapshotId {
        self.id
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Makes sure the vault gets this content; gives its id. What the vault has is not stored again.
    ///
    /// # Errors
    /// What an earlier part of the session met, too: then there will be no snapshot.
    pub fn put(&self, kind: Kind, content: Bytes) -> Result<ChunkId, VaultError> {
        let hash = blake3::hash(&content);
        self.put_hashed(kind, &hash, content)
    }

    /// The same, where its BLAKE3 is known.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_hashed(&self, kind: Kind, hash: &blake3::Hash, content: Bytes) -> Result<ChunkId, VaultError> {
        self.pipe.check()?;
        if content.is_empty() || content.len() > crate::pack::MAX_FRAME {
            return Err(VaultError::Invalid(format!("{} bytes are no chunk", content.len())));
        }
        let id = self.vault.content_id(hash);
        let len = content.len();
        let full = {
            let mut w = self.waiting.lock();
            let w = &mut *w;
            w.read += len as u64;
            if self.pipe.has(&id)? {
                return Ok(id);
            }
            self.pipe.put.lock().insert(id.short());
            w.new += len as u64;
            let settings = &self.vault.shared.settings;
            let (chunks, raw, limit) = match kind {
                Kind::Data => (&mut w.data.0, &mut w.data.1, settings.frame_bytes),
                Kind::Meta => (&mut w.meta.0, &mut w.meta.1, settings.frame_bytes.min(META_FRAME)),
            };
            let over = *raw + len > limit && !chunks.is_empty();
            let before =
                over.then(|| Frame { kind, chunks: std::mem::take(chunks), raw: std::mem::take(raw) });
            chunks.push((id, content));
            *raw += len;
            let now = (chunks.len() >= settings.frame_chunks.min(crate::pack::MAX_FRAME_CHUNKS)
                || *raw >= limit)
                .then(|| Frame { kind, chunks: std::mem::take(chunks), raw: std::mem::take(raw) });
            [before, now]
        };
        full.into_iter().flatten().try_for_each(|frame| self.send(frame))?;
        Ok(id)
    }

    /// Whether the vault, or this session, has it already.
    ///
    /// # Errors
    /// `Index`.
    pub fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        self.pipe.has(id)
    }

    /// A map of a disk: what is not set is as in `base`, which is one of a snapshot in the vault.
    ///
    /// # Errors
    /// `Fenced` when that snapshot was forgotten: its nodes may go. What the store says.
    pub fn map(&self, base: Option<DiskMap>, size: u64) -> Result<MapWriter<'_>, VaultError> {
        if let Some(base) = base.filter(|b| !b.root.is_zero()) {
            self.check_base(&base)?;
        }
        Ok(MapWriter::new(self, base, size))
    }

    /// Nodes of a base are shared without being looked up, which is safe while a snapshot that was there after this
    /// session was announced has them: a pruner forgets snapshots before it says what will go.
    fn check_base(&self, base: &DiskMap) -> Result<(), VaultError> {
        let s = &*self.vault.shared;
        let with_it: Vec<_> = {
            let state = s.state.read();
            let has = |x: &&Arc<Snapshot>| x.body.disks.iter().any(|d| d.map == *base);
            state.snapshots.values().filter(has).cloned().collect()
        };
        for snapshot in with_it {
            let name = Snapshot::object(&snapshot.owner, &snapshot.id, &s.keys.read().0.id)?;
            match s.store.size(&name) {
                Ok(_) => return Ok(()),
                Err(StoreError::NotFound(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(VaultError::Fenced("the snapshot it builds on was forgotten".into()))
    }

    fn send(&self, frame: Frame) -> Result<(), VaultError> {
        let mut threads = self.threads.lock();
        let frames = match &threads.frames {
            Some(frames) => frames.clone(),
            None => threads.start(&self.pipe)?,
        };
        drop(threads);
        // Workers that are gone have said why.
        if frames.send(frame).is_err() {
            self.pipe.check()?;
        }
        Ok(())
    }

    /// Puts everything so far into the store; how much that took there.
    fn flush(&self) -> Result<u64, VaultError> {
        let rest = {
            let mut w = self.waiting.lock();
            let (data, meta) = (std::mem::take(&mut w.data), std::mem::take(&mut w.meta));
            [(Kind::Data, data), (Kind::Meta, meta)]
        };
        for (kind, (chunks, raw)) in rest {
            if !chunks.is_empty() {
                self.send(Frame { kind, chunks, raw })?;
            }
        }
        self.threads.lock().finish();
        self.pipe.check()?;
        Ok(self.pipe.added.load(Ordering::Acquire))
    }

    /// Puts the snapshot in place, once everything it needs is in the store.
    ///
    /// # Errors
    /// `Fenced` when somebody ended the session: begin another one; what the store says. Where the store did not answer it
    /// may be there all the same.
    pub fn commit(mut self, mut body: SnapshotBody) -> Result<Arc<Snapshot>, VaultError> {
        let added = self.flush()?;
        let s = &*self.vault.shared;
        {
            let w = self.waiting.lock();
            let took = s.clock.monotonic().saturating_sub(self.begun);
            let millis = took.as_millis() as u64;
            body.stats = Stats { read: w.read, new: w.new, added, millis, ..body.stats };
        }
        let snapshot =
            Snapshot { id: self.id, owner: self.owner.clone(), body, prune_epoch: self.prune_epoch };
        let text = snapshot.encode()?;
        let name = Snapshot::object(&self.owner, &self.id, &s.keys.read().0.id)?;
        self.unsure = true;
        let put = self.vault.put_object(&name, ObjectType::Snapshot, &text)?;
        self.unsure = false;
        if put == Put::Exists {
            return Err(VaultError::Fenced("a pruner did not wait for it; it has to begin anew".into()));
        }
        s.index.put_texts(&[(name.as_str().to_string(), text)])?;
        s.index.settle()?;
        let snapshot = Arc::new(snapshot);
        s.state.write().snapshots.insert(self.id, Arc::clone(&snapshot));
        Ok(snapshot)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.threads.lock().finish();
        self.vault.shared.writing.lock().remove(&self.id);
        if self.unsure {
            return;
        }
        // A pruner finds it otherwise, and waits.
        if let Ok(name) = session_object(&self.id)
            && let Err(e) = self.vault.shared.store.delete(&name)
        {
            tracing::debug!("{name} stays for the next prune: {e}");
        }
    }
}

#[derive(Default)]
struct Threads {
    frames: Option<SyncSender<Frame>>,
    workers: Vec<JoinHandle<()>>,
    packs: Option<SyncSender<Full>>,
    uploader: Option<JoinHandle<()>>,
    pipe: Option<Arc<Pipe>>,
}

impl Threads {
    fn start(&mut self, pipe: &Arc<Pipe>) -> Result<SyncSender<Frame>, VaultError> {
        let failed = VaultError::io("cannot start a thread");
        let spawn =
            |name: &str, f: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(f);
        let (frames, queue) = sync_channel(FRAMES);
        let (packs, full) = sync_channel(PACKS);
        let queue = Arc::new(std::sync::Mutex::new(queue));
        let workers = (0..pipe.vault.shared.settings.workers.max(1)).map(|_| {
            let (pipe, queue, packs) = (Arc::clone(pipe), Arc::clone(&queue), packs.clone());
            spawn("vault-seal", Box::new(move || seal_frames(&pipe, &queue, &packs)))
        });
        let workers = workers.collect::<Result<Vec<_>, _>>();
        let uploading = Arc::clone(pipe);
        let uploader = spawn("vault-store", Box::new(move || store_packs(&uploading, &full)));
        match (workers, uploader) {
            (Ok(workers), Ok(uploader)) => {
                *self = Self {
                    frames: Some(frames.clone()),
                    workers,
                    packs: Some(packs),
                    uploader: Some(uploader),
                    pipe: Some(Arc::clone(pipe)),
                };
                Ok(frames)
            }
            (Err(e), _) | (_, Err(e)) => Err(failed(e)),
        }
    }

    /// Waits until all that was sent is stored, or failed.
    fn finish(&mut self) {
        drop(self.frames.take());
        for worker in self.workers.drain(..) {
            if worker.join().is_err()
                && let Some(pipe) = &self.pipe
            {
                pipe.fail(VaultError::Fenced("sealing it died".into()));
            }
        }
        if let (Some(packs), Some(pipe)) = (self.packs.take(), &self.pipe) {
            for open in &pipe.open {
                if let Some(pack) = open.lock().take() {
                    let _ = packs.send(pack.finish());
                }
            }
        }
        if let Some(uploader) = self.uploader.take()
            && uploader.join().is_err()
            && let Some(pipe) = &self.pipe
        {
            pipe.fail(VaultError::Fenced("storing it died".into()));
        }
    }
}

/// A worker: compresses frames and seals them into the open pack of their kind.
fn seal_frames(pipe: &Pipe, queue: &std::sync::Mutex<Receiver<Frame>>, packs: &SyncSender<Full>) {
    let settings = &pipe.vault.shared.settings;
    let mut zstd = match zstd::bulk::Compressor::new(settings.level) {
        Ok(zstd) => zstd,
        Err(e) => return pipe.fail(VaultError::io("cannot compress")(e)),
    };
    let (mut raw, mut out) = (Vec::new(), Vec::new());
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(frame) = next else { return };
        if pipe.failed.load(Ordering::Acquire) {
            continue;
        }
        raw.clear();
        frame.chunks.iter().for_each(|(_, content)| raw.extend_from_slice(content));
        out.resize(zstd::zstd_safe::compress_bound(raw.len()), 0);
        let (stored, codec) = match zstd.compress_to_buffer(&raw, &mut out) {
            Ok(n) if n + raw.len() / WORTH < raw.len() => (&out[..n], Codec::Zstd),
            Ok(_) | Err(_) => (&raw[..], Codec::Raw),
        };
        let chunks = frame.chunks.iter().map(|(id, content)| (*id, content.len() as u32)).collect();
        let full = {
            let mut open = pipe.open[usize::from(frame.kind == Kind::Meta)].lock();
            let pack = match open.take() {
                Some(pack) => open.insert(pack),
                None => match new_pack(&pipe.vault, frame.kind) {
                    Ok(pack) => open.insert(pack),
                    Err(e) => return pipe.fail(e),
                },
            };
            pack.push(stored, codec, frame.raw as u32, chunks);
            let full = pack.len() + TAG >= settings.pack_bytes;
            if full { open.take() } else { None }
        };
        if let Some(pack) = full
            && packs.send(pack.finish()).is_err()
        {
            return;
        }
    }
}

pub(crate) fn new_pack(vault: &Vault, kind: Kind) -> Result<PackWriter, VaultError> {
    let s = &*vault.shared;
    let keys = s.keys.read();
    let head =
        PackHead { vault: s.id, id: PackId::random(&*s.entropy), kind, generation: keys.0.generation() };
    let key = keys.0.pack(head.generation, &head.id).ok_or(VaultError::WrongKey)?;
    Ok(PackWriter::new(head, &key))
}

/// Puts a finished pack into the store and the index; its size.
pub(crate) fn store_pack(vault: &Vault, (head, bytes, frames): Full) -> Result<u64, VaultError> {
    let size = bytes.len() as u64;
    let name = pack_object(&head.id);
    match vault.shared.store.put_new(&name, bytes.into())? {
        Put::Created => vault.shared.index.add_packs(&[(head, size, frames)])?,
        Put::Exists => {
            return Err(VaultError::damaged(&name, "something else is under its name, which is random"));
        }
    }
    Ok(size)
}

/// The uploader.
fn store_packs(pipe: &Pipe, full: &Receiver<Full>) {
    while let Ok(pack) = full.recv() {
        if pipe.failed.load(Ordering::Acquire) {
            continue;
        }
        // Known before it is in the index: no prune sees it without this.
        if let Some(packs) = pipe.vault.shared.writing.lock().get_mut(&pipe.session) {
            packs.insert(pack.0.id);
        }
        let chunks: Vec<[u8; 16]> = pack.2.iter().flat_map(|f| &f.chunks).map(|(id, _)| id.short()).collect();
        match store_pack(&pipe.vault, pack) {
            Ok(size) => {
                pipe.added.fetch_add(size, Ordering::AcqRel);
                let mut put = pipe.put.lock();
                for id in &chunks {
                    put.remove(id);
                }
            }
            Err(e) => pipe.fail(e),
        }
    }
}

#[cfg(test)]
mod tests;
