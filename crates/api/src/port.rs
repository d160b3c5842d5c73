//! The two ports between control and the data side of a site.
//!
//! Control decides and remembers; the data side receives, keeps, mounts and launches. Control
//! reaches it only through [`SitePort`]; it asks control back only through [`ControlPort`]. Every
//! [`SitePort`] call may be repeated: doing it again when it is done already succeeds.

mod vault;

pub use vault::{Content, FilesAt, NoVault, VaultPort};

use crate::types::{
    ApiError, Branch, CaptureSpec, CheckReport, CheckResult, DiskInfo, ErrorCode, ForwardInfo,
    LaunchSettings, Mount, PointInfo, ReplicationSpec, RetentionSpec, RpoMinute, RunKind, ServerRuntime,
    WindowSpec,
};
use async_trait::async_trait;
use lifeboat_base::{AgentId, Epoch, PointId, RunId, ServerId, WallTime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why the data side could not do it: already in the API's own words.
pub type PortError = ApiError;

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

/// What control wants the data side to hold for one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    pub id: ServerId,
    pub name: String,
    pub agent: AgentId,
    pub epoch: Epoch,
    pub capture: CaptureSpec,
    /// Disks as first probed: their order never changes.
    pub disks: Vec<DiskInfo>,
    pub window: WindowSpec,
    #[serde(default)]
    pub replication: ReplicationSpec,
    #[serde(default)]
    pub retention: RetentionSpec,
    /// False: keep the journal, capture nothing.
    pub active: bool,
}

/// Barriers of a group that were cut at one moment, each durable here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCut {
    pub points: Vec<(ServerId, PointId)>,
    /// Longest time a member's writes were held.
    pub held: Duration,
}

/// A run to be launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    pub run: RunId,
    pub kind: RunKind,
    pub server: ServerId,
    pub server_name: String,
    pub point: PointId,
    pub launch: LaunchSettings,
    /// Ports that checks need, besides `launch.ports`.
    pub check_ports: Vec<u16>,
}

/// A run as the data side sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// QEMU is alive and answers.
    pub alive: bool,
    /// `running`, `paused`, `shutdown`, ...
    pub detail: String,
    pub acceleration: String,
    pub forwards: Vec<ForwardInfo>,
    pub directory: String,
    /// When QEMU was started, by this site's clock.
    pub started: WallTime,
    /// 0 to 100; 100 when the run needs the mount no more.
    pub hydrated_percent: u8,
}

/// A connected agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRuntime {
    pub id: AgentId,
    pub address: String,
    pub version: String,
    pub since: WallTime,
}

/// The data side, as control sees it.
#[async_trait]
pub trait SitePort: Send + Sync {
    /// Connected agents.
    fn agents(&self) -> Vec<AgentRuntime>;
    /// Cuts every session of an agent, now. It may not come back if control refuses it.
    fn disconnect_agent(&self, agent: AgentId);
    /// Asks the agent what it finds behind a capture; changes nothing there.
    async fn probe_capture(&self, agent: AgentId, capture: &CaptureSpec) -> Result<Vec<DiskInfo>, PortError>;

    /// Makes what is held for a server equal to `spec`: journal, epoch, assignment to its agent.
    /// An epoch lower than the journal's is refused; a higher one is made durable and cuts sessions of the older.
    async fn ensure_server(&self, spec: &ServerSpec) -> Result<(), PortError>;
    /// Forgets a server and deletes its journal.
    async fn forget_server(&self, server: ServerId) -> Result<(), PortError>;
    /// What the data side holds, each with the highest epoch it knows of: its journal's, or the one it was last told.
    /// Control holds its store against this, which may have been restored from an old backup.
    fn held(&self) -> Vec<ServerSpec>;
    /// What is measured now; `None` when the server is not held.
    fn runtime(&self, server: ServerId) -> Option<ServerRuntime>;

    /// Points, newest first. `from` and `to` are point names as people write them.
    async fn points(
        &self,
        server: ServerId,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PointInfo>, PortError>;
    /// Resolves what a person wrote to a barrier.
    async fn resolve_point(&self, server: ServerId, point: &str) -> Result<PointInfo, PortError>;

    async fn mount(
        &self,
        server: ServerId,
        name: &str,
        point: PointId,
        writable: bool,
    ) -> Result<Mount, PortError>;
    async fn unmount(&self, mount: &str) -> Result<(), PortError>;
    fn mounts(&self) -> Vec<Mount>;

    /// Mounts the point for the run; the first step of [`launch`](Self::launch), on its own so that
    /// it can be timed and shown.
    async fn prepare_run(&self, run: &RunRequest) -> Result<(), PortError>;
    /// Starts QEMU for the run, or finds it running.
    async fn launch(&self, run: &RunRequest) -> Result<RunStatus, PortError>;
    async fn run_status(&self, run: RunId) -> Result<RunStatus, PortError>;
    /// Syntax of a check; returns the guest ports it needs.
    fn parse_check(&self, check: &str) -> Result<Vec<u16>, PortError>;
    /// Runs one check until it passes or the deadline is over.
    async fn check(&self, run: RunId, check: &str, deadline: Duration) -> CheckResult;
    /// Runs a script on this host with the run's facts in its environment.
    async fn post_script(&self, run: RunId, script: &str, deadline: Duration) -> CheckResult;
    /// Saves a picture of the screen in the run's directory and returns it as PNG.
    async fn screenshot(&self, run: RunId) -> Result<Vec<u8>, PortError>;
    /// The end of the serial log, at most `bytes`.
    async fn serial(&self, run: RunId, bytes: usize) -> Result<Vec<u8>, PortError>;
    /// Starts or resumes copying the run's disks to its own storage while it runs.
    async fn hydrate(&self, run: RunId) -> Result<(), PortError>;
    /// Ends the run and releases its mount. Keeps logs when `keep_logs`; the disks are deleted.
    async fn destroy_run(&self, run: RunId, keep_logs: bool) -> Result<(), PortError>;
    /// Releases the mount of a fully hydrated run; the run goes on.
    async fn release_run(&self, run: RunId) -> Result<(), PortError>;

    /// One barrier at one moment in all these servers, through their agents.
    ///
    /// # Errors
    /// When a member did not answer in time or could not cut: then there is no group point.
    async fn group_barrier(&self, servers: &[ServerId], hold: Duration) -> Result<GroupCut, PortError>;
    /// Starts comparing source and copy; how it goes is in the runtime. `rate` in bytes per second, 0 for no limit.
    async fn verify(&self, server: ServerId, rate: u64) -> Result<(), PortError>;
    /// The measured RPO by the minute, newest first.
    fn rpo_history(&self, server: ServerId, minutes: usize) -> Vec<RpoMinute>;
    /// What stale writers left, newest first.
    async fn branches(&self, server: ServerId) -> Result<Vec<Branch>, PortError>;
    async fn delete_branch(&self, server: ServerId, branch: &str) -> Result<(), PortError>;
    /// Serves a branch's newest state like a point.
    async fn mount_branch(
        &self,
        server: ServerId,
        name: &str,
        branch: &str,
        writable: bool,
    ) -> Result<Mount, PortError>;
    /// Looks at what is stored; with `full` at every record.
    async fn check_journal(&self, server: ServerId, full: bool) -> Result<CheckReport, PortError>;

    /// The vault and the backups of files.
    fn vault(&self) -> &dyn VaultPort;

    /// Free and total bytes of the state directory's file system.
    fn disk_space(&self) -> (u64, u64);
}

/// Why a peer was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the certificate names no agent of this site")]
    Unknown,
    #[error("the agent was revoked")]
    Revoked,
    #[error("the certificate is not valid now")]
    NotValid,
}

/// Control, as the data side sees it.
#[async_trait]
pub trait ControlPort: Send + Sync {
    /// Who a peer is, by the certificate its TLS handshake proved (DER; the chain is verified already).
    ///
    /// # Errors
    /// When it may not come in. The caller audits nothing: this does.
    fn admit(&self, certificate: &[u8], address: &str) -> Result<AgentId, Refusal>;
    /// A handshake that failed before a name was known.
    fn handshake_refused(&self, address: &str, why: &str);
    /// A fresh certificate for an admitted agent; `csr` and the answer are PEM.
    async fn renew(&self, agent: AgentId, csr: &str) -> Result<String, PortError>;
    /// Something worth the audit log that no person asked for.
    fn note(&self, action: &str, target: &str, outcome: &str, detail: &str);
}
