//! The protocol buffers of trees: new fields may be added, old ones keep their numbers.

use super::{
    Content, Entry as Real, EntryKind, MAX_DEPTH, MAX_INLINE, MAX_SIZE, MAX_TARGET, MAX_XATTRS, Meta, Origin,
    Piece as RealPiece, Time, TreeError, Xattr as RealXattr, is_name,
};
use crate::blob::{Hash, MAX_BLOB};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct Directory {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    #[prost(message, repeated, tag = "2")]
    pub pages: Vec<Page>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Page {
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub first: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub entries: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct List {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    #[prost(uint32, tag = "2")]
    pub depth: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Piece {
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub len: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Xattr {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// 1 file, 2 directory, 3 symbolic link, 4 fifo, 5 socket, 6 block device, 7 character device.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    #[prost(sint64, tag = "6")]
    pub mtime: i64,
    #[prost(uint32, tag = "7")]
    pub mtime_nanos: u32,
    #[prost(sint64, tag = "8")]
    pub ctime: i64,
    #[prost(uint32, tag = "9")]
    pub ctime_nanos: u32,
    #[prost(uint64, tag = "10")]
    pub inode: u64,
    #[prost(uint64, tag = "11")]
    pub device: u64,
    #[prost(uint32, tag = "12")]
    pub links: u32,
    #[prost(uint64, tag = "13")]
    pub size: u64,
    #[prost(uint32, tag = "14")]
    pub depth: u32,
    #[prost(message, repeated, tag = "15")]
    pub pieces: Vec<Piece>,
    /// A directory's blob.
    #[prost(bytes = "vec", tag = "16")]
    pub directory: Vec<u8>,
    #[prost(bytes = "vec", tag = "17")]
    pub target: Vec<u8>,
    #[prost(uint32, tag = "18")]
    pub major: u32,
    #[prost(uint32, tag = "19")]
    pub minor: u32,
    #[prost(message, repeated, tag = "20")]
    pub xattrs: Vec<Xattr>,
}

/// How many fields a message has, entries or pages, before anything is made of them.
pub fn count(mut body: &[u8]) -> Result<usize, TreeError> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let broken = |e: prost::DecodeError| TreeError::Decode(e.to_string());
    let mut fields = 0;
    while !body.is_empty() {
        let (_, kind) = decode_key(&mut body).map_err(broken)?;
        let skip = match kind {
            WireType::LengthDelimited => decode_varint(&mut body).map_err(broken)?,
            WireType::Varint => decode_varint(&mut body).map(|_| 0).map_err(broken)?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(TreeError::Decode("it has groups".into()));
            }
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        body = body.get(skip..).ok_or_else(|| TreeError::Decode("it ends early".into()))?;
        fields += 1;
    }
    Ok(fields)
}

pub fn hash(bytes: &[u8]) -> Result<Hash, TreeError> {
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| TreeError::Rule("a hash has the wrong length"))?;
    Ok(Hash::from_bytes(bytes))
}

/// Pieces that stand for `size` bytes altogether.
pub fn pieces(wire: Vec<Piece>, size: u64) -> Result<Vec<RealPiece>, TreeError> {
    let mut total = 0u64;
    let mut out = Vec::with_capacity(wire.len());
    for p in wire {
        total = total.checked_add(p.len).ok_or(TreeError::Rule("lengths overflow"))?;
        if p.len == 0 {
            return Err(TreeError::Rule("a piece is empty"));
        }
        let hash = if p.hash.is_empty() { None } else { Some(hash(&p.hash)?) };
        out.push(RealPiece { hash, len: p.len });
    }
    if total != size {
        return Err(TreeError::Rule("a file's pieces do not add up to its size"));
    }
    Ok(out)
}

impl From<&RealPiece> for Piece {
    fn from(p: &RealPiece) -> Self {
        Self { hash: p.hash.map(|h| h.as_bytes().to_vec()).unwrap_or_default(), len: p.len }
    }
}

impl From<&Real> for Entry {
    fn from(e: &Real) -> Self {
        let mut wire = Self {
            name: e.name.clone(),
            kind: e.kind.number(),
            mode: e.meta.mode,
            uid: e.meta.uid,
            gid: e.meta.gid,
            mtime: e.meta.mtime.secs,
            mtime_nanos: e.meta.mtime.nanos,
            ctime: e.origin.ctime.secs,
            ctime_nanos: e.origin.ctime.nanos,
            inode: e.origin.inode,
            device: e.origin.device,
            links: e.origin.links,
            ..Self::default()
        };
        let xattr = |x: &RealXattr| Xattr { name: x.name.clone(), value: x.value.clone() };
        wire.xattrs = e.meta.xattrs.iter().map(xattr).collect();
        match &e.kind {
            EntryKind::File(c) => {
                (wire.size, wire.depth) = (c.size, c.depth);
                wire.pieces = c.pieces.iter().map(Piece::from).collect();
            }
            EntryKind::Directory(h) => wire.directory = h.as_bytes().to_vec(),
            EntryKind::Symlink(t) => wire.target = t.clone(),
            EntryKind::Block(major, minor) | EntryKind::Char(major, minor) => {
                (wire.major, wire.minor) = (*major, *minor);
            }
            EntryKind::Fifo | EntryKind::Socket => {}
        }
        wire
    }
}

fn content(size: u64, depth: u32, wire: Vec<Piece>) -> Result<Content, TreeError> {
    if size > MAX_SIZE || depth > MAX_DEPTH || wire.len() > MAX_INLINE {
        return Err(TreeError::Rule("a file is out of bounds"));
    }
    let pieces = pieces(wire, size)?;
    if depth == 0 && pieces.iter().any(|p| p.hash.is_some() && p.len > MAX_BLOB as u64) {
        return Err(TreeError::Rule("a piece is too long"));
    }
    if depth > 0 && pieces.iter().any(|p| p.hash.is_none()) {
        return Err(TreeError::Rule("a list has no hash"));
    }
    Ok(Content { size, depth, pieces })
}

impl TryFrom<Entry> for Real {
    type Error = TreeError;

    fn try_from(w: Entry) -> Result<Self, TreeError> {
        if !is_name(&w.name) {
            return Err(TreeError::Rule("a name is not one path component"));
        }
        if w.mode > 0o7777 || w.mtime_nanos > 999_999_999 || w.ctime_nanos > 999_999_999 {
            return Err(TreeError::Rule("permissions or times are out of bounds"));
        }
        let kind = match w.kind {
            1 => EntryKind::File(content(w.size, w.depth, w.pieces)?),
            2 => EntryKind::Directory(hash(&w.directory)?),
            3 if w.target.is_empty() || w.target.len() > MAX_TARGET || w.target.contains(&0) => {
                return Err(TreeError::Rule("a symbolic link's target is out of bounds"));
            }
            3 => EntryKind::Symlink(w.target),
            4 => EntryKind::Fifo,
            5 => EntryKind::Socket,
            6 => EntryKind::Block(w.major, w.minor),
            7 => EntryKind::Char(w.major, w.minor),
            _ => return Err(TreeError::Rule("an entry is of an unknown kind")),
        };
        let xattrs: Vec<RealXattr> =
            w.xattrs.into_iter().map(|x| RealXattr { name: x.name, value: x.value }).collect();
        let fits = |x: &RealXattr| !x.name.is_empty() && x.name.len() <= 255 && !x.name.contains(&0);
        let sum: usize = xattrs.iter().map(|x| x.name.len() + x.value.len()).sum();
        if !xattrs.iter().all(fits) || sum > MAX_XATTRS {
            return Err(TreeError::Rule("an attribute is out of bounds"));
        }
        Ok(Self {
            name: w.name,
            kind,
            meta: Meta {
                mode: w.mode,
                uid: w.uid,
                gid: w.gid,
                mtime: Time { secs: w.mtime, nanos: w.mtime_nanos },
                xattrs,
            },
            origin: Origin {
                ctime: Time { secs: w.ctime, nanos: w.ctime_nanos },
                inode: w.inode,
                device: w.device,
                links: w.links,
            },
        })
    }
}
