//! Reads back what was restored, and compares it with the tree.

use super::{Restore, below};
use crate::FilesError;
use crate::blob::{BlobKind, Hash};
use crate::sys::{self, On};
use crate::tree::{Content, Entry, EntryKind, Xattr};
use crate::wanted::Wanted;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Advice, FileType, fadvise};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// Bytes read at a time where a hole should be.
const STEP: usize = 256 * 1024;

/// Gives how many files are as in the tree; the others are named.
pub fn verify(restore: &Restore<'_>, wanted: &Wanted) -> Result<u64, FilesError> {
    let root = restore.root.try_clone().map_err(|e| FilesError::Path {
        path: restore.options.target.display().to_string(),
        why: e.to_string(),
    })?;
    let mut verify = Verify { restore, path: Vec::new(), verified: 0 };
    verify.directory(&root, &restore.tree.root, (!wanted.whole).then_some(wanted))?;
    Ok(verify.verified)
}

struct Verify<'a> {
    restore: &'a Restore<'a>,
    path: Vec<u8>,
    verified: u64,
}

impl Verify<'_> {
    fn directory(&mut self, fd: &OwnedFd, hash: &Hash, wanted: Option<&Wanted>) -> Result<(), FilesError> {
        if wanted.is_none() {
            self.restore.tree.source.ahead(BlobKind::Tree, hash, 0);
        }
        let entries = match self.restore.tree.entries(hash) {
            Ok(e) => e,
            // Named when it was restored.
            Err(_) => return Ok(()),
        };
        for entry in entries.map_while(Result::ok) {
            self.restore.monitor.go_on()?;
            if wanted.is_some_and(|w| !w.children.contains_key(&entry.name)) {
                continue;
            }
            let kept = self.path.len();
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            let meant = below(wanted, &entry.name).is_none();
            match (self.entry(fd, &entry, meant), &entry.kind) {
                (Ok(()), EntryKind::Directory(hash)) => match sys::open_dir(fd, &entry.name) {
                    Ok(child) => self.directory(&child, hash, below(wanted, &entry.name))?,
                    Err(e) => self.restore.problems.add(&self.path, e),
                },
                (Ok(()), _) => self.verified += 1,
                (Err(why), _) => {
                    self.restore.problems.add(&self.path, format!("is not what the backup holds: {why}"));
                }
            }
            self.path.truncate(kept);
        }
        Ok(())
    }

    fn entry(&self, fd: &OwnedFd, entry: &Entry, meant: bool) -> Result<(), String> {
        let stat = sys::stat(fd, &entry.name).map_err(|e| e.to_string())?;
        let is = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => 1,
            FileType::Directory => 2,
            FileType::Symlink => 3,
            FileType::Fifo => 4,
            FileType::Socket => 5,
            FileType::BlockDevice => 6,
            FileType::CharacterDevice => 7,
            _ => 0,
        };
        if is != entry.kind.number() {
            return Err("it is of another kind".into());
        }
        // On the way to what was asked for, a directory keeps what it had.
        let directory = matches!(entry.kind, EntryKind::Directory(_));
        if meant && (!directory || self.restore.options.overwrite) {
            let symlink = matches!(entry.kind, EntryKind::Symlink(_));
            if !symlink && stat.st_mode & 0o7777 != entry.meta.mode {
                return Err("its permissions differ".into());
            }
            if sys::mtime(&stat) != entry.meta.mtime {
                return Err("its modification time differs".into());
            }
            let not_root = self.restore.not_root.load(Ordering::Relaxed);
            if !not_root && (stat.st_uid, stat.st_gid) != (entry.meta.uid, entry.meta.gid) {
                return Err("its owner differs".into());
            }
            self.xattrs(On::Name(fd.as_fd(), &entry.name), &entry.meta.xattrs)?;
        }
        match &entry.kind {
            EntryKind::File(content) => self.content(fd, entry, content),
            EntryKind::Symlink(target) => {
                let there = rustix::fs::readlinkat(fd, entry.name.as_slice(), Vec::new())
                    .map_err(|e| e.to_string())?;
                if there.as_bytes() == target { Ok(()) } else { Err("it leads elsewhere".into()) }
            }
            _ => Ok(()),
        }
    }

    fn xattrs(&self, on: On<'_>, held: &[Xattr]) -> Result<(), String> {
        let (there, _) = sys::xattrs(on).map_err(|e| format!("its attributes cannot be read: {e}"))?;
        let stubborn = self.restore.stubborn.lock();
        let text = |x: &Xattr| String::from_utf8_lossy(&x.name).into_owned();
        let of = |all: &[Xattr], x: &Xattr| all.iter().find(|o| o.name == x.name).cloned();
        for x in there.iter().filter(|x| !stubborn.contains(&x.name)) {
            match of(held, x) {
                None => return Err(format!("it has the attribute {}", text(x))),
                Some(h) if h.value != x.value => return Err(format!("its attribute {} differs", text(x))),
                Some(_) => {}
            }
        }
        let lost = held.iter().find(|x| !stubborn.contains(&x.name) && of(&there, x).is_none());
        lost.map_or(Ok(()), |x| Err(format!("its attribute {} is missing", text(x))))
    }

    fn content(&self, fd: &OwnedFd, entry: &Entry, content: &Content) -> Result<(), String> {
        let file = File::from(sys::open_file(fd, &entry.name).map_err(|e| e.to_string())?);
        // What the disk has is asked for, not what memory still has of it.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        if file.metadata().map_err(|e| e.to_string())?.len() != content.size {
            return Err("its size differs".into());
        }
        for piece in self.restore.tree.pieces(content, 0) {
            let (begin, piece) = piece.map_err(|e| e.to_string())?;
            match piece.hash {
                Some(hash) => {
                    let mut bytes = vec![0; usize::try_from(piece.len).unwrap_or(0)];
                    file.read_exact_at(&mut bytes, begin).map_err(|e| e.to_string())?;
                    if blake3::hash(&bytes) != hash {
                        return Err(format!("its content differs at {begin}"));
                    }
                }
                None => self.zeros(&file, begin, piece.len)?,
            }
        }
        Ok(())
    }

    fn zeros(&self, file: &File, begin: u64, len: u64) -> Result<(), String> {
        let mut bytes = vec![0; STEP];
        let mut at = begin;
        while at < begin + len {
            self.restore.monitor.go_on().map_err(|e| e.to_string())?;
            let step = usize::try_from(begin + len - at).unwrap_or(STEP).min(STEP);
            file.read_exact_at(&mut bytes[..step], at).map_err(|e| e.to_string())?;
            if bytes[..step].iter().any(|b| *b != 0) {
                return Err(format!("its content differs at {at}"));
            }
            at += step as u64;
        }
        Ok(())
    }
}
