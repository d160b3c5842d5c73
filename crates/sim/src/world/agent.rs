//! Agents: the production sender and encoder, with the shell around them (threads, session, backoff) as events.
//!
//! The shell's rules are those of the agent crate: one encoder and one reader at a time, a ping first in each session,
//! a source that cannot be read is tried again after a second.

use super::chance::{Host, MS, SEC, SharedRng, US};
use super::disk::{Change, Disk, Image};
use super::judge::Snapshot;
use super::link::{DOWN, Link, UP};
use super::{Event, World};
use bytes::Bytes;
use lifeboat_agent::tracking::{self, Intent, TrackSpec, Tracking};
use lifeboat_base::limits::{BARRIER_EVERY, BLOCK, HANDSHAKE, HEARTBEAT_EVERY};
use lifeboat_base::{DiskId, Epoch, Seq, WallTime};
use lifeboat_block::storage::MemoryStorage;
use lifeboat_replicate::encode::{BATCH, Encoded, StreamEncoder};
use lifeboat_replicate::message::{
    Disk as DiskMessage, Hello, Refuse, StreamSession, VERSION, Welcome, hello,
};
use lifeboat_replicate::sender::{
    FrameBytes, Passed, Phase, Sender, Suspects, SyncTask, TaskKind, Ticket, Welcomed,
};
use lifeboat_replicate::wire::{Ack, Answer, FrameType, decode_message, hash_block, message_frame};
use std::sync::Arc;

/// Bytes the queue may be over its bound: one write.
const SLACK: usize = 2 << 20;
const ROTATE_EVERY: u64 = 5 * SEC;
const FLUSH_LIMIT: u64 = 30 * SEC;

/// An operation of the guest that is not complete.
pub struct Op {
    pub id: u64,
    pub disk: usize,
    pub change: Change,
    /// The agent process that will do it.
    pub life: u64,
    pub failed: bool,
    /// The write-intent log knows of it until this is dropped.
    pub intent: Option<Intent>,
}

/// A flush that waits for the site.
struct Flush {
    issued: u64,
    deadline: u64,
    ticket: Option<Ticket>,
}

/// A write as the user saw it.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// When the stream had it, or the disk, when no agent was there.
    pub captured: u64,
    pub completed: u64,
}

/// An agent process with its machine, its disks and its guest.
pub struct Agent {
    pub server: usize,
    pub host: usize,
    pub epoch: Epoch,
    /// Grows with every end of the process.
    pub life: u64,
    pub up: bool,
    pub frozen: u64,
    /// It is not started again.
    pub retired: bool,
    pub sender: Sender,
    encoder: StreamEncoder,
    encoding: bool,
    reading: bool,
    waking: bool,
    pub disks: Vec<Disk>,
    /// The disks as the stream has been told.
    pub captured: Vec<Image>,
    /// Of both, when nothing has changed since.
    pub known: Option<Arc<Snapshot>>,
    pub ops: Vec<Op>,
    pub done: Vec<Completion>,
    /// Storage of the agent's own, and the log on it.
    pub state: MemoryStorage,
    tracking: Option<Arc<Tracking>>,
    /// An order to fail stands for the death of the process.
    pub kill: bool,
    /// The process's name for the site, and whose writes its tracking covers.
    name: u64,
    lineage: Vec<u64>,
    /// Flushes wait for the site.
    synchronous: bool,
    flushes: Vec<Flush>,
    pub conn: Option<u64>,
    pinged: Option<u64>,
    backoff: u64,
    pub link: Link,
}

impl World {
    /// Makes an agent for a server; its machine holds `disks`.
    pub(super) fn add_agent(&mut self, server: usize, epoch: Epoch, disks: Vec<Image>) -> usize {
        let plan = &self.plan.servers[server];
        let link = Link::new(plan.latency, plan.bandwidth);
        self.hosts.push(Host::new(&mut self.rng));
        let sizes: Vec<u64> = disks.iter().map(Image::size).collect();
        self.agents.push(Agent {
            server,
            host: self.hosts.len() - 1,
            epoch,
            life: 0,
            up: false,
            frozen: 0,
            retired: false,
            sender: Sender::new(epoch, &sizes),
            encoder: StreamEncoder::default(),
            encoding: false,
            reading: false,
            waking: false,
            captured: disks.clone(),
            disks: disks.into_iter().map(Disk::new).collect(),
            known: None,
            ops: Vec::new(),
            done: Vec::new(),
            state: MemoryStorage::new(),
            tracking: None,
            kill: false,
            name: 0,
            lineage: Vec::new(),
            synchronous: false,
            flushes: Vec::new(),
            conn: None,
            pinged: None,
            backoff: 0,
            link,
        });
        let agent = self.agents.len() - 1;
        let pause = self.rng.below(SEC);
        self.after(pause, Event::AgentUp { agent, life: 0 });
        self.after(MS, Event::Guest { agent });
        agent
    }

    pub(super) fn agent_up(&mut self, agent: usize) {
        let a = &self.agents[agent];
        if a.retired || a.up {
            return;
        }
        let (queue_limit, mirror) = {
            let plan = &self.plan.servers[a.server];
            (plan.queue_limit, plan.mirror)
        };
        let (tracking, found) = if mirror { (None, None) } else { self.open_tracking(agent) };
        let name = self.rng.next();
        let a = &mut self.agents[agent];
        let sizes: Vec<u64> = a.disks.iter().map(|d| d.now.size()).collect();
        a.sender = Sender::new(a.epoch, &sizes);
        a.sender.set_queue_limit(queue_limit);
        (a.up, a.name, a.backoff, a.conn) = (true, name, 0, None);
        (a.encoding, a.reading, a.waking, a.pinged) = (false, false, false, None);
        a.captured = a.disks.iter().map(|d| d.now.clone()).collect();
        a.known = None;
        a.tracking = tracking;
        a.synchronous = found.as_ref().is_some_and(|f| f.armed);
        a.lineage = found.as_ref().map_or_else(Vec::new, |f| f.lineage.clone());
        let suspects = found.map_or(Suspects::All, |f| f.suspects);
        let resumes = matches!(suspects, Suspects::Only { .. });
        a.sender.attached(suspects);
        let life = a.life;
        self.say(|| format!("agent {agent} up, resumes {resumes}"));
        let first = self.rng.below(200 * MS);
        self.after(first, Event::Tick { agent, life });
        self.after(MS, Event::Connect { agent, life });
        self.after(ROTATE_EVERY, Event::Rotate { agent, life });
    }

    fn open_tracking(&mut self, agent: usize) -> (Option<Arc<Tracking>>, Option<tracking::Found>) {
        let entropy = SharedRng::new(self.rng.fork());
        let a = &self.agents[agent];
        let spec = TrackSpec {
            server: self.servers[a.server].spec.id,
            epoch: a.epoch,
            sizes: a.disks.iter().map(|d| d.now.size()).collect(),
            intents: true,
        };
        match Tracking::open(&a.state, &spec, &entropy) {
            Ok((tracking, found)) => (Some(tracking), Some(found)),
            Err(_) => {
                let _ = Tracking::remove(&a.state, spec.server);
                (None, None)
            }
        }
    }

    /// The process dies, with `power` its machine too.
    pub(super) fn stop_agent(&mut self, agent: usize, power: bool) -> bool {
        if !self.agents[agent].up {
            return false;
        }
        let mine: Vec<u64> = self.conns.iter().filter(|(_, c)| c.agent == agent).map(|(id, _)| *id).collect();
        for conn in mine {
            if power {
                // Nobody is told.
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.pipes[DOWN].open = false;
                    c.pipes[UP].heard = self.now;
                }
            } else {
                self.close(conn, DOWN);
            }
        }
        let mut rng = self.rng.fork();
        let now = self.now;
        let a = &mut self.agents[agent];
        (a.up, a.conn, a.kill) = (false, None, false);
        a.life += 1;
        a.flushes.clear();
        a.ops.iter_mut().for_each(|o| o.intent = None);
        a.tracking = None;
        a.state.heal();
        if power {
            a.state = match rng.percent(25) {
                true => a.state.after_power_loss(),
                false => a.state.after_torn_power_loss(&SharedRng::new(rng.fork())),
            };
            a.ops.clear();
            a.disks.iter_mut().for_each(|d| d.power_loss(&mut rng));
            // What the user saw complete and was not flushed is gone at the source itself.
            a.done.clear();
        }
        let life = a.life;
        if power {
            self.hosts[self.agents[agent].host].boot = now;
        }
        self.say(|| format!("agent {agent} down, power {power}"));
        let pause = self.rng.between(20 * MS, 6 * SEC);
        self.after(pause, Event::AgentUp { agent, life });
        true
    }

    /// The agent and its guest are no part of the world any more.
    pub(super) fn retire(&mut self, agent: usize) {
        self.agents[agent].retired = true;
        self.stop_agent(agent, false);
    }

    /// Time as the agent's process sees it, different at every call, so that a point names the moment it was cut.
    fn stamp(&mut self, agent: usize) -> WallTime {
        use lifeboat_base::Clock as _;
        const UNIQUE: u64 = (1 << 20) - 1;
        self.ticks += 1;
        let host = &self.hosts[self.agents[agent].host];
        host.set(self.now);
        WallTime(host.clock.wall().0 & !UNIQUE | self.ticks & UNIQUE)
    }

    pub(super) fn tick(&mut self, agent: usize) {
        let stamp = self.stamp(agent);
        self.remember(agent, stamp);
        self.agents[agent].sender.tick(stamp);
        let life = self.agents[agent].life;
        self.after(BARRIER_EVERY.as_nanos() as u64, Event::Tick { agent, life });
        self.wake(agent, 0);
        let (queue, limit) = {
            let a = &self.agents[agent];
            (a.sender.queue_bytes(), self.plan.servers[a.server].queue_limit)
        };
        if queue > limit + SLACK {
            self.violate(format!("I5: the queue of agent {agent} holds {queue} bytes, its bound is {limit}"));
        }
    }

    /// Has the agent's threads look for work.
    pub(super) fn wake(&mut self, agent: usize, delay: u64) {
        let a = &mut self.agents[agent];
        if a.up && !std::mem::replace(&mut a.waking, true) {
            let life = a.life;
            self.after(delay, Event::Wake { agent, life });
        }
    }

    pub(super) fn awake(&mut self, agent: usize) {
        self.agents[agent].waking = false;
        self.settle(agent);
        if self.died(agent) {
            return;
        }
        self.start_encoder(agent);
        self.start_reader(agent);
        self.pump(agent);
        self.confirm(agent);
    }

    /// Nothing is sent before tracking fits what the site said.
    fn settle(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        let Some(what) = a.sender.settle_due() else { return };
        if a.encoding {
            // The encoder's thread does this too, one thing after the other.
            return;
        }
        let settled = a.tracking.as_ref().is_none_or(|t| t.settle(a.name, what).is_ok());
        a.sender.settled(what);
        if !settled {
            self.disown(agent);
        }
    }

    /// The log cannot be kept: the process takes a name that the log does not know.
    fn disown(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if std::mem::take(&mut a.lineage).is_empty() {
            return;
        }
        a.name = a.name.rotate_left(17) ^ self.now;
        self.say(|| format!("agent {agent} disowns its tracking"));
        if let Some(conn) = self.agents[agent].conn {
            self.close(conn, DOWN);
        }
    }

    /// Whether an order to fail has ended the process.
    fn died(&mut self, agent: usize) -> bool {
        let a = &self.agents[agent];
        a.kill && a.state.failures() > 0 && self.stop_agent(agent, false)
    }

    /// The write-intent log hears of a write before the source does. False when the process died of it.
    pub(super) fn intend(&mut self, agent: usize, at: usize) -> bool {
        let a = &mut self.agents[agent];
        let Some(tracking) = &a.tracking else { return true };
        let o = &mut a.ops[at];
        let (offset, len) = o.change.range();
        o.intent = Some(tracking.intend(DiskId(o.disk as u16), offset, len));
        let broken = tracking.broken().is_some();
        if self.died(agent) {
            return false;
        }
        if broken {
            self.disown(agent);
        }
        true
    }

    /// Upkeep of the write-intent log, first half: is everything at the site that was captured by the last time?
    pub(super) fn rotate(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        let life = a.life;
        let ready = a.tracking.as_ref().is_some_and(|t| t.broken().is_none());
        let (passed, written) = (a.sender.mark_passed(), a.sender.has_written());
        if passed.is_none() {
            a.sender.set_mark_if_none();
        }
        self.after(ROTATE_EVERY, Event::Rotate { agent, life });
        if let Some(floor) = passed
            && ready
        {
            let takes = self.rng.below(20 * MS);
            self.after(takes, Event::RotateNow { agent, life, floor, written });
        }
    }

    /// Second half: the source is flushed, then marks are taken back.
    pub(super) fn rotate_now(&mut self, agent: usize, floor: Seq, written: bool) {
        let a = &mut self.agents[agent];
        let Some(tracking) = a.tracking.clone() else { return };
        a.disks.iter_mut().for_each(Disk::flush);
        let sender = &a.sender;
        let suspect = |disk: DiskId, offset, len| sender.is_suspect(disk, offset, len);
        if tracking.rotate(floor, written, suspect).is_ok() {
            a.sender.set_mark();
        }
        self.died(agent);
    }

    // ---- synchronous mode ---------------------------------------------------------------------

    /// The guest flushes. The source has been flushed.
    pub(super) fn flush(&mut self, agent: usize) {
        let now = self.now;
        let a = &mut self.agents[agent];
        if a.up && a.synchronous {
            a.flushes.push(Flush { issued: now, deadline: now + FLUSH_LIMIT, ticket: None });
            self.wake(agent, 0);
        }
    }

    /// Flushes are answered when a durable point holds everything before them.
    fn confirm(&mut self, agent: usize) {
        self.promote(agent);
        for mut flush in std::mem::take(&mut self.agents[agent].flushes) {
            if flush.ticket.is_none() {
                let stamp = self.stamp(agent);
                self.remember(agent, stamp);
                flush.ticket = self.agents[agent].sender.ticket(stamp);
            }
            let a = &mut self.agents[agent];
            match flush.ticket.map(|t| a.sender.passed(t)) {
                Some(Passed::Yes) => {
                    let server = a.server;
                    self.judge_flush(server, agent, flush.issued);
                    continue;
                }
                Some(Passed::Lost) => flush.ticket = None,
                Some(Passed::NotYet) | None => {}
            }
            // Past its limit the flush fails, and its user knows.
            if self.now < flush.deadline {
                self.agents[agent].flushes.push(flush);
            }
        }
        if self.agents[agent].sender.wants_encoder() {
            self.start_encoder(agent);
        }
    }

    fn promote(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        let status = a.sender.status();
        let live = status.connected && status.phase == Phase::Live;
        if self.plan.servers[a.server].synchronous && !a.synchronous && live {
            a.synchronous = true;
            if let Some(tracking) = &a.tracking {
                let _ = tracking.arm(true);
            }
        }
    }

    fn start_encoder(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if a.encoding || !a.sender.wants_encoder() {
            return;
        }
        let Some(batch) = a.sender.take_batch(BATCH) else { return };
        let waiting = a.sender.queue_bytes();
        let done = a.encoder.encode(&batch, waiting);
        a.encoding = true;
        let life = a.life;
        let takes = self.rng.between(10 * US, 4 * MS);
        self.after(takes, Event::Encoded { agent, life, done });
    }

    pub(super) fn encoded(&mut self, agent: usize, done: Encoded) {
        let a = &mut self.agents[agent];
        a.encoding = false;
        a.sender.encoded(done.last, done.offer, FrameBytes::Memory(done.frame));
        self.wake(agent, 0);
    }

    fn start_reader(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if a.reading {
            return;
        }
        let Some(task) = a.sender.next_task() else { return };
        a.reading = true;
        let life = a.life;
        let takes = self.rng.between(50 * US, 5 * MS);
        self.after(takes, Event::Read { agent, life, task });
    }

    /// The source answers a read of the sync.
    pub(super) fn read(&mut self, agent: usize, task: SyncTask) {
        let a = &self.agents[agent];
        let life = a.life;
        let disk = &a.disks[usize::from(task.disk.0)];
        if task.kind != TaskKind::Scan && disk.is_bad(task.offset, task.len) {
            self.agents[agent].sender.task_failed(task.id);
            return self.after(SEC, Event::ReadAgain { agent, life });
        }
        let result = if task.kind == TaskKind::Scan {
            Found::Holes(disk.now.holes(task.offset, task.len))
        } else {
            let mut content = vec![0; task.len as usize];
            disk.now.read(task.offset, &mut content);
            Found::Content(content.into())
        };
        let takes = self.rng.between(10 * US, 3 * MS);
        self.after(takes, Event::Found { agent, life, task, result });
    }

    pub(super) fn found(&mut self, agent: usize, task: &SyncTask, result: Found) {
        let now = self.stamp(agent);
        let a = &mut self.agents[agent];
        a.reading = false;
        match result {
            Found::Holes(holes) => a.sender.scanned(now, task.id, &holes),
            Found::Content(content) => {
                let hashes = content.chunks(BLOCK).map(hash_block).collect();
                a.sender.hashed(now, task.id, content, hashes);
            }
        }
        self.wake(agent, 0);
    }

    pub(super) fn read_again(&mut self, agent: usize) {
        self.agents[agent].reading = false;
        self.wake(agent, 0);
    }

    // ---- session ------------------------------------------------------------------------------

    pub(super) fn connect(&mut self, agent: usize) {
        if self.agents[agent].conn.is_some() || self.agents[agent].retired {
            return;
        }
        let Some(conn) = self.connect_link(agent) else { return self.connect_later(agent) };
        let a = &mut self.agents[agent];
        (a.conn, a.pinged) = (Some(conn), None);
        let session = StreamSession {
            server: vec![a.server as u8; 16],
            epoch: a.epoch.0,
            disks: disk_messages(&a.disks),
            lineage: a.lineage.clone(),
        };
        let hello = Hello {
            version: VERSION,
            instance: a.name,
            agent_version: String::new(),
            session: Some(hello::Session::Stream(session)),
        };
        self.send(conn, UP, &message_frame(FrameType::Hello, &hello));
        self.after(HANDSHAKE.as_nanos() as u64, Event::Greeting { conn });
    }

    fn connect_later(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if !a.up || a.retired {
            return;
        }
        a.backoff = (a.backoff * 2).clamp(200 * MS, 10 * SEC);
        let (life, half) = (a.life, a.backoff / 2);
        let wait = half + self.rng.below(half);
        self.after(wait, Event::Connect { agent, life });
    }

    /// The time for a welcome is over.
    pub(super) fn greeting(&mut self, conn: u64) {
        if self.conns.get(&conn).is_some_and(|c| !c.streaming) {
            self.close(conn, DOWN);
        }
    }

    pub(super) fn agent_closed(&mut self, agent: usize, conn: u64) {
        let a = &mut self.agents[agent];
        if a.conn != Some(conn) {
            return;
        }
        a.conn = None;
        a.sender.disconnected();
        self.connect_later(agent);
    }

    pub(super) fn agent_frame(&mut self, conn: u64, kind: FrameType, body: Bytes) {
        let Some(agent) = self.conns.get(&conn).map(|c| c.agent) else { return };
        let now = self.stamp(agent);
        let a = &mut self.agents[agent];
        if a.conn != Some(conn) || !a.up {
            return;
        }
        let outcome = match kind {
            FrameType::Welcome => match decode_message::<Welcome>(&body) {
                Ok(w) => {
                    let durable = Seq(w.durable);
                    let Welcome { has_content, same_writer, follows, .. } = w;
                    a.sender.connected(now, &Welcomed { durable, has_content, same_writer, follows });
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.streaming = true;
                    }
                    self.say(|| format!("agent {agent} welcome {durable} same {same_writer}"));
                    Ok(())
                }
                Err(e) => Err(e.to_string()),
            },
            FrameType::Ack => match Ack::decode(body) {
                Ok(ack) => {
                    a.backoff = 0;
                    a.sender.ack(ack).map_err(|e| e.to_string())
                }
                Err(e) => Err(e.to_string()),
            },
            FrameType::Answer => match Answer::decode(body) {
                Ok(answer) => a.sender.answered(now, &answer).map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            },
            FrameType::Refuse => {
                let text = decode_message::<Refuse>(&body).map_or_else(|e| e.to_string(), |r| r.message);
                self.say(|| format!("agent {agent} refused: {text}"));
                self.close(conn, DOWN);
                Ok(())
            }
            other => Err(format!("unexpected {other:?}")),
        };
        if let Err(e) = outcome {
            // Both sides are ours and the link tells no lies: one of them is wrong.
            self.violate(format!("the site broke the protocol: {e}"));
        }
        self.wake(agent, 0);
    }

    /// Writes what there is to the connection.
    fn pump(&mut self, agent: usize) {
        while let Some(conn) = self.agents[agent].conn
            && self.conns.get(&conn).is_some_and(|c| c.streaming)
            && self.has_window(conn)
        {
            let heartbeat = HEARTBEAT_EVERY.as_nanos() as u64;
            if self.agents[agent].pinged.is_none_or(|at| self.now - at >= heartbeat) {
                let now = self.stamp(agent);
                let a = &mut self.agents[agent];
                a.pinged = Some(self.now);
                let (ping, life) = (a.sender.ping(now).frame(), a.life);
                self.send(conn, UP, &ping);
                self.after(heartbeat, Event::Ping { agent, life });
                continue;
            }
            match self.agents[agent].sender.next_frame() {
                Some(FrameBytes::Memory(frame)) => self.send(conn, UP, &frame),
                Some(FrameBytes::Spooled(_)) => {
                    return self.violate("a frame in a spool that is not there".into());
                }
                None => return,
            }
            self.replay(agent, conn);
        }
    }

    /// Sends once more what the site has already, from whichever session.
    fn replay(&mut self, agent: usize, conn: u64) {
        let a = &self.agents[agent];
        if !a.link.replay {
            return;
        }
        let at = self.rng.below(a.link.seen.len() as u64 * 2) as usize;
        let promised = self.servers[a.server].line.promised;
        if let Some((last, frame)) = a.link.seen.get(at)
            && *last <= promised
        {
            let frame = frame.clone();
            self.send(conn, UP, &frame);
        }
    }
}

/// What a read of the sync brought.
pub enum Found {
    Holes(Vec<(u64, u64)>),
    Content(Bytes),
}

fn disk_messages(disks: &[Disk]) -> Vec<DiskMessage> {
    let message = |(i, d): (usize, &Disk)| {
        let name = format!("{}", DiskId(i as u16));
        DiskMessage { index: i as u32, name, size: d.now.size() }
    };
    disks.iter().enumerate().map(message).collect()
}
