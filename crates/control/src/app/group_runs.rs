//! Drills and failovers of a whole group.
//!
//! Invariant: either every member gets its operation, with its own part of one point of the group, or none does.

use super::{App, conflict};
use crate::policy::Actor;
use crate::store::{GroupRow, MemberPoint, NewOperation, ServerRow};
use crate::validate;
use lifeboat_api::types::{
    ApiError, DrillRequest, ErrorCode, FailoverRequest, GroupDrillRequest, GroupFailoverRequest,
    LaunchOverrides, Operation,
};
use std::collections::BTreeMap;

type Checks = BTreeMap<String, Vec<String>>;

impl App {
    /// Starts a drill of each member.
    pub async fn group_drill(
        &self,
        actor: &Actor,
        name: &str,
        r: &GroupDrillRequest,
    ) -> Result<Vec<Operation>, ApiError> {
        let (group, members) = self.parts(name, &r.point, &r.checks).await?;
        let mut all = Vec::new();
        for (server, part) in &members {
            let request = DrillRequest {
                point: part.point.to_string(),
                launch: LaunchOverrides::default(),
                checks: r.checks.get(&server.name).cloned().unwrap_or_default(),
                post_script: None,
                check_seconds: r.check_seconds,
                keep_seconds: r.keep_seconds,
            };
            all.push(self.plan_drill(actor, server, &request).await.map_err(|e| gone(&group, server, e))?);
        }
        self.begin_all(&group, all).await
    }

    /// Starts a failover of each member.
    pub async fn group_failover(
        &self,
        actor: &Actor,
        name: &str,
        r: &GroupFailoverRequest,
    ) -> Result<Vec<Operation>, ApiError> {
        let (group, members) = self.parts(name, &r.point, &r.checks).await?;
        let mut all = Vec::new();
        for (server, part) in &members {
            let request = FailoverRequest {
                point: part.point.to_string(),
                launch: LaunchOverrides::default(),
                checks: r.checks.get(&server.name).cloned().unwrap_or_default(),
                post_script: None,
                check_seconds: r.check_seconds,
                discard_current: r.discard_current,
            };
            all.push(self.plan_failover(actor, server, &request).await.map_err(|e| gone(&group, server, e))?);
        }
        self.begin_all(&group, all).await
    }

    /// The members with their parts of one point.
    async fn parts(
        &self,
        name: &str,
        point: &str,
        checks: &Checks,
    ) -> Result<(GroupRow, Vec<(ServerRow, MemberPoint)>), ApiError> {
        let group = self.group_named(name).await?;
        let point = self.resolve_group_point(&group, point).await?;
        let mut members = Vec::new();
        for part in point.members {
            let server = self.store.server(part.server).await?;
            let server = server.ok_or_else(|| {
                ApiError::new(ErrorCode::Corrupt, "a member of the group is not in the store")
            })?;
            members.push((server, part));
        }
        if let Some(stranger) = checks.keys().find(|c| !members.iter().any(|(s, _)| s.name == **c)) {
            let names: Vec<&str> = members.iter().map(|(s, _)| s.name.as_str()).collect();
            return Err(ApiError::new(
                ErrorCode::Invalid,
                format!("a check is for '{}', which is not in '{}'", validate::shown(stranger), group.name),
            )
            .hint(format!("its servers are {}", names.join(", "))));
        }
        Ok((group, members))
    }

    async fn begin_all(
        &self,
        group: &GroupRow,
        mut all: Vec<NewOperation>,
    ) -> Result<Vec<Operation>, ApiError> {
        for new in &mut all {
            new.note.detail = format!("{}, group {}", new.note.detail, group.name);
        }
        self.store_all(&all).await?;
        Ok(all.into_iter().map(|new| new.row.operation).collect())
    }
}

/// A member's part that is not there any more makes the whole point unusable.
fn gone(group: &GroupRow, server: &ServerRow, e: ApiError) -> ApiError {
    match e.code {
        ErrorCode::NotFound => {
            conflict(format!("this point of '{}' cannot be used: {}: {}", group.name, server.name, e.message))
                .hint(format!("choose a later one: `lifeboat group points {}`", group.name))
        }
        _ => e,
    }
}
