//! Which blocks of a disk may differ from the site's copy: one bit per block.
//!
//! Invariant: a set bit costs a comparison, a bit wrongly clear costs data; so every doubt sets.

use lifeboat_base::limits::BLOCK;

const B: u64 = BLOCK as u64;

/// One bit for each [`BLOCK`] of a disk. 1 TiB takes 2 MiB.
#[derive(Debug, Clone)]
pub struct DirtyMap {
    size: u64,
    words: Vec<u64>,
    count: u64,
}

impl DirtyMap {
    /// All clear.
    pub fn new(size: u64) -> Self {
        let blocks = size.div_ceil(B);
        Self { size, words: vec![0; blocks.div_ceil(64) as usize], count: 0 }
    }

    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(B)
    }

    /// Number of dirty blocks.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn get(&self, block: u64) -> bool {
        self.words[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    fn put(&mut self, block: u64, value: bool) {
        let word = &mut self.words[(block / 64) as usize];
        let bit = 1u64 << (block % 64);
        if (*word & bit != 0) != value {
            *word ^= bit;
            if value {
                self.count += 1;
            } else {
                self.count -= 1;
            }
        }
    }

    /// Marks every block the byte range touches. Bytes past the disk's end are ignored.
    pub fn mark(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return;
        }
        for block in offset / B..end.div_ceil(B) {
            self.put(block, true);
        }
    }

    pub fn mark_all(&mut self) {
        self.mark(0, self.size);
    }

    /// Clears every block that lies wholly in the byte range (the disk's last block may be short).
    pub fn clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        let last = if end == self.size { self.blocks() } else { end / B };
        for block in offset.div_ceil(B)..last {
            self.put(block, false);
        }
    }

    /// Whether every block the byte range touches is dirty.
    pub fn covers(&self, offset: u64, len: u64) -> bool {
        if self.count == 0 {
            return false;
        }
        let end = offset.saturating_add(len).min(self.size);
        offset < end && (offset / B..end.div_ceil(B)).all(|b| self.get(b))
    }

    /// Whether any block the byte range touches is dirty. Looks at no block outside it.
    pub fn any(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.size);
        if self.count == 0 || offset >= end {
            return false;
        }
        let (first, last) = (offset / B, end.div_ceil(B));
        let mut block = first;
        while block < last {
            if block.is_multiple_of(64) && self.words[(block / 64) as usize] == 0 {
                block += 64;
            } else if self.get(block) {
                return true;
            } else {
                block += 1;
            }
        }
        false
    }

    /// The first dirty run at or after byte `from`, as (offset, length), at most `max` bytes long,
    /// clipped to the disk's end. Searches to the end only.
    pub fn next_run(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        if self.count == 0 {
            return None;
        }
        let blocks = self.blocks();
        let mut start = from / B;
        while start < blocks && !self.get(start) {
            if start.is_multiple_of(64) && self.words[(start / 64) as usize] == 0 {
                start += 64;
            } else {
                start += 1;
            }
        }
        if start >= blocks {
            return None;
        }
        let limit = (start + (max / B).max(1)).min(blocks);
        let mut stop = start + 1;
        while stop < limit && self.get(stop) {
            stop += 1;
        }
        let offset = start * B;
        Some((offset, (stop * B).min(self.size) - offset))
    }
}

#[cfg(test)]
mod tests;
