//! A small mutator: what it makes depends on its seed and its inputs only.

use lifeboat_base::{Entropy, SeededEntropy};

/// Longest input made, in bytes.
const MOST: usize = 96 << 10;

/// Numbers at which bounds are wrong by one.
const EDGES: [u64; 20] = [
    0,
    1,
    7,
    8,
    63,
    64,
    255,
    256,
    4095,
    4096,
    65_535,
    65_536,
    1 << 25,
    i32::MAX as u64,
    u32::MAX as u64 - 1,
    u32::MAX as u64,
    1 << 50,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Pieces that mean something to the text formats.
const WORDS: [&[u8]; 16] = [
    b"\"",
    b"\\u0000",
    b"{",
    b"[[[[[[[[",
    b"}",
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"\n",
    b"\0",
    b"../",
    b":",
    b"p1.",
    b"\xff\xfe",
    "\u{202e}ü".as_bytes(),
];

pub struct Mutator(SeededEntropy);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    pub fn below(&self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// A new input out of those there are.
    pub fn make(&self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let Some(first) = corpus.get(self.below(corpus.len())) else { return Vec::new() };
        let mut data = first.clone();
        for _ in 0..=self.below(4) {
            self.change(&mut data, corpus);
        }
        data.truncate(MOST);
        data
    }

    fn change(&self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(data.len());
        let len = 1 + self.below((data.len() - at).min(1 << self.below(10)));
        match self.below(12) {
            0 if !data.is_empty() => data[at] ^= 1 << self.below(8),
            1 if !data.is_empty() => data[at] = self.0.next_u64() as u8,
            2 | 3 if !data.is_empty() => self.number(data, at),
            4 => data.truncate(at),
            5 if !data.is_empty() => drop(data.drain(at..(at + len).min(data.len()))),
            6 if !data.is_empty() => {
                let piece = data[at..(at + len).min(data.len())].to_vec();
                let to = self.below(data.len());
                insert(data, to, &piece);
            }
            7 if !data.is_empty() => {
                let piece = data[at..(at + len).min(data.len())].to_vec();
                let to = self.below(data.len());
                overwrite(data, to, &piece);
            }
            8 => {
                let mut noise = vec![0; len.min(64)];
                self.0.fill(&mut noise);
                insert(data, at, &noise);
            }
            9 => insert(data, at, WORDS[self.below(WORDS.len())]),
            // The start of one, the end of another.
            10 => {
                let other = &corpus[self.below(corpus.len())];
                data.truncate(at);
                data.extend_from_slice(&other[self.below(other.len())..]);
            }
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len());
                let end = (from + len).min(other.len());
                overwrite(data, at, &other[from..end]);
            }
        }
    }

    /// A number of some width and byte order becomes an edge, or moves a little.
    fn number(&self, data: &mut [u8], at: usize) {
        let width = [1, 2, 4, 8][self.below(4)].min(data.len() - at);
        let field = &mut data[at..at + width];
        let big = self.below(2) == 0;
        let mut bytes = [0; 8];
        if self.below(2) == 0 {
            bytes = EDGES[self.below(EDGES.len())].to_le_bytes();
        } else {
            bytes[..width].copy_from_slice(field);
            if big {
                bytes[..width].reverse();
            }
            let moved = u64::from_le_bytes(bytes).wrapping_add(self.below(17) as u64).wrapping_sub(8);
            bytes = moved.to_le_bytes();
        }
        if big {
            bytes[..width].reverse();
        }
        field.copy_from_slice(&bytes[..width]);
    }
}

fn insert(data: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let at = at.min(data.len());
    data.splice(at..at, piece.iter().copied());
}

fn overwrite(data: &mut [u8], at: usize, piece: &[u8]) {
    let n = piece.len().min(data.len().saturating_sub(at));
    data[at..at + n].copy_from_slice(&piece[..n]);
}
