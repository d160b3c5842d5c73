//! An extent map that is built once from a whole history and then only read.

use super::{Piece, Run, Runs};
use std::collections::BinaryHeap;

/// One insert of a history. Its place in the history is its place in the list.
#[derive(Debug, Clone)]
pub struct HistoryItem<V> {
    pub offset: u64,
    pub len: u64,
    pub value: V,
}

#[derive(Debug, Clone)]
struct Slot<V> {
    offset: u64,
    len: u32,
    value: V,
}

/// Extents in one sorted array.
#[derive(Debug, Clone)]
pub struct ExtentTable<V> {
    slots: Vec<Slot<V>>,
}

impl<V: Piece> ExtentTable<V> {
    /// Applies a history, oldest first. Extents whose value `keep` refuses hide what is below them and then
    /// leave a gap, which is how zeros and trims cost nothing.
    pub fn build(items: &[HistoryItem<V>], keep: impl Fn(&V) -> bool) -> Self {
        let mut order: Vec<u32> = (0..u32::try_from(items.len()).unwrap_or(u32::MAX)).collect();
        order.sort_unstable_by_key(|&i| (items[i as usize].offset, i));
        let mut table = Self { slots: Vec::with_capacity(items.len()) };
        // Extents that reach past `at`, newest on top. Those that ended are dropped when they come up.
        let mut active: BinaryHeap<u32> = BinaryHeap::new();
        let mut at = 0u64;
        let mut next = order.iter().copied().peekable();
        let start = |i: u32| items[i as usize].offset;
        let end = |i: u32| items[i as usize].offset.saturating_add(items[i as usize].len);
        loop {
            while let Some(i) = next.next_if(|&i| start(i) <= at) {
                if end(i) > at {
                    active.push(i);
                }
            }
            while active.peek().is_some_and(|&i| end(i) <= at) {
                active.pop();
            }
            let Some(&top) = active.peek() else {
                match next.peek() {
                    Some(&i) => at = start(i),
                    None => break,
                }
                continue;
            };
            // The newest extent holds until it ends or a newer one begins.
            let mut stop = end(top);
            let mut newer = next.clone();
            while let Some(i) = newer.next_if(|&i| start(i) < stop) {
                if i > top && end(i) > start(i) {
                    stop = start(i);
                    break;
                }
                // Older and therefore hidden until `stop`; it may show behind it.
                next.next();
                if end(i) > stop {
                    active.push(i);
                }
            }
            let item = &items[top as usize];
            if keep(&item.value) {
                table.push(at, stop - at, item.value.advance(at - item.offset));
            }
            at = stop;
        }
        table.slots.shrink_to_fit();
        table
    }

    /// Lengths are kept in 32 bits; longer extents become several.
    fn push(&mut self, mut offset: u64, mut len: u64, mut value: V) {
        const MOST: u64 = 1 << 31;
        while len > MOST {
            self.slots.push(Slot { offset, len: MOST as u32, value: value.clone() });
            value = value.advance(MOST);
            offset += MOST;
            len -= MOST;
        }
        self.slots.push(Slot { offset, len: len as u32, value });
    }

    /// Number of extents held.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of memory the table takes.
    pub fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<V>>()
    }

    /// The runs that make up `offset..offset+len`, in order: extents and gaps.
    pub fn iter_range(&self, offset: u64, len: u64) -> impl Iterator<Item = Run<V>> + '_ {
        let end = offset.saturating_add(len);
        let first = self.slots.partition_point(|s| s.offset + u64::from(s.len) <= offset);
        Runs {
            extents: self.slots[first..].iter().map(|s| (s.offset, u64::from(s.len), &s.value)),
            next: None,
            at: offset,
            end,
        }
    }

    /// Every extent in order; no gaps.
    pub fn iter(&self) -> impl Iterator<Item = Run<V>> + '_ {
        self.slots.iter().map(|s| Run {
            offset: s.offset,
            len: u64::from(s.len),
            value: Some(s.value.clone()),
        })
    }
}
