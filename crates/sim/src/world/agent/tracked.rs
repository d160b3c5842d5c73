//! What an agent keeps on its own disk, and the flushes that wait for the site, by the rules of the agent's stream.

use super::{Event, FLUSH_LIMIT, Flush, ROTATE_EVERY, World};
use crate::world::chance::{MS, SharedRng};
use crate::world::disk::Disk;
use crate::world::link::DOWN;
use lifeboat_agent::tracking::{Found, TrackSpec, Tracking};
use lifeboat_base::{DiskId, Seq};
use lifeboat_replicate::sender::{Passed, Phase};
use std::sync::Arc;

/// Whether a write may go to the source.
pub enum Intended {
    Yes,
    NotYet,
    /// The process has died of it.
    Died,
}

impl World {
    /// What a comparison found is to be compared also by whoever comes after a crash.
    pub(super) fn note_found(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        for (disk, offset, len) in a.sender.take_found() {
            if let Some(tracking) = &a.tracking {
                let _ = tracking.suspect(disk, offset, len);
            }
        }
        self.died(agent);
    }

    pub(super) fn open_tracking(&mut self, agent: usize) -> (Option<Arc<Tracking>>, Option<Found>) {
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

    /// Nothing is sent before tracking fits what the site said.
    pub(super) fn settle(&mut self, agent: usize) {
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
    pub(super) fn died(&mut self, agent: usize) -> bool {
        let a = &self.agents[agent];
        a.kill && a.state.failures() > 0 && self.stop_agent(agent, false)
    }

    /// The write-intent log hears of a write before the source does.
    pub(in crate::world) fn intend(&mut self, agent: usize, at: usize) -> Intended {
        let a = &mut self.agents[agent];
        let Some(tracking) = a.tracking.clone() else { return Intended::Yes };
        let o = &mut a.ops[at];
        let (offset, len) = o.change.range();
        o.intent = Some(tracking.intend(DiskId(o.disk as u16), offset, len));
        let broken = tracking.broken().is_some();
        if self.died(agent) {
            return Intended::Died;
        }
        if broken {
            self.disown(agent);
        }
        if !tracking.may_write() {
            // A log that says too little and cannot be taken back: the site has to know better first.
            let a = &self.agents[agent];
            if a.welcomed != a.name || !a.sender.has_written() {
                return Intended::NotYet;
            }
            tracking.make_void();
        }
        Intended::Yes
    }

    /// Upkeep of the write-intent log, first half: is everything at the site that was captured by the last time?
    pub(in crate::world) fn rotate(&mut self, agent: usize) {
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
    pub(in crate::world) fn rotate_now(&mut self, agent: usize, floor: Seq, written: bool) {
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
    pub(in crate::world) fn flush(&mut self, agent: usize) {
        let now = self.now;
        let a = &mut self.agents[agent];
        if a.up && a.synchronous {
            a.flushes.push(Flush { issued: now, deadline: now + FLUSH_LIMIT, ticket: None });
            self.wake(agent, 0);
        }
    }

    /// Flushes are answered when a durable point holds everything before them.
    pub(super) fn confirm(&mut self, agent: usize) {
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
}
