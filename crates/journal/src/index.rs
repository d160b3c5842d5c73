//! The index of a finished segment. It can always be made again from the segment.
//!
//! ```text
//!   0  "LBJIDX01"                     80  barriers, 48 bytes each:
//!   8  segment id                           seq u64, source time u64, site time u64, bytes u64,
//!  24  length of the segment u64            epoch u32, clock u32, kind u32, 0 u32
//!  32  first seq u64                      disk sizes, 24 bytes each: seq u64, size u64, disk u64
//!  40  last seq u64                       mac: keyed BLAKE3 of all of the above
//!  48  epoch u32                          entries, 36 bytes each, in the order of the segment:
//!  52  records u32                          offset u64, len u64, seq u64, position u32,
//!  56  entries u32                          payload length u32, disk u16, kind u8, 0 u8
//!  60  barriers u32                       mac: keyed BLAKE3 of the first mac and the entries
//!  64  disk sizes u32
//!  68  clock u32: of the last barrier
//!  72  bytes of data after the last barrier u64
//! ```
//!
//! Opening a journal reads up to the first mac, opening a point all of it.

use crate::format::{Kind, u16_at, u32_at, u64_at};
use crate::seal::{MAC, MacKey};
use lifeboat_base::{DiskId, Epoch, PointId, Seq, WallTime};
use lifeboat_block::BarrierKind;
use lifeboat_block::storage::{LogFile, read_most, read_whole};
use std::io;

const MAGIC: &[u8; 8] = b"LBJIDX01";
const HEAD: usize = 80;
const BARRIER: usize = 48;
const DISK: usize = 24;
const ENTRY: usize = 36;
/// Most bytes an index can have: every record of a 4 GiB segment an entry or a barrier.
const MAX_INDEX: u64 = 1 << 32;

/// Where a record that changes a disk is. For `Disk` records `len` is the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub offset: u64,
    pub len: u64,
    pub seq: Seq,
    pub pos: u32,
    pub payload: u32,
    pub disk: DiskId,
    pub kind: Kind,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub seq: Seq,
    pub source: WallTime,
    pub site: WallTime,
    pub bytes: u64,
    pub epoch: Epoch,
    pub clock: u32,
    pub kind: BarrierKind,
}

impl Barrier {
    pub(crate) fn id(&self) -> PointId {
        PointId { epoch: self.epoch, seq: self.seq }
    }
}

/// `disk` has `size` bytes from `seq` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskChange {
    pub seq: Seq,
    pub size: u64,
    pub disk: DiskId,
}

/// What is known of a segment without its entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Summary {
    /// Bytes of the file.
    pub len: u64,
    pub first: Seq,
    /// `first - 1` while there is no record.
    pub last: Seq,
    pub epoch: Epoch,
    pub records: u32,
    pub clock: u32,
    /// Bytes of data after the last barrier.
    pub tail: u64,
}

/// The first part of an index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub summary: Summary,
    pub barriers: Vec<Barrier>,
    pub disks: Vec<DiskChange>,
}

pub(crate) fn encode(mac: &MacKey, id: &[u8; 16], head: &Head, entries: &[Entry]) -> Vec<u8> {
    let s = &head.summary;
    let size =
        HEAD + head.barriers.len() * BARRIER + head.disks.len() * DISK + entries.len() * ENTRY + 2 * MAC;
    let mut b = Vec::with_capacity(size);
    b.extend_from_slice(MAGIC);
    b.extend_from_slice(id);
    for v in [s.len, s.first.0, s.last.0] {
        b.extend_from_slice(&v.to_le_bytes());
    }
    let counts = [entries.len() as u32, head.barriers.len() as u32, head.disks.len() as u32];
    for v in [s.epoch.0, s.records, counts[0], counts[1], counts[2], s.clock] {
        b.extend_from_slice(&v.to_le_bytes());
    }
    b.extend_from_slice(&s.tail.to_le_bytes());
    for p in &head.barriers {
        for v in [p.seq.0, p.source.0, p.site.0, p.bytes] {
            b.extend_from_slice(&v.to_le_bytes());
        }
        for v in [p.epoch.0, p.clock, p.kind as u32, 0] {
            b.extend_from_slice(&v.to_le_bytes());
        }
    }
    for d in &head.disks {
        for v in [d.seq.0, d.size, u64::from(d.disk.0)] {
            b.extend_from_slice(&v.to_le_bytes());
        }
    }
    let head_mac = mac.of(&[&b]);
    b.extend_from_slice(&head_mac);
    let start = b.len();
    for e in entries {
        for v in [e.offset, e.len, e.seq.0] {
            b.extend_from_slice(&v.to_le_bytes());
        }
        b.extend_from_slice(&e.pos.to_le_bytes());
        b.extend_from_slice(&e.payload.to_le_bytes());
        b.extend_from_slice(&e.disk.0.to_le_bytes());
        b.extend_from_slice(&[e.kind as u8, 0]);
    }
    let entries_mac = mac.of(&[&head_mac, &b[start..]]);
    b.extend_from_slice(&entries_mac);
    b
}

/// Length of the part up to and with the first mac, and of the whole.
fn lengths(head: &[u8]) -> (u64, u64) {
    let count = |at| u64::from(u32_at(head, at));
    let first = HEAD as u64 + count(60) * BARRIER as u64 + count(64) * DISK as u64 + MAC as u64;
    (first, first + count(56) * ENTRY as u64 + MAC as u64)
}

/// Reads the first part. `None` when it is not the index of segment `id`, or damaged.
pub(crate) fn load_head(mac: &MacKey, id: &[u8; 16], file: &dyn LogFile) -> io::Result<Option<Head>> {
    let mut fixed = [0; HEAD];
    let len = file.len()?;
    if read_most(file, &mut fixed, 0)? < HEAD || &fixed[..8] != MAGIC || fixed[8..24] != id[..] {
        return Ok(None);
    }
    let (first, whole) = lengths(&fixed);
    if whole != len || whole > MAX_INDEX {
        return Ok(None);
    }
    let mut b = vec![0; first as usize];
    if read_most(file, &mut b, 0)? < b.len() {
        return Ok(None);
    }
    Ok(decode_head(mac, &b))
}

fn decode_head(mac: &MacKey, b: &[u8]) -> Option<Head> {
    let (body, sum) = b.split_at_checked(b.len().checked_sub(MAC)?)?;
    if !mac.verify(&[body], sum) {
        return None;
    }
    let summary = Summary {
        len: u64_at(b, 24),
        first: Seq(u64_at(b, 32)),
        last: Seq(u64_at(b, 40)),
        epoch: Epoch(u32_at(b, 48)),
        records: u32_at(b, 52),
        clock: u32_at(b, 68),
        tail: u64_at(b, 72),
    };
    let (barriers, disks) = body[HEAD..].split_at_checked(u32_at(b, 60) as usize * BARRIER)?;
    let barrier = |p: &[u8]| {
        Some(Barrier {
            seq: Seq(u64_at(p, 0)),
            source: WallTime(u64_at(p, 8)),
            site: WallTime(u64_at(p, 16)),
            bytes: u64_at(p, 24),
            epoch: Epoch(u32_at(p, 32)),
            clock: u32_at(p, 36),
            kind: BarrierKind::from_u8(u8::try_from(u32_at(p, 40)).ok()?)?,
        })
    };
    let disk = |d: &[u8]| {
        let disk = DiskId(u16::try_from(u64_at(d, 16)).ok()?);
        Some(DiskChange { seq: Seq(u64_at(d, 0)), size: u64_at(d, 8), disk })
    };
    Some(Head {
        summary,
        barriers: barriers.chunks_exact(BARRIER).map(barrier).collect::<Option<_>>()?,
        disks: disks.chunks_exact(DISK).map(disk).collect::<Option<_>>()?,
    })
}

/// Reads the entries and gives each to `f`. `false` when the index is damaged; `f` was then not called.
pub(crate) fn each_entry(
    mac: &MacKey,
    id: &[u8; 16],
    file: &dyn LogFile,
    mut f: impl FnMut(Entry),
) -> io::Result<bool> {
    let b = read_whole(file, MAX_INDEX)?;
    if b.len() < HEAD || &b[..8] != MAGIC || b[8..24] != id[..] {
        return Ok(false);
    }
    let (first, whole) = lengths(&b);
    if whole != b.len() as u64 {
        return Ok(false);
    }
    let (head, rest) = b.split_at(first as usize);
    let (head, head_mac) = head.split_at(head.len() - MAC);
    let (entries, sum) = rest.split_at(rest.len() - MAC);
    if !mac.verify(&[head], head_mac) || !mac.verify(&[head_mac, entries], sum) {
        return Ok(false);
    }
    for e in entries.chunks_exact(ENTRY) {
        let Some(kind) = Kind::from_u8(e[34]) else { return Ok(false) };
        f(Entry {
            offset: u64_at(e, 0),
            len: u64_at(e, 8),
            seq: Seq(u64_at(e, 16)),
            pos: u32_at(e, 24),
            payload: u32_at(e, 28),
            disk: DiskId(u16_at(e, 32)),
            kind,
        });
    }
    Ok(true)
}
