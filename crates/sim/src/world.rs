//! A world in one thread: agents, sites, links, disks and clocks, moved by one seed.
//!
//! The state machines are the product's own: `replicate::sender`, `agent::tracking`, `replicate::encode`, `replicate::receiver`, the wire's
//! frames, `site::server::ServerCore` and the journal. The world is what they stand on, and the shells around them
//! (threads, sockets, sleeps) as events. Nothing here asks a real clock, a real disk or real chance.
//!
//! Invariants of the world:
//! - one seed gives one trace;
//! - the source's disks, at every moment a barrier may be cut, are remembered; a point is judged by that, not by what any
//!   part says of itself;
//! - safety runs know no time after the faults; liveness runs stop the faults and then wait a bounded time.
//!
//! | row of the failure table | fault |
//! |---|---|
//! | 1 | `SiteKillAtCall`, `SiteKill`, `AgentKillAtCall`, `AgentKill` |
//! | 2 | `SitePowerLoss`, `SourcePowerLoss` (dropped, reordered, torn) |
//! | 3 | `SitePowerLossTwice` |
//! | 4 | torn tails, by `SitePowerLoss` and short writes of `SiteKillAtCall` |
//! | 5, 6, 7 | `Rot`: a bit in any file, in the middle or at the end |
//! | 8 | `SyncError`, `CallError`, `AgentCallError`, `AgentDiskError` |
//! | 9 | `DiskFull` |
//! | 10 | `SpoolFull`, `SpoolError` |
//! | 11 | `BadSectors` |
//! | 12 | `Cut`, `HalfOpen`, `OneWay`, `Slices`, `ResetAtFrame` |
//! | 13 | `Replay`, jobs of ended sessions that come late |
//! | 14, 15 | the guest's writes: overlapping in the queue, discards and writes of the same places |
//! | 16 | `Slow` and links that are always slower than the writes |
//! | 17 | `SourceClock`, `SiteClock`, `AgentFreeze`, `SiteFreeze`, drifting clocks |
//! | 21 | `Claim` |
//! | 22, 23, 24 | `Failover`: the old writer frozen, or alive and never told |
//! | 26 | sites restarted with an epoch that is raised meanwhile |
//! | - | `Unseen`: the source changes behind the capture's back; a comparison finds it |

mod agent;
mod chance;
mod disk;
mod fault;
mod guest;
mod judge;
mod link;
mod mutant;
mod plan;
mod run;
mod site;
mod spool;
mod vault;
mod verify;

pub use mutant::Mutant;
pub use run::{Outcome, Tally, run};

use agent::{Agent, Found};
use chance::{Host, MS, Rng, SEC};
use fault::{Ending, Fault};
use judge::Moment;
use lifeboat_base::{Epoch, Seq, WallTime};
use lifeboat_journal::TrimPlan;
use lifeboat_replicate::encode::Encoded;
use lifeboat_replicate::sender::SyncTask;
use link::{Conn, UP};
use plan::Plan;
use site::{Server, Site};
use std::collections::BTreeMap;

/// What happens next somewhere. `life` names the process it belongs to: another one does not hear of it.
enum Event {
    Guest { agent: usize },
    Apply { agent: usize, op: u64 },
    HandOver { agent: usize, life: u64, op: u64 },
    Complete { agent: usize, op: u64, captured: u64 },
    AgentUp { agent: usize, life: u64 },
    Tick { agent: usize, life: u64 },
    Ping { agent: usize, life: u64 },
    Wake { agent: usize, life: u64 },
    Encoded { agent: usize, life: u64, done: Encoded },
    Read { agent: usize, life: u64, task: SyncTask },
    Found { agent: usize, life: u64, task: SyncTask, result: Found },
    ReadAgain { agent: usize, life: u64 },
    Verify { agent: usize, life: u64 },
    Rotate { agent: usize, life: u64 },
    RotateNow { agent: usize, life: u64, floor: Seq, written: bool },
    Connect { agent: usize, life: u64 },
    Greeting { conn: u64 },
    Arrive { conn: u64, way: usize },
    Silence { conn: u64 },
    Keepalive { conn: u64 },
    SiteUp { site: usize, life: u64 },
    Work { server: usize, life: u64 },
    Operator { server: usize, life: u64 },
    Raise { server: usize, life: u64 },
    Trim { server: usize, life: u64 },
    TrimNow { server: usize, life: u64, plan: TrimPlan },
    Look { server: usize },
    Fault,
    Ending(Ending),
}

/// See the module's text.
struct World {
    plan: Plan,
    mutant: Mutant,
    rng: Rng,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    hosts: Vec<Host>,
    sites: Vec<Site>,
    servers: Vec<Server>,
    agents: Vec<Agent>,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    next_session: u64,
    next_op: u64,
    ticks: u64,
    /// When a clock last jumped.
    last_jump: u64,
    /// Servers claimed by a second agent so far.
    claims: u64,
    /// No fault happens any more.
    calm: bool,
    moments: BTreeMap<WallTime, Moment>,
    /// What journals stand on, where the plan has one.
    vault: Option<std::sync::Arc<vault::Vault>>,
    /// A write a mutant keeps back.
    held: Option<(usize, lifeboat_base::DiskId, disk::Change)>,
    injected: BTreeMap<Fault, u64>,
    handled: u64,
    offered: u64,
    compared: u64,
    /// Flushes answered in synchronous mode.
    flushes: u64,
    unreadable: u64,
    /// Frames that went through a spool.
    spooled: u64,
    /// Bytes comparisons named, and blocks that differed before the last ones of a run.
    named: u64,
    planted: u64,
    /// Comparisons that came to their end.
    verified: u64,
    violation: Option<String>,
    trace: blake3::Hasher,
    verbose: bool,
}

impl World {
    fn at(&mut self, time: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((time.max(self.now), self.next_event), event);
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// A line of the trace.
    fn say(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        self.trace.update(&self.now.to_le_bytes());
        self.trace.update(line.as_bytes());
        if self.verbose {
            println!("{:>10}.{:03} ms  {line}", self.now / MS, self.now / 1000 % 1000);
        }
    }

    /// Something is wrong; the first one counts.
    fn violate(&mut self, what: String) {
        self.say(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// Carries out the next event before `until`. False when there is none.
    fn step(&mut self, until: u64) -> bool {
        let Some(entry) = self.events.first_entry() else { return false };
        if entry.key().0 > until || self.violation.is_some() {
            return false;
        }
        let ((time, _), event) = entry.remove_entry();
        self.now = time;
        self.handled += 1;
        if let Some(thaw) = self.frozen(&event) {
            // In the order they came.
            self.at(thaw, event);
        } else if self.is_current(&event) {
            self.handle(event);
        } else if let Event::HandOver { agent, op, .. } = event {
            self.orphaned(agent, op);
        }
        true
    }

    /// When the process that is to carry out the event goes on, if it is frozen now.
    fn frozen(&self, event: &Event) -> Option<u64> {
        use Event as E;
        let thaw = match event {
            E::HandOver { agent, .. }
            | E::Tick { agent, .. }
            | E::Ping { agent, .. }
            | E::Wake { agent, .. }
            | E::Encoded { agent, .. }
            | E::Read { agent, .. }
            | E::Found { agent, .. }
            | E::ReadAgain { agent, .. }
            | E::Verify { agent, .. }
            | E::Rotate { agent, .. }
            | E::RotateNow { agent, .. }
            | E::Connect { agent, .. } => self.agents[*agent].frozen,
            E::Work { server, .. } | E::Trim { server, .. } | E::TrimNow { server, .. } => {
                self.sites[self.servers[*server].site].frozen
            }
            E::Arrive { conn, way } => match self.conns.get(conn) {
                Some(c) if *way == UP => self.sites[self.servers[c.server].site].frozen,
                Some(c) => self.agents[c.agent].frozen,
                None => 0,
            },
            E::Keepalive { conn } => {
                self.conns.get(conn).map_or(0, |c| self.sites[self.servers[c.server].site].frozen)
            }
            _ => 0,
        };
        (thaw > self.now).then_some(thaw)
    }

    fn is_current(&self, event: &Event) -> bool {
        use Event as E;
        match event {
            E::HandOver { agent, life, .. }
            | E::AgentUp { agent, life }
            | E::Tick { agent, life }
            | E::Ping { agent, life }
            | E::Wake { agent, life }
            | E::Encoded { agent, life, .. }
            | E::Read { agent, life, .. }
            | E::Found { agent, life, .. }
            | E::ReadAgain { agent, life }
            | E::Verify { agent, life }
            | E::Rotate { agent, life }
            | E::RotateNow { agent, life, .. }
            | E::Connect { agent, life } => self.agents[*agent].life == *life,
            E::Work { server, life }
            | E::Operator { server, life }
            | E::Raise { server, life }
            | E::Trim { server, life }
            | E::TrimNow { server, life, .. } => self.sites[self.servers[*server].site].life == *life,
            E::SiteUp { site, life } => self.sites[*site].life == *life,
            _ => true,
        }
    }

    fn handle(&mut self, event: Event) {
        use Event as E;
        match event {
            E::Guest { agent } => self.guest(agent),
            E::Apply { agent, op } => self.apply(agent, op),
            E::HandOver { agent, op, .. } => self.hand_over(agent, op),
            E::Complete { agent, op, captured } => self.complete(agent, op, captured),
            E::AgentUp { agent, .. } => self.agent_up(agent),
            E::Tick { agent, .. } => self.tick(agent),
            E::Ping { agent, .. } => self.wake(agent, 0),
            E::Wake { agent, .. } => self.awake(agent),
            E::Encoded { agent, done, .. } => self.encoded(agent, done),
            E::Read { agent, task, .. } => self.read(agent, task),
            E::Found { agent, task, result, .. } => self.found(agent, &task, result),
            E::ReadAgain { agent, .. } => self.read_again(agent),
            E::Verify { agent, .. } => self.verify(agent),
            E::Rotate { agent, .. } => self.rotate(agent),
            E::RotateNow { agent, floor, written, .. } => self.rotate_now(agent, floor, written),
            E::Connect { agent, .. } => self.connect(agent),
            E::Greeting { conn } => self.greeting(conn),
            E::Arrive { conn, way } => self.arrive(conn, way),
            E::Silence { conn } => self.silence(conn),
            E::Keepalive { conn } => self.keepalive(conn),
            E::SiteUp { site, .. } => self.site_up(site),
            E::Work { server, .. } => self.work(server),
            E::Operator { server, .. } => {
                let s = &self.servers[server];
                if s.core.as_ref().is_some_and(|c| c.cell().measured.lock().fault.is_some()) {
                    self.stop_site(self.servers[server].site, false);
                }
            }
            E::Raise { server, .. } => self.raise(server, self.servers[server].spec.epoch),
            E::Trim { server, .. } => self.plan_trim(server),
            E::TrimNow { server, plan, .. } => self.trim(server, &plan),
            E::Look { server } => self.judge_lag(server),
            E::Fault => self.fault(),
            E::Ending(ending) => self.ending(ending),
        }
    }

    /// Another writer begins: the copy at the site runs, and is protected from there. The old one is frozen, or lives
    /// on and is never told.
    fn failover(&mut self, server: usize) -> bool {
        let old = self.servers[server].primary;
        let epoch = self.servers[server].spec.epoch;
        if epoch.0 > 3 {
            return false;
        }
        let Some(content) = self.newest_content(server) else { return false };
        if self.rng.percent(60) {
            let until = self.now + self.rng.between(SEC, 20 * SEC);
            self.agents[old].frozen = self.agents[old].frozen.max(until);
        }
        let next = Epoch(epoch.0 + 1);
        self.raise(server, next);
        let agent = self.add_agent(server, next, content);
        self.servers[server].primary = agent;
        true
    }

    /// A clone of the machine claims the server with the same right.
    fn claim(&mut self, server: usize) -> bool {
        let primary = &self.agents[self.servers[server].primary];
        if self.agents.len() > 8 {
            return false;
        }
        let (epoch, content) = (primary.epoch, primary.disks.iter().map(|d| d.now.clone()).collect());
        let agent = self.add_agent(server, epoch, content);
        self.claims += 1;
        let pause = self.rng.between(2 * SEC, 15 * SEC);
        self.after(pause, Event::Ending(Ending::ClaimOver { agent }));
        true
    }
}

#[cfg(test)]
mod tests;
