//! Moves what is toward what is wanted. Takes no input: it looks at the store and at the data side.
//!
//! Invariants: one look never waits for ever on the data side; what fails is complained about once and tried
//! again at the next look; nothing here decides, it only carries on what was decided.

use super::stale::Known;
use super::{App, Carry, PATIENCE, within};
use crate::policy::Actor;
use crate::store::{RunRow, ServerRow, StoreError};
use lifeboat_api::lifecycle::{ServerEvent, ServerState};
use lifeboat_api::types::{ApiError, ErrorCode, OperationKind, RunKind, RunState, ServerRuntime, SyncPhase};
use lifeboat_base::ServerId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest wait for what the data side sees of a run.
const LOOK: Duration = Duration::from_secs(5);

/// What was complained about last, so that the log says it once.
#[derive(Default)]
struct Complaints(HashMap<ServerId, String>);

impl Complaints {
    fn note(&mut self, server: &ServerRow, result: Result<(), ApiError>) {
        match result {
            Ok(()) => {
                self.0.remove(&server.id);
            }
            Err(e) => {
                let text = e.to_string();
                if self.0.get(&server.id) != Some(&text) {
                    tracing::warn!(server = server.name, error = text, "not as it should be; tried again");
                    self.0.insert(server.id, text);
                }
            }
        }
    }
}

impl App {
    pub(super) async fn reconcile(self: Arc<Self>) {
        let mut complaints = Complaints::default();
        loop {
            if let Err(error) = self.look(&mut complaints).await {
                tracing::error!(%error, "the reconciler could not look");
            }
            self.looks.fetch_add(1, Ordering::Relaxed);
            Self::pause(&self.wake, self.config.reconcile_every).await;
        }
    }

    async fn look(self: &Arc<Self>, complaints: &mut Complaints) -> Result<(), StoreError> {
        // Before the rows: see `stale`.
        let known = self.known_epochs();
        let servers = self.store.servers().await?;
        let failing_over: HashSet<ServerId> = self
            .store
            .running_operations()
            .await?
            .iter()
            .filter(|o| o.operation.kind == OperationKind::Failover)
            .map(|o| o.server)
            .collect();
        for server in &servers {
            // A failover tells the data side itself; but a data side that has just started is told before
            // operations go on.
            if failing_over.contains(&server.id) && self.asserted.lock().contains_key(&server.id) {
                continue;
            }
            let result = self.look_at(server, &known).await;
            complaints.note(server, result);
        }
        complaints.0.retain(|id, _| servers.iter().any(|s| s.id == *id));
        for operation in self.store.running_operations().await? {
            self.take_up(operation.operation.id);
        }
        self.look_at_verifies(&servers).await;
        if let Err(error) = self.look_at_groups(&servers).await {
            tracing::error!(%error, "the groups could not be looked at");
        }
        self.look_at_runs(&servers).await
    }

    async fn look_at(&self, row: &ServerRow, known: &Known) -> Result<(), ApiError> {
        if row.deleting {
            return within(PATIENCE, self.finish_delete(row)).await;
        }
        let held = match self.catch_up(row, known).await? {
            // What it has become is told now: operations are gone on with after this look.
            true => self.store.server(row.id).await?,
            false => None,
        };
        let row = held.as_ref().unwrap_or(row);
        let spec = row.spec();
        let told = self.asserted.lock().get(&row.id) == Some(&spec);
        let runtime = self.site.runtime(row.id);
        if !told || runtime.is_none() {
            self.assert_server(row.id).await?;
        }
        let Some(runtime) = runtime else { return Ok(()) };
        if row.fault.is_none() {
            for (event, why) in events(row.state, &runtime) {
                self.apply_or_fault(row, event, Carry::default(), why).await?;
            }
        }
        Ok(())
    }

    async fn look_at_runs(self: &Arc<Self>, servers: &[ServerRow]) -> Result<(), StoreError> {
        let busy: HashSet<ServerId> =
            self.store.running_operations().await?.iter().map(|o| o.server).collect();
        let live = self.store.live_runs().await?;
        self.expiries.keep(|id| live.iter().any(|r| r.run.id == *id));
        for row in live {
            let run = &row.run;
            if matches!(run.state, RunState::Running | RunState::Exited)
                && let Ok(status) = within(LOOK, self.site.run_status(run.id)).await
            {
                self.refresh_run(&row, status).await?;
            }
            if !busy.contains(&row.server) {
                self.keep_hydrating(&row, servers).await;
            }
            let over = run.expires.is_some_and(|e| self.expiries.over(&run.id, e, &*self.clock));
            if over && !busy.contains(&row.server) {
                match self.begin_clean_up(&Actor::site(), &row).await {
                    Ok(operation) => self.take_up(operation.id),
                    // An operation was faster; the next look tries again.
                    Err(e) if e.code == ErrorCode::Conflict => {}
                    Err(error) => {
                        tracing::warn!(run = %run.id, %error, "an expired run could not be cleaned up yet")
                    }
                }
            }
        }
        Ok(())
    }

    /// After a restart of `serve`, copying goes on.
    async fn keep_hydrating(&self, row: &RunRow, servers: &[ServerRow]) {
        let run = &row.run;
        let carries = |s: &ServerRow| s.run == Some(run.id) && s.state == ServerState::FailedOver;
        let wanted = run.kind == RunKind::Failover
            && run.state == RunState::Running
            && run.hydrated_percent.unwrap_or(0) < 100
            && servers.iter().any(carries);
        if !wanted || self.hydrating.lock().contains(&run.id) {
            return;
        }
        match within(PATIENCE, self.site.hydrate(run.id)).await {
            Ok(()) => {
                self.hydrating.lock().insert(run.id);
            }
            Err(error) => tracing::debug!(run = %run.id, %error, "copying the disks could not start yet"),
        }
    }
}

/// What has happened to a server in `state`, by what the data side measures, in order.
fn events(state: ServerState, runtime: &ServerRuntime) -> Vec<(ServerEvent, &'static str)> {
    use ServerState::{InitialSync, Initialized, Scanning};
    let mut events = Vec::new();
    if !matches!(state, Initialized | Scanning | InitialSync) {
        return events;
    }
    if runtime.latest.is_some() {
        events.push((ServerEvent::FirstPoint, "a recovery point exists"));
        return events;
    }
    match runtime.sync.as_ref().map(|s| s.phase) {
        Some(SyncPhase::Scan) if state == Initialized => {
            events.push((ServerEvent::ScanStarted, "the agent measures what is to be sent"));
        }
        Some(SyncPhase::Full | SyncPhase::Resync) if state != InitialSync => {
            events.push((ServerEvent::SyncStarted, "content is on its way"));
        }
        _ => {}
    }
    events
}
