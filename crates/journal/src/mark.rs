//! How far the segment being written was on stable storage when that was last noted.
//!
//! Invariants: the mark never says more than what a sync confirmed, because it is written after it; it is never synced
//! itself, so it costs no wait, and after a power cut it may be old or gone, which only means that less is known.
//!
//! A record says of the bytes before it that they are durable, but nothing says so of the last batch, which was
//! acknowledged all the same. With the mark, rot in that batch is damage and not a torn tail; see decision 0007.
//!
//! ```text
//!   0  "LBJMRK01"
//!   8  segment id
//!  24  length u64: bytes of the segment on stable storage
//!  32  last seq u64 in them
//!  40  mac: keyed BLAKE3 of all of the above
//! ```

use crate::format::{id_at, u64_at};
use crate::seal::{MAC, MacKey};
use lifeboat_base::Seq;
use lifeboat_block::storage::{LogFile, Storage, read_most, write_all};
use std::io;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"LBJMRK01";
const BODY: usize = 40;
const NAME: &str = "mark";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub segment: [u8; 16],
    pub length: u64,
    pub last: Seq,
}

impl Mark {
    fn encode(&self, mac: &MacKey) -> [u8; BODY + MAC] {
        let mut b = [0; BODY + MAC];
        b[..8].copy_from_slice(MAGIC);
        b[8..24].copy_from_slice(&self.segment);
        b[24..32].copy_from_slice(&self.length.to_le_bytes());
        b[32..40].copy_from_slice(&self.last.0.to_le_bytes());
        let sum = mac.of(&[&b[..BODY]]);
        b[BODY..].copy_from_slice(&sum);
        b
    }

    fn decode(b: &[u8], mac: &MacKey) -> Option<Self> {
        let (body, sum) = b.split_at_checked(BODY)?;
        if &body[..8] != MAGIC || !mac.verify(&[body], sum) {
            return None;
        }
        Some(Self { segment: id_at(body, 8), length: u64_at(body, 24), last: Seq(u64_at(body, 32)) })
    }

    /// What was last noted, when that can be read.
    pub(crate) fn load(storage: &dyn Storage, mac: &MacKey) -> Option<Self> {
        let mut b = [0; BODY + MAC];
        let n = storage.open(NAME).and_then(|f| read_most(&*f, &mut b, 0)).ok()?;
        Self::decode(&b[..n], mac)
    }
}

/// Where marks are written. After a failure none are, until the journal is opened again.
#[derive(Default)]
pub(crate) struct MarkFile {
    file: Option<Arc<dyn LogFile>>,
    failed: bool,
}

impl MarkFile {
    /// Notes what a sync has just confirmed. Failing loses nothing but the note.
    pub(crate) fn put(&mut self, storage: &dyn Storage, mac: &MacKey, mark: &Mark) {
        if self.failed {
            return;
        }
        if let Err(e) = self.write(storage, &mark.encode(mac)) {
            tracing::warn!("how far the journal is durable cannot be noted: {e}");
            self.failed = true;
        }
    }

    fn write(&mut self, storage: &dyn Storage, bytes: &[u8]) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let opened = match storage.open(NAME) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => storage.create(NAME),
                    other => other,
                };
                self.file.insert(opened?)
            }
        };
        write_all(&**file, bytes, 0)
    }
}

#[cfg(test)]
mod tests;
