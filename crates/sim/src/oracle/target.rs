//! What the oracle writes to and reads back.

use crate::nbd::NbdClient;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// A disk. Calls come from many threads at once.
pub trait Target: Send + Sync {
    /// In bytes.
    fn size(&self) -> u64;
    fn can_zero(&self) -> bool {
        true
    }
    fn can_trim(&self) -> bool {
        true
    }
    /// # Errors
    /// As the disk reports.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// # Errors
    /// As the disk reports.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// # Errors
    /// As the disk reports.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Lifeboat promises zeros after a trim; a target that does not should say it cannot.
    ///
    /// # Errors
    /// As the disk reports.
    fn trim(&self, offset: u64, len: u64) -> io::Result<()>;
    /// # Errors
    /// As the disk reports.
    fn flush(&self) -> io::Result<()>;
}

/// Opens `nbd-unix:SOCKET[:EXPORT]`, `nbd-tcp:HOST:PORT[/EXPORT]`, `file:PATH`, `direct:PATH` (without the page cache), or a
/// plain path. A file that is absent or shorter is made `size` bytes long when `size` is given.
///
/// # Errors
/// As opening reports.
pub fn open(name: &str, size: Option<u64>) -> io::Result<Arc<dyn Target>> {
    if let Some(rest) = name.strip_prefix("nbd-") {
        return Ok(Arc::new(NbdClient::connect(rest)?));
    }
    let (path, direct) = match name.split_once(':') {
        Some(("file", path)) => (path, false),
        Some(("direct", path)) => (path, true),
        _ => (name, false),
    };
    Ok(Arc::new(FileTarget::open(Path::new(path), size, direct)?))
}

/// A file or block device.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    size: u64,
    direct: bool,
    device: bool,
}

impl FileTarget {
    /// # Errors
    /// As opening reports. Opens read-only when writing is not allowed.
    pub fn open(path: &Path, size: Option<u64>, direct: bool) -> io::Result<Self> {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let open = |write: bool| {
            let create = write && size.is_some();
            OpenOptions::new().read(true).write(write).create(create).custom_flags(flags).open(path)
        };
        let mut file = open(true).or_else(|_| open(false))?;
        let device = !file.metadata()?.is_file();
        let mut have = file.seek(io::SeekFrom::End(0))?;
        if let Some(wanted) = size
            && !device
            && have < wanted
        {
            file.set_len(wanted)?;
            have = wanted;
        }
        Ok(Self { file, size: have, direct, device })
    }

    fn punch(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for as long as `self.file` lives.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE, at, len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Memory aligned to a block, as `O_DIRECT` wants it.
fn aligned(len: usize) -> (Vec<u8>, std::ops::Range<usize>) {
    let bytes = vec![0; len + super::BLOCK];
    let start = bytes.as_ptr().align_offset(super::BLOCK);
    (bytes, start..start + len)
}

impl Target for FileTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn can_trim(&self) -> bool {
        // What a real device returns after a discard is its own affair.
        !self.device
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if !self.direct {
            return self.file.read_exact_at(buf, offset);
        }
        let (mut bytes, range) = aligned(buf.len());
        self.file.read_exact_at(&mut bytes[range.clone()], offset)?;
        buf.copy_from_slice(&bytes[range]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.direct {
            return self.file.write_all_at(data, offset);
        }
        let (mut bytes, range) = aligned(data.len());
        bytes[range.clone()].copy_from_slice(data);
        self.file.write_all_at(&bytes[range], offset)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.punch(libc::FALLOC_FL_ZERO_RANGE, offset, len) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.write(offset, &vec![0; usize::try_from(len).map_err(io::Error::other)?])
            }
            other => other,
        }
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.punch(libc::FALLOC_FL_PUNCH_HOLE, offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
