//! A data side for tests: a small world with verbs, trouble on demand, and eyes for what must never happen.

use crate::app::{App, ControlConfig};
use crate::ca::{AGENT_LIFE, Ca};
use crate::gate::Gate;
use crate::policy::{Actor, Role};
use crate::store::{AgentRow, Note, Store, TokenRow};
use async_trait::async_trait;
use lifeboat_api::port::{AgentRuntime, GroupCut, PortError, RunRequest, RunStatus, ServerSpec, SitePort};
use lifeboat_api::types::*;
use lifeboat_base::{
    AgentId, Clock, Entropy, Epoch, ManualClock, PointId, RunId, SeededEntropy, Seq, ServerId, SystemClock,
    WallTime,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

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

#[async_trait]
impl SitePort for FakeSite {
    fn agents(&self) -> Vec<AgentRuntime> {
        self.world.lock().agents.clone()
    }

    fn disconnect_agent(&self, agent: AgentId) {
        let mut world = self.world.lock();
        world.disconnected.push(agent);
        world.agents.retain(|a| a.id != agent);
    }

    async fn probe_capture(
        &self,
        _agent: AgentId,
        capture: &CaptureSpec,
    ) -> Result<Vec<DiskInfo>, PortError> {
        let world = self.world.lock();
        let missing = |what: &str| {
            err(ErrorCode::Unavailable, &format!("{what} does not exist")).hint("start the machine first")
        };
        match capture {
            CaptureSpec::Mirror { qmp, disks } => {
                let all = world.machines.get(qmp).ok_or_else(|| missing(qmp))?;
                Ok(all.iter().filter(|d| disks.is_empty() || disks.contains(&d.name)).cloned().collect())
            }
            CaptureSpec::Splitter { paths, .. } => {
                let found = paths.iter().map(|p| world.machines.get(p).ok_or_else(|| missing(p)));
                Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().cloned().collect())
            }
        }
    }

    async fn ensure_server(&self, spec: &ServerSpec) -> Result<(), PortError> {
        let late = self.world.lock().late_point && !spec.active;
        if late {
            self.world.lock().late_point = false;
            self.point(spec.id);
        }
        let gate = self.world.lock().ensure_gate.clone();
        if let Some(gate) = gate {
            self.world.lock().waiting += 1;
            gate.notified().await;
        }
        self.call("ensure", |w| {
            if let Some(e) = w.epochs.get(&spec.id).copied().filter(|e| *e > spec.epoch) {
                // As the real one: what would lower it is refused. Control knows better than to ask.
                w.violations.push(format!("the epoch of {} would fall", spec.name));
                return Err(err(ErrorCode::Conflict, &format!("epoch {} is over: {e} began", spec.epoch)));
            }
            w.epochs.insert(spec.id, spec.epoch);
            w.held.insert(spec.id, spec.clone());
            w.kept.insert(spec.id, spec.clone());
            w.runtimes.entry(spec.id).or_default();
            Ok(())
        })
        .await
    }

    fn held(&self) -> Vec<ServerSpec> {
        let world = self.world.lock();
        let epoch = |s: &ServerSpec| world.epochs.get(&s.id).map_or(s.epoch, |e| (*e).max(s.epoch));
        // What was told before the last restart is kept beside the journal.
        let all = world.kept.values().map(|s| ServerSpec { epoch: epoch(s), ..s.clone() });
        all.collect()
    }

    async fn forget_server(&self, server: ServerId) -> Result<(), PortError> {
        self.call("forget", |w| {
            w.held.remove(&server);
            w.kept.remove(&server);
            w.runtimes.remove(&server);
            w.points.remove(&server);
            Ok(())
        })
        .await
    }

    fn runtime(&self, server: ServerId) -> Option<ServerRuntime> {
        let world = self.world.lock();
        world.held.get(&server).and_then(|_| world.runtimes.get(&server)).cloned()
    }

    async fn points(
        &self,
        server: ServerId,
        _from: Option<&str>,
        _to: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PointInfo>, PortError> {
        let world = self.world.lock();
        Ok(world.points.get(&server).into_iter().flatten().rev().take(limit).cloned().collect())
    }

    async fn resolve_point(&self, server: ServerId, point: &str) -> Result<PointInfo, PortError> {
        let mut world = self.world.lock();
        if !world.held.contains_key(&server) {
            world.violations.push("a point was asked for of a server that is not held".into());
        }
        let mut points = world.points.get(&server).into_iter().flatten();
        let found = match point {
            "latest" => points.next_back(),
            id => points.find(|p| p.id.to_string() == id),
        };
        found
            .cloned()
            .ok_or_else(|| err(ErrorCode::NotFound, "there is no such point").hint("list the points"))
    }

    async fn mount(
        &self,
        server: ServerId,
        name: &str,
        point: PointId,
        writable: bool,
    ) -> Result<Mount, PortError> {
        self.call("mount", |w| {
            let point = w.points.get(&server).into_iter().flatten().find(|p| p.id == point).cloned();
            let point = point.ok_or_else(|| err(ErrorCode::NotFound, "there is no such point"))?;
            let id = format!("m{}", w.mounts.len() + 1);
            let mount = Mount { id, server: name.into(), point, writable, disks: Vec::new() };
            w.mounts.push(mount.clone());
            Ok(mount)
        })
        .await
    }

    async fn unmount(&self, mount: &str) -> Result<(), PortError> {
        self.call("unmount", |w| {
            w.mounts.retain(|m| m.id != mount);
            Ok(())
        })
        .await
    }

    fn mounts(&self) -> Vec<Mount> {
        self.world.lock().mounts.clone()
    }

    async fn prepare_run(&self, run: &RunRequest) -> Result<(), PortError> {
        self.call("prepare", |w| {
            if !w.held.contains_key(&run.server) {
                w.violations.push("a server was mounted that is not held".into());
            }
            if run.kind == RunKind::Failover && w.held.get(&run.server).is_some_and(|s| s.active) {
                w.violations.push("a failover was mounted while replication was on".into());
            }
            w.runs.entry(run.run).or_default().request = Some(run.clone());
            Ok(())
        })
        .await
    }

    async fn launch(&self, run: &RunRequest) -> Result<RunStatus, PortError> {
        self.call("launch", |w| {
            let other = |r: &FakeRun| {
                r.alive
                    && r.request
                        .as_ref()
                        .is_some_and(|q| q.kind == run.kind && q.server == run.server && q.run != run.run)
            };
            if run.kind == RunKind::Failover && w.runs.values().any(other) {
                w.violations.push("two machines carry one server".into());
            }
            match w.runs.get_mut(&run.run) {
                Some(r) if r.request.as_ref() == Some(run) => r.alive = true,
                _ => w.violations.push("launched what was not mounted".into()),
            }
            Ok(())
        })
        .await?;
        self.run_status(run.run).await
    }

    async fn run_status(&self, run: RunId) -> Result<RunStatus, PortError> {
        let mut world = self.world.lock();
        let r = world.runs.get_mut(&run).filter(|r| r.request.is_some());
        let r = r.ok_or_else(|| err(ErrorCode::NotFound, "there is no such run"))?;
        if r.hydrating && r.alive {
            r.hydrated = (r.hydrated + 50).min(100);
        }
        Ok(RunStatus {
            alive: r.alive,
            detail: if r.alive { "running".into() } else { "shutdown".into() },
            acceleration: "tcg: no /dev/kvm".into(),
            forwards: vec![ForwardInfo { guest_port: 80, address: "127.0.0.1:34567".into() }],
            directory: self.dir.to_string_lossy().into_owned(),
            started: self.clock.wall(),
            hydrated_percent: r.hydrated,
        })
    }

    fn parse_check(&self, check: &str) -> Result<Vec<u16>, PortError> {
        match check.split_once(':') {
            Some(("tcp", port)) => {
                port.parse().map(|p| vec![p]).map_err(|_| err(ErrorCode::Invalid, "no port"))
            }
            Some(("serial", _)) => Ok(Vec::new()),
            _ => Err(err(ErrorCode::Invalid, &format!("'{check}' is no check")).hint("write tcp:PORT")),
        }
    }

    async fn check(&self, _run: RunId, check: &str, _deadline: Duration) -> CheckResult {
        if self.world.lock().endless_checks {
            std::future::pending::<()>().await;
        }
        let passed = !self.world.lock().failing_checks.iter().any(|c| c == check);
        let detail = if passed { "open" } else { "connection refused" };
        CheckResult { check: check.into(), passed, detail: detail.into(), took_ms: 3 }
    }

    async fn post_script(&self, _run: RunId, script: &str, _deadline: Duration) -> CheckResult {
        CheckResult { check: format!("script:{script}"), passed: true, detail: "exit 0".into(), took_ms: 5 }
    }

    async fn screenshot(&self, _run: RunId) -> Result<Vec<u8>, PortError> {
        Ok(b"\x89PNG".to_vec())
    }

    async fn serial(&self, _run: RunId, bytes: usize) -> Result<Vec<u8>, PortError> {
        let log = b"boot\nlogin: ";
        Ok(log[log.len().saturating_sub(bytes)..].to_vec())
    }

    async fn hydrate(&self, run: RunId) -> Result<(), PortError> {
        self.call("hydrate", |w| {
            match w.runs.get_mut(&run).filter(|r| r.request.is_some()) {
                Some(r) => r.hydrating = true,
                None => return Err(err(ErrorCode::NotFound, "there is no such run")),
            }
            Ok(())
        })
        .await
    }

    async fn destroy_run(&self, run: RunId, keep_logs: bool) -> Result<(), PortError> {
        self.call("destroy", |w| {
            if !keep_logs {
                w.violations.push("logs were thrown away".into());
            }
            if w.runs.get(&run).is_some_and(|r| r.released) && !w.may_end.contains(&run) {
                w.violations.push("a committed machine was destroyed".into());
            }
            w.runs.insert(run, FakeRun::default());
            Ok(())
        })
        .await
    }

    async fn release_run(&self, run: RunId) -> Result<(), PortError> {
        self.call("release", |w| {
            match w.runs.get_mut(&run) {
                Some(r) if r.hydrated == 100 => r.released = true,
                _ => w.violations.push("released before all was copied".into()),
            }
            Ok(())
        })
        .await
    }

    async fn group_barrier(&self, servers: &[ServerId], _hold: Duration) -> Result<GroupCut, PortError> {
        let barrier = self.world.lock().group_barrier.clone();
        if let Some(gate) = barrier {
            gate.notified().await;
        }
        if let Some(why) = self.world.lock().group_trouble.clone() {
            return Err(err(ErrorCode::Unavailable, &why));
        }
        let mut missing = self.world.lock().group_leaves_out;
        self.call("group-barrier", |_| Ok(())).await?;
        let mut points = Vec::new();
        for server in servers {
            if std::mem::take(&mut missing) {
                continue;
            }
            points.push((*server, self.point(*server).id));
        }
        Ok(GroupCut { points, held: Duration::from_micros(1500) })
    }

    async fn verify(&self, server: ServerId, rate: u64) -> Result<(), PortError> {
        let started = self.clock.wall();
        self.call(&format!("verify {rate}"), |w| {
            let status = VerifyStatus {
                state: VerifyState::Running,
                started,
                ended: None,
                total_bytes: 1 << 30,
                done_bytes: 0,
                different_bytes: 0,
                different: Vec::new(),
                point: None,
                error: None,
            };
            w.runtimes.entry(server).or_default().verify = Some(status);
            Ok(())
        })
        .await
    }

    fn rpo_history(&self, server: ServerId, minutes: usize) -> Vec<RpoMinute> {
        let world = self.world.lock();
        world.rpo.get(&server).into_iter().flatten().take(minutes).copied().collect()
    }

    async fn branches(&self, server: ServerId) -> Result<Vec<Branch>, PortError> {
        Ok(self.world.lock().branches.get(&server).cloned().unwrap_or_default())
    }

    async fn delete_branch(&self, server: ServerId, branch: &str) -> Result<(), PortError> {
        self.call("delete-branch", |w| {
            let all = w.branches.entry(server).or_default();
            let before = all.len();
            all.retain(|b| b.id != branch);
            match all.len() == before {
                true => Err(err(ErrorCode::NotFound, "there is no such branch")),
                false => Ok(()),
            }
        })
        .await
    }

    async fn mount_branch(
        &self,
        server: ServerId,
        name: &str,
        branch: &str,
        writable: bool,
    ) -> Result<Mount, PortError> {
        let now = self.clock.wall();
        self.call("mount-branch", |w| {
            let found = w.branches.get(&server).into_iter().flatten().find(|b| b.id == branch);
            let found = found.ok_or_else(|| err(ErrorCode::NotFound, "there is no such branch"))?;
            let point = PointInfo {
                id: found.base,
                time: now,
                received: now,
                kind: PointKind::Crash,
                bytes_since: 0,
            };
            let id = format!("m{}", w.mounts.len() + 1);
            let mount = Mount { id, server: name.into(), point, writable, disks: Vec::new() };
            w.mounts.push(mount.clone());
            Ok(mount)
        })
        .await
    }

    async fn check_journal(&self, server: ServerId, full: bool) -> Result<CheckReport, PortError> {
        let gate = self.world.lock().check_gate.clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let world = self.world.lock();
        let report = world.reports.get(&server).cloned().unwrap_or_default();
        Ok(CheckReport { records: if full { 100 } else { 0 }, ..report })
    }

    fn disk_space(&self) -> (u64, u64) {
        self.world.lock().space
    }
}

/// A whole control side on a fake data side.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub entropy: Arc<SeededEntropy>,
    pub site: Arc<FakeSite>,
    pub store: Store,
    pub ca: Arc<Ca>,
    pub gate: Arc<Gate>,
    pub app: Arc<App>,
}

pub fn admin() -> Actor {
    Actor { name: "tess (t1)".into(), role: Role::Admin, token: Some("t1".into()) }
}

impl Stage {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let clock = Arc::new(ManualClock::default());
        // TLS looks at the machine's own clock, so certificates must be made by it.
        // Whole milliseconds, because that is how exact times are in JSON.
        clock.set_wall(WallTime(SystemClock.wall().0 / 1_000_000 * 1_000_000));
        let entropy = Arc::new(SeededEntropy::new(7));
        let (ca, _, _) = Ca::create("test", clock.wall(), &*entropy).expect("CA");
        let ca = Arc::new(ca);
        let store = Store::open(&dir.path().join("s.sqlite"), true, clock.clone()).await.expect("store");
        let world = World { space: (500, 1000), ..World::default() };
        let runs = dir.path().join("run");
        std::fs::create_dir(&runs).expect("run directory");
        let site = Arc::new(FakeSite {
            world: Mutex::new(world),
            trouble: Mutex::new((Trouble::None, 0)),
            clock: clock.clone(),
            dir: runs,
        });
        let (gate, app) = Self::compose(&store, &ca, &site, &clock, &entropy).await;
        Self { dir, clock, entropy, site, store, ca, gate, app }
    }

    async fn compose(
        store: &Store,
        ca: &Arc<Ca>,
        site: &Arc<FakeSite>,
        clock: &Arc<ManualClock>,
        entropy: &Arc<SeededEntropy>,
    ) -> (Arc<Gate>, Arc<App>) {
        let gate = Gate::open(store.clone(), ca.clone(), clock.clone(), entropy.clone(), AGENT_LIFE);
        let gate = gate.await.expect("gate");
        let config = ControlConfig { reconcile_every: Duration::from_millis(5), ..ControlConfig::default() };
        let app = App::new(store.clone(), gate.clone(), site.clone(), clock.clone(), entropy.clone(), config);
        app.start();
        (gate, app)
    }

    /// The process dies and starts again on the same store and the same world.
    pub async fn restart(&mut self) {
        self.app.stop().await;
        self.site.world.lock().held.clear();
        (self.gate, self.app) =
            Self::compose(&self.store, &self.ca, &self.site, &self.clock, &self.entropy).await;
    }

    /// An agent that has joined and is connected.
    pub async fn agent(&self, name: &str) -> AgentId {
        let id = AgentId::random(&*self.entropy);
        let row = AgentRow {
            id,
            name: name.into(),
            joined: self.clock.wall(),
            serial: "01".into(),
            certificate_expires: self.clock.wall().saturating_add(AGENT_LIFE),
            revoked: false,
        };
        let token = TokenRow {
            id: format!("join-{name}"),
            kind: TokenKind::Agent,
            name: String::new(),
            hash: [0; 32],
            created: self.clock.wall(),
            expires: None,
            used: false,
            revoked: false,
        };
        let note = Note::done("test", "agent.join", name, "");
        self.store.insert_token(&token, &note).await.expect("token");
        self.store.redeem(&token.id, &row, &note).await.expect("agent");
        self.gate.joined(&row);
        self.site.connect(id);
        id
    }

    /// A machine called `name` that an agent can see, and the request that protects it.
    pub fn protect_request(&self, name: &str, agent: &str) -> ProtectRequest {
        let qmp = format!("/run/{name}.qmp");
        self.site.machine(&qmp, &["vda", "vdb"]);
        ProtectRequest {
            name: name.into(),
            agent: agent.into(),
            capture: CaptureSpec::Mirror { qmp, disks: Vec::new() },
            window: WindowSpec::default(),
            launch: LaunchSettings::default(),
            replication: ReplicationSpec::default(),
            watch: WatchSpec::default(),
        }
    }

    /// `web-1`, replicating, with one point.
    pub async fn replicating(&self) -> ServerId {
        self.agent("a1").await;
        let server = self.app.protect(&admin(), self.protect_request("web-1", "a1")).await.expect("protect");
        self.site.point(server.id);
        self.until_state("web-1", lifeboat_api::lifecycle::ServerState::Replicating).await;
        server.id
    }

    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> T {
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    pub async fn until_state(&self, name: &str, state: lifeboat_api::lifecycle::ServerState) {
        self.until(&format!("{name} is {state}"), || async {
            (self.app.server(name).await.expect("server").state == state).then_some(())
        })
        .await;
    }

    /// The operation once it is over.
    pub async fn ended(&self, id: lifeboat_base::OperationId) -> Operation {
        self.until("the operation is over", || async {
            let op = self.app.operation(id).await.expect("operation");
            (op.state != OperationState::Running).then_some(op)
        })
        .await
    }

    /// Audit entries, newest first, as `actor action target outcome`.
    pub async fn audit(&self) -> Vec<String> {
        let entries = self.store.audit(1000, None).await.expect("audit");
        entries.into_iter().map(|e| format!("{} {} {} {}", e.actor, e.action, e.target, e.outcome)).collect()
    }

    /// Nothing that must never happen did, and the log is whole.
    pub async fn sound(&self) {
        assert_eq!(self.site.world.lock().violations, Vec::<String>::new());
        let log = self.store.verify_audit().await.expect("audit");
        assert!(log.ok, "{log:?}");
    }

    pub async fn token(&self, kind: TokenKind) -> String {
        let request = CreateTokenRequest { kind, name: None, ttl_seconds: None };
        self.app.create_token(&admin(), &request).await.expect("token").token
    }
}

pub fn drill_request() -> DrillRequest {
    serde_json::from_value(serde_json::json!({"checks": ["tcp:80", "serial:login"], "keep_seconds": 600}))
        .expect("request")
}

pub fn failover_request() -> FailoverRequest {
    serde_json::from_value(serde_json::json!({"checks": ["tcp:80"]})).expect("request")
}

/// A certificate request as an agent makes it, asking for far too much.
pub fn csr() -> String {
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::new(vec!["site.lifeboat".to_string()]).expect("params");
    params.distinguished_name.push(rcgen::DnType::CommonName, "site.lifeboat");
    params.serialize_request(&key).expect("request").pem().expect("pem")
}

pub fn entropy(seed: u64) -> impl Entropy {
    SeededEntropy::new(seed)
}
