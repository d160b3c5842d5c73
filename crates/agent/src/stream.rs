//! One server's stream at the source: the sender's state machine, shared by the captures that feed
//! it, the encoder thread, the sync thread and the session that writes it out.
//!
//! Invariant: a capture never waits for the network; the lock is held for moments only.

use bytes::Bytes;
use lifeboat_base::limits::{BARRIER_EVERY, BLOCK};
use lifeboat_base::{Clock, DiskId, Epoch};
use lifeboat_block::{BlockDevice, BlockError, ExtentKind};
use lifeboat_replicate::encode::{BATCH, StreamEncoder};
use lifeboat_replicate::sender::{FrameBytes, Sender, Status, Suspects, SyncTask, TaskKind};
use lifeboat_replicate::wire::hash_block;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// How long the encoder lets writes gather before it makes a small batch of them.
const GATHER: Duration = Duration::from_millis(3);
/// How long to wait before a source that could not be read is tried again.
const READ_RETRY: Duration = Duration::from_secs(1);

/// Where a sync reads a server's disks; `None` while the capture is not attached.
type Source = Option<Arc<[Arc<dyn BlockDevice>]>>;

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
    source: Mutex<Source>,
    trouble: Mutex<Option<Trouble>>,
    stop: AtomicBool,
}

impl Stream {
    pub fn new(clock: Arc<dyn Clock>, epoch: Epoch, sizes: &[u64]) -> Arc<Self> {
        Arc::new(Self {
            clock,
            sender: Mutex::new(Sender::new(epoch, sizes)),
            encoder_wake: Condvar::new(),
            sync_wake: Condvar::new(),
            writer_wake: Notify::new(),
            source: Mutex::new(None),
            trouble: Mutex::new(None),
            stop: AtomicBool::new(false),
        })
    }

    /// Starts the encoder and the sync thread; they end after [`stop`](Self::stop).
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(self: &Arc<Self>) -> std::io::Result<Vec<JoinHandle<()>>> {
        let (a, b) = (Arc::clone(self), Arc::clone(self));
        Ok(vec![
            std::thread::Builder::new().name("encoder".into()).spawn(move || a.encode_loop())?,
            std::thread::Builder::new().name("sync".into()).spawn(move || b.sync_loop())?,
        ])
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _sender = self.sender.lock();
        self.encoder_wake.notify_all();
        self.sync_wake.notify_all();
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
        let before = sender.queue_bytes();
        sender.write(self.clock.wall(), disk, offset, data);
        self.wake_encoder(&sender, before);
    }

    /// Zeros that are in effect at the source.
    pub fn zero(&self, disk: DiskId, offset: u64, len: u64) {
        let mut sender = self.sender.lock();
        let before = sender.queue_bytes();
        sender.zero(self.clock.wall(), disk, offset, len);
        self.wake_encoder(&sender, before);
    }

    /// The range may hold anything.
    pub fn suspect(&self, disk: DiskId, offset: u64, len: u64) {
        self.sender.lock().suspect(disk, offset, len);
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
        drop(sender);
        self.writer_wake.notify_one();
        result
    }

    /// The next frame to write, without waking anybody.
    pub fn next_frame(&self) -> Option<FrameBytes> {
        self.sender.lock().next_frame()
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
            if !sender.wants_encoder() {
                self.encoder_wake.wait_for(&mut sender, BARRIER_EVERY);
                continue;
            }
            if sender.queue_bytes() < BATCH {
                self.encoder_wake.wait_for(&mut sender, GATHER);
            }
            let Some(batch) = sender.take_batch(BATCH) else { continue };
            let waiting = sender.queue_bytes();
            drop(sender);
            let done = encoder.encode(&batch, waiting);
            drop(batch);
            sender = self.sender.lock();
            sender.encoded(done.last, done.offer, FrameBytes::Memory(done.frame));
            self.sync_wake.notify_one();
            self.writer_wake.notify_one();
        }
    }

    fn sync_loop(&self) {
        let mut sender = self.sender.lock();
        while !self.stopped() {
            let source = self.source.lock().clone();
            let task = match &source {
                Some(_) => sender.next_task(),
                None => None,
            };
            let (Some(task), Some(source)) = (task, source) else {
                self.sync_wake.wait_for(&mut sender, BARRIER_EVERY);
                continue;
            };
            drop(sender);
            let done = self.carry_out(&task, &source);
            sender = self.sender.lock();
            match done {
                Ok(()) => {
                    let there = task.offset..task.offset + task.len;
                    let mut trouble = self.trouble.lock();
                    if trouble.as_ref().is_some_and(|t| t.disk == task.disk && there.contains(&t.offset)) {
                        *trouble = None;
                    }
                }
                Err(e) => {
                    let text = format!("{} cannot be read at byte {}: {e}", task.disk, task.offset);
                    tracing::warn!("{text}");
                    sender.task_failed(task.id);
                    *self.trouble.lock() = Some(Trouble { disk: task.disk, offset: task.offset, text });
                    // Every acknowledgement wakes this thread; the source is tried again no sooner for it.
                    let failed = self.clock.monotonic();
                    while !self.stopped() && self.clock.monotonic().saturating_sub(failed) < READ_RETRY {
                        self.sync_wake.wait_for(&mut sender, READ_RETRY);
                    }
                }
            }
            self.encoder_wake.notify_one();
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
            TaskKind::Compare | TaskKind::Verify => {
                let mut content = vec![0; task.len as usize];
                device.read(task.offset, &mut content)?;
                let hashes = content.chunks(BLOCK).map(hash_block).collect();
                self.sender.lock().hashed(self.clock.wall(), task.id, content.into(), hashes);
            }
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
