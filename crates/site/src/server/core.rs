//! What decides about a server's journal, driven by hand: no thread, no queue, no clock of its own.
//!
//! Invariants: it is the journal's only writer and never waits for a peer. An acknowledgement is sent only after
//! `commit` returned (I2). A frame counts only while its session is the current one (I4). A session begins only when all
//! that was taken before is on stable storage, so no number is ever given to two records. An offer is answered by what
//! the journal holds at its place in the stream.

use super::{Job, No, OpenServer, ServerCell, SessionOut};
use crate::lag::Coverage;
use lifeboat_base::limits::{BLOCK, MAX_LINEAGE};
use lifeboat_base::{Clock, DiskId, Epoch, Seq, WallTime};
use lifeboat_block::storage::{Storage, read_whole, write_all};
use lifeboat_block::{BlockDevice, Body, Record};
use lifeboat_journal::{Journal, JournalError, PointDevice};
use lifeboat_replicate::dirty::DirtyMap;
use lifeboat_replicate::message::{Disk, RefuseCode, Welcome};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::wire::{Ack, Answer, Offer, Ping, ZERO_HASH, hash_block};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// Payload bytes taken into one commit.
const COMMIT: usize = 4 << 20;

const FULL: &str = "the site's disk is full: make room on it; replication goes on by itself then";

/// Which agent process wrote the newest record, beside the journal. It outlives this process, so that after a restart the
/// agent's unacknowledged records go on where they were, and no other's are taken for them.
struct WriterFile(Arc<dyn Storage>);

impl WriterFile {
    const NAME: &str = "writer";
    const NEW: &str = "writer.new";
    /// More than its content can be, in bytes.
    const LONGEST: u64 = 64;

    fn is(&self, instance: u64) -> bool {
        let content = self.0.open(Self::NAME).and_then(|f| read_whole(&*f, Self::LONGEST));
        content.is_ok_and(|text| text.trim_ascii() == format!("{instance:016x}").as_bytes())
    }

    /// On stable storage when it returns.
    fn set(&self, instance: u64) -> io::Result<()> {
        match self.0.remove(Self::NEW) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.0.create(Self::NEW)?;
        write_all(&*file, format!("{instance:016x}\n").as_bytes(), 0)?;
        file.sync()?;
        self.0.rename(Self::NEW, Self::NAME)?;
        self.0.sync_dir()
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

/// See the module's text.
pub struct ServerCore {
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

impl ServerCore {
    /// Opens the journal. The queue is what [`ServerCell::jobs`] leads to; whoever drives the core by hand drops it.
    ///
    /// # Errors
    /// What the journal says.
    pub fn open(o: &OpenServer<'_>) -> Result<(Self, mpsc::Receiver<Job>), JournalError> {
        let clock = Arc::clone(&o.clock);
        let (mut journal, opened) = Journal::open_on(
            Arc::clone(&o.storage.journal),
            &o.key,
            o.config.clone(),
            Arc::clone(&clock),
            Arc::clone(&o.entropy),
        )?;
        if journal.epoch() < o.spec.epoch {
            journal.set_epoch(o.spec.epoch)?;
        }
        let (cell, queue) = ServerCell::new(o.spec.clone(), &journal, opened);
        if let Some(newest) = cell.reader.usage().newest {
            let age = clock.wall().since(newest.site_time);
            cell.measured.lock().coverage = Coverage::restored(age, clock.monotonic());
        }
        let core = Self {
            cell: Arc::new(cell),
            writer: WriterFile(Arc::clone(&o.storage.own)),
            clock,
            journal,
            session: None,
            view: None,
            uncommitted: 0,
            newest: None,
        };
        Ok((core, queue))
    }

    pub fn cell(&self) -> &Arc<ServerCell> {
        &self.cell
    }

    /// Enough was taken for one commit.
    pub fn is_full(&self) -> bool {
        self.uncommitted >= COMMIT
    }

    /// Ends the journal properly.
    ///
    /// # Errors
    /// What the journal says; everything acknowledged is safe all the same.
    pub fn close(self) -> Result<(), JournalError> {
        self.journal.close()
    }

    /// Carries out one job. What it brings is acknowledged after [`commit`](Self::commit). For `Stop`: the channel to tell
    /// once the journal is [closed](Self::close).
    pub fn handle(&mut self, job: Job) -> Option<oneshot::Sender<()>> {
        match job {
            Job::Open { session, instance, lineage, epoch, disks, out, reply } => {
                let answer = self.begin(instance, &lineage, epoch, &disks);
                if answer.is_ok() {
                    self.end_session(No::new(RefuseCode::Busy, "a newer session took over"));
                    self.session = Some(Current { id: session, out });
                    let mut m = self.cell.measured.lock();
                    m.session = Some(session);
                    m.coverage.begin_session();
                }
                let _ = reply.send(answer);
            }
            Job::Records { session, records, room: _room } => {
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

    fn begin(
        &mut self,
        instance: u64,
        lineage: &[u64],
        epoch: Epoch,
        disks: &[Disk],
    ) -> Result<(Welcome, Receiver), No> {
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
        let follows = lineage.iter().take(MAX_LINEAGE).any(|earlier| self.writer.is(*earlier));
        if !same_writer && let Err(e) = self.writer.set(instance) {
            tracing::error!(server = self.cell.spec.read().name, "the writer's name cannot be stored: {e}");
            return Err(No::new(
                RefuseCode::Storage,
                format!("the site cannot store: {e}; it is tried again"),
            ));
        }
        let version = lifeboat_replicate::message::VERSION;
        let branch = false;
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

    /// Puts everything taken on stable storage and says so to the session, or ends it.
    pub fn commit(&mut self) {
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
