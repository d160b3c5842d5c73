//! Which segments belong to the journal.
//!
//! Invariants: a segment not listed does not belong to the journal and may be deleted; the file is replaced at once,
//! never changed; the copy is written after it and stands in when it is damaged.
//!
//! ```text
//!   0  "LBJMAN01", or "LBJMAN02"       64  created u64, ns since 1970
//!   8  journal id                      72  version 2: what is below (see there)
//!  24  key check: 16 bytes of a mac        segments, 48 bytes each:
//!  40  generation u64                        id 16, first seq u64,
//!  48  horizon u64                           length u64 (0: not known yet),
//!  56  epoch u32                             flags u64: 1 = base, last seq u64 (when finished)
//!  60  segments u32                        mac: keyed BLAKE3 of all of the above
//!                                          crc u32: CRC32C of all of the above
//!
//! what is below:  0  flags u32: 1 = there is a base
//!                 4  the window's clock u32, in seconds
//!                 8  id of the base 16
//!                24  its last seq u64
//!                32  disks u32
//!                36  disks, 16 bytes each: disk u64, size u64
//! ```
//! Version 2 is written once there is a base, or something was supplied (`Kind::Supplied`): versions of Lifeboat that know
//! neither refuse it, and read journals without either.

use crate::base::{Base, BaseInfo};
use crate::error::{JournalError, no_space};
use crate::format::{id_at, u32_at, u64_at};
use crate::seal::{MAC, MacKey};
use crate::state::DiskInfo;
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS};
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};
use lifeboat_block::storage::{Storage, read_whole, write_all};
use std::io;

const MAGIC: &[u8; 8] = b"LBJMAN01";
const MAGIC_LOCAL: &[u8; 8] = b"LBJMAN02";
/// Bytes of what is below, without the disks.
const BELOW: usize = 36;
const DISK: usize = 16;
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
    pub base: Option<Base>,
    /// Older versions of Lifeboat would misread it.
    pub local: bool,
}

fn key_check(mac: &MacKey, journal: &[u8]) -> [u8; 16] {
    id_at(&mac.of(&[b"key check", journal]), 0)
}

fn encode_below(base: Option<&Base>, b: &mut Vec<u8>) {
    let none = Base { info: BaseInfo { id: [0; 16], seq: Seq::ZERO, disks: Vec::new() }, clock: 0 };
    let Base { info, clock } = base.unwrap_or(&none);
    b.extend_from_slice(&u32::from(base.is_some()).to_le_bytes());
    b.extend_from_slice(&clock.to_le_bytes());
    b.extend_from_slice(&info.id);
    b.extend_from_slice(&info.seq.0.to_le_bytes());
    b.extend_from_slice(&(info.disks.len() as u32).to_le_bytes());
    for d in &info.disks {
        b.extend_from_slice(&u64::from(d.disk.0).to_le_bytes());
        b.extend_from_slice(&d.size.to_le_bytes());
    }
}

/// The base, and what follows.
fn decode_below(b: &[u8]) -> Option<(Option<Base>, &[u8])> {
    let (head, rest) = b.split_at_checked(BELOW)?;
    let count = u32_at(head, 32) as usize;
    let (disks, rest) = rest.split_at_checked(count.min(MAX_DISKS + 1) * DISK)?;
    let disk = |d: &[u8]| {
        let disk = u16::try_from(u64_at(d, 0)).ok().filter(|d| usize::from(*d) < MAX_DISKS)?;
        let size = Some(u64_at(d, 8)).filter(|size| *size <= MAX_DISK)?;
        Some(DiskInfo { disk: DiskId(disk), size })
    };
    let disks = disks.chunks_exact(DISK).map(disk).collect::<Option<Vec<_>>>()?;
    if count > MAX_DISKS {
        return None;
    }
    let info = BaseInfo { id: id_at(head, 8), seq: Seq(u64_at(head, 24)), disks };
    let base = Base { info, clock: u32_at(head, 4) };
    Some(((u32_at(head, 0) & 1 == 1).then_some(base), rest))
}

impl Manifest {
    fn encode(&self, mac: &MacKey) -> Vec<u8> {
        let mut b = Vec::with_capacity(HEAD + self.segments.len() * SEGMENT + MAC + 4);
        b.extend_from_slice(if self.local { MAGIC_LOCAL } else { MAGIC });
        b.extend_from_slice(&self.journal);
        b.extend_from_slice(&key_check(mac, &self.journal));
        b.extend_from_slice(&self.generation.to_le_bytes());
        b.extend_from_slice(&self.horizon.0.to_le_bytes());
        b.extend_from_slice(&self.epoch.0.to_le_bytes());
        b.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        b.extend_from_slice(&self.created.0.to_le_bytes());
        if self.local {
            encode_below(self.base.as_ref(), &mut b);
        }
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
        let local = b.get(..8) == Some(MAGIC_LOCAL);
        if b.len() < HEAD + MAC + 4 || !(local || &b[..8] == MAGIC) {
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
        if !mac.verify(&[body], sum) {
            return Err(bad("its seal is wrong"));
        }
        let below = if local { decode_below(&body[HEAD..]) } else { Some((None, &body[HEAD..])) };
        let (base, listed) = below.ok_or_else(|| bad("it contradicts itself"))?;
        if listed.len() != u32_at(b, 60) as usize * SEGMENT {
            return Err(bad("it contradicts itself"));
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
            base,
            local,
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

#[cfg(test)]
mod tests;
