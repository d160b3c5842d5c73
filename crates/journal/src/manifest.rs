//! Which segments belong to the journal.
//!
//! Invariants: a segment not listed does not belong to the journal and may be deleted; the file is replaced at once,
//! never changed; the copy is written after it and stands in when it is damaged.
//!
//! ```text
//!   0  "LBJMAN01"                      72  segments, 48 bytes each:
//!   8  journal id                            id 16, first seq u64,
//!  24  key check: 16 bytes of a mac          length u64 (0: not known yet),
//!  40  generation u64                        flags u64: 1 = base, last seq u64 (when finished)
//!  48  horizon u64                         mac: keyed BLAKE3 of all of the above
//!  56  epoch u32                           crc u32: CRC32C of all of the above
//!  60  segments u32
//!  64  created u64, ns since 1970
//! ```

use crate::error::{JournalError, no_space};
use crate::format::{id_at, u32_at, u64_at};
use crate::seal::{MAC, MacKey};
use lifeboat_base::{Epoch, Seq, WallTime};
use lifeboat_block::storage::{Storage, read_whole, write_all};
use std::io;

const MAGIC: &[u8; 8] = b"LBJMAN01";
const HEAD: usize = 72;
const SEGMENT: usize = 48;
const MAX_MANIFEST: u64 = 64 << 20;
pub(crate) const NAMES: [&str; 2] = ["manifest", "manifest.copy"];
const TEMPORARY: &str = "manifest.tmp";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub id: [u8; 16],
    pub first: Seq,
    /// Bytes of the file once it is finished; 0 before.
    pub len: u64,
    /// Its last sequence number once it is finished.
    pub last: Seq,
    pub base: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub journal: [u8; 16],
    pub generation: u64,
    /// Sequence number of the oldest barrier that may be opened; 0: any.
    pub horizon: Seq,
    pub epoch: Epoch,
    pub created: WallTime,
    pub segments: Vec<Listed>,
}

fn key_check(mac: &MacKey, journal: &[u8]) -> [u8; 16] {
    id_at(&mac.of(&[b"key check", journal]), 0)
}

impl Manifest {
    fn encode(&self, mac: &MacKey) -> Vec<u8> {
        let mut b = Vec::with_capacity(HEAD + self.segments.len() * SEGMENT + MAC + 4);
        b.extend_from_slice(MAGIC);
        b.extend_from_slice(&self.journal);
        b.extend_from_slice(&key_check(mac, &self.journal));
        b.extend_from_slice(&self.generation.to_le_bytes());
        b.extend_from_slice(&self.horizon.0.to_le_bytes());
        b.extend_from_slice(&self.epoch.0.to_le_bytes());
        b.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        b.extend_from_slice(&self.created.0.to_le_bytes());
        for s in &self.segments {
            b.extend_from_slice(&s.id);
            for v in [s.first.0, s.len, u64::from(s.base), s.last.0] {
                b.extend_from_slice(&v.to_le_bytes());
            }
        }
        let sum = mac.of(&[&b]);
        b.extend_from_slice(&sum);
        let crc = crc32c::crc32c(&b);
        b.extend_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8], mac: &MacKey) -> Result<Self, JournalError> {
        let bad = |why: &str| JournalError::Manifest(why.into());
        if b.len() < HEAD + MAC + 4 || &b[..8] != MAGIC {
            return Err(bad("it is not a manifest of a version known here"));
        }
        let (body, crc) = b.split_at(b.len() - 4);
        if crc32c::crc32c(body) != u32_at(crc, 0) {
            return Err(bad("its checksum is wrong"));
        }
        let journal = id_at(b, 8);
        if key_check(mac, &journal) != b[24..40] {
            return Err(JournalError::WrongKey);
        }
        let (body, sum) = body.split_at(body.len() - MAC);
        let listed = &body[HEAD..];
        if !mac.verify(&[body], sum) || listed.len() != u32_at(b, 60) as usize * SEGMENT {
            return Err(bad("its seal is wrong"));
        }
        let segment = |s: &[u8]| Listed {
            id: id_at(s, 0),
            first: Seq(u64_at(s, 16)),
            len: u64_at(s, 24),
            base: u64_at(s, 32) & 1 == 1,
            last: Seq(u64_at(s, 40)),
        };
        Ok(Self {
            journal,
            generation: u64_at(b, 40),
            horizon: Seq(u64_at(b, 48)),
            epoch: Epoch(u32_at(b, 56)),
            created: WallTime(u64_at(b, 64)),
            segments: listed.chunks_exact(SEGMENT).map(segment).collect(),
        })
    }

    /// Reads the newest good copy. `None` when there is no manifest at all. Tells whether a copy was damaged.
    pub(crate) fn load(storage: &dyn Storage, mac: &MacKey) -> Result<Option<(Self, bool)>, JournalError> {
        let mut found: Option<Self> = None;
        let mut error = None;
        for name in NAMES {
            let read = match storage.open(name).and_then(|f| read_whole(&*f, MAX_MANIFEST)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    Err(JournalError::Manifest(e.to_string()))
                }
                Err(e) => return Err(JournalError::io(format!("cannot read {name}"))(e)),
                Ok(bytes) => Self::decode(&bytes, mac),
            };
            match read {
                Ok(m) if found.as_ref().is_none_or(|f| f.generation < m.generation) => found = Some(m),
                Ok(_) => {}
                Err(e) => {
                    error.get_or_insert(e);
                }
            }
        }
        match (found, error) {
            (Some(m), error) => Ok(Some((m, error.is_some()))),
            (None, Some(e)) => Err(e),
            (None, None) => Ok(None),
        }
    }
}

/// How far a failed save got.
pub(crate) enum SaveError {
    /// The old manifest stands.
    Before(JournalError),
    /// It is not known which manifest a restart will find.
    Unknown(JournalError),
}

/// Replaces the manifest, then its copy. A copy that cannot be written is only reported.
pub(crate) fn save(storage: &dyn Storage, mac: &MacKey, manifest: &Manifest) -> Result<(), SaveError> {
    let bytes = manifest.encode(mac);
    let replace = |name: &str| {
        let written = write_temporary(storage, &bytes);
        written.map_err(|e| {
            let _ = storage.remove(TEMPORARY);
            SaveError::Before(JournalError::io("cannot write the manifest")(e))
        })?;
        storage.rename(TEMPORARY, name).and_then(|()| storage.sync_dir()).map_err(|e| {
            // A full disk is no excuse here: the rename may have happened.
            let what = "cannot replace the manifest".into();
            SaveError::Unknown(JournalError::Io { what, source: e })
        })
    };
    replace(NAMES[0])?;
    if let Err(SaveError::Before(e) | SaveError::Unknown(e)) = replace(NAMES[1]) {
        tracing::warn!("the copy of the manifest was not written: {e}");
    }
    Ok(())
}

fn write_temporary(storage: &dyn Storage, bytes: &[u8]) -> io::Result<()> {
    match storage.remove(TEMPORARY) {
        Err(e) if e.kind() != io::ErrorKind::NotFound && !no_space(&e) => return Err(e),
        _ => {}
    }
    let file = storage.create(TEMPORARY)?;
    write_all(&*file, bytes, 0)?;
    file.sync()
}
