//! Requests and responses of the REST API (`/v1`). All JSON; times are RFC 3339 in UTC, sizes are
//! bytes, durations are milliseconds unless the name says otherwise. Unknown fields are refused in requests.

mod backups;
mod catalogue;
mod groups;
mod launch;
mod vault;
mod watch;

pub use backups::*;
pub use catalogue::*;
pub use groups::*;
pub use launch::*;
pub use vault::*;
pub use watch::*;

use crate::lifecycle::ServerState;
use lifeboat_base::{AgentId, OperationId, PointId, RunId, ServerId, WallTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Every error the API returns.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    pub code: ErrorCode,
    /// What went wrong, for people.
    pub message: String,
    /// What to do next, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What kind of error it is: decides the HTTP status and the CLI's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// 400: the request is not well-formed or has impossible values.
    Invalid,
    /// 401: no token, a wrong one, or an expired one.
    Unauthenticated,
    /// 403: the token's role does not allow it.
    Forbidden,
    /// 404
    NotFound,
    /// 409: allowed in principle, not in the present state.
    Conflict,
    /// 503: the other side (agent, guest, disk) cannot do it now; may work later.
    Unavailable,
    /// 507: no room.
    NoSpace,
    /// 500: stored bytes are damaged (I3).
    Corrupt,
    /// 500
    Internal,
}

/// How writes of a server are seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CaptureSpec {
    /// QEMU's own live mirror of a running machine.
    Mirror {
        /// The machine's QMP Unix socket, on the agent's host.
        qmp: String,
        /// Block node names; empty means every writable disk.
        #[serde(default)]
        disks: Vec<String>,
    },
    /// An NBD export that passes through to a file or block device.
    Splitter {
        /// Files or block devices, one disk each.
        paths: Vec<String>,
        /// Where to listen: `unix:PATH` or `tcp:ADDR:PORT`; by default a Unix socket in the agent's
        /// runtime directory. Several disks are several exports of the same listener, named by index.
        #[serde(default)]
        listen: Option<String>,
    },
}

/// A disk as the agent found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskInfo {
    /// Index within the server.
    pub index: u16,
    /// Node name or path at the source.
    pub name: String,
    pub size: u64,
}

/// How long the journal keeps every moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowSpec {
    /// Keep at least this long, in seconds, while `bytes` allows.
    pub seconds: u64,
    /// Keep at most this many journal bytes beyond the base.
    pub bytes: u64,
}

impl Default for WindowSpec {
    fn default() -> Self {
        Self { seconds: 24 * 3600, bytes: 64 << 30 }
    }
}

/// When a server's writes are confirmed to their user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicationMode {
    /// Once the source has them; the copy follows.
    #[default]
    Async,
    /// A flush, once the site's journal has everything before it. For splitter captures.
    Sync,
}

/// What a synchronous server does while the site does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// Flushes wait `loss_seconds`, then fail; the user sees an I/O error, nothing is lost.
    #[default]
    Block,
    /// Flushes wait `loss_seconds`, then go on without the site until it has caught up; told and alarmed.
    Degrade,
}

/// How writes go to the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicationSpec {
    pub mode: ReplicationMode,
    pub on_loss: OnLoss,
    /// 1 to 3600.
    pub loss_seconds: u32,
    /// Sealed bytes the agent keeps on its disk while the link is down or slow; 0 for none.
    pub spool_bytes: u64,
}

impl Default for ReplicationSpec {
    fn default() -> Self {
        Self {
            mode: ReplicationMode::Async,
            on_loss: OnLoss::Block,
            loss_seconds: 30,
            spool_bytes: lifeboat_base::limits::AGENT_SPOOL,
        }
    }
}

/// How a server is watched over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WatchSpec {
    /// RPO past which there is an alarm, in seconds; the site's own limit where it is not given.
    pub rpo_alarm_seconds: Option<u32>,
    /// How often source and copy are compared by themselves, in hours; 0 for never.
    pub verify_hours: u32,
    /// Bytes of the source a comparison reads per second at most; 0 for no limit.
    pub verify_rate: u64,
}

impl Default for WatchSpec {
    fn default() -> Self {
        Self { rpo_alarm_seconds: None, verify_hours: 7 * 24, verify_rate: 64 << 20 }
    }
}

/// `POST /v1/servers`: protect a server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProtectRequest {
    pub name: String,
    /// Agent name or id.
    pub agent: String,
    pub capture: CaptureSpec,
    #[serde(default)]
    pub window: WindowSpec,
    /// Launch settings used by drills and failovers unless they say otherwise.
    #[serde(default)]
    pub launch: LaunchSettings,
    #[serde(default)]
    pub replication: ReplicationSpec,
    #[serde(default)]
    pub watch: WatchSpec,
    /// Which of its points outlive the journal, in the vault. A lock takes an admin.
    #[serde(default)]
    pub retention: RetentionSpec,
}

/// `GET /v1/servers/{name}`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Server {
    #[schema(value_type = String)]
    pub id: ServerId,
    pub name: String,
    #[schema(value_type = String)]
    pub agent: AgentId,
    pub agent_name: String,
    pub capture: CaptureSpec,
    pub window: WindowSpec,
    pub launch: LaunchSettings,
    pub replication: ReplicationSpec,
    pub watch: WatchSpec,
    #[serde(default)]
    pub retention: RetentionSpec,
    pub state: ServerState,
    pub epoch: u32,
    /// What the data side knew better than the store, which may be an old backup: no failover and no replication
    /// until a person has looked and said `POST /v1/servers/{name}/accept`.
    #[serde(default)]
    pub stale: Option<String>,
    #[schema(value_type = String)]
    pub created: WallTime,
    pub disks: Vec<DiskInfo>,
    pub runtime: ServerRuntime,
    /// The run that carries the server after a failover.
    #[schema(value_type = Option<String>)]
    pub run: Option<RunId>,
}

/// What the site measures of a server now. Not stored.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ServerRuntime {
    /// The agent holds a session for this server.
    pub connected: bool,
    pub health: Health,
    /// Why the health is not `ready`, and what to do.
    pub reason: Option<String>,
    /// The agent's own word on the capture, for example `attached`, `qmp socket gone`, `machine shut down`.
    pub capture: String,
    pub sync: Option<SyncProgress>,
    /// Age of the newest durable recovery point by the source's clock, in milliseconds: what would be lost now.
    pub rpo_ms: Option<u64>,
    /// Bytes captured at the source and not yet durable here.
    pub lag_bytes: u64,
    /// Bytes received on the wire and bytes of disk content they stand for, since `serve` started.
    pub received_bytes: u64,
    pub content_bytes: u64,
    pub journal_bytes: u64,
    pub latest: Option<PointInfo>,
    pub oldest: Option<PointInfo>,
    pub disks: Vec<DiskInfo>,
    /// NBD URIs of a splitter's exports, at the agent's host.
    pub exports: Vec<String>,
    /// Part of the lag that waits in the spool on the agent's disk.
    pub spool_bytes: u64,
    /// Bytes of the source the agent has read and hashed since it began.
    pub hashed_bytes: u64,
    /// What the RPO was: over the last hour, and over the last day.
    pub rpo_hour: Option<RpoStats>,
    pub rpo_day: Option<RpoStats>,
    /// `None` in asynchronous mode.
    pub sync_mode: Option<SyncStatus>,
    /// The last comparison of source and copy, or the one under way.
    pub verify: Option<VerifyStatus>,
    /// When catching up is over, in seconds from now, at the present rate.
    pub ready_in_seconds: Option<u64>,
    /// Divergent branches kept of this server.
    pub branches: u32,
}

/// `PATCH /v1/servers/{name}`: what is not given stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerChange {
    pub window: Option<WindowSpec>,
    pub launch: Option<LaunchSettings>,
    pub replication: Option<ReplicationSpec>,
    pub watch: Option<WatchSpec>,
    /// Takes an admin: points that no rule keeps any more are deleted.
    pub retention: Option<RetentionSpec>,
}

/// Whether replication keeps its promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not replicating, so nothing to judge.
    #[default]
    Unknown,
    Ready,
    /// Behind; heals itself.
    Lag,
    /// Needs a person.
    Stalled,
}

/// A scan, full sync or resync under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncProgress {
    pub phase: SyncPhase,
    /// Bytes of content to be compared or sent; holes are not counted.
    pub total_bytes: u64,
    pub done_bytes: u64,
    /// Bytes of content that differed and were sent.
    pub sent_bytes: u64,
    /// Bytes per second of content, over the last seconds.
    pub rate: u64,
    pub eta_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SyncPhase {
    Scan,
    Full,
    /// Only what may differ.
    Resync,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointInfo {
    #[schema(value_type = String, example = "p1.4711")]
    pub id: PointId,
    /// The source's clock at the barrier.
    #[schema(value_type = String)]
    pub time: WallTime,
    /// This site's clock when it was made durable.
    #[schema(value_type = String)]
    pub received: WallTime,
    pub kind: PointKind,
    /// Journal bytes since the point before it in this listing.
    pub bytes_since: u64,
    /// It is one of the moments the journal keeps.
    #[serde(default = "yes")]
    pub journal: bool,
    /// Set where the vault has it: then it outlives the journal's window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultHold>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    Crash,
    Filesystem,
    Application,
}

/// `GET /v1/servers/{name}/points?from=&to=&limit=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PointsQuery {
    /// Oldest, in any form a point can be named.
    #[serde(default)]
    pub from: Option<String>,
    #[serde(default)]
    pub to: Option<String>,
    /// Most rows; points are thinned evenly to it. Default 20, at most 10,000.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// `POST /v1/mounts`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    pub server: String,
    #[serde(default = "latest")]
    pub point: String,
    /// Writes go to a throw-away overlay.
    #[serde(default)]
    pub writable: bool,
    /// A divergent branch instead of the line; `point` is not looked at then.
    #[serde(default)]
    pub branch: Option<String>,
}

fn latest() -> String {
    "latest".into()
}

/// A point served over NBD on Unix sockets of the site's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// Short id, unique on this site.
    pub id: String,
    pub server: String,
    pub point: PointInfo,
    pub writable: bool,
    pub disks: Vec<MountedDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountedDisk {
    pub index: u16,
    pub name: String,
    pub size: u64,
    pub socket: String,
    /// `nbd+unix:///?socket=...`
    pub uri: String,
}

/// What a drill or failover overrides of the server's launch settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaunchOverrides {
    pub cpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub network: Option<Network>,
    pub bus: Option<DiskBus>,
    pub firmware: Option<Firmware>,
    pub ports: Vec<u16>,
    pub mac: Option<String>,
}

/// `POST /v1/servers/{name}/drills`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrillRequest {
    #[serde(default = "latest")]
    pub point: String,
    #[serde(default)]
    pub launch: LaunchOverrides,
    /// `tcp:PORT`, `http:PORT[/PATH]`, `serial:REGEX`, `script:FILE`
    #[serde(default)]
    pub checks: Vec<String>,
    /// Runs on the site's host after the checks, with the run's facts in its environment.
    #[serde(default)]
    pub post_script: Option<String>,
    /// The checks must pass within this many seconds.
    #[serde(default = "check_seconds")]
    pub check_seconds: u64,
    /// Clean up by itself after this many seconds; 0 means at once when the checks are over.
    #[serde(default = "keep_seconds")]
    pub keep_seconds: u64,
}

fn check_seconds() -> u64 {
    300
}

fn keep_seconds() -> u64 {
    1800
}

/// `POST /v1/servers/{name}/failover`; also changes the point of a server that is failed over.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    #[serde(default = "latest")]
    pub point: String,
    #[serde(default)]
    pub launch: LaunchOverrides,
    #[serde(default)]
    pub checks: Vec<String>,
    #[serde(default)]
    pub post_script: Option<String>,
    #[serde(default = "check_seconds")]
    pub check_seconds: u64,
    /// Required where the run of an earlier failover would be thrown away with all it wrote.
    #[serde(default)]
    pub discard_current: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    Drill,
    DrillCleanup,
    Failover,
    Commit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    Running,
    Succeeded,
    /// Ended, but a check did not pass.
    ChecksFailed,
    Failed,
    Cancelled,
}

/// A durable operation: a row with steps.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    #[schema(value_type = String)]
    pub id: OperationId,
    pub kind: OperationKind,
    pub server: String,
    pub state: OperationState,
    pub steps: Vec<Step>,
    #[schema(value_type = String)]
    pub started: WallTime,
    #[schema(value_type = Option<String>)]
    pub ended: Option<WallTime>,
    pub error: Option<ApiError>,
    #[schema(value_type = Option<String>)]
    pub run: Option<RunId>,
    /// Who asked.
    pub actor: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub name: String,
    pub state: StepState,
    /// One line of what happened.
    pub detail: String,
    #[schema(value_type = Option<String>)]
    pub started: Option<WallTime>,
    #[schema(value_type = Option<String>)]
    pub ended: Option<WallTime>,
    /// 0 to 100 where it is known.
    pub percent: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Pending,
    Running,
    Done,
    Failed,
    Skipped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    Drill,
    Failover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Starting,
    Running,
    /// The guest or QEMU ended by itself.
    Exited,
    /// Removed; only the report is left.
    CleanedUp,
}

/// A machine launched from a point, with its report.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Run {
    #[schema(value_type = String)]
    pub id: RunId,
    pub kind: RunKind,
    pub server: String,
    pub point: PointInfo,
    pub launch: LaunchSettings,
    pub state: RunState,
    #[schema(value_type = String)]
    pub started: WallTime,
    /// A drill cleans itself up then.
    #[schema(value_type = Option<String>)]
    pub expires: Option<WallTime>,
    /// `kvm` or `tcg`, and why.
    pub acceleration: String,
    /// Guest port to `127.0.0.1:PORT` of the site's host.
    pub forwards: Vec<ForwardInfo>,
    pub checks: Vec<CheckResult>,
    pub times: RunTimes,
    /// Directory at the site with serial.log, screen.png, report.json.
    pub directory: String,
    /// 0 to 100 for a failover: how much of the disks needs Lifeboat no more.
    pub hydrated_percent: Option<u8>,
    /// RPO of this run: age of the point when the run was asked for, by the source's clock.
    pub rpo_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForwardInfo {
    pub guest_port: u16,
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    pub check: String,
    pub passed: bool,
    pub detail: String,
    pub took_ms: u64,
}

/// Measured from the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunTimes {
    /// Request to the point mounted.
    pub mounted_ms: Option<u64>,
    /// Request to QEMU started.
    pub started_ms: Option<u64>,
    /// Request to the last check passed: the measured RTO.
    pub ready_ms: Option<u64>,
}

/// `POST /v1/tokens`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTokenRequest {
    pub kind: TokenKind,
    /// For people: a name for the audit log. For agents: the agent's name, or none to let it choose.
    #[serde(default)]
    pub name: Option<String>,
    /// Seconds until it expires. Agents: default 1 hour, at most 1 day. People: default never.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenKind {
    /// One-time join token.
    Agent,
    Viewer,
    Operator,
    Admin,
}

/// The only time the secret is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    pub id: String,
    pub kind: TokenKind,
    pub token: String,
    #[schema(value_type = Option<String>)]
    pub expires: Option<WallTime>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    pub id: String,
    pub kind: TokenKind,
    pub name: String,
    #[schema(value_type = String)]
    pub created: WallTime,
    #[schema(value_type = Option<String>)]
    pub expires: Option<WallTime>,
    pub used: bool,
    pub revoked: bool,
}

/// `POST /v1/join` (no token header; the join token is in the body)
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    pub token: String,
    pub name: String,
    /// PKCS#10 certificate request, PEM.
    pub csr: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinResponse {
    #[schema(value_type = String)]
    pub agent: AgentId,
    pub name: String,
    /// PEM chain: the agent's certificate, then the site's CA.
    pub certificate: String,
    pub ca: String,
    /// `HOST:PORT` of the replication listener, as the site knows itself; the host may be empty, meaning the one joined through.
    pub replication: String,
}

/// `GET /v1/agents`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    #[schema(value_type = String)]
    pub id: AgentId,
    pub name: String,
    #[schema(value_type = String)]
    pub joined: WallTime,
    #[schema(value_type = String)]
    pub certificate_expires: WallTime,
    pub revoked: bool,
    pub connected: bool,
    pub address: Option<String>,
    pub version: Option<String>,
    pub servers: Vec<String>,
}

/// `GET /v1/audit`, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub seq: u64,
    #[schema(value_type = String)]
    pub time: WallTime,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub outcome: String,
    pub detail: String,
    /// Hash of this entry and the hash before it, hex.
    pub hash: String,
}

/// `GET /v1/audit?limit=&before=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Most rows. Default 100, at most 10,000.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only entries older than this `seq`.
    #[serde(default)]
    pub before: Option<u64>,
}

/// `GET /v1/audit/verify`: whether the hash chain of the audit log is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerification {
    pub ok: bool,
    pub entries: u64,
    /// `seq` of the first entry that is missing or was changed.
    pub first_bad: Option<u64>,
    /// Hash of the newest entry; written down elsewhere it proves that nothing was cut off the end.
    pub head: String,
    pub detail: String,
}

/// `GET /v1/operations?server=&limit=`, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperationsQuery {
    /// Only operations of this server.
    #[serde(default)]
    pub server: Option<String>,
    /// Most rows. Default 50, at most 10,000.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// `DELETE /v1/servers/{name}?confirm_points=true`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteServerQuery {
    /// Must be true: all recovery points of the server are deleted with it.
    #[serde(default)]
    pub confirm_points: bool,
}

/// `DELETE /v1/runs/{id}?confirm_disks=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CleanUpQuery {
    /// Must be true for the machine of a failover: it ends, and its disks are deleted.
    #[serde(default)]
    pub confirm_disks: bool,
}

/// `GET /v1/runs/{id}/serial?bytes=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SerialQuery {
    /// Bytes from the end of the log. Default 64 KiB, at most 1 MiB.
    #[serde(default)]
    pub bytes: Option<u32>,
}

/// `GET /v1/status`: the one screen.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SiteStatus {
    pub site: String,
    pub version: String,
    #[schema(value_type = String)]
    pub now: WallTime,
    pub servers: Vec<Server>,
    pub agents: Vec<Agent>,
    pub runs: Vec<Run>,
    pub operations: Vec<Operation>,
    pub disk_free: u64,
    pub disk_total: u64,
    #[serde(default)]
    pub vault: Option<VaultStatus>,
    #[serde(default)]
    pub backup_sets: Vec<BackupSetInfo>,
    /// What needs a person, worst first.
    pub alarms: Vec<String>,
}
