//! Brings a tree back.
//!
//! One thread makes directories, links and special files; writers fill the files. A directory gets its owner, permissions
//! and times when the last of its entries is in place.
//!
//! Invariants:
//! - Nothing is written outside of the target: a name from a tree is one component ([`tree`](crate::tree) says so), each
//!   is looked up in a directory that is held open, and none is followed when it is a symbolic link.
//! - A file appears under its name when it is complete, and never with other content than the backup's: what cannot be
//!   read whole and proven is named and left out.
//! - What is there already stays as it is, unless it was asked to be replaced; a directory with content is never removed.

mod folder;
mod verify;
mod write;

use crate::blob::{BlobKind, Hash};
use crate::reader::Tree;
use crate::report::{Monitor, Problems};
use crate::sys;
use crate::tree::{Entry, EntryKind, MAX_LEVELS};
use crate::wanted::Wanted;
use crate::{FilesError, show};
use folder::Folder;
use parking_lot::{Condvar, Mutex};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, mkdirat, unlinkat};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use write::Job;

/// Files waiting for a writer; each may keep a directory open.
const QUEUE: usize = 128;
/// Pieces of a file that are announced while it waits.
const ANNOUNCED: usize = 4;

/// What to bring back.
#[derive(Debug)]
pub struct RestoreOptions {
    /// Absolute paths within the tree; all of it when empty. They keep their directories.
    pub paths: Vec<Vec<u8>>,
    /// An existing directory.
    pub target: PathBuf,
    pub overwrite: bool,
    /// Reads everything back and compares.
    pub verify: bool,
    /// Threads that write.
    pub writers: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Restored {
    /// Entries but directories.
    pub files: u64,
    pub bytes: u64,
    /// Files compared with the tree afterwards.
    pub verified: u64,
    pub problems: (Vec<String>, u64),
}

/// The first name of a file that has several.
enum Link {
    UnderWay,
    /// Where it is, and which file that is.
    There {
        parent: Vec<u8>,
        name: Vec<u8>,
        id: (u64, u64),
        /// What it was restored as: see [`Entry::likeness`].
        like: Hash,
    },
}

struct Restore<'a> {
    tree: Tree<'a>,
    options: &'a RestoreOptions,
    monitor: &'a Monitor,
    root: OwnedFd,
    problems: Problems,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Make temporary names different, also from those of other restores.
    tag: u64,
    serial: AtomicU64,
    links: Mutex<HashMap<(u64, u64), Link>>,
    linked: Condvar,
    /// Owners cannot be set by this user; said once.
    not_root: AtomicBool,
    /// Names of attributes that could not be made what they were.
    stubborn: Mutex<HashSet<Vec<u8>>>,
}

/// Restores; single paths that cannot be brought back are in the report.
///
/// # Errors
/// When a path is not in the tree, the target cannot be used, or it is cancelled.
pub fn restore(tree: Tree<'_>, options: &RestoreOptions, monitor: &Monitor) -> Result<Restored, FilesError> {
    for path in &options.paths {
        tree.at(path)?;
    }
    let mut wanted = Wanted::of(&options.paths)?;
    wanted.whole |= options.paths.is_empty();
    let unusable = |e: Errno| FilesError::Path {
        path: options.target.display().to_string(),
        why: format!(
            "cannot be restored to: {e}; name a directory that is there, or one to be made in one that is"
        ),
    };
    // Only the last part of the path: a place that is not mounted is not made up.
    match rustix::fs::mkdir(&options.target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(unusable(e)),
    }
    let restore = Restore {
        tree,
        options,
        monitor,
        root: sys::open_root(&options.target).map_err(unusable)?,
        problems: Problems::default(),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        tag: RandomState::new().build_hasher().finish(),
        serial: AtomicU64::new(0),
        links: Mutex::default(),
        linked: Condvar::new(),
        not_root: AtomicBool::new(!rustix::process::geteuid().is_root()),
        stubborn: Mutex::default(),
    };
    let (jobs, queue) = sync_channel::<Job>(QUEUE);
    let queue = Mutex::new(queue);
    let walked = std::thread::scope(|scope| {
        for _ in 0..options.writers.max(1) {
            scope.spawn(|| restore.write_jobs(&queue));
        }
        let walked = restore.start(&wanted, &jobs);
        drop(jobs);
        walked
    });
    walked?;
    monitor.go_on()?;
    if let Err(e) = rustix::fs::syncfs(&restore.root) {
        restore.problems.add(options.target.to_string_lossy().as_bytes(), format!("cannot be synced: {e}"));
    }
    let verified = if options.verify { verify::verify(&restore, &wanted)? } else { 0 };
    Ok(Restored {
        files: restore.files.load(Ordering::Relaxed),
        bytes: restore.bytes.load(Ordering::Relaxed),
        verified,
        problems: restore.problems.take(),
    })
}

/// The part of `wanted` below a name; `None` when everything there is meant.
fn below<'w>(wanted: Option<&'w Wanted>, name: &[u8]) -> Option<&'w Wanted> {
    wanted.and_then(|w| w.children.get(name)).filter(|w| !w.whole)
}

impl Restore<'_> {
    fn start(&self, wanted: &Wanted, jobs: &SyncSender<Job>) -> Result<(), FilesError> {
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(|e| FilesError::Path {
            path: self.options.target.display().to_string(),
            why: e.to_string(),
        })?;
        let folder = Folder::new(Vec::new(), root, None, None);
        let wanted = (!wanted.whole).then_some(wanted);
        self.directory(&folder, &self.tree.root, wanted, 0, jobs)
    }

    /// Fills a directory. The folder is released at the end, whatever happens.
    fn directory(
        &self,
        folder: &Arc<Folder>,
        hash: &Hash,
        wanted: Option<&Wanted>,
        level: usize,
        jobs: &SyncSender<Job>,
    ) -> Result<(), FilesError> {
        if wanted.is_none() {
            self.tree.source.ahead(BlobKind::Tree, hash, 0);
        }
        let done = self.fill(folder, hash, wanted, level, jobs);
        folder.release(self);
        match done {
            // A damaged directory is named; its brothers are not touched by that.
            Err(FilesError::Cancelled) => Err(FilesError::Cancelled),
            Err(e) => {
                self.problems.add(&folder.path_of(b""), e);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn fill(
        &self,
        folder: &Arc<Folder>,
        hash: &Hash,
        wanted: Option<&Wanted>,
        level: usize,
        jobs: &SyncSender<Job>,
    ) -> Result<(), FilesError> {
        for entry in self.tree.entries(hash)? {
            let entry = entry?;
            self.monitor.go_on()?;
            if wanted.is_some_and(|w| !w.children.contains_key(&entry.name)) {
                continue;
            }
            match &entry.kind {
                EntryKind::Directory(hash) => {
                    if level >= MAX_LEVELS {
                        let why = format!("is more than {MAX_LEVELS} directories deep");
                        self.problems.add(&folder.path_of(&entry.name), why);
                        continue;
                    }
                    let wanted = below(wanted, &entry.name);
                    if let Some(child) = self.make_directory(folder, &entry, wanted.is_none()) {
                        self.directory(&child, hash, wanted, level + 1, jobs)?;
                    }
                }
                EntryKind::File(_) => self.file(folder, entry, jobs),
                _ => {
                    let made = self.special(folder, &entry);
                    self.count(folder, &entry, made);
                }
            }
        }
        Ok(())
    }

    fn count(&self, folder: &Folder, entry: &Entry, made: Result<(), String>) {
        match made {
            Ok(()) => {
                self.files.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(entry.size(), Ordering::Relaxed);
                self.monitor.file();
            }
            Err(why) => self.problems.add(&folder.path_of(&entry.name), why),
        }
    }

    /// Opens a directory, made if it has to be. `meant`: it is asked for itself, not only on the way to something.
    fn make_directory(&self, folder: &Arc<Folder>, entry: &Entry, meant: bool) -> Option<Arc<Folder>> {
        let (at, name) = (folder.fd.as_fd(), entry.name.as_slice());
        let path = folder.path_of(name);
        let made = match mkdirat(at, name, Mode::RWXU) {
            Err(Errno::EXIST) if !is_directory(folder, name) => {
                if !self.options.overwrite {
                    self.problems.add(&path, "something that is no directory is there already");
                    return None;
                }
                unlinkat(at, name, AtFlags::empty())
                    .and_then(|()| mkdirat(at, name, Mode::RWXU))
                    .map(|()| true)
            }
            Err(Errno::EXIST) => Ok(false),
            other => other.map(|()| true),
        };
        let opened = made.and_then(|made| Ok((made, sys::open_dir(at, name)?)));
        match opened {
            Ok((made, fd)) => {
                folder.hold();
                let meta = (made || (meant && self.options.overwrite)).then(|| entry.meta.clone());
                Some(Folder::new(path, fd, meta, Some(Arc::clone(folder))))
            }
            Err(e) => {
                self.problems.add(&path, format!("the directory cannot be made: {e}"));
                None
            }
        }
    }

    /// A file: written by a writer, or one more name of one that was written.
    fn file(&self, folder: &Arc<Folder>, entry: Entry, jobs: &SyncSender<Job>) {
        if let Some(link) = entry.link() {
            let mut links = self.links.lock();
            while matches!(links.get(&link), Some(Link::UnderWay)) {
                self.linked.wait(&mut links);
            }
            // A file that changed while its names were read is more than one, and so is a number that was given away again.
            if let Some(Link::There { parent, name, id, like }) = links.get(&link)
                && *like == entry.likeness()
            {
                let made = self.link(folder, &entry.name, parent, name, *id);
                drop(links);
                match made {
                    Ok(()) => {
                        self.files.fetch_add(1, Ordering::Relaxed);
                        self.monitor.file();
                        return;
                    }
                    // Not on one file system, for example: a file of its own then.
                    Err(why) => tracing::debug!(path = %show(&folder.path_of(&entry.name)), "no link: {why}"),
                }
            } else {
                links.insert(link, Link::UnderWay);
            }
        }
        self.announce(folder, &entry);
        folder.hold();
        let _ = jobs.send(Job { folder: Arc::clone(folder), entry });
    }

    /// Tells the source what a writer will read.
    fn announce(&self, folder: &Folder, entry: &Entry) {
        let EntryKind::File(content) = &entry.kind else { return };
        // What stays as it is is not read.
        if !self.options.overwrite && sys::stat(&folder.fd, &entry.name).is_ok() {
            return;
        }
        let kind = if content.depth == 0 { BlobKind::File } else { BlobKind::Tree };
        for piece in content.pieces.iter().take(ANNOUNCED) {
            if let Some(hash) = &piece.hash {
                self.tree.source.ahead(kind, hash, if content.depth == 0 { piece.len } else { 0 });
            }
        }
    }

    fn temporary(&self) -> Vec<u8> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!(".lifeboat-{:016x}-{serial}", self.tag).into_bytes()
    }

    /// Puts what has been made under a temporary name in its place.
    fn place(&self, folder: &Folder, temporary: &[u8], name: &[u8]) -> Result<(), String> {
        let at = folder.fd.as_fd();
        let moved = if self.options.overwrite {
            match rustix::fs::renameat(at, temporary, at, name) {
                // An empty directory may give way; one with content may not.
                Err(Errno::ISDIR) => unlinkat(at, name, AtFlags::REMOVEDIR)
                    .and_then(|()| rustix::fs::renameat(at, temporary, at, name)),
                other => other,
            }
        } else {
            keep_both(folder, temporary, name)
        };
        // A second name of the same file is not moved by the kernel, and not an error to it.
        let _ = unlinkat(at, temporary, AtFlags::empty());
        moved.map_err(|e| match e {
            Errno::EXIST if self.options.overwrite => "a directory with content is in its place".into(),
            Errno::NOTEMPTY => "a directory with content is in its place; remove it first".into(),
            Errno::EXIST => {
                "is there already; it stays as it is (restore with --overwrite replaces it)".into()
            }
            e => format!("cannot be put in place: {e}"),
        })
    }
}

/// Moves without replacing anything.
fn keep_both(folder: &Folder, temporary: &[u8], name: &[u8]) -> Result<(), Errno> {
    let at = folder.fd.as_fd();
    match rustix::fs::renameat_with(at, temporary, at, name, rustix::fs::RenameFlags::NOREPLACE) {
        // A file system that cannot promise it; a second name can.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::linkat(at, temporary, at, name, AtFlags::empty()),
        other => other,
    }
}

fn is_directory(folder: &Folder, name: &[u8]) -> bool {
    sys::stat(&folder.fd, name).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests;
