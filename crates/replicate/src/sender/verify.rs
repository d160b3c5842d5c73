//! Comparing source and copy while both go on.
//!
//! Invariants:
//! - A block's hash is offered at a place in the stream where its content is just that: nothing was captured for it while
//!   it was read. So equal at that place means equal at every barrier after it, as far as all writes are captured.
//! - A write may be at the source a moment before it is captured, and a read may see it then. So only what differs
//!   again and again, with time between, is called different. It is marked dirty, so that the copy is mended.
//! - It holds up nothing: barriers are cut while it goes on, and it waits while blocks are dirty.

use super::{Item, SYNC_TASK, Sender, SenderError, SyncTask, TaskKind};
use crate::dirty::DirtyMap;
use crate::message::{DiskRange, VerifyReport};
use crate::wire::{Answer, BlockHash, Offer};
use lifeboat_base::limits::{BLOCK, MAX_DIFFERENCES};
use lifeboat_base::{DiskId, WallTime};
use std::collections::BTreeMap;

const B: u64 = BLOCK as u64;
/// How often a block must differ to be called different.
const TRIES: u8 = 3;
/// Ticks between two passes over what is left.
const PASS_TICKS: u32 = 5;
/// Blocks in doubt at a time; when there are more, the first are judged before the rest is read.
pub(super) const MAX_DOUBTS: usize = 4096;

/// One comparison of all disks.
#[derive(Debug)]
pub(super) struct VerifyRun {
    id: u64,
    /// What is still to be compared, for each disk.
    todo: Vec<DirtyMap>,
    /// Where the present pass stands.
    at: (usize, u64),
    /// Ticks until the next pass may begin.
    rest: u32,
    under_way: Option<UnderWay>,
    /// Blocks that differed, and how often.
    doubts: BTreeMap<(u16, u64), u8>,
    total: u64,
    different: Vec<DiskRange>,
    different_bytes: u64,
    over: bool,
    error: String,
}

#[derive(Debug)]
struct UnderWay {
    task: SyncTask,
    /// Per block: a write was captured since the read began.
    touched: Vec<bool>,
    offered: bool,
}

impl VerifyRun {
    fn new(id: u64, sizes: &[u64]) -> Self {
        let todo = sizes
            .iter()
            .map(|&size| {
                let mut map = DirtyMap::new(size);
                map.mark_all();
                map
            })
            .collect();
        Self {
            id,
            todo,
            at: (0, 0),
            rest: 0,
            under_way: None,
            doubts: BTreeMap::new(),
            total: sizes.iter().sum(),
            different: Vec::new(),
            different_bytes: 0,
            over: false,
            error: String::new(),
        }
    }

    fn ended(&self) -> bool {
        self.over || !self.error.is_empty()
    }

    fn all_compared(&self) -> bool {
        self.under_way.is_none() && self.todo.iter().all(DirtyMap::is_empty)
    }

    pub(super) fn tick(&mut self) {
        self.rest = self.rest.saturating_sub(1);
    }

    pub(super) fn touch(&mut self, disk: DiskId, offset: u64, end: u64) {
        let Some(u) = self.under_way.as_mut().filter(|u| u.task.disk == disk && !u.offered) else { return };
        let (from, to) = (offset.max(u.task.offset), end.min(u.task.offset + u.task.len));
        if from < to {
            let first = ((from - u.task.offset) / B) as usize;
            let last = (to - u.task.offset).div_ceil(B) as usize;
            u.touched[first..last].fill(true);
        }
    }

    /// Too much is in doubt: the next block that is, and no other. At the end of them all a moment passes.
    fn next_doubt(&mut self) -> Option<(usize, u64, u64)> {
        let from = (self.at.0 as u16, self.at.1 / B);
        let mut doubts = self.doubts.range(from..).map(|(at, _)| *at);
        let next = doubts.find(|(disk, block)| self.todo[usize::from(*disk)].any(block * B, 1));
        let Some((disk, block)) = next else {
            self.at = (0, 0);
            self.rest = PASS_TICKS;
            return None;
        };
        let (disk, offset) = (usize::from(disk), block * B);
        let (_, len) = self.todo[disk].next_run(offset, B)?;
        self.at = (disk, offset + len);
        self.todo[disk].clear(offset, len);
        Some((disk, offset, len))
    }

    /// The next range of this pass; a pass that is over is followed by another after a moment.
    fn next_range(&mut self) -> Option<(usize, u64, u64)> {
        if self.rest > 0 {
            return None;
        }
        if self.doubts.len() >= MAX_DOUBTS {
            return self.next_doubt();
        }
        for disk in self.at.0..self.todo.len() {
            let from = if disk == self.at.0 { self.at.1 } else { 0 };
            if let Some((offset, len)) = self.todo[disk].next_run(from, SYNC_TASK) {
                self.at = (disk, offset + len);
                self.todo[disk].clear(offset, len);
                return Some((disk, offset, len));
            }
        }
        self.at = (0, 0);
        self.rest = PASS_TICKS;
        None
    }

    fn retry(&mut self) {
        if let Some(u) = self.under_way.take() {
            self.todo[usize::from(u.task.disk.0)].mark(u.task.offset, u.task.len);
        }
    }

    /// Blocks that are different beyond doubt.
    fn judge(&mut self, u: &UnderWay, needed: &[bool]) -> Vec<(u64, u64)> {
        let disk = u.task.disk;
        let mut different = Vec::new();
        for (i, needed) in needed.iter().enumerate() {
            let offset = u.task.offset + i as u64 * B;
            let len = B.min(u.task.offset + u.task.len - offset);
            let key = (disk.0, offset / B);
            if u.touched[i] {
                self.todo[usize::from(disk.0)].mark(offset, len);
            } else if !needed {
                self.doubts.remove(&key);
            } else {
                let times = self.doubts.entry(key).or_default();
                *times += 1;
                if *times < TRIES {
                    self.todo[usize::from(disk.0)].mark(offset, len);
                } else {
                    self.doubts.remove(&key);
                    different.push((offset, len));
                }
            }
        }
        for &(offset, len) in &different {
            self.different_bytes += len;
            let disk = u32::from(disk.0);
            let room = self.different.len() < MAX_DIFFERENCES;
            match self.different.last_mut() {
                Some(r) if r.disk == disk && r.offset + r.len == offset => r.len += len,
                _ if room => self.different.push(DiskRange { disk, offset, len }),
                _ => {}
            }
        }
        different
    }

    fn report(&self, sizes: &[u64]) -> VerifyReport {
        let left: u64 = self.todo.iter().zip(sizes).map(|(m, size)| (m.count() * B).min(*size)).sum();
        let under_way = self.under_way.as_ref().map_or(0, |u| u.task.len);
        VerifyReport {
            id: self.id,
            total_bytes: self.total,
            done_bytes: self.total.saturating_sub(left + under_way),
            over: self.over,
            different_bytes: self.different_bytes,
            different: self.different.clone(),
            error: self.error.clone(),
        }
    }
}

impl Sender {
    /// Begins a comparison; one that is under way is given up.
    pub fn verify(&mut self, id: u64) {
        let sizes: Vec<u64> = self.disks.iter().map(|d| d.size).collect();
        self.verify = Some(VerifyRun::new(id, &sizes));
    }

    /// Gives a comparison up.
    pub fn cancel_verify(&mut self, id: u64) {
        if self.verify.as_ref().is_some_and(|v| v.id == id) {
            self.fail_verify("it was cancelled");
        }
    }

    /// The next range to read and hash, when the stream is live and the link has room.
    pub fn next_verify(&mut self) -> Option<SyncTask> {
        let quiet = self.connected && self.live && self.spooled == 0 && self.queue_bytes <= self.limit / 4;
        if !quiet || !self.synced() {
            return None;
        }
        let v = self.verify.as_mut().filter(|v| !v.ended() && v.under_way.is_none())?;
        let (disk, offset, len) = v.next_range()?;
        let id = self.next_task;
        self.next_task = self.next_task.wrapping_add(1).max(1);
        let task = SyncTask { id, disk: DiskId(disk as u16), offset, len, kind: TaskKind::Verify };
        let touched = vec![false; len.div_ceil(B) as usize];
        v.under_way = Some(UnderWay { task: task.clone(), touched, offered: false });
        Some(task)
    }

    /// Result of a verification's read: a hash for each block, as they are at this place of the stream.
    pub fn verified(&mut self, now: WallTime, id: u32, hashes: Vec<BlockHash>) {
        let Some(v) = &mut self.verify else { return };
        let Some(u) = v.under_way.as_mut().filter(|u| u.task.id == id && !u.offered) else { return };
        debug_assert_eq!(hashes.len(), u.touched.len());
        self.hashed += u.task.len;
        if u.touched.iter().all(|t| *t) {
            return v.retry();
        }
        u.offered = true;
        let offer = Offer { id, disk: u.task.disk, offset: u.task.offset, exact: true, hashes };
        self.push(now, Item::Offer(offer));
    }

    pub(super) fn verify_answered(&mut self, answer: &Answer) -> Result<(), SenderError> {
        let Some(v) = &mut self.verify else { return Ok(()) };
        let Some(u) = v.under_way.take_if(|u| u.task.id == answer.id) else { return Ok(()) };
        if !u.offered || u.touched.len() != answer.needed.len() {
            v.under_way = Some(u);
            return Err(SenderError::BadAnswer);
        }
        let different = v.judge(&u, &answer.needed);
        for (offset, len) in different {
            tracing::error!(disk = u.task.disk.0, offset, len, "the copy differed from the source");
            self.suspect(u.task.disk, offset, len);
            self.found.push((u.task.disk, offset, len));
        }
        Ok(())
    }

    /// What verification found different since this was asked last: to be noted by tracking, so that a crash before it is
    /// mended forgets nothing.
    pub fn take_found(&mut self) -> Vec<(DiskId, u64, u64)> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn verify_failed(&mut self, id: u32) {
        if let Some(v) = &mut self.verify
            && v.under_way.as_ref().is_some_and(|u| u.task.id == id)
        {
            v.retry();
            v.rest = PASS_TICKS;
        }
    }

    /// What is under way begins again: its offer is gone.
    pub(super) fn retry_verify(&mut self) {
        if let Some(v) = &mut self.verify {
            v.retry();
        }
    }

    pub(super) fn fail_verify(&mut self, why: &str) {
        if let Some(v) = self.verify.as_mut().filter(|v| !v.ended()) {
            v.under_way = None;
            v.error = why.into();
        }
    }

    pub(super) fn verify_wants_barrier(&self) -> bool {
        self.verify.as_ref().is_some_and(|v| !v.ended() && v.all_compared())
    }

    /// A barrier was cut; what was compared before it is what it says.
    pub(super) fn end_verify(&mut self) {
        if self.verify_wants_barrier()
            && let Some(v) = &mut self.verify
        {
            v.over = true;
        }
    }

    /// How the newest comparison stands.
    pub fn verify_report(&self) -> Option<VerifyReport> {
        let sizes: Vec<u64> = self.disks.iter().map(|d| d.size).collect();
        self.verify.as_ref().map(|v| v.report(&sizes))
    }
}

/// The most blocks in doubt while a disk is compared of which nothing is equal; and that it ends.
#[cfg(test)]
pub(super) fn most_doubts(size: u64) -> usize {
    let mut v = VerifyRun::new(1, &[size]);
    let mut most = 0;
    while !v.all_compared() {
        v.tick();
        let Some((_, offset, len)) = v.next_range() else { continue };
        let task = SyncTask { id: 1, disk: DiskId(0), offset, len, kind: TaskKind::Verify };
        let blocks = len.div_ceil(B) as usize;
        let u = UnderWay { task, touched: vec![false; blocks], offered: true };
        v.judge(&u, &vec![true; blocks]);
        most = most.max(v.doubts.len());
    }
    assert_eq!(v.different_bytes, size);
    most
}
