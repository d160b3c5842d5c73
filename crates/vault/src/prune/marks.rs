//! Bits for every chunk of the vault, in little memory.
//!
//! Invariant: one slot for each id the index has (by its first 16 bytes), in order; 17 bytes a slot.

use crate::error::VaultError;
use crate::id::{ChunkId, PackId};
use crate::index::{Index, Known, PackInfo};
use std::collections::HashMap;

/// Something that is kept refers to it.
pub(crate) const LIVE: u8 = 1;
/// What is below it was looked at.
pub(crate) const ENTERED: u8 = 1 << 1;
/// No place of it can be read.
pub(crate) const LOST: u8 = 1 << 2;
/// Nothing below it is lost.
pub(crate) const CLEAN: u8 = 1 << 3;

/// The packs of an index, by number.
pub(crate) type Packs = HashMap<u32, PackInfo>;

pub(crate) fn packs_of(index: &Index) -> Result<Packs, VaultError> {
    Ok(index.packs()?.into_iter().map(|p| (p.number, p)).collect())
}

pub(crate) struct Marks {
    /// Where the ids begin that have these first two bytes.
    first: Vec<u32>,
    shorts: Vec<[u8; 16]>,
    bits: Vec<u8>,
}

impl Marks {
    /// A slot for each chunk the index knows.
    pub fn build(index: &Index) -> Result<Self, VaultError> {
        let count = usize::try_from(index.chunk_count()?).unwrap_or(usize::MAX);
        let mut shorts: Vec<[u8; 16]> = Vec::with_capacity(count);
        let mut first = vec![0u32; (1 << 16) + 1];
        index.each_chunk(|known| {
            if shorts.last() != Some(&known.short) {
                first[bucket(&known.short) + 1] += 1;
                shorts.push(known.short);
            }
            Ok(())
        })?;
        if u32::try_from(shorts.len()).is_err() {
            return Err(VaultError::Invalid(
                "the vault has more chunks than one pass can hold (4 billion)".into(),
            ));
        }
        for n in 1..first.len() {
            first[n] += first[n - 1];
        }
        let bits = vec![0; shorts.len()];
        Ok(Self { first, shorts, bits })
    }

    pub fn len(&self) -> usize {
        self.shorts.len()
    }

    pub fn slot(&self, id: &ChunkId) -> Option<usize> {
        let short = id.short();
        let at = bucket(&short);
        let (from, to) = (self.first[at] as usize, self.first[at + 1] as usize);
        self.shorts[from..to].binary_search(&short).ok().map(|n| from + n)
    }

    pub fn has(&self, slot: usize, bit: u8) -> bool {
        self.bits[slot] & bit != 0
    }

    /// Gives whether it was not set before.
    pub fn set(&mut self, slot: usize, bit: u8) -> bool {
        let before = self.bits[slot];
        self.bits[slot] |= bit;
        self.bits[slot] != before
    }

    /// Takes a bit from all.
    pub fn clear(&mut self, bit: u8) {
        self.bits.iter_mut().for_each(|b| *b &= !bit);
    }
}

fn bucket(short: &[u8; 16]) -> usize {
    usize::from(u16::from_be_bytes([short[0], short[1]]))
}

/// Goes over all chunks that have a slot, in order, with all places of each.
pub(crate) fn each_with_places(
    index: &Index,
    shorts: &Marks,
    mut f: impl FnMut(usize, &[Known]) -> Result<(), VaultError>,
) -> Result<(), VaultError> {
    let mut group: Vec<Known> = Vec::new();
    let mut slot = 0;
    let mut give = |group: &mut Vec<Known>| -> Result<(), VaultError> {
        let Some(short) = group.first().map(|k| k.short) else { return Ok(()) };
        // Both are in order; what was added meanwhile has no slot.
        while slot < shorts.len() && shorts.shorts[slot] < short {
            slot += 1;
        }
        if shorts.shorts.get(slot) == Some(&short) {
            f(slot, group)?;
        }
        group.clear();
        Ok(())
    };
    index.each_chunk(|known| {
        if group.first().is_some_and(|k| k.short != known.short) {
            give(&mut group)?;
        }
        group.push(known);
        Ok(())
    })?;
    give(&mut group)
}

/// What a chunk takes in the store: its share of its frame.
pub(crate) fn share(known: &Known) -> u64 {
    let frame = &known.place.frame;
    u64::from(frame.stored) * u64::from(known.place.len) / u64::from(frame.raw.max(1))
}

/// A pack's number, by its id.
pub(crate) fn numbers(packs: &Packs) -> HashMap<PackId, u32> {
    packs.values().map(|p| (p.id, p.number)).collect()
}

#[cfg(test)]
mod tests;
