//! Agents: the production sender and encoder, with the shell around them (threads, session, backoff) as events.
//!
//! The shell's rules are those of the agent crate: one encoder and one reader at a time, a ping first in each session,
//! a source that cannot be read is tried again after a second.

mod session;
mod tracked;

pub use tracked::Intended;

use super::chance::{Host, MS, SEC, SharedRng, US};
use super::disk::{Change, Disk, Image};
use super::judge::Snapshot;
use super::link::{DOWN, Link, UP};
use super::spool::Spool;
use super::verify::Planted;
use super::{Event, World};
use bytes::Bytes;
use lifeboat_agent::tracking::{Intent, Tracking};
use lifeboat_base::limits::{AGENT_SYNC_WINDOW, AGENT_UNACKED, BARRIER_EVERY, BLOCK};
use lifeboat_base::{Epoch, WallTime};
use lifeboat_block::storage::MemoryStorage;
use lifeboat_replicate::encode::{BATCH, StreamEncoder};
use lifeboat_replicate::sender::{Sender, Suspects, SyncTask, TaskKind, Ticket};
use lifeboat_replicate::wire::hash_block;
use std::sync::Arc;

/// Bytes a queue or a spool may be over its bound: one write.
pub(super) const SLACK: usize = 2 << 20;
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
    /// How often it was told to wait.
    pub waits: u32,
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
    pub encoding: bool,
    /// What the encoder has goes to the spool.
    pub spools: bool,
    pub spool: Spool,
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
    /// The name the site has welcomed.
    welcomed: u64,
    /// The name of the last hello.
    hailed: u64,
    lineage: Vec<u64>,
    /// Flushes wait for the site.
    synchronous: bool,
    flushes: Vec<Flush>,
    /// Changes of the source that no capture heard of, and bytes the present comparison has named.
    pub planted: Vec<Planted>,
    pub named: u64,
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
            spools: false,
            spool: Spool::default(),
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
            welcomed: 0,
            hailed: 0,
            lineage: Vec::new(),
            synchronous: false,
            flushes: Vec::new(),
            planted: Vec::new(),
            named: 0,
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
        let server = a.server;
        let mirror = self.plan.servers[server].mirror;
        let (tracking, found) = if mirror { (None, None) } else { self.open_tracking(agent) };
        let name = self.rng.next();
        let a = &mut self.agents[agent];
        let sizes: Vec<u64> = a.disks.iter().map(|d| d.now.size()).collect();
        a.sender = Sender::new(a.epoch, &sizes);
        let plan = &self.plan.servers[server];
        a.sender.set_queue_limit(plan.queue_limit);
        a.sender.set_unacked_limit(plan.unacked);
        a.sender.set_spool_limit(plan.spool_limit);
        // What another process spooled is of no use to this one.
        (a.spools, a.spool, a.named) = (false, Spool::default(), 0);
        let verify = plan.verify;
        (a.up, a.name, a.backoff, a.conn) = (true, name, 0, None);
        a.welcomed = 0;
        (a.encoding, a.reading, a.waking, a.pinged) = (false, false, false, None);
        let now = a.disks.iter().map(|d| d.now.clone()).collect();
        let told = std::mem::replace(&mut a.captured, now);
        for p in &a.planted {
            // Tracking knows as little of it as the stream.
            a.captured[p.disk].copy(&told[p.disk], p.offset, p.len);
        }
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
        if verify {
            self.after(first * 10, Event::Verify { agent, life });
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
        self.judge_verify(agent);
        let life = self.agents[agent].life;
        self.after(BARRIER_EVERY.as_nanos() as u64, Event::Tick { agent, life });
        self.wake(agent, 0);
        self.note_found(agent);
        let a = &self.agents[agent];
        let plan = &self.plan.servers[a.server];
        // Where frames wait for the site, what a sync brought waits in the queue; its own bound comes on top.
        let synced = match plan.unacked < AGENT_UNACKED {
            true => plan.disks.iter().sum::<u64>().min(AGENT_SYNC_WINDOW as u64) as usize,
            false => 0,
        };
        let (queue, limit) = (a.sender.queue_bytes(), plan.queue_limit + synced);
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
        self.tidy_spool(agent);
        self.start_encoder(agent);
        self.start_reader(agent);
        self.pump(agent);
        self.confirm(agent);
    }

    fn start_encoder(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if a.encoding || !a.sender.wants_encoder() {
            return;
        }
        let Some(batch) = a.sender.take_batch(BATCH) else { return };
        let waiting = a.sender.queue_bytes();
        a.spools = a.sender.spools();
        let done = a.encoder.encode(&batch, waiting);
        a.encoding = true;
        let life = a.life;
        let takes = self.rng.between(10 * US, 4 * MS);
        self.after(takes, Event::Encoded { agent, life, done });
    }

    fn start_reader(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        if a.reading {
            return;
        }
        let Some(task) = a.sender.next_task().or_else(|| a.sender.next_verify()) else { return };
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
                match task.kind {
                    TaskKind::Verify => a.sender.verified(now, task.id, hashes),
                    TaskKind::Scan | TaskKind::Compare => a.sender.hashed(now, task.id, content, hashes),
                }
            }
        }
        self.wake(agent, 0);
    }

    pub(super) fn read_again(&mut self, agent: usize) {
        self.agents[agent].reading = false;
        self.wake(agent, 0);
    }
}

/// What a read of the sync brought.
pub enum Found {
    Holes(Vec<(u64, u64)>),
    Content(Bytes),
}
