//! The sender's background reads: scans for holes, comparisons by hash, and what the site asks for.

use super::{Item, Knowledge, Pending, SCAN_TASK, SYNC_TASK, Sender, SenderError, SyncTask, TaskKind};
use crate::wire::{Answer, BlockHash, Offer, ZERO_HASH};
use bytes::Bytes;
use lifeboat_base::limits::{AGENT_SYNC_WINDOW, BLOCK};
use lifeboat_base::{DiskId, WallTime};

impl Sender {
    /// The next thing to read from the source, if the link wants work and memory allows.
    pub fn next_task(&mut self) -> Option<SyncTask> {
        // Nothing is offered behind a spool: the answers would be long in coming.
        let behind = self.queue_bytes > self.limit / 2 || self.spooled > 0;
        if !self.connected || self.sealed || behind || self.knowledge != Knowledge::Shared {
            return None;
        }
        // One scan at a time; comparisons start when all is scanned, so that the total is known.
        if self.pending.iter().any(|p| p.task.kind == TaskKind::Scan) {
            return None;
        }
        for i in 0..self.disks.len() {
            let d = &mut self.disks[i];
            if d.scanned < d.size {
                if let Some((offset, len)) = d.dirty.next_run(d.scanned, SCAN_TASK) {
                    return Some(self.start(TaskKind::Scan, DiskId(i as u16), offset, len));
                }
                d.scanned = d.size;
            }
        }
        if self.pending_bytes + SYNC_TASK > AGENT_SYNC_WINDOW as u64 {
            return None;
        }
        for i in 0..self.disks.len() {
            let d = &mut self.disks[i];
            let run = d.dirty.next_run(d.cursor, SYNC_TASK).or_else(|| d.dirty.next_run(0, SYNC_TASK));
            if let Some((offset, len)) = run {
                d.cursor = offset + len;
                d.dirty.clear(offset, len);
                return Some(self.start(TaskKind::Compare, DiskId(i as u16), offset, len));
            }
        }
        None
    }

    pub(super) fn start(&mut self, kind: TaskKind, disk: DiskId, offset: u64, len: u64) -> SyncTask {
        let task = SyncTask { id: self.next_task, disk, offset, len, kind };
        self.next_task = self.next_task.wrapping_add(1).max(1);
        if kind == TaskKind::Compare {
            self.pending_bytes += len;
        }
        let (touched, data, hashes) = Default::default();
        self.pending.push(Pending { task: task.clone(), touched, data, hashes });
        task
    }

    fn finish(&mut self, id: u32) -> Option<Pending> {
        let at = self.pending.iter().position(|p| p.task.id == id)?;
        let p = self.pending.swap_remove(at);
        if p.task.kind == TaskKind::Compare {
            self.pending_bytes -= p.task.len;
        }
        Some(p)
    }

    pub(super) fn abort_pending(&mut self) {
        for p in std::mem::take(&mut self.pending) {
            if p.task.kind == TaskKind::Compare {
                self.disks[usize::from(p.task.disk.0)].dirty.mark(p.task.offset, p.task.len);
            }
        }
        self.pending_bytes = 0;
    }

    /// The source could not be read: the range stays dirty.
    pub fn task_failed(&mut self, id: u32) {
        self.verify_failed(id);
        if let Some(p) = self.finish(id)
            && p.task.kind == TaskKind::Compare
        {
            self.disks[usize::from(p.task.disk.0)].dirty.mark(p.task.offset, p.task.len);
        }
    }

    /// Result of a scan: the holes in its range, in order.
    pub fn scanned(&mut self, now: WallTime, id: u32, holes: &[(u64, u64)]) {
        let Some(p) = self.finish(id) else { return };
        let fresh = self.fresh;
        let disk = p.task.disk;
        let d = &mut self.disks[usize::from(disk.0)];
        let mut zeros = Vec::new();
        for &(offset, len) in holes {
            for (from, to) in subtract(offset, offset + len, &p.touched) {
                // Only whole blocks; the rest is compared like data.
                let first = from.next_multiple_of(BLOCK as u64);
                let last = if to == d.size { to } else { to - to % BLOCK as u64 };
                if first < last {
                    d.dirty.clear(first, last - first);
                    zeros.push((first, last - first));
                }
            }
        }
        d.scanned = p.task.offset + p.task.len;
        if !fresh {
            for (offset, len) in zeros {
                self.push(now, Item::Zero { disk, offset, len });
            }
        }
        self.sync_total = self.dirty_bytes();
    }

    /// Result of a comparison's read: the range's content and a hash for each block, to be offered.
    pub fn hashed(&mut self, now: WallTime, id: u32, data: Bytes, hashes: Vec<BlockHash>) {
        let Some(p) = self.pending.iter_mut().find(|p| p.task.id == id) else { return };
        debug_assert_eq!(p.task.len, data.len() as u64);
        debug_assert_eq!(hashes.len(), data.len().div_ceil(BLOCK));
        self.hashed += data.len() as u64;
        p.data = data;
        p.hashes.clone_from(&hashes);
        let offer = Offer { id, disk: p.task.disk, offset: p.task.offset, exact: false, hashes };
        self.push(now, Item::Offer(offer));
    }

    /// The site says which blocks of an offer it lacks.
    ///
    /// # Errors
    /// When the answer does not fit the offer; the session must end.
    pub fn answered(&mut self, now: WallTime, answer: &Answer) -> Result<(), SenderError> {
        let Some(p) = self.pending.iter().find(|p| p.task.id == answer.id) else {
            return self.verify_answered(answer); // or an offer given up since
        };
        if p.hashes.is_empty() || p.hashes.len() != answer.needed.len() {
            return Err(SenderError::BadAnswer);
        }
        let Some(p) = self.finish(answer.id) else { return Ok(()) };
        let disk = p.task.disk;
        for (i, _) in answer.needed.iter().enumerate().filter(|(_, n)| **n) {
            let start = i * BLOCK;
            let end = (start + BLOCK).min(p.data.len());
            let base = p.task.offset;
            for (from, to) in subtract(base + start as u64, base + end as u64, &p.touched) {
                let item = if p.hashes[i] == ZERO_HASH {
                    Item::Zero { disk, offset: from, len: to - from }
                } else {
                    let data = p.data.slice((from - base) as usize..(to - base) as usize);
                    Item::Data { disk, offset: from, data }
                };
                self.sync_sent += to - from;
                self.push(now, item);
            }
        }
        Ok(())
    }
}

/// The parts of `from..to` outside `cuts`, in order.
fn subtract(from: u64, to: u64, cuts: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut cuts: Vec<_> = cuts.iter().filter(|c| c.0 < to && from < c.1).copied().collect();
    cuts.sort_unstable();
    let mut left = Vec::with_capacity(cuts.len() + 1);
    let mut at = from;
    for (a, b) in cuts {
        if a > at {
            left.push((at, a));
        }
        at = at.max(b);
    }
    if at < to {
        left.push((at, to));
    }
    left
}
