//! The bytes of NBD, without I/O. All integers are big-endian.
//!
//! Invariants:
//! - parsing never panics, never reads past its input and never allocates more than the input's own length;
//! - what a builder here makes, the parser beside it gives back.
//!
//! ```text
//! server greets          "NBDMAGIC" | "IHAVEOPT" | flags u16
//! client answers         flags u32
//! option (client)        "IHAVEOPT" | option u32 | length u32 | data        repeated
//! option reply (server)  0x3e889045565a9 u64 | option u32 | kind u32 | length u32 | data
//! request (client)       0x25609513 | flags u16 | command u16 | cookie u64 | offset u64 | length u32 [| data]
//! simple reply           0x67446698 | error u32 | cookie u64 [| data]
//! structured chunk       0x668e33ef | flags u16 | kind u16 | cookie u64 | length u32 | data
//! ```
//! The details stand at [`handshake`] and [`transmission`].

pub mod handshake;
pub mod transmission;

use std::fmt;

pub const NBD_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Longest export name, description or context name the protocol allows, in bytes.
pub const MAX_STRING: usize = 4096;

/// Handshake flags, the same bits from server and client.
pub mod handshake_flags {
    pub const FIXED_NEWSTYLE: u16 = 1;
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// What an export can do, sent with its size.
pub mod export_flags {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const ROTATIONAL: u16 = 1 << 4;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// Options a client may send before transmission.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of option reply. Errors have the top bit set.
pub mod option_reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR + 1;
    pub const ERR_POLICY: u32 = ERROR + 2;
    pub const ERR_INVALID: u32 = ERROR + 3;
    pub const ERR_TLS_REQD: u32 = ERROR + 5;
    pub const ERR_UNKNOWN: u32 = ERROR + 6;
    pub const ERR_TOO_BIG: u32 = ERROR + 9;
}

/// Kinds of information about an export.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

pub mod command_flags {
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Kinds of structured chunk. Errors have the top bit set.
pub mod chunk {
    pub const FLAG_DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 1 << 15 | 1;
    pub const ERROR_OFFSET: u16 = 1 << 15 | 2;
    pub const ERROR_BIT: u16 = 1 << 15;
}

/// The one metadata context spoken here, and its flags.
pub const BASE_ALLOCATION: &str = "base:allocation";
pub const STATE_HOLE: u32 = 1;
pub const STATE_ZERO: u32 = 1 << 1;

/// Bytes that are not NBD. The connection they came from cannot be used any further, except where a caller
/// can name the option that was malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("wrong magic {found:#x} where {expected:#x} belongs")]
    Magic { found: u64, expected: u64 },
    #[error("the message is shorter than its own fields say")]
    Short,
    #[error("the message is longer than its own fields say")]
    Trailing,
    #[error("a length field is over the allowed {0}")]
    TooLong(usize),
    #[error("a name is not UTF-8")]
    NotUtf8,
    #[error("a field holds the value {0}, which means nothing")]
    Value(u64),
}

/// The error numbers NBD knows; anything else counts as [`Errno::Invalid`], as the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// `EPERM`
    Permission = 1,
    /// `EIO`
    Io = 5,
    /// `ENOMEM`
    NoMemory = 12,
    /// `EINVAL`
    Invalid = 22,
    /// `ENOSPC`
    NoSpace = 28,
    /// `EOVERFLOW`
    Overflow = 75,
    /// `ENOTSUP`
    NotSupported = 95,
    /// `ESHUTDOWN`
    Shutdown = 108,
}

impl Errno {
    pub fn from_u32(v: u32) -> Self {
        match v {
            1 => Self::Permission,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permission => "EPERM (not permitted)",
            Self::Io => "EIO (input/output error)",
            Self::NoMemory => "ENOMEM (out of memory)",
            Self::Invalid => "EINVAL (invalid request)",
            Self::NoSpace => "ENOSPC (no space left)",
            Self::Overflow => "EOVERFLOW (too large)",
            Self::NotSupported => "ENOTSUP (not supported)",
            Self::Shutdown => "ESHUTDOWN (shutting down)",
        })
    }
}

/// Takes fields off the front of a message.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], ProtoError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(ProtoError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ProtoError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u16(&mut self) -> Result<u16, ProtoError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, ProtoError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, ProtoError> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn magic(&mut self, expected: u64) -> Result<(), ProtoError> {
        let found = self.u64()?;
        if found == expected { Ok(()) } else { Err(ProtoError::Magic { found, expected }) }
    }

    pub fn magic32(&mut self, expected: u32) -> Result<(), ProtoError> {
        let found = self.u32()?;
        if found == expected {
            Ok(())
        } else {
            Err(ProtoError::Magic { found: found.into(), expected: expected.into() })
        }
    }

    pub fn text(&mut self, len: u32) -> Result<String, ProtoError> {
        let len = len as usize;
        if len > MAX_STRING {
            return Err(ProtoError::TooLong(MAX_STRING));
        }
        let bytes = self.bytes(len)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtoError::NotUtf8)
    }

    pub fn end(&self) -> Result<(), ProtoError> {
        if self.0.is_empty() { Ok(()) } else { Err(ProtoError::Trailing) }
    }
}

/// Appends a length-prefixed name, cut at [`MAX_STRING`] bytes on a character's border.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(MAX_STRING)];
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
