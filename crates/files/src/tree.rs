//! The format of trees.
//!
//! ```text
//! blob  | 0  1 | 2       | 3    | 4 ...            |
//!       | "LT" | version | what | protocol buffer  |     version 1; what: 1 directory, 2 list
//!
//! Directory   1: Entry ...     sorted by name, no name twice
//!             2: Page ...      instead of entries, when they fill more than one blob: pages are directories with entries
//! Page        1: hash (32)     2: first name     3: entries
//! List        1: Piece ...     2: depth: 1 when the pieces are content, else one more than theirs
//! Piece       1: hash (32; absent: a hole)       2: length in bytes
//! Entry       see `wire::Entry`
//! ```
//! A file's content is its pieces in order. Many pieces are put into lists, lists into lists: `depth` says how often.
//! Where pages and lists end depends on their content, so that an insertion leaves most of them as they were.
//!
//! Invariants: what is decoded is within every bound below; names are single path components, in order; lengths add up to
//! the file's size. Encoding is deterministic: the same directory is the same blob, and so are two unchanged ones.

pub(crate) mod wire;

use crate::blob::{BlobError, BlobKind, BlobSink, Hash, MAX_BLOB};
use bytes::Bytes;
use prost::Message;

pub const VERSION: u8 = 1;
/// Longest name of an entry, in bytes: that of Linux.
pub const MAX_NAME: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const MAX_TARGET: usize = 4096;
/// Largest file, in bytes: that of Linux.
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Bytes of all extended attributes of an entry.
pub const MAX_XATTRS: usize = 256 * 1024;
/// Pieces an entry holds itself; more go to lists.
pub const MAX_INLINE: usize = 64;
/// Most pieces of one list.
pub const MAX_LIST: usize = 8192;
/// Most lists upon lists.
pub const MAX_DEPTH: u32 = 4;
/// Directories within directories.
pub const MAX_LEVELS: usize = 512;
/// Most entries of one directory.
pub const MAX_ENTRIES: usize = 4 << 20;
/// Most entries of one blob: a few bytes of it could make a hundred times as many in memory. None that is written has
/// more.
pub const MAX_BLOB_ENTRIES: usize = 32 * 1024;
/// A page ends where its size is over this and a name says so, or at `PAGE_MOST`.
const PAGE_LEAST: usize = 64 * 1024;
const PAGE_MOST: usize = 384 * 1024;

const MAGIC: &[u8; 2] = b"LT";
const DIRECTORY: u8 = 1;
const LIST: u8 = 2;

/// Bytes that are no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("a tree's blob does not decode: {0}")]
    Decode(String),
    #[error("a tree's blob is of version {0}; this program reads version {VERSION}")]
    Version(u8),
    #[error("a tree's blob breaks a rule: {0}")]
    Rule(&'static str),
}

/// Content is of another length than a file says.
pub(crate) const WRONG_LENGTH: TreeError = TreeError::Rule("a piece is not as long as its file says");

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// `None`: a hole.
    pub hash: Option<Hash>,
    pub len: u64,
}

/// A file's bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    /// 0: `pieces` are content; else each is a list of depth `depth - 1`.
    pub depth: u32,
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File(Content),
    /// Its directory blob.
    Directory(Hash),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    /// Major and minor number.
    Block(u32, u32),
    Char(u32, u32),
}

impl EntryKind {
    /// A number for each kind, as on the wire.
    pub fn number(&self) -> u32 {
        match self {
            Self::File(_) => 1,
            Self::Directory(_) => 2,
            Self::Symlink(_) => 3,
            Self::Fifo => 4,
            Self::Socket => 5,
            Self::Block(..) => 6,
            Self::Char(..) => 7,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What of an entry comes back with a restore, beside name and content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-user-id and the like included: 07777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Sorted by name. Access control lists and capabilities are among them.
    pub xattrs: Vec<Xattr>,
}

/// What the entry was at its source: by this the next walk knows whether it changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// All zero: never to be trusted (it changed while it was read, or just before).
    pub ctime: Time,
    pub inode: u64,
    /// Only where it has more than one name: with `inode` it tells which entries are one file.
    pub device: u64,
    pub links: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: EntryKind,
    pub meta: Meta,
    pub origin: Origin,
}

impl Entry {
    /// Which file it is, where it has more than one name.
    pub fn link(&self) -> Option<(u64, u64)> {
        (self.origin.links > 1).then_some((self.origin.device, self.origin.inode))
    }

    /// Equal for entries that differ in name and origin only.
    pub(crate) fn likeness(&self) -> Hash {
        let bare = Self { name: Vec::new(), origin: Origin::default(), ..self.clone() };
        blake3::hash(&wire::Entry::from(&bare).encode_to_vec())
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        match &self.kind {
            EntryKind::File(c) => c.size,
            EntryKind::Symlink(t) => t.len() as u64,
            _ => 0,
        }
    }
}

/// A part of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub hash: Hash,
    pub first: Vec<u8>,
    pub entries: u64,
}

/// What a directory's blob holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    Entries(Vec<Entry>),
    Pages(Vec<Page>),
}

/// Whether a name is one path component, and nothing else.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| *b == b'/' || *b == 0)
}

fn open(blob: &[u8], what: u8) -> Result<&[u8], TreeError> {
    if blob.len() > MAX_BLOB {
        return Err(TreeError::Rule("it is too large"));
    }
    let (head, body) = blob.split_at_checked(4).ok_or(TreeError::Rule("it is too short"))?;
    if &head[..2] != MAGIC {
        return Err(TreeError::Rule("it is no tree"));
    }
    if head[2] != VERSION {
        return Err(TreeError::Version(head[2]));
    }
    if head[3] != what {
        return Err(TreeError::Rule("it holds something else"));
    }
    Ok(body)
}

fn seal(what: u8, message: &impl Message) -> Bytes {
    let mut out = Vec::with_capacity(4 + message.encoded_len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, what]);
    message.encode_raw(&mut out);
    Bytes::from(out)
}

impl Directory {
    /// # Errors
    /// See [`TreeError`].
    pub fn decode(blob: &[u8]) -> Result<Self, TreeError> {
        let body = open(blob, DIRECTORY)?;
        if wire::count(body)? > MAX_BLOB_ENTRIES {
            return Err(TreeError::Rule("it has too many entries"));
        }
        let wire = wire::Directory::decode(body).map_err(|e| TreeError::Decode(e.to_string()))?;
        if wire.pages.is_empty() {
            let mut entries: Vec<Entry> = Vec::with_capacity(wire.entries.len());
            for entry in wire.entries {
                let entry = Entry::try_from(entry)?;
                if entries.last().is_some_and(|last| last.name >= entry.name) {
                    return Err(TreeError::Rule("its names are out of order"));
                }
                entries.push(entry);
            }
            return Ok(Self::Entries(entries));
        }
        if !wire.entries.is_empty() {
            return Err(TreeError::Rule("it has pages and entries"));
        }
        let mut pages: Vec<Page> = Vec::with_capacity(wire.pages.len());
        let mut total = 0u64;
        for page in wire.pages {
            total = total.saturating_add(page.entries);
            let page = Page { hash: wire::hash(&page.hash)?, first: page.first, entries: page.entries };
            if !is_name(&page.first) || page.entries == 0 || total > MAX_ENTRIES as u64 {
                return Err(TreeError::Rule("a page is out of bounds"));
            }
            if pages.last().is_some_and(|last| last.first >= page.first) {
                return Err(TreeError::Rule("its pages are out of order"));
            }
            pages.push(page);
        }
        Ok(Self::Pages(pages))
    }

    /// Stores a directory of these entries, sorted by name; gives the hash of its blob.
    ///
    /// # Errors
    /// What the sink says, or that there are too many entries.
    pub fn store(entries: &[Entry], sink: &dyn BlobSink) -> Result<Hash, BlobError> {
        debug_assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        if entries.len() > MAX_ENTRIES {
            return Err(BlobError::TooLarge(format!("has more than {MAX_ENTRIES} entries")));
        }
        let (mut pages, mut page, mut size) = (Vec::new(), wire::Directory::default(), 0);
        for entry in entries {
            let wire = wire::Entry::from(entry);
            let len = wire.encoded_len() + 8;
            if size + len > PAGE_MOST && !page.entries.is_empty() {
                close_page(&mut page, &mut pages, sink)?;
                size = 0;
            }
            size += len;
            page.entries.push(wire);
            if size > PAGE_LEAST && blake3::hash(&entry.name).as_bytes()[0] < 4 {
                close_page(&mut page, &mut pages, sink)?;
                size = 0;
            }
        }
        if pages.is_empty() {
            return put(sink, seal(DIRECTORY, &page));
        }
        if !page.entries.is_empty() {
            close_page(&mut page, &mut pages, sink)?;
        }
        let blob = seal(DIRECTORY, &wire::Directory { entries: Vec::new(), pages });
        if blob.len() > MAX_BLOB {
            return Err(BlobError::TooLarge("has too many entries with long names".into()));
        }
        put(sink, blob)
    }
}

fn close_page(
    page: &mut wire::Directory,
    pages: &mut Vec<wire::Page>,
    sink: &dyn BlobSink,
) -> Result<(), BlobError> {
    let full = std::mem::take(page);
    let first = full.entries.first().map(|e| e.name.clone()).unwrap_or_default();
    let entries = full.entries.len() as u64;
    let hash = put(sink, seal(DIRECTORY, &full))?;
    pages.push(wire::Page { hash: hash.as_bytes().to_vec(), first, entries });
    Ok(())
}

fn put(sink: &dyn BlobSink, blob: Bytes) -> Result<Hash, BlobError> {
    let hash = blake3::hash(&blob);
    if !sink.has(BlobKind::Tree, &hash)? {
        sink.put(BlobKind::Tree, hash, blob)?;
    }
    Ok(hash)
}

impl Content {
    /// Content of these pieces. What an entry cannot hold itself is stored as lists.
    ///
    /// # Errors
    /// What the sink says, or that the file is too large.
    pub fn store(mut pieces: Vec<Piece>, sink: &dyn BlobSink) -> Result<Self, BlobError> {
        let size = pieces.iter().map(|p| p.len).sum();
        let mut depth = 0;
        while pieces.len() > MAX_INLINE {
            if depth == MAX_DEPTH {
                return Err(BlobError::TooLarge("has too many pieces".into()));
            }
            depth += 1;
            pieces = lists(&pieces, depth, sink)?;
        }
        Ok(Self { size, depth, pieces })
    }
}

/// Puts pieces into lists; gives the pieces that stand for the lists.
fn lists(pieces: &[Piece], depth: u32, sink: &dyn BlobSink) -> Result<Vec<Piece>, BlobError> {
    let mut out = Vec::new();
    let mut from = 0;
    for (n, piece) in pieces.iter().enumerate() {
        let held = n + 1 - from;
        let natural = held >= MAX_INLINE && piece.hash.is_some_and(|h| h.as_bytes()[0] == 0);
        if natural || held == MAX_LIST || n + 1 == pieces.len() {
            let part = &pieces[from..=n];
            let wire = wire::List { pieces: part.iter().map(wire::Piece::from).collect(), depth };
            let hash = put(sink, seal(LIST, &wire))?;
            out.push(Piece { hash: Some(hash), len: part.iter().map(|p| p.len).sum() });
            from = n + 1;
        }
    }
    Ok(out)
}

/// Pieces of a list of this depth that stands for `len` bytes.
///
/// # Errors
/// See [`TreeError`].
pub fn decode_list(blob: &[u8], depth: u32, len: u64) -> Result<Vec<Piece>, TreeError> {
    let (found, pieces) = decode_any_list(blob)?;
    if found != depth || pieces.iter().map(|p| p.len).sum::<u64>() != len {
        return Err(TreeError::Rule("a list is not what its file says"));
    }
    Ok(pieces)
}

/// Depth and pieces of a list, whatever it stands for.
///
/// # Errors
/// See [`TreeError`].
pub fn decode_any_list(blob: &[u8]) -> Result<(u32, Vec<Piece>), TreeError> {
    let list = wire::List::decode(open(blob, LIST)?).map_err(|e| TreeError::Decode(e.to_string()))?;
    if list.pieces.is_empty() || list.pieces.len() > MAX_LIST || !(1..=MAX_DEPTH).contains(&list.depth) {
        return Err(TreeError::Rule("a list is out of bounds"));
    }
    let len = list.pieces.iter().try_fold(0u64, |sum, p| sum.checked_add(p.len));
    let pieces = wire::pieces(list.pieces, len.ok_or(TreeError::Rule("lengths overflow"))?)?;
    let wrong = |p: &Piece| match p.hash {
        None => list.depth > 1,
        Some(_) => list.depth == 1 && p.len > MAX_BLOB as u64,
    };
    if pieces.iter().any(wrong) {
        return Err(TreeError::Rule("a list's piece is out of bounds"));
    }
    Ok((list.depth, pieces))
}

/// What a blob of a tree refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    Content(Hash),
    /// Another blob of the tree, and what it is: see [`what`].
    Tree(Hash, u32),
}

/// What a blob says it is: 0 a directory, n a list of depth n.
///
/// # Errors
/// See [`TreeError`].
pub fn what(blob: &[u8]) -> Result<u32, TreeError> {
    match blob.get(3) {
        Some(&LIST) => Ok(decode_any_list(blob)?.0),
        _ => open(blob, DIRECTORY).map(|_| 0),
    }
}

/// Gives all a blob refers to, which has to be `what`.
///
/// # Errors
/// See [`TreeError`].
pub fn references(blob: &[u8], what: u32, found: &mut dyn FnMut(Reference)) -> Result<(), TreeError> {
    if what > 0 {
        let (depth, pieces) = decode_any_list(blob)?;
        if depth != what {
            return Err(TreeError::Rule("a list is not what its file says"));
        }
        give(depth - 1, &pieces, found);
        return Ok(());
    }
    match Directory::decode(blob)? {
        Directory::Pages(pages) => pages.iter().for_each(|p| found(Reference::Tree(p.hash, 0))),
        Directory::Entries(entries) => {
            for entry in entries {
                match entry.kind {
                    EntryKind::File(content) => give(content.depth, &content.pieces, found),
                    EntryKind::Directory(hash) => found(Reference::Tree(hash, 0)),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Content where `depth` is 0, else lists of that depth.
fn give(depth: u32, pieces: &[Piece], found: &mut dyn FnMut(Reference)) {
    for hash in pieces.iter().filter_map(|p| p.hash) {
        found(if depth == 0 { Reference::Content(hash) } else { Reference::Tree(hash, depth) });
    }
}

#[cfg(test)]
mod tests;
