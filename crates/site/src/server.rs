//! One protected server at the receiving site: its journal, the thread that owns it, and what is
//! measured of it.
//!
//! Invariants: only the worker thread writes the journal. An acknowledgement is sent only after
//! `commit` returned (I2). A frame counts only while its session is the current one (I4). An offer
//! is answered by what the journal holds at its place in the stream.

use lifeboat_api::port::ServerSpec;
use lifeboat_api::types::WindowSpec;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Clock, DiskId, Entropy, Epoch, Seq, WallTime};
use lifeboat_block::{BlockDevice, Body, Record};
use lifeboat_journal::{
    Journal, JournalConfig, JournalError, JournalKeeper, JournalKey, JournalReader, OpenReport, PointDevice,
};
use lifeboat_replicate::dirty::DirtyMap;
use lifeboat_replicate::message::{Disk, RefuseCode, ServerReport, Welcome};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::wire::{Ack, Answer, Offer, Ping, ZERO_HASH, hash_block};
use parking_lot::{Mutex, RwLock};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// Jobs waiting for the worker; their bytes are bounded besides, by `SITE_QUEUE`.
const JOBS: usize = 1024;
/// Payload bytes taken into one commit.
const COMMIT: usize = 4 << 20;

/// A refusal to be sent to the agent.
#[derive(Debug, Clone)]
pub struct No {
    pub code: RefuseCode,
    pub message: String,
}

impl No {
    pub fn new(code: RefuseCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a session hears from the worker.
#[derive(Clone)]
pub struct SessionOut {
    pub acks: watch::Sender<Ack>,
    pub answers: mpsc::Sender<Answer>,
    /// Set when the session must end, with the reason.
    pub end: watch::Sender<Option<No>>,
}

/// Work for the worker.
pub enum Job {
    Open {
        session: u64,
        epoch: Epoch,
        disks: Vec<Disk>,
        out: SessionOut,
        reply: oneshot::Sender<Result<(Welcome, Receiver), No>>,
    },
    Records {
        session: u64,
        records: Vec<Record>,
        _room: OwnedSemaphorePermit,
    },
    Offer {
        session: u64,
        offer: Offer,
    },
    Ping {
        session: u64,
        ping: Ping,
    },
    Close {
        session: u64,
    },
    SetEpoch {
        epoch: Epoch,
        reply: oneshot::Sender<Result<(), JournalError>>,
    },
    /// Everything queued before is carried out first.
    Stop {
        reply: oneshot::Sender<()>,
    },
}

/// What is measured of a server.
#[derive(Debug, Default, Clone)]
pub struct Measured {
    pub report: Option<ServerReport>,
    /// The stream session now open, its agent process, and when it was last heard of.
    pub session: Option<u64>,
    /// Every write completed at the source before this (source's clock) is durable here.
    pub covered: Option<WallTime>,
    /// This site's clock minus the source's, in nanoseconds, when last heard.
    pub clock_offset: i64,
    pub lag_bytes: u64,
    /// Barriers are being cut.
    pub live: bool,
    /// Why nothing can be stored.
    pub fault: Option<String>,
}

/// Shared face of a server.
pub struct ServerCell {
    pub spec: RwLock<ServerSpec>,
    pub reader: JournalReader,
    pub keeper: JournalKeeper,
    pub opened: OpenReport,
    pub jobs: mpsc::Sender<Job>,
    pub measured: Mutex<Measured>,
    pub received: AtomicU64,
    pub content: AtomicU64,
}

/// What opening a server needs.
pub struct OpenServer<'a> {
    pub dir: &'a Path,
    pub key: JournalKey,
    pub spec: &'a ServerSpec,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

/// The journal's settings for a window.
pub fn journal_config(window: &WindowSpec) -> JournalConfig {
    JournalConfig {
        window: Duration::from_secs(window.seconds),
        window_bytes: window.bytes,
        ..JournalConfig::default()
    }
}

impl ServerCell {
    /// Opens the journal and starts its worker.
    ///
    /// # Errors
    /// What the journal says.
    pub fn open(o: &OpenServer<'_>) -> Result<Arc<Self>, JournalError> {
        let config = journal_config(&o.spec.window);
        let (mut journal, opened) =
            Journal::open(o.dir, &o.key, config, Arc::clone(&o.clock), Arc::clone(&o.entropy))?;
        if journal.epoch() < o.spec.epoch {
            journal.set_epoch(o.spec.epoch)?;
        }
        let (jobs, queue) = mpsc::channel(JOBS);
        let cell = Arc::new(Self {
            spec: RwLock::new(o.spec.clone()),
            reader: journal.reader(),
            keeper: journal.keeper(),
            opened,
            jobs,
            measured: Mutex::default(),
            received: AtomicU64::new(0),
            content: AtomicU64::new(0),
        });
        let newest = cell.reader.usage().newest;
        cell.measured.lock().covered = newest.map(|p| p.source_time);
        let worker = Worker {
            cell: Arc::clone(&cell),
            clock: Arc::clone(&o.clock),
            journal,
            session: None,
            view: None,
            uncommitted: 0,
            newest: None,
        };
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || worker.run(queue))
            .map_err(|source| JournalError::Io { what: "cannot start the journal's thread".into(), source })?;
        Ok(cell)
    }

    /// Ends the worker after everything queued; the journal is closed then.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Stop { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Age of what is covered, by the source's clock; `None` before the first point.
    pub fn rpo(&self, now: WallTime) -> Option<Duration> {
        let m = self.measured.lock();
        let source_now = now.0.saturating_add_signed(-m.clock_offset);
        m.covered.map(|c| WallTime(source_now).since(c))
    }
}

/// The content the site holds, for comparing during one sync.
struct View {
    disks: Vec<Snapshot>,
}

struct Snapshot {
    device: PointDevice,
    /// Blocks written since the snapshot: never said to be there.
    written: DirtyMap,
}

struct Current {
    id: u64,
    out: SessionOut,
}

struct Worker {
    cell: Arc<ServerCell>,
    clock: Arc<dyn Clock>,
    journal: Journal,
    session: Option<Current>,
    view: Option<View>,
    uncommitted: usize,
    /// Source time of the newest barrier not yet committed.
    newest: Option<WallTime>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            let mut stopped = self.handle(job);
            while stopped.is_none()
                && self.uncommitted < COMMIT
                && let Ok(job) = queue.try_recv()
            {
                stopped = self.handle(job);
            }
            self.commit();
            if let Some(reply) = stopped {
                if let Err(e) = self.journal.close() {
                    tracing::error!("closing the journal: {e}");
                }
                let _ = reply.send(());
                return;
            }
        }
    }

    fn handle(&mut self, job: Job) -> Option<oneshot::Sender<()>> {
        match job {
            Job::Open { session, epoch, disks, out, reply } => {
                self.commit();
                let answer = self.open(epoch, &disks);
                if answer.is_ok() {
                    if let Some(old) = self.session.take() {
                        old.out.end.send_replace(Some(No::new(RefuseCode::Busy, "a newer session took over")));
                    }
                    self.session = Some(Current { id: session, out });
                    self.view = None;
                    let mut m = self.cell.measured.lock();
                    (m.session, m.live) = (Some(session), false);
                }
                let _ = reply.send(answer);
            }
            Job::Records { session, records, _room } => {
                if self.is_current(session) {
                    self.append(&records);
                }
            }
            Job::Offer { session, offer } => {
                if self.is_current(session) {
                    self.answer(&offer);
                }
            }
            Job::Ping { session, ping } => {
                if self.is_current(session) {
                    self.ping(&ping);
                }
            }
            Job::Close { session } => {
                if self.is_current(session) {
                    self.session = None;
                    self.view = None;
                    let mut m = self.cell.measured.lock();
                    (m.session, m.live) = (None, false);
                }
            }
            Job::SetEpoch { epoch, reply } => {
                self.commit();
                if let Some(s) = self.session.take() {
                    let no = No::new(RefuseCode::StaleEpoch, format!("epoch {epoch} has begun at the site"));
                    s.out.end.send_replace(Some(no));
                    let mut m = self.cell.measured.lock();
                    (m.session, m.live) = (None, false);
                }
                self.view = None;
                let _ = reply.send(self.journal.set_epoch(epoch));
            }
            Job::Stop { reply } => return Some(reply),
        }
        None
    }

    fn is_current(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.id == session)
    }

    fn open(&self, epoch: Epoch, disks: &[Disk]) -> Result<(Welcome, Receiver), No> {
        if let Some(fault) = &self.cell.measured.lock().fault {
            return Err(No::new(RefuseCode::Storage, fault.clone()));
        }
        if epoch != self.journal.epoch() {
            let m = format!("the stream is of epoch {epoch}; the site is at epoch {}", self.journal.epoch());
            return Err(No::new(RefuseCode::StaleEpoch, m));
        }
        let known: Vec<u64> = self.journal.disks().iter().map(|d| d.size).collect();
        let durable = self.journal.durable_seq();
        let receiver = Receiver::new(epoch, durable, disks, &known)
            .map_err(|e| No::new(RefuseCode::Disks, e.to_string()))?;
        let has_content = self.cell.reader.usage().records > known.len() as u64;
        let version = lifeboat_replicate::message::VERSION;
        Ok((Welcome { version, durable: durable.0, has_content }, receiver))
    }

    fn append(&mut self, records: &[Record]) {
        let mut content = 0;
        for r in records {
            match &r.body {
                Body::Data { disk, offset, len, .. } => {
                    content += u64::from(*len);
                    self.wrote(*disk, *offset, u64::from(*len));
                }
                Body::Zero { disk, offset, len } => self.wrote(*disk, *offset, *len),
                Body::Barrier { .. } => {
                    self.newest = Some(r.time);
                    // A barrier says that the sync is over.
                    self.view = None;
                }
                Body::Disk { .. } => self.view = None,
            }
        }
        self.cell.content.fetch_add(content, Ordering::Relaxed);
        self.uncommitted += records.iter().map(|r| r.payload_len() + 64).sum::<usize>();
        if let Err(e) = self.journal.append(records) {
            self.fail(&e);
        }
    }

    fn wrote(&mut self, disk: DiskId, offset: u64, len: u64) {
        if let Some(view) = &mut self.view
            && let Some(s) = view.disks.get_mut(usize::from(disk.0))
        {
            s.written.mark(offset, len);
        }
    }

    fn commit(&mut self) {
        if self.uncommitted == 0 {
            return;
        }
        match self.journal.commit() {
            Ok(durable) => {
                self.uncommitted = 0;
                let newest = self.newest.take();
                let mut m = self.cell.measured.lock();
                m.fault = None;
                if let Some(time) = newest {
                    m.covered = Some(m.covered.map_or(time, |c| c.max(time)));
                    m.live = true;
                }
                drop(m);
                if let Some(s) = &self.session {
                    let barrier = durable.barrier.map_or(Seq::ZERO, |b| b.seq);
                    s.out.acks.send_replace(Ack { durable: durable.seq, barrier });
                }
            }
            Err(e) => self.fail(&e),
        }
    }

    /// The journal could not take it. The session ends; the agent keeps what was not acknowledged.
    fn fail(&mut self, e: &JournalError) {
        self.uncommitted = 0;
        self.newest = None;
        self.view = None;
        let text = match e {
            JournalError::NoSpace => {
                "the site's disk is full: make room or shorten the window; replication goes on by itself then".into()
            }
            JournalError::StaleEpoch { .. } | JournalError::Gap { .. } | JournalError::Invalid { .. } => e.to_string(),
            other => format!("{other}; restart 'lifeboat serve' once the disk is sound"),
        };
        tracing::error!(server = self.cell.spec.read().name, "{e}");
        let code = match e {
            JournalError::StaleEpoch { .. } => RefuseCode::StaleEpoch,
            JournalError::Gap { .. } | JournalError::Invalid { .. } => RefuseCode::Protocol,
            _ => RefuseCode::Storage,
        };
        let mut m = self.cell.measured.lock();
        (m.session, m.live) = (None, false);
        // A full disk is tried again with the next session; after anything else the writer stops (I2).
        let for_good = matches!(e, JournalError::Poisoned(_) | JournalError::Io { .. });
        m.fault = for_good.then(|| text.clone());
        drop(m);
        if let Some(s) = self.session.take() {
            s.out.end.send_replace(Some(No::new(code, text)));
        }
    }

    fn ping(&mut self, ping: &Ping) {
        self.commit();
        let now = self.clock.wall();
        let covers = ping.live && self.journal.durable_seq() >= ping.seq;
        let mut m = self.cell.measured.lock();
        m.clock_offset = i64::try_from(i128::from(now.0) - i128::from(ping.time.0)).unwrap_or(0);
        m.lag_bytes = ping.lag_bytes;
        if covers && m.covered.is_some() {
            m.covered = m.covered.max(Some(ping.time));
            m.live = true;
        }
    }

    /// Says which blocks of an offer are not here.
    fn answer(&mut self, offer: &Offer) {
        let needed = match self.compare(offer) {
            Ok(n) => n,
            Err(e) => {
                // Reading failed: asking for everything is always right.
                tracing::warn!("comparing with the journal: {e}");
                vec![true; offer.hashes.len()]
            }
        };
        if let Some(s) = &self.session
            && s.out.answers.blocking_send(Answer { id: offer.id, needed }).is_err()
        {
            tracing::debug!("the session ended before its answer");
        }
    }

    fn compare(&mut self, offer: &Offer) -> Result<Vec<bool>, lifeboat_journal::PointError> {
        if self.view.is_none() {
            self.commit();
            let disks = self.journal.disks();
            let snapshot = |d: &lifeboat_journal::DiskInfo| -> Result<_, lifeboat_journal::PointError> {
                Ok(Snapshot {
                    device: self.cell.reader.open_live(d.disk)?,
                    written: DirtyMap::new(d.size),
                })
            };
            self.view = Some(View { disks: disks.iter().map(snapshot).collect::<Result<_, _>>()? });
        }
        let Some(s) = self.view.as_ref().and_then(|v| v.disks.get(usize::from(offer.disk.0))) else {
            return Ok(vec![true; offer.hashes.len()]);
        };
        let size = s.device.size();
        let mut buf = vec![0; BLOCK];
        let mut needed = Vec::with_capacity(offer.hashes.len());
        for (i, hash) in offer.hashes.iter().enumerate() {
            let at = offer.offset + (i * BLOCK) as u64;
            let len = (BLOCK as u64).min(size.saturating_sub(at));
            if len == 0 || s.written.covers(at, 1) {
                needed.push(true);
                continue;
            }
            let same = if !s.device.has_data(at, len) {
                *hash == ZERO_HASH
            } else {
                let block = &mut buf[..len as usize];
                // A damaged block is one the source can mend.
                s.device.read(at, block).is_ok() && hash_block(block) == *hash
            };
            needed.push(!same);
        }
        Ok(needed)
    }
}
