//! What decides about a server's journal, driven by hand: no thread, no queue, no clock of its own.
//!
//! Invariants: it is the journal's only writer and never waits for a peer. An acknowledgement is sent only after
//! `commit` returned (I2). A frame counts only while its session is the current one (I4). A session begins only when all
//! that was taken before is on stable storage, so no number is ever given to two records. An offer is answered by what
//! the journal holds at its place in the stream.

use super::compare::{LOOK_FOR, Source, Trunk, View, look_up};
use super::notes::{EpochEnd, Notes};
use super::{Job, No, OpenServer, ServerCell, SessionOut};
use crate::lag::Coverage;
use lifeboat_base::limits::{BLOCK, MAX_LINEAGE};
use lifeboat_base::{Clock, DiskId, Epoch, Seq, WallTime};
use lifeboat_block::{Body, Record};
use lifeboat_journal::{DiskInfo, Journal, JournalError, PointError};
use lifeboat_replicate::dirty::DirtyMap;
use lifeboat_replicate::message::{Disk, RefuseCode, Welcome};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::wire::{Ack, Answer, Offer, Ping, ZERO_HASH};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// Payload bytes taken into one commit.
const COMMIT: usize = 4 << 20;

const FULL: &str = "the site's disk is full: make room on it; replication goes on by itself then";

struct Current {
    id: u64,
    instance: u64,
    /// It is known as the writer.
    claimed: bool,
    /// It compares everything, because something is lost here.
    comparing: bool,
    out: SessionOut,
}

/// See the module's text.
pub struct ServerCore {
    cell: Arc<ServerCell>,
    notes: Notes,
    source: Source,
    clock: Arc<dyn Clock>,
    journal: Journal,
    session: Option<Current>,
    /// For the offers of the present sync.
    view: Option<View>,
    /// For exact offers.
    proof: Option<View>,
    /// What records of the present session wrote.
    sent: HashMap<DiskId, DirtyMap>,
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
        Self::open_with(o, None)
    }

    /// The same for a branch: a journal that holds only what follows its trunk, in the epoch of `o.spec`.
    ///
    /// # Errors
    /// What the journal says.
    pub fn open_branch(
        o: &OpenServer<'_>,
        trunk: Trunk,
    ) -> Result<(Self, mpsc::Receiver<Job>), JournalError> {
        Self::open_with(o, Some(trunk))
    }

    fn open_with(
        o: &OpenServer<'_>,
        trunk: Option<Trunk>,
    ) -> Result<(Self, mpsc::Receiver<Job>), JournalError> {
        let clock = Arc::clone(&o.clock);
        let (mut journal, opened) = Journal::open_on(
            Arc::clone(&o.storage.journal),
            &o.key,
            o.config.clone(),
            Arc::clone(&clock),
            Arc::clone(&o.entropy),
        )?;
        if let Some(trunk) = &trunk {
            journal.begin_after(trunk.base, &trunk.line.disks_after(trunk.base))?;
        }
        if let Some(beyond) = &o.beyond {
            journal.set_elsewhere(Arc::clone(&beyond.elsewhere));
        }
        let (cell, queue) = ServerCell::new(o.spec.clone(), &journal, opened);
        if let Some(newest) = cell.reader.usage().newest {
            // By whichever clock it is older: it may have waited long on its way here.
            let age = clock.wall().since(newest.site_time.min(newest.source_time));
            cell.measured.lock().coverage = Coverage::restored(age, clock.monotonic());
        }
        let notes = Notes(Arc::clone(&o.storage.own));
        *cell.ends.write() = notes.ends();
        *cell.writer.write() = notes.writer();
        let mut core = Self {
            source: Source {
                reader: cell.reader.clone(),
                trunk,
                finder: o.beyond.as_ref().map(|b| Arc::clone(&b.finder)),
            },
            cell: Arc::new(cell),
            notes,
            clock,
            journal,
            session: None,
            view: None,
            proof: None,
            sent: HashMap::new(),
            uncommitted: 0,
            newest: None,
        };
        if core.journal.epoch() < o.spec.epoch {
            core.raise(o.spec.epoch)?;
        }
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
                let comparing = self.cell.compare_all.load(Ordering::Acquire);
                let answer = self.begin(instance, &lineage, epoch, &disks);
                if answer.is_ok() {
                    self.end_session(No::new(RefuseCode::Busy, "a newer session took over"));
                    self.session = Some(Current { id: session, instance, claimed: false, comparing, out });
                    self.sent.clear();
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
                let raised = self.raise(epoch);
                if let Err(e @ (JournalError::Poisoned(_) | JournalError::Io { .. })) = &raised {
                    // Nothing is stored any more, and somebody has to know.
                    self.fail(e);
                }
                let _ = reply.send(raised);
            }
            Job::Stop { reply } => return Some(reply),
        }
        None
    }

    /// Begins another epoch, and notes where the one before ended: what its writer still has is a branch from there.
    fn raise(&mut self, epoch: Epoch) -> Result<(), JournalError> {
        let old = self.journal.epoch();
        if epoch > old && self.journal.last_seq() > Seq::ZERO && self.source.trunk.is_none() {
            // What waits for room belongs to the old epoch; where that ended is known once it is stored.
            if self.settle().is_err() && self.cell.measured.lock().fault.is_none() {
                return Err(JournalError::NoSpace);
            }
            let end = EpochEnd { epoch: old, last: self.journal.durable_seq(), writer: self.notes.writer() };
            let mut ends = self.cell.ends.write();
            ends.retain(|e| e.epoch < old);
            ends.push(end);
            if let Err(e) = self.notes.set_ends(&ends) {
                let server = self.cell.spec.read().name.clone();
                tracing::error!(server, "where epoch {old} ended cannot be noted: {e}");
            }
        }
        self.journal.set_epoch(epoch)
    }

    fn is_current(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.id == session)
    }

    /// Ends the present session, if there is one, and says why.
    fn end_session(&mut self, no: No) {
        (self.view, self.proof) = (None, None);
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
        if self.journal.is_pending() && self.cell.measured.lock().fault.is_none() {
            self.uncommitted = self.uncommitted.max(1);
            self.commit();
        }
        if let Some(fault) = &self.cell.measured.lock().fault {
            return Err(No::new(RefuseCode::Storage, fault.clone()));
        }
        if self.journal.is_pending() {
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
        let stored = self.journal.disks();
        let mut known = vec![0; stored.last().map_or(0, |d| usize::from(d.disk.0) + 1)];
        for d in &stored {
            // One whose announcement was lost stays 0: any size is right.
            known[usize::from(d.disk.0)] = d.size;
        }
        let durable = self.journal.durable_seq();
        let receiver = Receiver::new(epoch, durable, disks, &known)
            .map_err(|e| No::new(RefuseCode::Disks, e.to_string()))?;
        // A stream begins with its disks; whatever followed them may be content.
        let has_content = durable.0 > known.len() as u64 || self.cell.reader.has_content();
        let writer = self.notes.writer();
        let mut same_writer = writer == Some(instance);
        let mut follows = lineage.iter().take(MAX_LINEAGE).any(|earlier| writer == Some(*earlier));
        let version = lifeboat_replicate::message::VERSION;
        if !self.sound(disks.len()) || self.cell.compare_all.load(Ordering::Acquire) {
            // Something is lost here that the agent believes safe: it has to compare everything.
            (same_writer, follows) = (false, false);
        }
        let branch = self.source.trunk.is_some();
        Ok((Welcome { version, durable: durable.0, has_content, same_writer, follows, branch }, receiver))
    }

    /// Whether everything up to now can be read back, as far as is known without reading it. Of damage may also be that a
    /// disk is not known any more, so it is the agent who says how many there are.
    fn sound(&self, disks: usize) -> bool {
        let damaged = self.cell.reader.usage().damaged > 0;
        let whole = |n| self.cell.reader.open_at(DiskId(n), self.journal.durable_seq()).is_ok();
        !damaged || (0..disks as u16).all(whole)
    }

    /// Whoever sends records is their writer from the first on, and not before: an agent first makes sure that its tracking
    /// fits what the welcome said, and dies as whom it was until then.
    fn claim(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        if !session.claimed && self.notes.writer() == Some(session.instance) {
            session.claimed = true;
        }
        if session.claimed {
            return true;
        }
        let Err(e) = self.notes.set_writer(session.instance) else {
            *self.cell.writer.write() = Some(session.instance);
            session.claimed = true;
            return true;
        };
        tracing::error!(server = self.cell.spec.read().name, "the writer's name cannot be stored: {e}");
        self.end_session(No::new(
            RefuseCode::Storage,
            format!("the site cannot store: {e}; it is tried again"),
        ));
        false
    }

    fn append(&mut self, records: &[Record]) {
        if records.is_empty() || !self.claim() {
            return;
        }
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
                    if self.session.as_mut().is_some_and(|s| std::mem::take(&mut s.comparing)) {
                        self.cell.compare_all.store(false, Ordering::Release);
                    }
                }
                Body::Disk { disk, size } => {
                    (self.view, self.proof) = (None, None);
                    // Of a disk of another size nothing is known here any more.
                    if self.sent.contains_key(disk) {
                        let mut all = DirtyMap::new(*size);
                        all.mark_all();
                        self.sent.insert(*disk, all);
                    } else {
                        self.sent.insert(*disk, DirtyMap::new(*size));
                    }
                }
            }
        }
        self.cell.content.fetch_add(content, Ordering::Relaxed);
        self.uncommitted += records.iter().map(|r| r.payload_len() + 64).sum::<usize>();
        if let Err(e) = self.journal.append(records) {
            self.fail(&e);
        }
    }

    fn wrote(&mut self, disk: DiskId, offset: u64, len: u64) {
        let size = |disks: &[DiskInfo]| disks.iter().find(|d| d.disk == disk).map_or(0, |d| d.size);
        let journal = &self.journal;
        let sent = self.sent.entry(disk);
        sent.or_insert_with(|| DirtyMap::new(size(&journal.disks()))).mark(offset, len);
        self.note_written(disk, offset, len);
    }

    fn note_written(&mut self, disk: DiskId, offset: u64, len: u64) {
        for view in [&mut self.view, &mut self.proof].into_iter().flatten() {
            view.wrote(disk, offset, len);
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
        if self.proof.as_ref().is_some_and(|p| p.idle(now)) {
            self.proof = None;
        }
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
            Ok(n) => self.supply(offer, n),
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

    /// Takes what is lacking and can be found at this site, so that it need not be sent. What is called present afterwards is
    /// on stable storage.
    ///
    /// Only for blocks that no record of this session has touched: a sync's hash may be older than what was captured while the
    /// block was read, and then the agent sends only the rest of it.
    fn supply(&mut self, offer: &Offer, mut needed: Vec<bool>) -> Vec<bool> {
        let Some(finder) = self.source.finder.clone().filter(|_| !offer.exact) else { return needed };
        let disks = self.journal.disks();
        let Some(size) = disks.iter().find(|d| d.disk == offer.disk).map(|d| d.size) else { return needed };
        let mut wanted = Vec::new();
        for (i, hash) in offer.hashes.iter().enumerate() {
            let at = offer.offset + (i * BLOCK) as u64;
            let whole = at + BLOCK as u64 <= size && at.is_multiple_of(BLOCK as u64);
            let touched = self.sent.get(&offer.disk).is_some_and(|sent| sent.covers(at, 1));
            if needed[i] && whole && !touched && *hash != ZERO_HASH {
                wanted.push((i, at, *hash));
            }
        }
        if wanted.is_empty() {
            return needed;
        }
        // The journal's one thread has other work.
        let looked_in = Arc::clone(&finder);
        let look = move |(i, at, hash): (usize, u64, _)| {
            ControlFlow::Continue(looked_in.find(&hash, BLOCK).map(|content| (i, at, content)))
        };
        let contents = look_up(&*finder, LOOK_FOR, wanted, look);
        // The writer is known before anything is its.
        if contents.is_empty() || !self.claim() {
            return needed;
        }
        let mut found = Vec::new();
        for (i, at, content) in contents {
            if let Err(e) = self.journal.supply(offer.disk, at, &content) {
                self.fail(&e);
                return needed;
            }
            self.note_written(offer.disk, at, BLOCK as u64);
            self.uncommitted += BLOCK;
            found.push(i);
        }
        if !found.is_empty() {
            self.commit();
            self.cell.supplied.fetch_add((found.len() * BLOCK) as u64, Ordering::Relaxed);
            found.into_iter().for_each(|i| needed[i] = false);
        }
        needed
    }

    fn compare(&mut self, offer: &Offer) -> Result<Vec<bool>, PointError> {
        let now = self.clock.monotonic();
        if offer.exact {
            // Its place in the stream is after everything taken.
            self.commit();
            let mut proof = match self.proof.take() {
                Some(proof) => proof,
                None => View::open(&self.source, now)?,
            };
            let compared = proof.lacking_now(&self.source, offer, now);
            // A session that ended in the commit left nothing to compare for.
            self.proof = Some(proof).filter(|_| self.session.is_some());
            let (lacking, all) = compared?;
            if !all && let Some(verify) = &mut self.cell.watched.lock().verify {
                verify.unproven();
            }
            return Ok(lacking);
        }
        if self.view.is_none() {
            self.commit();
            self.view = Some(View::open(&self.source, now)?);
        }
        Ok(self
            .view
            .as_ref()
            .map_or_else(|| vec![true; offer.hashes.len()], |v| v.lacking(&self.source, offer)))
    }
}
