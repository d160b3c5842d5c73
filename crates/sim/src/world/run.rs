//! One seed from its beginning to its end, and many of them counted.

use super::chance::{Rng, SEC};
use super::disk::Image;
use super::fault::Fault;
use super::plan::{Aim, Plan};
use super::site::Server;
use super::{Event, Mutant, World};
use lifeboat_api::port::ServerSpec;
use lifeboat_api::types::{CaptureSpec, ReplicationSpec, WindowSpec};
use lifeboat_base::{AgentId, Epoch, SeededEntropy, ServerId};
use std::collections::BTreeMap;
use std::fmt;

/// How long a world may take to get well, in its own time: two bounds of silence, a backoff, and what a slow link takes.
const RECOVERY: u64 = 240 * SEC;
/// More events than any run that makes progress has.
const MOST_EVENTS: u64 = 3_000_000;

/// What a seed came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub seed: u64,
    /// What is wrong; `None` for nothing.
    pub violation: Option<String>,
    /// Hash of everything that happened.
    pub trace: String,
    /// Nanoseconds of the world.
    pub simulated: u64,
    pub events: u64,
    /// Points that were offered, and those compared byte for byte.
    pub points: u64,
    pub compared: u64,
    /// Flushes answered in synchronous mode.
    pub flushes: u64,
    /// Points that said that they are damaged.
    pub unreadable: u64,
    /// Frames that went through a spool.
    pub spooled: u64,
    /// Bytes that comparisons named, and blocks that had to be named at the end.
    pub named: u64,
    pub planted: u64,
    /// Comparisons that came to their end.
    pub verified: u64,
    pub faults: BTreeMap<String, u64>,
}

/// Runs a seed. With `verbose` every step is printed.
pub fn run(seed: u64, mutant: Mutant, verbose: bool) -> Outcome {
    let mut world = World::new(seed, mutant, verbose);
    world.live();
    Outcome {
        seed,
        violation: world.violation.take(),
        trace: world.trace.finalize().to_hex()[..32].to_string(),
        simulated: world.now,
        events: world.handled,
        points: world.offered,
        compared: world.compared,
        flushes: world.flushes,
        unreadable: world.unreadable,
        spooled: world.spooled,
        named: world.named,
        planted: world.planted,
        verified: world.verified,
        faults: world.injected.iter().map(|(f, n)| (format!("{f:?}"), *n)).collect(),
    }
}

impl World {
    fn new(seed: u64, mutant: Mutant, verbose: bool) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 0x11FE_B0A7);
        let mut plan = Plan::new(seed, &mut rng);
        mutate(&mut plan, mutant);
        let mut world = Self {
            mutant,
            rng,
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            hosts: Vec::new(),
            sites: Vec::new(),
            servers: Vec::new(),
            agents: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_session: 0,
            next_op: 0,
            ticks: 0,
            last_jump: 0,
            claims: 0,
            calm: false,
            moments: BTreeMap::new(),
            vault: None,
            held: None,
            injected: BTreeMap::new(),
            handled: 0,
            offered: 0,
            compared: 0,
            flushes: 0,
            unreadable: 0,
            spooled: 0,
            named: 0,
            planted: 0,
            verified: 0,
            violation: None,
            trace: blake3::Hasher::new(),
            verbose,
            plan,
        };
        world.vault = world.plan.vault.then(std::sync::Arc::default);
        for _ in 0..world.plan.sites {
            world.add_site();
        }
        for server in 0..world.plan.servers.len() {
            let spec = spec(server);
            world.servers.push(Server::new(world.plan.servers[server].site, spec));
            let disks = world.plan.servers[server].disks.iter().map(|size| Image::new(*size)).collect();
            let agent = world.add_agent(server, Epoch(1), disks);
            world.servers[server].primary = agent;
            world.after(SEC, Event::Look { server });
        }
        let first = world.plan.fault_gap;
        world.after(first, Event::Fault);
        let about = format!("seed {seed} {:?} faults {:?}", world.plan.aim, world.plan.faults);
        world.say(|| about);
        world
    }

    fn live(&mut self) {
        let end = self.plan.busy;
        while self.step(end) && self.handled < MOST_EVENTS {}
        self.now = self.now.max(end);
        match self.plan.aim {
            Aim::Liveness => self.get_well(),
            Aim::Safety | Aim::Rot => self.last_look(),
        }
        for server in 0..self.servers.len() {
            if self.violation.is_none() {
                self.judge_all(server);
            }
        }
    }

    /// The power goes at every site; what is there then is looked at.
    fn last_look(&mut self) {
        for site in 0..self.sites.len() {
            let power = self.plan.aim == Aim::Safety;
            self.sites[site].again = false;
            self.stop_site(site, power);
            for s in &mut self.servers {
                s.journal.set_capacity(None);
            }
            self.calm = true;
            self.site_up(site);
        }
    }

    /// Faults are over: everything must be at the sites within a bounded time (I5).
    fn get_well(&mut self) {
        self.heal();
        let slowest = self.plan.servers.iter().map(|s| match s.bandwidth {
            0 => 0,
            bandwidth => s.disks.iter().sum::<u64>() * 3 / bandwidth,
        });
        let until = self.now + RECOVERY + slowest.max().unwrap_or(0) * SEC;
        while !self.is_well() {
            if !self.step(until) || self.handled >= MOST_EVENTS {
                if self.violation.is_none() {
                    let text = self.ailments();
                    self.violate(format!("I5: not well {} s after the faults: {text}", RECOVERY / SEC));
                }
                return;
            }
        }
        self.compare_all(until + RECOVERY);
        for server in 0..self.servers.len() {
            if self.violation.is_some() {
                return;
            }
            self.judge_equal(server);
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.servers.iter().all(|s| {
            let a = &self.agents[s.primary];
            a.up && a.ops.is_empty() && s.core.is_some() && {
                let status = a.sender.status();
                status.connected && status.drained
            }
        })
    }

    fn ailments(&self) -> String {
        let one = |s: &Server| {
            let a = &self.agents[s.primary];
            format!(
                "agent up {}, ops {}, site {}, {:?}",
                a.up,
                a.ops.len(),
                s.core.is_some(),
                a.sender.status()
            )
        };
        self.servers.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

/// Faults that a mutant needs to show itself.
fn mutate(plan: &mut Plan, mutant: Mutant) {
    let needed: &[Fault] = match mutant {
        Mutant::None | Mutant::SwappedWrites | Mutant::DroppedDiscard | Mutant::OffByOneBlock => return,
        Mutant::EarlyAck => &[Fault::SiteKill, Fault::SitePowerLoss],
        Mutant::SkippedFsync => &[Fault::SitePowerLoss],
        Mutant::StaleEpoch => &[Fault::Failover],
    };
    for f in needed {
        if !plan.faults.contains(f) {
            plan.faults.push(*f);
        }
    }
}

fn spec(server: usize) -> ServerSpec {
    let entropy = SeededEntropy::new(server as u64);
    ServerSpec {
        id: ServerId::random(&entropy),
        name: format!("server-{server}"),
        agent: AgentId::random(&entropy),
        epoch: Epoch(1),
        capture: CaptureSpec::Splitter { paths: vec!["/disk".into()], listen: None },
        disks: Vec::new(),
        replication: ReplicationSpec::default(),
        retention: lifeboat_api::types::RetentionSpec::default(),
        window: WindowSpec { seconds: 3600, bytes: 1 << 40 },
        active: true,
    }
}

/// Many runs together.
#[derive(Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub simulated: u64,
    pub events: u64,
    pub points: u64,
    pub compared: u64,
    pub flushes: u64,
    pub unreadable: u64,
    pub spooled: u64,
    pub named: u64,
    pub planted: u64,
    pub verified: u64,
    pub faults: BTreeMap<String, u64>,
    pub failed: Vec<(u64, String)>,
}

impl Tally {
    pub fn add(&mut self, o: &Outcome) {
        self.seeds += 1;
        self.simulated += o.simulated;
        self.events += o.events;
        self.points += o.points;
        self.compared += o.compared;
        self.flushes += o.flushes;
        self.unreadable += o.unreadable;
        self.spooled += o.spooled;
        self.named += o.named;
        self.planted += o.planted;
        self.verified += o.verified;
        for (fault, n) in &o.faults {
            *self.faults.entry(fault.clone()).or_default() += n;
        }
        if let Some(v) = &o.violation {
            self.failed.push((o.seed, v.clone()));
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated as f64 / 3600e9;
        let faults: u64 = self.faults.values().sum();
        writeln!(
            f,
            "world: {} seeds, {hours:.2} simulated hours, {} events, {faults} faults, {} points offered, {} compared \
             byte for byte, {} said they are damaged, {} synchronous flushes, {} frames spooled, {} comparisons \
             that named {} bytes, {} blocks changed unseen before the last ones, {} seeds failed",
            self.seeds,
            self.events,
            self.points,
            self.compared,
            self.unreadable,
            self.flushes,
            self.spooled,
            self.verified,
            self.named,
            self.planted,
            self.failed.len(),
        )?;
        for (fault, n) in &self.faults {
            writeln!(f, "  {fault:<20} {n}")?;
        }
        for (seed, what) in &self.failed {
            writeln!(f, "FAILED seed {seed}: {what}\n  replay: {}", replay(*seed))?;
        }
        Ok(())
    }
}

/// The command that shows a seed again.
pub fn replay(seed: u64) -> String {
    format!("cargo run -p lifeboat-sim -- world --seed {seed} --verbose")
}
