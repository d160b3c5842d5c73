//! The sender's side of the capture: what was written goes to the queue, or is dirty already.

use super::{Item, Knowledge, MAX_EARLY, Mark, Queued, Sender, Settle, Suspects, TaskKind};
use bytes::Bytes;
use lifeboat_base::limits::{MAX_RECORD, MAX_TOUCHED};
use lifeboat_base::{DiskId, Seq, WallTime};
use lifeboat_block::BarrierKind;
use std::collections::VecDeque;

impl Sender {
    /// A write that is complete at the source.
    pub fn write(&mut self, now: WallTime, disk: DiskId, offset: u64, data: Bytes) {
        if self.absorb(disk, offset, data.len() as u64) {
            return;
        }
        let mut at = 0;
        while at < data.len() {
            let n = (data.len() - at).min(MAX_RECORD);
            let piece = data.slice(at..at + n);
            self.push(now, Item::Data { disk, offset: offset + at as u64, data: piece });
            at += n;
        }
        self.bound();
    }

    /// Zeros that are in effect at the source.
    pub fn zero(&mut self, now: WallTime, disk: DiskId, offset: u64, len: u64) {
        if len == 0 || self.absorb(disk, offset, len) {
            return;
        }
        self.push(now, Item::Zero { disk, offset, len });
        self.bound();
    }

    /// The range may hold anything: it is read again.
    pub fn suspect(&mut self, disk: DiskId, offset: u64, len: u64) {
        self.touch(disk, offset, len);
        self.disks[usize::from(disk.0)].dirty.mark(offset, len);
        self.lose_track();
    }

    /// A source is there to be read, and from now on every write to it is captured.
    pub fn attached(&mut self, suspects: Suspects) {
        self.sealed = false;
        match suspects {
            Suspects::All => {
                // Unless this is the first time, something may have been sent since the site was found empty.
                self.fresh &= self.knowledge == Knowledge::Nothing;
                self.knowledge = Knowledge::Shared;
                self.restart();
            }
            Suspects::Only { .. } if self.knowledge == Knowledge::Nothing && self.early.is_none() => {
                self.attached(Suspects::All);
            }
            Suspects::Only { mut ranges, floor } => {
                ranges.extend(self.early.take().into_iter().flatten());
                if self.knowledge == Knowledge::Nothing {
                    for d in &mut self.disks {
                        d.dirty.clear(0, d.size);
                        d.scanned = 0;
                    }
                    self.knowledge = Knowledge::Claimed(floor);
                }
                for (disk, offset, len) in ranges {
                    if let Some(d) = self.disks.get_mut(usize::from(disk.0)) {
                        d.dirty.mark(offset, len);
                    }
                }
                if let Some((durable, follows)) = self.welcome {
                    self.decide(durable, follows);
                }
                if !self.disks.iter().all(|d| d.dirty.is_empty()) {
                    self.lose_track();
                }
            }
        }
    }

    /// The site's word on what tracking claims.
    pub(super) fn decide(&mut self, durable: Seq, follows: bool) {
        match self.knowledge {
            Knowledge::Claimed(floor) if follows && durable >= floor => {
                tracing::debug!(?durable, ?floor, dirty = self.dirty_bytes(), "tracking covers the gap");
                self.fresh = false;
                self.knowledge = Knowledge::Shared;
                self.unsettled.get_or_insert(Settle::Adopt);
            }
            Knowledge::Claimed(floor) => {
                tracing::info!(?durable, ?floor, follows, "tracking does not fit the site: all is compared");
                self.knowledge = Knowledge::Shared;
                self.restart();
            }
            Knowledge::Nothing | Knowledge::Shared => {}
        }
    }

    /// The source is lost, or is about to be: from here on it may change unseen. A last barrier is cut
    /// over what was captured, if that is exact; then nothing is read, no barrier is cut and no sign of life
    /// promises anything, until a source is [`attached`](Self::attached) again.
    pub fn seal(&mut self, now: WallTime) {
        if self.live && self.unbarriered {
            self.barrier(now, BarrierKind::Crash);
        }
        self.sealed = true;
        self.fail_verify("the source was lost meanwhile");
        if !self.pending.is_empty() {
            self.abort_pending();
            self.live = false;
        }
    }

    pub(super) fn restart(&mut self) {
        self.unsettled = Some(Settle::SuspectAll);
        self.abort_pending();
        for d in &mut self.disks {
            d.dirty.mark_all();
            d.scanned = 0;
            d.cursor = 0;
        }
        self.drop_queue();
        self.lose_track();
    }

    /// Notes the write for running reads; true when a dirty block covers it, so that the sync
    /// will bring it.
    fn absorb(&mut self, disk: DiskId, offset: u64, len: u64) -> bool {
        self.touch(disk, offset, len);
        self.disks[usize::from(disk.0)].dirty.covers(offset, len)
    }

    pub(super) fn touch(&mut self, disk: DiskId, offset: u64, len: u64) {
        let end = offset + len;
        if self.knowledge == Knowledge::Nothing {
            self.early.take_if(|e| e.len() >= MAX_EARLY);
            self.early.iter_mut().for_each(|e| e.push((disk, offset, len)));
        }
        let mut too_many = None;
        for p in &mut self.pending {
            let (from, to) = (p.task.offset, p.task.offset + p.task.len);
            if p.task.disk != disk || offset >= to || from >= end {
                continue;
            }
            match p.touched.last_mut() {
                Some(last) if last.1 == offset => last.1 = end,
                _ => p.touched.push((offset, end)),
            }
            if p.touched.len() > MAX_TOUCHED {
                match p.task.kind {
                    // No hole in it is believed.
                    TaskKind::Scan => p.touched = vec![(from, to)],
                    // Read again, when it is quieter.
                    TaskKind::Compare | TaskKind::Verify => too_many = Some(p.task.id),
                }
            }
        }
        if let Some(id) = too_many {
            self.task_failed(id);
        }
        if let Some(v) = &mut self.verify {
            v.touch(disk, offset, end);
        }
    }

    pub(super) fn push(&mut self, now: WallTime, item: Item) {
        self.unbarriered |= matches!(item, Item::Data { .. } | Item::Zero { .. } | Item::Disk { .. });
        self.queue_bytes += item.cost();
        self.queue_records += u64::from(item.is_record());
        self.queue.push_back(Queued { time: now, item });
    }

    /// A full queue becomes dirty blocks.
    pub(super) fn bound(&mut self) {
        if self.queue_bytes > self.limit {
            self.abort_pending();
            self.drop_queue();
            self.lose_track();
        }
    }

    pub(super) fn drop_queue(&mut self) {
        let mut kept = VecDeque::new();
        for q in std::mem::take(&mut self.queue) {
            match q.item {
                Item::Data { disk, offset, ref data } => {
                    self.disks[usize::from(disk.0)].dirty.mark(offset, data.len() as u64);
                }
                Item::Zero { disk, offset, len } => self.disks[usize::from(disk.0)].dirty.mark(offset, len),
                Item::Disk { .. } => kept.push_back(q),
                Item::Barrier(_) | Item::Offer(_) => {}
            }
        }
        self.queue_bytes = kept.iter().map(|q| q.item.cost()).sum();
        self.queue_records = kept.len() as u64;
        self.queue = kept;
        self.generation += 1;
        if matches!(self.mark, Some(Mark::InQueue(_))) {
            // What it waited for is dirty now, or on its way already.
            self.mark = Some(Mark::At(self.last_given()));
        }
        self.retry_verify();
    }

    pub(super) fn lose_track(&mut self) {
        self.live = false;
        self.sync_sent = 0;
        self.sync_total = self.dirty_bytes();
    }
}
