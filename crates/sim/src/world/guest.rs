//! Guests: what is written to the sources, and when its user sees it complete.
//!
//! ```text
//!  guest --issue--> source disk --hand over--> stream --> complete
//! ```
//! As in the captures, a write reaches the source first, then the stream, then its user; overlapping ones wait for each other.

use super::agent::{Completion, Intended, Op};
use super::chance::{MS, US};
use super::disk::Change;
use super::mutant::Mutant;
use super::{Event, World};
use lifeboat_base::{DiskId, WallTime};

/// Operations one guest has under way at most.
const DEPTH: usize = 8;

impl World {
    /// The guest does its next operation.
    pub(super) fn guest(&mut self, agent: usize) {
        let a = &self.agents[agent];
        if a.retired || self.calm {
            return;
        }
        let plan = &self.plan.servers[a.server];
        let (gap, mirror) = (plan.gap, plan.mirror);
        let (largest, noise) = (plan.largest, plan.noise);
        let pause = self.rng.between(gap / 4, gap * 2);
        // Bursts, and silences longer than anything that waits for silence.
        let pause = if self.rng.below(400) == 0 { 3000 * MS } else { pause };
        self.after(pause, Event::Guest { agent });
        let a = &self.agents[agent];
        if a.ops.len() >= DEPTH || !(a.up || mirror) {
            return;
        }
        let disk = self.rng.below(a.disks.len() as u64) as usize;
        if self.rng.percent(8) {
            self.agents[agent].disks[disk].flush();
            return self.flush(agent);
        }
        let change = self.change(agent, disk, largest, noise);
        let (offset, len) = change.range();
        let a = &mut self.agents[agent];
        let clear = |o: &Op| {
            let (at, n) = o.change.range();
            o.disk != disk || at + n <= offset || offset + len <= at
        };
        if !a.ops.iter().all(clear) {
            return;
        }
        self.next_op += 1;
        let id = self.next_op;
        a.ops.push(Op { id, disk, change, life: a.life, failed: false, waits: 0, intent: None });
        let takes = self.rng.between(20 * US, MS);
        self.after(takes, Event::Apply { agent, op: id });
    }

    fn change(&mut self, agent: usize, disk: usize, largest: u64, noise: u64) -> Change {
        let size = self.agents[agent].disks[disk].now.size();
        let sectors = size / 512;
        // A few places are written again and again.
        let at = match self.rng.below(3) {
            0 => self.rng.below(sectors.min(64)),
            1 => self.rng.below(sectors) / 128 * 128,
            _ => self.rng.below(sectors),
        };
        let most = (largest / 512).min(sectors - at);
        let len =
            if self.rng.percent(60) { self.rng.between(1, most.min(8)) } else { self.rng.between(1, most) };
        let (offset, len) = (at * 512, len * 512);
        if self.rng.percent(12) {
            // Discards are larger than writes.
            let len = if self.rng.percent(20) { size - offset } else { len };
            return Change::Zero(offset, len);
        }
        let mut data = vec![0; len as usize];
        if self.rng.percent(noise) {
            let mut rng = self.rng.fork();
            data.chunks_mut(8).for_each(|c| c.copy_from_slice(&rng.next().to_le_bytes()[..c.len()]));
        } else if !self.rng.percent(5) {
            // Which write this was, in each sector.
            let mark = self.next_op + 1;
            data.chunks_mut(16).for_each(|c| c[..8].copy_from_slice(&mark.to_le_bytes()));
        }
        Change::Write(offset, data.into())
    }

    /// An operation reaches the source's disk.
    pub(super) fn apply(&mut self, agent: usize, op: u64) {
        let mut rng = self.rng.fork();
        let now = self.now;
        let a = &mut self.agents[agent];
        let mirror = self.plan.servers[a.server].mirror;
        let Some(at) = a.ops.iter().position(|o| o.id == op) else { return };
        if !mirror && a.ops[at].life != a.life {
            // The process that would have done it is gone.
            a.ops.remove(at);
            return;
        }
        a.ops[at].life = a.life;
        match self.intend(agent, at) {
            Intended::Yes => {}
            // The process died before the source had it.
            Intended::Died => return self.apply(agent, op),
            Intended::NotYet => {
                let o = &mut self.agents[agent].ops[at];
                o.waits += 1;
                if o.waits > 1000 {
                    // Its user sees an error.
                    self.agents[agent].ops.remove(at);
                } else {
                    self.after(10 * MS, Event::Apply { agent, op });
                }
                return;
            }
        }
        let a = &mut self.agents[agent];
        let o = &mut a.ops[at];
        let (offset, len) = o.change.range();
        let disk = &mut a.disks[o.disk];
        a.known = None;
        // QEMU does not tell the mirror of a write that failed, so that is for splitters.
        if disk.is_bad(offset, len) && !mirror {
            disk.apply_torn(&o.change, &mut rng);
            o.failed = true;
        } else {
            disk.apply(&o.change);
        }
        if a.up {
            let takes = self.rng.between(5 * US, 500 * US);
            let life = self.agents[agent].life;
            self.after(takes, Event::HandOver { agent, life, op });
        } else {
            a.ops.remove(at);
            a.done.push(Completion { captured: now, completed: now });
        }
    }

    /// The process that was to hear of an operation is gone.
    pub(super) fn orphaned(&mut self, agent: usize, op: u64) {
        let (a, now) = (&mut self.agents[agent], self.now);
        let Some(at) = a.ops.iter().position(|o| o.id == op) else { return };
        a.ops.remove(at);
        if self.plan.servers[a.server].mirror {
            a.done.push(Completion { captured: now, completed: now });
        }
    }

    /// The stream is told of an operation.
    pub(super) fn hand_over(&mut self, agent: usize, op: u64) {
        use lifeboat_base::Clock as _;
        let host = &self.hosts[self.agents[agent].host];
        host.set(self.now);
        let now = host.clock.wall();
        let a = &mut self.agents[agent];
        let Some(at) = a.ops.iter().position(|o| o.id == op) else { return };
        let o = &a.ops[at];
        let disk = DiskId(o.disk as u16);
        let (offset, len) = o.change.range();
        a.known = None;
        if o.failed {
            a.captured[o.disk].copy(&a.disks[o.disk].now, offset, len);
            a.sender.suspect(disk, offset, len);
            a.ops.remove(at);
        } else {
            a.captured[o.disk].apply(&o.change);
            let change = o.change.clone();
            self.tell(agent, now, disk, &change);
            if let Some(o) = self.agents[agent].ops.get_mut(at) {
                o.intent = None;
            }
            let takes = self.rng.between(5 * US, 200 * US);
            self.after(takes, Event::Complete { agent, op, captured: self.now });
        }
        self.wake(agent, 0);
    }

    /// The stream's capture side, as a mutant may have it.
    fn tell(&mut self, agent: usize, now: WallTime, disk: DiskId, change: &Change) {
        let sender = &mut self.agents[agent].sender;
        let mut tell = |change: &Change| match change {
            Change::Write(offset, data) => sender.write(now, disk, *offset, data.clone()),
            Change::Zero(offset, len) => sender.zero(now, disk, *offset, *len),
        };
        match self.mutant {
            Mutant::DroppedDiscard if matches!(change, Change::Zero(..)) => {}
            Mutant::OffByOneBlock if self.next_op.is_multiple_of(16) => {
                let size = self.agents[agent].disks[usize::from(disk.0)].now.size();
                let sender = &mut self.agents[agent].sender;
                if let Change::Write(offset, data) = change
                    && offset + 4096 + data.len() as u64 <= size
                {
                    sender.write(now, disk, offset + 4096, data.clone());
                } else if let Change::Write(offset, data) = change {
                    sender.write(now, disk, *offset, data.clone());
                }
            }
            Mutant::SwappedWrites => match self.held.take() {
                // The earlier one again behind a later one of the same place.
                Some((held, at, earlier)) if held == agent && at == disk && overlap(&earlier, change) => {
                    tell(change);
                    tell(&earlier);
                }
                _ => {
                    tell(change);
                    self.held = Some((agent, disk, change.clone()));
                }
            },
            _ => tell(change),
        }
    }

    pub(super) fn complete(&mut self, agent: usize, op: u64, captured: u64) {
        let now = self.now;
        let a = &mut self.agents[agent];
        let Some(at) = a.ops.iter().position(|o| o.id == op) else { return };
        a.ops.remove(at);
        a.done.push(Completion { captured, completed: now });
    }
}

fn overlap(a: &Change, b: &Change) -> bool {
    let ((a, n), (b, m)) = (a.range(), b.range());
    a < b + m && b < a + n
}
