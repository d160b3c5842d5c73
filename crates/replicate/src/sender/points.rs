//! The sender's barriers, and what those ask who wait for one: a synchronous flush, and tracking.

use super::{CANARY_TICKS, DiskState, Item, Knowledge, Mark, Passed, Pending, Sender, Settle, Ticket};
use lifeboat_base::{DiskId, Seq, WallTime};
use lifeboat_block::BarrierKind;

impl Sender {
    /// Cuts a barrier if that is due and exact. Call every [`BARRIER_EVERY`].
    pub fn tick(&mut self, now: WallTime) {
        if let Some(v) = &mut self.verify {
            v.tick();
        }
        if !self.synced() {
            return;
        }
        let first = !self.live;
        self.quiet_ticks = self.quiet_ticks.saturating_add(1);
        let canary = self.connected && self.quiet_ticks >= CANARY_TICKS;
        if (self.unbarriered || first || canary || self.verify_wants_barrier())
            && self.barrier(now, BarrierKind::Crash).is_some()
        {
            self.end_verify();
        }
        self.live = true;
        self.ever_live = true;
    }

    /// Cuts a barrier now and tells its number, which holds unless the queue is dropped before it is encoded. `None` when
    /// blocks are dirty, so that it would not be exact.
    pub fn barrier(&mut self, now: WallTime, kind: BarrierKind) -> Option<Seq> {
        if !self.synced() {
            return None;
        }
        let seq = Seq(self.next_seq?.0 + self.queue_records);
        self.push(now, Item::Barrier(kind));
        self.unbarriered = false;
        self.quiet_ticks = 0;
        self.last_barrier = seq;
        Some(seq)
    }

    /// A barrier behind everything captured so far, to wait for with [`passed`](Self::passed). `None` while the
    /// stream is not live.
    pub fn ticket(&mut self, now: WallTime) -> Option<Ticket> {
        if !self.live || self.branch || !self.synced() {
            return None;
        }
        let seq = if self.unbarriered { self.barrier(now, BarrierKind::Crash)? } else { self.last_barrier };
        Some(Ticket { seq, generation: self.generation })
    }

    /// As [`ticket`](Self::ticket), with a barrier of its own: when it has passed, the site answers now.
    pub fn fresh_ticket(&mut self, now: WallTime) -> Option<Ticket> {
        if !self.live || self.branch {
            return None;
        }
        let seq = self.barrier(now, BarrierKind::Crash)?;
        Some(Ticket { seq, generation: self.generation })
    }

    /// Whether a ticket's barrier is on stable storage at the site.
    pub fn passed(&self, ticket: Ticket) -> Passed {
        if ticket.generation != self.generation {
            Passed::Lost
        } else if self.acked.durable >= ticket.seq {
            Passed::Yes
        } else {
            Passed::NotYet
        }
    }

    /// The newest record the site has acknowledged.
    pub fn durable(&self) -> Seq {
        self.acked.durable
    }

    /// The newest record whose frame is ready.
    pub fn last_framed(&self) -> Seq {
        self.frames.iter().rev().find(|f| !f.offer).map_or(self.acked.durable, |f| f.last)
    }

    pub(super) fn synced(&self) -> bool {
        !self.sealed
            && self.knowledge == Knowledge::Shared
            && self.next_seq.is_some()
            && self.pending.is_empty()
            && self.disks.iter().all(|d| d.dirty.is_empty())
    }

    pub(super) fn last_given(&self) -> Seq {
        Seq(self.next_seq.map_or(0, |s| s.0.saturating_sub(1)))
    }

    // ---- for tracking -------------------------------------------------------------------------

    /// What is to be put on stable storage before anything is sent; [`settled`](Self::settled) tells that it is.
    pub fn settle_due(&self) -> Option<Settle> {
        self.unsettled
    }

    /// See [`settle_due`](Self::settle_due).
    pub fn settled(&mut self, what: Settle) {
        self.unsettled.take_if(|due| *due == what);
    }

    /// Whether the site has acknowledged a record of this process.
    pub fn has_written(&self) -> bool {
        self.welcome.is_some_and(|(durable, _)| self.acked.durable > durable)
    }

    /// Notes the present end of the stream; [`mark_passed`](Self::mark_passed) tells when everything
    /// captured before it is at the site, or dirty. One at a time: another takes its place.
    pub fn set_mark(&mut self) {
        self.mark = Some(match self.queue.len() {
            0 => Mark::At(self.last_given()),
            n => Mark::InQueue(n),
        });
    }

    /// As [`set_mark`](Self::set_mark), where there is none.
    pub fn set_mark_if_none(&mut self) {
        if self.mark.is_none() {
            self.set_mark();
        }
    }

    /// Whether a barrier cut now would be exact, and points are offered.
    pub fn is_live(&self) -> bool {
        self.live && !self.branch && self.synced()
    }

    /// The newest record acknowledged, once everything before the mark is at the site or dirty.
    pub fn mark_passed(&self) -> Option<Seq> {
        match self.mark {
            Some(Mark::At(seq)) if self.acked.durable >= seq && self.knowledge == Knowledge::Shared => {
                Some(self.acked.durable)
            }
            _ => None,
        }
    }

    /// Whether a part of the range may differ from the site's copy, writes on their way aside.
    pub fn is_suspect(&self, disk: DiskId, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let pending =
            |p: &Pending| p.task.disk == disk && p.task.offset < end && offset < p.task.offset + p.task.len;
        let dirty = |d: &DiskState| d.dirty.any(offset, len);
        self.disks.get(usize::from(disk.0)).is_some_and(dirty) || self.pending.iter().any(pending)
    }
}
