//! A directory in memory that fails on command and forgets what was not synced. For tests and simulation.
//!
//! Invariants: calls that change something or sync are counted from 1 in order; after a crash a file holds what it
//! held at its last sync, and the directory names what it named at its last sync.

use super::{LogFile, Storage};
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

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

type Files = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Default)]
struct Inner {
    now: Mutex<Files>,
    synced: Mutex<Files>,
    faults: Mutex<Vec<StorageFault>>,
    calls: Mutex<u64>,
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
        hit.map_or(Ok(()), |(errno, half)| Err((io::Error::from_raw_os_error(errno), half)))
    }

    fn simple(&self, call: StorageCall) -> io::Result<()> {
        self.count(call).map_err(|(e, _)| e)
    }
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

    /// What a power cut would leave: another storage with only what was synced.
    pub fn after_power_loss(&self) -> Self {
        self.copy(&self.0.synced.lock(), |c| &c.synced)
    }

    /// What the death of the process would leave: another storage with everything written.
    pub fn after_kill(&self) -> Self {
        self.copy(&self.0.now.lock(), |c| &c.now)
    }

    fn copy(&self, files: &Files, which: impl Fn(&Content) -> &Vec<u8>) -> Self {
        let files: Files = files
            .iter()
            .map(|(name, content)| {
                let bytes = which(&content.lock()).clone();
                (name.clone(), Arc::new(Mutex::new(Content { now: bytes.clone(), synced: bytes })))
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
        }
    }

    fn file(&self, content: &Arc<Mutex<Content>>) -> Arc<dyn LogFile> {
        Arc::new(MemoryFile { content: content.clone(), storage: self.0.clone() })
    }
}

impl Storage for MemoryStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        self.0.simple(StorageCall::Create)?;
        let mut files = self.0.now.lock();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = files.entry(name.into()).or_default().clone();
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
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.simple(StorageCall::Remove)?;
        self.0.now.lock().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.simple(StorageCall::SyncDir)?;
        *self.0.synced.lock() = self.0.now.lock().clone();
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
        let (data, result) = match self.storage.count(StorageCall::Write) {
            Ok(()) => (data, Ok(data.len())),
            Err((e, half)) => (&data[..if half { data.len() / 2 } else { 0 }], Err(e)),
        };
        let mut content = self.content.lock();
        let (from, to) = (offset as usize, offset as usize + data.len());
        if content.now.len() < to {
            content.now.resize(to, 0);
        }
        content.now[from..to].copy_from_slice(data);
        result
    }

    fn sync(&self) -> io::Result<()> {
        self.storage.simple(StorageCall::Sync)?;
        let mut content = self.content.lock();
        content.synced = content.now.clone();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.simple(StorageCall::SetLen)?;
        self.content.lock().now.resize(len as usize, 0);
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.storage.simple(StorageCall::Preallocate)?;
        let mut content = self.content.lock();
        if content.now.len() < len as usize {
            content.now.resize(len as usize, 0);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }
}
