//! The receiving end's checks, as a state machine without I/O.
//!
//! Invariant: what passes here fits the session (I4): its epoch, its numbers in order without a
//! gap, its disks and their sizes. The journal checks epoch and numbers again where bytes land.

use crate::message::Disk;
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS, MAX_NAME};
use lifeboat_base::{DiskId, Epoch, Seq};
use lifeboat_block::{Body, Record};

/// A frame that does not fit its session; the session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    #[error("record of epoch {found} in a session of epoch {session}")]
    Epoch { found: Epoch, session: Epoch },
    #[error("record {found} follows record {last}")]
    Gap { found: Seq, last: Seq },
    #[error("record names {0}, which this server does not have")]
    NoSuchDisk(DiskId),
    #[error("range {offset}+{len} is outside {disk} of {size} bytes")]
    OutOfDisk { disk: DiskId, offset: u64, len: u64, size: u64 },
    #[error("{0}")]
    Disks(String),
}

/// One session's view of the stream.
#[derive(Debug)]
pub struct Receiver {
    epoch: Epoch,
    last: Seq,
    sizes: Vec<u64>,
}

impl Receiver {
    /// A session that goes on after record `last`, for the disks the agent announced, `known` being
    /// the sizes the site has already.
    ///
    /// # Errors
    /// When the disks are impossible, fewer than before, or smaller than before.
    pub fn new(epoch: Epoch, last: Seq, disks: &[Disk], known: &[u64]) -> Result<Self, ReceiveError> {
        let bad = |m: String| Err(ReceiveError::Disks(m));
        if disks.is_empty() || disks.len() > MAX_DISKS {
            return bad(format!("{} disks were announced; 1 to {MAX_DISKS} are possible", disks.len()));
        }
        if disks.len() < known.len() {
            return bad(format!("{} disks were announced, {} are protected", disks.len(), known.len()));
        }
        for (i, d) in disks.iter().enumerate() {
            if d.index as usize != i || d.name.len() > MAX_NAME * 16 {
                return bad(format!("disk {i} is announced wrongly"));
            }
            if d.size == 0 || d.size > MAX_DISK {
                return bad(format!("disk '{}' has an impossible size of {} bytes", d.name, d.size));
            }
            if let Some(&old) = known.get(i)
                && d.size < old
            {
                return bad(format!(
                    "disk '{}' shrank from {old} to {} bytes; its copy keeps the old size. \
                     Protect the server anew under another name if that is meant",
                    d.name, d.size
                ));
            }
        }
        Ok(Self { epoch, last, sizes: disks.iter().map(|d| d.size).collect() })
    }

    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Checks the records of one frame. Records seen before (a resend) are dropped from the front.
    ///
    /// # Errors
    /// See [`ReceiveError`]; nothing of the frame may be used.
    pub fn records(&mut self, mut records: Vec<Record>) -> Result<Vec<Record>, ReceiveError> {
        let seen = records.iter().take_while(|r| r.seq <= self.last).count();
        let mut last = self.last;
        for r in &records {
            if r.epoch != self.epoch {
                return Err(ReceiveError::Epoch { found: r.epoch, session: self.epoch });
            }
        }
        records.drain(..seen);
        for r in &records {
            if r.seq != last.next() {
                return Err(ReceiveError::Gap { found: r.seq, last });
            }
            last = r.seq;
            self.check_body(&r.body)?;
        }
        self.last = last;
        Ok(records)
    }

    fn check_body(&self, body: &Body) -> Result<(), ReceiveError> {
        match body {
            Body::Data { disk, offset, len, .. } => self.range(*disk, *offset, u64::from(*len)),
            Body::Zero { disk, offset, len } => self.range(*disk, *offset, *len),
            Body::Barrier { .. } => Ok(()),
            Body::Disk { disk, size } => match self.sizes.get(usize::from(disk.0)) {
                Some(s) if s == size => Ok(()),
                _ => Err(ReceiveError::NoSuchDisk(*disk)),
            },
        }
    }

    /// # Errors
    /// When the range does not lie within a disk of this session.
    pub fn range(&self, disk: DiskId, offset: u64, len: u64) -> Result<(), ReceiveError> {
        let Some(&size) = self.sizes.get(usize::from(disk.0)) else {
            return Err(ReceiveError::NoSuchDisk(disk));
        };
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(ReceiveError::OutOfDisk { disk, offset, len, size }),
        }
    }
}

#[cfg(test)]
mod tests;
