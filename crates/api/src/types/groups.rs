//! Groups: servers that get one barrier at one moment.

use super::{check_seconds, keep_seconds, latest};
use lifeboat_base::{PointId, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `POST /v1/groups`: servers that get one barrier at one moment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupRequest {
    pub name: String,
    /// Names, 1 to 64.
    pub servers: Vec<String>,
    /// Seconds between barriers; 0: only when asked.
    #[serde(default = "group_seconds")]
    pub every_seconds: u32,
    /// Longest time writes may be held, 10 to 2000.
    #[serde(default = "group_hold")]
    pub hold_ms: u32,
}

fn group_seconds() -> u32 {
    60
}

fn group_hold() -> u32 {
    500
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    pub name: String,
    pub servers: Vec<String>,
    pub every_seconds: u32,
    pub hold_ms: u32,
    pub latest: Option<GroupPoint>,
    /// Why the last attempt made no point.
    pub trouble: Option<String>,
}

/// A moment all servers of a group can be brought back to together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupPoint {
    /// `g42`
    pub id: String,
    /// This site's clock.
    #[schema(value_type = String)]
    pub time: WallTime,
    pub members: Vec<GroupMember>,
    /// Longest time a member's writes were held, in microseconds.
    pub held_us: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMember {
    pub server: String,
    #[schema(value_type = String)]
    pub point: PointId,
}

/// `GET /v1/groups/{name}/points?limit=`, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GroupPointsQuery {
    /// Most rows. Default 20, at most 10,000.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// `POST /v1/groups/{name}/drills`: one drill of each member, all from one point of the group. Each is built by its
/// own launch settings.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupDrillRequest {
    /// `g42`, `latest`, an age or a time.
    #[serde(default = "latest")]
    pub point: String,
    /// Checks by the member's name.
    #[serde(default)]
    pub checks: BTreeMap<String, Vec<String>>,
    #[serde(default = "check_seconds")]
    pub check_seconds: u64,
    /// Clean up by itself after this many seconds; 0 means at once when the checks are over.
    #[serde(default = "keep_seconds")]
    pub keep_seconds: u64,
}

/// `POST /v1/groups/{name}/failover`: one failover of each member, all to one point of the group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupFailoverRequest {
    /// `g42`, `latest`, an age or a time.
    #[serde(default = "latest")]
    pub point: String,
    /// Checks by the member's name.
    #[serde(default)]
    pub checks: BTreeMap<String, Vec<String>>,
    #[serde(default = "check_seconds")]
    pub check_seconds: u64,
    /// Required where runs of an earlier failover would be thrown away with all they wrote.
    #[serde(default)]
    pub discard_current: bool,
}
