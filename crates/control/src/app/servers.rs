//! Protecting servers, and letting go of them.

use super::{App, Carry, PATIENCE, conflict, not_found, within};
use crate::policy::Actor;
use crate::store::{AgentRow, Note, ServerRow, StoreError};
use crate::validate;
use lifeboat_api::lifecycle::{ServerEvent, ServerState};
use lifeboat_api::types::{
    ApiError, CaptureSpec, DeleteServerQuery, DiskInfo, ErrorCode, OperationKind, PointInfo, PointsQuery,
    ProtectRequest, RunState, Server,
};
use lifeboat_base::{AgentId, Epoch, ServerId, limits};
use std::collections::HashMap;

const DEFAULT_POINTS: u32 = 20;

impl App {
    pub async fn servers(&self) -> Result<Vec<Server>, ApiError> {
        let names = self.agent_names().await?;
        let rows = self.store.servers().await?;
        Ok(rows.into_iter().filter(|r| !r.deleting).map(|r| self.shown(r, &names)).collect())
    }

    pub async fn server(&self, name: &str) -> Result<Server, ApiError> {
        let row = self.named(name).await?;
        Ok(self.shown(row, &self.agent_names().await?))
    }

    async fn agent_names(&self) -> Result<HashMap<AgentId, String>, ApiError> {
        Ok(self.store.agents().await?.into_iter().map(|a| (a.id, a.name)).collect())
    }

    fn shown(&self, row: ServerRow, agents: &HashMap<AgentId, String>) -> Server {
        let runtime = self.site.runtime(row.id).unwrap_or_default();
        let disks = if runtime.disks.is_empty() { row.disks } else { runtime.disks.clone() };
        Server {
            id: row.id,
            name: row.name,
            agent: row.agent,
            agent_name: agents.get(&row.agent).cloned().unwrap_or_default(),
            capture: row.capture,
            window: row.window,
            launch: row.launch,
            replication: row.replication,
            watch: row.watch,
            retention: row.retention,
            state: row.state,
            epoch: row.epoch.0,
            stale: row.stale,
            created: row.created,
            disks,
            runtime,
            run: row.run,
        }
    }

    /// Protects a server: nothing is kept of it when any part fails.
    pub async fn protect(&self, actor: &Actor, request: ProtectRequest) -> Result<Server, ApiError> {
        validate::name("a server", &request.name)?;
        validate::text("the agent", &request.agent)?;
        validate::capture(&request.capture)?;
        validate::window(&request.window)?;
        validate::launch(&request.launch)?;
        validate::replication(&request.replication, &request.capture)?;
        validate::watch(&request.watch)?;
        validate::retention(&request.retention)?;
        super::vault::retention_allowed(actor, None, &request.retention)?;
        self.catalogue_was_read().await?;
        let _one = self.protecting.lock().await;
        let agent = self.ready_agent(&request.agent).await?;
        self.name_is_free(&request.name).await?;
        let others = self.store.servers().await?;
        let others = || others.iter().filter(|o| o.agent == agent.id && o.state != ServerState::Committed);
        refuse_shared(others(), &request.capture)?;
        let disks = within(PATIENCE, self.site.probe_capture(agent.id, &request.capture)).await?;
        if disks.is_empty() {
            return Err(ApiError::new(ErrorCode::Invalid, "there is no writable disk behind this capture")
                .hint("name the disks, or look at the machine with `query-block`"));
        }
        if disks.len() > limits::MAX_DISKS || disks.iter().any(|d| d.size == 0 || d.size > limits::MAX_DISK) {
            let text = "the agent found disks that cannot be protected";
            return Err(ApiError::new(ErrorCode::Invalid, text)
                .hint(format!("at most {} disks of 1 byte to 1 PiB each", limits::MAX_DISKS)));
        }
        let row = self.new_row(request, agent.id, disks);
        self.add(actor, &row, &agent).await?;
        self.wake.notify_one();
        self.server(&row.name).await
    }

    fn new_row(&self, request: ProtectRequest, agent: AgentId, disks: Vec<DiskInfo>) -> ServerRow {
        ServerRow {
            id: ServerId::random(&*self.entropy),
            name: request.name,
            agent,
            capture: request.capture,
            window: request.window,
            launch: request.launch,
            replication: request.replication,
            watch: request.watch,
            retention: request.retention,
            state: ServerState::Initialized,
            epoch: Epoch(1),
            created: self.now(),
            disks,
            run: None,
            fault: None,
            stale: None,
            deleting: false,
        }
    }

    /// Row first, so that a crash between the two leaves a server that the reconciler completes.
    async fn add(&self, actor: &Actor, row: &ServerRow, agent: &AgentRow) -> Result<(), ApiError> {
        let detail = format!("agent {}, {} disks", agent.name, row.disks.len());
        let note = Note::done(&actor.name, "server.protect", &row.name, detail);
        match self.store.insert_server(row, &note).await {
            Err(StoreError::Taken(_)) => return Err(name_taken(&row.name)),
            other => other?,
        }
        let Err(error) = self.assert_server(row.id).await else { return Ok(()) };
        let undone = Note::done("site", "server.undo", &row.name, error.to_string());
        if !self.store.mark_deleting(row.id, &undone).await? {
            return Err(error.hint("a group has it already, so it stays; delete the group, then the server"));
        }
        // What fails here is finished by the reconciler.
        if let Err(e) = self.finish_delete(row).await {
            tracing::warn!(server = row.name, error = %e, "undoing a failed protection goes on in the background");
        }
        Err(error)
    }

    async fn name_is_free(&self, name: &str) -> Result<(), ApiError> {
        match self.store.server_named(name).await? {
            None => Ok(()),
            Some(row) if row.deleting => Err(conflict(format!("the server '{name}' is still being deleted"))
                .hint("try again in a moment, or choose another name")),
            Some(_) => Err(name_taken(name)),
        }
    }

    /// The agent called `name`, or with that id, if it can be asked something now.
    async fn ready_agent(&self, name: &str) -> Result<AgentRow, ApiError> {
        let agent = self.agent_named(name).await?;
        if agent.revoked {
            return Err(conflict(format!("the agent '{}' was revoked", agent.name))
                .hint("join it again with a new join token"));
        }
        if self.site.agents().iter().any(|a| a.id == agent.id) {
            return Ok(agent);
        }
        Err(ApiError::new(ErrorCode::Unavailable, format!("the agent '{}' is not connected", agent.name))
            .hint("start `lifeboat-agent run` on its host and see its log"))
    }

    /// Stops replication; the points stay.
    pub async fn stop_server(&self, actor: &Actor, name: &str) -> Result<Server, ApiError> {
        self.switch(actor, name, ServerEvent::StopRequested, "stop").await
    }

    /// Starts replication of a stopped server again, in the same epoch.
    pub async fn resume_server(&self, actor: &Actor, name: &str) -> Result<Server, ApiError> {
        self.switch(actor, name, ServerEvent::ResumeRequested, "resume").await
    }

    async fn switch(
        &self,
        actor: &Actor,
        name: &str,
        event: ServerEvent,
        verb: &str,
    ) -> Result<Server, ApiError> {
        let row = self.named(name).await?;
        if event == ServerEvent::ResumeRequested {
            super::stale::refuse(&row)?;
        }
        if let Some(op) = self.store.running_operation(row.id).await?
            && matches!(op.operation.kind, OperationKind::Failover | OperationKind::Commit)
        {
            return Err(super::operations::busy(&op.operation));
        }
        let action = format!("{verb} requested");
        if self.apply(row.id, event, Carry::default(), &actor.name, &action).await?.is_none() {
            let hint = match (event, row.state) {
                (ServerEvent::StopRequested, ServerState::Stopped) => "it is stopped already".into(),
                (ServerEvent::StopRequested, _) => {
                    "it does not replicate, so there is nothing to stop".into()
                }
                (_, s) if s.wants_capture() => "it replicates already".to_string(),
                (_, s) => format!("a server can be resumed when it is stopped, and this one is {s}"),
            };
            return Err(conflict(format!("'{}' is {}; it cannot {verb}", row.name, row.state)).hint(hint));
        }
        if let Some(row) = self.store.server(row.id).await?
            && let Err(error) = self.assert_server(row.id).await
        {
            tracing::warn!(server = row.name, %error, "the data side is told again in a moment");
        }
        self.server(name).await
    }

    /// Forgets a server and deletes its points.
    pub async fn delete_server(
        &self,
        actor: &Actor,
        name: &str,
        query: &DeleteServerQuery,
    ) -> Result<(), ApiError> {
        let row = self.named(name).await?;
        if !query.confirm_points {
            return Err(conflict(format!("deleting '{}' deletes all its recovery points", row.name))
                .hint("say so with confirm_points=true, or stop it and keep them"));
        }
        if let Some(op) = self.store.running_operation(row.id).await? {
            return Err(super::operations::busy(&op.operation));
        }
        let live = self.store.live_runs().await?;
        let carried = live.iter().any(|r| Some(r.run.id) == row.run && r.run.state != RunState::Exited);
        if row.state == ServerState::Committed
            && let Some(run) = live.iter().find(|r| Some(r.run.id) == row.run)
        {
            return Err(conflict(format!("'{}' runs at this site, as run {}", row.name, run.run.id))
                .hint("end that machine first: lifeboat cleanup RUN --delete-disks"));
        }
        if row.state == ServerState::FailingOver || (row.state == ServerState::FailedOver && carried) {
            return Err(conflict(format!(
                "'{}' is {}: the machine that runs here needs its points",
                row.name, row.state
            ))
            .hint("commit it first"));
        }
        if let Some(run) = live.iter().find(|r| r.server == row.id && Some(r.run.id) != row.run) {
            return Err(conflict(format!("the run {} still uses a point of '{}'", run.run.id, row.name))
                .hint("clean it up first"));
        }
        if let Some(mount) = self.site.mounts().iter().find(|m| m.server == row.name) {
            return Err(conflict(format!("the mount '{}' still uses a point of '{}'", mount.id, row.name))
                .hint("unmount it first"));
        }
        within(PATIENCE, self.port().may_forget(row.id)).await?;
        let note = Note::done(&actor.name, "server.delete", &row.name, "with all recovery points");
        if !self.store.mark_deleting(row.id, &note).await? {
            let groups = self.store.groups_of(row.id).await?;
            let first = groups.first().cloned().unwrap_or_default();
            return Err(conflict(format!("'{}' is in the group '{}'", row.name, groups.join("', '")))
                .hint(format!("delete the group first: `lifeboat group delete {first}`; its servers stay")));
        }
        // Decided and remembered: what fails now is finished by the reconciler.
        if let Err(error) = self.finish_delete(&row).await {
            tracing::warn!(server = row.name, %error, "deleting goes on in the background");
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes a server that is marked out of the data side, then out of the store.
    pub(super) async fn finish_delete(&self, row: &ServerRow) -> Result<(), ApiError> {
        self.asserted.lock().remove(&row.id);
        self.site.forget_server(row.id).await?;
        let note = Note::done("site", "server.deleted", &row.name, "points deleted");
        Ok(self.store.delete_server(row.id, &note).await?)
    }

    pub async fn points(&self, name: &str, query: &PointsQuery) -> Result<Vec<PointInfo>, ApiError> {
        let row = self.named(name).await?;
        for text in [&query.from, &query.to].into_iter().flatten() {
            validate::text("a point", text)?;
        }
        let limit = row_limit(query.limit, DEFAULT_POINTS)?;
        self.site.points(row.id, query.from.as_deref(), query.to.as_deref(), limit as usize).await
    }

    pub async fn point(&self, name: &str, point: &str) -> Result<PointInfo, ApiError> {
        let row = self.named(name).await?;
        validate::text("the point", point)?;
        self.site.resolve_point(row.id, point).await
    }

    /// The agent called `name` that is not revoked, or the one with that id.
    pub(super) async fn agent_named(&self, name: &str) -> Result<AgentRow, ApiError> {
        let id = name.parse::<AgentId>().ok();
        let mut agents = self.store.agents().await?;
        agents.retain(|a| a.name == name || Some(a.id) == id);
        // Of revoked agents that had the name, the newest.
        agents.sort_by_key(|a| (!a.revoked, a.joined));
        agents
            .pop()
            .ok_or_else(|| not_found("agent", name).hint("`lifeboat agents` lists the agents of this site"))
    }
}

/// How many rows a listing may have.
pub(super) fn row_limit(asked: Option<u32>, default: u32) -> Result<u32, ApiError> {
    match asked {
        None => Ok(default),
        Some(n) if (1..=limits::MAX_API_ROWS).contains(&n) => Ok(n),
        Some(n) => Err(ApiError::new(
            ErrorCode::Invalid,
            format!("a limit is 1 to {}, not {n}", limits::MAX_API_ROWS),
        )),
    }
}

fn name_taken(name: &str) -> ApiError {
    conflict(format!("a server '{name}' exists already"))
        .hint("choose another name, or delete that one first")
}

/// Refuses a capture that shares a disk with one of `others`.
fn refuse_shared<'a>(
    others: impl Iterator<Item = &'a ServerRow>,
    capture: &CaptureSpec,
) -> Result<(), ApiError> {
    for other in others {
        if let Some(what) = shared(capture, &other.capture) {
            return Err(conflict(format!("{what} is already protected as '{}'", other.name))
                .hint("two captures of one disk cannot both be right; delete that server first"));
        }
    }
    Ok(())
}

fn shared(a: &CaptureSpec, b: &CaptureSpec) -> Option<String> {
    match (a, b) {
        // One monitor serves one client, so one machine is one server, whichever of its disks are meant.
        (CaptureSpec::Mirror { qmp, .. }, CaptureSpec::Mirror { qmp: other, .. }) if qmp == other => {
            Some(format!("the machine at {qmp}"))
        }
        (CaptureSpec::Splitter { paths: a, .. }, CaptureSpec::Splitter { paths: b, .. }) => {
            a.iter().find(|p| b.contains(p)).map(|p| format!("the disk {p}"))
        }
        _ => None,
    }
}
