//! The block device every part of Lifeboat speaks to.

use bytes::Bytes;
use std::io;

/// Why a block device could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The range does not lie within the device.
    #[error("range {offset}+{len} is outside the device of {size} bytes")]
    OutOfRange { offset: u64, len: u64, size: u64 },
    #[error("the device is read-only")]
    ReadOnly,
    #[error("no space is left to store the write")]
    NoSpace,
    /// Stored bytes are not what was written. Never served as data (I3).
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The device is going away; the caller may reconnect.
    #[error("the device is shutting down")]
    Shutdown,
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for BlockError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io(e),
        }
    }
}

/// What a byte range of a device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    Data,
    /// Reads as zeros and takes storage.
    Zero,
    /// Reads as zeros and takes no storage.
    Hole,
}

/// A run of bytes of one kind, as [`BlockDevice::status`] lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub len: u64,
    pub kind: ExtentKind,
}

/// How zeros may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroMode {
    /// Storage may be given back.
    MayPunch,
    /// Storage must stay allocated (NBD's `NO_HOLE`).
    Allocate,
}

/// A disk of a fixed size, addressed in bytes.
///
/// Calls block. All methods may be called from many threads at once; calls that overlap in range
/// and time take effect in some order, each whole. A write that returned is visible to every later
/// read; it is on stable storage only after a later [`flush`](Self::flush) returned `Ok`.
pub trait BlockDevice: Send + Sync {
    /// Size in bytes. Constant for the life of the value.
    fn size(&self) -> u64;

    fn read_only(&self) -> bool {
        false
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`], [`BlockError::Corrupt`] and what the storage reports. `buf` holds
    /// no meaning after an error.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError>;

    /// Writes `data` at `offset`. Takes shared bytes so that a capture can keep them without a copy.
    ///
    /// # Errors
    /// After an error the range holds any mixture of old and new bytes.
    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError>;

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError>;

    /// The range is not needed any more. Here it always reads as zeros afterwards, so that a
    /// copy of the device can be exact.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn trim(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.write_zeroes(offset, len, ZeroMode::MayPunch)
    }

    /// Puts every write that returned before this call on stable storage.
    ///
    /// # Errors
    /// After an error nothing may be assumed stable, now or later (I2).
    fn flush(&self) -> Result<(), BlockError>;

    /// Runs that cover at least the start of `offset..offset+len`, in order, never more than `len`
    /// bytes in total, at least one run when `len > 0`. May stop early.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.size(), offset, len)?;
        Ok(vec![Extent { len, kind: ExtentKind::Data }])
    }

    /// Whether the 64 KiB at `offset` have this BLAKE3 hash, where that is known without reading them; `None` where they
    /// have to be read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn has_hash(&self, _offset: u64, _hash: &[u8; 32]) -> Result<Option<bool>, BlockError> {
        Ok(None)
    }
}

/// Whether every byte is zero.
pub fn is_zero(content: &[u8]) -> bool {
    // SAFETY: any bytes are valid u64s; align_to keeps the unaligned ends apart.
    let (head, words, tail) = unsafe { content.align_to::<u64>() };
    head.iter().chain(tail).all(|b| *b == 0) && words.iter().all(|w| *w == 0)
}

/// # Errors
/// [`BlockError::OutOfRange`] when `offset + len` overflows or passes `size`.
pub fn check_range(size: u64, offset: u64, len: u64) -> Result<(), BlockError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(BlockError::OutOfRange { offset, len, size }),
    }
}
