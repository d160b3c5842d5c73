//! A block device as a file in a FUSE mount that is attached nowhere, and as a loop device over that file.
//!
//! Invariant: this process both serves the file and, through the loop device, waits for it. So nothing that happens when it
//! dies may ask the file for an answer: closing it and syncing it ask nothing (the kernel is told so), it is open no longer
//! than a loop device needs, and a watchdog ends what was under way.

use crate::backup::files_error;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use lifeboat_api::port::PortError;
use lifeboat_block::{BlockDevice, BlockError, CowOverlay, MemoryDevice};
use lifeboat_files::fuse::{Detached, Watchdog};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open, openat};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Most bytes a replay of a file system's journal may write.
const REPLAY: u64 = 256 << 20;
const FOREVER: Duration = Duration::from_secs(24 * 3600);
const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
const THREADS: usize = 2;

/// A disk as a file.
pub struct Export {
    /// Before the mount: it watches over that.
    _watchdog: Option<Watchdog>,
    /// Ends when it is dropped and nobody uses the file any more.
    mount: Detached,
}

impl Export {
    pub fn new(device: Arc<dyn BlockDevice>) -> Result<Self, PortError> {
        let upper = Arc::new(MemoryDevice::new(device.size()));
        let device = CowOverlay::new(device, upper).map_err(|e| super::look::unreadable(&e))?;
        let files = DiskFile { device, written: AtomicU64::new(0) };
        let mount = Detached::serve(files, "lifeboat-disk", THREADS, true).map_err(|e| files_error(&e))?;
        let watchdog = mount.watch().inspect_err(|e| {
            tracing::warn!("nobody watches over a look into a disk: {e}; if this process is killed in the middle, it may stay");
        });
        Ok(Self { _watchdog: watchdog.ok(), mount })
    }

    /// A loop device over a part of it, which goes when it is closed everywhere.
    pub fn part(&self, offset: u64, len: u64) -> Result<(OwnedFd, String), io::Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(self.mount.root(), NAME, flags, Mode::empty())?;
        let control = open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the call takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = format!("/dev/loop{number}");
            let device = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            let config = LoopConfig::new(file.as_raw_fd(), offset, len);
            // SAFETY: `config` has the layout of the kernel's `struct loop_config` and lives through the call.
            let set = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
            if set == 0 {
                return Ok((device, path));
            }
            let e = io::Error::last_os_error();
            // Somebody else was faster.
            if e.raw_os_error() != Some(libc::EBUSY) {
                return Err(e);
            }
        }
        Err(io::Error::other("every loop device is taken"))
    }
}

const ATTEMPTS: usize = 16;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
/// It goes with its last user.
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` of linux/loop.h, `struct loop_info64` included.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopConfig {
    fn new(fd: i32, offset: u64, sizelimit: u64) -> Self {
        Self {
            fd: fd.unsigned_abs(),
            block_size: 0,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            sizelimit,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        }
    }
}

/// The file system that has the disk as its only file.
struct DiskFile {
    device: CowOverlay,
    written: AtomicU64,
}

fn errno(e: &BlockError) -> Errno {
    match e {
        BlockError::NoSpace => Errno::ENOSPC,
        BlockError::ReadOnly => Errno::EROFS,
        e => {
            tracing::warn!("a disk that is looked into cannot be read: {e}");
            Errno::EIO
        }
    }
}

impl DiskFile {
    fn attributes(&self, number: INodeNo) -> FileAttr {
        let directory = number != DISK;
        let size = if directory { 0 } else { self.device.size() };
        FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o500 } else { 0o600 },
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for DiskFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&FOREVER, &self.attributes(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(number));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = self.device.size().saturating_sub(offset).min(u64::from(size));
        let mut buffer = vec![0; len as usize];
        match self.device.read(offset, &mut buffer) {
            Ok(()) => reply.data(&buffer),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.written.fetch_add(data.len() as u64, Ordering::Relaxed) > REPLAY {
            return reply.error(Errno::ENOSPC);
        }
        match self.device.write(offset, bytes::Bytes::copy_from_slice(data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(errno(&e)),
        }
    }

    /// Never to be asked again: what is written here is worth nothing after this process.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}
