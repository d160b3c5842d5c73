//! Comparisons of source and copy, and changes nobody captured for them to find.
//!
//! Invariants: a comparison names nothing that nobody changed behind the capture's back; what was changed so is found, named and
//! mended by one that runs to its end.

use super::chance::{Rng, SEC};
use super::disk::Change;
use super::mutant::Mutant;
use super::{Event, World};
use lifeboat_base::DiskId;
use lifeboat_base::limits::BLOCK;
use lifeboat_block::BlockDevice;
use std::collections::BTreeSet;

const B: u64 = BLOCK as u64;
/// Changes behind the capture's back, for one agent.
const MOST_PLANTED: usize = 8;

/// Where the source was changed unseen.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    pub disk: usize,
    pub offset: u64,
    pub len: u64,
}

impl Planted {
    fn overlaps(&self, disk: usize, offset: u64, len: u64) -> bool {
        self.disk == disk && offset < self.offset + self.len && self.offset < offset + len
    }
}

/// A block of a disk.
type Place = (usize, u64);

impl World {
    /// A comparison begins, unless one is under way.
    pub(super) fn verify(&mut self, agent: usize) {
        let life = self.agents[agent].life;
        let pause = self.rng.between(SEC, 10 * SEC);
        self.after(pause, Event::Verify { agent, life });
        let report = self.agents[agent].sender.verify_report();
        self.verified += u64::from(report.as_ref().is_some_and(|r| r.over) && !self.calm);
        let ended = report.is_none_or(|r| r.over || !r.error.is_empty());
        if ended && !self.calm {
            self.start_verify(agent);
        }
    }

    fn start_verify(&mut self, agent: usize) {
        let id = self.rng.next();
        self.say(|| format!("agent {agent} compares"));
        let a = &mut self.agents[agent];
        a.sender.verify(id);
        a.named = 0;
        self.wake(agent, 0);
    }

    /// What comparisons name was changed by somebody.
    pub(super) fn judge_verify(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        let Some(report) = a.sender.verify_report() else { return };
        if report.different_bytes == a.named {
            return;
        }
        self.named += report.different_bytes - a.named;
        a.named = report.different_bytes;
        let (a, s) = (&self.agents[agent], &self.servers[self.agents[agent].server]);
        // What is damaged at the site differs too, and so does what another writer has put there.
        let explained = !s.rotten.is_empty() || self.mutant.is(Mutant::StaleEpoch) || s.primary != agent;
        let planted = |&(disk, block): &Place| a.planted.iter().any(|p| p.overlaps(disk, block * B, B));
        let unseen = places(&report).into_iter().find(|place| !planted(place));
        self.say(|| format!("agent {agent} names {:?}", report.different));
        if let Some((disk, block)) = unseen
            && !explained
        {
            self.violate(format!(
                "I1: a comparison of agent {agent} names block {block} of disk {disk}, which nobody changed"
            ));
        }
    }

    /// The source changes and no capture hears of it.
    pub(super) fn plant(&mut self, agent: usize) -> bool {
        let mut rng: Rng = self.rng.fork();
        let a = &mut self.agents[agent];
        if !a.up || !self.plan.servers[a.server].verify || a.planted.len() >= MOST_PLANTED {
            return false;
        }
        let disk = rng.below(a.disks.len() as u64) as usize;
        let sectors = a.disks[disk].now.size() / 512;
        let offset = rng.below(sectors) * 512;
        let len = (rng.between(1, 16) * 512).min(sectors * 512 - offset);
        let busy = a.ops.iter().any(|o| {
            let (at, n) = o.change.range();
            o.disk == disk && at < offset + len && offset < at + n
        });
        if busy || a.planted.iter().any(|p| p.overlaps(disk, offset, len)) {
            return false;
        }
        let mut data = vec![0; len as usize];
        data.chunks_mut(8).for_each(|c| c.copy_from_slice(&rng.next().to_le_bytes()));
        let d = &mut a.disks[disk];
        d.apply(&Change::Write(offset, data.into()));
        d.flush();
        a.planted.push(Planted { disk, offset, len });
        a.known = None;
        self.say(|| format!("agent {agent} disk {disk} changes unseen at {offset}+{len}"));
        true
    }

    /// At the end of a run that got well: what differs is found, named and mended, and it is no more than what was planted.
    pub(super) fn compare_all(&mut self, until: u64) {
        let mut running = Vec::new();
        for server in 0..self.servers.len() {
            if !self.plan.servers[server].verify {
                continue;
            }
            let agent = self.servers[server].primary;
            for _ in 0..self.rng.below(4) {
                self.plant(agent);
            }
            let Some(differs) = self.differing(server) else { continue };
            self.start_verify(agent);
            self.planted += differs.len() as u64;
            running.push((server, agent, differs));
        }
        let over = |w: &Self, agent: usize| w.agents[agent].sender.verify_report().is_some_and(|r| r.over);
        while !(running.iter().all(|r| over(self, r.1)) && self.is_well()) {
            if !self.step(until) {
                if self.violation.is_none() {
                    self.violate("I5: a comparison does not end".into());
                }
                return;
            }
        }
        for (server, agent, differs) in running {
            self.verified += 1;
            let Some(report) = self.agents[agent].sender.verify_report() else { continue };
            let named = places(&report);
            if named != differs {
                self.violate(format!(
                    "I5: source and copy of server {server} differ in {differs:?}, and named was {named:?}"
                ));
            }
        }
    }

    /// Blocks in which the newest point differs from the source. `None`: that cannot be told.
    fn differing(&self, server: usize) -> Option<BTreeSet<Place>> {
        let s = &self.servers[server];
        let reader = &s.core.as_ref()?.cell().reader;
        let newest = reader.usage().newest?;
        let mut found = BTreeSet::new();
        for (i, disk) in self.agents[s.primary].disks.iter().enumerate() {
            let device = reader.open_point(newest.id, DiskId(i as u16)).ok()?;
            let (mut here, mut there) = (vec![0; BLOCK], vec![0; BLOCK]);
            for block in 0..disk.now.size().div_ceil(B) {
                let n = B.min(disk.now.size() - block * B) as usize;
                disk.now.read(block * B, &mut here[..n]);
                device.read(block * B, &mut there[..n]).ok()?;
                if here[..n] != there[..n] {
                    found.insert((i, block));
                }
            }
        }
        Some(found)
    }
}

fn places(report: &lifeboat_replicate::message::VerifyReport) -> BTreeSet<Place> {
    let blocks = |r: &lifeboat_replicate::message::DiskRange| {
        let (disk, from, to) = (r.disk as usize, r.offset / B, (r.offset + r.len).div_ceil(B));
        (from..to).map(move |block| (disk, block))
    };
    report.different.iter().flat_map(blocks).collect()
}
