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

mod capture;
mod link;
mod points;
mod sync;
mod verify;

use crate::dirty::DirtyMap;
use crate::wire::{Ack, BlockHash, Offer};
use bytes::Bytes;
use lifeboat_base::limits::{AGENT_QUEUE, AGENT_UNACKED, BARRIER_EVERY, BLOCK, CANARY_EVERY};
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
    /// What is acknowledged now is kept beside the line.
    branch: bool,
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
    /// Ranges that verification found different, until somebody has taken note.
    found: Vec<(DiskId, u64, u64)>,
    sync_total: u64,
    sync_sent: u64,
    hashed: u64,
    limit: usize,
    unacked: usize,
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
            branch: false,
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
            found: Vec::new(),
            sync_total: 0,
            sync_sent: 0,
            hashed: 0,
            limit: AGENT_QUEUE,
            unacked: AGENT_UNACKED,
        }
    }

    /// Sets the queue's bound, in bytes; for tests.
    pub fn set_queue_limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Sets the bound of frames in memory, in bytes; for tests.
    pub fn set_unacked_limit(&mut self, bytes: usize) {
        self.unacked = bytes;
    }

    /// Sets the spool's bound, in bytes; 0 for none.
    pub fn set_spool_limit(&mut self, bytes: u64) {
        self.spool_limit = bytes;
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

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
