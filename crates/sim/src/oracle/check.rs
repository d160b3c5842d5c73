//! The judgement of an image.
//!
//! A block holding write W is *stale* against a moment T of the ledger if some write V to that block was issued after W
//! completed, and V itself completed before T. The rules differ only in where T comes from:
//! - durability: T is the issue of the flush that must be covered, or the end of the ledger;
//! - order: T is the issue of the newest write present ([`Order::Prefix`]), or of the newest flush any block present knows to be
//!   completed ([`Order::Flush`]). This is what sees writes swapped between blocks;
//! - exactness: the ledger ends at the barrier, T is its end, and the sum must be the one saved there.

use super::block::{BLOCK, Content, fingerprint};
use super::log::{History, NEVER, Version};
use super::{OracleError, Target};
use std::fmt;
use std::sync::Arc;

/// How many violations a verdict lists; all are counted.
const LISTED: usize = 50;
const CHUNK: usize = 256;

/// What the image must hold at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// Nothing in particular: any point will do.
    Nothing,
    /// What this flush covered.
    Flush(u64),
    /// Everything completed.
    All,
    /// Exactly the state at the barrier the history ends with (read it with `until`).
    Exact(u64),
}

/// What order the image must respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A disk's promise: only flushes order writes.
    Flush,
    /// Lifeboat's promise: a point is a prefix of the stream, so with a write everything completed before its issue is there.
    Prefix,
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// Neither zeros nor a whole block.
    Damaged { disk: u32, block: u64 },
    /// A whole block in another's place.
    Misplaced { disk: u32, block: u64, of_disk: u32, of_block: u64, seq: u64 },
    /// A block of another workload.
    Foreign { disk: u32, block: u64, run: u64 },
    /// A write the ledger (up to the barrier) does not know.
    Unknown { disk: u32, block: u64, seq: u64 },
    /// An older write than the durability rule wants. `found` 0 is zeros.
    Lost { disk: u32, block: u64, found: u64, wanted: u64 },
    /// An older write than the order rule wants.
    Reordered { disk: u32, block: u64, found: u64, wanted: u64 },
    /// The sum over all blocks is not the barrier's.
    Sum { found: u128, wanted: u128 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { disk, block } => write!(f, "disk {disk} block {block}: damaged"),
            Self::Misplaced { disk, block, of_disk, of_block, seq } => {
                write!(f, "disk {disk} block {block}: holds write {seq} of disk {of_disk} block {of_block}")
            }
            Self::Foreign { disk, block, run } => {
                write!(f, "disk {disk} block {block}: written by run {run:016x}")
            }
            Self::Unknown { disk, block, seq } => {
                write!(f, "disk {disk} block {block}: write {seq} is not in the ledger (yet)")
            }
            Self::Lost { disk, block, found, wanted } => {
                write!(f, "disk {disk} block {block}: holds write {found}, must hold {wanted} or later")
            }
            Self::Reordered { disk, block, found, wanted } => {
                write!(
                    f,
                    "disk {disk} block {block}: holds write {found}, but later writes elsewhere imply {wanted}"
                )
            }
            Self::Sum { found, wanted } => {
                write!(f, "the sum is {found:032x}, at the barrier it was {wanted:032x}")
            }
        }
    }
}

/// What a check saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Blocks read.
    pub blocks: u64,
    /// Blocks that hold a write of ours.
    pub written: u64,
    /// Newest write seen.
    pub newest: u64,
    /// Newest flush a block present knows to be completed.
    pub epoch: u64,
    pub sum: u128,
    /// All violations, also those not listed.
    pub count: u64,
    pub violations: Vec<Violation>,
}

impl Verdict {
    pub fn ok(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, violation: Violation) {
        self.count += 1;
        if self.violations.len() < LISTED {
            self.violations.push(violation);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.ok() { "ok" } else { "VIOLATED" };
        write!(
            f,
            "oracle: {word}: {} blocks read, {} written, newest write {}, newest flush known {}, sum {:032x}, {} violations",
            self.blocks, self.written, self.newest, self.epoch, self.sum, self.count
        )?;
        for v in &self.violations {
            write!(f, "\n  {v}")?;
        }
        Ok(())
    }
}

/// Checks the disks of an image against the ledger.
///
/// # Errors
/// When the images do not fit the ledger, or cannot be read.
pub fn check(
    images: &[Arc<dyn Target>],
    history: &History,
    require: Require,
    order: Order,
) -> Result<Verdict, OracleError> {
    let durable = match require {
        Require::Nothing => 0,
        Require::All | Require::Exact(_) => NEVER,
        Require::Flush(n) => {
            history.flushes.get(&n).ok_or_else(|| OracleError::NotThere(format!("flush {n}")))?.issued
        }
    };
    let mut verdict = Verdict::default();
    let found = survey(images, history, &mut verdict)?;
    let ordered = match order {
        Order::Prefix => found.newest_issued,
        Order::Flush => history.flushes.get(&verdict.epoch).map_or(0, |t| t.issued),
    };
    let mut blocks: Vec<_> = history.blocks.iter().collect();
    blocks.sort_unstable_by_key(|(at, _)| **at);
    for (&(disk, block), versions) in blocks {
        let Some(seq) = found.sound(disk, block) else { continue };
        if let Some(wanted) = stale(versions, seq, durable) {
            verdict.add(Violation::Lost { disk, block, found: seq, wanted });
        } else if let Some(wanted) = stale(versions, seq, ordered) {
            verdict.add(Violation::Reordered { disk, block, found: seq, wanted });
        }
    }
    if let Require::Exact(n) = require {
        let wanted =
            *history.barriers.get(&n).ok_or_else(|| OracleError::NotThere(format!("barrier {n}")))?;
        if wanted != verdict.sum {
            verdict.add(Violation::Sum { found: verdict.sum, wanted });
        }
    }
    Ok(verdict)
}

/// What every block holds: a write's number, 0 for zeros, [`UNSOUND`] for what was judged already.
struct Found {
    seqs: Vec<Vec<u64>>,
    newest_issued: u64,
}

const UNSOUND: u64 = u64::MAX;

impl Found {
    fn sound(&self, disk: u32, block: u64) -> Option<u64> {
        let seq = self.seqs[disk as usize][usize::try_from(block).ok()?];
        (seq != UNSOUND).then_some(seq)
    }
}

fn survey(
    images: &[Arc<dyn Target>],
    history: &History,
    verdict: &mut Verdict,
) -> Result<Found, OracleError> {
    if images.len() != history.disks.len() {
        return Err(OracleError::Disks { have: history.disks.len(), given: images.len() });
    }
    let mut found = Found { seqs: Vec::new(), newest_issued: 0 };
    let mut buf = vec![0; CHUNK * BLOCK];
    for (disk, image) in (0u32..).zip(images) {
        let have = history.disks[disk as usize];
        let given = image.size() / BLOCK as u64;
        if given < have {
            return Err(OracleError::Size { disk, have, given });
        }
        let mut seqs = Vec::new();
        let mut block = 0u64;
        while block < have {
            let count = usize::try_from((have - block).min(CHUNK as u64)).unwrap_or(CHUNK);
            image.read(block * BLOCK as u64, &mut buf[..count * BLOCK])?;
            for bytes in buf[..count * BLOCK].chunks_exact(BLOCK) {
                seqs.push(judge(
                    disk,
                    block,
                    Content::read(bytes),
                    history,
                    verdict,
                    &mut found.newest_issued,
                ));
                block += 1;
            }
        }
        verdict.blocks += have;
        found.seqs.push(seqs);
    }
    Ok(found)
}

/// One block by itself: is it whole, ours, in its place, and possible? Returns the write it holds.
fn judge(
    disk: u32,
    block: u64,
    content: Content,
    history: &History,
    verdict: &mut Verdict,
    newest_issued: &mut u64,
) -> u64 {
    let stamp = match content {
        Content::Zero => return 0,
        Content::Damaged => {
            verdict.add(Violation::Damaged { disk, block });
            return UNSOUND;
        }
        Content::Ours(stamp) => stamp,
    };
    let seq = stamp.seq;
    let violation = if stamp.run != history.run {
        Violation::Foreign { disk, block, run: stamp.run }
    } else if (stamp.disk, stamp.block) != (disk, block) {
        Violation::Misplaced { disk, block, of_disk: stamp.disk, of_block: stamp.block, seq }
    } else {
        let versions = history.blocks.get(&(disk, block)).map_or(&[][..], Vec::as_slice);
        // Its first mention: a block that was read again later is no younger for it.
        if let Some(v) = versions.iter().find(|v| v.seq == seq && !v.zero) {
            verdict.written += 1;
            verdict.newest = verdict.newest.max(seq);
            verdict.epoch = verdict.epoch.max(stamp.epoch);
            verdict.sum = verdict.sum.wrapping_add(fingerprint(disk, block, seq));
            *newest_issued = (*newest_issued).max(v.issued);
            return seq;
        }
        Violation::Unknown { disk, block, seq }
    };
    verdict.add(violation);
    UNSOUND
}

/// The newest write that must have replaced `found` by moment `by`; `None` when `found` may still be there.
///
/// Zeros do not say which operation made them: they are stale only if every one that may have is.
fn stale(versions: &[Version], found: u64, by: u64) -> Option<u64> {
    let start = Version { seq: 0, zero: true, issued: 0, done: 0 };
    let replaced = |w: &Version| {
        let after = versions.iter().filter(|v| v.done < by && v.issued > w.done);
        after.max_by_key(|v| v.issued).map(|v| v.seq)
    };
    if found != 0 {
        // Its last mention: found there again, it stands as if written then.
        return versions.iter().rev().find(|v| v.seq == found).and_then(replaced);
    }
    let mut worst = replaced(&start);
    for w in versions.iter().filter(|v| v.zero) {
        worst = worst.and(replaced(w));
    }
    worst
}
