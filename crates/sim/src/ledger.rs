//! The ledger of the guests' service: numbered, timestamped, checksummed lines.
//!
//! - Line `n` follows line `n - 1`, starting at 1; none is missing, repeated or swapped: each checksum covers the one before.
//! - Only what follows the last whole line may be damaged: a tail that a crash cut off.
//!
//! ```text
//! 0000000042 2026-11-20T07:01:02.123Z 9ae3f00d\n
//! |number    |the guest's clock        |CRC32C of: previous line's CRC32C (4 bytes, little-endian; 0 for the first),
//!                                        then the line up to before the last space
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// A ledger that was read through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Number of the last whole line; 0 for none.
    pub last: u64,
    /// Bytes of whole lines.
    pub good: u64,
    /// Bytes after them that a crash cut off.
    pub tail: u64,
    chain: u32,
}

/// A line in the middle of a ledger is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} at byte {at} is damaged: {text:?}")]
pub struct Damaged {
    /// The number this line should have.
    pub number: u64,
    pub at: u64,
    pub text: String,
}

/// Makes line `number` and its checksum.
pub fn line(number: u64, time: &str, chain: u32) -> (String, u32) {
    let text = format!("{number:010} {time}");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), text.as_bytes());
    (format!("{text} {crc:08x}\n"), crc)
}

fn parse(text: &[u8], number: u64, chain: u32) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let time = text.split(' ').nth(1)?;
    let (wanted, crc) = line(number, time, chain);
    (wanted.strip_suffix('\n') == Some(text)).then_some(crc)
}

/// Checks every line.
///
/// # Errors
/// The first damaged line that is not the last.
pub fn verify(bytes: &[u8]) -> Result<Contents, Damaged> {
    let mut seen = Contents::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n');
        let whole = end.and_then(|end| parse(&rest[..end], seen.last + 1, seen.chain).map(|crc| (end, crc)));
        let Some((end, crc)) = whole else {
            let last = end.is_none_or(|end| end + 1 == rest.len());
            if !last {
                let text = String::from_utf8_lossy(&rest[..end.unwrap_or(0).min(80)]).into_owned();
                return Err(Damaged { number: seen.last + 1, at: seen.good, text });
            }
            seen.tail = rest.len() as u64;
            break;
        };
        seen.last += 1;
        seen.chain = crc;
        seen.good += end as u64 + 1;
        rest = &rest[end + 1..];
    }
    Ok(seen)
}

/// A ledger open for appending.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    contents: Contents,
}

impl Ledger {
    /// Opens or creates the ledger, verifies it, and cuts a torn tail off.
    ///
    /// # Errors
    /// Damage in the middle (as [`io::ErrorKind::InvalidData`]) and whatever the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let contents = verify(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        if contents.tail > 0 {
            file.set_len(contents.good)?;
        }
        file.sync_all()?;
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(Self { file, contents })
    }

    /// What was found when it was opened, and appended since.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Appends the next line and puts it on stable storage; returns its number.
    ///
    /// # Errors
    /// After an error the ledger must not be used any more: nobody knows what is on the disk.
    pub fn append(&mut self, time: &str) -> io::Result<u64> {
        let (text, crc) = line(self.contents.last + 1, time, self.contents.chain);
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        self.contents.last += 1;
        self.contents.chain = crc;
        self.contents.good += text.len() as u64;
        Ok(self.contents.last)
    }
}

#[cfg(test)]
mod tests;
