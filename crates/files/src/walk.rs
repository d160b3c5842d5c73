//! Walks directories into a tree.
//!
//! One thread goes through the directories and compares metadata with the previous tree; readers cut, hash and store the
//! files whose metadata changed. A directory is stored when the last of its entries is known.
//!
//! ```text
//!  walker: names, stat --unchanged--> entry in its slot ----+
//!             `--changed--> queue --> reader: cut, hash ----+--> last slot of a directory: store it,
//!                                                                its entry goes into its parent's slot
//! ```
//!
//! Invariants: a file counts as unchanged only when size, both times and inode are as they were and its content is still
//! in the store. A file that changed while it was read is named, kept as it was read, and never counts as unchanged; nor
//! does one that had changed just before: the next change may leave its times as they are.
//! Queue and open directories are bounded; what a failed store costs is the walk, never a tree with a hole.

mod node;
mod read;

use crate::blob::{BlobError, BlobKind, BlobSink, Hash};
use crate::exclude::Exclude;
use crate::reader::Tree;
use crate::report::{Monitor, Problems};
use crate::sys::{self, On};
use crate::tree::{Content, Directory, Entry, EntryKind, MAX_LEVELS, MAX_NAME, Meta, Origin, Piece, Time};
use crate::wanted::Wanted;
use crate::{FilesError, show};
use lifeboat_base::{Clock, WallTime};
use node::Node;
use parking_lot::Mutex;
use read::Job;
use rustix::fd::AsFd;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Most paths of one walk.
pub const MAX_PATHS: usize = 64;
/// Files waiting for a reader; each may keep a directory open.
const QUEUE: usize = 128;
/// Files with several names whose content is remembered, so that it is read once.
const LINKED: usize = 100_000;

/// What to walk.
#[derive(Debug)]
pub struct WalkOptions {
    /// Absolute; 1 to [`MAX_PATHS`].
    pub paths: Vec<PathBuf>,
    pub exclude: Exclude,
    /// Directories on which something is mounted are kept empty.
    pub one_file_system: bool,
    /// Threads that read.
    pub readers: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Walked {
    pub root: Hash,
    pub files: u64,
    pub directories: u64,
    /// Of all files.
    pub bytes: u64,
    /// Files whose content was read, and how much that was.
    pub files_read: u64,
    pub bytes_read: u64,
    /// What could not be read: the first of it, and how many.
    pub problems: (Vec<String>, u64),
}

/// Modification and change time.
type Times = (Time, Time);

/// Within this a file may change again and keep its change time: that of FAT, the longest there is, and a little.
const TICK: Duration = Duration::from_millis(2100);

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    bytes: AtomicU64,
    files_read: AtomicU64,
    bytes_read: AtomicU64,
}

/// The given paths that are there; the others are named.
fn given(options: &WalkOptions, problems: &Problems) -> Result<Vec<Vec<u8>>, FilesError> {
    if options.paths.is_empty() || options.paths.len() > MAX_PATHS {
        return Err(FilesError::Invalid(format!("a backup has 1 to {MAX_PATHS} paths")));
    }
    let (mut there, mut first, mut links) = (Vec::new(), None, Vec::new());
    for path in &options.paths {
        match rustix::fs::lstat(path.as_path()) {
            Ok(stat) => {
                there.push(resolved(path)?);
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    links.push(path);
                }
            }
            Err(e) => {
                first.get_or_insert_with(|| format!("{}: {e}", path.display()));
                problems.add(path.as_os_str().as_bytes(), e);
            }
        }
    }
    for link in links {
        let only = "only this symbolic link is kept";
        let why = match std::fs::canonicalize(link) {
            Ok(to) if there.iter().any(|t| to.starts_with(t)) => continue,
            Ok(to) => format!("{only}; give {} for what it leads to", to.display()),
            Err(_) => format!("{only}; what it leads to is not there"),
        };
        problems.add(link.as_os_str().as_bytes(), why);
    }
    match first {
        Some(why) if there.is_empty() => Err(FilesError::Invalid(format!("nothing to back up: {why}"))),
        _ => Ok(there.into_iter().map(|path| path.into_os_string().into_vec()).collect()),
    }
}

/// The path with the symbolic links on its way replaced; its last part stays what it is.
fn resolved(path: &Path) -> Result<PathBuf, FilesError> {
    if !path.is_absolute() {
        return Err(FilesError::Invalid(format!("{}: give absolute paths", path.display())));
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match std::fs::canonicalize(parent) {
            Ok(parent) => Ok(parent.join(name)),
            // It is named when the walk comes there.
            Err(_) => Ok(path.to_path_buf()),
        },
        (None, _) => Ok(path.to_path_buf()),
        (Some(_), None) => {
            Err(FilesError::Invalid(format!("{}: a path must not end in '..'", path.display())))
        }
    }
}

/// What a file was like when it was read.
#[derive(Clone)]
struct Linked {
    times: Times,
    content: Content,
    settled: bool,
}

struct Walk<'a> {
    options: &'a WalkOptions,
    previous: Option<Tree<'a>>,
    sink: &'a dyn BlobSink,
    monitor: &'a Monitor,
    clock: &'a dyn Clock,
    problems: Problems,
    counts: Counts,
    /// Content of files with several names, by device and inode.
    linked: Mutex<HashMap<(u64, u64), Linked>>,
    /// Ends the walk.
    fatal: Mutex<Option<FilesError>>,
    root: Mutex<Option<Hash>>,
}

/// Walks; `previous` is the tree of an earlier walk, whose unchanged files are not read again. `clock` is that of the file
/// systems: this host's.
///
/// # Errors
/// When the sink fails, none of the paths is there, or it is cancelled. The tree counts only when this succeeds.
pub fn walk(
    options: &WalkOptions,
    previous: Option<Tree<'_>>,
    sink: &dyn BlobSink,
    monitor: &Monitor,
    clock: &dyn Clock,
) -> Result<Walked, FilesError> {
    let problems = Problems::default();
    let wanted = Wanted::of(&given(options, &problems)?)?;
    let walk = Walk {
        options,
        previous,
        sink,
        monitor,
        clock,
        problems,
        counts: Counts::default(),
        linked: Mutex::default(),
        fatal: Mutex::default(),
        root: Mutex::default(),
    };
    let (jobs, queue) = sync_channel::<Job>(QUEUE);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..options.readers.max(1) {
            scope.spawn(|| walk.read_jobs(&queue));
        }
        walk.start(&wanted, &jobs);
        drop(jobs);
    });
    if let Some(fatal) = walk.fatal.into_inner() {
        return Err(fatal);
    }
    let Some(root) = walk.root.into_inner() else { return Err(FilesError::Cancelled) };
    let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
    let problems = walk.problems.take();
    Ok(Walked {
        root,
        files: count(&walk.counts.files),
        directories: count(&walk.counts.directories),
        bytes: count(&walk.counts.bytes),
        files_read: count(&walk.counts.files_read),
        bytes_read: count(&walk.counts.bytes_read),
        problems,
    })
}

/// Where the walker is.
#[derive(Clone, Copy)]
struct Here<'w> {
    /// `None` below a given path: everything.
    wanted: Option<&'w Wanted>,
    device: u64,
    level: usize,
}

impl Walk<'_> {
    fn fail(&self, error: FilesError) {
        self.fatal.lock().get_or_insert(error);
    }

    fn over(&self) -> bool {
        if self.monitor.is_cancelled() {
            self.fail(FilesError::Cancelled);
        }
        self.fatal.lock().is_some()
    }

    fn start(&self, wanted: &Wanted, jobs: &SyncSender<Job>) {
        let opened = sys::open_root(Path::new("/")).and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok(o) => o,
            Err(e) => return self.fail(FilesError::Path { path: "/".into(), why: e.to_string() }),
        };
        let here = Here { wanted: (!wanted.whole).then_some(wanted), device: stat.st_dev, level: 0 };
        let node = Node::new(Vec::new(), fd, self.previous.map(|p| p.root), None);
        self.directory(&node, here, jobs);
    }

    /// Goes through a directory. Its node is released at the end, whatever happens.
    fn directory(&self, node: &Arc<Node>, here: Here<'_>, jobs: &SyncSender<Job>) {
        let names = match here.wanted {
            Some(wanted) => Ok(wanted.children.keys().cloned().collect()),
            None => sys::names(&node.fd, &mut |name, directory| self.odd(&node.path_of(name), directory)),
        };
        let names = names.unwrap_or_else(|e| {
            self.problems.add(&node.path, format!("cannot be listed: {e}"));
            Vec::new()
        });
        node.reserve(names.len());
        let before = self.entries_before(node);
        for (slot, name) in names.into_iter().enumerate() {
            if self.over() {
                break;
            }
            let earlier = before.binary_search_by(|e| e.name.cmp(&name)).ok().map(|found| &before[found]);
            self.entry(node, slot, name, earlier, here, jobs);
        }
        self.release(node);
    }

    /// A name that only other systems have.
    fn odd(&self, path: &[u8], directory: bool) {
        if !self.options.exclude.matches(path, directory) {
            self.problems.add(path, format!("is left out: its name is longer than {MAX_NAME} bytes"));
        }
    }

    /// What the directory held in the previous tree; nothing when that cannot be read: then all is read anew.
    fn entries_before(&self, node: &Node) -> Vec<Entry> {
        let (Some(tree), Some(hash)) = (self.previous, node.before) else { return Vec::new() };
        let entries = tree.entries(&hash).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        entries.unwrap_or_else(|e| {
            tracing::debug!(path = %show(&node.path), "the previous tree is of no use here: {e}");
            Vec::new()
        })
    }

    fn entry(
        &self,
        node: &Arc<Node>,
        slot: usize,
        name: Vec<u8>,
        before: Option<&Entry>,
        here: Here<'_>,
        jobs: &SyncSender<Job>,
    ) {
        let path = node.path_of(&name);
        let stat = match sys::stat(&node.fd, &name) {
            Ok(s) => s,
            Err(Errno::NOENT) if here.wanted.is_none() => {
                return self.problems.add(&path, "vanished while the backup was made");
            }
            Err(e) => return self.problems.add(&path, e),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if here.wanted.is_none() && self.options.exclude.matches(&path, kind == FileType::Directory) {
            return;
        }
        match kind {
            FileType::Directory => self.subdirectory(node, slot, name, before, here, jobs),
            FileType::RegularFile => {
                self.counts.files.fetch_add(1, Ordering::Relaxed);
                self.monitor.file();
                match before.filter(|b| self.unchanged(b, &stat)) {
                    Some(b) => {
                        self.counts.bytes.fetch_add(b.size(), Ordering::Relaxed);
                        let mut entry = b.clone();
                        entry.origin = origin(&stat);
                        node.set(slot, entry);
                    }
                    None => {
                        node.hold();
                        // A walk that is over takes no more; then the tree does not count anyway.
                        let _ = jobs.send(Job { node: Arc::clone(node), slot, name });
                    }
                }
            }
            _ => self.special(node, slot, name, &path, &stat),
        }
    }

    /// Whether content and attributes are as in the previous tree. A change of either moves the change time.
    fn unchanged(&self, before: &Entry, stat: &Stat) -> bool {
        let EntryKind::File(content) = &before.kind else { return false };
        let origin = &before.origin;
        let same = origin.ctime != Time::default()
            && origin.ctime == sys::ctime(stat)
            && origin.inode == stat.st_ino
            && before.meta.mtime == sys::mtime(stat)
            && content.size == stat.st_size as u64;
        same && self.still_there(content).unwrap_or_else(|e| {
            self.fail(e);
            false
        })
    }

    /// What was lost from the store since is read again from here.
    fn still_there(&self, content: &Content) -> Result<bool, FilesError> {
        let Some(tree) = self.previous else { return Ok(false) };
        self.pieces_still_there(tree, content.depth, &content.pieces)
    }

    /// The sink hears of the lists of every depth: it may have to remember them.
    fn pieces_still_there(&self, tree: Tree<'_>, depth: u32, pieces: &[Piece]) -> Result<bool, FilesError> {
        let kind = if depth == 0 { BlobKind::File } else { BlobKind::Tree };
        for piece in pieces {
            let Some(hash) = &piece.hash else { continue };
            if !self.sink.still_has(kind, hash)? {
                return Ok(false);
            }
            if depth > 0 {
                // An unreadable list is as good as none.
                let Ok(below) = tree.list(depth, piece) else { return Ok(false) };
                if !self.pieces_still_there(tree, depth - 1, &below)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn subdirectory(
        &self,
        node: &Arc<Node>,
        slot: usize,
        name: Vec<u8>,
        before: Option<&Entry>,
        here: Here<'_>,
        jobs: &SyncSender<Job>,
    ) {
        let path = node.path_of(&name);
        if here.level >= MAX_LEVELS {
            return self.problems.add(&path, format!("is more than {MAX_LEVELS} directories deep"));
        }
        let opened = sys::open_dir(&node.fd, &name).and_then(|fd| Ok((rustix::fs::fstat(&fd)?, fd)));
        let (stat, fd) = match opened {
            Ok(o) => o,
            Err(e) => return self.problems.add(&path, e),
        };
        if self.options.exclude.forbids(&fd, &stat) {
            return self.problems.add(&path, "is left out: Lifeboat keeps its own state or backups there");
        }
        self.counts.directories.fetch_add(1, Ordering::Relaxed);
        let mounted = stat.st_dev != here.device;
        let kernels = mounted && sys::is_kernels(&fd);
        let hash = match before.map(|b| &b.kind) {
            Some(EntryKind::Directory(hash)) => Some(*hash),
            _ => None,
        };
        let entry = Entry {
            kind: EntryKind::Directory(Hash::from_bytes([0; 32])),
            meta: self.meta(&path, &stat, On::File(fd.as_fd())),
            origin: origin(&stat),
            name: name.clone(),
        };
        let child = Node::new(path, fd, hash, Some((Arc::clone(node), slot, entry)));
        node.hold();
        // At the end of a given path its own file system counts, not the one it is mounted in.
        let wanted = here.wanted.and_then(|w| w.children.get(&name)).filter(|w| !w.whole);
        let given = here.wanted.is_some();
        if kernels && given {
            let why = "is left out: what is there is the kernel's own and cannot be brought back";
            self.problems.add(&child.path, why);
        }
        if kernels || (mounted && self.options.one_file_system && !given) {
            return self.release(&child);
        }
        self.directory(&child, Here { wanted, device: stat.st_dev, level: here.level + 1 }, jobs);
    }

    fn special(&self, node: &Arc<Node>, slot: usize, name: Vec<u8>, path: &[u8], stat: &Stat) {
        let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => match rustix::fs::readlinkat(&node.fd, name.as_slice(), Vec::new()) {
                Ok(target) => EntryKind::Symlink(target.into_bytes()),
                Err(e) => return self.problems.add(path, e),
            },
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::BlockDevice => EntryKind::Block(device().0, device().1),
            FileType::CharacterDevice => EntryKind::Char(device().0, device().1),
            _ => return self.problems.add(path, "is of a kind that is not known"),
        };
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        self.monitor.file();
        let meta = self.meta(path, stat, On::Name(node.fd.as_fd(), &name));
        node.set(slot, Entry { kind, meta, origin: origin(stat), name });
    }

    fn meta(&self, path: &[u8], stat: &Stat, on: On<'_>) -> Meta {
        let xattrs = match sys::xattrs(on) {
            Ok((xattrs, all)) => {
                if !all {
                    self.problems.add(path, "has more attributes than are kept; the rest is left out");
                }
                xattrs
            }
            Err(e) => {
                self.problems.add(path, format!("its attributes cannot be read: {e}"));
                Vec::new()
            }
        };
        Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: sys::mtime(stat),
            xattrs,
        }
    }

    /// One entry less to wait for; stores every directory that is complete by that.
    fn release(&self, node: &Arc<Node>) {
        let mut node = Arc::clone(node);
        while let Some(entries) = node.release() {
            if self.over() {
                return;
            }
            let stored = match Directory::store(&entries, self.sink) {
                // One directory that nobody could keep ends no backup.
                Err(BlobError::TooLarge(why)) => {
                    self.problems.add(&node.path, format!("{why}: all below it is left out"));
                    Directory::store(&[], self.sink)
                }
                other => other,
            };
            let hash = match stored {
                Ok(h) => h,
                Err(e) => return self.fail(e.into()),
            };
            let Some((parent, slot, mut entry)) = node.take_parent() else {
                *self.root.lock() = Some(hash);
                return;
            };
            entry.kind = EntryKind::Directory(hash);
            parent.set(slot, entry);
            node = parent;
        }
    }
}

/// Whether a change from `now` on moves the change time. One from the future may come by again.
fn settled(stat: &Stat, now: WallTime) -> bool {
    let ctime = sys::ctime(stat);
    let nanos = i128::from(ctime.secs) * 1_000_000_000 + i128::from(ctime.nanos);
    nanos + (TICK.as_nanos() as i128) < i128::from(now.0)
}

fn origin(stat: &Stat) -> Origin {
    let several = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
    Origin {
        ctime: sys::ctime(stat),
        inode: stat.st_ino,
        device: if several { stat.st_dev } else { 0 },
        links: if several { u32::try_from(stat.st_nlink).unwrap_or(u32::MAX) } else { 0 },
    }
}

#[cfg(test)]
mod tests;
