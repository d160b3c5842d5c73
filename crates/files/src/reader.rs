//! Reads trees: lists, finds, and gives the pieces of files.
//!
//! Invariant: memory is one page of a directory and one list per depth, however large the tree is.

use crate::blob::{BlobKind, BlobSource, Hash};
use crate::tree::{
    self, Content, Directory, Entry, EntryKind, Meta, Origin, Page, Piece, TreeError, is_name,
};
use crate::{FilesError, show};
use bytes::Bytes;

/// A tree, as far as it is looked at.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    pub source: &'a dyn BlobSource,
    /// Blob of its root directory.
    pub root: Hash,
}

impl<'a> Tree<'a> {
    pub fn new(source: &'a dyn BlobSource, root: Hash) -> Self {
        Self { source, root }
    }

    /// Entries of a directory, by name.
    ///
    /// # Errors
    /// When its blob cannot be had or read.
    pub fn entries(&self, directory: &Hash) -> Result<Entries<'a>, FilesError> {
        let blob = self.source.get(BlobKind::Tree, directory)?;
        let (page, pages) = match Directory::decode(&blob)? {
            Directory::Entries(entries) => (entries, Vec::new()),
            Directory::Pages(pages) => (Vec::new(), pages),
        };
        Ok(Entries {
            source: self.source,
            page: page.into_iter(),
            pages: pages.into_iter(),
            last: Vec::new(),
        })
    }

    /// An entry of a directory.
    ///
    /// # Errors
    /// When its blob cannot be had or read.
    pub fn find(&self, directory: &Hash, name: &[u8]) -> Result<Option<Entry>, FilesError> {
        let blob = self.source.get(BlobKind::Tree, directory)?;
        let mut entries = match Directory::decode(&blob)? {
            Directory::Entries(entries) => entries,
            Directory::Pages(pages) => {
                let after = pages.partition_point(|p| p.first.as_slice() <= name);
                let Some(page) = after.checked_sub(1).map(|n| &pages[n]) else { return Ok(None) };
                read_page(self.source, page)?
            }
        };
        let found = entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok();
        Ok(found.map(|n| entries.swap_remove(n)))
    }

    /// What is at an absolute path; symbolic links are not followed. The root has no name.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], or that a blob cannot be had or read.
    pub fn at(&self, path: &[u8]) -> Result<Entry, FilesError> {
        let mut here = Entry {
            name: Vec::new(),
            kind: EntryKind::Directory(self.root),
            meta: Meta { mode: 0o755, ..Meta::default() },
            origin: Origin::default(),
        };
        for part in components(path)? {
            let found = match &here.kind {
                EntryKind::Directory(hash) => self.find(hash, part)?,
                _ => None,
            };
            here = found.ok_or_else(|| FilesError::NotFound(show(path)))?;
        }
        Ok(here)
    }

    /// A file's pieces from the one that holds `offset` on, each with where it begins.
    pub fn pieces(&self, content: &Content, offset: u64) -> Pieces<'a> {
        let top = (content.depth, content.pieces.clone().into_iter());
        Pieces { tree: *self, stack: vec![top], at: 0, offset }
    }

    /// Pieces of the list a piece of this depth stands for.
    pub(crate) fn list(&self, depth: u32, piece: &Piece) -> Result<Vec<Piece>, FilesError> {
        let hash = piece.hash.ok_or(TreeError::Rule("a list has no hash"))?;
        let blob = self.source.get(BlobKind::Tree, &hash)?;
        Ok(tree::decode_list(&blob, depth, piece.len)?)
    }

    /// Content of a piece that is no hole.
    ///
    /// # Errors
    /// When it cannot be had, or is not as long as the tree says.
    pub fn content(&self, hash: &Hash, len: u64) -> Result<Bytes, FilesError> {
        let bytes = self.source.get(BlobKind::File, hash)?;
        if bytes.len() as u64 != len {
            return Err(tree::WRONG_LENGTH.into());
        }
        Ok(bytes)
    }
}

/// The names of an absolute path; an empty one is the root.
///
/// # Errors
/// When it is no such path.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, FilesError> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
    if parts.len() > tree::MAX_LEVELS || !parts.iter().all(|p| is_name(p)) {
        return Err(FilesError::Invalid(format!(
            "'{}' is no path within a backup: give it from / on, without '..'",
            show(path)
        )));
    }
    Ok(parts)
}

fn read_page(source: &dyn BlobSource, page: &Page) -> Result<Vec<Entry>, FilesError> {
    let blob = source.get(BlobKind::Tree, &page.hash)?;
    match Directory::decode(&blob)? {
        Directory::Entries(e)
            if e.len() as u64 == page.entries && e.first().is_some_and(|e| e.name == page.first) =>
        {
            Ok(e)
        }
        _ => Err(TreeError::Rule("a page is not what its directory says").into()),
    }
}

/// See [`Tree::entries`].
pub struct Entries<'a> {
    source: &'a dyn BlobSource,
    page: std::vec::IntoIter<Entry>,
    pages: std::vec::IntoIter<Page>,
    last: Vec<u8>,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, FilesError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                if self.pages.len() > 0 {
                    self.last.clone_from(&entry.name);
                }
                return Some(Ok(entry));
            }
            let page = self.pages.next()?;
            if page.first <= self.last {
                self.pages = Vec::new().into_iter();
                return Some(Err(TreeError::Rule("its pages overlap").into()));
            }
            match read_page(self.source, &page) {
                Ok(entries) => self.page = entries.into_iter(),
                Err(e) => {
                    self.pages = Vec::new().into_iter();
                    return Some(Err(e));
                }
            }
        }
    }
}

/// See [`Tree::pieces`].
pub struct Pieces<'a> {
    tree: Tree<'a>,
    stack: Vec<(u32, std::vec::IntoIter<Piece>)>,
    /// Where the next piece begins.
    at: u64,
    /// What ends at or before this is left out, lists unread.
    offset: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Result<(u64, Piece), FilesError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (depth, pieces) = self.stack.last_mut()?;
            let depth = *depth;
            let Some(piece) = pieces.next() else {
                self.stack.pop();
                continue;
            };
            let begin = self.at;
            if begin.saturating_add(piece.len) <= self.offset {
                self.at += piece.len;
                continue;
            }
            if depth == 0 {
                self.at += piece.len;
                return Some(Ok((begin, piece)));
            }
            match self.tree.list(depth, &piece) {
                Ok(pieces) => self.stack.push((depth - 1, pieces.into_iter())),
                Err(e) => {
                    self.stack.clear();
                    return Some(Err(e));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
