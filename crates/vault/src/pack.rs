//! Packs: many chunks in one object.
//!
//! Invariants: a pack is written once, under a random id; every frame is sealed for its place in this pack; a chunk's
//! content is proven by its id whenever it is read, so bytes that belong elsewhere are never data (I3).
//!
//! ```text
//! header, 48 bytes
//!  0        4         5      6          8                12         16          32          48
//!  | "LBPK" | version | kind | reserved | key generation | reserved | vault id  | pack id   |
//!  |        | u8 = 1  | u8   | 0        | u32 LE         | 0        | 16        | 16        |
//! frames, back to back: sealed bytes and tag (16)
//! directory, sealed: for each frame
//!  | stored length, tag included | raw length | codec | chunks | chunks x ( id (32) | length u32 LE ) |
//!  | u32 LE                      | u32 LE     | u8    | u8     |
//! trailer, 24 bytes
//!  0                  4          8          12       16         20
//!  | directory length | frames   | chunks   | "LBPE" | reserved | CRC32C of the 20 bytes before |
//!  | u32 LE, with tag | u32 LE   | u32 LE   |        | 0        | u32 LE                        |
//! ```
//! Key: `derive(data key, pack id)`. Nonce: the offset in the pack. Associated data of a frame: header, offset u64,
//! stored length u32, raw length u32, codec u8; of the directory: header, offset u64, frames u32, chunks u32.
//! Codec 0: as it is; 1: zstd. The chunks of a frame follow each other in its raw bytes.

use crate::error::VaultError;
use crate::id::{ChunkId, PackId, VaultId};
use lifeboat_base::Secret;
use lifeboat_base::aead::{AeadKey, TAG};

pub(crate) const HEADER: usize = 48;
pub(crate) const TRAILER: usize = 24;
const VERSION: u8 = 1;
const FRAME_HEAD: usize = 10;
const CHUNK_HEAD: usize = 36;
/// Most chunks in one frame.
pub const MAX_FRAME_CHUNKS: usize = 255;
/// Most raw bytes in one frame.
pub const MAX_FRAME: usize = 16 << 20;
/// Longest pack, in bytes.
pub const MAX_PACK: u64 = 1 << 30;
/// Longest directory, in bytes.
const MAX_DIRECTORY: u64 = 256 << 20;

/// What the chunks of a pack are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Content of disks and files.
    Data = 1,
    /// Nodes of maps and trees.
    Meta = 2,
}

impl Kind {
    pub(crate) fn of(byte: u8) -> Option<Self> {
        [Self::Data, Self::Meta].into_iter().find(|k| *k as u8 == byte)
    }
}

/// How a frame's raw bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub(crate) fn of(byte: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd].into_iter().find(|c| *c as u8 == byte)
    }
}

/// Which pack it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHead {
    pub vault: VaultId,
    pub id: PackId,
    pub kind: Kind,
    /// Of the data key.
    pub generation: u32,
}

impl PackHead {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        h[..4].copy_from_slice(b"LBPK");
        h[4] = VERSION;
        h[5] = self.kind as u8;
        h[8..12].copy_from_slice(&self.generation.to_le_bytes());
        h[16..32].copy_from_slice(&self.vault.0);
        h[32..].copy_from_slice(&self.id.0);
        h
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let h: &[u8; HEADER] = bytes.first_chunk().ok_or("it is shorter than a header")?;
        if &h[..4] != b"LBPK" {
            return Err("it does not begin as a pack");
        }
        if h[4] != VERSION {
            return Err("it is of a version this one does not know");
        }
        if h[6..8] != [0; 2] || h[12..16] != [0; 4] {
            return Err("its header has values this version does not know");
        }
        let (mut vault, mut id) = ([0; 16], [0; 16]);
        vault.copy_from_slice(&h[16..32]);
        id.copy_from_slice(&h[32..]);
        Ok(Self {
            vault: VaultId(vault),
            id: PackId(id),
            kind: Kind::of(h[5]).ok_or("its kind is not known")?,
            generation: u32::from_le_bytes([h[8], h[9], h[10], h[11]]),
        })
    }
}

/// Where a frame is in its pack, and how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameAt {
    pub offset: u32,
    /// With the tag, in bytes.
    pub stored: u32,
    pub raw: u32,
    pub codec_zstd: bool,
}

impl FrameAt {
    fn codec(&self) -> Codec {
        if self.codec_zstd { Codec::Zstd } else { Codec::Raw }
    }
}

/// A frame as its pack's directory tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    pub at: FrameAt,
    /// In the order of the raw bytes, each with its length.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// A pack being filled.
pub(crate) struct PackWriter {
    head: PackHead,
    plain: [u8; HEADER],
    key: AeadKey,
    buf: Vec<u8>,
    frames: Vec<FrameEntry>,
    chunks: u32,
}

impl PackWriter {
    pub fn new(head: PackHead, key: &Secret) -> Self {
        let plain = head.encode();
        Self { head, plain, key: key.aead(), buf: plain.to_vec(), frames: Vec::new(), chunks: 0 }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Seals a frame to the end of the pack.
    pub fn push(&mut self, stored: &[u8], codec: Codec, raw: u32, chunks: Vec<(ChunkId, u32)>) {
        let at = FrameAt {
            offset: self.buf.len() as u32,
            stored: (stored.len() + TAG) as u32,
            raw,
            codec_zstd: codec == Codec::Zstd,
        };
        let from = self.buf.len();
        self.buf.extend_from_slice(stored);
        self.key.seal(u64::from(at.offset), &frame_aad(&self.plain, &at), &mut self.buf, from);
        self.chunks += chunks.len() as u32;
        self.frames.push(FrameEntry { at, chunks });
    }

    /// The finished pack, and what is in it.
    pub fn finish(mut self) -> (PackHead, Vec<u8>, Vec<FrameEntry>) {
        let offset = self.buf.len();
        let frames = self.frames.len() as u32;
        encode_directory(&self.frames, &mut self.buf);
        let aad = directory_aad(&self.plain, offset as u64, frames, self.chunks);
        self.key.seal(offset as u64, &aad, &mut self.buf, offset);
        let length = (self.buf.len() - offset) as u32;
        let trailer = Trailer { directory: length, frames, chunks: self.chunks };
        self.buf.extend_from_slice(&trailer.encode());
        (self.head, self.buf, self.frames)
    }
}

pub(crate) fn encode_directory(frames: &[FrameEntry], out: &mut Vec<u8>) {
    for f in frames {
        out.extend_from_slice(&f.at.stored.to_le_bytes());
        out.extend_from_slice(&f.at.raw.to_le_bytes());
        out.extend_from_slice(&[u8::from(f.at.codec_zstd), f.chunks.len() as u8]);
        for (id, len) in &f.chunks {
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&len.to_le_bytes());
        }
    }
}

/// Reads a directory's text.
pub(crate) fn decode_directory(
    text: &[u8],
    frames: u32,
    chunks: u32,
) -> Result<Vec<FrameEntry>, &'static str> {
    let mut list = Vec::with_capacity((frames as usize).min(text.len() / FRAME_HEAD));
    let (mut rest, mut offset, mut count) = (text, HEADER as u32, 0u32);
    for _ in 0..frames {
        let (head, after) = rest.split_at_checked(FRAME_HEAD).ok_or("its directory ends early")?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (stored, raw) = (u32_at(0), u32_at(4));
        let codec = Codec::of(head[8]).ok_or("a frame's codec is not known")?;
        let n = usize::from(head[9]);
        let (body, after) = after.split_at_checked(n * CHUNK_HEAD).ok_or("its directory ends early")?;
        let entries: Vec<(ChunkId, u32)> = body
            .chunks_exact(CHUNK_HEAD)
            .map(|c| {
                let mut id = [0; 32];
                id.copy_from_slice(&c[..32]);
                (ChunkId(id), u32::from_le_bytes([c[32], c[33], c[34], c[35]]))
            })
            .collect();
        let sum: u64 = entries.iter().map(|(_, len)| u64::from(*len)).sum();
        if sum != u64::from(raw) || raw as usize > MAX_FRAME || (stored as usize) < TAG || n == 0 {
            return Err("a frame's lengths do not fit");
        }
        let at = FrameAt { offset, stored, raw, codec_zstd: codec == Codec::Zstd };
        offset = offset.checked_add(stored).ok_or("its frames are longer than a pack can be")?;
        count += n as u32;
        list.push(FrameEntry { at, chunks: entries });
        rest = after;
    }
    if !rest.is_empty() || count != chunks {
        return Err("its directory has more than it says");
    }
    Ok(list)
}

fn frame_aad(plain: &[u8; HEADER], at: &FrameAt) -> [u8; HEADER + 17] {
    let mut aad = [0; HEADER + 17];
    aad[..HEADER].copy_from_slice(plain);
    aad[HEADER..HEADER + 8].copy_from_slice(&u64::from(at.offset).to_le_bytes());
    aad[HEADER + 8..HEADER + 12].copy_from_slice(&at.stored.to_le_bytes());
    aad[HEADER + 12..HEADER + 16].copy_from_slice(&at.raw.to_le_bytes());
    aad[HEADER + 16] = at.codec() as u8;
    aad
}

fn directory_aad(plain: &[u8; HEADER], offset: u64, frames: u32, chunks: u32) -> Vec<u8> {
    [&plain[..], &offset.to_le_bytes(), &frames.to_le_bytes(), &chunks.to_le_bytes()].concat()
}

/// The end of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Length of the sealed directory, tag included.
    pub directory: u32,
    pub frames: u32,
    pub chunks: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER] {
        let mut t = [0; TRAILER];
        t[..4].copy_from_slice(&self.directory.to_le_bytes());
        t[4..8].copy_from_slice(&self.frames.to_le_bytes());
        t[8..12].copy_from_slice(&self.chunks.to_le_bytes());
        t[12..16].copy_from_slice(b"LBPE");
        let crc = crc32c::crc32c(&t[..20]);
        t[20..].copy_from_slice(&crc.to_le_bytes());
        t
    }

    /// From the last bytes of a pack of `size` bytes.
    pub fn decode(tail: &[u8], size: u64) -> Result<Self, &'static str> {
        let t: &[u8; TRAILER] = tail.last_chunk().ok_or("it is shorter than a trailer")?;
        let u32_at = |at: usize| u32::from_le_bytes([t[at], t[at + 1], t[at + 2], t[at + 3]]);
        if &t[12..16] != b"LBPE" || u32_at(20) != crc32c::crc32c(&t[..20]) || t[16..20] != [0; 4] {
            return Err("its end is missing or damaged");
        }
        let trailer = Self { directory: u32_at(0), frames: u32_at(4), chunks: u32_at(8) };
        let fixed = (HEADER + TRAILER) as u64;
        if u64::from(trailer.directory) + fixed > size || u64::from(trailer.directory) > MAX_DIRECTORY {
            return Err("its directory cannot be as long as its end says");
        }
        Ok(trailer)
    }
}

/// Opens what is in a pack.
pub(crate) struct PackOpener {
    plain: [u8; HEADER],
    key: AeadKey,
    name: String,
}

impl PackOpener {
    pub fn new(head: &PackHead, key: &Secret) -> Self {
        Self { plain: head.encode(), key: key.aead(), name: format!("pack {}", head.id) }
    }

    /// The directory, of which `sealed` are the bytes at `offset`.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn directory(&self, sealed: &[u8], offset: u64, t: &Trailer) -> Result<Vec<FrameEntry>, VaultError> {
        let damaged = |why: &str| VaultError::damaged(&self.name, why);
        let mut text = sealed.to_vec();
        let aad = directory_aad(&self.plain, offset, t.frames, t.chunks);
        let text = self
            .key
            .open(offset, &aad, &mut text)
            .map_err(|_| damaged("the seal of its directory is broken"))?;
        let frames = decode_directory(text, t.frames, t.chunks).map_err(damaged)?;
        let end = frames.last().map_or(HEADER as u64, |f| u64::from(f.at.offset) + u64::from(f.at.stored));
        if end != offset { Err(damaged("its frames do not reach its directory")) } else { Ok(frames) }
    }

    /// The raw bytes of a frame.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn frame(&self, at: &FrameAt, sealed: &mut [u8]) -> Result<Vec<u8>, VaultError> {
        let damaged = |why: String| VaultError::damaged(&self.name, format!("frame at {}: {why}", at.offset));
        if sealed.len() != at.stored as usize || at.raw as usize > MAX_FRAME {
            return Err(damaged("it is cut short".into()));
        }
        let text = self
            .key
            .open(u64::from(at.offset), &frame_aad(&self.plain, at), sealed)
            .map_err(|_| damaged("its seal is broken".into()))?;
        let raw = match at.codec() {
            Codec::Raw => text.to_vec(),
            Codec::Zstd => decompress(text, at.raw as usize).map_err(|e| damaged(format!("zstd: {e}")))?,
        };
        if raw.len() == at.raw as usize {
            Ok(raw)
        } else {
            Err(damaged("it is not as long as it says".into()))
        }
    }
}

fn decompress(text: &[u8], raw: usize) -> std::io::Result<Vec<u8>> {
    use std::cell::RefCell;
    thread_local! {
        // Making one costs as much as decompressing a chunk.
        static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    ZSTD.with_borrow_mut(|slot| {
        let zstd = match slot {
            Some(zstd) => zstd,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        zstd.decompress(text, raw)
    })
}

#[cfg(test)]
mod tests;
