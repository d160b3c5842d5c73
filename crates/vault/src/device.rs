//! A disk of a snapshot as a block device.
//!
//! Invariants: read-only; nothing is read before it is asked for, and a little ahead where reads follow each other; what
//! is damaged or missing is an error where it is read, and nowhere else.

use crate::error::VaultError;
use crate::id::ChunkId;
use crate::map;
use crate::snapshot::DiskMap;
use crate::vault::Vault;
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_block::device::check_range;
use lifeboat_block::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Longest list of extents given at once.
const MAX_RUNS: usize = 4096;

/// Readers that each read on where they were.
const READERS: usize = 8;
/// How far is read ahead, in chunks: frames are 16.
const AHEAD: std::ops::Range<u64> = 16..144;

/// See the module's text.
pub struct VaultDevice {
    vault: Vault,
    map: DiskMap,
    /// Where the last reads ended; as many readers may follow the disk at a time.
    ends: [AtomicU64; READERS],
    turn: AtomicUsize,
}

impl VaultDevice {
    pub(crate) fn new(vault: Vault, map: DiskMap) -> Self {
        let ends = [const { AtomicU64::new(u64::MAX) }; READERS];
        Self { vault, map, ends, turn: AtomicUsize::new(0) }
    }

    /// Which chunk is there.
    ///
    /// # Errors
    /// What reading a node says.
    pub fn chunk(&self, number: u64) -> Result<ChunkId, BlockError> {
        Ok(self.chunk_id(number)?)
    }

    pub(crate) fn chunk_id(&self, number: u64) -> Result<ChunkId, VaultError> {
        let top = map::levels(self.map.size) - 1;
        let mut id = self.map.root;
        for level in (0..=top).rev() {
            if id.is_zero() {
                break;
            }
            let node = self.vault.node(&id, level)?;
            let child = number / map::FAN.pow(u32::from(level)) % map::FAN;
            id = node.get(child as usize).copied().unwrap_or(ChunkId::ZERO);
        }
        Ok(id)
    }

    /// Numbers of the first chunk after `number` that is not below the same stored node; the level at which zeros begin.
    fn zeros_until(&self, number: u64) -> Result<u64, VaultError> {
        let top = map::levels(self.map.size) - 1;
        let mut id = self.map.root;
        for level in (0..=top).rev() {
            let below = map::FAN.pow(u32::from(level) + 1);
            if id.is_zero() {
                return Ok((number / below + 1) * below);
            }
            let node = self.vault.node(&id, level)?;
            let child = number / map::FAN.pow(u32::from(level)) % map::FAN;
            id = node.get(child as usize).copied().unwrap_or(ChunkId::ZERO);
        }
        Ok(number + u64::from(id.is_zero()))
    }

    /// Extents as [`BlockDevice::status`] gives them.
    pub(crate) fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, VaultError> {
        let mut runs: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end && runs.len() < MAX_RUNS {
            let number = at / BLOCK as u64;
            let zeros = self.zeros_until(number)?;
            let (next, kind) =
                if zeros > number { (zeros, ExtentKind::Hole) } else { (number + 1, ExtentKind::Data) };
            let until = next.saturating_mul(BLOCK as u64).min(end);
            match runs.last_mut() {
                Some(run) if run.kind == kind => run.len += until - at,
                _ => runs.push(Extent { len: until - at, kind }),
            }
            at = until;
        }
        Ok(runs)
    }

    /// Notes where a read ended; reads ahead where it went on from an earlier one.
    fn follow(&self, offset: u64, end: u64) {
        let known = self.ends.iter().position(|e| e.load(Ordering::Relaxed) == offset);
        let place = known.unwrap_or_else(|| self.turn.fetch_add(1, Ordering::Relaxed) % READERS);
        self.ends[place].store(end, Ordering::Relaxed);
        // Once in each frame's length, and not at all for who jumps about.
        let frame = AHEAD.start * BLOCK as u64;
        if known.is_none() || offset / frame == end / frame {
            return;
        }
        let first = end / BLOCK as u64;
        let last = crate::map::chunks(self.map.size).min(first + AHEAD.end);
        for number in (first + AHEAD.start..last).step_by(AHEAD.start as usize) {
            match self.chunk_id(number) {
                Ok(id) if !id.is_zero() => self.vault.read_ahead(&id),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

impl BlockDevice for VaultDevice {
    fn size(&self) -> u64 {
        self.map.size
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(self.map.size, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let skip = (at % BLOCK as u64) as usize;
            let n = (BLOCK - skip).min(buf.len() - done);
            let out = &mut buf[done..done + n];
            let id = self.chunk_id(at / BLOCK as u64)?;
            if id.is_zero() {
                out.fill(0);
            } else {
                self.vault.read_part(&id, BLOCK, skip, out)?;
            }
            done += n;
        }
        self.follow(offset, offset + buf.len() as u64);
        Ok(())
    }

    fn write(&self, _offset: u64, _data: Bytes) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn write_zeroes(&self, _offset: u64, _len: u64, _mode: ZeroMode) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.map.size, offset, len)?;
        Ok(self.extents(offset, len)?)
    }

    fn has_hash(&self, offset: u64, hash: &[u8; 32]) -> Result<Option<bool>, BlockError> {
        check_range(self.map.size, offset, BLOCK as u64)?;
        if !offset.is_multiple_of(BLOCK as u64) {
            return Ok(None);
        }
        let id = self.chunk_id(offset / BLOCK as u64)?;
        let offered = self.vault.content_id(&blake3::Hash::from_bytes(*hash));
        if id.is_zero() {
            return Ok(None);
        }
        // What is known to be lost or damaged is not here, whatever the map says.
        Ok(Some(id == offered && self.vault.has(&id)?))
    }
}

#[cfg(test)]
mod tests;
