//! Faults: which there are, and when one begins and ends.

use super::chance::{MS, SEC};
use super::{Event, World};
use lifeboat_block::storage::{StorageCall, StorageFault};

pub const EIO: i32 = 5;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection breaks and none can be made for a while.
    Cut,
    /// Nothing passes one way for a while; nobody is told.
    OneWay,
    /// Nothing passes either way for a while; nobody is told.
    HalfOpen,
    /// The connection breaks right behind one of the next frames.
    ResetAtFrame,
    /// Bytes arrive in slices, down to one byte.
    Slices,
    /// Frames the site has already arrive again.
    Replay,
    /// The link is slower than the writes for a while.
    Slow,
    AgentKill,
    /// The agent's process dies in its next calls to its own disk.
    AgentKillAtCall,
    /// One of the agent's calls to its own disk fails.
    AgentCallError,
    /// All of them fail for a while.
    AgentDiskError,
    SourcePowerLoss,
    AgentFreeze,
    /// The source cannot read or write a range for a while.
    BadSectors,
    SiteKill,
    /// The site's process dies in its next calls to the disk.
    SiteKillAtCall,
    SitePowerLoss,
    /// The power goes, and something else happens while the site recovers.
    SitePowerLossTwice,
    SiteFreeze,
    /// A sync fails once.
    SyncError,
    /// Any call fails once.
    CallError,
    DiskFull,
    SourceClock,
    SiteClock,
    /// Another writer begins to reign; the old one is frozen or lives on.
    Failover,
    /// A second agent claims the server.
    Claim,
    /// The agent's spool cannot be written for a while.
    SpoolFull,
    /// The agent's spool cannot be read once.
    SpoolError,
    /// The source changes behind the capture's back.
    Unseen,
    /// A stored bit flips.
    Rot,
}

impl Fault {
    pub const ALL: [Self; 30] = [
        Self::Cut,
        Self::OneWay,
        Self::HalfOpen,
        Self::ResetAtFrame,
        Self::Slices,
        Self::Replay,
        Self::Slow,
        Self::AgentKill,
        Self::AgentKillAtCall,
        Self::AgentCallError,
        Self::AgentDiskError,
        Self::SourcePowerLoss,
        Self::AgentFreeze,
        Self::BadSectors,
        Self::SiteKill,
        Self::SiteKillAtCall,
        Self::SitePowerLoss,
        Self::SitePowerLossTwice,
        Self::SiteFreeze,
        Self::SyncError,
        Self::CallError,
        Self::DiskFull,
        Self::SourceClock,
        Self::SiteClock,
        Self::Failover,
        Self::Claim,
        Self::SpoolFull,
        Self::SpoolError,
        Self::Unseen,
        Self::Rot,
    ];
}

/// What ends later.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    LinkUp { agent: usize },
    LinkFast { agent: usize },
    SectorsGood { agent: usize },
    Room { server: usize },
    SpoolRoom { agent: usize },
    AgentDiskGood { agent: usize },
    ClaimOver { agent: usize },
}

impl World {
    /// The next fault happens, and one more is planned.
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let gap = self.plan.fault_gap;
        let next = self.rng.between(gap / 4, gap * 2);
        self.after(next, Event::Fault);
        let Some(&fault) = self.rng.pick(&self.plan.faults) else { return };
        let server = self.rng.below(self.servers.len() as u64) as usize;
        let agent = self.servers[server].primary;
        self.say(|| format!("fault {fault:?} server {server}"));
        if self.inject(fault, server, agent) {
            *self.injected.entry(fault).or_default() += 1;
        }
    }

    fn inject(&mut self, fault: Fault, server: usize, agent: usize) -> bool {
        let site = self.servers[server].site;
        let a_while = self.rng.between(50 * MS, 15 * SEC);
        match fault {
            Fault::Cut | Fault::OneWay | Fault::HalfOpen => {
                let link = &mut self.agents[agent].link;
                match fault {
                    Fault::OneWay => link.down[self.rng.below(2) as usize] = true,
                    _ => link.down = [true; 2],
                }
                if fault == Fault::Cut {
                    self.break_connections(agent);
                }
                self.after(a_while, Event::Ending(Ending::LinkUp { agent }));
            }
            Fault::ResetAtFrame => self.agents[agent].link.reset_after = Some(self.rng.below(6)),
            Fault::Slices => self.agents[agent].link.slices ^= true,
            Fault::Replay => self.agents[agent].link.replay = true,
            Fault::Slow => {
                self.agents[agent].link.bandwidth = self.rng.between(2_000, 60_000);
                self.after(a_while * 2, Event::Ending(Ending::LinkFast { agent }));
            }
            Fault::AgentKill => return self.stop_agent(agent, false),
            Fault::AgentKillAtCall | Fault::AgentCallError | Fault::AgentDiskError => {
                let a = &mut self.agents[agent];
                let kill = fault == Fault::AgentKillAtCall;
                if !a.up || self.plan.servers[a.server].mirror {
                    return false;
                }
                let nth = self.rng.between(1, 12);
                let half = self.rng.percent(50);
                let forever = fault != Fault::AgentCallError;
                a.state.fail(StorageFault { call: None, nth, forever, errno: EIO, half });
                a.kill |= kill;
                if forever && !kill {
                    self.after(a_while, Event::Ending(Ending::AgentDiskGood { agent }));
                }
            }
            Fault::SourcePowerLoss => return self.stop_agent(agent, true),
            // Never shortened: what waits goes on in its order.
            Fault::AgentFreeze => {
                let a = &mut self.agents[agent];
                a.frozen = a.frozen.max(self.now + a_while);
            }
            Fault::BadSectors => {
                let a = &mut self.agents[agent];
                let disk = self.rng.below(a.disks.len() as u64) as usize;
                let d = &mut a.disks[disk];
                let at = self.rng.below(d.now.size() / 512) * 512;
                d.bad = Some((at, self.rng.between(1, 64) * 512));
                self.after(a_while / 2, Event::Ending(Ending::SectorsGood { agent }));
            }
            Fault::SourceClock | Fault::SiteClock => {
                let host =
                    if fault == Fault::SiteClock { self.sites[site].host } else { self.agents[agent].host };
                self.jump(host);
            }
            Fault::Failover => return self.failover(server),
            Fault::Claim => return self.claim(server),
            Fault::SpoolFull | Fault::SpoolError => {
                let a = &mut self.agents[agent];
                if self.plan.servers[a.server].spool_limit == 0 {
                    return false;
                }
                if fault == Fault::SpoolError {
                    a.spool.broken = true;
                    return true;
                }
                a.spool.full = true;
                self.after(a_while * 2, Event::Ending(Ending::SpoolRoom { agent }));
            }
            Fault::Unseen => return self.plant(agent),
            Fault::Rot => return self.rot(server),
            at_site => return self.inject_at_site(at_site, server, a_while),
        }
        true
    }

    fn inject_at_site(&mut self, fault: Fault, server: usize, a_while: u64) -> bool {
        let site = self.servers[server].site;
        match fault {
            Fault::SiteFreeze => {
                let s = &mut self.sites[site];
                s.frozen = s.frozen.max(self.now + a_while);
            }
            Fault::SiteKill => return self.stop_site(site, false),
            Fault::SitePowerLoss => return self.stop_site(site, true),
            Fault::SitePowerLossTwice => {
                self.sites[site].again = true;
                return self.stop_site(site, true);
            }
            Fault::SiteKillAtCall => {
                let nth = self.rng.between(1, 12);
                let half = self.rng.percent(50);
                return self.arm(
                    server,
                    StorageFault { call: None, nth, forever: true, errno: EIO, half },
                    true,
                );
            }
            Fault::SyncError | Fault::CallError => {
                let call = (fault == Fault::SyncError).then_some(StorageCall::Sync);
                let nth = self.rng.between(1, 4);
                let half = self.rng.percent(50);
                return self.arm(server, StorageFault { call, nth, forever: false, errno: EIO, half }, false);
            }
            Fault::DiskFull => {
                let s = &mut self.servers[server];
                s.journal.set_capacity(Some(s.journal.used() + self.rng.below(20_000)));
                self.after(a_while, Event::Ending(Ending::Room { server }));
            }
            _ => return false,
        }
        true
    }

    fn arm(&mut self, server: usize, fault: StorageFault, kill: bool) -> bool {
        let s = &mut self.servers[server];
        if s.core.is_none() {
            return false;
        }
        s.journal.fail(fault);
        s.kill |= kill;
        true
    }

    /// A machine's time of day jumps.
    fn jump(&mut self, host: usize) {
        const HOUR: i64 = 3600 * SEC as i64;
        const YEARS: i64 = 10 * 365 * 24 * HOUR;
        let by = [HOUR, -HOUR, YEARS, -YEARS, -(SEC as i64), -(100 * MS as i64)];
        let h = &mut self.hosts[host];
        h.offset = if h.offset != 0 && self.rng.percent(50) { 0 } else { by[self.rng.below(6) as usize] };
        self.last_jump = self.now;
    }

    pub(super) fn ending(&mut self, ending: Ending) {
        match ending {
            Ending::LinkUp { agent } => self.link_up(agent),
            Ending::LinkFast { agent } => {
                self.agents[agent].link.bandwidth = self.plan.servers[self.agents[agent].server].bandwidth;
            }
            Ending::SectorsGood { agent } => {
                for d in &mut self.agents[agent].disks {
                    d.bad = None;
                }
            }
            Ending::AgentDiskGood { agent } if !self.agents[agent].kill => self.agents[agent].state.heal(),
            Ending::AgentDiskGood { .. } => {}
            Ending::SpoolRoom { agent } => self.agents[agent].spool.full = false,
            Ending::Room { server } => self.servers[server].journal.set_capacity(None),
            Ending::ClaimOver { agent } => self.retire(agent),
        }
    }

    /// From now on nothing goes wrong.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        for agent in 0..self.agents.len() {
            self.ending(Ending::LinkFast { agent });
            self.ending(Ending::SectorsGood { agent });
            let a = &mut self.agents[agent];
            a.state.heal();
            a.kill = false;
            (a.spool.full, a.spool.broken) = (false, false);
            (a.link.slices, a.link.replay, a.link.reset_after) = (false, false, None);
            self.link_up(agent);
            if self.servers[self.agents[agent].server].primary != agent {
                self.retire(agent);
            }
        }
        for site in &mut self.sites {
            site.again = false;
        }
        for server in 0..self.servers.len() {
            let s = &mut self.servers[server];
            s.journal.set_capacity(None);
            s.journal.heal();
            s.kill = false;
            // Whoever looks after the site restarts a writer that stopped.
            let stopped = s.core.as_ref().is_some_and(|c| c.cell().measured.lock().fault.is_some());
            if stopped {
                self.stop_site(self.servers[server].site, false);
            }
        }
    }

    /// A bit of a stored file flips.
    fn rot(&mut self, server: usize) -> bool {
        use lifeboat_block::storage::Storage as _;
        let s = &mut self.servers[server];
        let mut names = s.journal.list().unwrap_or_default();
        names.retain(|n| s.journal.bytes(n).is_some_and(|b| !b.is_empty()));
        let Some(name) = self.rng.pick(&names).cloned() else { return false };
        // One at a time in the manifest: both copies gone is the end, and says so.
        if name.starts_with("manifest") && s.rotten.iter().any(|n| n.starts_with("manifest")) {
            return false;
        }
        let (at, bit) = (self.rng.next(), self.rng.below(8));
        let mut place = 0;
        s.journal.tamper(&name, |bytes| {
            place = (at % bytes.len() as u64) as usize;
            bytes[place] ^= 1 << bit;
        });
        s.rotten.push(name.clone());
        self.say(|| format!("rot {name} byte {place}"));
        true
    }
}
