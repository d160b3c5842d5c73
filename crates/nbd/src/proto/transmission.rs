//! Requests and replies.
//!
//! ```text
//! OFFSET_DATA chunk    offset u64 | bytes
//! OFFSET_HOLE chunk    offset u64 | length u32
//! BLOCK_STATUS chunk   context id u32 | one or more (length u32 | state u32)
//! ERROR chunk          error u32 | message length u16 | message
//! ERROR_OFFSET chunk   error u32 | message length u16 | message | offset u64
//! ```

use super::{CHUNK_MAGIC, Errno, Fields, ProtoError, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, chunk};

pub const REQUEST_LEN: usize = 28;
pub const SIMPLE_REPLY_LEN: usize = 16;
pub const CHUNK_HEADER_LEN: usize = 20;
/// Bytes of an `OFFSET_DATA` chunk before its content: header and offset.
pub const DATA_CHUNK_PREFIX: usize = CHUNK_HEADER_LEN + 8;

/// A request as it was sent; nothing but its magic has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    /// Chosen by the client, repeated in the reply.
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl Request {
    /// # Errors
    /// When the magic is wrong or `bytes` is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(bytes);
        f.magic32(REQUEST_MAGIC)?;
        Ok(Self { flags: f.u16()?, command: f.u16()?, cookie: f.u64()?, offset: f.u64()?, len: f.u32()? })
    }

    pub fn build(&self) -> [u8; REQUEST_LEN] {
        let mut out = [0; REQUEST_LEN];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

pub fn simple_reply(cookie: u64, error: Option<Errno>) -> [u8; SIMPLE_REPLY_LEN] {
    let mut out = [0; SIMPLE_REPLY_LEN];
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.map_or(0, |e| e as u32).to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

pub fn chunk_header(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; CHUNK_HEADER_LEN] {
    let mut out = [0; CHUNK_HEADER_LEN];
    out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..].copy_from_slice(&len.to_be_bytes());
    out
}

/// Header and offset of an `OFFSET_DATA` chunk; `len` bytes of content follow.
pub fn data_chunk_prefix(flags: u16, cookie: u64, offset: u64, len: u32) -> [u8; DATA_CHUNK_PREFIX] {
    let mut out = [0; DATA_CHUNK_PREFIX];
    out[..CHUNK_HEADER_LEN].copy_from_slice(&chunk_header(flags, chunk::OFFSET_DATA, cookie, len + 8));
    out[CHUNK_HEADER_LEN..].copy_from_slice(&offset.to_be_bytes());
    out
}

pub fn hole_chunk(flags: u16, cookie: u64, offset: u64, len: u32) -> [u8; CHUNK_HEADER_LEN + 12] {
    let mut out = [0; CHUNK_HEADER_LEN + 12];
    out[..CHUNK_HEADER_LEN].copy_from_slice(&chunk_header(flags, chunk::OFFSET_HOLE, cookie, 12));
    out[CHUNK_HEADER_LEN..CHUNK_HEADER_LEN + 8].copy_from_slice(&offset.to_be_bytes());
    out[CHUNK_HEADER_LEN + 8..].copy_from_slice(&len.to_be_bytes());
    out
}

/// A whole, final error chunk, with the offset where it is known. `message` is cut at 1 KiB.
pub fn error_chunk(cookie: u64, error: Errno, message: &str, offset: Option<u64>) -> Vec<u8> {
    let message = &message.as_bytes()[..message.floor_char_boundary(1024)];
    let (kind, tail) = match offset {
        Some(_) => (chunk::ERROR_OFFSET, 8),
        None => (chunk::ERROR, 0),
    };
    let len = 6 + message.len() + tail;
    let mut out = Vec::with_capacity(CHUNK_HEADER_LEN + len);
    out.extend_from_slice(&chunk_header(chunk::FLAG_DONE, kind, cookie, len as u32));
    out.extend_from_slice(&(error as u32).to_be_bytes());
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message);
    if let Some(at) = offset {
        out.extend_from_slice(&at.to_be_bytes());
    }
    out
}

/// A whole, final `BLOCK_STATUS` chunk for one context.
pub fn block_status_chunk(cookie: u64, context: u32, runs: &[(u32, u32)]) -> Vec<u8> {
    let len = 4 + runs.len() * 8;
    let mut out = Vec::with_capacity(CHUNK_HEADER_LEN + len);
    out.extend_from_slice(&chunk_header(chunk::FLAG_DONE, chunk::BLOCK_STATUS, cookie, len as u32));
    out.extend_from_slice(&context.to_be_bytes());
    for (len, state) in runs {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&state.to_be_bytes());
    }
    out
}

/// The start of any reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    Simple {
        error: Option<Errno>,
        cookie: u64,
    },
    Chunk {
        flags: u16,
        kind: u16,
        cookie: u64,
        /// Length of what follows, as the server claims it. Not checked here.
        len: u32,
    },
}

/// Bytes that must be there to tell what kind of reply comes: the length of a simple one.
pub const REPLY_PREFIX_LEN: usize = SIMPLE_REPLY_LEN;

impl ReplyHeader {
    /// How many bytes the header takes, told from its first [`REPLY_PREFIX_LEN`] bytes.
    ///
    /// # Errors
    /// When neither magic is there.
    pub fn len_of(prefix: &[u8]) -> Result<usize, ProtoError> {
        match Fields(prefix).u32()? {
            SIMPLE_REPLY_MAGIC => Ok(SIMPLE_REPLY_LEN),
            CHUNK_MAGIC => Ok(CHUNK_HEADER_LEN),
            found => Err(ProtoError::Magic { found: found.into(), expected: SIMPLE_REPLY_MAGIC.into() }),
        }
    }

    /// # Errors
    /// When neither magic is there or `bytes` is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(bytes);
        match f.u32()? {
            SIMPLE_REPLY_MAGIC => {
                let error = f.u32()?;
                let error = (error != 0).then(|| Errno::from_u32(error));
                Ok(Self::Simple { error, cookie: f.u64()? })
            }
            CHUNK_MAGIC => {
                Ok(Self::Chunk { flags: f.u16()?, kind: f.u16()?, cookie: f.u64()?, len: f.u32()? })
            }
            found => Err(ProtoError::Magic { found: found.into(), expected: SIMPLE_REPLY_MAGIC.into() }),
        }
    }
}

/// Error and message of an error chunk's data, of any kind: what follows the message is passed over.
///
/// # Errors
/// When the data is shorter than it says.
pub fn parse_error(data: &[u8]) -> Result<(Errno, String), ProtoError> {
    let mut f = Fields(data);
    let error = f.u32()?;
    let len = usize::from(f.u16()?);
    let message = f.bytes(len)?;
    Ok((Errno::from_u32(error), String::from_utf8_lossy(message).into_owned()))
}

/// Context id and `(length, state)` runs of a `BLOCK_STATUS` chunk's data.
///
/// # Errors
/// When the data is not made of whole runs, at least one, none of them empty.
pub fn parse_block_status(data: &[u8]) -> Result<(u32, Vec<(u32, u32)>), ProtoError> {
    let mut f = Fields(data);
    let id = f.u32()?;
    if f.0.is_empty() {
        return Err(ProtoError::Short);
    }
    let mut runs = Vec::with_capacity(f.0.len() / 8);
    while !f.0.is_empty() {
        let (len, state) = (f.u32()?, f.u32()?);
        if len == 0 {
            return Err(ProtoError::Value(0));
        }
        runs.push((len, state));
    }
    Ok((id, runs))
}
