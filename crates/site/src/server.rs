//! One protected server at the receiving site: its journal, the thread that owns it, and what is
//! measured of it.
//!
//! Invariants: only the worker thread writes the journal, and it never waits for a peer. An
//! acknowledgement is sent only after `commit` returned (I2). A frame counts only while its session is the
//! current one (I4). A session begins only when all that was taken before is on stable storage, so no number is
//! ever given to two records. An offer is answered by what the journal holds at its place in the stream.

use crate::lag::Coverage;
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
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// Jobs waiting for the worker; their bytes are bounded besides, by `SITE_QUEUE`.
const JOBS: usize = 1024;
/// Payload bytes taken into one commit.
const COMMIT: usize = 4 << 20;

const FULL: &str = "the site's disk is full: make room on it; replication goes on by itself then";

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
        /// The agent process's number.
        instance: u64,
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
    /// The stream session now open.
    pub session: Option<u64>,
    pub coverage: Coverage,
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
        let (journal, opened) =
            Journal::open(o.dir, &o.key, config, Arc::clone(&o.clock), Arc::clone(&o.entropy))?;
        Self::start(o, journal, opened)
    }

    fn start(
        o: &OpenServer<'_>,
        mut journal: Journal,
        opened: OpenReport,
    ) -> Result<Arc<Self>, JournalError> {
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
        if let Some(newest) = cell.reader.usage().newest {
            let age = o.clock.wall().since(newest.site_time);
            cell.measured.lock().coverage = Coverage::restored(age, o.clock.monotonic());
        }
        let worker = Worker {
            cell: Arc::clone(&cell),
            writer: WriterFile(o.dir.with_file_name("writer")),
            clock: Arc::clone(&o.clock),
            journal,
            session: None,
            view: None,
            uncommitted: 0,
            newest: None,
        };
        std::thread::Builder::new().name("journal".into()).spawn(move || worker.run(queue)).map_err(
            |source| JournalError::Io { what: "cannot start the journal's thread".into(), source },
        )?;
        Ok(cell)
    }

    /// Ends the worker after everything queued; the journal is closed then.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Stop { reply }).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// Which agent process wrote the newest record, beside the journal. It outlives this process, so that after a restart the
/// agent's unacknowledged records go on where they were, and no other's are taken for them.
struct WriterFile(PathBuf);

impl WriterFile {
    fn is(&self, instance: u64) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == format!("{instance:016x}"))
    }

    /// On stable storage when it returns.
    fn set(&self, instance: u64) -> io::Result<()> {
        let temp = self.0.with_extension("new");
        let mut file = fs::File::create(&temp)?;
        writeln!(file, "{instance:016x}")?;
        file.sync_all()?;
        fs::rename(&temp, &self.0)?;
        self.0.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    }
}

/// The content the site holds, for comparing during one sync.
struct View {
    disks: Vec<Snapshot>,
}

struct Snapshot {
    disk: DiskId,
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
    writer: WriterFile,
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
            Job::Open { session, instance, epoch, disks, out, reply } => {
                let answer = self.open(instance, epoch, &disks);
                if answer.is_ok() {
                    self.end_session(No::new(RefuseCode::Busy, "a newer session took over"));
                    self.session = Some(Current { id: session, out });
                    let mut m = self.cell.measured.lock();
                    m.session = Some(session);
                    m.coverage.begin_session();
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
                    self.end_session(No::new(RefuseCode::Shutdown, "the session is over"));
                }
            }
            Job::SetEpoch { epoch, reply } => {
                self.commit();
                self.end_session(No::new(
                    RefuseCode::StaleEpoch,
                    format!("epoch {epoch} has begun at the site"),
                ));
                let _ = reply.send(self.journal.set_epoch(epoch));
            }
            Job::Stop { reply } => return Some(reply),
        }
        None
    }

    fn is_current(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.id == session)
    }

    /// Ends the present session, if there is one, and says why.
    fn end_session(&mut self, no: No) {
        self.view = None;
        let mut m = self.cell.measured.lock();
        (m.session, m.live) = (None, false);
        drop(m);
        if let Some(s) = self.session.take() {
            s.out.end.send_replace(Some(no));
        }
    }

    /// Everything taken is on stable storage. What a full disk kept back must be stored before a session is told
    /// where to go on: another process would give the same numbers to other records.
    fn settle(&mut self) -> Result<(), No> {
        let held_back = self.journal.last_seq() > self.journal.durable_seq();
        if held_back && self.cell.measured.lock().fault.is_none() {
            self.uncommitted = self.uncommitted.max(1);
            self.commit();
        }
        if let Some(fault) = &self.cell.measured.lock().fault {
            return Err(No::new(RefuseCode::Storage, fault.clone()));
        }
        if self.journal.last_seq() > self.journal.durable_seq() {
            return Err(No::new(RefuseCode::Storage, FULL));
        }
        Ok(())
    }

    fn open(&mut self, instance: u64, epoch: Epoch, disks: &[Disk]) -> Result<(Welcome, Receiver), No> {
        self.settle()?;
        if epoch != self.journal.epoch() {
            let m = format!("the stream is of epoch {epoch}; the site is at epoch {}", self.journal.epoch());
            return Err(No::new(RefuseCode::StaleEpoch, m));
        }
        let known: Vec<u64> = self.journal.disks().iter().map(|d| d.size).collect();
        let durable = self.journal.durable_seq();
        let receiver = Receiver::new(epoch, durable, disks, &known)
            .map_err(|e| No::new(RefuseCode::Disks, e.to_string()))?;
        // A stream begins with its disks; whatever followed them may be content.
        let has_content = durable.0 > known.len() as u64;
        let same_writer = self.writer.is(instance);
        if !same_writer && let Err(e) = self.writer.set(instance) {
            tracing::error!(server = self.cell.spec.read().name, "the writer's name cannot be stored: {e}");
            return Err(No::new(
                RefuseCode::Storage,
                format!("the site cannot store: {e}; it is tried again"),
            ));
        }
        let version = lifeboat_replicate::message::VERSION;
        let (follows, branch) = (false, false);
        Ok((Welcome { version, durable: durable.0, has_content, same_writer, follows, branch }, receiver))
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
            && let Some(s) = view.disks.iter_mut().find(|s| s.disk == disk)
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
                if let Some(time) = self.newest.take() {
                    let mut m = self.cell.measured.lock();
                    m.coverage.cover(time, self.clock.monotonic());
                    m.live = true;
                }
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
        let text = match e {
            JournalError::NoSpace => FULL.into(),
            JournalError::StaleEpoch { .. } | JournalError::Gap { .. } | JournalError::Invalid { .. } => {
                e.to_string()
            }
            other => format!("{other}; restart 'lifeboat serve' once the disk is sound"),
        };
        tracing::error!(server = self.cell.spec.read().name, "{e}");
        let code = match e {
            JournalError::StaleEpoch { .. } => RefuseCode::StaleEpoch,
            JournalError::Gap { .. } | JournalError::Invalid { .. } => RefuseCode::Protocol,
            _ => RefuseCode::Storage,
        };
        // A full disk is tried again with the next session; after anything else the writer stops (I2).
        if matches!(e, JournalError::Poisoned(_) | JournalError::Io { .. }) {
            self.cell.measured.lock().fault = Some(text.clone());
        }
        self.end_session(No::new(code, text));
    }

    fn ping(&mut self, ping: &Ping) {
        self.commit();
        let now = self.clock.monotonic();
        let covers =
            ping.live && self.journal.durable_seq() >= ping.seq && self.journal.latest_point().is_some();
        let mut m = self.cell.measured.lock();
        m.coverage.heard(ping.time, now);
        m.lag_bytes = ping.lag_bytes;
        if covers {
            m.coverage.cover(ping.time, now);
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
        let full = self.session.as_ref().is_some_and(|s| {
            let sent = s.out.answers.try_send(Answer { id: offer.id, needed });
            matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
        });
        if full {
            // Never waited for: the journal has other work, the end of this session's epoch for one.
            let text = "the agent makes offers and does not take the answers";
            self.end_session(No::new(RefuseCode::Protocol, text));
        }
    }

    fn compare(&mut self, offer: &Offer) -> Result<Vec<bool>, lifeboat_journal::PointError> {
        if self.view.is_none() {
            self.commit();
            let disks = self.journal.disks();
            let snapshot = |d: &lifeboat_journal::DiskInfo| -> Result<_, lifeboat_journal::PointError> {
                Ok(Snapshot {
                    disk: d.disk,
                    device: self.cell.reader.open_live(d.disk)?,
                    written: DirtyMap::new(d.size),
                })
            };
            self.view = Some(View { disks: disks.iter().map(snapshot).collect::<Result<_, _>>()? });
        }
        let Some(s) = self.view.as_ref().and_then(|v| v.disks.iter().find(|s| s.disk == offer.disk)) else {
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

#[cfg(test)]
mod tests;
