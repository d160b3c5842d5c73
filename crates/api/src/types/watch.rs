//! Watching over what is kept: measured RPO, synchronous promises, comparisons, branches, checks.

use lifeboat_base::{PointId, WallTime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The measured RPO over a span of time, from one sample a second. Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RpoStats {
    pub p50_ms: u64,
    pub p99_ms: u64,
    pub max_ms: u64,
    pub samples: u64,
}

/// One minute of a server's measured RPO: `GET /v1/servers/{name}/rpo?minutes=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RpoMinute {
    #[schema(value_type = String)]
    pub start: WallTime,
    #[serde(flatten)]
    pub stats: RpoStats,
}

/// How a synchronous server keeps its promise now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncStatus {
    pub state: SyncModeState,
    /// Since when, for a state that is not `synchronous`.
    #[schema(value_type = Option<String>)]
    pub since: Option<WallTime>,
    /// Flushes that waited for the site since the agent began, and their average parts in microseconds.
    pub flushes: u64,
    pub source_us: u64,
    pub encode_us: u64,
    pub site_us: u64,
    pub longest_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SyncModeState {
    /// No first copy yet, or catching up: flushes do not wait for the site.
    NotYet,
    Synchronous,
    /// Flushes wait, and the site does not answer.
    Blocked,
    /// The policy let flushes go on without the site.
    Degraded,
    /// The agent has not said.
    Unknown,
}

/// A comparison of source and copy, block by block, while both go on. Bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyStatus {
    pub state: VerifyState,
    #[schema(value_type = String)]
    pub started: WallTime,
    #[schema(value_type = Option<String>)]
    pub ended: Option<WallTime>,
    pub total_bytes: u64,
    pub done_bytes: u64,
    /// What differed, and was sent anew.
    pub different_bytes: u64,
    /// Where; the first few hundred only.
    pub different: Vec<DifferentRange>,
    /// First point in which everything that was compared is known to be equal.
    #[schema(value_type = Option<String>)]
    pub point: Option<PointId>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyState {
    Running,
    /// Source and copy are equal.
    Equal,
    /// They were not; see `different`.
    Different,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferentRange {
    pub disk: u16,
    pub offset: u64,
    pub len: u64,
}

/// `POST /v1/servers/{name}/verify`: compare source and copy now.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyRequest {
    /// Bytes of the source read per second at most, 0 for no limit; the server's own rate where it is not given.
    pub rate: Option<u64>,
}

/// `GET /v1/servers/{name}/rpo?minutes=`, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RpoQuery {
    /// Most minutes. Default 60, at most 1440.
    #[serde(default)]
    pub minutes: Option<u32>,
}

/// `GET /v1/servers/{name}/check?full=`
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckQuery {
    /// Read every record, not only what says where they are. Takes as long as reading the journal takes.
    #[serde(default)]
    pub full: bool,
}

/// What a writer sent whose epoch was over: kept beside the line, never merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Branch {
    /// `b1.7f3a`: the epoch that was over, and a part of the writer's number.
    pub id: String,
    pub server: String,
    pub epoch: u32,
    /// Record of the line after which it diverges.
    #[schema(value_type = String)]
    pub base: PointId,
    /// Arrival of its first and newest record, by this site's clock.
    #[schema(value_type = String)]
    pub first: WallTime,
    #[schema(value_type = String)]
    pub newest: WallTime,
    /// Writes and bytes of content.
    pub records: u64,
    pub content_bytes: u64,
    /// Bytes it takes here.
    pub stored_bytes: u64,
    /// The line it diverges from is still there, so that it can be mounted.
    pub mountable: bool,
}

/// `GET /v1/servers/{name}/check?full=`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    pub server: String,
    pub segments: u64,
    /// 0 unless every record was read.
    pub records: u64,
    pub findings: Vec<CheckFinding>,
    /// Made again by themselves; no point is affected.
    pub bad_indexes: Vec<String>,
}

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckFinding {
    /// What and where.
    pub what: String,
    /// First and last point that may need what is lost.
    #[schema(value_type = Option<String>)]
    pub first_point: Option<PointId>,
    #[schema(value_type = Option<String>)]
    pub last_point: Option<PointId>,
}
