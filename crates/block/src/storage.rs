//! Files that must survive a crash, behind a trait so that tests can make them fail.

mod memory;

pub use memory::{MemoryStorage, StorageCall, StorageFault};

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One directory of files. Names are plain file names.
pub trait Storage: Send + Sync {
    /// Makes a new empty file for reading and writing; fails if it exists.
    ///
    /// # Errors
    /// What the system reports.
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;

    /// # Errors
    /// What the system reports; `NotFound` when there is no such file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>>;

    /// Names of all files.
    ///
    /// # Errors
    /// What the system reports.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Replaces `to` with `from` at once.
    ///
    /// # Errors
    /// What the system reports.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// # Errors
    /// What the system reports.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals so far outlast a power cut.
    ///
    /// # Errors
    /// What the system reports.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the directory for this value alone; `None` when somebody has it.
    ///
    /// # Errors
    /// What the system reports.
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;
}

/// An open file.
pub trait LogFile: Send + Sync {
    /// Reads at most `buf.len()` bytes; 0 at the end.
    ///
    /// # Errors
    /// What the system reports.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at least one and at most `data.len()` bytes.
    ///
    /// # Errors
    /// What the system reports.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;

    /// Puts content and length on stable storage.
    ///
    /// # Errors
    /// What the system reports. Afterwards nothing may be assumed stable.
    fn sync(&self) -> io::Result<()>;

    /// The range was written and will be synced: the disk may begin. Promises nothing.
    fn begin_sync(&self, _offset: u64, _len: u64) {}

    /// # Errors
    /// What the system reports.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the file at least `len` bytes long with room for all of them, reading as zeros. A sync of bytes
    /// written into such room is several times as fast as one that makes the file longer.
    ///
    /// # Errors
    /// What the system reports; the file may then be longer than before.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// # Errors
    /// What the system reports.
    fn len(&self) -> io::Result<u64>;

    /// # Errors
    /// What the system reports.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Writes all of `data`.
///
/// # Errors
/// What the system reports.
pub fn write_all(file: &dyn LogFile, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.write_at(data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                data = &data[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Fills `buf` as far as the file goes; tells how far.
///
/// # Errors
/// What the system reports.
pub fn read_most(file: &dyn LogFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The whole file; an error when it is longer than `limit`.
///
/// # Errors
/// What the system reports, and when it is longer.
pub fn read_whole(file: &dyn LogFile, limit: u64) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is longer than it can be"));
    }
    let mut content = vec![0; len as usize];
    let n = read_most(file, &mut content, 0)?;
    content.truncate(n);
    Ok(content)
}

/// A real directory.
#[derive(Debug)]
pub struct DirStorage {
    dir: PathBuf,
}

impl DirStorage {
    /// Uses `dir`; makes it when it is missing, readable by its owner only.
    ///
    /// # Errors
    /// What the system reports.
    pub fn new(dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_path_buf() })
    }
}

impl Storage for DirStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.dir.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }
}

impl LogFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn begin_sync(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
        // SAFETY: plain system call on an open file. What becomes of it, the sync will tell.
        unsafe { libc::sync_file_range(self.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(nix::fcntl::fallocate(self, nix::fcntl::FallocateFlags::empty(), 0, len)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
