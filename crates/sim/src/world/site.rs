//! Sites: the production server core over storage in memory, with the shell around it (listener, sessions, worker thread,
//! trimming) as events.
//!
//! The shell's rules are those of the site crate: a second process is refused while the first one's session lives, the
//! worker takes what waits and then commits, an idle session hears of the newest acknowledgement every two seconds.

mod session;

use super::chance::{Host, MS, SEC, SharedRng};
use super::fault::EIO;
use super::link::{DOWN, UP};
use super::mutant::{Lying, Mutant};
use super::{Event, World};
use bytes::Bytes;
use lifeboat_api::port::ServerSpec;
use lifeboat_base::{Epoch, Seq};
use lifeboat_block::storage::{MemoryStorage, StorageFault};
use lifeboat_journal::{JournalError, JournalKey, TrimPlan};
use lifeboat_replicate::message::Welcome;
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::wire::{Ack, Answer, FrameType, message_frame};
use lifeboat_site::server::{Job, No, OpenServer, ServerCore, ServerStorage};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Answers waiting for a slow peer, as in the listener.
const OUTGOING: usize = 64;
const KEEPALIVE: u64 = 2 * SEC;

/// A site's process with its machine.
pub struct Site {
    pub host: usize,
    pub up: bool,
    pub life: u64,
    pub frozen: u64,
    /// Something happens during the next recovery too.
    pub again: bool,
}

/// A stream session at the site.
pub struct Session {
    id: u64,
    instance: u64,
    opening: Option<oneshot::Receiver<Result<(Welcome, Receiver), No>>>,
    receiver: Option<Receiver>,
    welcomed: Seq,
    acks: watch::Receiver<Ack>,
    answers: mpsc::Receiver<Answer>,
    end: watch::Receiver<Option<No>>,
    end_in: watch::Sender<Option<No>>,
}

/// A server at its site.
pub struct Server {
    pub site: usize,
    /// The agent that ought to write now.
    pub primary: usize,
    pub spec: ServerSpec,
    pub journal: MemoryStorage,
    pub own: MemoryStorage,
    pub core: Option<ServerCore>,
    pub jobs: VecDeque<Job>,
    /// Jobs of ended sessions that are late.
    late: Vec<Job>,
    working: bool,
    /// The session that holds the server, and its agent process.
    pub listed: Option<(u64, u64)>,
    raising: Option<oneshot::Receiver<Result<(), JournalError>>>,
    /// An order to fail stands for the death of the process.
    pub kill: bool,
    /// Files with flipped bits.
    pub rotten: Vec<String>,
    pub line: super::judge::Line,
}

impl Server {
    pub fn new(site: usize, spec: ServerSpec) -> Self {
        Self {
            site,
            primary: 0,
            spec,
            journal: MemoryStorage::new(),
            own: MemoryStorage::new(),
            core: None,
            jobs: VecDeque::new(),
            late: Vec::new(),
            working: false,
            listed: None,
            raising: None,
            kill: false,
            rotten: Vec::new(),
            line: super::judge::Line::default(),
        }
    }
}

impl World {
    pub(super) fn add_site(&mut self) {
        self.hosts.push(Host::new(&mut self.rng));
        let site = self.sites.len();
        let host = self.hosts.len() - 1;
        self.sites.push(Site { host, up: false, life: 0, frozen: 0, again: false });
        self.after(0, Event::SiteUp { site, life: 0 });
    }

    /// The process dies, with `power` its machine too.
    pub(super) fn stop_site(&mut self, site: usize, power: bool) -> bool {
        if !self.sites[site].up {
            return false;
        }
        self.say(|| format!("site {site} down, power {power}"));
        let mine: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, c)| self.servers[c.server].site == site)
            .map(|(id, _)| *id)
            .collect();
        for conn in mine {
            if power && let Some(c) = self.conns.get_mut(&conn) {
                c.pipes[UP].open = false;
                c.session = None;
            } else {
                self.close(conn, UP);
            }
        }
        let worst = self.rng.percent(25);
        let entropy = SharedRng::new(self.rng.fork());
        for s in self.servers.iter_mut().filter(|s| s.site == site) {
            s.line.forget_mounts();
            if power {
                let after = |m: &MemoryStorage| match worst {
                    true => m.after_power_loss(),
                    false => m.after_torn_power_loss(&entropy),
                };
                (s.journal, s.own) = (after(&s.journal), after(&s.own));
            }
            s.journal.heal();
            (s.core, s.listed, s.raising, s.working, s.kill) = (None, None, None, false, false);
            s.jobs.clear();
            s.late.clear();
        }
        let (now, rng) = (self.now, &mut self.rng);
        let st = &mut self.sites[site];
        (st.up, st.frozen) = (false, now);
        st.life += 1;
        let (life, pause) = (st.life, rng.between(20 * MS, 8 * SEC));
        if power {
            self.hosts[st.host].boot = now;
        }
        self.after(pause, Event::SiteUp { site, life });
        true
    }

    pub(super) fn site_up(&mut self, site: usize) {
        self.sites[site].up = true;
        let life = self.sites[site].life;
        self.say(|| format!("site {site} up"));
        for server in 0..self.servers.len() {
            if self.servers[server].site != site {
                continue;
            }
            if self.sites[site].again && !self.calm {
                // A second fault while the first one's work is found.
                let nth = self.rng.between(1, 10);
                let half = self.rng.percent(50);
                let fault = StorageFault { call: None, nth, forever: true, errno: EIO, half };
                self.servers[server].journal.fail(fault);
            }
            let outcome = self.open_core(server);
            let interrupted = std::mem::take(&mut self.sites[site].again);
            if let Err(e) = outcome {
                self.say(|| format!("server {server} does not open: {e}"));
                let s = &self.servers[server];
                // A full disk may keep a journal closed; two flipped bits may be the end of a manifest.
                if !interrupted && !matches!(e, JournalError::NoSpace) && s.rotten.is_empty() {
                    self.violate(format!("I5: the journal of server {server} cannot be opened: {e}"));
                }
                let power = self.rng.percent(50);
                self.stop_site(site, power);
                return;
            }
            if interrupted {
                self.servers[server].journal.heal();
            }
            self.opened(server);
            let first = self.rng.between(SEC, 10 * SEC);
            self.after(first, Event::Trim { server, life });
        }
    }

    fn open_core(&mut self, server: usize) -> Result<(), JournalError> {
        self.set_site_clock(server);
        let entropy = Arc::new(SharedRng::new(self.rng.fork()));
        let host = &self.hosts[self.sites[self.servers[server].site].host];
        let s = &mut self.servers[server];
        let storage: Arc<dyn lifeboat_block::storage::Storage> = if self.mutant.is(Mutant::SkippedFsync) {
            Arc::new(Lying(s.journal.clone()))
        } else {
            Arc::new(s.journal.clone())
        };
        let (core, _queue) = ServerCore::open(&OpenServer {
            storage: ServerStorage { journal: storage, own: Arc::new(s.own.clone()) },
            key: JournalKey([server as u8 + 1; 32]),
            spec: &s.spec,
            config: self.plan.journal.clone(),
            clock: host.clock.clone(),
            entropy,
            beyond: self.vault.as_ref().map(super::vault::Vault::beyond),
        })?;
        s.core = Some(core);
        Ok(())
    }

    pub(super) fn set_site_clock(&self, server: usize) {
        self.hosts[self.sites[self.servers[server].site].host].set(self.now);
    }

    // ---- worker -------------------------------------------------------------------------------

    fn work_soon(&mut self, server: usize) {
        let delay = self.rng.below(2 * MS);
        let s = &mut self.servers[server];
        if s.core.is_some() && !std::mem::replace(&mut s.working, true) {
            let life = self.sites[s.site].life;
            self.after(delay, Event::Work { server, life });
        }
    }

    /// The worker's turn: some jobs, one commit, as its thread does.
    pub(super) fn work(&mut self, server: usize) {
        self.set_site_clock(server);
        let most = self.rng.between(1, 8);
        let s = &mut self.servers[server];
        s.working = false;
        let Some(core) = &mut s.core else { return };
        for _ in 0..most {
            let Some(job) = s.jobs.pop_front() else { break };
            let opens = matches!(job, Job::Open { .. });
            let before = (core.cell().reader.durable_seq(), s.journal.calls() + s.own.calls());
            core.handle(job);
            if opens {
                let now = (core.cell().reader.durable_seq(), s.journal.calls() + s.own.calls());
                s.line.hello_changed = before.0 == now.0 && before.1 != now.1;
            }
            if opens || core.is_full() {
                break;
            }
        }
        core.commit();
        let (more, kill) = (!s.jobs.is_empty(), s.kill && s.journal.failures() > 0);
        if kill {
            // Where the call failed the process has died: nothing of this was ever said.
            self.stop_site(self.servers[server].site, false);
            return;
        }
        if more {
            self.work_soon(server);
        }
        self.raised(server);
        self.outgoing(server);
        self.look(server);
        let stopped = {
            let s = &self.servers[server];
            s.core.as_ref().is_some_and(|c| c.cell().measured.lock().fault.is_some())
        };
        if stopped {
            // Somebody reads the alarm and restarts the process.
            let life = self.sites[self.servers[server].site].life;
            let pause = self.rng.between(SEC, 6 * SEC);
            self.after(pause, Event::Operator { server, life });
        }
    }

    /// What the worker has to say goes out.
    fn outgoing(&mut self, server: usize) {
        let conns: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.server == server).map(|(id, _)| *id).collect();
        for conn in conns {
            while let Some(said) = self.next_said(conn) {
                match said {
                    Said::Welcome(w, frame) => {
                        self.say(|| format!("server {server} welcomes {conn} at {}", w.durable));
                        self.servers[server].line.promise(Seq(w.durable));
                        self.send(conn, DOWN, &frame);
                    }
                    Said::Ack(ack) => {
                        self.say(|| format!("server {server} acks {} {}", ack.durable, ack.barrier));
                        self.servers[server].line.promise(ack.durable);
                        self.send(conn, DOWN, &ack.frame());
                    }
                    Said::Answer(answer) => self.send(conn, DOWN, &answer.frame()),
                    Said::No(no, opening) => {
                        if opening {
                            self.judge_refusal(server, no.code);
                        }
                        self.refuse(conn, &no);
                        break;
                    }
                }
            }
        }
    }

    fn next_said(&mut self, conn: u64) -> Option<Said> {
        let s = self.conns.get_mut(&conn)?.session.as_mut()?;
        if let Some(opening) = &mut s.opening {
            return match opening.try_recv() {
                Ok(Ok((welcome, receiver))) => {
                    s.opening = None;
                    (s.receiver, s.welcomed) = (Some(receiver), Seq(welcome.durable));
                    let frame = message_frame(FrameType::Welcome, &welcome);
                    Some(Said::Welcome(welcome, frame))
                }
                Ok(Err(no)) => Some(Said::No(no, true)),
                Err(_) => None,
            };
        }
        if let Ok(answer) = s.answers.try_recv() {
            return Some(Said::Answer(answer));
        }
        if s.acks.has_changed().unwrap_or(false) {
            return Some(Said::Ack(*s.acks.borrow_and_update()));
        }
        let end = s.end.borrow().clone();
        end.map(|no| Said::No(no, false))
    }

    // ---- epochs -------------------------------------------------------------------------------

    /// Another writer's reign is to begin.
    pub(super) fn raise(&mut self, server: usize, epoch: Epoch) {
        let (reply, done) = oneshot::channel();
        let s = &mut self.servers[server];
        s.spec.epoch = epoch;
        if s.core.is_some() {
            s.jobs.push_back(Job::SetEpoch { epoch, reply });
            s.raising = Some(done);
            self.work_soon(server);
        }
    }

    /// Control repeats what did not work.
    fn raised(&mut self, server: usize) {
        let s = &mut self.servers[server];
        let Some(done) = &mut s.raising else { return };
        match done.try_recv() {
            Ok(Ok(())) => s.raising = None,
            Ok(Err(e)) => {
                s.raising = None;
                let life = self.sites[s.site].life;
                self.say(|| format!("server {server}: no new epoch yet: {e}"));
                self.after(SEC, Event::Raise { server, life });
            }
            Err(_) => {}
        }
    }

    // ---- trimming -----------------------------------------------------------------------------

    pub(super) fn plan_trim(&mut self, server: usize) {
        self.set_site_clock(server);
        let life = self.sites[self.servers[server].site].life;
        let next = self.rng.between(2 * SEC, 12 * SEC);
        self.after(next, Event::Trim { server, life });
        if self.vault.is_some() && self.rng.percent(80) {
            return self.tier(server);
        }
        let Some(core) = &self.servers[server].core else { return };
        match core.cell().keeper.plan_trim() {
            Ok(plan) if plan.is_empty() => {}
            Ok(plan) => {
                let pause = self.rng.below(500 * MS);
                self.after(pause, Event::TrimNow { server, life, plan });
            }
            Err(e) => self.say(|| format!("server {server}: no trim: {e}")),
        }
    }

    pub(super) fn trim(&mut self, server: usize, plan: &TrimPlan) {
        self.set_site_clock(server);
        let Some(core) = &self.servers[server].core else { return };
        let keeper = core.cell().keeper.clone();
        let done = keeper.trim(plan);
        self.say(|| match &done {
            Ok(r) => format!("server {server} trims {} points", r.points_dropped),
            Err(e) => format!("server {server} trims: {e}"),
        });
        if done.is_err() && self.servers[server].kill {
            self.stop_site(self.servers[server].site, false);
            return;
        }
        self.trimmed(server);
    }
}

enum Said {
    Welcome(Welcome, Bytes),
    Ack(Ack),
    Answer(Answer),
    /// And whether it answers a hello.
    No(No, bool),
}
