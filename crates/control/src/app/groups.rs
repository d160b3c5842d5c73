//! Groups: servers that get one barrier at one moment.
//!
//! Invariants: a group's point is stored only when the data side has cut a durable barrier in every member; no server
//! has two barriers cut at once; a point is forgotten when the first of its members' points has left that journal.

use super::{App, PATIENCE, conflict, not_found, within};
use crate::policy::Actor;
use crate::store::{GroupPointRow, GroupRow, MemberPoint, Note, ServerRow, StoreError};
use crate::validate;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{
    ApiError, ErrorCode, Group, GroupMember, GroupPoint, GroupPointsQuery, GroupRequest,
};
use lifeboat_base::{PointSpec, ServerId};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Points one group keeps at most; the oldest give way.
const MAX_POINTS: u64 = 10_000;
const DEFAULT_POINTS: u32 = 20;
/// A barrier that failed is tried again after this, or sooner where the interval is shorter.
const AGAIN: Duration = Duration::from_secs(15);
/// Points looked at in one look for whether they can be forgotten.
const PRUNED_AT_ONCE: u32 = 64;

type Names = HashMap<ServerId, String>;

/// Servers in which a barrier is being cut; taken off whatever happens.
struct Cutting<'a>(&'a Mutex<HashSet<ServerId>>, &'a [ServerId]);

impl<'a> Cutting<'a> {
    fn begin(all: &'a Mutex<HashSet<ServerId>>, servers: &'a [ServerId]) -> Option<Self> {
        let mut now = all.lock();
        if servers.iter().any(|s| now.contains(s)) {
            return None;
        }
        now.extend(servers);
        Some(Self(all, servers))
    }
}

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        self.1.iter().for_each(|s| {
            now.remove(s);
        });
    }
}

impl App {
    pub async fn groups(&self) -> Result<Vec<Group>, ApiError> {
        let names = self.server_names().await?;
        let mut all = Vec::new();
        for row in self.store.groups().await? {
            all.push(self.shown_group(row, &names).await?);
        }
        Ok(all)
    }

    pub async fn group(&self, name: &str) -> Result<Group, ApiError> {
        let row = self.group_named(name).await?;
        self.shown_group(row, &self.server_names().await?).await
    }

    pub(super) async fn group_named(&self, name: &str) -> Result<GroupRow, ApiError> {
        let row = self.store.group(name).await?;
        row.ok_or_else(|| {
            not_found("group", name).hint("`lifeboat group list` lists the groups of this site")
        })
    }

    async fn server_names(&self) -> Result<Names, ApiError> {
        Ok(self.store.servers().await?.into_iter().map(|s| (s.id, s.name)).collect())
    }

    async fn shown_group(&self, row: GroupRow, names: &Names) -> Result<Group, ApiError> {
        let latest = self.store.group_points(&row.name, 1).await?.pop();
        Ok(Group {
            servers: row.servers.iter().map(|s| name_of(names, *s)).collect(),
            every_seconds: row.every_seconds,
            hold_ms: row.hold_ms,
            latest: latest.map(|p| shown_point(p, names)),
            trouble: row.trouble,
            name: row.name,
        })
    }

    pub async fn create_group(&self, actor: &Actor, r: &GroupRequest) -> Result<Group, ApiError> {
        validate::group(r)?;
        self.catalogue_was_read().await?;
        let mut servers = Vec::new();
        for name in &r.servers {
            let row = self.named(name).await?;
            if servers.contains(&row.id) {
                return Err(ApiError::new(ErrorCode::Invalid, format!("'{}' is named twice", row.name)));
            }
            servers.push(row.id);
        }
        let row = GroupRow {
            name: r.name.clone(),
            servers,
            every_seconds: r.every_seconds,
            hold_ms: r.hold_ms,
            created: self.now(),
            trouble: None,
        };
        let note = Note::done(&actor.name, "group.create", &row.name, r.servers.join(", "));
        match self.store.insert_group(&row, &note).await {
            Ok(true) => {}
            Ok(false) => {
                return Err(conflict("a server of the group was deleted meanwhile")
                    .hint("name the servers that are left"));
            }
            Err(StoreError::Taken(_)) => {
                return Err(conflict(format!("a group '{}' exists already", row.name))
                    .hint("choose another name, or delete that one first"));
            }
            Err(e) => return Err(e.into()),
        }
        self.wake.notify_one();
        self.group(&row.name).await
    }

    /// Forgets a group and its points; the points of its servers stay.
    pub async fn delete_group(&self, actor: &Actor, name: &str) -> Result<(), ApiError> {
        let note = Note::done(&actor.name, "group.delete", name, "the points of its servers stay");
        match self.store.delete_group(name, &note).await? {
            true => Ok(()),
            false => {
                Err(not_found("group", name).hint("`lifeboat group list` lists the groups of this site"))
            }
        }
    }

    /// Points of a group, newest first.
    pub async fn group_points(
        &self,
        name: &str,
        query: &GroupPointsQuery,
    ) -> Result<Vec<GroupPoint>, ApiError> {
        let row = self.group_named(name).await?;
        let limit = super::servers::row_limit(query.limit, DEFAULT_POINTS)?;
        let names = self.server_names().await?;
        let points = self.store.group_points(&row.name, limit).await?;
        Ok(points.into_iter().map(|p| shown_point(p, &names)).collect())
    }

    /// The point of a group that `text` names: `g42`, `latest`, an age or a time of this site's clock.
    pub(super) async fn resolve_group_point(
        &self,
        group: &GroupRow,
        text: &str,
    ) -> Result<GroupPointRow, ApiError> {
        validate::text("the point", text)?;
        let bad = || {
            ApiError::new(
                ErrorCode::Invalid,
                format!("'{}' names no point of a group", validate::shown(text)),
            )
            .hint("write g42, latest, an age such as 5m, or a time")
        };
        let text = text.trim();
        let (number, at) = match text.strip_prefix('g') {
            Some(digits) => (Some(digits.parse().map_err(|_| bad())?), None),
            None => match PointSpec::parse(text, self.now(), &jiff::tz::TimeZone::UTC) {
                Ok(PointSpec::Latest) => (None, None),
                Ok(PointSpec::At(at)) => (None, Some(at)),
                Ok(PointSpec::Id(_)) | Err(_) => return Err(bad()),
            },
        };
        self.store.group_point(&group.name, number, at).await?.ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotFound,
                format!("the group '{}' has no such point as '{}'", group.name, validate::shown(text)),
            )
            .hint(format!("`lifeboat group points {}` lists them", group.name))
        })
    }

    /// Cuts a point of the group now.
    pub async fn cut_group_point(&self, actor: &Actor, name: &str) -> Result<GroupPoint, ApiError> {
        let group = self.group_named(name).await?;
        let point = self.cut_and_tell(&group).await?;
        let detail = format!("g{}, writes held {} us", point.number, point.held_us);
        self.note(Note::done(&actor.name, "group.point", &group.name, detail)).await;
        Ok(shown_point(point, &self.server_names().await?))
    }

    /// Cuts a barrier in every member; what goes wrong is remembered as the group's trouble.
    async fn cut_and_tell(&self, group: &GroupRow) -> Result<GroupPointRow, ApiError> {
        let Some(_cutting) = Cutting::begin(&self.cutting, &group.servers) else {
            return Err(conflict(format!("a barrier is being cut in a server of '{}' just now", group.name))
                .hint("try again in a moment"));
        };
        let cut = self.cut(group).await;
        if let Err(error) = &cut {
            self.set_trouble(group, Some(&error.to_string())).await?;
        }
        cut
    }

    async fn cut(&self, group: &GroupRow) -> Result<GroupPointRow, ApiError> {
        for id in &group.servers {
            let row = self.store.server(*id).await?;
            let row = row.ok_or_else(|| ApiError::new(ErrorCode::Corrupt, "a member is not in the store"))?;
            if !row.state.wants_capture() {
                return Err(conflict(format!("'{}' is {}, so it gets no barrier", row.name, row.state))
                    .hint("resume it, or delete the group and make one without it"));
            }
        }
        let hold = Duration::from_millis(u64::from(group.hold_ms));
        let cut = within(PATIENCE, self.site.group_barrier(&group.servers, hold)).await?;
        let mut members = Vec::with_capacity(group.servers.len());
        for id in &group.servers {
            let mut mine = cut.points.iter().filter(|(server, _)| server == id);
            match (mine.next(), mine.next()) {
                (Some((server, point)), None) => members.push(MemberPoint { server: *server, point: *point }),
                // A point without one of them would be a lie.
                _ => {
                    return Err(ApiError::new(
                        ErrorCode::Internal,
                        "the data side did not name one barrier of each server; there is no point",
                    ));
                }
            }
        }
        let held = u64::try_from(cut.held.as_micros()).unwrap_or(u64::MAX);
        let point = self.store.add_group_point(group, &members, held, MAX_POINTS).await?;
        point.ok_or_else(|| not_found("group", &group.name).hint("it was deleted meanwhile"))
    }

    async fn set_trouble(&self, group: &GroupRow, trouble: Option<&str>) -> Result<(), ApiError> {
        let known = self.store.group(&group.name).await?.and_then(|g| g.trouble);
        if known.as_deref() != trouble {
            if let Some(why) = trouble {
                tracing::warn!(group = group.name, why, "no common point");
            }
            self.store.set_group_trouble(group, trouble).await?;
        }
        Ok(())
    }

    /// Forgets points that cannot be used any more, and cuts those that are due.
    pub(super) async fn look_at_groups(self: &Arc<Self>, servers: &[ServerRow]) -> Result<(), ApiError> {
        let groups = self.store.groups().await?;
        self.group_due.lock().retain(|name, _| groups.iter().any(|g| g.name == *name));
        for group in groups {
            self.prune_group(&group).await?;
            let members: Vec<&ServerRow> = servers.iter().filter(|s| group.servers.contains(&s.id)).collect();
            if members.iter().all(|s| !s.state.wants_capture()) {
                // They are recovered, or at rest, together: there is nothing to want.
                if group.trouble.is_some() {
                    self.set_trouble(&group, None).await?;
                }
                continue;
            }
            let begins = |s: &&ServerRow| s.state.wants_capture() && s.state != ServerState::Replicating;
            let now = self.clock.monotonic();
            let due = self.group_due.lock().get(&group.name).is_none_or(|due| *due <= now);
            if group.every_seconds == 0 || !due || members.iter().any(begins) {
                continue;
            }
            let every = Duration::from_secs(u64::from(group.every_seconds));
            self.group_due.lock().insert(group.name.clone(), now.saturating_add(every));
            let app = self.clone();
            self.tasks.lock().spawn(async move {
                if app.cut_and_tell(&group).await.is_err() {
                    let again = app.clock.monotonic().saturating_add(every.min(AGAIN));
                    app.group_due.lock().insert(group.name.clone(), again);
                }
            });
        }
        Ok(())
    }

    /// Members' points only ever get later, so what is gone is at the old end.
    async fn prune_group(&self, group: &GroupRow) -> Result<(), StoreError> {
        let oldest: HashMap<ServerId, _> =
            group.servers.iter().filter_map(|s| Some((*s, self.site.runtime(*s)?.oldest?.id))).collect();
        let gone = |m: &MemberPoint| oldest.get(&m.server).is_some_and(|oldest| m.point < *oldest);
        let points = self.store.oldest_group_points(&group.name, PRUNED_AT_ONCE).await?;
        match points.iter().rev().find(|p| p.members.iter().any(gone)) {
            Some(last) => self.store.prune_group_points(&group.name, last.number).await,
            None => Ok(()),
        }
    }
}

pub(super) fn name_of(names: &Names, server: ServerId) -> String {
    names.get(&server).cloned().unwrap_or_else(|| server.to_string())
}

fn shown_point(p: GroupPointRow, names: &Names) -> GroupPoint {
    GroupPoint {
        id: format!("g{}", p.number),
        time: p.time,
        members: p
            .members
            .into_iter()
            .map(|m| GroupMember { server: name_of(names, m.server), point: m.point })
            .collect(),
        held_us: p.held_us,
    }
}
