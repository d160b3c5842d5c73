//! The sending end of a server's stream, as a state machine without I/O.
//!
//! Invariants:
//! - Every captured write is at each moment in exactly one place: the queue, the frames that are
//!   not acknowledged, the site, or covered by a dirty block. None is ever only in nobody's hands (I2).
//! - A barrier is cut only while no block is dirty and no sync read is under way, so every barrier
//!   is exact (I1); while blocks are dirty no point is offered.
//! - A sync read never overtakes a captured write: what was written since the read began is cut out
//!   of what the read brings.
//! - Memory is bounded: a full queue turns into dirty blocks (I5).
//!
//! ```text
//!  capture --> queue --encode--> frames (not acknowledged) --write--> site
//!     |  \-- full --> dirty map --sync read--> offer --answer--> queue
//!     \---- block is dirty already: nothing to do, the sync will read it
//! ```
//! Numbers are given when a record is encoded, so what leaves the queue for the dirty map leaves no gap.

use crate::dirty::DirtyMap;
use crate::wire::{Ack, Answer, BlockHash, Offer, Ping, ZERO_HASH};
use bytes::Bytes;
use lifeboat_base::limits::{AGENT_QUEUE, AGENT_SYNC_WINDOW, AGENT_UNACKED, BLOCK, MAX_RECORD};
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};
use lifeboat_block::BarrierKind;
use std::collections::VecDeque;

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
}

/// A frame that the site has not acknowledged.
#[derive(Debug)]
struct Frame {
    /// Last record in it; for an offer, the last record before it.
    last: Seq,
    offer: bool,
    bytes: Bytes,
}

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
    /// The site held nothing of this server: holes need not be sent.
    fresh: bool,
    disks: Vec<DiskState>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    frames: VecDeque<Frame>,
    frames_bytes: usize,
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
    live: bool,
    ever_live: bool,
    /// The source is lost: what was captured goes out, nothing more is read and no point is cut.
    sealed: bool,
    sync_total: u64,
    sync_sent: u64,
    limit: usize,
}

impl Sender {
    /// A sender that knows nothing of what the site holds: every block is dirty.
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
            fresh: false,
            disks,
            queue: VecDeque::new(),
            queue_bytes: 0,
            frames: VecDeque::new(),
            frames_bytes: 0,
            written: 0,
            encoding: false,
            pending: Vec::new(),
            pending_bytes: 0,
            next_task: 1,
            acked: Ack::default(),
            unbarriered: false,
            live: false,
            ever_live: false,
            sealed: false,
            sync_total: 0,
            sync_sent: 0,
            limit: AGENT_QUEUE,
        }
    }

    /// Sets the queue's bound, in bytes; for tests.
    pub fn set_queue_limit(&mut self, bytes: usize) {
        self.limit = bytes;
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

    /// Tracking was lost: every block is compared again.
    pub fn suspect_all(&mut self) {
        // Something may have been sent since the site was found empty.
        self.fresh = false;
        self.sealed = false;
        self.restart();
    }

    /// The source is lost, or is about to be: from here on it may change unseen. A last barrier is cut
    /// over what was captured, if that is exact; then nothing is read, no barrier is cut and no sign of life
    /// promises anything, until [`suspect_all`](Self::suspect_all).
    pub fn seal(&mut self, now: WallTime) {
        if self.live && self.unbarriered {
            self.barrier(now, BarrierKind::Crash);
        }
        self.sealed = true;
        if !self.pending.is_empty() {
            self.abort_pending();
            self.live = false;
        }
    }

    fn restart(&mut self) {
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
        for p in &mut self.pending {
            if p.task.disk == disk && offset < p.task.offset + p.task.len && p.task.offset < offset + len {
                match p.touched.last_mut() {
                    Some(last) if last.1 == offset => last.1 = offset + len,
                    _ => p.touched.push((offset, offset + len)),
                }
            }
        }
    }

    fn push(&mut self, now: WallTime, item: Item) {
        self.unbarriered |= matches!(item, Item::Data { .. } | Item::Zero { .. } | Item::Disk { .. });
        self.queue_bytes += item.cost();
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
        self.queue = kept;
    }

    fn lose_track(&mut self) {
        self.live = false;
        self.sync_sent = 0;
        self.sync_total = self.dirty_bytes();
    }

    /// Cuts a barrier if that is due and exact. Call every [`BARRIER_EVERY`](lifeboat_base::limits::BARRIER_EVERY).
    pub fn tick(&mut self, now: WallTime) {
        if !self.synced() {
            return;
        }
        let first = !self.live;
        if self.unbarriered || first {
            self.barrier(now, BarrierKind::Crash);
        }
        self.live = true;
        self.ever_live = true;
    }

    /// Cuts a barrier now. False when blocks are dirty, so that it would not be exact.
    pub fn barrier(&mut self, now: WallTime, kind: BarrierKind) -> bool {
        if !self.synced() {
            return false;
        }
        self.push(now, Item::Barrier(kind));
        self.unbarriered = false;
        true
    }

    fn synced(&self) -> bool {
        !self.sealed
            && self.next_seq.is_some()
            && self.pending.is_empty()
            && self.disks.iter().all(|d| d.dirty.is_empty() && d.scanned >= d.size)
    }

    // ---- link side ----------------------------------------------------------------------------

    /// A session was accepted; the site has everything up to `durable`, and `same_writer` says that the
    /// newest of it came from this process. Another's records under the same numbers are not ours.
    pub fn connected(&mut self, now: WallTime, durable: Seq, has_content: bool, same_writer: bool) {
        self.disconnected();
        self.connected = true;
        let assigned = self.next_seq;
        // Frames hold every record from `acked + 1` on, so anything from there to the last number
        // given is a place to go on from. Anywhere else, tracking is lost.
        let continues = match assigned {
            Some(next) => same_writer && durable.0 < next.0 && durable >= self.acked.durable,
            None => false,
        };
        if !continues {
            tracing::debug!(?assigned, ?durable, "stream starts anew after the site's last record");
            self.frames.clear();
            self.frames_bytes = 0;
            // A batch at the encoder keeps its old numbers; its frame is dropped when it comes back.
            self.encoding = false;
            self.next_seq = Some(durable.next());
            self.fresh = !has_content;
            self.queue.retain(|q| !matches!(q.item, Item::Disk { .. }));
            self.restart();
            let sizes: Vec<u64> = self.disks.iter().map(|d| d.size).collect();
            for (i, size) in sizes.into_iter().enumerate() {
                self.push(now, Item::Disk { disk: DiskId(i as u16), size });
            }
        }
        while self.frames.front().is_some_and(|f| f.last <= durable) {
            self.pop_frame();
        }
        self.acked.durable = durable;
    }

    /// The session is over. What was not acknowledged is kept and written again on the next.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.written = 0;
        // Offers live with their session.
        let mut bytes = 0;
        self.frames.retain(|f| {
            bytes += if f.offer { 0 } else { f.bytes.len() };
            !f.offer
        });
        self.frames_bytes = bytes;
        let queue_bytes = &mut self.queue_bytes;
        self.queue.retain(|q| {
            let offer = matches!(q.item, Item::Offer(_));
            if offer {
                *queue_bytes -= q.item.cost();
            }
            !offer
        });
        if !self.pending.is_empty() {
            self.abort_pending();
            self.live = false;
        }
    }

    /// Takes up to `max` bytes of queue for the encoder, which answers with [`encoded`](Self::encoded).
    /// `None` when there is nothing to do, or enough is waiting for the site.
    pub fn take_batch(&mut self, max: usize) -> Option<Batch> {
        let first = self.next_seq?;
        if self.encoding || self.frames_bytes >= AGENT_UNACKED || self.queue.is_empty() {
            return None;
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        while let Some(front) = self.queue.front() {
            let cost = front.item.cost();
            let offer = matches!(front.item, Item::Offer(_));
            if !items.is_empty() && (bytes + cost > max || offer) {
                break;
            }
            bytes += cost;
            self.queue_bytes -= cost;
            items.extend(self.queue.pop_front());
            if offer {
                break;
            }
        }
        self.encoding = true;
        let records = items.iter().filter(|q| !matches!(q.item, Item::Offer(_))).count();
        self.next_seq = Some(Seq(first.0 + records as u64));
        Some(Batch { epoch: self.epoch, first, items })
    }

    /// The encoder's answer: the batch's frame. `offer` when the batch was one.
    pub fn encoded(&mut self, last: Seq, offer: bool, bytes: Bytes) {
        if !std::mem::replace(&mut self.encoding, false) {
            // The stream started anew meanwhile; its blocks are dirty.
            return;
        }
        if offer && !self.connected {
            return;
        }
        self.frames_bytes += bytes.len();
        self.frames.push_back(Frame { last, offer, bytes });
    }

    /// The next frame to write to the present connection.
    pub fn next_frame(&mut self) -> Option<Bytes> {
        if !self.connected {
            return None;
        }
        let frame = self.frames.get(self.written)?;
        let bytes = frame.bytes.clone();
        self.written += 1;
        Some(bytes)
    }

    /// The site's acknowledgement.
    ///
    /// # Errors
    /// When it acknowledges what was never sent; the session must end.
    pub fn ack(&mut self, ack: Ack) -> Result<(), SenderError> {
        let highest = self.frames.iter().take(self.written).rev().find(|f| !f.offer).map(|f| f.last);
        if ack.durable > highest.unwrap_or(self.acked.durable) {
            return Err(SenderError::AckOfUnsent(ack.durable));
        }
        // An offer is done with once it is written and everything before it is acknowledged.
        while self.written > 0 && self.frames.front().is_some_and(|f| f.last <= ack.durable) {
            self.pop_frame();
        }
        self.acked = Ack { durable: ack.durable.max(self.acked.durable), barrier: ack.barrier };
        Ok(())
    }

    fn pop_frame(&mut self) {
        if let Some(f) = self.frames.pop_front() {
            self.frames_bytes -= f.bytes.len();
            self.written = self.written.saturating_sub(1);
        }
    }

    /// A sign of life for an otherwise quiet link.
    pub fn ping(&self, now: WallTime) -> Ping {
        let idle = self.queue.is_empty() && !self.encoding && self.written == self.frames.len();
        Ping {
            seq: Seq(self.next_seq.map_or(0, |s| s.0.saturating_sub(1))),
            time: now,
            lag_bytes: self.lag_bytes(),
            live: self.live && idle && !self.unbarriered && !self.sealed,
        }
    }

    // ---- sync side ----------------------------------------------------------------------------

    /// The next thing to read from the source, if the link wants work and memory allows.
    pub fn next_task(&mut self) -> Option<SyncTask> {
        if !self.connected || self.sealed || self.queue_bytes > self.limit / 2 {
            return None;
        }
        if let Some(i) = self.disks.iter().position(|d| d.scanned < d.size) {
            // One scan at a time; comparisons start when all is scanned, so that the total is known.
            if self.pending.iter().any(|p| p.task.kind == TaskKind::Scan) {
                return None;
            }
            let d = &self.disks[i];
            let (offset, len) = (d.scanned, SCAN_TASK.min(d.size - d.scanned));
            return Some(self.start(TaskKind::Scan, DiskId(i as u16), offset, len));
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

    fn start(&mut self, kind: TaskKind, disk: DiskId, offset: u64, len: u64) -> SyncTask {
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

    fn abort_pending(&mut self) {
        for p in std::mem::take(&mut self.pending) {
            if p.task.kind == TaskKind::Compare {
                self.disks[usize::from(p.task.disk.0)].dirty.mark(p.task.offset, p.task.len);
            }
        }
        self.pending_bytes = 0;
    }

    /// The source could not be read: the range stays dirty.
    pub fn task_failed(&mut self, id: u32) {
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
        p.data = data;
        p.hashes.clone_from(&hashes);
        let offer = Offer { id, disk: p.task.disk, offset: p.task.offset, hashes };
        self.push(now, Item::Offer(offer));
    }

    /// The site says which blocks of an offer it lacks.
    ///
    /// # Errors
    /// When the answer does not fit the offer; the session must end.
    pub fn answered(&mut self, now: WallTime, answer: &Answer) -> Result<(), SenderError> {
        let Some(p) = self.pending.iter().find(|p| p.task.id == answer.id) else {
            return Ok(()); // an offer given up since
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

    // ---- numbers ------------------------------------------------------------------------------

    fn dirty_bytes(&self) -> u64 {
        self.disks.iter().map(|d| (d.dirty.count() * BLOCK as u64).min(d.size)).sum()
    }

    fn lag_bytes(&self) -> u64 {
        self.queue_bytes as u64 + self.frames_bytes as u64 + self.pending_bytes + self.dirty_bytes()
    }

    /// Whether the encoder or the sync has something to do now.
    pub fn wants_encoder(&self) -> bool {
        self.next_seq.is_some()
            && !self.encoding
            && self.frames_bytes < AGENT_UNACKED
            && !self.queue.is_empty()
    }

    pub fn wants_writer(&self) -> bool {
        self.connected && self.written < self.frames.len()
    }

    /// Bytes waiting in the queue: tells the encoder how hurried it is.
    pub fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub fn status(&self) -> Status {
        let scanning = self.disks.iter().any(|d| d.scanned < d.size);
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

#[cfg(test)]
mod tests;
