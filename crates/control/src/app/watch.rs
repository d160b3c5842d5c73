//! Watching over what is kept: comparisons, measured RPO, journals' checks, divergent branches.
//!
//! Invariants: of one agent at most one server is compared at a time by itself; one journal is checked once at a time.

use super::{App, PATIENCE, conflict, not_found, within};
use crate::policy::Actor;
use crate::store::{Note, ServerRow};
use crate::validate;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{
    ApiError, Branch, CheckQuery, CheckReport, ErrorCode, Health, RpoMinute, RpoQuery, Server, ServerRuntime,
    VerifyRequest, VerifyState,
};
use lifeboat_base::{AgentId, ServerId, WallTime};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const DEFAULT_MINUTES: u32 = 60;
const MAX_MINUTES: u32 = 24 * 60;
const HOUR: Duration = Duration::from_secs(3600);
/// A comparison that failed is tried again after this, or sooner where the interval is shorter.
const VERIFY_AGAIN: Duration = HOUR;
/// How long an agent may take to show that a comparison has begun.
const BEGIN: Duration = Duration::from_secs(60);

/// One of something being worked on; ends whatever happens.
struct Busy<'a>(&'a Mutex<HashSet<ServerId>>, ServerId);

impl<'a> Busy<'a> {
    fn new(all: &'a Mutex<HashSet<ServerId>>, id: ServerId) -> Option<Self> {
        all.lock().insert(id).then(|| Self(all, id))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl App {
    /// Starts comparing source and copy.
    pub async fn verify(&self, actor: &Actor, name: &str, r: &VerifyRequest) -> Result<Server, ApiError> {
        let row = self.named(name).await?;
        let rate = r.rate.unwrap_or(row.watch.verify_rate);
        validate::verify_rate(rate)?;
        let runtime = self.site.runtime(row.id).unwrap_or_default();
        if row.state != ServerState::Replicating {
            return Err(conflict(format!("'{}' is {}, so there is nothing to compare", row.name, row.state))
                .hint("source and copy can be compared while the server is replicating"));
        }
        if runtime.verify.is_some_and(|v| v.state == VerifyState::Running) {
            return Err(conflict(format!("'{}' is being compared already", row.name))
                .hint(format!("watch it: `lifeboat server {}`", row.name)));
        }
        if !runtime.connected {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                format!("the agent of '{}' is not connected, so its source cannot be read", row.name),
            )
            .hint("see `lifeboat-agent run` on its host"));
        }
        self.begin_verify(&actor.name, &row, rate).await?;
        self.server(name).await
    }

    async fn begin_verify(&self, who: &str, row: &ServerRow, rate: u64) -> Result<(), ApiError> {
        within(PATIENCE, self.site.verify(row.id, rate)).await?;
        self.verifying.lock().insert(row.agent, self.clock.monotonic().saturating_add(BEGIN));
        let limit = if rate == 0 { "no limit".into() } else { format!("{rate} B/s") };
        self.note(Note::done(who, "server.verify", &row.name, limit)).await;
        Ok(())
    }

    /// Starts the comparisons that are due, one per agent at a time.
    pub(super) async fn look_at_verifies(&self, servers: &[ServerRow]) {
        let now = self.clock.monotonic();
        let runtimes: HashMap<ServerId, ServerRuntime> =
            servers.iter().filter_map(|s| Some((s.id, self.site.runtime(s.id)?))).collect();
        let running = |s: &ServerRow| {
            let verify = runtimes.get(&s.id).and_then(|r| r.verify.as_ref());
            verify.is_some_and(|v| v.state == VerifyState::Running)
        };
        let mut busy: HashSet<AgentId> = servers.iter().filter(|s| running(s)).map(|s| s.agent).collect();
        self.verifying.lock().retain(|_, until| *until > now);
        busy.extend(self.verifying.lock().keys());
        for row in servers {
            let Some(runtime) = runtimes.get(&row.id) else { continue };
            if busy.contains(&row.agent) || !verify_due(row, runtime, self.now()) {
                continue;
            }
            busy.insert(row.agent);
            if let Err(error) = self.begin_verify("site", row, row.watch.verify_rate).await {
                // Not asked again at every look.
                self.verifying.lock().insert(row.agent, now.saturating_add(BEGIN));
                tracing::debug!(server = row.name, %error, "a comparison that is due could not begin yet");
            }
        }
    }

    /// The measured RPO by the minute, newest first.
    pub async fn rpo(&self, name: &str, query: &RpoQuery) -> Result<Vec<RpoMinute>, ApiError> {
        let row = self.named(name).await?;
        let minutes = query.minutes.unwrap_or(DEFAULT_MINUTES);
        if !(1..=MAX_MINUTES).contains(&minutes) {
            return Err(ApiError::new(ErrorCode::Invalid, format!("minutes are 1 to {MAX_MINUTES}")));
        }
        Ok(self.site.rpo_history(row.id, minutes as usize))
    }

    /// Looks at what is stored of a server. With `full` it takes as long as reading all of it.
    pub async fn check(&self, name: &str, query: &CheckQuery) -> Result<CheckReport, ApiError> {
        let row = self.named(name).await?;
        let Some(_busy) = Busy::new(&self.checking, row.id) else {
            return Err(conflict(format!("the journal of '{}' is being checked already", row.name))
                .hint("wait for that check to end"));
        };
        let report = self.site.check_journal(row.id, query.full).await?;
        Ok(CheckReport { server: row.name, ..report })
    }

    /// What stale writers left of one server, or of all, newest first.
    pub async fn branches(&self, name: Option<&str>) -> Result<Vec<Branch>, ApiError> {
        let rows = match name {
            Some(name) => vec![self.named(name).await?],
            None => self.store.servers().await?.into_iter().filter(|r| !r.deleting).collect(),
        };
        let mut all = Vec::new();
        for row in rows {
            let found = match within(PATIENCE, self.site.branches(row.id)).await {
                // Not held yet, so soon after a start: of one server that is said, in a list of all it is skipped.
                Err(e) if name.is_none() && e.code == ErrorCode::NotFound => Vec::new(),
                other => other?,
            };
            all.extend(found.into_iter().map(|b| Branch { server: row.name.clone(), ..b }));
        }
        all.sort_by_key(|b| std::cmp::Reverse(b.newest));
        Ok(all)
    }

    /// Deletes what a stale writer left, for good.
    pub async fn delete_branch(&self, actor: &Actor, name: &str, branch: &str) -> Result<(), ApiError> {
        let row = self.named(name).await?;
        validate::text("the branch", branch)?;
        let known = within(PATIENCE, self.site.branches(row.id)).await?;
        let found = known.iter().find(|b| b.id == branch).ok_or_else(|| {
            not_found("branch", branch).hint(format!("`lifeboat branches {}` lists them", row.name))
        })?;
        within(PATIENCE, self.site.delete_branch(row.id, branch)).await?;
        let detail = format!("{branch} from {}, {} records", found.base, found.records);
        self.note(Note::done(&actor.name, "branch.delete", &row.name, detail)).await;
        Ok(())
    }
}

/// Whether source and copy of a server should be compared now. Servers are spread by their ids, so that those that
/// were protected together are not compared together.
fn verify_due(row: &ServerRow, runtime: &ServerRuntime, now: WallTime) -> bool {
    let able = !row.deleting
        && row.state == ServerState::Replicating
        && runtime.connected
        && runtime.health == Health::Ready
        && runtime.sync.is_none();
    if row.watch.verify_hours == 0 || !able {
        return false;
    }
    let every = HOUR * row.watch.verify_hours;
    let share = every.mul_f64(spread(row.id));
    let due = match &runtime.verify {
        None => row.created.saturating_add(share),
        Some(v) => {
            let ended = v.ended.unwrap_or(v.started);
            // By a clock that was wrong then: otherwise it would be years until the next.
            if ended > now {
                return true;
            }
            match v.state {
                VerifyState::Running => return false,
                VerifyState::Failed => ended.saturating_add(VERIFY_AGAIN.min(every)),
                VerifyState::Equal | VerifyState::Different => ended.saturating_add(every + share / 8),
            }
        }
    };
    due <= now
}

/// 0 to 1, the same for a server every time.
fn spread(id: ServerId) -> f64 {
    let hash = blake3::hash(id.as_bytes());
    let [a, b, ..] = *hash.as_bytes();
    f64::from(u16::from_le_bytes([a, b])) / 65_536.0
}

#[cfg(test)]
mod tests;
