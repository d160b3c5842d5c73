//! A point's disks while they are looked at.

use super::export::Export;
use super::partitions::{Holds, holds, partitions};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, FileEntry, FileKind};
use lifeboat_base::WallTime;
use lifeboat_block::{BlockDevice, BlockError};
use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

/// Entries of a directory that are read, beyond what is shown.
const MOST: usize = 1 << 20;
/// Nothing of a path leads out of the file system: not `..`, not an absolute link, not another mount.
const WITHIN: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// A partition, or a disk without any.
pub struct Part {
    /// `disk0p1`, or `disk0`.
    pub name: String,
    disk: u16,
    offset: u64,
    pub len: u64,
    holds: Holds,
}

/// See the module's text.
pub struct Look {
    parts: Vec<Part>,
    // Before the exports: file systems go before what they are on.
    mounted: Mutex<HashMap<String, Arc<Mounted>>>,
    exports: Mutex<HashMap<u16, Arc<Export>>>,
    disks: Vec<(u16, Arc<dyn BlockDevice>)>,
}

/// A file system that is mounted nowhere.
pub struct Mounted {
    root: OwnedFd,
    _export: Arc<Export>,
}

pub fn cannot(what: &str, e: impl std::fmt::Display) -> PortError {
    PortError::new(ErrorCode::Unavailable, format!("cannot {what}: {e}"))
        .hint("looking into disks needs root, /dev/fuse, /dev/loop-control and Linux 5.8 or later")
}

pub fn unreadable(e: &BlockError) -> PortError {
    let code = match e {
        BlockError::Corrupt(_) => ErrorCode::Corrupt,
        _ => ErrorCode::Unavailable,
    };
    PortError::new(code, format!("the point's disk cannot be read: {e}")).hint("see 'lifeboat vault status'")
}

impl Look {
    pub fn new(disks: Vec<(u16, Arc<dyn BlockDevice>)>) -> Result<Self, PortError> {
        let mut parts = Vec::new();
        for (disk, device) in &disks {
            let found = partitions(&**device).map_err(|e| unreadable(&e))?;
            if found.is_empty() {
                let holds = holds(&**device, 0, device.size()).map_err(|e| unreadable(&e))?;
                parts.push(Part {
                    name: format!("disk{disk}"),
                    disk: *disk,
                    offset: 0,
                    len: device.size(),
                    holds,
                });
            }
            for p in found {
                let name = format!("disk{disk}p{}", p.number);
                let holds = holds(&**device, p.offset, p.len).map_err(|e| unreadable(&e))?;
                parts.push(Part { name, disk: *disk, offset: p.offset, len: p.len, holds });
            }
        }
        Ok(Self { parts, mounted: Mutex::default(), exports: Mutex::default(), disks })
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The file system of a partition.
    pub fn mounted(&self, name: &str) -> Result<Arc<Mounted>, PortError> {
        let part = self.parts.iter().find(|p| p.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.parts.iter().map(|p| p.name.as_str()).collect();
            PortError::new(ErrorCode::NotFound, format!("there is no '{name}' in this point"))
                .hint(format!("it has: {}", names.join(", ")))
        })?;
        // Held while it is mounted: two at once would be one too many.
        let mut mounted = self.mounted.lock();
        if let Some(there) = mounted.get(name) {
            return Ok(Arc::clone(there));
        }
        let kind = match part.holds {
            Holds::Files(kind) => kind,
            Holds::Other(what) => return Err(no_files(name, what)),
            Holds::Unknown => return Err(no_files(name, "nothing this site knows")),
        };
        let export = self.export(part.disk)?;
        let root = mount(&export, part, kind).map_err(|e| {
            cannot(&format!("look into {name}, which holds {kind}"), e)
                .hint("mount the point instead and look with other tools: lifeboat mount")
        })?;
        let there = Arc::new(Mounted { root, _export: export });
        mounted.insert(name.to_string(), Arc::clone(&there));
        Ok(there)
    }

    fn export(&self, disk: u16) -> Result<Arc<Export>, PortError> {
        let mut exports = self.exports.lock();
        if let Some(export) = exports.get(&disk) {
            return Ok(Arc::clone(export));
        }
        let device = self.disks.iter().find(|(n, _)| *n == disk).map(|(_, d)| Arc::clone(d));
        let device =
            device.ok_or_else(|| PortError::new(ErrorCode::NotFound, format!("there is no disk {disk}")))?;
        let export = Arc::new(Export::new(device)?);
        exports.insert(disk, Arc::clone(&export));
        Ok(export)
    }
}

fn no_files(name: &str, what: &str) -> PortError {
    PortError::new(ErrorCode::Invalid, format!("{name} holds {what}, no file system"))
        .hint("mount the point instead and look with other tools: lifeboat mount")
}

/// Options in the order in which they are tried: with a replay of its journal first, then without.
fn options(kind: &str) -> &'static [&'static [&'static str]] {
    match kind {
        "ext4" => &[&[], &["noload"]],
        // Several points of one disk have one id.
        "xfs" => &[&["nouuid"], &["nouuid", "norecovery"]],
        _ => &[&[]],
    }
}

fn mount(export: &Export, part: &Part, kind: &str) -> Result<OwnedFd, std::io::Error> {
    let mut last = None;
    for flags in options(kind) {
        // A loop device for each try: it goes with the try.
        let (_device, path) = export.part(part.offset, part.len)?;
        match mount_device(&path, kind, flags) {
            Ok(root) => return Ok(root),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or(Errno::INVAL).into())
}

fn mount_device(path: &str, kind: &str, flags: &[&str]) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", path)?;
    fsconfig_set_flag(&fs, "ro")?;
    for flag in flags {
        fsconfig_set_flag(&fs, *flag)?;
    }
    if kind == "ext4" {
        // The disk itself says what an error does, if nobody else does: to stop this host, perhaps.
        fsconfig_set_string(&fs, "errors", "continue")?;
    }
    fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

impl Mounted {
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, PortError> {
        let path = if path.is_empty() { "." } else { path };
        // A fifo is not waited for.
        let quiet = OFlags::NOCTTY | OFlags::NONBLOCK;
        let flags = OFlags::CLOEXEC | if flags.contains(OFlags::PATH) { flags } else { flags | quiet };
        openat2(&self.root, path, flags, Mode::empty(), WITHIN).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => {
                PortError::new(ErrorCode::NotFound, format!("there is no {path} in this file system"))
            }
            Errno::LOOP | Errno::XDEV => {
                PortError::new(ErrorCode::Invalid, format!("{path} leads nowhere within this file system"))
            }
            e => PortError::new(ErrorCode::Corrupt, format!("{path} cannot be opened: {e}")),
        })
    }

    /// What a directory holds, by name, or what is there itself.
    pub fn entries(&self, path: &str) -> Result<Vec<FileEntry>, PortError> {
        let path = path.trim_end_matches('/');
        let held = self.open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let broken = |e: Errno| PortError::new(ErrorCode::Corrupt, format!("{path} cannot be read: {e}"));
        let stat = rustix::fs::fstat(&held).map_err(broken)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let name = path.rsplit('/').next().unwrap_or(path);
            let target = readlinkat(&held, "", Vec::new()).ok();
            return Ok(vec![file_entry(name.as_bytes(), &stat, target)]);
        }
        let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory).map_err(broken)?.take(MOST) {
            let entry = entry.map_err(broken)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // What cannot be looked at is no reason to show nothing of the rest.
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            let target = if link { readlinkat(&directory, name, Vec::new()).ok() } else { None };
            entries.push(file_entry(name.to_bytes(), &stat, target));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// A file, ready to be read. Links are followed within the file system.
    pub fn file(&self, path: &str) -> Result<File, PortError> {
        let file = self.open(path, OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(&file).map_err(|e| cannot("look at the file", e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(PortError::new(ErrorCode::Invalid, format!("{path} is no file")));
        }
        Ok(File::from(file))
    }
}

fn file_entry(name: &[u8], stat: &Stat, target: Option<std::ffi::CString>) -> FileEntry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::BlockDevice => FileKind::Block,
        FileType::CharacterDevice => FileKind::Char,
        _ => FileKind::File,
    };
    let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    FileEntry {
        name: lifeboat_files::show(name),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: WallTime(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)),
        target: target.map(|t| lifeboat_files::show(t.as_bytes())),
    }
}
