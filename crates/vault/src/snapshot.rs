//! Snapshots: what the vault keeps as one thing. A recovery point of a server, a base of its journal, a backup.
//!
//! Invariants: a snapshot is put in place once, by the session of the same name, after everything it names is in the
//! vault; it never changes. Names and locks are *holds*, objects of their own.
//!
//! Sealed objects (see `object`) whose texts are protobuf messages: [`SnapshotWire`], [`SessionWire`], [`HoldWire`].
//! Names: `snapshots/OWNER/ID`, `sessions/ID`, `holds/ID/NNNNNNNN`. OWNER tells nothing of a set's name.

use crate::error::VaultError;
use crate::id::{ChunkId, ObjectName, SnapshotId, VaultId, hex};
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS};
use lifeboat_base::{DiskId, Epoch, PointId, Secret, Seq, ServerId, WallTime};
use prost::Message;

/// Longest name of a set or of a hold, in bytes.
pub const MAX_LABEL: usize = 256;
/// Longest text an owner may keep with a snapshot, in bytes.
pub const MAX_DETAILS: usize = 1 << 20;

/// Whose snapshot it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A server's recovery points.
    Server(ServerId),
    /// What the journal of a server stands on; no recovery point.
    Base(ServerId),
    /// Backups of files, by the set's name.
    Set(String),
}

impl Owner {
    /// Its part in object names.
    pub(crate) fn part(&self, id_key: &Secret) -> String {
        match self {
            Self::Server(id) => format!("s-{}", id.0.simple()),
            Self::Base(id) => format!("b-{}", id.0.simple()),
            Self::Set(name) => {
                let hash = blake3::keyed_hash(&id_key.0, format!("set {name}").as_bytes());
                format!("f-{}", hex(&hash.as_bytes()[..16]))
            }
        }
    }
}

/// A disk's content: a Merkle tree over its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMap {
    /// In bytes.
    pub size: u64,
    /// [`ChunkId::ZERO`] for a disk of zeros.
    pub root: ChunkId,
}

/// A disk in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoot {
    pub disk: DiskId,
    pub map: DiskMap,
    /// Bytes of its chunks that are not zero.
    pub used: u64,
}

/// What making it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of content handed in.
    pub read: u64,
    /// Of which the vault had not.
    pub new: u64,
    /// What that took, compressed and sealed, packs' directories included.
    pub added: u64,
    pub millis: u64,
    /// For trees.
    pub files: u64,
    pub files_read: u64,
    /// Bytes the tree's files have.
    pub size: u64,
}

/// What a session makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotBody {
    /// The barrier it is, or for a base the last record it includes.
    pub point: Option<PointId>,
    /// For a barrier: 0 crash-, 1 filesystem-, 2 application-consistent.
    pub consistency: u8,
    /// The source's clock at the barrier, or when the backup began.
    pub source_time: WallTime,
    /// By this site's clock, when it reached this site; retention counts from it.
    pub site_time: WallTime,
    pub disks: Vec<DiskRoot>,
    /// BLAKE3 of the root of a tree of files.
    pub tree: Option<[u8; 32]>,
    /// The owner's own words; not interpreted here.
    pub details: Vec<u8>,
    pub stats: Stats,
    /// Nobody may delete it before, from the beginning.
    pub locked_until: Option<WallTime>,
}

/// A snapshot in the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub owner: Owner,
    pub body: SnapshotBody,
    /// The pruner's epoch its session knew of.
    pub prune_epoch: u32,
}

/// A name or a lock that was given to a snapshot later. The one with the highest number counts; locks never get shorter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hold {
    pub name: Option<String>,
    pub locked_until: Option<WallTime>,
    /// It is being deleted: nobody can name or lock it any more.
    pub forgotten: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotWire {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    owner_kind: u32,
    #[prost(bytes = "vec", tag = "3")]
    owner: Vec<u8>,
    #[prost(uint64, tag = "4")]
    epoch: u64,
    #[prost(uint64, tag = "5")]
    seq: u64,
    #[prost(uint32, tag = "6")]
    consistency: u32,
    #[prost(uint64, tag = "7")]
    source_time: u64,
    #[prost(uint64, tag = "8")]
    site_time: u64,
    #[prost(message, repeated, tag = "9")]
    disks: Vec<DiskWire>,
    #[prost(bytes = "vec", tag = "10")]
    tree: Vec<u8>,
    #[prost(bytes = "vec", tag = "11")]
    details: Vec<u8>,
    #[prost(message, optional, tag = "12")]
    stats: Option<StatsWire>,
    #[prost(uint64, tag = "13")]
    locked_until: u64,
    #[prost(uint32, tag = "14")]
    prune_epoch: u32,
    #[prost(bool, tag = "15")]
    has_point: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DiskWire {
    #[prost(uint32, tag = "1")]
    disk: u32,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(bytes = "vec", tag = "3")]
    root: Vec<u8>,
    #[prost(uint64, tag = "4")]
    used: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StatsWire {
    #[prost(uint64, tag = "1")]
    read: u64,
    #[prost(uint64, tag = "2")]
    new: u64,
    #[prost(uint64, tag = "3")]
    added: u64,
    #[prost(uint64, tag = "4")]
    millis: u64,
    #[prost(uint64, tag = "5")]
    files: u64,
    #[prost(uint64, tag = "6")]
    files_read: u64,
    #[prost(uint64, tag = "7")]
    size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionWire {
    #[prost(uint32, tag = "1")]
    pub owner_kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub owner: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub begun: u64,
    #[prost(uint32, tag = "4")]
    pub prune_epoch: u32,
    /// Who writes: the name of a local index, which one process has open at a time.
    #[prost(bytes = "vec", tag = "5")]
    pub writer: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HoldWire {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub locked_until: u64,
    #[prost(bool, tag = "3")]
    pub forgotten: bool,
}

fn time(nanos: u64) -> Option<WallTime> {
    (nanos > 0).then_some(WallTime(nanos))
}

fn nanos(time: Option<WallTime>) -> u64 {
    time.map_or(0, |t| t.0)
}

impl Owner {
    pub(crate) fn to_wire(&self) -> (u32, Vec<u8>) {
        match self {
            Self::Server(id) => (1, id.as_bytes().to_vec()),
            Self::Base(id) => (2, id.as_bytes().to_vec()),
            Self::Set(name) => (3, name.clone().into_bytes()),
        }
    }

    pub(crate) fn from_wire(kind: u32, bytes: &[u8]) -> Option<Self> {
        match kind {
            1 => ServerId::from_slice(bytes).ok().map(Self::Server),
            2 => ServerId::from_slice(bytes).ok().map(Self::Base),
            3 if bytes.len() <= MAX_LABEL => String::from_utf8(bytes.to_vec()).ok().map(Self::Set),
            _ => None,
        }
    }
}

impl Snapshot {
    /// The object's name.
    pub(crate) fn object(owner: &Owner, id: &SnapshotId, id_key: &Secret) -> Result<ObjectName, VaultError> {
        ObjectName::new(format!("snapshots/{}/{id}", owner.part(id_key)))
            .ok_or_else(|| VaultError::Invalid(format!("{owner:?} cannot own snapshots")))
    }

    /// Whether it was made by a session and is not a deletion's leftover: its session's own name.
    pub(crate) fn id_of(object: &ObjectName) -> Option<SnapshotId> {
        let mut parts = object.as_str().split('/');
        let (Some("snapshots"), Some(_), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        SnapshotId::parse(id)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        let b = &self.body;
        if b.disks.len() > MAX_DISKS || b.details.len() > MAX_DETAILS {
            return Err(VaultError::Invalid("a snapshot with so many disks or details".into()));
        }
        if let Owner::Set(name) = &self.owner
            && (name.is_empty() || name.len() > MAX_LABEL)
        {
            return Err(VaultError::Invalid(format!("a set's name is 1 to {MAX_LABEL} bytes long")));
        }
        let (owner_kind, owner) = self.owner.to_wire();
        let s = &b.stats;
        let wire = SnapshotWire {
            id: self.id.0.to_vec(),
            owner_kind,
            owner,
            has_point: b.point.is_some(),
            epoch: b.point.map_or(0, |p| u64::from(p.epoch.0)),
            seq: b.point.map_or(0, |p| p.seq.0),
            consistency: u32::from(b.consistency),
            source_time: b.source_time.0,
            site_time: b.site_time.0,
            disks: b
                .disks
                .iter()
                .map(|d| DiskWire {
                    disk: u32::from(d.disk.0),
                    size: d.map.size,
                    root: d.map.root.0.to_vec(),
                    used: d.used,
                })
                .collect(),
            tree: b.tree.map_or(Vec::new(), |t| t.to_vec()),
            details: b.details.clone(),
            stats: Some(StatsWire {
                read: s.read,
                new: s.new,
                added: s.added,
                millis: s.millis,
                files: s.files,
                files_read: s.files_read,
                size: s.size,
            }),
            locked_until: nanos(b.locked_until),
            prune_epoch: self.prune_epoch,
        };
        Ok(wire.encode_to_vec())
    }

    pub(crate) fn decode(text: &[u8]) -> Result<Self, &'static str> {
        let w = SnapshotWire::decode(text).map_err(|_| "it is no snapshot")?;
        let id: [u8; 16] = w.id.as_slice().try_into().map_err(|_| "its id is not 16 bytes long")?;
        let owner = Owner::from_wire(w.owner_kind, &w.owner).ok_or("its owner is not known")?;
        if w.disks.len() > MAX_DISKS || w.details.len() > MAX_DETAILS || w.consistency > 2 {
            return Err("it has more than a snapshot can have");
        }
        let disk = |d: &DiskWire| {
            let root: [u8; 32] = d.root.as_slice().try_into().ok()?;
            let disk = DiskId(u16::try_from(d.disk).ok()?);
            (d.size <= MAX_DISK).then_some(DiskRoot {
                disk,
                map: DiskMap { size: d.size, root: ChunkId(root) },
                used: d.used,
            })
        };
        let disks =
            w.disks.iter().map(disk).collect::<Option<Vec<_>>>().ok_or("a disk of it is not right")?;
        let epoch = u32::try_from(w.epoch).map_err(|_| "its epoch is none")?;
        let tree = match w.tree.len() {
            0 => None,
            _ => Some(w.tree.as_slice().try_into().map_err(|_| "its tree is not 32 bytes long")?),
        };
        let s = w.stats.unwrap_or_default();
        Ok(Self {
            id: SnapshotId(id),
            owner,
            prune_epoch: w.prune_epoch,
            body: SnapshotBody {
                point: w.has_point.then_some(PointId { epoch: Epoch(epoch), seq: Seq(w.seq) }),
                consistency: w.consistency as u8,
                source_time: WallTime(w.source_time),
                site_time: WallTime(w.site_time),
                disks,
                tree,
                details: w.details,
                stats: Stats {
                    read: s.read,
                    new: s.new,
                    added: s.added,
                    millis: s.millis,
                    files: s.files,
                    files_read: s.files_read,
                    size: s.size,
                },
                locked_until: time(w.locked_until),
            },
        })
    }

    /// The disk's map, if it has the disk.
    pub fn disk(&self, disk: DiskId) -> Option<&DiskRoot> {
        self.body.disks.iter().find(|d| d.disk == disk)
    }

    /// Bytes of content it stands for, holes left out.
    pub fn logical(&self) -> u64 {
        self.body.disks.iter().map(|d| d.used).sum::<u64>() + self.body.stats.size
    }
}

impl Hold {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        let name = self.name.clone().unwrap_or_default();
        if name.len() > MAX_LABEL {
            return Err(VaultError::Invalid(format!("a name is at most {MAX_LABEL} bytes long")));
        }
        Ok(HoldWire { name, locked_until: nanos(self.locked_until), forgotten: self.forgotten }
            .encode_to_vec())
    }

    pub(crate) fn decode(text: &[u8]) -> Result<Self, &'static str> {
        let w = HoldWire::decode(text).map_err(|_| "it is no hold")?;
        if w.name.len() > MAX_LABEL {
            return Err("its name is too long");
        }
        let name = (!w.name.is_empty()).then_some(w.name);
        Ok(Self { name, locked_until: time(w.locked_until), forgotten: w.forgotten })
    }

    pub(crate) fn object(id: &SnapshotId, number: u32) -> Result<ObjectName, VaultError> {
        ObjectName::new(format!("holds/{id}/{number:08}"))
            .ok_or_else(|| VaultError::Invalid(format!("hold {number}")))
    }

    /// Snapshot and number of a hold's object.
    pub(crate) fn of_object(object: &ObjectName) -> Option<(SnapshotId, u32)> {
        let (id, number) = object.as_str().strip_prefix("holds/")?.split_once('/')?;
        Some((SnapshotId::parse(id)?, number.parse().ok()?))
    }
}

/// The object that announces a session.
pub(crate) fn session_object(id: &SnapshotId) -> Result<ObjectName, VaultError> {
    ObjectName::new(format!("sessions/{id}")).ok_or_else(|| VaultError::Invalid(format!("session {id}")))
}

/// The object of a pack.
pub(crate) fn pack_object(id: &crate::id::PackId) -> ObjectName {
    let text = id.to_string();
    ObjectName::new(format!("packs/{}/{text}", &text[..2])).expect("hexadecimal digits make a name")
}

/// The object that says what vault this is, unsealed:
/// ```text
///  0          8         10         12        28
///  | magic    | version | reserved | vault id | CRC32C of the 28 bytes before |
///  | LBVAULT0 | u16 LE  | 0        | 16       | u32 LE                        |
/// ```
pub(crate) fn encode_marker(vault: &VaultId) -> Vec<u8> {
    let mut m = b"LBVAULT0".to_vec();
    m.extend_from_slice(&crate::FORMAT.to_le_bytes());
    m.extend_from_slice(&[0; 2]);
    m.extend_from_slice(&vault.0);
    let crc = crc32c::crc32c(&m);
    m.extend_from_slice(&crc.to_le_bytes());
    m
}

/// # Errors
/// `NoVault`, `Version`, `Damaged`.
pub(crate) fn decode_marker(bytes: &[u8]) -> Result<VaultId, VaultError> {
    let m: &[u8; 32] = bytes
        .try_into()
        .map_err(|_| VaultError::NoVault("the object 'vault' there is not one of Lifeboat's".into()))?;
    if &m[..8] != b"LBVAULT0" {
        return Err(VaultError::NoVault("the object 'vault' there is not one of Lifeboat's".into()));
    }
    let crc = u32::from_le_bytes([m[28], m[29], m[30], m[31]]);
    if crc != crc32c::crc32c(&m[..28]) {
        return Err(VaultError::damaged("vault", "its checksum is wrong"));
    }
    let found = u16::from_le_bytes([m[8], m[9]]);
    if found != crate::FORMAT {
        return Err(VaultError::Version { found, known: crate::FORMAT });
    }
    let mut id = [0; 16];
    id.copy_from_slice(&m[12..28]);
    Ok(VaultId(id))
}

/// One of everything, for tests and fuzzing.
pub(crate) fn sample() -> Snapshot {
    Snapshot {
        id: SnapshotId([5; 16]),
        owner: Owner::Set("etc".into()),
        prune_epoch: 3,
        body: SnapshotBody {
            point: Some(PointId { epoch: Epoch(2), seq: Seq(9) }),
            consistency: 1,
            source_time: WallTime(10),
            site_time: WallTime(11),
            disks: vec![DiskRoot {
                disk: DiskId(1),
                map: DiskMap { size: 1 << 40, root: ChunkId([8; 32]) },
                used: 4096,
            }],
            tree: Some([3; 32]),
            details: b"{}".to_vec(),
            stats: Stats { read: 1, new: 2, added: 3, millis: 4, files: 5, files_read: 6, size: 7 },
            locked_until: Some(WallTime(99)),
        },
    }
}

#[cfg(test)]
mod tests;
