//! A directory in memory that fails on command and forgets what was not synced. For tests and simulation.
//!
//! Invariants: calls that change something or sync are counted from 1 in order; after a power cut a file holds what it
//! held at its last sync, and of each later change all, nothing or some sectors; a write whose sync failed is gone with the
//! power, whatever is synced later; the directory is as it was at its last
//! sync or after some number of the changes since.

use super::{LogFile, Storage};
use lifeboat_base::Entropy;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Kinds of counted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageCall {
    Create,
    Write,
    Sync,
    SetLen,
    Preallocate,
    Rename,
    Remove,
    SyncDir,
}

/// An order to fail.
#[derive(Debug, Clone, Copy)]
pub struct StorageFault {
    /// Only calls of this kind count; `None` counts all.
    pub call: Option<StorageCall>,
    /// Which of them fails, counted from 1 from now.
    pub nth: u64,
    /// Whether all after it fail too.
    pub forever: bool,
    /// The error number, as in `errno(3)`.
    pub errno: i32,
    /// A failing write stores half of its bytes first: the short write before a full disk.
    pub half: bool,
}

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

const ENOSPC: i32 = 28;

/// A change of a file that was not synced yet.
#[derive(Debug)]
enum Change {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    Len(usize),
    /// At least this long.
    Room(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(bytes, *offset, data),
            Self::Len(len) => bytes.resize(*len, 0),
            Self::Room(len) => bytes.resize(bytes.len().max(*len), 0),
        }
    }

    /// Only the sectors that chance picks.
    fn apply_torn(&self, bytes: &mut Vec<u8>, entropy: &dyn Entropy) {
        let Self::Write { offset, data } = self else { return self.apply(bytes) };
        let mut at = 0;
        while at < data.len() {
            let sector = SECTOR - (offset + at) % SECTOR;
            let end = (at + sector).min(data.len());
            if entropy.next_u64() & 1 == 0 {
                put(bytes, offset + at, &data[at..end]);
            }
            at = end;
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// What leads from one to the other, in order.
    changes: Vec<Change>,
}

impl Content {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    /// What a disk that loses its power may keep.
    fn torn(&self, entropy: &dyn Entropy) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let all = self.changes.len();
        let kept = (entropy.next_u64() % (all as u64 + 1)) as usize;
        match entropy.next_u64() % 4 {
            0 => {}
            1 => self.changes.iter().for_each(|c| c.apply(&mut bytes)),
            // In order, the last one torn.
            2 => {
                self.changes[..kept].iter().for_each(|c| c.apply(&mut bytes));
                if let Some(torn) = self.changes.get(kept) {
                    torn.apply_torn(&mut bytes, entropy);
                }
            }
            // In any order.
            _ => {
                for c in &self.changes {
                    match entropy.next_u64() % 3 {
                        0 => {}
                        1 => c.apply(&mut bytes),
                        _ => c.apply_torn(&mut bytes, entropy),
                    }
                }
            }
        }
        bytes
    }
}

type Files = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Default)]
struct Inner {
    now: Mutex<Files>,
    synced: Mutex<Files>,
    /// The directory after each change since its last sync.
    since: Mutex<Vec<Files>>,
    capacity: Mutex<Option<u64>>,
    faults: Mutex<Vec<StorageFault>>,
    calls: Mutex<u64>,
    failures: Mutex<u64>,
    locked: Arc<AtomicBool>,
}

/// Clones share the same files.
#[derive(Clone, Default)]
pub struct MemoryStorage(Arc<Inner>);

struct MemoryFile {
    content: Arc<Mutex<Content>>,
    storage: Arc<Inner>,
}

struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Inner {
    /// Counts a call; `Err` when it shall fail, with whether half of a write is stored.
    fn count(&self, call: StorageCall) -> Result<(), (io::Error, bool)> {
        *self.calls.lock() += 1;
        let mut hit = None;
        self.faults.lock().retain_mut(|f| {
            if f.call.is_some_and(|c| c != call) {
                return true;
            }
            f.nth = f.nth.saturating_sub(1);
            if f.nth == 0 {
                hit.get_or_insert((f.errno, f.half));
            }
            f.nth > 0 || f.forever
        });
        let Some((errno, half)) = hit else { return Ok(()) };
        *self.failures.lock() += 1;
        Err((io::Error::from_raw_os_error(errno), half))
    }

    fn simple(&self, call: StorageCall) -> io::Result<()> {
        self.count(call).map_err(|(e, _)| e)
    }

    /// Bytes there is room for.
    fn room(&self) -> u64 {
        let Some(capacity) = *self.capacity.lock() else { return u64::MAX };
        let files: Vec<_> = self.now.lock().values().cloned().collect();
        let used: u64 = files.iter().map(|c| c.lock().now.len() as u64).sum();
        capacity.saturating_sub(used)
    }

    /// The directory was changed.
    fn changed(&self, files: &Files) {
        self.since.lock().push(files.clone());
    }
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(ENOSPC)
}

impl MemoryStorage {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives an order.
    pub fn fail(&self, fault: StorageFault) {
        self.0.faults.lock().push(fault);
    }

    /// Takes back all orders.
    pub fn heal(&self) {
        self.0.faults.lock().clear();
    }

    /// Counted calls so far, failed ones included.
    pub fn calls(&self) -> u64 {
        *self.0.calls.lock()
    }

    /// Calls that failed on order so far.
    pub fn failures(&self) -> u64 {
        *self.0.failures.lock()
    }

    /// Bytes all files may have together; `None` for no bound. What is there already stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        *self.0.capacity.lock() = bytes;
    }

    /// Bytes all files have together.
    pub fn used(&self) -> u64 {
        self.0.now.lock().values().map(|c| c.lock().now.len() as u64).sum()
    }

    /// What a power cut would leave at worst: another storage with only what was synced.
    pub fn after_power_loss(&self) -> Self {
        self.copy(&self.0.synced.lock(), |c| c.synced.clone())
    }

    /// What a power cut may leave: of what was not synced each file keeps nothing, all, the first changes, or any of
    /// them, whole or torn at sectors of 512 bytes. The directory keeps the first of its changes.
    pub fn after_torn_power_loss(&self, entropy: &dyn Entropy) -> Self {
        let files = {
            let since = self.0.since.lock();
            match (entropy.next_u64() % (since.len() as u64 + 1)) as usize {
                0 => self.0.synced.lock().clone(),
                n => since[n - 1].clone(),
            }
        };
        self.copy(&files, |c| c.torn(entropy))
    }

    /// What the death of the process would leave: another storage with everything written.
    pub fn after_kill(&self) -> Self {
        self.copy(&self.0.now.lock(), |c| c.now.clone())
    }

    fn copy(&self, files: &Files, which: impl Fn(&Content) -> Vec<u8>) -> Self {
        let files: Files = files
            .iter()
            .map(|(name, content)| {
                let bytes = which(&content.lock());
                let content = Content { now: bytes.clone(), synced: bytes, changes: Vec::new() };
                (name.clone(), Arc::new(Mutex::new(content)))
            })
            .collect();
        let copy = Self::new();
        *copy.0.now.lock() = files.clone();
        *copy.0.synced.lock() = files;
        copy
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.0.now.lock().get(name).map(|c| c.lock().now.clone())
    }

    /// Changes a file behind everybody's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = self.0.now.lock().get(name) {
            let mut content = content.lock();
            change(&mut content.now);
            content.synced = content.now.clone();
            content.changes.clear();
        }
    }

    fn file(&self, content: &Arc<Mutex<Content>>) -> Arc<dyn LogFile> {
        Arc::new(MemoryFile { content: content.clone(), storage: self.0.clone() })
    }
}

impl Storage for MemoryStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        self.0.simple(StorageCall::Create)?;
        if self.0.room() == 0 {
            return Err(full());
        }
        let mut files = self.0.now.lock();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = files.entry(name.into()).or_default().clone();
        self.0.changed(&files);
        drop(files);
        Ok(self.file(&content))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let files = self.0.now.lock();
        files.get(name).map(|c| self.file(c)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.now.lock().keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.simple(StorageCall::Rename)?;
        let mut files = self.0.now.lock();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), content);
        self.0.changed(&files);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.simple(StorageCall::Remove)?;
        let mut files = self.0.now.lock();
        files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        self.0.changed(&files);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.simple(StorageCall::SyncDir)?;
        *self.0.synced.lock() = self.0.now.lock().clone();
        self.0.since.lock().clear();
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        if self.0.locked.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        Ok(Some(Box::new(Held(self.0.locked.clone()))))
    }
}

impl LogFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let from = content.now.len().min(offset as usize);
        let n = buf.len().min(content.now.len() - from);
        buf[..n].copy_from_slice(&content.now[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let (mut data, mut result) = match self.storage.count(StorageCall::Write) {
            Ok(()) => (data, Ok(data.len())),
            Err((e, half)) => (&data[..if half { data.len() / 2 } else { 0 }], Err(e)),
        };
        let room = self.storage.room();
        let mut content = self.content.lock();
        let most = (content.now.len() as u64).saturating_add(room).saturating_sub(offset);
        if (data.len() as u64) > most {
            // As a file system does: what fits first, the error with the next call.
            data = &data[..most as usize];
            result = result.and_then(|_| if data.is_empty() { Err(full()) } else { Ok(data.len()) });
        }
        if !data.is_empty() {
            content.change(Change::Write { offset: offset as usize, data: data.to_vec() });
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let counted = self.storage.simple(StorageCall::Sync);
        let mut content = self.content.lock();
        match &counted {
            Ok(()) => content.sync(),
            // As Linux does: what could not be written counts as written, reads back, and is never tried again.
            Err(_) => content.changes.retain(|c| !matches!(c, Change::Write { .. })),
        }
        counted
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.simple(StorageCall::SetLen)?;
        self.content.lock().change(Change::Len(len as usize));
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.storage.simple(StorageCall::Preallocate)?;
        let room = self.storage.room();
        let mut content = self.content.lock();
        if len.saturating_sub(content.now.len() as u64) > room {
            return Err(full());
        }
        if content.now.len() < len as usize {
            content.change(Change::Room(len as usize));
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }
}

#[cfg(test)]
mod tests;
