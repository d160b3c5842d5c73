//! The regions of one disk: which are marked on stable storage, which shall be, and which were written lately.
//!
//! Invariant: what is in `stable` is marked in the file; it leaves `stable` before it leaves the file.

use super::format::PAGE_REGIONS;
use lifeboat_base::limits::MAX_REGIONS;
use std::collections::BTreeSet;

const WORDS: usize = PAGE_REGIONS / 64;
/// Smallest region: 4 MiB.
const MIN_SHIFT: u32 = 22;

/// See the module's text.
#[derive(Debug)]
pub struct Regions {
    size: u64,
    shift: u32,
    first_page: u32,
    stable: Vec<u64>,
    /// To be marked with the next write of their pages.
    wanted: Vec<u64>,
    /// Touched since the last rotation, and between that and the one before.
    current: Vec<u64>,
    previous: Vec<u64>,
}

/// The bits of regions, as far as there are any.
fn bits(words: &[u64], first: u64, last: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
    let count = words.len() as u64 * 64;
    (first..=last.min(count.saturating_sub(1))).map(|r| ((r / 64) as usize, 1 << (r % 64)))
}

impl Regions {
    /// Regions of a disk whose pages begin at `first_page`; all or none of them marked.
    pub fn new(size: u64, first_page: u32, marked: bool) -> Self {
        let mut shift = MIN_SHIFT;
        while size.div_ceil(1 << shift) > MAX_REGIONS {
            shift += 1;
        }
        let words = (size.div_ceil(1 << shift) as usize).div_ceil(PAGE_REGIONS).max(1) * WORDS;
        let all = if marked { u64::MAX } else { 0 };
        Self {
            size,
            shift,
            first_page,
            stable: vec![all; words],
            wanted: vec![0; words],
            current: vec![all; words],
            previous: vec![0; words],
        }
    }

    pub fn first_page(&self) -> u32 {
        self.first_page
    }

    pub fn pages(&self) -> u32 {
        (self.stable.len() / WORDS) as u32
    }

    /// First and last region of a byte range.
    pub fn range(&self, offset: u64, len: u64) -> (u64, u64) {
        (offset >> self.shift, offset.saturating_add(len.max(1) - 1) >> self.shift)
    }

    pub fn touch(&mut self, first: u64, last: u64) {
        for (word, bit) in bits(&self.stable, first, last) {
            self.current[word] |= bit;
        }
    }

    pub fn is_persisted(&self, first: u64, last: u64) -> bool {
        bits(&self.stable, first, last).all(|(word, bit)| self.stable[word] & bit != 0)
    }

    /// Whether it was touched since the last rotation.
    pub fn is_current(&self, region: u64) -> bool {
        self.current.get((region / 64) as usize).is_some_and(|w| w >> (region % 64) & 1 == 1)
    }

    /// Wants the regions marked; the pages to be written for that.
    pub fn want(&mut self, first: u64, last: u64) -> BTreeSet<u32> {
        let mut pages = BTreeSet::new();
        for (word, bit) in bits(&self.stable, first, last) {
            if self.stable[word] & bit == 0 {
                self.wanted[word] |= bit;
                pages.insert(self.first_page + (word / WORDS) as u32);
            }
        }
        pages
    }

    /// Wants every region marked; the pages to be written for that.
    pub fn mark_all(&mut self) -> BTreeSet<u32> {
        for (wanted, stable) in self.wanted.iter_mut().zip(&self.stable) {
            *wanted = !stable;
        }
        self.current.fill(u64::MAX);
        (self.first_page..self.first_page + self.pages()).collect()
    }

    fn words_of(&self, page: u32) -> std::ops::Range<usize> {
        let at = (page - self.first_page) as usize * WORDS;
        at..at + WORDS
    }

    /// A page as it shall be in the file.
    pub fn page_words(&self, page: u32) -> Vec<u64> {
        let words = self.words_of(page);
        self.stable[words.clone()].iter().zip(&self.wanted[words]).map(|(s, w)| s | w).collect()
    }

    /// The marks that a write of these pages makes stable.
    pub fn snapshot(&self, pages: &BTreeSet<u32>) -> Vec<(usize, u64)> {
        let mine = self.first_page..self.first_page + self.pages();
        let words = pages.iter().filter(|p| mine.contains(p)).flat_map(|p| self.words_of(*p));
        words.filter(|w| self.wanted[*w] != 0).map(|w| (w, self.wanted[w])).collect()
    }

    /// These marks are on stable storage.
    pub fn persisted(&mut self, snapshot: Vec<(usize, u64)>) {
        for (word, marks) in snapshot {
            self.stable[word] |= marks;
            self.wanted[word] &= !marks;
        }
    }

    /// Takes back what nobody touched since the rotation before last, what is not under way and not suspect. What is
    /// suspect counts as touched: it will be sent. The pages to be written.
    pub fn rotate(&mut self, under_way: &[(u64, u64)], suspect: impl Fn(u64, u64) -> bool) -> BTreeSet<u32> {
        let mut keep: Vec<u64> = self.current.iter().zip(&self.previous).map(|(a, b)| a | b).collect();
        for (first, last) in under_way {
            for (word, bit) in bits(&self.stable, *first, *last) {
                keep[word] |= bit;
            }
        }
        let mut suspects = vec![0; self.stable.len()];
        let mut pages = BTreeSet::new();
        for word in 0..self.stable.len() {
            let marked = self.stable[word];
            for bit in (0..64).filter(|b| marked >> b & 1 == 1) {
                let offset = (word as u64 * 64 + bit) << self.shift;
                if offset < self.size && suspect(offset, 1 << self.shift) {
                    suspects[word] |= 1 << bit;
                }
            }
            let left = marked & (keep[word] | suspects[word]);
            if left != marked {
                self.stable[word] = left;
                pages.insert(self.first_page + (word / WORDS) as u32);
            }
        }
        self.previous = std::mem::replace(&mut self.current, suspects);
        pages
    }

    /// Byte ranges of the marked regions.
    pub fn marked(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let regions = self.size.div_ceil(1 << self.shift);
        (0..regions).filter(|r| self.stable[(r / 64) as usize] >> (r % 64) & 1 == 1).map(|r| {
            let offset = r << self.shift;
            (offset, (1 << self.shift).min(self.size - offset))
        })
    }

    pub fn load_page(&mut self, page: u32, words: &[u64]) {
        let range = self.words_of(page);
        self.stable[range.clone()].copy_from_slice(words);
        self.current[range].copy_from_slice(words);
    }

    pub fn suspect_page(&mut self, page: u32) {
        let range = self.words_of(page);
        self.stable[range.clone()].fill(u64::MAX);
        self.current[range].fill(u64::MAX);
    }
}
