//! A raw file or a Linux block device.

use crate::device::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, check_range};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

/// Reads and writes go through the page cache; [`flush`](BlockDevice::flush) is `fdatasync`.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    size: u64,
    kind: Kind,
    read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Block,
}

// linux/fs.h
nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);

impl FileDevice {
    /// Opens an existing raw file or block device.
    ///
    /// # Errors
    /// What the system reports, or `InvalidInput` when it is neither a regular file nor a block device.
    pub fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        let meta = file.metadata()?;
        let (kind, size) = if meta.file_type().is_block_device() {
            let mut size = 0u64;
            // SAFETY: `file` is an open block device and BLKGETSIZE64 writes one u64.
            unsafe { blkgetsize64(file.as_raw_fd(), &raw mut size) }?;
            (Kind::Block, size)
        } else if meta.is_file() {
            (Kind::Regular, meta.len())
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is neither a regular file nor a block device", path.display()),
            ));
        };
        Ok(Self { file, size, kind, read_only })
    }

    /// Creates a sparse file of `size` bytes. Fails if it exists.
    ///
    /// # Errors
    /// What the system reports.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_len(size)?;
        Ok(Self { file, size, kind: Kind::Regular, read_only: false })
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        let to_off =
            |v: u64| libc::off_t::try_from(v).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        // SAFETY: plain system call on an open file.
        let rc = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, to_off(offset)?, to_off(len)?) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn write_zero_bytes(&self, mut offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let end = offset + len;
        while offset < end {
            let n = (end - offset).min(ZEROS.len() as u64) as usize;
            self.file.write_all_at(&ZEROS[..n], offset)?;
            offset += n as u64;
        }
        Ok(())
    }

    fn seek(&self, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
        let off = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: plain system call on an open file. No code here uses the file's own position.
        let at = unsafe { libc::lseek(self.file.as_raw_fd(), off, whence) };
        if at >= 0 {
            return Ok(Some(at as u64));
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(e) }
    }
}

fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL))
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                BlockError::Io(io::Error::other("the file is shorter than it was when it was opened"))
            } else {
                e.into()
            }
        })
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        check_range(self.size, offset, data.len() as u64)?;
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        Ok(self.file.write_all_at(&data, offset)?)
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError> {
        check_range(self.size, offset, len)?;
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        if len == 0 {
            return Ok(());
        }
        let done = match (self.kind, mode) {
            (Kind::Regular, ZeroMode::MayPunch) => {
                self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
            }
            (Kind::Regular, ZeroMode::Allocate) => {
                self.fallocate(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
            }
            // SAFETY: the argument is the {offset, length} pair BLKZEROOUT reads.
            (Kind::Block, _) => unsafe { blkzeroout(self.file.as_raw_fd(), &[offset, len]) }
                .map(drop)
                .map_err(io::Error::from),
        };
        match done {
            Err(e) if unsupported(&e) => Ok(self.write_zero_bytes(offset, len)?),
            other => Ok(other?),
        }
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(self.file.sync_data()?)
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.size, offset, len)?;
        if self.kind == Kind::Block || len == 0 {
            return Ok(vec![Extent { len, kind: ExtentKind::Data }]);
        }
        let end = offset + len;
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end && runs.len() < 1024 {
            let data = self.seek(at, libc::SEEK_DATA)?.unwrap_or(end).min(end);
            if data > at {
                runs.push(Extent { len: data - at, kind: ExtentKind::Hole });
                at = data;
            }
            if at < end {
                let hole = self.seek(at, libc::SEEK_HOLE)?.unwrap_or(end).min(end);
                if hole <= at {
                    // The file changed between the two look-ups; look again.
                    continue;
                }
                runs.push(Extent { len: hole - at, kind: ExtentKind::Data });
                at = hole;
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests;
