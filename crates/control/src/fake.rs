//! A data side for tests: a small world with verbs, trouble on demand, and eyes for what must never happen.

mod site;
mod stage;
mod vault;

pub use stage::{Stage, admin, csr, drill_request, entropy, failover_request};
pub use vault::FakeVault;

use lifeboat_api::port::{AgentRuntime, PortError, RunRequest, ServerSpec};
use lifeboat_api::types::*;
use lifeboat_base::{AgentId, Clock, Epoch, ManualClock, PointId, RunId, Seq, ServerId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What goes wrong at the n-th call that changes something, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// It fails and has changed nothing.
    FailBefore(usize),
    /// It has changed everything and fails nevertheless.
    FailAfter(usize),
    /// It never answers and has changed nothing.
    HangBefore(usize),
    /// It has changed everything and never answers.
    HangAfter(usize),
}

#[derive(Debug, Clone, Default)]
pub struct FakeRun {
    pub request: Option<RunRequest>,
    pub alive: bool,
    pub hydrating: bool,
    pub hydrated: u8,
    pub released: bool,
}

#[derive(Default)]
pub struct World {
    pub agents: Vec<AgentRuntime>,
    pub disconnected: Vec<AgentId>,
    /// Disks by QMP socket or path.
    pub machines: HashMap<String, Vec<DiskInfo>>,
    /// What the data side's process holds; gone when it restarts.
    pub held: BTreeMap<ServerId, ServerSpec>,
    /// What it was last told of each; this stays.
    pub kept: BTreeMap<ServerId, ServerSpec>,
    /// Epochs in the journals; these stay.
    pub epochs: BTreeMap<ServerId, Epoch>,
    pub runtimes: HashMap<ServerId, ServerRuntime>,
    pub points: HashMap<ServerId, Vec<PointInfo>>,
    pub mounts: Vec<Mount>,
    pub runs: BTreeMap<RunId, FakeRun>,
    /// Checks that fail.
    pub failing_checks: Vec<String>,
    /// Checks that never end.
    pub endless_checks: bool,
    /// Calls that changed something, in order.
    pub log: Vec<String>,
    /// Committed machines whose end a person has confirmed.
    pub may_end: Vec<RunId>,
    /// What must never happen, if it did.
    pub violations: Vec<String>,
    pub space: (u64, u64),
    /// A point that arrives while replication is being stopped.
    pub late_point: bool,
    /// An assertion waits for this, and how many did.
    pub ensure_gate: Option<Arc<tokio::sync::Notify>>,
    pub waiting: usize,
    /// Why no group gets a barrier.
    pub group_trouble: Option<String>,
    /// A barrier waits for this.
    pub group_barrier: Option<Arc<tokio::sync::Notify>>,
    /// A barrier says it went well and has not got every member.
    pub group_leaves_out: bool,
    pub rpo: HashMap<ServerId, Vec<RpoMinute>>,
    pub branches: HashMap<ServerId, Vec<Branch>>,
    pub reports: HashMap<ServerId, CheckReport>,
    /// A check waits for this.
    pub check_gate: Option<Arc<tokio::sync::Notify>>,
}

pub struct FakeSite {
    pub world: Mutex<World>,
    trouble: Mutex<(Trouble, usize)>,
    clock: Arc<ManualClock>,
    dir: std::path::PathBuf,
    pub vault: FakeVault,
}

fn err(code: ErrorCode, text: &str) -> PortError {
    ApiError::new(code, text)
}

impl FakeSite {
    pub fn trouble(&self, trouble: Trouble) {
        *self.trouble.lock() = (trouble, 0);
    }

    /// Calls that changed something since the last trouble was set.
    pub fn calls(&self) -> usize {
        self.trouble.lock().1
    }

    /// Wraps a call that changes something.
    async fn call<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut World) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let (trouble, n) = {
            let mut t = self.trouble.lock();
            t.1 += 1;
            (t.0, t.1)
        };
        match trouble {
            Trouble::FailBefore(at) if at == n => return Err(err(ErrorCode::Unavailable, "told to fail")),
            Trouble::HangBefore(at) if at == n => std::future::pending().await,
            _ => {}
        }
        let done = {
            let mut world = self.world.lock();
            world.log.push(name.to_string());
            change(&mut world)
        };
        match trouble {
            Trouble::FailAfter(at) if at == n => Err(err(ErrorCode::Unavailable, "told to fail")),
            Trouble::HangAfter(at) if at == n => std::future::pending().await,
            _ => done,
        }
    }

    pub fn connect(&self, agent: AgentId) {
        let since = self.clock.wall();
        let runtime =
            AgentRuntime { id: agent, address: "10.0.0.9:40000".into(), version: "0.1.0".into(), since };
        self.world.lock().agents.push(runtime);
    }

    pub fn machine(&self, qmp: &str, disks: &[&str]) {
        let disks = disks
            .iter()
            .enumerate()
            .map(|(i, name)| DiskInfo { index: i as u16, name: (*name).into(), size: 1 << 30 })
            .collect();
        self.world.lock().machines.insert(qmp.into(), disks);
    }

    /// The agent is in this phase of its first sync.
    pub fn sync_phase(&self, server: ServerId, phase: SyncPhase) {
        let progress =
            SyncProgress { phase, total_bytes: 10, done_bytes: 1, sent_bytes: 1, rate: 1, eta_seconds: None };
        let mut world = self.world.lock();
        let r = world.runtimes.entry(server).or_default();
        r.connected = true;
        r.sync = Some(progress);
    }

    /// A recovery point arrives; now the source's clock is 500 ms past it.
    pub fn point(&self, server: ServerId) -> PointInfo {
        let mut world = self.world.lock();
        let epoch = world.held.get(&server).map_or(Epoch(1), |s| s.epoch);
        let now = self.clock.wall();
        let seq = Seq(world.points.get(&server).map_or(0, Vec::len) as u64 + 1);
        let p = PointInfo {
            id: PointId { epoch, seq },
            time: now,
            received: now,
            kind: PointKind::Crash,
            bytes_since: 4096,
            journal: true,
            vault: None,
        };
        world.points.entry(server).or_default().push(p.clone());
        let r = world.runtimes.entry(server).or_default();
        r.connected = true;
        r.sync = None;
        r.health = Health::Ready;
        r.rpo_ms = Some(500);
        r.latest = Some(p.clone());
        p
    }

    pub fn live_runs(&self) -> Vec<RunId> {
        self.world.lock().runs.iter().filter(|(_, r)| r.request.is_some()).map(|(id, _)| *id).collect()
    }
}
