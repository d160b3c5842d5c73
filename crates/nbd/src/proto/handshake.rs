//! Greeting, options and their replies.
//!
//! ```text
//! EXPORT_NAME data       name
//!   answer (no header)   size u64 | flags u16 [| 124 zero bytes unless both sides said NO_ZEROES]
//! INFO, GO data          name length u32 | name | count u16 | count x kind u16
//!   INFO reply           EXPORT: 0 u16 | size u64 | flags u16
//!                        NAME, DESCRIPTION: kind u16 | text
//!                        BLOCK_SIZE: 3 u16 | minimum u32 | preferred u32 | largest u32
//! LIST reply SERVER      name length u32 | name | description
//! *_META_CONTEXT data    name length u32 | name | count u32 | count x (length u32 | query)
//!   META_CONTEXT reply   id u32 | context name
//! ```

use super::{Fields, MAX_STRING, NBD_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, ProtoError, info, put_text};

pub const GREETING_LEN: usize = 18;
pub const OPTION_HEADER_LEN: usize = 16;
pub const OPTION_REPLY_HEADER_LEN: usize = 20;
/// Zero bytes that follow the answer to `EXPORT_NAME` unless both sides said `NO_ZEROES`.
pub const EXPORT_NAME_PADDING: usize = 124;

pub fn greeting(flags: u16) -> [u8; GREETING_LEN] {
    let mut out = [0; GREETING_LEN];
    out[..8].copy_from_slice(&NBD_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// The server's handshake flags.
///
/// # Errors
/// When this is no newstyle server.
pub fn parse_greeting(bytes: &[u8]) -> Result<u16, ProtoError> {
    let mut f = Fields(bytes);
    f.magic(NBD_MAGIC)?;
    f.magic(OPTION_MAGIC)?;
    f.u16()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    pub option: u32,
    /// Length of the data that follows, as the client claims it. Not checked here.
    pub len: u32,
}

impl OptionHeader {
    /// # Errors
    /// When the magic is wrong or `bytes` is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(bytes);
        f.magic(OPTION_MAGIC)?;
        Ok(Self { option: f.u32()?, len: f.u32()? })
    }
}

pub fn put_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    pub option: u32,
    pub kind: u32,
    /// Length of the data that follows, as the server claims it. Not checked here.
    pub len: u32,
}

impl OptionReplyHeader {
    /// # Errors
    /// When the magic is wrong or `bytes` is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(bytes);
        f.magic(OPTION_REPLY_MAGIC)?;
        Ok(Self { option: f.u32()?, kind: f.u32()?, len: f.u32()? })
    }
}

pub fn put_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Data of `INFO` and `GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    pub name: String,
    /// The kinds of [`info`] the client would like.
    pub wanted: Vec<u16>,
}

impl InfoRequest {
    /// # Errors
    /// When a length is over its limit or the fields do not fill `data` exactly.
    pub fn parse(data: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(data);
        let len = f.u32()?;
        let name = f.text(len)?;
        let count = usize::from(f.u16()?);
        let kinds = f.bytes(count * 2)?;
        f.end()?;
        let wanted = kinds.chunks_exact(2).map(|k| u16::from_be_bytes([k[0], k[1]])).collect();
        Ok(Self { name, wanted })
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.name);
        out.extend_from_slice(&(self.wanted.len() as u16).to_be_bytes());
        self.wanted.iter().for_each(|k| out.extend_from_slice(&k.to_be_bytes()));
        out
    }
}

/// Data of an `INFO` reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    Export {
        size: u64,
        flags: u16,
    },
    Name(String),
    Description(String),
    BlockSize {
        minimum: u32,
        preferred: u32,
        largest: u32,
    },
    /// A kind this code does not know; to be passed over.
    Other(u16),
}

impl Info {
    /// # Errors
    /// When the fields of a known kind do not fill `data` exactly.
    pub fn parse(data: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(data);
        let parsed = match f.u16()? {
            info::EXPORT => Self::Export { size: f.u64()?, flags: f.u16()? },
            info::NAME => Self::Name(f.text(f.0.len().min(MAX_STRING + 1) as u32)?),
            info::DESCRIPTION => Self::Description(f.text(f.0.len().min(MAX_STRING + 1) as u32)?),
            info::BLOCK_SIZE => Self::BlockSize { minimum: f.u32()?, preferred: f.u32()?, largest: f.u32()? },
            other => return Ok(Self::Other(other)),
        };
        f.end()?;
        Ok(parsed)
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Export { size, flags } => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            Self::Name(text) => {
                out.extend_from_slice(&info::NAME.to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Self::Description(text) => {
                out.extend_from_slice(&info::DESCRIPTION.to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Self::BlockSize { minimum, preferred, largest } => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                for v in [minimum, preferred, largest] {
                    out.extend_from_slice(&v.to_be_bytes());
                }
            }
            Self::Other(kind) => out.extend_from_slice(&kind.to_be_bytes()),
        }
        out
    }
}

/// Data of a `SERVER` reply.
pub fn server_entry(name: &str, description: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_text(&mut out, name);
    out.extend_from_slice(&description.as_bytes()[..description.floor_char_boundary(MAX_STRING)]);
    out
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest {
    pub name: String,
    pub queries: Vec<String>,
}

impl MetaRequest {
    /// # Errors
    /// When a length is over its limit or the fields do not fill `data` exactly.
    pub fn parse(data: &[u8]) -> Result<Self, ProtoError> {
        let mut f = Fields(data);
        let len = f.u32()?;
        let name = f.text(len)?;
        let count = f.u32()?;
        // No room is set aside for `count`: a lie runs into the end of the data instead.
        let mut queries = Vec::new();
        for _ in 0..count {
            let len = f.u32()?;
            queries.push(f.text(len)?);
        }
        f.end()?;
        Ok(Self { name, queries })
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.name);
        out.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|q| put_text(&mut out, q));
        out
    }
}

/// Data of a `META_CONTEXT` reply.
pub fn meta_context(id: u32, name: &str) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    out
}

/// The id and name in a `META_CONTEXT` reply.
///
/// # Errors
/// When the data is too short, too long or not text.
pub fn parse_meta_context(data: &[u8]) -> Result<(u32, String), ProtoError> {
    let mut f = Fields(data);
    let id = f.u32()?;
    let len = f.0.len().min(MAX_STRING + 1) as u32;
    Ok((id, f.text(len)?))
}
