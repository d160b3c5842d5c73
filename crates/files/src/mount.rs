//! A tree as a read-only file system.
//!
//! Invariants: memory is bounded by what the kernel holds on to (inodes, until it forgets them), by directories that are
//! open, and by [`CACHE`] for content. What cannot be had or proven is an I/O error, never other bytes.

use crate::blob::{BlobSource, Hash};
use crate::entries::read_at;
use crate::fuse::Detached;
use crate::reader::Tree;
use crate::tree::{Entry, EntryKind, MAX_XATTRS, Meta, Origin, Piece, Time, WRONG_LENGTH};
use crate::{FilesError, show};
use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of content kept in memory for one mount.
const CACHE: usize = 64 << 20;
/// Nothing here changes ever.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// Says that a directory's listing gives no inode numbers: they are made at look-up.
const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);
const THREADS: usize = 4;

/// Serves a tree; attach it where it shall be seen.
///
/// # Errors
/// Without root's rights or FUSE, or when the root cannot be read.
pub fn serve(source: Arc<dyn BlobSource>, root: Hash) -> Result<Detached, FilesError> {
    Tree::new(&*source, root).entries(&root)?;
    Detached::serve(TreeMount::new(source, root), "lifeboat", THREADS, false)
}

struct Inode {
    entry: Arc<Entry>,
    parent: u64,
    lookups: u64,
}

#[derive(Default)]
struct Inodes {
    by_number: HashMap<u64, Inode>,
    by_name: HashMap<(u64, Vec<u8>), u64>,
    last: u64,
}

/// Content most recently read.
#[derive(Default)]
struct Cache {
    content: HashMap<Hash, Bytes>,
    order: VecDeque<Hash>,
    bytes: usize,
}

impl Cache {
    fn keep(&mut self, hash: Hash, content: &Bytes) {
        if self.content.insert(hash, content.clone()).is_some() {
            return;
        }
        self.bytes += content.len();
        self.order.push_back(hash);
        while self.bytes > CACHE {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.content.remove(&oldest).map_or(0, |c| c.len());
        }
    }
}

type Listing = Arc<Vec<(Vec<u8>, FileType)>>;

struct TreeMount {
    source: Arc<dyn BlobSource>,
    root: Hash,
    inodes: Mutex<Inodes>,
    listings: Mutex<(u64, HashMap<u64, Listing>)>,
    cache: Mutex<Cache>,
}

fn kind(entry: &Entry) -> FileType {
    match &entry.kind {
        EntryKind::File(_) => FileType::RegularFile,
        EntryKind::Directory(_) => FileType::Directory,
        EntryKind::Symlink(_) => FileType::Symlink,
        EntryKind::Fifo => FileType::NamedPipe,
        EntryKind::Socket => FileType::Socket,
        EntryKind::Block(..) => FileType::BlockDevice,
        EntryKind::Char(..) => FileType::CharDevice,
    }
}

fn time(t: Time) -> SystemTime {
    let (secs, nanos) = (Duration::from_secs(t.secs.unsigned_abs()), Duration::from_nanos(t.nanos.into()));
    let whole = if t.secs < 0 { UNIX_EPOCH.checked_sub(secs) } else { UNIX_EPOCH.checked_add(secs) };
    whole.and_then(|w| w.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

fn attributes(number: u64, entry: &Entry) -> FileAttr {
    let (size, mtime) = (entry.size(), time(entry.meta.mtime));
    let rdev = match entry.kind {
        EntryKind::Block(major, minor) | EntryKind::Char(major, minor) => {
            u32::try_from(rustix::fs::makedev(major, minor)).unwrap_or(0)
        }
        _ => 0,
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: mtime,
        mtime,
        ctime: time(entry.origin.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(entry),
        perm: (entry.meta.mode & 0o7777) as u16,
        nlink: 1,
        uid: entry.meta.uid,
        gid: entry.meta.gid,
        rdev,
        blksize: 4096,
        flags: 0,
    }
}

impl TreeMount {
    fn new(source: Arc<dyn BlobSource>, root: Hash) -> Self {
        let entry = Entry {
            name: Vec::new(),
            kind: EntryKind::Directory(root),
            meta: Meta { mode: 0o755, ..Meta::default() },
            origin: Origin::default(),
        };
        let mut inodes = Inodes { last: INodeNo::ROOT.0, ..Inodes::default() };
        inodes.by_number.insert(INodeNo::ROOT.0, Inode { entry: Arc::new(entry), parent: 0, lookups: 1 });
        Self { source, root, inodes: Mutex::new(inodes), listings: Mutex::default(), cache: Mutex::default() }
    }

    fn tree(&self) -> Tree<'_> {
        Tree::new(&*self.source, self.root)
    }

    fn entry(&self, number: INodeNo) -> Result<Arc<Entry>, Errno> {
        self.inodes.lock().by_number.get(&number.0).map(|i| Arc::clone(&i.entry)).ok_or(Errno::ENOENT)
    }

    fn directory(&self, number: INodeNo) -> Result<Hash, Errno> {
        match self.entry(number)?.kind {
            EntryKind::Directory(hash) => Ok(hash),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = name.as_bytes();
        let found = self.tree().find(&self.directory(parent)?, name).map_err(|e| broken(name, &e))?;
        let entry = Arc::new(found.ok_or(Errno::ENOENT)?);
        let mut inodes = self.inodes.lock();
        let key = (parent.0, name.to_vec());
        let number = match inodes.by_name.get(&key) {
            Some(number) => *number,
            None => {
                inodes.last += 1;
                let number = inodes.last;
                inodes.by_name.insert(key, number);
                let inode = Inode { entry: Arc::clone(&entry), parent: parent.0, lookups: 0 };
                inodes.by_number.insert(number, inode);
                number
            }
        };
        if let Some(inode) = inodes.by_number.get_mut(&number) {
            inode.lookups += 1;
        }
        Ok(attributes(number, &entry))
    }

    fn content(&self, piece: &Piece) -> Result<Bytes, FilesError> {
        let Some(hash) = piece.hash else { return Ok(Bytes::new()) };
        if let Some(known) = self.cache.lock().content.get(&hash) {
            // Another file may say something else of it.
            let right = known.len() as u64 == piece.len;
            return right.then(|| known.clone()).ok_or_else(|| WRONG_LENGTH.into());
        }
        let content = self.tree().content(&hash, piece.len)?;
        self.cache.lock().keep(hash, &content);
        Ok(content)
    }

    fn read_file(&self, number: INodeNo, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let entry = self.entry(number)?;
        let EntryKind::File(file) = &entry.kind else { return Err(Errno::EISDIR) };
        read_at(self.tree(), file, offset, len as usize, &|p| self.content(p))
            .map_err(|e| broken(&entry.name, &e))
    }

    fn listing(&self, number: INodeNo) -> Result<Listing, Errno> {
        let hash = self.directory(number)?;
        let entries = self.tree().entries(&hash).map_err(|e| broken(b"", &e))?;
        let entries = entries.map(|e| e.map(|e| (e.name.clone(), kind(&e))));
        Ok(Arc::new(entries.collect::<Result<_, _>>().map_err(|e| broken(b"", &e))?))
    }
}

fn broken(name: &[u8], e: &FilesError) -> Errno {
    tracing::warn!(name = %show(name), "a mounted backup cannot be read: {e}");
    Errno::EIO
}

/// Answers a question about attributes in the kernel's two ways.
fn sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(len),
        s if s < len => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl Filesystem for TreeMount {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        if number == INodeNo::ROOT {
            return;
        }
        let mut inodes = self.inodes.lock();
        let Some(inode) = inodes.by_number.get_mut(&number.0) else { return };
        inode.lookups = inode.lookups.saturating_sub(lookups);
        if inode.lookups == 0
            && let Some(inode) = inodes.by_number.remove(&number.0)
        {
            inodes.by_name.remove(&(inode.parent, inode.entry.name.clone()));
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.entry(number) {
            Ok(entry) => reply.attr(&FOREVER, &attributes(number.0, &entry)),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.entry(number).map(|e| e.kind.clone()) {
            Ok(EntryKind::Symlink(target)) => reply.data(&target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_file(number, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.listing(number) {
            Ok(listing) => {
                let mut listings = self.listings.lock();
                listings.0 += 1;
                let handle = listings.0;
                listings.1.insert(handle, listing);
                drop(listings);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(e) => reply.error(e),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = self.listings.lock().1.get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let own = [(".", number), ("..", UNKNOWN)];
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for n in from..listing.len() + own.len() {
            let next = n as u64 + 1;
            let full = match n.checked_sub(own.len()) {
                None => reply.add(own[n].1, next, FileType::Directory, own[n].0),
                Some(n) => reply.add(UNKNOWN, next, listing[n].1, OsStr::from_bytes(&listing[n].0)),
            };
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().1.remove(&handle.0);
        reply.ok();
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.entry(number) {
            Ok(entry) => match entry.meta.xattrs.iter().find(|x| x.name == name.as_bytes()) {
                Some(xattr) => sized(reply, size, &xattr.value),
                None => reply.error(Errno::NO_XATTR),
            },
            Err(e) => reply.error(e),
        }
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        match self.entry(number) {
            Ok(entry) => {
                let mut names = Vec::with_capacity(MAX_XATTRS.min(256));
                for xattr in &entry.meta.xattrs {
                    names.extend_from_slice(&xattr.name);
                    names.push(0);
                }
                sized(reply, size, &names);
            }
            Err(e) => reply.error(e),
        }
    }
}

#[cfg(test)]
mod tests;
