//! Frames on their way out of the store: decoded once however many ask, kept in memory and in a file, read ahead.
//!
//! Invariants: bytes leave a [`Frames`] only after the chunk they belong to was proven by its id, or after the checksums
//! taken when it was proven agreed; memory and file are bounded; the file has no name, so it goes with the process.
//!
//! Decoding a frame for one small read costs the frame. So what was decoded stays, decoded, in a file that is as large as
//! the disk cache may be: from then on a small read costs a small read.

use crate::error::VaultError;
use crate::pack::FrameAt;
use bytes::Bytes;
use lifeboat_base::limits::{KIB, MIB};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A frame: its pack's number in the index, and where it is there.
pub(crate) type FrameKey = (u32, u32);

/// Room for one frame in the file.
const SLOT: usize = MIB;
/// What has a checksum of its own.
const PART: usize = 4 * KIB;

/// A chunk that was proven: its place in the frame, and the checksums of its parts.
type Proof = HashMap<u32, Arc<Vec<u32>>>;

struct Slot {
    key: FrameKey,
    used: u64,
    /// False while it is written: then it is nobody's to read and nobody's to take.
    ready: bool,
    proven: Proof,
}

/// Decoded frames in a file.
pub(crate) struct Spill {
    file: File,
    inner: Mutex<SpillInner>,
}

#[derive(Default)]
struct SpillInner {
    limit: usize,
    tick: u64,
    slots: Vec<Option<Slot>>,
    by_key: HashMap<FrameKey, usize>,
}

impl Spill {
    /// In an unnamed file of `dir`, at most `bytes` long.
    ///
    /// # Errors
    /// What the system reports.
    pub fn new(dir: &Path, bytes: u64) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        let file = options.clone().custom_flags(libc::O_TMPFILE).open(dir).or_else(|_| {
            // Not every file system can do it.
            let path = dir.join("chunks.cache");
            let _ = std::fs::remove_file(&path);
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path).map(|()| file)
        })?;
        let limit = usize::try_from(bytes).unwrap_or(usize::MAX) / SLOT;
        Ok(Self { file, inner: Mutex::new(SpillInner { limit, ..SpillInner::default() }) })
    }

    /// Keeps a frame. A full disk is no error here: there is less in the cache then.
    fn put(&self, key: FrameKey, raw: &[u8]) {
        if raw.len() > SLOT {
            return;
        }
        let Some(n) = self.inner.lock().take_slot(key) else { return };
        let written = self.file.write_all_at(raw, (n * SLOT) as u64);
        let mut inner = self.inner.lock();
        let found = inner.by_key.get(&key) == Some(&n);
        match &mut inner.slots[n] {
            Some(slot) if written.is_ok() && found => slot.ready = true,
            // Not written, or everything was forgotten meanwhile.
            slot => *slot = None,
        }
        if inner.slots[n].is_none() && found {
            inner.by_key.remove(&key);
        }
    }

    /// Reads `out` from `skip` bytes into the chunk of `len` bytes at `at` of a frame; false when it is not here, or is not
    /// what was put.
    fn read(
        &self,
        key: FrameKey,
        (at, len): (u32, u32),
        skip: usize,
        out: &mut [u8],
        proves: &dyn Fn(&[u8]) -> bool,
    ) -> bool {
        let (n, proof) = {
            let mut inner = self.inner.lock();
            let Some(n) = inner.by_key.get(&key).copied() else { return false };
            inner.tick += 1;
            let tick = inner.tick;
            let Some(slot) = inner.slots[n].as_mut().filter(|s| s.key == key && s.ready) else {
                return false;
            };
            slot.used = tick;
            (n, slot.proven.get(&at).cloned())
        };
        let base = (n * SLOT) as u64 + u64::from(at);
        let Some(proof) = proof else {
            let mut whole = vec![0; len as usize];
            if self.file.read_exact_at(&mut whole, base).is_err() || !proves(&whole) {
                self.inner.lock().forget(key, n);
                return false;
            }
            out.copy_from_slice(&whole[skip..skip + out.len()]);
            let sums = Arc::new(whole.chunks(PART).map(crc32c::crc32c).collect());
            let mut inner = self.inner.lock();
            if let Some(slot) = inner.slots[n].as_mut().filter(|s| s.key == key) {
                slot.proven.insert(at, sums);
            }
            return true;
        };
        // Whole parts, because they have the checksums.
        let first = skip / PART * PART;
        let last = (skip + out.len()).next_multiple_of(PART).min(len as usize);
        let mut parts = vec![0; last - first];
        let read = self.file.read_exact_at(&mut parts, base + first as u64).is_ok();
        let agree = parts.chunks(PART).zip(&proof[first / PART..]).all(|(p, sum)| crc32c::crc32c(p) == *sum);
        if read && agree {
            out.copy_from_slice(&parts[skip - first..skip - first + out.len()]);
        } else {
            self.inner.lock().forget(key, n);
        }
        read && agree
    }

    fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.by_key.clear();
        // One that is being written stays taken until that is over; its key leads nowhere then.
        inner.slots.iter_mut().filter(|s| s.as_ref().is_some_and(|s| s.ready)).for_each(|s| *s = None);
    }
}

impl SpillInner {
    /// What is there is not what was put.
    fn forget(&mut self, key: FrameKey, n: usize) {
        if self.slots[n].as_ref().is_some_and(|s| s.key == key) {
            self.slots[n] = None;
            if self.by_key.get(&key) == Some(&n) {
                self.by_key.remove(&key);
            }
        }
    }

    /// Takes a slot for a frame: a free one, or that which was not used for longest.
    fn take_slot(&mut self, key: FrameKey) -> Option<usize> {
        if self.by_key.contains_key(&key) {
            return None;
        }
        let free = self.slots.iter().position(Option::is_none);
        let n = match free {
            Some(n) => n,
            None if self.slots.len() < self.limit => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => {
                let used = |n: &usize| self.slots[*n].as_ref().filter(|s| s.ready).map(|s| s.used);
                (0..self.slots.len()).filter(|n| used(n).is_some()).min_by_key(used)?
            }
        };
        self.tick += 1;
        let slot = Slot { key, used: self.tick, ready: false, proven: HashMap::new() };
        if let Some(old) = self.slots[n].replace(slot) {
            self.by_key.remove(&old.key);
        }
        self.by_key.insert(key, n);
        Some(n)
    }
}

/// Frames in memory and in the file.
pub(crate) struct Frames {
    memory: Mutex<crate::cache::Lru<FrameKey, Bytes>>,
    spill: Option<Spill>,
    busy: Mutex<HashSet<FrameKey>>,
    done: Condvar,
}

impl Frames {
    pub fn new(memory: usize, spill: Option<Spill>) -> Self {
        Self {
            memory: Mutex::new(crate::cache::Lru::new(memory)),
            spill,
            busy: Mutex::default(),
            done: Condvar::new(),
        }
    }

    /// A frame's raw bytes; `decode` makes them, once for all who ask at a time. With `keep` the file gets them, too: for
    /// who reads less than a chunk and may come back. Who reads on and on would only fill the file.
    ///
    /// # Errors
    /// What `decode` says.
    pub fn get(
        &self,
        pack: u32,
        at: &FrameAt,
        keep: bool,
        decode: impl FnOnce() -> Result<Vec<u8>, VaultError>,
    ) -> Result<Bytes, VaultError> {
        let key = (pack, at.offset);
        let mut busy = self.busy.lock();
        loop {
            if let Some(raw) = self.memory.lock().get(&key) {
                return Ok(raw);
            }
            if busy.insert(key) {
                break;
            }
            self.done.wait(&mut busy);
        }
        drop(busy);
        let decoded = decode();
        if let Ok(raw) = &decoded
            && let Some(spill) = self.spill.as_ref().filter(|_| keep)
        {
            spill.put(key, raw);
        }
        let raw = decoded.map(Bytes::from);
        if let Ok(raw) = &raw {
            self.memory.lock().put(key, raw.clone(), raw.len());
        }
        self.busy.lock().remove(&key);
        self.done.notify_all();
        raw
    }

    /// Whether the frame is here, or on its way.
    pub fn has(&self, pack: u32, at: &FrameAt) -> bool {
        let key = (pack, at.offset);
        self.memory.lock().get(&key).is_some()
            || self.spill.as_ref().is_some_and(|s| s.inner.lock().by_key.contains_key(&key))
            || self.busy.lock().contains(&key)
    }

    /// Part of a chunk, where the file has its frame; see [`Spill::read`].
    pub fn read_part(
        &self,
        (pack, frame): (u32, u32),
        chunk: (u32, u32),
        skip: usize,
        out: &mut [u8],
        proves: &dyn Fn(&[u8]) -> bool,
    ) -> bool {
        self.spill.as_ref().is_some_and(|s| s.read((pack, frame), chunk, skip, out, proves))
    }

    pub fn clear(&self) {
        self.memory.lock().clear();
        if let Some(spill) = &self.spill {
            spill.clear();
        }
    }
}

#[cfg(test)]
mod tests;
