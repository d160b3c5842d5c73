//! The sending end of a server's stream, as a state machine without I/O.
//!
//! Invariants:
//! - Every captured write is at each moment in exactly one place: the queue, the frames that are
//!   not acknowledged (in memory or in the spool), the site, or covered by a dirty block. None is ever only in
//!   nobody's hands (I2).
//! - A barrier is cut only while no block is dirty and no sync read is under way, so every barrier
//!   is exact (I1); while blocks are dirty no point is offered.
//! - A sync read never overtakes a captured write: what was written since the read began is cut out
//!   of what the read brings.
//! - Memory and spool are bounded: while the site does not take them, frames go to the spool; when that is full, or there
//!   is none, a full queue turns into dirty blocks (I5).
//! - What an earlier process tracked is believed only if the site's newest record came from that process and
//!   nothing is missing there that was acknowledged to it; else every block is dirty.
//!
//! ```text
//!  capture --> queue --encode--> frames (not acknowledged; memory, then spool) --write--> site
//!     |  \-- full --> dirty map --sync read--> offer --answer--> queue
//!     \---- block is dirty already: nothing to do, the sync will read it
//! ```
//! Numbers are given when a record is encoded, so what leaves the queue for the dirty map leaves no gap.

mod link;
mod sync;
mod verify;

use crate::dirty::DirtyMap;
use crate::wire::{Ack, BlockHash, Offer};
use bytes::Bytes;
use lifeboat_base::limits::{AGENT_QUEUE, BARRIER_EVERY, BLOCK, CANARY_EVERY, MAX_RECORD, MAX_TOUCHED};
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};
use lifeboat_block::BarrierKind;
use std::collections::VecDeque;
use verify::VerifyRun;

pub use link::Welcomed;

/// Counted for each queue entry besides its data, so that many tiny ones are bounded too.
const ENTRY_COST: usize = 64;
/// How much one sync task reads.
pub const SYNC_TASK: u64 = 4 << 20;
/// How much one scan task asks about.
pub const SCAN_TASK: u64 = 1 << 30;

/// One entry of the queue: what becomes a record, or an offer in its place among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Data { disk: DiskId, offset: u64, data: Bytes },
    Zero { disk: DiskId, offset: u64, len: u64 },
    Barrier(BarrierKind),
    Disk { disk: DiskId, size: u64 },
    Offer(Offer),
}

impl Item {
    fn is_record(&self) -> bool {
        !matches!(self, Self::Offer(_))
    }

    fn cost(&self) -> usize {
        ENTRY_COST
            + match self {
                Item::Data { data, .. } => data.len(),
                Item::Offer(o) => o.hashes.len() * 32,
                _ => 0,
            }
    }
}

/// An item and when it was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub time: WallTime,
    pub item: Item,
}

/// Work for the encoder: records numbered from `first`, or one offer.
#[derive(Debug)]
pub struct Batch {
    pub epoch: Epoch,
    pub first: Seq,
    pub items: Vec<Queued>,
}

/// Work for the reader of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncTask {
    pub id: u32,
    pub disk: DiskId,
    pub offset: u64,
    pub len: u64,
    pub kind: TaskKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Ask the source where data is; finish with [`Sender::scanned`].
    Scan,
    /// Read and hash; finish with [`Sender::hashed`].
    Compare,
    /// Read and hash what should be equal; finish with [`Sender::verified`].
    Verify,
}

/// Where the shell has put a frame's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameBytes {
    Memory(Bytes),
    Spooled(Slot),
}

/// A frame in the spool. Numbers grow by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub id: u64,
    /// Length of the frame.
    pub len: usize,
}

/// What may differ from the site's copy when a source is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspects {
    /// Anything.
    All,
    /// These ranges, if the site holds everything up to `floor`: tracking saw all the rest arrive there.
    Only { ranges: Vec<(DiskId, u64, u64)>, floor: Seq },
}

/// What the clear bits of the dirty map mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// No source was attached yet.
    Nothing,
    /// Tracking claims that they are at the site; the site's next welcome decides.
    Claimed(Seq),
    /// At the site or on the way.
    Shared,
}

/// What tracking must hold on stable storage before this process sends its first record: then the site takes it for the
/// writer, and a later process will be believed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// This process goes on where the one before it was; the suspects are marked already.
    Adopt,
    /// Everything is suspect.
    SuspectAll,
}

/// A place in the stream behind everything captured before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Behind so many entries of the queue.
    InQueue(usize),
    /// Behind this record.
    At(Seq),
}

/// A barrier somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    seq: Seq,
    generation: u64,
}

impl Ticket {
    /// Number of its barrier.
    pub fn seq(&self) -> Seq {
        self.seq
    }
}

/// How a [`Ticket`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    Yes,
    NotYet,
    /// The queue was dropped: take another ticket once the stream is live again.
    Lost,
}

/// A frame that the site has not acknowledged.
#[derive(Debug)]
struct Frame {
    /// Last record in it; for an offer, the last record before it.
    last: Seq,
    offer: bool,
    bytes: FrameBytes,
}

/// Writes noted before a source is attached.
const MAX_EARLY: usize = 1 << 16;
/// Frames kept at most: each costs memory, wherever its bytes are.
const MAX_FRAMES: usize = 1 << 18;
/// Ticks without a barrier before one is cut all the same.
const CANARY_TICKS: u32 = (CANARY_EVERY.as_millis() / BARRIER_EVERY.as_millis()) as u32;

#[derive(Debug)]
struct Pending {
    task: SyncTask,
    /// Ranges written since the task began.
    touched: Vec<(u64, u64)>,
    data: Bytes,
    hashes: Vec<BlockHash>,
}

#[derive(Debug)]
struct DiskState {
    size: u64,
    dirty: DirtyMap,
    /// Where the scan stands; at `size` it is over.
    scanned: u64,
    cursor: u64,
}

/// What the sender is doing, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Never connected yet.
    Idle,
    Scan,
    /// The first copy.
    Full,
    /// Comparing what may differ.
    Resync,
    /// Every write goes out as it comes; barriers are cut.
    Live,
}

/// Numbers for people. Bytes of disk content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub phase: Phase,
    pub connected: bool,
    pub total_bytes: u64,
    pub done_bytes: u64,
    pub sent_bytes: u64,
    pub lag_bytes: u64,
    /// Part of the lag that is in the spool.
    pub spool_bytes: u64,
    /// Read and hashed so far.
    pub hashed_bytes: u64,
    /// Everything captured so far is durable at the site, and in a point.
    pub drained: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Sender {
    epoch: Epoch,
    /// Number of the next record; unknown before the first welcome.
    next_seq: Option<Seq>,
    connected: bool,
    knowledge: Knowledge,
    /// Nothing is sent until this is done.
    unsettled: Option<Settle>,
    /// Captured before a source was attached; `None` when there was too much of it.
    early: Option<Vec<(DiskId, u64, u64)>>,
    /// What the site's last welcome said that began a stream anew: where, and whether it follows our tracking.
    welcome: Option<(Seq, bool)>,
    /// The site held nothing of this server: holes need not be sent.
    fresh: bool,
    disks: Vec<DiskState>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Entries of the queue that become records.
    queue_records: u64,
    /// How often the queue was dropped.
    generation: u64,
    mark: Option<Mark>,
    frames: VecDeque<Frame>,
    /// Bytes of frames in memory, and in the spool.
    frames_bytes: usize,
    spooled: u64,
    spool_limit: u64,
    /// The spool could not be written; not tried again before it is empty.
    spool_failed: bool,
    /// Slots below this are free, and slots below that were given.
    spool_released: u64,
    spool_given: u64,
    /// Frames before this index were written to the present connection.
    written: usize,
    /// Records handed to the encoder whose frame has not come back.
    encoding: bool,
    pending: Vec<Pending>,
    pending_bytes: u64,
    next_task: u32,
    acked: Ack,
    /// A record was queued since the last barrier.
    unbarriered: bool,
    /// Number of the newest barrier, and how long ago it was cut.
    last_barrier: Seq,
    quiet_ticks: u32,
    live: bool,
    ever_live: bool,
    /// The source is lost: what was captured goes out, nothing more is read and no point is cut.
    sealed: bool,
    verify: Option<VerifyRun>,
    sync_total: u64,
    sync_sent: u64,
    hashed: u64,
    limit: usize,
}

impl Sender {
    /// A sender that knows nothing of what the site holds: every block is dirty. Nothing is read before a source is
    /// [`attached`](Self::attached).
    pub fn new(epoch: Epoch, sizes: &[u64]) -> Self {
        let disks = sizes
            .iter()
            .map(|&size| {
                let mut dirty = DirtyMap::new(size);
                dirty.mark_all();
                DiskState { size, dirty, scanned: 0, cursor: 0 }
            })
            .collect();
        Self {
            epoch,
            next_seq: None,
            connected: false,
            knowledge: Knowledge::Nothing,
            unsettled: None,
            early: Some(Vec::new()),
            welcome: None,
            fresh: false,
            disks,
            queue: VecDeque::new(),
            queue_bytes: 0,
            queue_records: 0,
            generation: 0,
            mark: None,
            frames: VecDeque::new(),
            frames_bytes: 0,
            spooled: 0,
            spool_limit: 0,
            spool_failed: false,
            spool_released: 0,
            spool_given: 0,
            written: 0,
            encoding: false,
            pending: Vec::new(),
            pending_bytes: 0,
            next_task: 1,
            acked: Ack::default(),
            unbarriered: false,
            last_barrier: Seq::ZERO,
            quiet_ticks: 0,
            live: false,
            ever_live: false,
            sealed: true,
            verify: None,
            sync_total: 0,
            sync_sent: 0,
            hashed: 0,
            limit: AGENT_QUEUE,
        }
    }

    /// Sets the queue's bound, in bytes; for tests.
    pub fn set_queue_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Sets the spool's bound, in bytes; 0 for none.
    pub fn set_spool_limit(&mut self, bytes: u64) {
        self.spool_limit = bytes;
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    // ---- capture side -------------------------------------------------------------------------

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
    fn decide(&mut self, durable: Seq, follows: bool) {
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

    fn restart(&mut self) {
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

    fn touch(&mut self, disk: DiskId, offset: u64, len: u64) {
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

    fn push(&mut self, now: WallTime, item: Item) {
        self.unbarriered |= matches!(item, Item::Data { .. } | Item::Zero { .. } | Item::Disk { .. });
        self.queue_bytes += item.cost();
        self.queue_records += u64::from(item.is_record());
        self.queue.push_back(Queued { time: now, item });
    }

    /// A full queue becomes dirty blocks.
    fn bound(&mut self) {
        if self.queue_bytes > self.limit {
            self.abort_pending();
            self.drop_queue();
            self.lose_track();
        }
    }

    fn drop_queue(&mut self) {
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

    fn lose_track(&mut self) {
        self.live = false;
        self.sync_sent = 0;
        self.sync_total = self.dirty_bytes();
    }

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
        if !self.live || !self.synced() {
            return None;
        }
        let seq = if self.unbarriered { self.barrier(now, BarrierKind::Crash)? } else { self.last_barrier };
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

    fn synced(&self) -> bool {
        !self.sealed
            && self.knowledge == Knowledge::Shared
            && self.next_seq.is_some()
            && self.pending.is_empty()
            && self.disks.iter().all(|d| d.dirty.is_empty())
    }

    fn last_given(&self) -> Seq {
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
        self.live && self.synced()
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
        let dirty = |d: &DiskState| d.dirty.next_run(offset, 1).is_some_and(|(at, _)| at < end);
        self.disks.get(usize::from(disk.0)).is_some_and(dirty) || self.pending.iter().any(pending)
    }
}

impl Sender {
    // ---- numbers ------------------------------------------------------------------------------

    fn dirty_bytes(&self) -> u64 {
        self.disks.iter().map(|d| (d.dirty.count() * BLOCK as u64).min(d.size)).sum()
    }

    fn lag_bytes(&self) -> u64 {
        self.queue_bytes as u64
            + self.frames_bytes as u64
            + self.spooled
            + self.pending_bytes
            + self.dirty_bytes()
    }

    /// Whether the encoder or the sync has something to do now.
    pub fn wants_encoder(&self) -> bool {
        self.next_seq.is_some() && !self.encoding && self.has_room() && !self.queue.is_empty()
    }

    pub fn wants_writer(&self) -> bool {
        self.connected && self.written < self.frames.len()
    }

    /// Bytes waiting in the queue: tells the encoder how hurried it is.
    pub fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub fn status(&self) -> Status {
        let scanning = self.disks.iter().any(|d| d.scanned < d.size && !d.dirty.is_empty());
        let phase = if self.next_seq.is_none() {
            Phase::Idle
        } else if self.live {
            Phase::Live
        } else if scanning {
            Phase::Scan
        } else if self.ever_live || !self.fresh {
            Phase::Resync
        } else {
            Phase::Full
        };
        let left = self.dirty_bytes() + self.pending_bytes;
        Status {
            phase,
            connected: self.connected,
            total_bytes: self.sync_total.max(left),
            done_bytes: self.sync_total.saturating_sub(left),
            sent_bytes: self.sync_sent,
            lag_bytes: self.lag_bytes(),
            spool_bytes: self.spooled,
            hashed_bytes: self.hashed,
            drained: self.live && self.lag_bytes() == 0 && !self.encoding && !self.unbarriered,
        }
    }
}

/// What the other side did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SenderError {
    #[error("the site acknowledged record {0}, which was never sent")]
    AckOfUnsent(Seq),
    #[error("the site's answer does not fit the offer")]
    BadAnswer,
}

#[cfg(test)]
mod tests;
