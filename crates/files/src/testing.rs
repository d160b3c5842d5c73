//! What the tests of this crate share.

use crate::blob::{BlobError, BlobKind, BlobSink, BlobSource, Hash, MemoryBlobs};
use crate::exclude::Exclude;
use crate::reader::Tree;
use crate::report::Monitor;
use crate::restore::{RestoreOptions, Restored, restore};
use crate::sys;
use crate::walk::{WalkOptions, Walked, walk};
use bytes::Bytes;
use lifeboat_base::{ManualClock, WallTime};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub fn options(path: &Path) -> WalkOptions {
    WalkOptions {
        paths: vec![path.to_path_buf()],
        exclude: Exclude::new(&[], &[]).unwrap(),
        one_file_system: false,
        readers: 2,
    }
}

/// A clock for which every file there is has not changed for long.
pub fn later() -> ManualClock {
    let clock = ManualClock::default();
    clock.set_wall(WallTime(4_000_000_000_000_000_000));
    clock
}

pub fn back_up(path: &Path, previous: Option<Hash>, blobs: &MemoryBlobs) -> Walked {
    let previous = previous.map(|root| Tree::new(blobs, root));
    walk(&options(path), previous, blobs, &Monitor::default(), &later()).unwrap()
}

pub fn to(target: &Path) -> RestoreOptions {
    RestoreOptions {
        paths: Vec::new(),
        target: target.to_path_buf(),
        overwrite: false,
        verify: true,
        writers: 2,
    }
}

pub fn bring_back(root: Hash, source: &dyn BlobSource, options: &RestoreOptions) -> Restored {
    restore(Tree::new(source, root), options, &Monitor::default()).unwrap()
}

/// Where a restored tree has what was at `path`.
pub fn under(target: &Path, path: &Path) -> std::path::PathBuf {
    target.join(path.strip_prefix("/").unwrap())
}

/// Everything below a directory that a restore has to bring back, by path, as text.
pub fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    describe(root, root, &mut out, &mut BTreeMap::new());
    out
}

fn describe(
    root: &Path,
    path: &Path,
    out: &mut BTreeMap<String, String>,
    links: &mut BTreeMap<(u64, u64), String>,
) {
    let m = std::fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().display().to_string();
    let mut text = format!("{:o} {}:{} {}.{}", m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    let parent = sys::open_root(path.parent().unwrap()).unwrap();
    let on = sys::On::Name(rustix::fd::AsFd::as_fd(&parent), path.file_name().unwrap().as_bytes());
    for x in sys::xattrs(on).unwrap().0 {
        text += &format!(" {}={:?}", String::from_utf8_lossy(&x.name), x.value);
    }
    if m.is_file() {
        text += &format!(" {} {}", m.len(), blake3::hash(&std::fs::read(path).unwrap()));
        if m.nlink() > 1 {
            let first = links.entry((m.dev(), m.ino())).or_insert_with(|| name.clone());
            text += &format!(" is {first}");
        }
    } else if m.is_symlink() {
        text += &format!(" -> {}", std::fs::read_link(path).unwrap().display());
    } else if !m.is_dir() {
        text += &format!(" device {}", m.rdev());
    }
    out.insert(name, text);
    if m.is_dir() {
        let mut below: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        below.sort();
        for path in below {
            describe(root, &path, out, links);
        }
    }
}

/// Reproducible bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut out);
    out
}

/// Does something each time a blob passes.
pub struct Hook<'a, F: Fn(BlobKind, &Hash) + Send + Sync> {
    pub blobs: &'a MemoryBlobs,
    pub hook: F,
}

impl<F: Fn(BlobKind, &Hash) + Send + Sync> BlobSink for Hook<'_, F> {
    fn has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        self.blobs.has(kind, hash)
    }

    fn put(&self, kind: BlobKind, hash: Hash, content: Bytes) -> Result<(), BlobError> {
        (self.hook)(kind, &hash);
        self.blobs.put(kind, hash, content)
    }
}

impl<F: Fn(BlobKind, &Hash) + Send + Sync> BlobSource for Hook<'_, F> {
    fn get(&self, kind: BlobKind, hash: &Hash) -> Result<Bytes, BlobError> {
        (self.hook)(kind, hash);
        self.blobs.get(kind, hash)
    }
}

/// The blob of the directory a walk began at: what is above it changes while other tests run.
pub fn at(root: Hash, path: &Path, source: &dyn BlobSource) -> crate::tree::EntryKind {
    Tree::new(source, root).at(path.as_os_str().as_bytes()).unwrap().kind
}
