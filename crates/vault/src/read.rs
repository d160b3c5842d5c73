//! Reading content out of the vault.
//!
//! Invariants: what leaves here was proven by its id; a damaged or missing pack does not hide another, or another copy of
//! it, that has the chunk.

use crate::cache::Lru;
use crate::error::{StoreError, VaultError};
use crate::fetch::{Frames, Spill};
use crate::id::{ChunkId, ObjectName};
use crate::index::{PackInfo, Place};
use crate::map;
use crate::pack::{FrameAt, PackOpener};
use crate::refresh::Refreshed;
use crate::snapshot::pack_object;
use crate::store::Part;
use crate::vault::{Settings, Vault};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Frames kept decoded, in bytes: what was just read is soon read on.
const FRAMES: usize = 16 << 20;
/// Frames that wait to be read ahead; more are left out.
const AHEAD_QUEUE: usize = 32;
const AHEAD_THREADS: usize = 4;
/// Nodes of maps kept decoded, in bytes.
const NODES: usize = 32 << 20;
/// How long after a listing that did not help nobody lists again to read something.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Packs whose keys are kept.
const OPENERS: usize = 4096;

/// What was read and may be asked for again.
pub(crate) struct ReadCache {
    chunks: Mutex<Lru<ChunkId, Bytes>>,
    frames: Frames,
    nodes: Mutex<Lru<ChunkId, Arc<Vec<ChunkId>>>>,
    openers: RwLock<HashMap<u32, Arc<(PackOpener, ObjectName)>>>,
    ahead: OnceLock<SyncSender<Place>>,
    /// When packs were last listed for something that was not found all the same.
    in_vain: Mutex<Option<Duration>>,
}

impl ReadCache {
    /// The file is made beside the index; without it, or where that fails, there is memory only.
    pub fn new(settings: &Settings, index: Option<&Path>) -> Self {
        let spill = index.and_then(Path::parent).and_then(|dir| {
            let made = (settings.disk_cache > 0).then(|| Spill::new(dir, settings.disk_cache))?;
            made.inspect_err(|e| tracing::warn!("reading goes on without a cache in {}: {e}", dir.display()))
                .ok()
        });
        Self {
            chunks: Mutex::new(Lru::new(settings.cache_bytes)),
            frames: Frames::new(FRAMES, spill),
            nodes: Mutex::new(Lru::new(NODES)),
            openers: RwLock::default(),
            ahead: OnceLock::new(),
            in_vain: Mutex::default(),
        }
    }
}

/// Whether it tells of a place that is none any more.
fn is_stale(e: &VaultError) -> bool {
    matches!(e, VaultError::Store(StoreError::NotFound(_)) | VaultError::Index(_))
}

impl Vault {
    /// Content by its id.
    ///
    /// # Errors
    /// `Missing`, `Damaged`; what the store says.
    pub fn read(&self, id: &ChunkId) -> Result<Bytes, VaultError> {
        if let Some(content) = self.shared.cache.chunks.lock().get(id) {
            return Ok(content);
        }
        match self.read_anywhere(id) {
            // Another process may have packed it anew.
            Err(e) if is_stale(&e) => self.read_anew(id),
            other => other,
        }
    }

    /// Reads after another look at which packs there are; one look at a time, and none soon after one that did not help.
    fn read_anew(&self, id: &ChunkId) -> Result<Bytes, VaultError> {
        let mut in_vain = self.shared.cache.in_vain.lock();
        // Another reader may have looked while this one waited.
        let read = self.read_anywhere(id);
        let now = self.shared.clock.monotonic();
        if !read.as_ref().is_err_and(is_stale)
            || in_vain.is_some_and(|at| now.saturating_sub(at) < LOOK_AGAIN)
        {
            return read;
        }
        self.refresh_packs(&|_, _| (), &mut Refreshed::default())?;
        let read = self.read_anywhere(id);
        *in_vain = read.is_err().then(|| self.shared.clock.monotonic());
        read
    }

    fn read_anywhere(&self, id: &ChunkId) -> Result<Bytes, VaultError> {
        let mut failed = None;
        for place in self.places(id)? {
            match self.read_at(id, &place) {
                Ok(content) => {
                    self.shared.cache.chunks.lock().put(*id, content.clone(), content.len() + 128);
                    return Ok(content);
                }
                Err(e) => failed = Some(e),
            }
        }
        Err(failed.unwrap_or(VaultError::Missing(*id)))
    }

    /// Part of content of `len` bytes, from `skip` on.
    ///
    /// # Errors
    /// As [`read`](Self::read); `Damaged` when it has another length.
    pub(crate) fn read_part(
        &self,
        id: &ChunkId,
        len: usize,
        skip: usize,
        out: &mut [u8],
    ) -> Result<(), VaultError> {
        let cached = self.shared.cache.chunks.lock().get(id);
        if cached.is_none() {
            let proves = |content: &[u8]| self.content_id(&blake3::hash(content)) == *id;
            for p in self.places(id)?.iter().filter(|p| p.len as usize == len) {
                let (frame, chunk) = ((p.pack, p.frame.offset), (p.offset, p.len));
                if self.shared.cache.frames.read_part(frame, chunk, skip, out, &proves) {
                    return Ok(());
                }
            }
        }
        let content = match cached {
            Some(content) => content,
            None if self.copy_part(id, len, skip, out) => return Ok(()),
            None => self.read(id)?,
        };
        if content.len() != len {
            return Err(VaultError::damaged(format!("chunk {id}"), "it is no chunk of a disk"));
        }
        out.copy_from_slice(&content[skip..skip + out.len()]);
        Ok(())
    }

    /// Copies it out of the first frame that has it; whatever goes wrong is for [`read`](Self::read) to meet again.
    fn copy_part(&self, id: &ChunkId, len: usize, skip: usize, out: &mut [u8]) -> bool {
        let Ok(places) = self.places(id) else { return false };
        let Some(p) = places.iter().find(|p| p.len as usize == len) else { return false };
        let Ok(frame) = self.frame_kept(p.pack, &p.frame, out.len() < len) else { return false };
        let from = p.offset as usize;
        match frame.get(from..from.saturating_add(len)) {
            Some(content) if self.content_id(&blake3::hash(content)) == *id => {
                out.copy_from_slice(&content[skip..skip + out.len()]);
                true
            }
            _ => false,
        }
    }

    /// Content from one place of it.
    pub(crate) fn read_at(&self, id: &ChunkId, place: &Place) -> Result<Bytes, VaultError> {
        let proves = |content: &[u8]| self.content_id(&blake3::hash(content)) == *id;
        let mut content = vec![0; place.len as usize];
        let (frame, chunk) = ((place.pack, place.frame.offset), (place.offset, place.len));
        if self.shared.cache.frames.read_part(frame, chunk, 0, &mut content, &proves) {
            return Ok(content.into());
        }
        let frame = self.frame(place.pack, &place.frame)?;
        let (from, len) = (place.offset as usize, place.len as usize);
        let found = frame.get(from..from.saturating_add(len)).ok_or_else(|| {
            VaultError::Index("an entry does not fit its frame; make the index anew".into())
        })?;
        if proves(found) {
            // A copy: a slice would keep the whole frame in memory.
            return Ok(Bytes::copy_from_slice(found));
        }
        let name = &self.opener(place.pack)?.1;
        Err(VaultError::damaged(name, format!("what it holds as chunk {id} is something else")))
    }

    /// The raw bytes of a frame.
    pub(crate) fn frame(&self, pack: u32, at: &FrameAt) -> Result<Bytes, VaultError> {
        self.frame_kept(pack, at, false)
    }

    fn frame_kept(&self, pack: u32, at: &FrameAt, keep: bool) -> Result<Bytes, VaultError> {
        let s = &*self.shared;
        s.cache.frames.get(pack, at, keep, || {
            let opener = self.opener(pack)?;
            let part = Part::Range { offset: u64::from(at.offset), len: u64::from(at.stored) };
            let open = |sealed: Bytes| opener.0.frame(at, &mut Vec::from(sealed));
            let first = s.store.get(&opener.1, part).map_err(VaultError::from).and_then(open);
            match first {
                Err(e @ (VaultError::Damaged { .. } | VaultError::Store(StoreError::NotFound(_)))) => {
                    self.frame_from_copies(at, &opener, part).ok_or(e)
                }
                other => other,
            }
        })
    }

    /// Where there are several copies, the frame may be whole in another. Nothing is mended here: that needs the whole pack
    /// to be proven, which a repair does.
    fn frame_from_copies(
        &self,
        at: &FrameAt,
        opener: &(PackOpener, ObjectName),
        part: Part,
    ) -> Option<Vec<u8>> {
        let store = &self.shared.store;
        let raw = (0..store.copies()).find_map(|copy| {
            let sealed = store.get_copy(copy, &opener.1, part).ok()?;
            opener.0.frame(at, &mut Vec::from(sealed)).ok()
        })?;
        tracing::warn!("{}: one copy of it is damaged or missing, another is good: run a repair", opener.1);
        Some(raw)
    }

    /// Decodes what a reader will soon ask for, where nothing more urgent waits.
    pub(crate) fn read_ahead(&self, id: &ChunkId) {
        let Ok(places) = self.places(id) else { return };
        let Some(place) = places.first().filter(|p| !self.shared.cache.frames.has(p.pack, &p.frame)) else {
            return;
        };
        let queue = self.shared.cache.ahead.get_or_init(|| {
            let (queue, work) = sync_channel::<Place>(AHEAD_QUEUE);
            let work = Arc::new(Mutex::new(work));
            for _ in 0..AHEAD_THREADS {
                let (work, shared) = (Arc::clone(&work), Arc::downgrade(&self.shared));
                let go_on = move || {
                    loop {
                        let next = work.lock().recv();
                        let (Ok(place), Some(shared)) = (next, shared.upgrade()) else { return };
                        // Whoever needs it meets the error, if there is one.
                        let _ = Vault { shared }.frame(place.pack, &place.frame);
                    }
                };
                if let Err(e) = std::thread::Builder::new().name("vault-ahead".into()).spawn(go_on) {
                    tracing::warn!("nothing is read ahead: {e}");
                }
            }
            queue
        });
        let _ = queue.try_send(*place);
    }

    fn opener(&self, pack: u32) -> Result<Arc<(PackOpener, ObjectName)>, VaultError> {
        if let Some(opener) = self.shared.cache.openers.read().get(&pack) {
            return Ok(Arc::clone(opener));
        }
        let info = self
            .shared
            .index
            .pack(pack)?
            .ok_or_else(|| VaultError::Index(format!("it names pack {pack}, which it does not have")))?;
        let opener = Arc::new((self.open_pack(&info)?, pack_object(&info.id)));
        let mut openers = self.shared.cache.openers.write();
        if openers.len() >= OPENERS {
            openers.clear();
        }
        openers.insert(pack, Arc::clone(&opener));
        Ok(opener)
    }

    pub(crate) fn open_pack(&self, info: &PackInfo) -> Result<PackOpener, VaultError> {
        self.learn_generation(info.generation)?;
        let key = self.shared.keys.read().0.pack(info.generation, &info.id).ok_or(VaultError::WrongKey)?;
        Ok(PackOpener::new(&info.head(self.shared.id), &key))
    }

    /// Children of a map's node.
    pub(crate) fn node(&self, id: &ChunkId, level: u8) -> Result<Arc<Vec<ChunkId>>, VaultError> {
        if let Some(node) = self.shared.cache.nodes.lock().get(id) {
            return Ok(node);
        }
        let content = self.read(id)?;
        let children =
            map::decode(&content, level).map_err(|why| VaultError::damaged(format!("map node {id}"), why))?;
        let node = Arc::new(children);
        self.shared.cache.nodes.lock().put(*id, Arc::clone(&node), 32 * node.len() + 128);
        Ok(node)
    }

    /// Forgets what is in memory of packs, after some went or were brought back.
    pub fn drop_caches(&self) {
        self.shared.cache.chunks.lock().clear();
        self.shared.cache.frames.clear();
        self.shared.cache.nodes.lock().clear();
        self.shared.cache.openers.write().clear();
    }
}
