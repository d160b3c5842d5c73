//! The bytes of a segment.
//!
//! Invariants: all numbers are little-endian; a record is never moved; positions fit 32 bits.
//!
//! ```text
//! segment header, 128 bytes            record header, 64 bytes, then payload, then 16 bytes of tag
//!   0  "LBJSEG01"                        0  "LBR1"
//!   8  version u16 = 1                   4  kind u8: 1 data 2 zero 3 barrier 4 disk 5 epoch 6 supplied
//!  10  flags u16: 1 = base               5  detail u8: codec of data, kind of barrier
//!  12  crc u32 (see below)               6  disk u16
//!  16  journal id                        8  crc u32: CRC32C of this header with crc = 0,
//!  32  segment id                           then the sealed payload and the tag
//!  48  first seq u64                    12  payload length u32
//!  56  epoch u32                        16  len u64: data, zero: bytes of disk; disk: its size;
//!  60  0 u32                                barrier: bytes of data since the barrier before
//!  64  created u64, ns since 1970       24  offset u64: data, zero: on the disk;
//!  72  0                                    barrier: site's wall time, ns since 1970
//! 128  records                          32  seq u64
//!                                       40  source's wall time u64, ns since 1970
//! crc: CRC32C of the 128 bytes          48  epoch u32
//! with crc = 0.                         52  content crc u32: CRC32C of the decoded data
//!                                       56  clock u32: barrier: seconds this journal has been open
//!                                       60  durable u32: the bytes of this segment before this
//!                                           position were on stable storage when it was written
//! ```
//!
//! Supplied is data that the stream named and did not bring. It has the number of the record that comes next and takes none
//! itself: a point before that record is without it, every one after it includes it.
//!
//! `durable` tells damage from a torn tail: a bad record before a position that a later good record calls durable
//! was whole once.

use crate::seal::TAG;
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS, MAX_RECORD};
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};
use lifeboat_block::{BarrierKind, Codec};

pub(crate) const SEGMENT_HEADER: usize = 128;
pub(crate) const RECORD_HEADER: usize = 64;
pub(crate) const MAGIC: [u8; 4] = *b"LBR1";
/// Bytes a record takes besides its payload.
pub(crate) const OVERHEAD: usize = RECORD_HEADER + TAG;

const SEGMENT_MAGIC: [u8; 8] = *b"LBJSEG01";
const VERSION: u16 = 1;
const FLAG_BASE: u16 = 1;
const CRC_AT: usize = 8;

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    let mut v = [0; 2];
    v.copy_from_slice(&b[at..at + 2]);
    u16::from_le_bytes(v)
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    let mut v = [0; 4];
    v.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(v)
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(v)
}

pub(crate) fn id_at(b: &[u8], at: usize) -> [u8; 16] {
    let mut v = [0; 16];
    v.copy_from_slice(&b[at..at + 16]);
    v
}

/// The first bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub journal: [u8; 16],
    pub id: [u8; 16],
    /// Made by folding: some sequence numbers are missing on purpose.
    pub base: bool,
    pub first: Seq,
    pub epoch: Epoch,
    pub created: WallTime,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut b = [0; SEGMENT_HEADER];
        b[..8].copy_from_slice(&SEGMENT_MAGIC);
        b[8..10].copy_from_slice(&VERSION.to_le_bytes());
        b[10..12].copy_from_slice(&(if self.base { FLAG_BASE } else { 0 }).to_le_bytes());
        b[16..32].copy_from_slice(&self.journal);
        b[32..48].copy_from_slice(&self.id);
        b[48..56].copy_from_slice(&self.first.0.to_le_bytes());
        b[56..60].copy_from_slice(&self.epoch.0.to_le_bytes());
        b[64..72].copy_from_slice(&self.created.0.to_le_bytes());
        let crc = crc32c::crc32c(&b);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `None` when the bytes are not a whole header of a version we know.
    pub(crate) fn decode(b: &[u8]) -> Option<Self> {
        let mut copy: [u8; SEGMENT_HEADER] = b.try_into().ok()?;
        let crc = u32_at(b, 12);
        copy[12..16].fill(0);
        if copy[..8] != SEGMENT_MAGIC || crc32c::crc32c(&copy) != crc || u16_at(b, 8) != VERSION {
            return None;
        }
        Some(Self {
            journal: id_at(b, 16),
            id: id_at(b, 32),
            base: u16_at(b, 10) & FLAG_BASE != 0,
            first: Seq(u64_at(b, 48)),
            epoch: Epoch(u32_at(b, 56)),
            created: WallTime(u64_at(b, 64)),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Data = 1,
    Zero = 2,
    Barrier = 3,
    Disk = 4,
    Epoch = 5,
    Supplied = 6,
}

impl Kind {
    pub(crate) fn from_u8(v: u8) -> Option<Self> {
        [Self::Data, Self::Zero, Self::Barrier, Self::Disk, Self::Epoch, Self::Supplied]
            .into_iter()
            .find(|k| *k as u8 == v)
    }

    /// Whether it brings content.
    pub(crate) fn is_content(self) -> bool {
        matches!(self, Self::Data | Self::Supplied)
    }
}

/// The fixed part of a record. Fields as in the diagram above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub detail: u8,
    pub disk: DiskId,
    pub payload: u32,
    pub len: u64,
    pub offset: u64,
    pub seq: Seq,
    pub time: WallTime,
    pub epoch: Epoch,
    pub content_crc: u32,
    pub clock: u32,
    pub durable: u32,
}

impl Header {
    /// The header with its checksum left zero, as it is sealed.
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER] {
        let mut b = [0; RECORD_HEADER];
        b[..4].copy_from_slice(&MAGIC);
        b[4] = self.kind as u8;
        b[5] = self.detail;
        b[6..8].copy_from_slice(&self.disk.0.to_le_bytes());
        b[12..16].copy_from_slice(&self.payload.to_le_bytes());
        b[16..24].copy_from_slice(&self.len.to_le_bytes());
        b[24..32].copy_from_slice(&self.offset.to_le_bytes());
        b[32..40].copy_from_slice(&self.seq.0.to_le_bytes());
        b[40..48].copy_from_slice(&self.time.0.to_le_bytes());
        b[48..52].copy_from_slice(&self.epoch.0.to_le_bytes());
        b[52..56].copy_from_slice(&self.content_crc.to_le_bytes());
        b[56..60].copy_from_slice(&self.clock.to_le_bytes());
        b[60..64].copy_from_slice(&self.durable.to_le_bytes());
        b
    }

    /// `None` when a field is out of bounds; the checksum is not looked at.
    pub(crate) fn decode(b: &[u8]) -> Option<Self> {
        if b.len() < RECORD_HEADER || b[..4] != MAGIC {
            return None;
        }
        let h = Self {
            kind: Kind::from_u8(b[4])?,
            detail: b[5],
            disk: DiskId(u16_at(b, 6)),
            payload: u32_at(b, 12),
            len: u64_at(b, 16),
            offset: u64_at(b, 24),
            seq: Seq(u64_at(b, 32)),
            time: WallTime(u64_at(b, 40)),
            epoch: Epoch(u32_at(b, 48)),
            content_crc: u32_at(b, 52),
            clock: u32_at(b, 56),
            durable: u32_at(b, 60),
        };
        let on_disk = usize::from(h.disk.0) < MAX_DISKS
            && h.offset.checked_add(h.len).is_some_and(|end| end <= MAX_DISK);
        let ok = match h.kind {
            Kind::Data | Kind::Supplied => {
                on_disk
                    && h.len <= MAX_RECORD as u64
                    && h.payload as usize <= MAX_RECORD
                    && Codec::from_u8(h.detail).is_some()
            }
            Kind::Zero => on_disk && h.payload == 0,
            Kind::Disk => usize::from(h.disk.0) < MAX_DISKS && h.len <= MAX_DISK && h.payload == 0,
            Kind::Barrier => BarrierKind::from_u8(h.detail).is_some() && h.payload == 0,
            Kind::Epoch => h.payload == 0,
        };
        ok.then_some(h)
    }

    /// Bytes the whole record takes in the file.
    pub(crate) fn stored(&self) -> usize {
        OVERHEAD + self.payload as usize
    }
}

/// The checksum of a record: `header` with its checksum zero, then what follows it.
pub(crate) fn record_crc(header: &[u8; RECORD_HEADER], sealed: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), sealed)
}

pub(crate) fn set_crc(header: &mut [u8], crc: u32) {
    header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a whole record at the start of `b` and checks its checksum. `None` when it is not whole.
pub(crate) fn parse(b: &[u8]) -> Option<(Header, [u8; RECORD_HEADER], &[u8])> {
    let header = Header::decode(b)?;
    let sealed = b.get(RECORD_HEADER..header.stored())?;
    let mut plain: [u8; RECORD_HEADER] = b[..RECORD_HEADER].try_into().ok()?;
    let crc = u32_at(&plain, CRC_AT);
    set_crc(&mut plain, 0);
    (record_crc(&plain, sealed) == crc).then_some((header, plain, sealed))
}

#[cfg(test)]
mod tests;
