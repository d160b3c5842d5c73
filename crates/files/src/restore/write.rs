//! Writes files, links and special files, and gives them what belongs to them.

use super::folder::Folder;
use super::{Link, Restore};
use crate::FilesError;
use crate::blob::BlobKind;
use crate::sys::{self, On};
use crate::tree::{Content, Entry, EntryKind, Meta, Piece, Xattr};
use parking_lot::Mutex;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown,
    fstat, futimens, linkat, mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

/// Pieces of a file that are announced before they are read.
const AHEAD: usize = 16;
/// Attributes that do not become what they were here, by name.
const STUBBORN: usize = 256;

/// A file that is to be written.
pub struct Job {
    pub folder: Arc<Folder>,
    pub entry: Entry,
}

impl Restore<'_> {
    pub fn write_jobs(&self, queue: &Mutex<Receiver<Job>>) {
        loop {
            // In a statement of its own: the lock is not held while the job is done.
            let job = queue.lock().recv();
            let Ok(Job { folder, entry }) = job else { return };
            let made = match (&entry.kind, self.monitor.is_cancelled()) {
                (EntryKind::File(content), false) => self.write(&folder, &entry, content),
                _ => Err("was not restored: it was cancelled".into()),
            };
            self.note_link(&folder, &entry, made.as_ref().ok());
            self.count(&folder, &entry, made.map(drop));
            folder.release(self);
        }
    }

    /// Tells who waits for this file where it is.
    fn note_link(&self, folder: &Folder, entry: &Entry, made: Option<&(u64, u64)>) {
        let Some(link) = entry.link() else { return };
        let mut links = self.links.lock();
        match made {
            Some(id) => {
                let (parent, name) = (folder.path.clone(), entry.name.clone());
                links.insert(link, Link::There { parent, name, id: *id, like: entry.likeness() });
            }
            None => drop(links.remove(&link)),
        }
        self.linked.notify_all();
    }

    /// Gives device and inode of the new file.
    fn write(&self, folder: &Folder, entry: &Entry, content: &Content) -> Result<(u64, u64), String> {
        if !self.options.overwrite && sys::stat(&folder.fd, &entry.name).is_ok() {
            return Err("is there already; it stays as it is (restore with --overwrite replaces it)".into());
        }
        let temporary = self.temporary();
        let file = sys::create(&folder.fd, &temporary).map_err(|e| format!("cannot be made: {e}"))?;
        let file = File::from(file);
        let written = self.fill_file(&file, content).and_then(|()| {
            self.note_meta(folder, entry, apply(self, On::File(file.as_fd()), &entry.meta));
            fstat(&file).map_err(|e| e.to_string())
        });
        match written {
            Ok(stat) => {
                self.place(folder, &temporary, &entry.name)?;
                Ok((stat.st_dev, stat.st_ino))
            }
            Err(why) => {
                let _ = unlinkat(&folder.fd, temporary.as_slice(), AtFlags::empty());
                Err(why)
            }
        }
    }

    /// Content counts most: what else cannot be brought back is named, and the file is there all the same.
    fn note_meta(&self, folder: &Folder, entry: &Entry, applied: Result<(), String>) {
        if let Err(why) = applied {
            self.problems.add(&folder.path_of(&entry.name), why);
        }
    }

    /// An attribute that is not as it was here was named, or is the kernel's: verifying does not miss it again.
    fn note_stubborn(&self, name: &[u8]) {
        let mut stubborn = self.stubborn.lock();
        if stubborn.len() < STUBBORN {
            stubborn.insert(name.to_vec());
        }
    }

    fn fill_file(&self, file: &File, content: &Content) -> Result<(), String> {
        let mut pieces = self.tree.pieces(content, 0);
        let mut ahead = VecDeque::new();
        loop {
            while ahead.len() < AHEAD
                && let Some(next) = pieces.next()
            {
                if let Ok((_, Piece { hash: Some(hash), len })) = &next {
                    self.tree.source.ahead(BlobKind::File, hash, *len);
                }
                ahead.push_back(next);
            }
            let Some(piece) = ahead.pop_front() else { break };
            self.monitor.go_on().map_err(|e| e.to_string())?;
            let (begin, piece) = piece.map_err(|e| e.to_string())?;
            if let Some(hash) = &piece.hash {
                let bytes = self.tree.content(hash, piece.len).map_err(|e: FilesError| e.to_string())?;
                file.write_all_at(&bytes, begin).map_err(|e| format!("cannot be written: {e}"))?;
                self.monitor.moved(piece.len);
            }
        }
        // What is a hole at the end has no bytes of its own.
        file.set_len(content.size).map_err(|e| format!("cannot be written: {e}"))
    }

    /// Gives a restored file one more name.
    pub fn link(
        &self,
        folder: &Folder,
        name: &[u8],
        parent: &[u8],
        first: &[u8],
        id: (u64, u64),
    ) -> Result<(), String> {
        if !self.options.overwrite && sys::stat(&folder.fd, name).is_ok() {
            return Err("is there already".into());
        }
        let parent = sys::beneath(&self.root, parent).map_err(|e| e.to_string())?;
        let temporary = self.temporary();
        linkat(&parent, first, &folder.fd, temporary.as_slice(), AtFlags::empty())
            .map_err(|e| e.to_string())?;
        // The first name may have been given to something else meanwhile.
        let stat = sys::stat(&folder.fd, &temporary).map_err(|e| e.to_string())?;
        if (stat.st_dev, stat.st_ino) != id {
            let _ = unlinkat(&folder.fd, temporary.as_slice(), AtFlags::empty());
            return Err("its first name is another file by now".into());
        }
        self.place(folder, &temporary, name)
    }

    pub fn special(&self, folder: &Folder, entry: &Entry) -> Result<(), String> {
        if !self.options.overwrite && sys::stat(&folder.fd, &entry.name).is_ok() {
            return Err("is there already; it stays as it is (restore with --overwrite replaces it)".into());
        }
        let temporary = self.temporary();
        let made = self.make_special(folder, &temporary, entry).map(|()| {
            let symlink = matches!(entry.kind, EntryKind::Symlink(_));
            self.note_meta(folder, entry, apply_by_name(self, folder, &temporary, &entry.meta, symlink));
        });
        match made {
            Ok(()) => self.place(folder, &temporary, &entry.name),
            Err(why) => {
                let _ = unlinkat(&folder.fd, temporary.as_slice(), AtFlags::empty());
                Err(why)
            }
        }
    }

    fn make_special(&self, folder: &Folder, name: &[u8], entry: &Entry) -> Result<(), String> {
        let node = |kind, device| mknodat(&folder.fd, name, kind, Mode::RUSR | Mode::WUSR, device);
        let made = match &entry.kind {
            EntryKind::Symlink(target) => symlinkat(target.as_slice(), &folder.fd, name),
            EntryKind::Fifo => node(FileType::Fifo, 0),
            EntryKind::Socket => node(FileType::Socket, 0),
            EntryKind::Block(major, minor) => {
                node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryKind::Char(major, minor) => {
                node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryKind::File(_) | EntryKind::Directory(_) => Err(Errno::INVAL),
        };
        made.map_err(|e| format!("cannot be made: {e}"))
    }
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.mtime.secs, tv_nsec: i64::from(meta.mtime.nanos) as _ },
    }
}

fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

/// Whether the owner is the right one. Without root's rights it stays this user, which is no reason to complain.
fn owned(restore: &Restore<'_>, result: Result<(), Errno>, wrong: &mut Vec<String>) -> bool {
    match result {
        Ok(()) => return true,
        Err(Errno::PERM) if restore.not_root.load(Ordering::Relaxed) => {}
        Err(e) => wrong.push(format!("its owner cannot be set: {e}")),
    }
    false
}

/// Permissions, without the right to be somebody else where that somebody is not the right one.
fn mode(meta: &Meta, owned: bool) -> Mode {
    Mode::from_raw_mode(if owned { meta.mode } else { meta.mode & 0o1777 })
}

/// Makes the attributes what they were. What is made where a default access control list is has one of its own first.
fn set_xattrs(restore: &Restore<'_>, on: On<'_>, xattrs: &[Xattr], wrong: &mut Vec<String>) {
    if let Ok((there, _)) = sys::xattrs(on) {
        for stale in there.iter().filter(|x| !xattrs.iter().any(|m| m.name == x.name)) {
            // The kernel keeps some of its own.
            if sys::remove_xattr(on, &stale.name).is_err() {
                restore.note_stubborn(&stale.name);
            }
        }
    }
    for xattr in xattrs {
        if let Err(e) = sys::set_xattr(on, xattr) {
            restore.note_stubborn(&xattr.name);
            let name = String::from_utf8_lossy(&xattr.name);
            wrong.push(format!("its attribute {name} cannot be set: {e}"));
        }
    }
}

fn all_right(wrong: &[String]) -> Result<(), String> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Gives an open file or directory what belongs to it, as much of it as there is a way to. In this order: a new owner
/// takes capabilities and set-user-id away, and everything moves the times.
pub fn apply(restore: &Restore<'_>, on: On<'_>, meta: &Meta) -> Result<(), String> {
    let On::File(fd) = on else { return Err("it is not open".into()) };
    let mut wrong = Vec::new();
    let (uid, gid) = owner(meta);
    let owned = owned(restore, fchown(fd, uid, gid), &mut wrong);
    set_xattrs(restore, on, &meta.xattrs, &mut wrong);
    if let Err(e) = fchmod(fd, mode(meta, owned)) {
        wrong.push(format!("its permissions cannot be set: {e}"));
    }
    if let Err(e) = futimens(fd, &times(meta)) {
        wrong.push(format!("its times cannot be set: {e}"));
    }
    all_right(&wrong)
}

/// The same for what cannot be opened.
fn apply_by_name(
    restore: &Restore<'_>,
    folder: &Folder,
    name: &[u8],
    meta: &Meta,
    symlink: bool,
) -> Result<(), String> {
    let held: OwnedFd =
        openat(&folder.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| e.to_string())?;
    let mut wrong = Vec::new();
    let (uid, gid) = owner(meta);
    let owned = owned(restore, chownat(&held, c"", uid, gid, AtFlags::EMPTY_PATH), &mut wrong);
    set_xattrs(restore, On::Name(folder.fd.as_fd(), name), &meta.xattrs, &mut wrong);
    if !symlink {
        // By what is held: the name may lead to something else by now.
        let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&held));
        if let Err(e) = rustix::fs::chmod(path, mode(meta, owned)) {
            wrong.push(format!("its permissions cannot be set: {e}"));
        }
    }
    if let Err(e) = utimensat(&folder.fd, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW) {
        wrong.push(format!("its times cannot be set: {e}"));
    }
    all_right(&wrong)
}
