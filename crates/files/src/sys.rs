//! The file system by directory descriptors.
//!
//! Invariant: no name here is more than one component, and none is followed when it is a symbolic link. So nothing that
//! happens to a directory meanwhile leads anywhere else.

use crate::tree::{MAX_XATTRS, Time, Xattr, is_name};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, openat, statat};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// Directories and files are opened with this, and only what a caller adds.
const ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NOCTTY);

/// Reading leaves no trace where this process may ask for that: the owner's files, or everything as root.
fn open_quietly(at: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match openat(at, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(at, name, flags, Mode::empty()),
        other => other,
    }
}

pub fn open_root(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub fn open_dir(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    check(name)?;
    open_quietly(at.as_fd(), name, ALWAYS | OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Does not wait for anybody when it is a fifo by now.
pub fn open_file(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    check(name)?;
    open_quietly(at.as_fd(), name, ALWAYS | OFlags::RDONLY | OFlags::NONBLOCK)
}

/// A new file, for this process only so far.
pub fn create(at: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    check(name)?;
    openat(at, name, ALWAYS | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
}

/// A directory below `root`, one component at a time.
pub fn beneath(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut here = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
        here = open_dir(&here, part)?;
    }
    Ok(here)
}

pub fn stat(at: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    check(name)?;
    statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Everything that relies on a name's being one component asks here.
fn check(name: &[u8]) -> Result<(), Errno> {
    if is_name(name) { Ok(()) } else { Err(Errno::INVAL) }
}

pub fn mtime(stat: &Stat) -> Time {
    Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

pub fn ctime(stat: &Stat) -> Time {
    Time { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 }
}

/// Names in a directory, sorted; `.` and `..` are not among them. Those a tree cannot keep are given to `odd`, and whether
/// it is a directory that has one.
pub fn names(directory: &OwnedFd, odd: &mut dyn FnMut(&[u8], bool)) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if is_name(name) {
            names.push(name.to_vec());
            if names.len() > crate::tree::MAX_ENTRIES {
                return Err(io::Error::other("it has too many entries"));
            }
        } else if name != b"." && name != b".." {
            odd(name, entry.file_type() == FileType::Directory);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// `name` in an open directory, as a path for calls that have no form with a descriptor. The last component is not
/// followed by those that begin with `l`.
fn by_proc(at: impl AsFd, name: &[u8]) -> Result<CString, Errno> {
    check(name)?;
    let mut path = format!("/proc/self/fd/{}/", at.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// How a thing's attributes are reached.
#[derive(Clone, Copy)]
pub enum On<'a> {
    File(BorrowedFd<'a>),
    /// A name in a directory, not followed.
    Name(BorrowedFd<'a>, &'a [u8]),
}

fn list(on: On<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    match on {
        On::File(fd) => rustix::fs::flistxattr(fd, buffer),
        On::Name(at, name) => rustix::fs::llistxattr(by_proc(at, name)?.as_c_str(), buffer),
    }
}

fn get(on: On<'_>, xattr: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
    match on {
        On::File(fd) => rustix::fs::fgetxattr(fd, xattr, buffer),
        On::Name(at, name) => rustix::fs::lgetxattr(by_proc(at, name)?.as_c_str(), xattr, buffer),
    }
}

/// Calls with a buffer that is large enough.
fn sized(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    loop {
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX_XATTRS => buffer.resize(buffer.len() * 8, 0),
            Err(e) => return Err(e),
        }
    }
}

/// Attributes by name, and whether all of them are there: what is beyond [`MAX_XATTRS`] is left out.
pub fn xattrs(on: On<'_>) -> Result<(Vec<Xattr>, bool), Errno> {
    let mut small = [0; 512];
    let names = match list(on, &mut small) {
        Ok(len) => small[..len].to_vec(),
        Err(Errno::RANGE) => sized(|b| list(on, b))?,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok((Vec::new(), true)),
        Err(e) => return Err(e),
    };
    let (mut out, mut all, mut sum) = (Vec::new(), true, 0);
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let value = match sized(|b| get(on, name, b)) {
            Ok(value) => value,
            // Gone since, or for nobody to read.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(Errno::RANGE) => {
                all = false;
                continue;
            }
            Err(e) => return Err(e),
        };
        sum += name.len() + value.len();
        if sum > MAX_XATTRS {
            all = false;
            break;
        }
        out.push(Xattr { name: name.to_vec(), value });
    }
    out.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok((out, all))
}

pub fn set_xattr(on: On<'_>, xattr: &Xattr) -> Result<(), Errno> {
    let (name, flags) = (xattr.name.as_slice(), rustix::fs::XattrFlags::empty());
    match on {
        On::File(fd) => rustix::fs::fsetxattr(fd, name, &xattr.value, flags),
        On::Name(at, entry) => {
            rustix::fs::lsetxattr(by_proc(at, entry)?.as_c_str(), name, &xattr.value, flags)
        }
    }
}

pub fn remove_xattr(on: On<'_>, name: &[u8]) -> Result<(), Errno> {
    match on {
        On::File(fd) => rustix::fs::fremovexattr(fd, name),
        On::Name(at, entry) => rustix::fs::lremovexattr(by_proc(at, entry)?.as_c_str(), name),
    }
}

/// File systems in which the kernel shows itself: nothing in them can be put back.
pub fn is_kernels(directory: &OwnedFd) -> bool {
    const KERNELS: &[u32] = &[
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0x7363_6673, // securityfs
        0x6165_676c, // pstore
        0xcafe_4a11, // bpf
        0x1cd1,      // devpts
        0x1980_0202, // mqueue
        0xde5e_81e4, // efivarfs
        0x6265_6570, // configfs
        0x4249_4e4d, // binfmt_misc
    ];
    rustix::fs::fstatfs(directory).is_ok_and(|f| KERNELS.contains(&(f.f_type as u32)))
}
