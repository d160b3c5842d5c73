//! Which byte range of a disk maps to what.
//!
//! Invariants:
//! - extents never overlap and are never empty; what was inserted later hides what was inserted before;
//! - cutting an extent keeps its value right: the part after the cut holds the value
//!   [advanced](Piece::advance) by the bytes cut off.
//!
//! [`ExtentMap`] changes as it goes. [`ExtentTable`] is built once from a whole history and then only
//! read; it takes 12 bytes plus the value per extent and is what a mounted point is made of.

mod table;

pub use table::{ExtentTable, HistoryItem};

use std::collections::BTreeMap;

/// A value that stays right when the front of its extent is cut off.
pub trait Piece: Clone {
    /// The value of what is left after the first `by` bytes are gone.
    #[must_use]
    fn advance(&self, by: u64) -> Self;
}

/// Nothing to remember: the map is a set of ranges.
impl Piece for () {
    fn advance(&self, _by: u64) -> Self {}
}

/// Where the extent starts in some other address space.
impl Piece for u64 {
    fn advance(&self, by: u64) -> Self {
        self.wrapping_add(by)
    }
}

/// The content itself.
impl Piece for bytes::Bytes {
    fn advance(&self, by: u64) -> Self {
        self.slice(usize::try_from(by).map_or(self.len(), |by| by.min(self.len()))..)
    }
}

/// Part of a range that was asked about: covered by one value, or a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run<V> {
    pub offset: u64,
    pub len: u64,
    /// `None` for a gap. Else the value for the first byte of this run.
    pub value: Option<V>,
}

impl<V> Run<V> {
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A changeable map of byte ranges. Ranges end at or before `u64::MAX`; what lies beyond is cut off.
#[derive(Debug, Clone)]
pub struct ExtentMap<V> {
    map: BTreeMap<u64, (u64, V)>,
}

impl<V> Default for ExtentMap<V> {
    fn default() -> Self {
        Self { map: BTreeMap::new() }
    }
}

impl<V: Piece> ExtentMap<V> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds a map from a history of inserts, oldest first. Quicker than inserting one by one.
    pub fn from_history(items: &[HistoryItem<V>]) -> Self {
        // A BTreeMap is built from sorted keys in one pass.
        let map = ExtentTable::build(items, |_| true)
            .iter()
            .map(|run| (run.offset, (run.len, run.value)))
            .filter_map(|(at, (len, v))| v.map(|v| (at, (len, v))))
            .collect();
        Self { map }
    }

    /// Number of extents held.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Bytes covered.
    pub fn covered(&self) -> u64 {
        self.map.values().map(|(len, _)| len).sum()
    }

    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// Maps `offset..offset+len` to `value`, hiding whatever was there.
    pub fn insert(&mut self, offset: u64, len: u64, value: V) {
        let len = len.min(u64::MAX - offset);
        if len == 0 {
            return;
        }
        self.remove(offset, len);
        self.map.insert(offset, (len, value));
    }

    /// Makes `offset..offset+len` a gap.
    pub fn remove(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        if end == offset {
            return;
        }
        // An extent that begins before the range: keep its head, and its tail if it reaches past the end.
        if let Some((start, (old_len, value))) = self.map.range_mut(..offset).next_back()
            && *start + *old_len > offset
        {
            let old_end = *start + *old_len;
            let tail = (old_end > end).then(|| value.advance(end - *start));
            *old_len = offset - *start;
            if let Some(tail) = tail {
                self.map.insert(end, (old_end - end, tail));
                return;
            }
        }
        while let Some((start, (old_len, value))) = self.map.range(offset..end).next() {
            let (start, old_end) = (*start, *start + *old_len);
            let tail = (old_end > end).then(|| value.advance(end - start));
            self.map.remove(&start);
            if let Some(tail) = tail {
                self.map.insert(end, (old_end - end, tail));
            }
        }
    }

    /// The runs that make up `offset..offset+len`, in order, without holes between them: gaps are runs too.
    pub fn iter_range(&self, offset: u64, len: u64) -> impl Iterator<Item = Run<V>> + '_ {
        let end = offset.saturating_add(len);
        let head = self.map.range(..offset).next_back().filter(|(start, (len, _))| **start + len > offset);
        let extents = head.into_iter().chain(self.map.range(offset..end));
        Runs { extents: extents.map(|(at, (len, v))| (*at, *len, v)), next: None, at: offset, end }
    }

    /// Every extent in order; no gaps.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, &V)> + '_ {
        self.map.iter().map(|(at, (len, v))| (*at, *len, v))
    }

    /// Takes the first extent out of the map.
    pub fn pop_first(&mut self) -> Option<(u64, u64, V)> {
        self.map.pop_first().map(|(at, (len, v))| (at, len, v))
    }
}

/// Turns extents in order into runs with gaps, clipped to `at..end`.
struct Runs<'a, V, I: Iterator<Item = (u64, u64, &'a V)>> {
    extents: I,
    /// An extent already taken from `extents` that begins after a gap.
    next: Option<(u64, u64, &'a V)>,
    at: u64,
    end: u64,
}

impl<'a, V: Piece, I: Iterator<Item = (u64, u64, &'a V)>> Iterator for Runs<'a, V, I> {
    type Item = Run<V>;

    fn next(&mut self) -> Option<Run<V>> {
        if self.at >= self.end {
            return None;
        }
        let offset = self.at;
        let Some((start, len, value)) = self.next.take().or_else(|| self.extents.next()) else {
            self.at = self.end;
            return Some(Run { offset, len: self.end - offset, value: None });
        };
        if start >= self.end {
            self.at = self.end;
            return Some(Run { offset, len: self.end - offset, value: None });
        }
        if start > offset {
            self.next = Some((start, len, value));
            self.at = start;
            return Some(Run { offset, len: start - offset, value: None });
        }
        self.at = (start + len).min(self.end);
        let value = if start == offset { value.clone() } else { value.advance(offset - start) };
        Some(Run { offset, len: self.at - offset, value: Some(value) })
    }
}

#[cfg(test)]
mod tests;
