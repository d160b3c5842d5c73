//! Frames and stream records as bytes.
//!
//! Invariants: a decoder never allocates more than the frame it was given, never panics, and
//! refuses every length, kind, codec or count that is out of bounds. All numbers little-endian.
//!
//! ```text
//! frame   | 0      4   5      8              |
//!         | len u32|typ|0 0 0 | body (len)   |
//!
//! Records | 0         4         8             16
//!         | epoch u32 | count   | first seq   | then `count` records, seq first, first+1, ...
//!
//! record  | 0    1     2      4         8        16      24      32       36      40
//!         | kind | codec/| disk | payload | offset | len   | time  | crc    | 0     | payload
//!         |      | flavour|u16  | len u32 | u64    | u64   | u64 ns| u32    | u32   |
//!
//! Offer   | id u32 | disk u16 | exact u16 | offset u64 | count u32 | 0 u32 | count x 32-byte BLAKE3 |
//!         a hash of all zeros stands for a block of zeros; exact is 0 or 1
//! Answer  | id u32 | count u32 | ceil(count/8) bytes, bit i set: block i is needed |
//! Ack     | durable seq u64 | newest durable barrier seq u64 |
//! Ping    | seq u64 | time u64 | lag bytes u64 | live u8 | 0 x7 |
//! ```
//! `time` is the source's clock. A `Ping` that is `live` says: every write completed at the source
//! before `time` is at or before `seq` in the stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lifeboat_base::limits::{BLOCK, MAX_DISK, MAX_FRAME, MAX_RECORD};
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};
use lifeboat_block::{BarrierKind, Body, Codec, Record, is_zero};

pub const FRAME_HEADER: usize = 8;
pub const RECORD_HEADER: usize = 40;
const RECORDS_HEADER: usize = 16;
/// Most blocks in one offer: 16 MiB of content.
pub const MAX_OFFER: usize = 256;

/// Bytes that are not a frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("frame type {0} is unknown")]
    UnknownType(u8),
    #[error("frame of {0} bytes is over the limit of {1}")]
    TooLong(usize, usize),
    #[error("{0} frame ends early")]
    Short(&'static str),
    #[error("{0}")]
    Bad(&'static str),
    #[error("message does not decode: {0}")]
    Message(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    Hello = 1,
    Welcome = 2,
    Refuse = 3,
    Records = 4,
    Offer = 5,
    Answer = 6,
    Ack = 7,
    Ping = 8,
    Control = 9,
    Backup = 10,
    Restore = 11,
}

impl FrameType {
    fn from_u8(v: u8) -> Option<Self> {
        use FrameType as T;
        [
            T::Hello,
            T::Welcome,
            T::Refuse,
            T::Records,
            T::Offer,
            T::Answer,
            T::Ack,
            T::Ping,
            T::Control,
            T::Backup,
            T::Restore,
        ]
        .into_iter()
        .find(|t| *t as u8 == v)
    }
}

/// A frame's header.
///
/// # Errors
/// Unknown type, or a body longer than `limit`.
pub fn parse_header(h: [u8; FRAME_HEADER], limit: usize) -> Result<(FrameType, usize), WireError> {
    let len = u32::from_le_bytes([h[0], h[1], h[2], h[3]]) as usize;
    let kind = FrameType::from_u8(h[4]).ok_or(WireError::UnknownType(h[4]))?;
    let limit = limit.min(MAX_FRAME);
    if len > limit {
        return Err(WireError::TooLong(len, limit));
    }
    Ok((kind, len))
}

/// Puts a frame header for a body of `len` bytes.
pub fn put_header(out: &mut BytesMut, kind: FrameType, len: usize) {
    debug_assert!(len <= MAX_FRAME);
    out.put_u32_le(u32::try_from(len).unwrap_or(u32::MAX));
    out.put_u8(kind as u8);
    out.put_bytes(0, 3);
}

/// A whole frame around a protocol-buffer message.
pub fn message_frame(kind: FrameType, message: &impl prost::Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(FRAME_HEADER + len);
    put_header(&mut out, kind, len);
    message.encode_raw(&mut out);
    out.freeze()
}

/// # Errors
/// When the bytes are not such a message.
pub fn decode_message<M: prost::Message + Default>(body: &[u8]) -> Result<M, WireError> {
    M::decode(body).map_err(|e| WireError::Message(e.to_string()))
}

/// Builds a `Records` frame, record by record.
#[derive(Debug)]
pub struct RecordsFrame {
    out: BytesMut,
    epoch: Epoch,
    first: Seq,
    count: u32,
}

impl RecordsFrame {
    pub fn new(epoch: Epoch, first: Seq, capacity: usize) -> Self {
        let mut out = BytesMut::with_capacity(FRAME_HEADER + RECORDS_HEADER + capacity);
        out.put_bytes(0, FRAME_HEADER + RECORDS_HEADER);
        Self { out, epoch, first, count: 0 }
    }

    /// Appends a record; it gets the next sequence number.
    pub fn push(&mut self, time: WallTime, body: &Body) {
        let o = &mut self.out;
        let (kind, flavour, disk, payload, offset, len, crc): (u8, u8, u16, &[u8], u64, u64, u32) = match body
        {
            Body::Data { disk, offset, len, codec, crc, payload } => {
                (1, *codec as u8, disk.0, payload, *offset, u64::from(*len), *crc)
            }
            Body::Zero { disk, offset, len } => (2, 0, disk.0, &[], *offset, *len, 0),
            Body::Barrier { kind } => (3, *kind as u8, 0, &[], 0, 0, 0),
            Body::Disk { disk, size } => (4, 0, disk.0, &[], 0, *size, 0),
        };
        o.put_u8(kind);
        o.put_u8(flavour);
        o.put_u16_le(disk);
        o.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        o.put_u64_le(offset);
        o.put_u64_le(len);
        o.put_u64_le(time.0);
        o.put_u32_le(crc);
        o.put_u32_le(0);
        o.put_slice(payload);
        self.count += 1;
    }

    pub fn len(&self) -> usize {
        self.out.len() - FRAME_HEADER
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sequence number of the last record pushed.
    pub fn last(&self) -> Seq {
        Seq((self.first.0 + u64::from(self.count)).saturating_sub(1))
    }

    pub fn finish(mut self) -> Bytes {
        let len = self.len();
        assert!(len <= MAX_FRAME, "a frame is closed before it outgrows its limit");
        self.out[0..4].copy_from_slice(&(len as u32).to_le_bytes());
        self.out[4] = FrameType::Records as u8;
        self.out[8..12].copy_from_slice(&self.epoch.0.to_le_bytes());
        self.out[12..16].copy_from_slice(&self.count.to_le_bytes());
        self.out[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        self.out.freeze()
    }
}

/// Reads the body of a `Records` frame. Payloads share the frame's memory.
///
/// # Errors
/// See [`WireError`]; on error nothing of the frame may be used.
pub fn decode_records(mut body: Bytes) -> Result<Vec<Record>, WireError> {
    if body.len() < RECORDS_HEADER {
        return Err(WireError::Short("records"));
    }
    let epoch = Epoch(body.get_u32_le());
    let count = body.get_u32_le() as usize;
    let first = body.get_u64_le();
    if count > body.len() / RECORD_HEADER {
        return Err(WireError::Short("records"));
    }
    if first == 0 || first.checked_add(count as u64).is_none() {
        return Err(WireError::Bad("sequence number out of range"));
    }
    let mut records = Vec::with_capacity(count);
    for i in 0..count {
        let (time, body) = decode_record(&mut body)?;
        records.push(Record { epoch, seq: Seq(first + i as u64), time, body });
    }
    if body.has_remaining() {
        return Err(WireError::Bad("bytes after the last record"));
    }
    Ok(records)
}

fn decode_record(b: &mut Bytes) -> Result<(WallTime, Body), WireError> {
    if b.len() < RECORD_HEADER {
        return Err(WireError::Short("record"));
    }
    let kind = b.get_u8();
    let flavour = b.get_u8();
    let disk = DiskId(b.get_u16_le());
    let payload_len = b.get_u32_le() as usize;
    let offset = b.get_u64_le();
    let len = b.get_u64_le();
    let time = WallTime(b.get_u64_le());
    let crc = b.get_u32_le();
    let _reserved = b.get_u32_le();
    if payload_len > b.len() {
        return Err(WireError::Short("record"));
    }
    let payload = b.split_to(payload_len);
    if kind != 1 && payload_len != 0 {
        return Err(WireError::Bad("payload on a record that has none"));
    }
    let in_disk =
        |offset: u64, len: u64| len > 0 && offset.checked_add(len).is_some_and(|end| end <= MAX_DISK);
    let body = match kind {
        1 => {
            let codec = Codec::from_u8(flavour).ok_or(WireError::Bad("unknown codec"))?;
            if !in_disk(offset, len) || len > MAX_RECORD as u64 {
                return Err(WireError::Bad("data record out of bounds"));
            }
            if payload_len == 0
                || payload_len as u64 > len
                || (codec == Codec::Raw && payload_len as u64 != len)
            {
                return Err(WireError::Bad("payload length does not fit its content"));
            }
            Body::Data { disk, offset, len: len as u32, codec, crc, payload }
        }
        2 if in_disk(offset, len) => Body::Zero { disk, offset, len },
        2 => return Err(WireError::Bad("zero record out of bounds")),
        3 => Body::Barrier {
            kind: BarrierKind::from_u8(flavour).ok_or(WireError::Bad("unknown barrier kind"))?,
        },
        4 if len <= MAX_DISK => Body::Disk { disk, size: len },
        4 => return Err(WireError::Bad("disk too large")),
        _ => return Err(WireError::Bad("unknown record kind")),
    };
    Ok((time, body))
}

/// BLAKE3 of one block; [`ZERO_HASH`] for a block of zeros.
pub type BlockHash = [u8; 32];

/// Stands for a block of zeros, whatever its length.
pub const ZERO_HASH: BlockHash = [0; 32];

/// Hash of a block's content as offers carry it.
pub fn hash_block(content: &[u8]) -> BlockHash {
    if is_zero(content) { ZERO_HASH } else { *blake3::hash(content).as_bytes() }
}

/// "These blocks of mine hash to this; which do you lack?" Blocks are [`BLOCK`] bytes; the last of a disk may be shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub id: u32,
    pub disk: DiskId,
    /// Multiple of [`BLOCK`].
    pub offset: u64,
    /// The answer must say what differs at this place of the stream. Else a block that is there may be asked for all the
    /// same.
    pub exact: bool,
    pub hashes: Vec<BlockHash>,
}

impl Offer {
    pub fn frame(&self) -> Bytes {
        let len = 24 + 32 * self.hashes.len();
        let mut out = BytesMut::with_capacity(FRAME_HEADER + len);
        put_header(&mut out, FrameType::Offer, len);
        out.put_u32_le(self.id);
        out.put_u16_le(self.disk.0);
        out.put_u16_le(u16::from(self.exact));
        out.put_u64_le(self.offset);
        out.put_u32_le(u32::try_from(self.hashes.len()).unwrap_or(u32::MAX));
        out.put_u32_le(0);
        for h in &self.hashes {
            out.put_slice(h);
        }
        out.freeze()
    }

    /// # Errors
    /// See [`WireError`].
    pub fn decode(mut b: Bytes) -> Result<Self, WireError> {
        if b.len() < 24 {
            return Err(WireError::Short("offer"));
        }
        let id = b.get_u32_le();
        let disk = DiskId(b.get_u16_le());
        let exact = match b.get_u16_le() {
            0 => false,
            1 => true,
            _ => return Err(WireError::Bad("offer of an unknown kind")),
        };
        let offset = b.get_u64_le();
        let count = b.get_u32_le() as usize;
        let _ = b.get_u32_le();
        if count == 0 || count > MAX_OFFER || b.len() != count * 32 {
            return Err(WireError::Bad("offer of the wrong length"));
        }
        if !offset.is_multiple_of(BLOCK as u64) || offset > MAX_DISK {
            return Err(WireError::Bad("offer out of bounds"));
        }
        let hashes = b.as_chunks::<32>().0.to_vec();
        Ok(Self { id, disk, offset, exact, hashes })
    }
}

/// The answer to an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub id: u32,
    /// Per block: it is needed.
    pub needed: Vec<bool>,
}

impl Answer {
    pub fn frame(&self) -> Bytes {
        let bits = self.needed.len().div_ceil(8);
        let mut out = BytesMut::with_capacity(FRAME_HEADER + 8 + bits);
        put_header(&mut out, FrameType::Answer, 8 + bits);
        out.put_u32_le(self.id);
        out.put_u32_le(u32::try_from(self.needed.len()).unwrap_or(u32::MAX));
        for chunk in self.needed.chunks(8) {
            out.put_u8(chunk.iter().enumerate().fold(0, |acc, (i, n)| acc | (u8::from(*n) << i)));
        }
        out.freeze()
    }

    /// # Errors
    /// See [`WireError`].
    pub fn decode(mut b: Bytes) -> Result<Self, WireError> {
        if b.len() < 8 {
            return Err(WireError::Short("answer"));
        }
        let id = b.get_u32_le();
        let count = b.get_u32_le() as usize;
        if count > MAX_OFFER || b.len() != count.div_ceil(8) {
            return Err(WireError::Bad("answer of the wrong length"));
        }
        Ok(Self { id, needed: (0..count).map(|i| b[i / 8] >> (i % 8) & 1 == 1).collect() })
    }
}

/// Records up to `durable` are on stable storage at the site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ack {
    pub durable: Seq,
    /// Newest barrier among them; 0 when there is none.
    pub barrier: Seq,
}

impl Ack {
    pub fn frame(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FRAME_HEADER + 16);
        put_header(&mut out, FrameType::Ack, 16);
        out.put_u64_le(self.durable.0);
        out.put_u64_le(self.barrier.0);
        out.freeze()
    }

    /// # Errors
    /// See [`WireError`].
    pub fn decode(mut b: Bytes) -> Result<Self, WireError> {
        if b.len() != 16 {
            return Err(WireError::Bad("ack of the wrong length"));
        }
        Ok(Self { durable: Seq(b.get_u64_le()), barrier: Seq(b.get_u64_le()) })
    }
}

/// A sign of life with the source's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    pub seq: Seq,
    pub time: WallTime,
    pub lag_bytes: u64,
    /// Every write completed before `time` is at or before `seq`.
    pub live: bool,
}

impl Ping {
    pub fn frame(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FRAME_HEADER + 32);
        put_header(&mut out, FrameType::Ping, 32);
        out.put_u64_le(self.seq.0);
        out.put_u64_le(self.time.0);
        out.put_u64_le(self.lag_bytes);
        out.put_u8(u8::from(self.live));
        out.put_bytes(0, 7);
        out.freeze()
    }

    /// # Errors
    /// See [`WireError`].
    pub fn decode(mut b: Bytes) -> Result<Self, WireError> {
        if b.len() != 32 {
            return Err(WireError::Bad("ping of the wrong length"));
        }
        let (seq, time, lag_bytes) = (Seq(b.get_u64_le()), WallTime(b.get_u64_le()), b.get_u64_le());
        Ok(Self { seq, time, lag_bytes, live: b.get_u8() != 0 })
    }
}

#[cfg(test)]
mod tests;
