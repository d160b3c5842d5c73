//! Payload encoding: raw, or zstd where that saves something.

use crate::record::Codec;
use bytes::Bytes;
use lifeboat_base::limits::MAX_RECORD;

/// A payload did not decode to what its record says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("content length {0} is over the limit of {MAX_RECORD} bytes")]
    TooLong(u32),
    #[error("payload does not decode to {0} bytes")]
    Length(u32),
    #[error("content checksum is {found:08x}, recorded {recorded:08x}")]
    Checksum { found: u32, recorded: u32 },
}

/// Decodes a payload and checks length and CRC32C.
///
/// # Errors
/// See [`DecodeError`]. Never allocates more than [`MAX_RECORD`] bytes.
pub fn decode(codec: Codec, payload: &Bytes, len: u32, crc: u32) -> Result<Bytes, DecodeError> {
    if len as usize > MAX_RECORD {
        return Err(DecodeError::TooLong(len));
    }
    let content = match codec {
        Codec::Raw => payload.clone(),
        Codec::Zstd => zstd::bulk::decompress(payload, len as usize)
            .map(Bytes::from)
            .map_err(|_| DecodeError::Length(len))?,
    };
    if content.len() != len as usize {
        return Err(DecodeError::Length(len));
    }
    let found = crc32c::crc32c(&content);
    if found != crc {
        return Err(DecodeError::Checksum { found, recorded: crc });
    }
    Ok(content)
}

/// Compresses content, and learns when that is a waste of time.
///
/// Content that did not shrink by an eighth is left raw; after a run of such content only one
/// record in sixteen is tried, until one shrinks again.
pub struct Encoder {
    misses: u32,
    skipped: u32,
    level: i32,
    context: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { misses: 0, skipped: 0, level: 1, context: None, scratch: Vec::new() }
    }
}

const GIVE_UP_AFTER: u32 = 8;
const TRY_ONE_IN: u32 = 16;

impl Encoder {
    /// Sets the zstd level to use from now on. Negative levels are faster.
    pub fn set_level(&mut self, level: i32) {
        if self.level != level {
            self.level = level;
            if let Some(c) = &mut self.context
                && c.set_compression_level(level).is_err()
            {
                self.context = None;
            }
        }
    }

    /// Encodes `content`; returns the codec used and the payload.
    pub fn encode(&mut self, content: &Bytes) -> (Codec, Bytes) {
        let raw = || (Codec::Raw, content.clone());
        if content.len() < 512 {
            return raw();
        }
        if self.misses >= GIVE_UP_AFTER {
            self.skipped += 1;
            if self.skipped < TRY_ONE_IN {
                return raw();
            }
            self.skipped = 0;
        }
        if self.context.is_none() {
            self.context = zstd::bulk::Compressor::new(self.level).ok();
        }
        let Some(context) = &mut self.context else {
            return raw();
        };
        let worth = content.len() - content.len() / 8;
        self.scratch.resize(worth, 0);
        // A destination smaller than the content makes zstd stop as soon as it cannot win.
        match context.compress_to_buffer(content, &mut self.scratch[..]) {
            Ok(n) => {
                self.misses = 0;
                (Codec::Zstd, Bytes::copy_from_slice(&self.scratch[..n]))
            }
            Err(_) => {
                self.misses = self.misses.saturating_add(1);
                raw()
            }
        }
    }
}

#[cfg(test)]
mod tests;
