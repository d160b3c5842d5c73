//! Asking for operations, and looking at them.

use super::work::{Job, Launching, Memory, Work, pending};
use super::{App, conflict, not_found};
use crate::policy::{Actor, Role};
use crate::store::{NewOperation, Note, RunRow, ServerRow, StoreError};
use crate::validate;
use lifeboat_api::lifecycle::{ServerEvent, ServerState};
use lifeboat_api::types::{
    ApiError, DrillRequest, ErrorCode, FailoverRequest, LaunchOverrides, Operation, OperationKind,
    OperationState, OperationsQuery, Run, RunKind, RunState, RunTimes,
};
use lifeboat_base::{OperationId, RunId, WallTime};
use std::path::{Component, Path};
use std::time::Duration;

const DEFAULT_OPERATIONS: u32 = 50;

/// Another operation stands in the way.
pub(super) fn busy(op: &Operation) -> ApiError {
    let kind = match op.kind {
        OperationKind::Drill => "a drill",
        OperationKind::DrillCleanup => "a clean-up",
        OperationKind::Failover => "a failover",
        OperationKind::Commit => "a commit",
    };
    let e = conflict(format!("{kind} of '{}' is running since {} ({})", op.server, op.started, op.id));
    match (op.kind, op.run) {
        (OperationKind::Drill, Some(run)) => {
            e.hint(format!("wait for it, or end it by cleaning up its run {run}"))
        }
        _ => e.hint("wait for it to end"),
    }
}

impl App {
    pub async fn operations(&self, query: &OperationsQuery) -> Result<Vec<Operation>, ApiError> {
        let limit = super::servers::row_limit(query.limit, DEFAULT_OPERATIONS)?;
        if let Some(server) = &query.server {
            validate::text("the server", server)?;
        }
        let rows = self.store.operations(query.server.as_deref(), limit).await?;
        Ok(rows.into_iter().map(|r| r.operation).collect())
    }

    pub async fn operation(&self, id: OperationId) -> Result<Operation, ApiError> {
        let row = self.store.operation(id).await?;
        Ok(row.ok_or_else(|| not_found("operation", &id.to_string()))?.operation)
    }

    /// Starts a drill.
    pub async fn drill(&self, actor: &Actor, name: &str, r: &DrillRequest) -> Result<Operation, ApiError> {
        let server = self.named(name).await?;
        let new = self.plan_drill(actor, &server, r).await?;
        self.begin(new).await
    }

    /// Decides everything about a drill. Changes nothing.
    pub(super) async fn plan_drill(
        &self,
        actor: &Actor,
        server: &ServerRow,
        r: &DrillRequest,
    ) -> Result<NewOperation, ApiError> {
        validate::checks(&r.point, &r.checks, r.post_script.as_deref(), r.check_seconds)?;
        validate::keep(r.keep_seconds)?;
        self.scripts_allowed(actor, &r.checks, r.post_script.as_deref())?;
        let ask = Ask {
            point: &r.point,
            launch: &r.launch,
            checks: &r.checks,
            check_seconds: r.check_seconds,
            post_script: r.post_script.as_ref(),
        };
        let launching = self.launching(server, &ask).await?;
        let run = self.new_run(server, &launching, RunKind::Drill);
        let work = Work::Drill { launching, keep_seconds: r.keep_seconds };
        self.plan(actor, &Target::from(server), work, Some(run), "")
    }

    /// Scripts run on the site's host with the site's rights: an admin may name any, others only what an admin
    /// has put into the site's directory of scripts.
    fn scripts_allowed(&self, actor: &Actor, checks: &[String], post: Option<&str>) -> Result<(), ApiError> {
        if actor.role == Role::Admin {
            return Ok(());
        }
        let scripts = checks.iter().filter_map(|c| c.strip_prefix("script:")).chain(post);
        let strange = |s: &&str| {
            let path = Path::new(s);
            let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            !plain || !self.config.scripts.as_ref().is_some_and(|dir| path.starts_with(dir))
        };
        match scripts.into_iter().find(strange) {
            None => Ok(()),
            Some(script) => {
                let dir = self.config.scripts.as_ref().map(|d| d.display().to_string()).unwrap_or_default();
                Err(ApiError::new(
                    ErrorCode::Forbidden,
                    format!("only an admin may run '{script}' at the site"),
                )
                .hint(format!("an admin can put it into {dir}, where operators may run it too")))
            }
        }
    }

    /// Starts a failover, or changes the point of one.
    pub async fn failover(
        &self,
        actor: &Actor,
        name: &str,
        r: &FailoverRequest,
    ) -> Result<Operation, ApiError> {
        let server = self.named(name).await?;
        let new = self.plan_failover(actor, &server, r).await?;
        self.begin(new).await
    }

    /// Decides everything about a failover. Changes nothing.
    pub(super) async fn plan_failover(
        &self,
        actor: &Actor,
        server: &ServerRow,
        r: &FailoverRequest,
    ) -> Result<NewOperation, ApiError> {
        validate::checks(&r.point, &r.checks, r.post_script.as_deref(), r.check_seconds)?;
        self.scripts_allowed(actor, &r.checks, r.post_script.as_deref())?;
        super::stale::refuse(server)?;
        if server.state.next(ServerEvent::FailoverStarted).is_none() {
            let hint = match server.state {
                ServerState::FailingOver => "a failover is under way; see `lifeboat status`",
                ServerState::Committed => "it runs at this site for good; protect it anew",
                _ => "it has no recovery point yet; wait until it is replicating",
            };
            return Err(
                conflict(format!("'{}' is {} and cannot fail over", server.name, server.state)).hint(hint)
            );
        }
        let change = server.state == ServerState::FailedOver;
        if change && !r.discard_current {
            return Err(conflict(format!(
                "'{}' runs at this site; another point throws away all it wrote since",
                server.name
            ))
            .hint("say so with discard_current, or commit it"));
        }
        let ask = Ask {
            point: &r.point,
            launch: &r.launch,
            checks: &r.checks,
            check_seconds: r.check_seconds,
            post_script: r.post_script.as_ref(),
        };
        let launching = self.launching(server, &ask).await?;
        let run = self.new_run(server, &launching, RunKind::Failover);
        let work = Work::Failover {
            launching,
            latest: r.point.trim().eq_ignore_ascii_case("latest"),
            epoch: (!change).then(|| server.epoch.next()),
            previous: server.run.filter(|_| change),
        };
        // Whoever asks knows more than this site can: it is done, and it stands in the log.
        let alive = match change {
            true => String::new(),
            false => self.source_lives(server).map_or(String::new(), |how| format!(", forced: {how}")),
        };
        self.plan(actor, &Target::from(server), work, Some(run), &alive)
    }

    /// How this site sees that the source still lives, if it does.
    fn source_lives(&self, server: &ServerRow) -> Option<String> {
        let runtime = self.site.runtime(server.id)?;
        let agent = self.site.agents().into_iter().find(|a| a.id == server.agent);
        let rpo = runtime.rpo_ms.map_or("unknown".into(), |ms| format!("{ms} ms"));
        match (runtime.connected, agent) {
            (true, Some(a)) => Some(format!(
                "the source was alive, its agent at {} connected and sending, RPO {rpo}",
                a.address
            )),
            (true, None) => Some(format!("the source was alive and sending, RPO {rpo}")),
            (false, Some(a)) => Some(format!("the source's agent at {} was connected", a.address)),
            (false, None) => None,
        }
    }

    /// Makes a failover final.
    pub async fn commit(&self, actor: &Actor, name: &str) -> Result<Operation, ApiError> {
        let server = self.named(name).await?;
        super::stale::refuse(&server)?;
        match (server.state, server.run) {
            (ServerState::FailedOver, Some(run)) => {
                let new = self.plan(actor, &Target::from(&server), Work::Commit { run }, None, "")?;
                self.begin(new).await
            }
            (state, _) => Err(conflict(format!("'{}' is {state}; there is nothing to commit", server.name))
                .hint("only a server that is failed-over can be committed")),
        }
    }

    /// Ends a drill: cancels it while it is being carried out, cleans its run up afterwards.
    ///
    /// `confirm_disks`: the machine of a failover, which may be the only one there is, may be ended and its disks deleted.
    pub async fn clean_up(
        &self,
        actor: &Actor,
        id: RunId,
        confirm_disks: bool,
    ) -> Result<Operation, ApiError> {
        let row = self.store.run(id).await?.ok_or_else(|| not_found("run", &id.to_string()))?;
        if row.run.state == RunState::CleanedUp {
            return Err(conflict("the run is cleaned up already"));
        }
        if let Some(op) = self.store.running_operation(row.server).await? {
            let own = op.operation.run == Some(id);
            return match op.operation.kind {
                OperationKind::Drill if own => match self.cancel(actor, &op.operation).await? {
                    true => self.operation(op.operation.id).await,
                    false => self.begin_clean_up(actor, &row).await,
                },
                OperationKind::DrillCleanup if own => Ok(op.operation),
                _ => Err(busy(&op.operation)),
            };
        }
        let server = self.store.server(row.server).await?;
        let carries = |s: &ServerRow| s.run == Some(id) && s.state != ServerState::Committed;
        if server.as_ref().is_some_and(carries) {
            return Err(conflict(format!("the run carries '{}'", row.run.server))
                .hint("choose another point with a failover that discards it, or commit it"));
        }
        if row.run.kind == RunKind::Failover && !confirm_disks {
            return Err(conflict(format!(
                "this is the machine '{}' runs on since its failover, not a drill's",
                row.run.server
            ))
            .hint("to end it and delete its disks for good, say so with confirm_disks"));
        }
        self.begin_clean_up(actor, &row).await
    }

    /// A clean-up of a run nothing else works on. The server may be gone already.
    pub(super) async fn begin_clean_up(&self, actor: &Actor, row: &RunRow) -> Result<Operation, ApiError> {
        let target = Target { id: row.server, name: &row.run.server };
        let new = self.plan(actor, &target, Work::CleanUp { run: row.run.id }, None, "")?;
        self.begin(new).await
    }

    /// False when it had ended already.
    async fn cancel(&self, actor: &Actor, op: &Operation) -> Result<bool, ApiError> {
        let note = Note::done(&actor.name, "drill.cancel", &op.server, format!("operation {}", op.id));
        let running = self.store.cancel_operation(op.id, &note).await?;
        if let Some(wake) = self.driving.lock().get(&op.id) {
            wake.notify_one();
        }
        Ok(running)
    }

    /// Everything about a launch that is decided at the request. Changes nothing.
    async fn launching(&self, server: &ServerRow, ask: &Ask<'_>) -> Result<Launching, ApiError> {
        let launch = validate::overridden(&server.launch, ask.launch)?;
        let mut check_ports = Vec::new();
        for check in ask.checks {
            check_ports.extend(self.site.parse_check(check)?);
        }
        check_ports.sort_unstable();
        check_ports.dedup();
        let point = self.site.resolve_point(server.id, ask.point).await?;
        let runtime = self.site.runtime(server.id).unwrap_or_default();
        let source_now = match (runtime.latest, runtime.rpo_ms) {
            (Some(latest), Some(age)) => Some(latest.time.saturating_add(Duration::from_millis(age))),
            _ => None,
        };
        Ok(Launching {
            run: RunId::random(&*self.entropy),
            point,
            launch,
            checks: ask.checks.to_vec(),
            check_ports,
            check_seconds: ask.check_seconds,
            post_script: ask.post_script.cloned(),
            source_now,
        })
    }

    fn new_run(&self, server: &ServerRow, l: &Launching, kind: RunKind) -> RunRow {
        let run = Run {
            id: l.run,
            kind,
            server: server.name.clone(),
            point: l.point.clone(),
            launch: l.launch.clone(),
            state: RunState::Starting,
            started: self.now(),
            expires: None,
            acceleration: String::new(),
            forwards: Vec::new(),
            checks: Vec::new(),
            times: RunTimes::default(),
            directory: String::new(),
            hydrated_percent: (kind == RunKind::Failover).then_some(0),
            rpo_ms: Some(rpo_ms(l, &l.point, self.now())),
        };
        RunRow { server: server.id, run }
    }

    fn plan(
        &self,
        actor: &Actor,
        server: &Target<'_>,
        work: Work,
        run: Option<RunRow>,
        remark: &str,
    ) -> Result<NewOperation, ApiError> {
        let operation = Operation {
            id: OperationId::random(&*self.entropy),
            kind: work.kind(),
            server: server.name.into(),
            state: OperationState::Running,
            steps: pending(work.steps()),
            started: self.now(),
            ended: None,
            error: None,
            run: Some(work.run()),
            actor: actor.name.clone(),
        };
        let action = match work.kind() {
            OperationKind::Drill => "drill.start",
            OperationKind::DrillCleanup => "run.clean-up",
            OperationKind::Failover => "failover.start",
            OperationKind::Commit => "commit.start",
        };
        let point = work.launching().map_or(String::new(), |l| format!(", point {}", l.point.id));
        let detail = format!("operation {}, run {}{point}{remark}", operation.id, work.run());
        let note = Note::done(&actor.name, action, server.name, detail);
        let job = Job { server: server.id, operation, work, memory: Memory::default(), cancel: false };
        Ok(NewOperation { row: job.row()?, run, note })
    }

    async fn begin(&self, new: NewOperation) -> Result<Operation, ApiError> {
        self.store_all(std::slice::from_ref(&new)).await?;
        Ok(new.row.operation)
    }

    /// Begins all of them or none.
    pub(super) async fn store_all(&self, all: &[NewOperation]) -> Result<(), ApiError> {
        match self.store.begin_operations(all).await {
            Err(StoreError::Taken(_)) => {
                for new in all {
                    if let Some(op) = self.store.running_operation(new.row.server).await? {
                        return Err(busy(&op.operation));
                    }
                }
                return Err(ApiError::new(
                    ErrorCode::Unavailable,
                    "another operation has just ended; try again",
                ));
            }
            other => other?,
        }
        self.wake.notify_one();
        Ok(())
    }
}

/// What an operation is for.
struct Target<'a> {
    id: lifeboat_base::ServerId,
    name: &'a str,
}

impl<'a> From<&'a ServerRow> for Target<'a> {
    fn from(row: &'a ServerRow) -> Self {
        Self { id: row.id, name: &row.name }
    }
}

/// The part of a request that drills and failovers share.
struct Ask<'a> {
    point: &'a str,
    launch: &'a LaunchOverrides,
    checks: &'a [String],
    check_seconds: u64,
    post_script: Option<&'a String>,
}

/// Age of a point when the run was asked for. By the source's clock as it was last known where it is known, else
/// by this site's.
pub(super) fn rpo_ms(l: &Launching, point: &lifeboat_api::types::PointInfo, asked: WallTime) -> u64 {
    let age = match l.source_now {
        Some(source_now) => source_now.since(point.time),
        None => asked.since(point.received),
    };
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
