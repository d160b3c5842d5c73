//! One server's stream at the source: the sender's state machine, shared by the captures that feed
//! it, the encoder thread, the sync thread and the session that writes it out.
//!
//! Invariants: a capture's write waits for nothing but its mark in the write-intent log and, for moments that are bounded,
//! a group's barrier; never for the network. A flush waits for the site in synchronous mode only ([`confirm`]). The
//! lock is held for moments.

mod confirm;
mod hold;
mod verify;

use crate::spool::Spool;
use crate::tracking::Tracking;
use bytes::Bytes;
use lifeboat_base::limits::{BARRIER_EVERY, BLOCK};
use lifeboat_base::{Clock, DiskId, Epoch, WallTime};
use lifeboat_block::{BlockDevice, BlockError, ExtentKind};
use lifeboat_replicate::encode::{BATCH, StreamEncoder};
use lifeboat_replicate::sender::{
    FrameBytes, Phase, Sender, Settle, Slot, Status, Suspects, SyncTask, TaskKind, Ticket,
};
use lifeboat_replicate::wire::hash_block;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

pub use confirm::ConfirmPolicy;
use confirm::{Confirm, Lately};
use hold::Hold;
use verify::VerifyPace;

/// How long the encoder lets writes gather before it makes a small batch of them.
const GATHER: Duration = Duration::from_millis(3);
/// How long to wait before a source that could not be read is tried again.
const READ_RETRY: Duration = Duration::from_secs(1);

/// How often the write-intent log is looked through.
const ROTATE_EVERY: Duration = Duration::from_secs(5);
const KEEP_LOOK: Duration = Duration::from_millis(500);

/// Where a sync reads a server's disks; `None` while the capture is not attached.
type Source = Option<Arc<[Arc<dyn BlockDevice>]>>;

/// What the settings say of a stream.
pub struct StreamSettings {
    pub epoch: Epoch,
    pub sizes: Vec<u64>,
    /// This process, as the site knows it.
    pub instance: u64,
    /// Earlier processes whose writes `tracking` covers, this one first.
    pub lineage: Vec<u64>,
    /// Last sign of life of the one before, by the source's clock; zero where there is none.
    pub alive: WallTime,
    pub policy: ConfirmPolicy,
    /// The server has been synchronous before.
    pub armed: bool,
    pub tracking: Option<Arc<Tracking>>,
    pub spool: Option<Spool>,
    pub spool_bytes: u64,
}

impl StreamSettings {
    /// An asynchronous stream without tracking and spool.
    pub fn plain(epoch: Epoch, sizes: &[u64]) -> Self {
        Self {
            epoch,
            sizes: sizes.to_vec(),
            instance: 0,
            lineage: Vec::new(),
            alive: WallTime(0),
            policy: ConfirmPolicy::default(),
            armed: false,
            tracking: None,
            spool: None,
            spool_bytes: 0,
        }
    }
}

/// A place of the source that could not be read.
struct Trouble {
    disk: DiskId,
    offset: u64,
    text: String,
}

/// See the module's text.
pub struct Stream {
    clock: Arc<dyn Clock>,
    sender: Mutex<Sender>,
    encoder_wake: Condvar,
    sync_wake: Condvar,
    /// Told when a frame can be written.
    pub writer_wake: Notify,
    /// Told of acknowledgements and frames, for flushes that wait.
    confirm_wake: Condvar,
    confirm: Mutex<Confirm>,
    lately: Mutex<Lately>,
    /// Flushes that wait.
    waiting: AtomicUsize,
    /// Told when a group's barrier lets writes go on.
    hold_over: Condvar,
    held: AtomicBool,
    hold: Mutex<Option<Hold>>,
    /// For pauses that a stop cuts short.
    pausing: Mutex<()>,
    pause_over: Condvar,
    verify: Mutex<VerifyPace>,
    tracking: Option<Arc<Tracking>>,
    spool: Mutex<Option<Spool>>,
    /// This process's name at the site, and those before it; another name means that tracking is not to be believed.
    names: Mutex<(u64, Vec<u64>)>,
    alive: WallTime,
    /// The name the site knows this process by.
    welcomed: AtomicU64,
    disowned: AtomicBool,
    source: Mutex<Source>,
    trouble: Mutex<Option<Trouble>>,
    stop: AtomicBool,
}

impl Stream {
    pub fn new(clock: Arc<dyn Clock>, settings: StreamSettings) -> Arc<Self> {
        let mut sender = Sender::new(settings.epoch, &settings.sizes);
        if settings.spool.is_some() {
            sender.set_spool_limit(settings.spool_bytes);
        }
        Arc::new(Self {
            clock,
            sender: Mutex::new(sender),
            encoder_wake: Condvar::new(),
            sync_wake: Condvar::new(),
            writer_wake: Notify::new(),
            confirm_wake: Condvar::new(),
            confirm: Mutex::new(Confirm::new(settings.policy, settings.armed)),
            lately: Mutex::default(),
            waiting: AtomicUsize::new(0),
            hold_over: Condvar::new(),
            held: AtomicBool::new(false),
            hold: Mutex::default(),
            pausing: Mutex::default(),
            pause_over: Condvar::new(),
            verify: Mutex::default(),
            tracking: settings.tracking,
            spool: Mutex::new(settings.spool),
            names: Mutex::new((settings.instance, settings.lineage)),
            alive: settings.alive,
            welcomed: AtomicU64::new(0),
            disowned: AtomicBool::new(false),
            source: Mutex::new(None),
            trouble: Mutex::new(None),
            stop: AtomicBool::new(false),
        })
    }

    /// Starts the encoder, the sync thread and the keeper; they end after [`stop`](Self::stop).
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(self: &Arc<Self>) -> std::io::Result<Vec<JoinHandle<()>>> {
        let (a, b, c) = (Arc::clone(self), Arc::clone(self), Arc::clone(self));
        Ok(vec![
            std::thread::Builder::new().name("encoder".into()).spawn(move || a.encode_loop())?,
            std::thread::Builder::new().name("sync".into()).spawn(move || b.sync_loop())?,
            std::thread::Builder::new().name("keeper".into()).spawn(move || c.keep_loop())?,
        ])
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let sender = self.sender.lock();
        self.encoder_wake.notify_all();
        self.sync_wake.notify_all();
        self.confirm_wake.notify_all();
        self.hold_over.notify_all();
        drop(sender);
        let _pausing = self.pausing.lock();
        self.pause_over.notify_all();
        self.writer_wake.notify_one();
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The disks as the sync reads them from now on.
    pub fn attach(&self, source: Vec<Arc<dyn BlockDevice>>, suspects: Suspects) {
        *self.source.lock() = Some(source.into());
        *self.trouble.lock() = None;
        self.sender.lock().attached(suspects);
        self.sync_wake.notify_all();
    }

    /// The source is lost or about to be: it is read no more, and what was captured is the last of it. Call it as soon as
    /// that is known, before anything slow; [`detach`](Self::detach) follows.
    pub fn seal(&self) {
        let mut sender = self.sender.lock();
        sender.seal(self.clock.wall());
        self.encoder_wake.notify_one();
    }

    /// The source is gone. What is written there from now on is not seen.
    pub fn detach(&self) {
        *self.source.lock() = None;
        *self.trouble.lock() = None;
        self.sender.lock().seal(self.clock.wall());
    }

    // ---- for captures -------------------------------------------------------------------------

    /// A write that is complete at the source.
    pub fn write(&self, disk: DiskId, offset: u64, data: Bytes) {
        let mut sender = self.sender.lock();
        self.wait_for_hold(&mut sender);
        let before = sender.queue_bytes();
        sender.write(self.clock.wall(), disk, offset, data);
        self.wake_encoder(&sender, before);
    }

    /// Zeros that are in effect at the source.
    pub fn zero(&self, disk: DiskId, offset: u64, len: u64) {
        let mut sender = self.sender.lock();
        self.wait_for_hold(&mut sender);
        let before = sender.queue_bytes();
        sender.zero(self.clock.wall(), disk, offset, len);
        self.wake_encoder(&sender, before);
    }

    /// The range may hold anything.
    pub fn suspect(&self, disk: DiskId, offset: u64, len: u64) {
        let mut sender = self.sender.lock();
        self.wait_for_hold(&mut sender);
        sender.suspect(disk, offset, len);
        self.sync_wake.notify_all();
    }

    /// Wakes the encoder when the queue begins to fill and when a batch is full: not for each write.
    fn wake_encoder(&self, sender: &MutexGuard<'_, Sender>, before: usize) {
        let now = sender.queue_bytes();
        if (before == 0 && now > 0) || (before < BATCH && now >= BATCH) {
            self.encoder_wake.notify_one();
        }
    }

    // ---- for the session ----------------------------------------------------------------------

    /// Runs `f` on the sender, then wakes whoever may have work from it.
    pub fn with_sender<T>(&self, f: impl FnOnce(&mut Sender) -> T) -> T {
        let mut sender = self.sender.lock();
        let result = f(&mut sender);
        self.encoder_wake.notify_one();
        self.sync_wake.notify_one();
        self.wake_confirms(&sender);
        drop(sender);
        self.writer_wake.notify_one();
        result
    }

    /// The next frame to write, without waking anybody.
    pub fn next_frame(&self) -> Option<FrameBytes> {
        self.sender.lock().next_frame()
    }

    /// A spooled frame's bytes. Blocks on the agent's disk.
    ///
    /// # Errors
    /// When it cannot be read: the session must end, and the stream starts anew with the next.
    pub fn read_spooled(&self, slot: Slot) -> std::io::Result<Bytes> {
        let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let sealed = self.spool.lock().as_ref().ok_or_else(gone)?.find(slot)?;
        let read = sealed
            .read()
            .and_then(|(id, bytes)| self.spool.lock().as_ref().ok_or_else(gone)?.open_sealed(id, bytes));
        if let Err(e) = &read {
            tracing::error!("the spool cannot be read: {e}; everything is compared");
            self.sender.lock().spool_lost();
        }
        read
    }

    /// This process's name for the site.
    pub fn name(&self) -> u64 {
        self.names.lock().0
    }

    /// This process's name for the site, and the names of those whose unacknowledged writes tracking covers.
    pub fn names(&self) -> (u64, Vec<u64>) {
        self.names.lock().clone()
    }

    /// The last sign of life in the tracking that was taken over.
    pub fn alive(&self) -> WallTime {
        self.alive
    }

    /// Whether a source is attached.
    pub fn attached(&self) -> bool {
        self.source.lock().is_some()
    }

    /// The site has welcomed this process under a name.
    pub fn welcomed(&self, name: u64) {
        self.welcomed.store(name, Ordering::SeqCst);
    }

    /// Waits until no later process can believe a write-intent log that broke.
    pub fn await_void(&self, patience: Duration) -> bool {
        let Some(tracking) = &self.tracking else { return true };
        let begun = self.clock.monotonic();
        while !tracking.may_write() {
            let known = self.welcomed.load(Ordering::SeqCst) == self.name();
            if known && self.sender.lock().has_written() {
                tracking.make_void();
            } else if self.stopped() || self.clock.monotonic().saturating_sub(begun) >= patience {
                return false;
            } else {
                self.pause(GATHER);
            }
        }
        true
    }

    /// The write-intent log cannot be kept: from now on this process has a name that the log does not know, so that no
    /// later process believes what it says.
    pub fn disown_tracking(&self) {
        if self.disowned.swap(true, Ordering::SeqCst) {
            return;
        }
        let now = self.clock.monotonic().as_nanos() as u64;
        let mut names = self.names.lock();
        *names = (names.0.rotate_left(17) ^ now, Vec::new());
        drop(names);
        self.writer_wake.notify_one();
    }

    /// A sign of life as a frame.
    pub fn with_ping(&self) -> Bytes {
        self.sender.lock().ping(self.clock.wall()).frame()
    }

    /// Waits until everything captured so far is durable at the site, a barrier included, or `patience` is over.
    pub fn drain(&self, patience: Duration) -> bool {
        let start = self.clock.monotonic();
        let mut sender = self.sender.lock();
        sender.tick(self.clock.wall());
        loop {
            let status = sender.status();
            if status.drained {
                return true;
            }
            if !status.connected || self.clock.monotonic().saturating_sub(start) >= patience {
                return false;
            }
            self.encoder_wake.notify_one();
            self.sync_wake.wait_for(&mut sender, GATHER * 5);
        }
    }

    /// A barrier behind everything captured so far; `None` while the stream is not live.
    pub fn take_ticket(&self) -> Option<Ticket> {
        let ticket = self.sender.lock().ticket(self.clock.wall());
        self.encoder_wake.notify_one();
        ticket
    }

    /// Why the source cannot be read, as long as that is so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().as_ref().map(|t| t.text.clone())
    }

    pub fn status(&self) -> Status {
        self.sender.lock().status()
    }

    pub fn epoch(&self) -> Epoch {
        self.sender.lock().epoch()
    }

    pub fn tracking(&self) -> Option<&Arc<Tracking>> {
        self.tracking.as_ref()
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    // ---- threads ------------------------------------------------------------------------------

    fn encode_loop(&self) {
        let mut encoder = StreamEncoder::default();
        let mut last_tick = Duration::ZERO;
        let mut sender = self.sender.lock();
        while !self.stopped() {
            let now = self.clock.monotonic();
            if now.saturating_sub(last_tick) >= BARRIER_EVERY {
                last_tick = now;
                sender.tick(self.clock.wall());
            }
            if let Some(what) = sender.settle_due() {
                MutexGuard::unlocked(&mut sender, || self.settle(what));
                sender.settled(what);
            }
            if !sender.wants_encoder() {
                self.encoder_wake.wait_for(&mut sender, BARRIER_EVERY);
                continue;
            }
            // A flush that waits for the site is not made to wait for company.
            if sender.queue_bytes() < BATCH && self.waiting.load(Ordering::Relaxed) == 0 {
                self.encoder_wake.wait_for(&mut sender, GATHER);
            }
            let Some(batch) = sender.take_batch(BATCH) else { continue };
            let waiting = sender.queue_bytes();
            let spool = sender.spools();
            drop(sender);
            let done = encoder.encode(&batch, waiting);
            drop(batch);
            let spooled = if spool && !done.offer { self.spool_frame(&done.frame) } else { None };
            sender = self.sender.lock();
            if spool && !done.offer && spooled.is_none() {
                sender.spool_failed();
            }
            let bytes = spooled.map_or(FrameBytes::Memory(done.frame), FrameBytes::Spooled);
            sender.encoded(done.last, done.offer, bytes);
            let released = sender.spool_released();
            self.sync_wake.notify_one();
            self.wake_confirms(&sender);
            self.writer_wake.notify_one();
            if spool {
                // Not under the sender's lock: files may be removed.
                MutexGuard::unlocked(&mut sender, || self.release_spool(released));
            }
        }
    }

    /// Nothing is sent before tracking fits what the site said.
    fn settle(&self, what: Settle) {
        let Some(tracking) = &self.tracking else { return };
        let name = self.name();
        if tracking.settle(name, what).is_err() {
            self.disown_tracking();
        }
    }

    fn spool_frame(&self, frame: &[u8]) -> Option<Slot> {
        let mut spool = self.spool.lock();
        match spool.as_mut()?.write(frame) {
            Ok(slot) => Some(slot),
            Err(e) => {
                tracing::warn!("the spool cannot be written: {e}; the dirty map takes over");
                None
            }
        }
    }

    /// Another bound for the spool from now on; there is none where it could not be opened.
    pub fn set_spool_bytes(&self, bytes: u64) {
        let there = self.spool.lock().is_some();
        self.sender.lock().set_spool_limit(if there { bytes } else { 0 });
    }

    fn release_spool(&self, below: u64) {
        if let Some(spool) = self.spool.lock().as_mut() {
            spool.release(below);
        }
    }

    fn sync_loop(&self) {
        let mut sender = self.sender.lock();
        while !self.stopped() {
            let source = self.source.lock().clone();
            let task = match &source {
                Some(_) => sender.next_task().or_else(|| self.next_verify(&mut sender)),
                None => None,
            };
            let (Some(task), Some(source)) = (task, source) else {
                self.sync_wake.wait_for(&mut sender, BARRIER_EVERY);
                continue;
            };
            let polite = sender.status().phase == Phase::Resync && sender.queue_bytes() > 0;
            drop(sender);
            let begun = self.clock.monotonic();
            let done = self.carry_out(&task, &source);
            sender = self.sender.lock();
            match done {
                Ok(()) => self.source_read(&task),
                Err(e) => self.source_failed(&mut sender, &task, &e),
            }
            self.encoder_wake.notify_one();
            if polite {
                // The source has work of its own: half of the time is its.
                let pause = self.clock.monotonic().saturating_sub(begun);
                MutexGuard::unlocked(&mut sender, || self.pause(pause));
            }
        }
    }

    /// Lets time pass, until the stream stops.
    fn pause(&self, length: Duration) {
        let mut pausing = self.pausing.lock();
        if !self.stopped() {
            self.pause_over.wait_for(&mut pausing, length);
        }
    }

    fn source_read(&self, task: &SyncTask) {
        let there = task.offset..task.offset + task.len;
        let mut trouble = self.trouble.lock();
        if trouble.as_ref().is_some_and(|t| t.disk == task.disk && there.contains(&t.offset)) {
            *trouble = None;
        }
    }

    fn source_failed(&self, sender: &mut MutexGuard<'_, Sender>, task: &SyncTask, e: &BlockError) {
        let text = format!("{} cannot be read at byte {}: {e}", task.disk, task.offset);
        tracing::warn!("{text}");
        sender.task_failed(task.id);
        *self.trouble.lock() = Some(Trouble { disk: task.disk, offset: task.offset, text });
        // Every acknowledgement wakes this thread; the source is tried again no sooner for it.
        let failed = self.clock.monotonic();
        while !self.stopped() && self.clock.monotonic().saturating_sub(failed) < READ_RETRY {
            self.sync_wake.wait_for(sender, READ_RETRY);
        }
    }

    /// Takes back marks of the write-intent log, and sees to it that a synchronous server becomes so.
    fn keep_loop(&self) {
        let mut last = self.clock.monotonic();
        while !self.stopped() {
            let mut sender = self.sender.lock();
            self.confirm_wake.wait_for(&mut sender, KEEP_LOOK);
            let released = sender.spool_released();
            drop(sender);
            self.release_spool(released);
            self.note_found();
            self.promote();
            let now = self.clock.monotonic();
            if now.saturating_sub(last) >= ROTATE_EVERY {
                last = now;
                if let Some(tracking) = self.tracking.as_ref().filter(|_| self.attached()) {
                    // Its failure is told once, by the log itself.
                    let _ = tracking.beat(self.clock.wall(), false);
                }
                self.rotate();
            }
        }
    }

    /// What verification found is to be compared also by whoever comes after a crash.
    fn note_found(&self) {
        let found = self.sender.lock().take_found();
        for (disk, offset, len) in found {
            if let Some(Err(e)) = self.tracking.as_ref().map(|t| t.suspect(disk, offset, len)) {
                tracing::warn!("a difference found is not noted for a restart: {e}");
            }
        }
    }

    /// One round of the write-intent log's upkeep.
    fn rotate(&self) {
        let Some(tracking) = &self.tracking else { return };
        let Some(source) = self.source.lock().clone() else { return };
        if !tracking.has_intents() || tracking.broken().is_some() {
            return;
        }
        let (passed, written) = {
            let mut sender = self.sender.lock();
            let passed = sender.mark_passed();
            if passed.is_none() {
                sender.set_mark_if_none();
            }
            (passed, sender.has_written())
        };
        let Some(floor) = passed else { return };
        // What the site has must survive here too before it may be called equal.
        if let Err(e) = source.iter().try_for_each(|d| d.flush()) {
            tracing::warn!("the source cannot be flushed: {e}; its marks stay");
            return;
        }
        let suspect = |disk: DiskId, offset, len| self.sender.lock().is_suspect(disk, offset, len);
        if tracking.rotate(floor, written, suspect).is_ok() {
            self.sender.lock().set_mark();
        }
    }

    fn carry_out(&self, task: &SyncTask, source: &[Arc<dyn BlockDevice>]) -> Result<(), BlockError> {
        let device = source.get(usize::from(task.disk.0)).ok_or_else(|| {
            BlockError::Io(std::io::Error::other("the capture has fewer disks than the server"))
        })?;
        match task.kind {
            TaskKind::Scan => {
                let holes = holes(&**device, task.offset, task.len)?;
                self.sender.lock().scanned(self.clock.wall(), task.id, &holes);
            }
            TaskKind::Compare => {
                let mut content = vec![0; task.len as usize];
                device.read(task.offset, &mut content)?;
                let hashes = content.chunks(BLOCK).map(hash_block).collect();
                self.sender.lock().hashed(self.clock.wall(), task.id, content.into(), hashes);
            }
            TaskKind::Verify => self.carry_out_verify(task, &**device)?,
        }
        Ok(())
    }
}

/// The runs of the range that read as zeros without being read.
fn holes(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<Vec<(u64, u64)>, BlockError> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let before = at;
        for extent in device.status(at, end - at)? {
            if extent.kind != ExtentKind::Data {
                match found.last_mut() {
                    Some(last) if last.0 + last.1 == at => last.1 += extent.len,
                    _ => found.push((at, extent.len)),
                }
            }
            at += extent.len;
        }
        if at == before {
            // A source that does not say is read.
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
