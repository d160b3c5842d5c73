//! Disks into the vault.
//!
//! Invariants: content comes from one place, the device, in ascending order; holes and zeros are not read and not stored;
//! what is outside the ranges given is as in the map it builds on.

use crate::device::VaultDevice;
use crate::error::VaultError;
use crate::id::ChunkId;
use crate::map::MapWriter;
use crate::pack::Kind;
use crate::session::Session;
use crate::snapshot::DiskRoot;
use bytes::Bytes;
use lifeboat_base::DiskId;
use lifeboat_base::limits::{BLOCK, MIB};
use lifeboat_block::{BlockDevice, BlockError, ExtentKind, is_zero};
use std::ops::Range;

/// Content read at once.
const PIECE: u64 = MIB as u64;
/// How far is looked for holes at once, in bytes.
const LOOK: u64 = 16 * MIB as u64;

/// Why a disk was not stored.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The disk could not be read.
    #[error(transparent)]
    Source(BlockError),
}

impl From<BlockError> for IngestError {
    fn from(e: BlockError) -> Self {
        Self::Source(e)
    }
}

/// Stores a disk: `ranges` of it, whole blocks in ascending order, over what `old` is; all of it without `old`. `pace` is
/// told how many bytes were just read, waits where that was too fast, and says whether to go on.
///
/// # Errors
/// `Cancelled` when `pace` says so; what the device and the session say.
pub fn disk(
    session: &Session,
    disk: DiskId,
    device: &dyn BlockDevice,
    old: Option<DiskRoot>,
    ranges: impl IntoIterator<Item = Range<u64>>,
    pace: &dyn Fn(u64) -> bool,
) -> Result<DiskRoot, IngestError> {
    let size = device.size();
    let before = old.map(|o| session.vault().map_device(o.map));
    let mut writer = Writer {
        session,
        device,
        old: before.as_ref(),
        map: session.map(old.map(|o| o.map), size)?,
        used: old.map_or(0, |o| o.used),
        pace,
    };
    for range in ranges {
        writer.run(range.start, range.end.min(size))?;
    }
    let Writer { map, mut used, .. } = writer;
    if let Some(before) = &before {
        used = used.saturating_sub(beyond(before, size)?);
    }
    Ok(DiskRoot { disk, map: map.finish()?, used })
}

/// Bytes of chunks that a smaller disk no longer has.
fn beyond(old: &VaultDevice, size: u64) -> Result<u64, VaultError> {
    let (mut at, mut bytes) = (size.next_multiple_of(BLOCK as u64), 0);
    while at < old.size() {
        for run in old.extents(at, old.size() - at)? {
            if run.kind == ExtentKind::Data {
                bytes += run.len.next_multiple_of(BLOCK as u64);
            }
            at += run.len;
        }
    }
    Ok(bytes)
}

/// A disk's map while it is made.
struct Writer<'a> {
    session: &'a Session,
    device: &'a dyn BlockDevice,
    old: Option<&'a VaultDevice>,
    map: MapWriter<'a>,
    used: u64,
    pace: &'a dyn Fn(u64) -> bool,
}

impl Writer<'_> {
    fn run(&mut self, from: u64, to: u64) -> Result<(), IngestError> {
        let mut at = from;
        while at < to {
            let end = at.saturating_add(LOOK).min(to);
            for data in self.data(at, end)? {
                self.zero(at, data.start)?;
                at = data.start;
                while at < data.end {
                    let n = PIECE.min(data.end - at);
                    self.copy(at, n as usize)?;
                    at += n;
                }
            }
            self.zero(at, end)?;
            at = end;
        }
        Ok(())
    }

    /// Blocks of a range that may hold something, in order.
    fn data(&self, from: u64, to: u64) -> Result<Vec<Range<u64>>, IngestError> {
        let block = BLOCK as u64;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = from;
        while at < to {
            for run in self.device.status(at, to - at)? {
                let next = at + run.len;
                if run.kind == ExtentKind::Data {
                    let (first, end) = (at - at % block, next.next_multiple_of(block).min(to));
                    match ranges.last_mut() {
                        Some(last) if last.end >= first => last.end = last.end.max(end),
                        _ => ranges.push(first..end),
                    }
                }
                at = next;
            }
        }
        Ok(ranges)
    }

    fn zero(&mut self, from: u64, to: u64) -> Result<(), VaultError> {
        if self.old.is_some() {
            (from..to).step_by(BLOCK).try_for_each(|offset| self.set(offset, ChunkId::ZERO))?;
        }
        Ok(())
    }

    fn copy(&mut self, at: u64, len: usize) -> Result<(), IngestError> {
        // The end of a disk is filled up: every chunk is a whole one.
        let mut piece = vec![0; len.next_multiple_of(BLOCK)];
        self.device.read(at, &mut piece[..len])?;
        if !(self.pace)(len as u64) {
            return Err(VaultError::Cancelled.into());
        }
        let piece = Bytes::from(piece);
        for first in (0..piece.len()).step_by(BLOCK) {
            let offset = at + first as u64;
            let content = piece.slice(first..first + BLOCK);
            if is_zero(&content) {
                self.zero(offset, offset + 1)?;
            } else {
                let id = self.session.put(Kind::Data, content)?;
                self.set(offset, id)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, offset: u64, id: ChunkId) -> Result<(), VaultError> {
        let number = offset / BLOCK as u64;
        let old = match self.old {
            Some(old) if offset < old.size() => old.chunk_id(number)?,
            _ => ChunkId::ZERO,
        };
        if !old.is_zero() {
            self.used = self.used.saturating_sub(BLOCK as u64);
        }
        if !id.is_zero() {
            self.used += BLOCK as u64;
        }
        self.map.set(number, id)
    }
}

#[cfg(test)]
mod tests;
