//! One entry of a server's stream.
//!
//! The sender makes records, the wire carries them, the journal keeps them: the payload is
//! compressed once, by the sender, and stays as it is until somebody reads it.

use crate::codec::{self, DecodeError};
use bytes::Bytes;
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};

/// How a payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub fn from_u8(v: u8) -> Option<Self> {
        match v {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// What a barrier promises of the disk at its place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BarrierKind {
    /// Every write completed before is included: what a power cut would leave.
    Crash = 0,
    /// File systems were frozen or flushed.
    Filesystem = 1,
    /// The application took part.
    Application = 2,
}

impl BarrierKind {
    pub fn from_u8(v: u8) -> Option<Self> {
        match v {
            0 => Some(Self::Crash),
            1 => Some(Self::Filesystem),
            2 => Some(Self::Application),
            _ => None,
        }
    }
}

/// What a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// `len` bytes at `offset` of `disk`; `len` is the decoded length, at most
    /// [`MAX_RECORD`](lifeboat_base::limits::MAX_RECORD).
    Data {
        disk: DiskId,
        offset: u64,
        len: u32,
        codec: Codec,
        /// CRC32C of the decoded content, made where it was captured, checked whenever it is read.
        crc: u32,
        payload: Bytes,
    },
    /// `len` zero bytes at `offset` of `disk`. Any length.
    Zero { disk: DiskId, offset: u64, len: u64 },
    /// A recovery point: the disks with every record up to here applied.
    Barrier { kind: BarrierKind },
    /// `disk` exists from here on and has `size` bytes, all zero where nothing was written.
    Disk { disk: DiskId, size: u64 },
}

/// One entry of a server's stream. Within an epoch `seq` grows by exactly one per record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    pub seq: Seq,
    /// The source's clock when the record was made.
    pub time: WallTime,
    pub body: Body,
}

impl Record {
    /// Bytes of payload this record holds in memory.
    pub fn payload_len(&self) -> usize {
        match &self.body {
            Body::Data { payload, .. } => payload.len(),
            _ => 0,
        }
    }

    /// The decoded content of a data record, checked against its CRC; empty for other bodies.
    ///
    /// # Errors
    /// When the payload does not decode to `len` bytes with that CRC.
    pub fn content(&self) -> Result<Bytes, DecodeError> {
        match &self.body {
            Body::Data { len, codec, crc, payload, .. } => codec::decode(*codec, payload, *len, *crc),
            _ => Ok(Bytes::new()),
        }
    }
}
