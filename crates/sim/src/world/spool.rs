//! The agent's spool, by the rules of its own: it may be full, it may fail to read, and it is of no use to another process.

use super::World;
use bytes::Bytes;
use lifeboat_replicate::encode::Encoded;
use lifeboat_replicate::sender::{FrameBytes, Slot};
use std::collections::BTreeMap;

/// Why a frame does not come back.
pub enum Lost {
    /// The disk could not read it.
    Unreadable,
    /// Nobody keeps it any more.
    Released,
}

/// Frames on a disk that can fail.
#[derive(Default)]
pub struct Spool {
    frames: BTreeMap<u64, Bytes>,
    next: u64,
    bytes: u64,
    /// Nothing can be written.
    pub full: bool,
    /// The next read fails.
    pub broken: bool,
}

impl Spool {
    fn write(&mut self, frame: &Bytes) -> Option<Slot> {
        if self.full {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.bytes += frame.len() as u64;
        self.frames.insert(id, frame.clone());
        Some(Slot { id, len: frame.len() })
    }

    fn read(&mut self, slot: Slot) -> Result<Bytes, Lost> {
        if std::mem::take(&mut self.broken) {
            return Err(Lost::Unreadable);
        }
        self.frames.get(&slot.id).cloned().ok_or(Lost::Released)
    }

    fn release(&mut self, below: u64) {
        while let Some(first) = self.frames.first_entry().filter(|f| *f.key() < below) {
            self.bytes -= first.remove().len() as u64;
        }
        self.next = self.next.max(below);
    }
}

impl World {
    /// A frame is ready; it goes where there is room for it.
    pub(super) fn encoded(&mut self, agent: usize, done: Encoded) {
        let a = &mut self.agents[agent];
        a.encoding = false;
        let wanted = std::mem::take(&mut a.spools) && !done.offer;
        let slot = if wanted { a.spool.write(&done.frame) } else { None };
        if wanted && slot.is_none() {
            a.sender.spool_failed();
        }
        let bytes = slot.map_or(FrameBytes::Memory(done.frame), FrameBytes::Spooled);
        a.sender.encoded(done.last, done.offer, bytes);
        if wanted {
            self.spooled += u64::from(slot.is_some());
            self.say(|| format!("agent {agent} spools {slot:?}"));
        }
        self.wake(agent, 0);
    }

    /// What is not needed any more is dropped; what is left is bounded.
    pub(super) fn tidy_spool(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        a.spool.release(a.sender.spool_released());
        let (bytes, limit) = (a.spool.bytes, self.plan.servers[a.server].spool_limit);
        if bytes > limit + super::agent::SLACK as u64 {
            self.violate(format!("I5: the spool of agent {agent} holds {bytes} bytes, its bound is {limit}"));
        }
    }

    /// A frame comes back from the spool. `None`: the session is over.
    pub(super) fn unspool(&mut self, agent: usize, conn: u64, slot: Slot) -> Option<Bytes> {
        match self.agents[agent].spool.read(slot) {
            Ok(frame) => Some(frame),
            Err(Lost::Unreadable) => {
                self.say(|| format!("agent {agent} cannot read its spool"));
                self.agents[agent].sender.spool_lost();
                self.close(conn, super::link::DOWN);
                None
            }
            Err(Lost::Released) => {
                self.violate(format!("I2: agent {agent} released a frame it still needs: {slot:?}"));
                None
            }
        }
    }
}
