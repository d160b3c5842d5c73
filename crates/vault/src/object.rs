//! Sealed objects that are no packs: keys, sessions, snapshots, holds, plans, the catalogue.
//!
//! Invariants: an object opens only under the name, type and vault it was sealed for; a key seals one text, because each
//! seal has a salt of its own.
//!
//! ```text
//!  0        4     5      6          8                12             16            32
//!  | magic  | type| codec| reserved | key generation | raw length   | salt        | sealed text ... | tag (16) |
//!  | "LBV1" | u8  | u8   | 0        | u32 LE         | u32 LE       | 16 random   |
//! ```
//! Codec 0: as it is; 1: zstd. Key: `derive(data key, type, salt)`; associated data: the 32 bytes, the vault's id, the
//! name. Generation 0 is the site's vault key, which seals the vault's own keys only.

use crate::error::VaultError;
use crate::id::{ObjectName, VaultId};
use bytes::Bytes;
use lifeboat_base::aead::TAG;
use lifeboat_base::{Entropy, Secret};

pub(crate) const HEADER: usize = 32;
const MAGIC: &[u8; 4] = b"LBV1";
/// Longest text in a sealed object, in bytes.
pub const MAX_TEXT: usize = 64 << 20;
/// Texts longer than this are compressed.
const COMPRESS: usize = 256;

/// What a sealed object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectType {
    Keys = 1,
    Session = 2,
    Snapshot = 3,
    /// In a snapshot's place: its session was ended from outside.
    Tombstone = 4,
    Hold = 5,
    /// A pruner's claim.
    Epoch = 6,
    /// What a pruner is going to do.
    Plan = 7,
    Catalogue = 8,
    /// Where a scrub is, and other small things of the site that owns the vault.
    State = 9,
}

impl ObjectType {
    fn of(byte: u8) -> Option<Self> {
        [
            Self::Keys,
            Self::Session,
            Self::Snapshot,
            Self::Tombstone,
            Self::Hold,
            Self::Epoch,
            Self::Plan,
            Self::Catalogue,
            Self::State,
        ]
        .into_iter()
        .find(|t| *t as u8 == byte)
    }
}

/// The fixed part of a sealed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: ObjectType,
    compressed: bool,
    pub generation: u32,
    raw: u32,
    salt: [u8; 16],
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        h[..4].copy_from_slice(MAGIC);
        h[4] = self.kind as u8;
        h[5] = u8::from(self.compressed);
        h[8..12].copy_from_slice(&self.generation.to_le_bytes());
        h[12..16].copy_from_slice(&self.raw.to_le_bytes());
        h[16..].copy_from_slice(&self.salt);
        h
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let h: &[u8; HEADER] = bytes.first_chunk().ok_or("it is shorter than a header")?;
        if &h[..4] != MAGIC {
            return Err("it does not begin as a sealed object");
        }
        let u32_at = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let mut salt = [0; 16];
        salt.copy_from_slice(&h[16..]);
        let header = Self {
            kind: ObjectType::of(h[4]).ok_or("its type is not known")?,
            compressed: h[5] == 1,
            generation: u32_at(8),
            raw: u32_at(12),
            salt,
        };
        if h[5] > 1 || h[6..8] != [0; 2] {
            return Err("its header has values this version does not know");
        }
        if header.raw as usize > MAX_TEXT {
            return Err("it says to be longer than anything can be");
        }
        Ok(header)
    }

    fn key(&self, key: &Secret) -> Secret {
        key.derive("lifeboat vault 1 object", &[&[self.kind as u8], &self.salt])
    }
}

fn aad(header: &[u8], vault: &VaultId, name: &ObjectName) -> Vec<u8> {
    [header, &vault.0, name.as_str().as_bytes()].concat()
}

/// Seals `text` as the object `name`.
pub(crate) fn seal(
    kind: ObjectType,
    (generation, key): (u32, &Secret),
    vault: &VaultId,
    name: &ObjectName,
    text: &[u8],
    entropy: &dyn Entropy,
) -> Bytes {
    let packed = (text.len() > COMPRESS)
        .then(|| zstd::bulk::compress(text, 3).ok())
        .flatten()
        .filter(|packed| packed.len() < text.len());
    let mut salt = [0; 16];
    entropy.fill(&mut salt);
    let header = Header { kind, compressed: packed.is_some(), generation, raw: text.len() as u32, salt };
    let plain = header.encode();
    let mut out = plain.to_vec();
    out.extend_from_slice(packed.as_deref().unwrap_or(text));
    header.key(key).aead().seal(0, &aad(&plain, vault, name), &mut out, HEADER);
    out.into()
}

/// Opens the object `name`. `key` gives the key of a generation.
///
/// # Errors
/// `Damaged`; `WrongKey` when there is no such generation.
pub(crate) fn open(
    vault: &VaultId,
    name: &ObjectName,
    sealed: &[u8],
    key: impl FnOnce(u32) -> Option<Secret>,
) -> Result<(ObjectType, Vec<u8>), VaultError> {
    let header = Header::decode(sealed).map_err(|why| VaultError::damaged(name, why))?;
    let key = key(header.generation).ok_or(VaultError::WrongKey)?;
    let mut text = sealed[HEADER..].to_vec();
    let broken =
        || VaultError::damaged(name, "its seal is broken: it was changed, or put in another's place");
    if text.len() < TAG {
        return Err(broken());
    }
    let text = header
        .key(&key)
        .aead()
        .open(0, &aad(&sealed[..HEADER], vault, name), &mut text)
        .map_err(|_| broken())?;
    let raw = header.raw as usize;
    let text = if header.compressed {
        zstd::bulk::decompress(text, raw).map_err(|e| VaultError::damaged(name, format!("zstd: {e}")))?
    } else {
        text.to_vec()
    };
    if text.len() != raw {
        return Err(VaultError::damaged(name, "it is not as long as it says"));
    }
    Ok((header.kind, text))
}

#[cfg(test)]
mod tests;
