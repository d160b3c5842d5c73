//! The rules: what may happen, when, and what is remembered of it.
//!
//! Invariants: every change goes through the store with its audit entry before it is answered (I6); a server moves
//! only along the lifecycle table, by compare-and-swap on the state it was in; its epoch never falls (I4); an
//! operation is a row with steps, and whatever dies, the next start goes on from the first unfinished step. The
//! data side is reached only through [`SitePort`], whose calls may be repeated.

mod agents;
mod alarms;
mod audit;
mod backups;
mod catalogue;
mod deadlines;
mod engine;
mod failover;
mod group_runs;
mod groups;
mod mounts;
mod operations;
mod reconcile;
mod runs;
mod servers;
mod settings;
mod stale;
mod steps;
mod tokens;
mod vault;
mod vault_alarms;
mod watch;
mod work;

pub use tokens::Admission;

use crate::gate::Gate;
use crate::kit::KitSource;
use crate::limit::RefusalLimit;
use crate::store::{Note, ServerChange, ServerRow, Store};
use crate::validate;
use deadlines::Deadlines;
use lifeboat_api::lifecycle::{ServerEvent, ServerState};
use lifeboat_api::port::{ServerSpec, SitePort};
use lifeboat_api::types::{ApiError, BackupSet, ErrorCode};
use lifeboat_base::{AgentId, Clock, Entropy, Epoch, OperationId, RunId, ServerId, WallTime};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Settings of control: plain data.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    pub site: String,
    pub version: String,
    /// `HOST:PORT` of the replication listener as agents reach it; the host may be empty.
    pub replication: String,
    /// An older newest point than this raises an alarm.
    pub rpo_alarm: Duration,
    /// How often the reconciler looks.
    pub reconcile_every: Duration,
    /// When the certificate of the site's own listeners ends.
    pub server_certificate_expires: Option<WallTime>,
    /// Scripts that operators may run at the site, besides admins.
    pub scripts: Option<PathBuf>,
    /// What recovery kits are made of; `None` where the site has no vault.
    pub kit: Option<KitSource>,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            site: "site".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            replication: ":1500".into(),
            rpo_alarm: Duration::from_secs(60),
            reconcile_every: Duration::from_millis(500),
            server_certificate_expires: None,
            scripts: None,
            kit: None,
        }
    }
}

/// Control's brain. One per site; shared.
pub struct App {
    store: Store,
    gate: Arc<Gate>,
    site: Arc<dyn SitePort>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    config: ControlConfig,
    /// Wakes the reconciler before its time.
    wake: Notify,
    /// One protect at a time, so that two cannot take one disk.
    protecting: tokio::sync::Mutex<()>,
    /// Operations being carried out by this process, each with what wakes it to be cancelled.
    driving: Mutex<HashMap<OperationId, Arc<Notify>>>,
    /// What the data side was last told of each server.
    asserted: Mutex<HashMap<ServerId, ServerSpec>>,
    /// Failover runs whose hydration this process has started.
    hydrating: Mutex<HashSet<RunId>>,
    /// When drills, and what could not be cleaned up, are over.
    expiries: Deadlines<RunId>,
    /// When tokens end, by their ids.
    token_ends: Deadlines<String>,
    /// Servers in which a group's barrier is being cut.
    cutting: Mutex<HashSet<ServerId>>,
    /// When groups get their next barrier, by the monotonic clock.
    group_due: Mutex<HashMap<String, Duration>>,
    /// Agents that were told to compare, until that shows.
    verifying: Mutex<HashMap<AgentId, Duration>>,
    /// Servers whose journals are being checked.
    checking: Mutex<HashSet<ServerId>>,
    /// How often the reconciler has looked.
    looks: AtomicU64,
    /// The same of what keeps the vault in step.
    vault_looks: AtomicU64,
    /// Wakes what keeps the vault in step.
    wake_vault: Notify,
    /// The backup sets the data side was last told.
    told_sets: Mutex<Option<Vec<BackupSet>>>,
    /// The catalogue this process put into the vault last, as text.
    kept_catalogue: Mutex<Option<String>>,
    backlog: Mutex<Option<vault_alarms::Backlog>>,
    /// Why the vault does not know all it should, or the store not what the vault knows.
    vault_trouble: Mutex<Option<String>>,
    refusals: RefusalLimit,
    tasks: Mutex<JoinSet<()>>,
}

pub(crate) fn not_found(what: &str, name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {what} '{}'", validate::shown(name)))
}

pub(crate) fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Conflict, message)
}

/// Longest wait for the data side to do something that should take no time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for a step of an operation, where the request sets no limit of its own. A step that hangs must
/// not keep its server from failing over for ever.
const STEP: Duration = Duration::from_secs(300);

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("the data side did not answer within {} s", limit.as_secs()),
        )
        .hint("see the log of `lifeboat serve`")),
    }
}

/// What an event takes with it besides the state.
#[derive(Debug, Clone, Copy, Default)]
struct Carry {
    epoch: Option<Epoch>,
    /// The run that carries the server from now on; kept as it is by `None`.
    run: Option<Option<RunId>>,
}

impl App {
    pub fn new(
        store: Store,
        gate: Arc<Gate>,
        site: Arc<dyn SitePort>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        config: ControlConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            gate,
            site,
            clock,
            entropy,
            config,
            wake: Notify::new(),
            protecting: tokio::sync::Mutex::new(()),
            driving: Mutex::default(),
            asserted: Mutex::default(),
            hydrating: Mutex::default(),
            expiries: Deadlines::new(validate::LONGEST_KEEP),
            token_ends: Deadlines::new(tokens::LONGEST),
            cutting: Mutex::default(),
            group_due: Mutex::default(),
            verifying: Mutex::default(),
            checking: Mutex::default(),
            looks: AtomicU64::new(0),
            vault_looks: AtomicU64::new(0),
            wake_vault: Notify::new(),
            told_sets: Mutex::default(),
            kept_catalogue: Mutex::default(),
            backlog: Mutex::default(),
            vault_trouble: Mutex::default(),
            refusals: RefusalLimit::default(),
            tasks: Mutex::default(),
        })
    }

    /// Starts the reconciler, which also resumes operations, and the writer of audit entries. Call once, within
    /// a tokio runtime.
    pub fn start(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock();
        tasks.spawn(self.gate.clone().write_notes());
        tasks.spawn(self.clone().reconcile());
        tasks.spawn(self.clone().keep_vault());
    }

    /// Ends every task of this process. Operations under way stay in the store and are resumed by the next start.
    pub async fn stop(&self) {
        // The reconciler may start one more while it is being ended.
        loop {
            let mut tasks = std::mem::take(&mut *self.tasks.lock());
            if tasks.is_empty() {
                return;
            }
            tasks.shutdown().await;
        }
    }

    pub fn config(&self) -> &ControlConfig {
        &self.config
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn now(&self) -> WallTime {
        self.clock.wall()
    }

    #[cfg(test)]
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn vault_looks(&self) -> u64 {
        self.vault_looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes an audit entry on its own; what failed must not fail because of it.
    pub(crate) async fn note(&self, note: Note) {
        if let Err(e) = self.store.note(&note).await {
            tracing::error!(error = %e, ?note, "an audit entry could not be written");
        }
    }

    /// Audits a request that was refused or failed.
    pub(crate) async fn refused(&self, actor: &str, action: &str, target: &str, error: &ApiError) {
        let outcome = match error.code {
            ErrorCode::Invalid
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::NotFound
            | ErrorCode::Conflict => "refused",
            ErrorCode::Unavailable | ErrorCode::NoSpace | ErrorCode::Corrupt | ErrorCode::Internal => {
                "failed"
            }
        };
        self.note(Note::done(actor, action, target, error.to_string()).outcome(outcome)).await;
    }

    /// Audits a refusal of somebody unknown, without letting a flood of them fill the log.
    pub(crate) async fn stranger_refused(&self, address: &str, action: &str, error: &ApiError) {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let verdict = self.refusals.judge(&format!("{host} {action}"), self.clock.monotonic());
        if verdict.untold > 0 {
            let detail = format!("{} more refusals within a minute", verdict.untold);
            self.note(Note::done("site", action, "", detail).outcome("refused")).await;
        }
        if verdict.tell {
            self.refused("unknown", action, address, error).await;
        }
    }

    /// The server called `name`, or with that id.
    async fn named(&self, name: &str) -> Result<ServerRow, ApiError> {
        let row = match name.parse::<ServerId>() {
            Ok(id) => self.store.server(id).await?,
            Err(_) => self.store.server_named(name).await?,
        };
        row.filter(|r| !r.deleting)
            .ok_or_else(|| not_found("server", name).hint("`lifeboat status` lists the servers of this site"))
    }

    /// Moves a server along the lifecycle table. `Ok(None)` when the event is not allowed in its state.
    async fn apply(
        &self,
        server: ServerId,
        event: ServerEvent,
        carry: Carry,
        actor: &str,
        detail: &str,
    ) -> Result<Option<ServerState>, ApiError> {
        // Somebody else may move it between the look and the change; each round they made progress.
        for _ in 0..16 {
            let Some(row) = self.store.server(server).await? else { return Err(not_found("server", "")) };
            let Some(to) = row.state.next(event) else { return Ok(None) };
            let change = ServerChange {
                from: row.state,
                to,
                epoch: carry.epoch.unwrap_or(row.epoch).max(row.epoch),
                run: carry.run.unwrap_or(row.run),
            };
            let detail = format!("{} -> {to}, epoch {}; {detail}", row.state, change.epoch);
            let note = Note::done(actor, "server.state", &row.name, detail);
            if self.store.change_server(server, &change, &note).await? {
                tracing::info!(server = row.name, from = %row.state, %to, "server state");
                self.wake.notify_one();
                return Ok(Some(to));
            }
        }
        Err(ApiError::new(ErrorCode::Unavailable, "the server's state keeps changing; try again"))
    }

    /// Like [`apply`](Self::apply), for the site's own moves, which only a mistake in control can make illegal:
    /// the server is set aside with a fault, nothing else is touched.
    async fn apply_or_fault(
        &self,
        server: &ServerRow,
        event: ServerEvent,
        carry: Carry,
        detail: &str,
    ) -> Result<(), ApiError> {
        if self.apply(server.id, event, carry, "site", detail).await?.is_some() {
            return Ok(());
        }
        let fault = format!("{event:?} is not allowed in the state it was in");
        tracing::error!(server = server.name, fault, "illegal transition");
        let note = Note::done("site", "server.fault", &server.name, &fault).outcome("failed");
        self.store.set_fault(server.id, &fault, &note).await?;
        Err(ApiError::new(ErrorCode::Internal, fault))
    }

    /// Tells the data side what to hold for a server: what the store says now. Nobody waits for another who tells it too,
    /// who may hang; so what was told is held against the store afterwards: an older word that came after a newer one
    /// is told anew by the reconciler, and one that came after the server was forgotten is taken back.
    async fn assert_server(&self, id: ServerId) -> Result<(), ApiError> {
        let Some(row) = self.store.server(id).await?.filter(|r| !r.deleting) else { return Ok(()) };
        let spec = row.spec();
        let told = within(PATIENCE, self.site.ensure_server(&spec)).await;
        match self.store.server(id).await?.filter(|r| !r.deleting) {
            None => within(PATIENCE, self.site.forget_server(id)).await,
            Some(now) => {
                if told.is_ok() && now.spec() == spec {
                    self.asserted.lock().insert(id, spec);
                } else {
                    self.asserted.lock().remove(&id);
                    self.wake.notify_one();
                }
                told
            }
        }
    }

    /// Waits for a wake-up of `notify`, at most `limit`.
    async fn pause(notify: &Notify, limit: Duration) {
        let _ = tokio::time::timeout(limit, notify.notified()).await;
    }
}

#[cfg(test)]
mod tests;
