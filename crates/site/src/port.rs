//! The site as control sees it.

use crate::health::{sync_progress, sync_status};
use crate::launch::{Check, Forward, RunDisk, RunHandle, RunSpec};
use crate::server::{Job, No, OpenServer, ServerCell, ServerStorage, journal_config};
use crate::{Site, errors};
use async_trait::async_trait;
use lifeboat_api::port::{AgentRuntime, GroupCut, PortError, RunRequest, RunStatus, ServerSpec, SitePort};
use lifeboat_api::types::{
    Branch, CaptureSpec, CheckReport, CheckResult, DiskInfo, ErrorCode, ForwardInfo, Mount, PointInfo,
    PointKind, ReplicationMode, RpoMinute, RunKind, ServerRuntime,
};
use lifeboat_base::point::PointSpec;
use lifeboat_base::{AgentId, Epoch, PointId, RunId, Seq, ServerId};
use lifeboat_block::BarrierKind;
use lifeboat_replicate::message::{Probe, RefuseCode, control};
use lifeboat_replicate::receiver::Receiver;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an agent may take to look at a capture.
const PROBE: Duration = Duration::from_secs(20);
/// How the ids of mounts that carry runs begin.
pub(crate) const RUN_MOUNT: &str = "run-";
/// How long a failover's guest gets to turn itself off when it is thrown away.
const POWER_DOWN: Duration = Duration::from_secs(20);

pub(crate) fn point_info(p: &lifeboat_journal::PointInfo) -> PointInfo {
    PointInfo {
        id: p.id,
        time: p.source_time,
        received: p.site_time,
        kind: match p.kind {
            BarrierKind::Crash => PointKind::Crash,
            BarrierKind::Filesystem => PointKind::Filesystem,
            BarrierKind::Application => PointKind::Application,
        },
        bytes_since: p.bytes_since_previous,
        journal: true,
        vault: None,
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or_else(|e| Err(PortError::new(ErrorCode::Internal, format!("an internal task died: {e}"))))
}

impl Site {
    pub(crate) fn cell_of(&self, server: ServerId) -> Result<Arc<ServerCell>, PortError> {
        self.cell(server).ok_or_else(|| match self.unopened.lock().get(&server) {
            Some(why) => why.clone(),
            None if self.specs.read().contains_key(&server) => {
                PortError::new(ErrorCode::Unavailable, "its journal is not open yet")
                    .hint("this site has just started; ask again in a moment")
            }
            None => PortError::new(ErrorCode::NotFound, "this site holds no such server"),
        })
    }

    pub(crate) fn server_dir(&self, server: ServerId) -> PathBuf {
        self.dir.join("servers").join(server.to_string())
    }

    fn run_dir(&self, run: RunId) -> PathBuf {
        self.dir.join("runs").join(run.to_string())
    }

    fn run_mount(run: RunId) -> String {
        format!("{RUN_MOUNT}{}", run.0.simple())
    }

    fn handle(&self, run: RunId) -> RunHandle {
        self.launcher.handle(&self.run_dir(run))
    }

    pub(crate) fn spec_of(&self, text: &str) -> Result<PointSpec, PortError> {
        PointSpec::parse(text, self.clock.wall(), &self.zone).map_err(|e| errors::bad_point(&e))
    }

    /// The agent is told what it shall capture, as it is when the message leaves.
    fn push_assignments(&self, agent: AgentId) {
        if let Some(link) = self.sessions.agents.lock().get(&agent) {
            link.assign();
        }
    }

    /// Keeps what control wants, so that it is known right after a restart.
    async fn remember(self: &Arc<Self>, spec: &ServerSpec) -> Result<(), PortError> {
        let _alone = self.remembering.lock().await;
        let known = self.specs.read().get(&spec.id).cloned();
        if known.as_ref() == Some(spec) {
            return Ok(());
        }
        if known.as_ref().is_some_and(|k| k.epoch > spec.epoch) {
            return Err(PortError::new(ErrorCode::Conflict, format!("epoch {} is over", spec.epoch)));
        }
        let (dir, spec) = (self.server_dir(spec.id), spec.clone());
        let site = Arc::clone(self);
        blocking(move || {
            let write = || -> std::io::Result<()> {
                fs::create_dir_all(&dir)?;
                site.remember_owner(known.as_ref(), &spec, &dir)?;
                let temp = dir.join("spec.new");
                fs::write(&temp, serde_json::to_vec_pretty(&spec)?)?;
                fs::File::open(&temp)?.sync_all()?;
                fs::rename(&temp, dir.join(crate::SPEC_FILE))?;
                fs::File::open(&dir)?.sync_all()
            };
            write().map_err(|e| {
                PortError::new(ErrorCode::Unavailable, format!("cannot write into {}: {e}", dir.display()))
            })?;
            site.specs.write().insert(spec.id, spec);
            Ok(())
        })
        .await
    }

    async fn open_server(self: &Arc<Self>, spec: &ServerSpec) -> Result<Arc<ServerCell>, PortError> {
        let _opening = self.opening.lock().await;
        if let Some(cell) = self.cell(spec.id) {
            return Ok(cell);
        }
        let (site, spec) = (Arc::clone(self), spec.clone());
        let server = spec.id;
        let opened = blocking(move || site.open_now(&spec)).await;
        let mut unopened = self.unopened.lock();
        match &opened {
            Ok(_) => drop(unopened.remove(&server)),
            Err(why) => drop(unopened.insert(server, why.clone())),
        }
        opened
    }

    fn open_now(&self, spec: &ServerSpec) -> Result<Arc<ServerCell>, PortError> {
        let dir = self.server_dir(spec.id);
        let storage = ServerStorage::in_dir(&dir).map_err(|e| {
            PortError::new(ErrorCode::Unavailable, format!("cannot make {}: {e}", dir.display()))
        })?;
        let cell = ServerCell::open(&OpenServer {
            storage,
            key: self.journal_key.clone(),
            spec,
            config: journal_config(&spec.window),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            beyond: self.beyond(),
        })
        .map_err(|e| errors::journal(&e))?;
        for damage in &cell.opened.damage {
            tracing::error!(server = spec.name, "journal: {damage}");
            self.note("journal.damaged", &spec.name, "found", &damage.to_string());
        }
        self.restore_watched(&cell);
        self.load_branches(&cell);
        self.cells.write().insert(spec.id, Arc::clone(&cell));
        Ok(cell)
    }
}

/// The site as a [`SitePort`]; cheap to clone.
#[derive(Clone)]
pub struct SiteHandle(pub Arc<Site>);

impl std::ops::Deref for SiteHandle {
    type Target = Arc<Site>;
    fn deref(&self) -> &Arc<Site> {
        &self.0
    }
}

#[async_trait]
impl SitePort for SiteHandle {
    fn agents(&self) -> Vec<AgentRuntime> {
        let agents = self.sessions.agents.lock();
        agents
            .iter()
            .map(|(id, l)| AgentRuntime {
                id: *id,
                address: l.address.clone(),
                version: l.version.clone(),
                since: l.since,
            })
            .collect()
    }

    fn disconnect_agent(&self, agent: AgentId) {
        self.sessions.cut_agent(agent, &No::new(RefuseCode::NotAssigned, "the site disconnected this agent"));
    }

    async fn probe_capture(&self, agent: AgentId, capture: &CaptureSpec) -> Result<Vec<DiskInfo>, PortError> {
        let link = self.sessions.agents.lock().get(&agent).cloned();
        let link = link.ok_or_else(|| {
            PortError::new(ErrorCode::Unavailable, "the agent is not connected")
                .hint("start it on its host: lifeboat-agent run")
        })?;
        let text =
            serde_json::to_string(capture).map_err(|e| PortError::new(ErrorCode::Invalid, e.to_string()))?;
        let request = control::Body::Probe(Probe { capture: text });
        let answer = link.ask(self.sessions.next_id(), request, PROBE).await;
        let Some(control::Body::ProbeResult(result)) = answer else {
            return Err(PortError::new(
                ErrorCode::Unavailable,
                format!("the agent did not answer within {PROBE:?}"),
            )
            .hint("look at its log"));
        };
        if let Some(e) = result.error {
            let code = if e.invalid { ErrorCode::Invalid } else { ErrorCode::Unavailable };
            let error = PortError::new(code, e.message);
            return Err(if e.hint.is_empty() { error } else { error.hint(e.hint) });
        }
        // The receiver judges disks in a stream; these come before one, and are kept.
        if let Err(e) = Receiver::new(Epoch(0), Seq::ZERO, &result.disks, &[]) {
            return Err(PortError::new(
                ErrorCode::Invalid,
                format!("the agent's answer cannot be used: {e}"),
            ));
        }
        Ok(result
            .disks
            .into_iter()
            .map(|d| DiskInfo { index: d.index as u16, name: d.name, size: d.size })
            .collect())
    }

    async fn ensure_server(&self, spec: &ServerSpec) -> Result<(), PortError> {
        self.remember(spec).await?;
        let cell = self.open_server(spec).await?;
        let old = {
            let mut held = cell.spec.write();
            if spec.epoch < held.epoch || spec.epoch < cell.reader.epoch() {
                let text =
                    format!("epoch {} is over: the journal is at epoch {}", spec.epoch, cell.reader.epoch());
                return Err(PortError::new(ErrorCode::Conflict, text));
            }
            std::mem::replace(&mut *held, spec.clone())
        };
        if old.window != spec.window {
            let config = journal_config(&spec.window);
            cell.keeper.set_window(config.window, config.window_bytes);
            self.trim_now.notify_one();
        }
        if old.window != spec.window || old.retention != spec.retention {
            self.vault.wake.notify_one();
        }
        if cell.reader.epoch() < spec.epoch {
            let (reply, done) = oneshot::channel();
            let gone = || PortError::new(ErrorCode::Unavailable, "the server's journal is closed");
            cell.jobs.send(Job::SetEpoch { epoch: spec.epoch, reply }).await.map_err(|_| gone())?;
            done.await.map_err(|_| gone())?.map_err(|e| errors::journal(&e))?;
        }
        if !spec.active || spec.agent != old.agent || spec.epoch != old.epoch {
            let no = No::new(RefuseCode::NotAssigned, "replication of this server stopped");
            self.sessions.cut_stream(&(spec.id, None), &no);
        }
        self.0.resume_mounts(spec.id).await;
        self.push_assignments(spec.agent);
        if old.agent != spec.agent {
            self.push_assignments(old.agent);
        }
        Ok(())
    }

    async fn forget_server(&self, server: ServerId) -> Result<(), PortError> {
        self.specs.write().remove(&server);
        self.unopened.lock().remove(&server);
        let cell = self.cells.write().remove(&server);
        if let Some(cell) = &cell {
            cell.going.store(true, Ordering::Release);
            self.sessions.cut_server(server, &No::new(RefuseCode::NotAssigned, "this server was deleted"));
            let agent = cell.spec.read().agent;
            self.push_assignments(agent);
            for branch in self.branches.take(server) {
                if let Some(cell) = &branch.cell {
                    cell.stop().await;
                }
            }
            cell.stop().await;
        }
        let site = Arc::clone(&self.0);
        blocking(move || {
            for id in site.mounts.of_server(server) {
                site.mounts.remove(&id);
            }
            // What is under way ends first: it would come after.
            let _none = cell.as_ref().map(|cell| cell.into_vault.write());
            site.forget_points(server)?;
            let dir = site.server_dir(server);
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(PortError::new(
                    ErrorCode::Unavailable,
                    format!("cannot delete {}: {e}", dir.display()),
                )),
                _ => Ok(()),
            }
        })
        .await
    }

    fn held(&self) -> Vec<ServerSpec> {
        let mut specs: Vec<ServerSpec> = self.specs.read().values().cloned().collect();
        for spec in &mut specs {
            if let Some(cell) = self.cell(spec.id) {
                spec.epoch = spec.epoch.max(cell.reader.epoch());
            }
        }
        specs
    }

    fn runtime(&self, server: ServerId) -> Option<ServerRuntime> {
        let cell = self.cell(server)?;
        let m = cell.measured.lock().clone();
        let now = self.clock.monotonic();
        let usage = cell.reader.usage();
        let rpo = usage.newest.as_ref().and_then(|_| m.coverage.age(now));
        let judgement = self.judge(&cell, &m, rpo);
        let (active, mode, disks) = {
            let spec = cell.spec.read();
            (spec.active, spec.replication.mode, spec.disks.clone())
        };
        let report = m.report.filter(|_| active);
        let r = report.as_ref();
        let w = cell.watched.lock();
        Some(ServerRuntime {
            connected: m.session.is_some(),
            health: judgement.health,
            reason: judgement.reason,
            ready_in_seconds: judgement.ready_in_seconds,
            capture: r.map(|r| r.capture.clone()).unwrap_or_default(),
            sync: r.and_then(sync_progress),
            rpo_ms: rpo.map(|d| d.as_millis() as u64),
            lag_bytes: r.map_or(m.lag_bytes, |r| r.lag_bytes),
            received_bytes: cell.received.load(Ordering::Relaxed),
            content_bytes: cell.content.load(Ordering::Relaxed),
            journal_bytes: usage.bytes,
            latest: self.find_point(server, &PointSpec::Latest).ok(),
            oldest: self.oldest_point(server, usage.oldest.as_ref()),
            disks,
            spool_bytes: r.map_or(0, |r| r.spool_bytes),
            hashed_bytes: r.map_or(0, |r| r.hashed_bytes),
            rpo_hour: w.rpo.hour(now),
            rpo_day: w.rpo.day(now),
            sync_mode: (mode == ReplicationMode::Sync).then(|| sync_status(r)),
            verify: w.verify.as_ref().map(|v| v.status.clone()),
            branches: self.branches.of(server).len() as u32,
            exports: r.map(|r| r.exports.clone()).unwrap_or_default(),
        })
    }

    async fn points(
        &self,
        server: ServerId,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PointInfo>, PortError> {
        let (site, from, to) = (Arc::clone(&self.0), from.map(str::to_owned), to.map(str::to_owned));
        blocking(move || site.list_points(server, (from.as_deref(), to.as_deref()), limit)).await
    }

    async fn resolve_point(&self, server: ServerId, point: &str) -> Result<PointInfo, PortError> {
        let (site, point) = (Arc::clone(&self.0), point.to_owned());
        blocking(move || match site.spec_of(&point) {
            Ok(spec) => site.find_point(server, &spec),
            Err(e) => site.named_point(server, &point).ok_or(e),
        })
        .await
    }

    async fn mount(
        &self,
        server: ServerId,
        name: &str,
        point: PointId,
        writable: bool,
    ) -> Result<Mount, PortError> {
        let id = format!("{:08x}", self.entropy.next_u64() as u32);
        let point = self.resolve_point(server, &point.to_string()).await?;
        let mount = Mount { id, server: name.into(), point, writable, disks: Vec::new() };
        self.serve_mount(server, mount, false).await
    }

    async fn unmount(&self, mount: &str) -> Result<(), PortError> {
        if mount.starts_with(RUN_MOUNT) {
            return Err(PortError::new(ErrorCode::Conflict, "this mount carries a run")
                .hint("clean the run up instead"));
        }
        if self.mounts.get(mount).is_none() {
            return Err(PortError::new(ErrorCode::NotFound, format!("there is no mount '{mount}'"))
                .hint("list them: lifeboat mounts"));
        }
        let (site, mount) = (Arc::clone(&self.0), mount.to_owned());
        blocking(move || {
            site.mounts.remove(&mount);
            Ok(())
        })
        .await
    }

    fn mounts(&self) -> Vec<Mount> {
        self.mounts.list()
    }

    async fn prepare_run(&self, run: &RunRequest) -> Result<(), PortError> {
        let point = self.resolve_point(run.server, &run.point.to_string()).await?;
        let id = Site::run_mount(run.run);
        let mount = Mount { id, server: run.server_name.clone(), point, writable: false, disks: Vec::new() };
        self.serve_mount(run.server, mount, true).await.map(drop)
    }

    async fn launch(&self, run: &RunRequest) -> Result<RunStatus, PortError> {
        self.prepare_run(run).await?;
        let (site, request) = (Arc::clone(&self.0), run.clone());
        blocking(move || {
            let spec = site.run_spec(&request)?;
            site.launcher.launch(&spec).map_err(|e| errors::launch(&e))?;
            Ok(())
        })
        .await?;
        self.run_status(run.run).await
    }

    async fn run_status(&self, run: RunId) -> Result<RunStatus, PortError> {
        let handle = self.handle(run);
        blocking(move || {
            let record = handle.record().map_err(|e| errors::launch(&e))?;
            let state = handle.state().map_err(|e| errors::launch(&e))?;
            let hydrated = handle.hydrate_progress().map_or(0, |h| h.percent);
            Ok(RunStatus {
                alive: state.alive(),
                detail: state.to_string(),
                // The whole reason is in the site's log and in run.json.
                acceleration: format!(
                    "{} ({})",
                    record.accel.kind.name(),
                    record.accel.reason.split(':').next().unwrap_or_default()
                ),
                forwards: record
                    .forwards
                    .iter()
                    .map(|f| ForwardInfo {
                        guest_port: f.guest_port,
                        address: format!("127.0.0.1:{}", f.host_port),
                    })
                    .collect(),
                directory: handle.paths().dir().display().to_string(),
                started: record.started,
                hydrated_percent: hydrated,
            })
        })
        .await
    }

    fn parse_check(&self, check: &str) -> Result<Vec<u16>, PortError> {
        let check: Check = check
            .parse()
            .map_err(|e: crate::launch::CheckSyntax| PortError::new(ErrorCode::Invalid, e.to_string()))?;
        Ok(check.ports())
    }

    async fn check(&self, run: RunId, check: &str, deadline: Duration) -> CheckResult {
        let handle = self.handle(run);
        let text = check.to_owned();
        let failed = |detail: String| CheckResult { check: check.into(), passed: false, detail, took_ms: 0 };
        let parsed: Check = match check.parse() {
            Ok(c) => c,
            Err(e) => return failed(format!("{e}")),
        };
        let cancel = Arc::clone(&self.cancel);
        match tokio::task::spawn_blocking(move || handle.check(&parsed, deadline, &cancel)).await {
            Ok(r) => r,
            Err(e) => failed(format!("check '{text}' died: {e}")),
        }
    }

    async fn post_script(&self, run: RunId, script: &str, deadline: Duration) -> CheckResult {
        let handle = self.handle(run);
        let path = PathBuf::from(script);
        match tokio::task::spawn_blocking(move || handle.post_script(&path, deadline)).await {
            Ok(r) => r,
            Err(e) => CheckResult { check: script.into(), passed: false, detail: e.to_string(), took_ms: 0 },
        }
    }

    async fn screenshot(&self, run: RunId) -> Result<Vec<u8>, PortError> {
        let handle = self.handle(run);
        blocking(move || match handle.screenshot() {
            Ok(png) => Ok(png),
            // The last picture, when there is one.
            Err(e) => fs::read(handle.paths().screen()).map_err(|_| errors::launch(&e)),
        })
        .await
    }

    async fn serial(&self, run: RunId, bytes: usize) -> Result<Vec<u8>, PortError> {
        let handle = self.handle(run);
        blocking(move || handle.serial_tail(bytes).map_err(|e| errors::launch(&e))).await
    }

    async fn hydrate(&self, run: RunId) -> Result<(), PortError> {
        let handle = self.handle(run);
        blocking(move || handle.hydrate_start(0).map_err(|e| errors::launch(&e))).await
    }

    async fn destroy_run(&self, run: RunId, keep_logs: bool) -> Result<(), PortError> {
        let (site, handle) = (Arc::clone(&self.0), self.handle(run));
        blocking(move || {
            let graceful = match handle.record() {
                Ok(r) if !r.spec.disposable => POWER_DOWN,
                _ => Duration::ZERO,
            };
            if handle.paths().record().exists() {
                handle.stop(graceful).map_err(|e| errors::launch(&e))?;
            }
            handle.cleanup(keep_logs).map_err(|e| errors::launch(&e))?;
            site.drop_run_mount(&Site::run_mount(run));
            Ok(())
        })
        .await
    }

    async fn release_run(&self, run: RunId) -> Result<(), PortError> {
        let (site, handle) = (Arc::clone(&self.0), self.handle(run));
        blocking(move || {
            let progress = handle.hydrate_progress().map_err(|e| errors::launch(&e))?;
            if !progress.complete() {
                let text = format!("{} % of the run's disks are its own", progress.percent);
                return Err(PortError::new(ErrorCode::Conflict, text).hint("wait until hydration is over"));
            }
            site.drop_run_mount(&Site::run_mount(run));
            Ok(())
        })
        .await
    }

    async fn group_barrier(&self, servers: &[ServerId], hold: Duration) -> Result<GroupCut, PortError> {
        self.cut_group(servers, hold).await
    }

    async fn verify(&self, server: ServerId, rate: u64) -> Result<(), PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.start_verify(server, rate)).await
    }

    fn rpo_history(&self, server: ServerId, minutes: usize) -> Vec<RpoMinute> {
        self.cell(server).map(|c| c.watched.lock().rpo.minutes(minutes)).unwrap_or_default()
    }

    async fn branches(&self, server: ServerId) -> Result<Vec<Branch>, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.list_branches(server)).await
    }

    async fn delete_branch(&self, server: ServerId, branch: &str) -> Result<(), PortError> {
        self.drop_branch(server, branch).await
    }

    async fn mount_branch(
        &self,
        server: ServerId,
        name: &str,
        branch: &str,
        writable: bool,
    ) -> Result<Mount, PortError> {
        let id = format!("{:08x}", self.entropy.next_u64() as u32);
        let (site, name, branch) = (Arc::clone(&self.0), name.to_owned(), branch.to_owned());
        blocking(move || site.serve_branch(server, &branch, (id, &name, writable))).await
    }

    async fn check_journal(&self, server: ServerId, full: bool) -> Result<CheckReport, PortError> {
        let site = Arc::clone(&self.0);
        blocking(move || site.check(server, full)).await
    }

    fn vault(&self) -> &dyn lifeboat_api::port::VaultPort {
        if self.vault.is_set() { self } else { &lifeboat_api::port::NoVault }
    }

    fn disk_space(&self) -> (u64, u64) {
        (self.space)(&self.dir)
    }
}

/// Free bytes and all bytes of a directory's file system, as `df` counts: what is kept back from processes is in neither.
pub(crate) fn disk_space(dir: &Path) -> (u64, u64) {
    match nix::sys::statvfs::statvfs(dir) {
        Ok(s) => {
            let (free, unit) = (s.blocks_available(), s.fragment_size());
            let all = s.blocks().saturating_sub(s.blocks_free()).saturating_add(free);
            (free.saturating_mul(unit), all.saturating_mul(unit))
        }
        Err(_) => (0, 0),
    }
}

impl Site {
    pub(crate) async fn serve_mount(
        self: &Arc<Self>,
        server: ServerId,
        mount: Mount,
        keep: bool,
    ) -> Result<Mount, PortError> {
        let site = Arc::clone(self);
        blocking(move || {
            let specs = site.specs.read();
            let names = specs.get(&server).map(|s| s.disks.iter().map(|d| d.name.clone()).collect());
            let names: Vec<String> = names.unwrap_or_default();
            drop(specs);
            let id = mount.id.clone();
            let open = |point: PointId| site.open_disks(server, point);
            let mount = site.mounts.serve(server, None, mount, &names, &open)?;
            if keep && let Err(e) = site.mounts.keep(&id) {
                site.mounts.remove(&id);
                return Err(e);
            }
            Ok(mount)
        })
        .await
    }

    fn run_spec(&self, r: &RunRequest) -> Result<RunSpec, PortError> {
        let dir = self.run_dir(r.run);
        let mount = self
            .mounts
            .get(&Site::run_mount(r.run))
            .ok_or_else(|| PortError::new(ErrorCode::Internal, "the run's point is not mounted"))?;
        let mut spec = RunSpec::new(r.run, &r.server_name, &dir);
        spec.server.clone_from(&r.server_name);
        spec.point = r.point.to_string();
        spec.disks = mount
            .disks
            .iter()
            .map(|d| RunDisk {
                nbd_socket: PathBuf::from(&d.socket),
                export: String::new(),
                size: d.size,
                overlay: dir.join(format!("disk{}.qcow2", d.index)),
            })
            .collect();
        spec.cpus = r.launch.cpus;
        spec.memory_mib = r.launch.memory_mib;
        spec.bus = r.launch.bus;
        spec.network = r.launch.network.clone();
        spec.firmware = r.launch.firmware;
        spec.mac.clone_from(&r.launch.mac);
        let mut ports: Vec<u16> = r.launch.ports.iter().chain(&r.check_ports).copied().collect();
        ports.sort_unstable();
        ports.dedup();
        spec.forwards = ports.into_iter().map(|guest_port| Forward { guest_port, host_port: None }).collect();
        spec.disposable = r.kind == RunKind::Drill;
        Ok(spec)
    }
}
