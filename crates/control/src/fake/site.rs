//! The data side's port on the small world.

use super::{FakeRun, FakeSite, err};
use async_trait::async_trait;
use lifeboat_api::port::{
    AgentRuntime, GroupCut, PortError, RunRequest, RunStatus, ServerSpec, SitePort, VaultPort,
};
use lifeboat_api::types::*;
use lifeboat_base::{AgentId, Clock, PointId, RunId, ServerId};
use std::time::Duration;

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
                journal: true,
                vault: None,
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

    fn vault(&self) -> &dyn VaultPort {
        &self.vault
    }

    fn disk_space(&self) -> (u64, u64) {
        self.world.lock().space
    }
}
