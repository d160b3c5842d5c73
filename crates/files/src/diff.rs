//! What differs between two trees. What they share is not looked at.

use crate::FilesError;
use crate::blob::Hash;
use crate::reader::{Entries, Tree};
use crate::tree::{Entry, EntryKind, MAX_LEVELS, TreeError};
use std::cmp::Ordering;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Removed,
    Content,
    /// Owner, permissions, times or attributes.
    Metadata,
    Type,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub path: Vec<u8>,
    pub kind: ChangeKind,
    /// Bytes before and after.
    pub before: u64,
    pub after: u64,
}

/// Tells `found` of every change, in order of paths, until it says that it has enough.
///
/// # Errors
/// When a tree cannot be read.
pub fn diff(
    older: Tree<'_>,
    newer: Tree<'_>,
    found: &mut dyn FnMut(Change) -> bool,
) -> Result<(), FilesError> {
    Diff { older, newer, found }.directory(&mut Vec::new(), Some(older.root), Some(newer.root)).map(drop)
}

struct Diff<'a, 'f> {
    older: Tree<'a>,
    newer: Tree<'a>,
    found: &'f mut dyn FnMut(Change) -> bool,
}

type Side<'a> = std::iter::Peekable<Entries<'a>>;

fn side<'a>(tree: Tree<'a>, directory: Option<Hash>) -> Result<Option<Side<'a>>, FilesError> {
    directory.map(|d| Ok(tree.entries(&d)?.peekable())).transpose()
}

/// The next entry of a side, still on it.
fn peek(side: &mut Option<Side<'_>>) -> Result<Option<Vec<u8>>, FilesError> {
    let Some(entries) = side else { return Ok(None) };
    if matches!(entries.peek(), Some(Err(_))) {
        return Err(entries.next().and_then(Result::err).unwrap_or(FilesError::Cancelled));
    }
    Ok(entries.peek().and_then(|e| e.as_ref().ok()).map(|e| e.name.clone()))
}

fn take(side: &mut Option<Side<'_>>) -> Result<Option<Entry>, FilesError> {
    side.as_mut().and_then(Iterator::next).transpose()
}

impl Diff<'_, '_> {
    /// `false` when enough was found.
    fn directory(
        &mut self,
        path: &mut Vec<u8>,
        older: Option<Hash>,
        newer: Option<Hash>,
    ) -> Result<bool, FilesError> {
        if older == newer {
            return Ok(true);
        }
        if path.iter().filter(|b| **b == b'/').count() > MAX_LEVELS {
            return Err(TreeError::Rule("directories are too deep").into());
        }
        let (mut old, mut new) = (side(self.older, older)?, side(self.newer, newer)?);
        loop {
            let order = match (peek(&mut old)?, peek(&mut new)?) {
                (None, None) => return Ok(true),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.cmp(&b),
            };
            let before = if order.is_le() { take(&mut old)? } else { None };
            let after = if order.is_ge() { take(&mut new)? } else { None };
            let kept = path.len();
            path.push(b'/');
            path.extend_from_slice(before.as_ref().or(after.as_ref()).map_or(&[][..], |e| &e.name));
            let more = self.entry(path, before.as_ref(), after.as_ref())?;
            path.truncate(kept);
            if !more {
                return Ok(false);
            }
        }
    }

    fn entry(
        &mut self,
        path: &mut Vec<u8>,
        before: Option<&Entry>,
        after: Option<&Entry>,
    ) -> Result<bool, FilesError> {
        let change = match (before, after) {
            (None, _) => Some(ChangeKind::Added),
            (_, None) => Some(ChangeKind::Removed),
            (Some(b), Some(a)) => compare(b, a),
        };
        if let Some(kind) = change {
            let size = |e: Option<&Entry>| e.map_or(0, Entry::size);
            let change = Change { path: path.clone(), kind, before: size(before), after: size(after) };
            if !(self.found)(change) {
                return Ok(false);
            }
        }
        let directory = |e: Option<&Entry>| match e.map(|e| &e.kind) {
            Some(EntryKind::Directory(hash)) => Some(*hash),
            _ => None,
        };
        self.directory(path, directory(before), directory(after))
    }
}

fn compare(before: &Entry, after: &Entry) -> Option<ChangeKind> {
    if before.kind.number() != after.kind.number() {
        return Some(ChangeKind::Type);
    }
    let directories = matches!(before.kind, EntryKind::Directory(_));
    if !directories && before.kind != after.kind {
        return Some(ChangeKind::Content);
    }
    (before.meta != after.meta).then_some(ChangeKind::Metadata)
}

#[cfg(test)]
mod tests;
