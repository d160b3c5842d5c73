//! A store in a local directory.
//!
//! - What [`put_new`](Store::put_new) returned for is on the disk: the file is written and synced under another name, linked
//!   to its own (which fails where the name is taken), and the directory is synced; so are directories made for it.
//! - A failed sync is never asked again and then believed: what it was about is taken away, and the next try writes anew.
//! - A deletion is on the disk, too, before it is reported: what is deleted first is never there again after what was deleted
//!   later is gone.
//! - A directory that went away (a disk not mounted) is [`Unreachable`](StoreError::Unreachable), never empty.
//!
//! ```text
//! ROOT/            0700
//!   .tmp/          made once; files being written, locked by their writer. Its absence means: not the store's directory
//!   vault          an object: its name is its path; 0400
//!   packs/3f/…
//! ```

use super::{ObjectInfo, Part, Put, Store};
use crate::error::StoreError;
use crate::id::ObjectName;
use bytes::Bytes;
use lifeboat_base::limits;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const TMP: &str = ".tmp";

/// How often a put begins again because somebody took its unfinished file for a leftover.
const TRIES: usize = 4;

/// Objects as files of one directory.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    name: String,
    /// Directories whose own entries are known to be on the disk.
    synced: Mutex<HashSet<PathBuf>>,
    next: AtomicU64,
}

impl DirStore {
    /// Makes the directory and what is above it, where they are not there, and opens it.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::named(root.into());
        let made = store.make_dirs(&store.root.join(TMP));
        made.map_err(|e| StoreError::from_io(&store.name, None, &e))?;
        store.reap()?;
        Ok(store)
    }

    /// Opens a directory [`create`](Self::create) made, and takes away what a crash left unfinished in it.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] where it is not there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::named(root.into());
        store.present()?;
        store.reap()?;
        Ok(store)
    }

    fn named(root: PathBuf) -> Self {
        let name = root.display().to_string();
        Self { root, name, synced: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// Whether the directory is there.
    fn present(&self) -> Result<(), StoreError> {
        match fs::metadata(self.root.join(TMP)) {
            Ok(_) => Ok(()),
            Err(e) if is_absent(&e) => Err(StoreError::Unreachable {
                store: self.name.clone(),
                why: format!("there is no store in it ({TMP} is missing); is its disk mounted?"),
            }),
            Err(e) => Err(StoreError::from_io(&self.name, None, &e)),
        }
    }

    fn error(&self, name: &ObjectName, e: &io::Error) -> StoreError {
        if is_absent(e) {
            return self.present().err().unwrap_or_else(|| StoreError::NotFound(name.clone()));
        }
        StoreError::from_io(&self.name, Some(name), e)
    }

    fn path(&self, name: &ObjectName) -> Result<PathBuf, StoreError> {
        if name.as_str().split('/').next() == Some(TMP) {
            return Err(StoreError::Broken {
                store: self.name.clone(),
                why: format!("{name} is a name the store uses itself"),
            });
        }
        Ok(self.root.join(name.as_str()))
    }

    /// Makes a directory and those above it, and leaves their entries on the disk. One that is there already may have
    /// been made a moment ago by somebody who has not synced it: it is synced, too, once in this process.
    fn make_dirs(&self, dir: &Path) -> io::Result<()> {
        if self.synced.lock().contains(dir) {
            return Ok(());
        }
        let mut missing = Vec::new();
        let mut at = dir;
        while !at.is_dir() {
            missing.push(at);
            match at.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => at = parent,
                _ => break,
            }
        }
        for new in missing.iter().rev() {
            match DirBuilder::new().mode(0o700).create(new) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => sync_parent(new)?,
            }
        }
        for within in dir.ancestors().take_while(|d| d.starts_with(&self.root)) {
            sync_parent(within)?;
        }
        self.synced.lock().insert(dir.to_path_buf());
        Ok(())
    }

    /// A new file of its own, locked so that nobody takes it for a leftover.
    fn tmp_file(&self) -> io::Result<(PathBuf, File)> {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join(TMP).join(format!("{}-{n}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    // Where the file system has no locks nothing is reaped either.
                    let _ = flock(&file, FlockOperation::LockExclusive);
                    return Ok((path, file));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes, syncs and links. `Ok(None)` when the unfinished file was taken away by somebody.
    fn write(&self, to: &Path, body: &[u8]) -> io::Result<Option<Put>> {
        let (tmp, mut file) = self.tmp_file()?;
        let linked = (|| {
            file.write_all(body)?;
            file.set_permissions(fs::Permissions::from_mode(0o400))?;
            file.sync_all()?;
            fs::hard_link(&tmp, to)
        })();
        let gone = matches!(&linked, Err(e) if is_absent(e)) && !tmp.exists();
        let _ = fs::remove_file(&tmp);
        match linked {
            Ok(()) => {
                if let Err(e) = sync_parent(to) {
                    // It may or may not be on the disk: it must not be found by the next try.
                    let _ = fs::remove_file(to);
                    return Err(e);
                }
                Ok(Some(Put::Created))
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Some(Put::Exists)),
            Err(_) if gone => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the object that is there holds these bytes. If so they are on the disk afterwards: its writer may have
    /// been about to see to that.
    fn holds(&self, path: &Path, body: &[u8]) -> io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() != body.len() as u64 {
            return Ok(false);
        }
        let mut there = vec![0; body.len()];
        file.read_exact_at(&mut there, 0)?;
        if there != body {
            return Ok(false);
        }
        file.sync_all()?;
        sync_parent(path)?;
        Ok(true)
    }

    fn read(&self, path: &Path, part: Part) -> io::Result<Bytes> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let range = part.within(found.len());
        let len = range.end - range.start;
        if len > limits::MAX_OBJECT {
            return Err(io::Error::other(format!("{len} bytes of it are more than an object has")));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    /// Every directory and object below `dir`, whose names begin with `name` and a slash, until `found` breaks.
    fn walk(
        &self,
        dir: PathBuf,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut todo = vec![dir];
        while let Some(dir) = todo.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                let Some(name) = self.name_of(&path) else { continue };
                let kind = entry.file_type()?;
                let (text, wanted) = (name.as_str(), prefix.len().min(name.as_str().len()));
                if kind.is_dir() && text[..wanted] == prefix[..wanted] {
                    todo.push(path);
                } else if kind.is_file() && text.starts_with(prefix) {
                    let size = match entry.metadata() {
                        Ok(metadata) => metadata.len(),
                        Err(e) if is_absent(&e) => continue,
                        Err(e) => return Err(e),
                    };
                    if found(ObjectInfo { name, size }).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The object's name a path stands for; `None` for what the store did not make.
    fn name_of(&self, path: &Path) -> Option<ObjectName> {
        let text = path.strip_prefix(&self.root).ok()?.to_str()?;
        if text.split('/').next() == Some(TMP) { None } else { ObjectName::new(text) }
    }
}

impl Store for DirStore {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        let path = self.path(name)?;
        // Before any directory is made: a disk that is not mounted gets nothing written below its mount point.
        self.present()?;
        let put = || -> io::Result<Put> {
            if let Some(parent) = path.parent() {
                self.make_dirs(parent)?;
            }
            for _ in 0..TRIES {
                match self.write(&path, &body)? {
                    Some(Put::Exists) => match self.holds(&path, &body) {
                        Ok(same) => return Ok(if same { Put::Created } else { Put::Exists }),
                        // Deleted meanwhile.
                        Err(e) if is_absent(&e) => {}
                        Err(e) => return Err(e),
                    },
                    Some(Put::Created) => return Ok(Put::Created),
                    None => {}
                }
            }
            Err(io::Error::other("somebody else keeps taking away what is being written"))
        };
        put().map_err(|e| match self.error(name, &e) {
            StoreError::NotFound(_) => StoreError::Broken { store: self.name.clone(), why: e.to_string() },
            other => other,
        })
    }

    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        self.read(&self.path(name)?, part).map_err(|e| self.error(name, &e))
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        let found = fs::metadata(self.path(name)?).map_err(|e| self.error(name, &e))?;
        if found.is_file() { Ok(found.len()) } else { Err(StoreError::NotFound(name.clone())) }
    }

    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.present()?;
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        // Only a name of ours may lead into the file system.
        let start = match (dir, ObjectName::new(dir)) {
            ("", _) => self.root.clone(),
            (_, Some(dir)) => self.path(&dir)?,
            (_, None) => return Ok(()),
        };
        self.walk(start, prefix, found).map_err(|e| StoreError::from_io(&self.name, None, &e))
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let deleted = match fs::remove_file(&path) {
            Ok(()) => sync_parent(&path),
            Err(e) if is_absent(&e) => return self.present(),
            Err(e) => Err(e),
        };
        deleted.map_err(|e| self.error(name, &e))
    }

    /// Files nobody writes any more: their writer's lock is gone.
    fn reap(&self) -> Result<u64, StoreError> {
        let failed = |e: io::Error| StoreError::from_io(&self.name, None, &e);
        let mut reaped = 0;
        for entry in fs::read_dir(self.root.join(TMP)).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_file(&path).map_err(failed)?;
                reaped += 1;
            }
        }
        Ok(reaped)
    }
}

/// Nothing has that name. A part of the name that is a file has nothing below it.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
