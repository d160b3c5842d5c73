//! The one screen for three in the morning.

use super::App;
use crate::store::{GroupRow, ServerRow};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::port::ServerSpec;
use lifeboat_api::types::{
    Agent, ApiError, Health, OnLoss, Operation, OperationKind, OperationState, Run, RunKind, RunState,
    Server, SiteStatus, SyncModeState, SyncStatus, VerifyState, VerifyStatus,
};
use lifeboat_base::{WallTime, format_bytes};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
/// Operations on the screen.
const OPERATIONS: u32 = 20;
/// How long a failed operation stays an alarm.
const FAILED_FOR: Duration = DAY;
/// Agents renew long before this.
const AGENT_CERTIFICATE: Duration = Duration::from_secs(36 * 3600);
const SITE_CERTIFICATE: Duration = Duration::from_secs(30 * 86_400);
/// Percent of the state directory's file system.
const LOW_SPACE: u64 = 10;
const NO_SPACE: u64 = 2;

/// Most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Data or service is at stake now.
    Now,
    /// Protection is not what it should be.
    Soon,
    /// Look at it in daylight.
    Later,
}

pub(super) type Alarms = Vec<(Urgency, String)>;

impl App {
    pub async fn status(&self) -> Result<SiteStatus, ApiError> {
        let (disk_free, disk_total) = self.site.disk_space();
        let mut status = SiteStatus {
            site: self.config.site.clone(),
            version: self.config.version.clone(),
            now: self.now(),
            servers: self.servers().await?,
            agents: self.agents().await?,
            runs: self.store.live_runs().await?.into_iter().map(|r| r.run).collect(),
            operations: self
                .store
                .operations(None, OPERATIONS)
                .await?
                .into_iter()
                .map(|o| o.operation)
                .collect(),
            disk_free,
            disk_total,
            vault: Some(self.vault()),
            backup_sets: self.backup_sets().await?,
            alarms: Vec::new(),
        };
        let before = self.site.held();
        let rows = self.store.servers().await?;
        let mut alarms = self.site_alarms(&status);
        rows.iter().for_each(|s| fault(&mut alarms, s));
        // Twice, so that one that comes or goes just now is not taken for unknown.
        let after = self.site.held();
        let unknown = after.iter().filter(|s| before.iter().any(|b| b.id == s.id));
        unknown.filter(|s| rows.iter().all(|r| r.id != s.id)).for_each(|s| unknown_server(&mut alarms, s));
        self.store.groups().await?.iter().for_each(|g| group_alarm(&mut alarms, g));
        if let Some(vault) = &status.vault {
            self.vault_alarms(&mut alarms, vault, self.store.waits_for_catalogue().await?);
        }
        status.backup_sets.iter().for_each(|s| super::vault_alarms::set_alarm(&mut alarms, s));
        status.servers.iter().for_each(|s| self.server_alarms(&mut alarms, s, &status));
        status.runs.iter().for_each(|r| run_alarms(&mut alarms, r));
        operation_alarms(&mut alarms, &status.operations, status.now);
        alarms.sort_by_key(|(urgency, _)| *urgency);
        status.alarms = alarms.into_iter().map(|(_, text)| text).collect();
        Ok(status)
    }

    fn site_alarms(&self, status: &SiteStatus) -> Alarms {
        let mut alarms = Vec::new();
        if status.disk_total > 0 {
            let percent = u128::from(status.disk_free) * 100 / u128::from(status.disk_total);
            let text = format!(
                "{} ({percent} %) are free for journals; make room, or replication stops when it is full",
                format_bytes(status.disk_free)
            );
            if percent < u128::from(NO_SPACE) {
                alarms.push((Urgency::Now, text));
            } else if percent < u128::from(LOW_SPACE) {
                alarms.push((Urgency::Soon, text));
            }
        }
        let mut ends = |what: &str, when: WallTime, next: &str| {
            if when <= status.now {
                alarms.push((Urgency::Now, format!("{what} has expired; {next}")));
            } else if when.since(status.now) < SITE_CERTIFICATE {
                let days = when.since(status.now).as_secs() / DAY.as_secs();
                alarms.push((Urgency::Later, format!("{what} ends in {days} days; {next}")));
            }
        };
        if let Some(when) = self.config.server_certificate_expires {
            ends("the site's own certificate", when, "restart `lifeboat serve` to get a new one");
        }
        ends("the site's CA", self.gate.ca().expires(), "make a new site and let the agents join it");
        for agent in &status.agents {
            agent_alarm(&mut alarms, agent, status.now);
        }
        alarms
    }

    fn server_alarms(&self, alarms: &mut Alarms, s: &Server, status: &SiteStatus) {
        branch_alarm(alarms, s);
        if s.stale.is_some() {
            return;
        }
        if !s.state.wants_capture() {
            if s.state == ServerState::Stopped {
                let text = format!(
                    "{}: not protected, replication is stopped; `lifeboat resume {}`",
                    s.name, s.name
                );
                alarms.push((Urgency::Later, text));
            }
            return;
        }
        let reason = s.runtime.reason.as_deref().unwrap_or("no reason is known");
        let agent = status.agents.iter().find(|a| a.id == s.agent);
        if agent.is_some_and(|a| a.revoked) {
            let text =
                format!("{}: its agent '{}' was revoked, so nothing is captured", s.name, s.agent_name);
            alarms.push((Urgency::Now, text));
        } else if agent.is_some_and(|a| !a.connected) {
            let text = format!(
                "{}: its agent '{}' is not connected; see `lifeboat-agent run` on its host",
                s.name, s.agent_name
            );
            alarms.push((Urgency::Now, text));
        } else if s.runtime.health == Health::Stalled {
            alarms.push((Urgency::Now, format!("{}: replication is stalled: {reason}", s.name)));
        } else if s.runtime.health == Health::Lag {
            alarms.push((Urgency::Soon, format!("{}: replication lags: {reason}", s.name)));
        }
        if let Some(sync) = &s.runtime.sync_mode {
            sync_alarm(alarms, s, sync);
        }
        if let Some(verify) = &s.runtime.verify {
            verify_alarm(alarms, s, verify, status.now);
        }
        let own = s.watch.rpo_alarm_seconds.map(|s| Duration::from_secs(u64::from(s)));
        let limit = u64::try_from(own.unwrap_or(self.config.rpo_alarm).as_millis()).unwrap_or(u64::MAX);
        if s.state == ServerState::Replicating
            && let Some(rpo) = s.runtime.rpo_ms.filter(|r| *r > limit)
        {
            let text = format!(
                "{}: the newest recovery point is {} s old, the limit is {} s",
                s.name,
                rpo / 1000,
                limit / 1000
            );
            alarms.push((Urgency::Soon, text));
        }
    }
}

fn fault(alarms: &mut Alarms, s: &ServerRow) {
    if let Some(why) = &s.stale {
        let text = format!(
            "{}: held, nothing is captured: {why}; see what runs here and which points there are, then \
             `lifeboat accept {}`",
            s.name, s.name
        );
        alarms.push((Urgency::Now, text));
    }
    if let Some(fault) = &s.fault {
        let text =
            format!("{}: set aside because of a mistake in Lifeboat ({fault}); stop and resume it", s.name);
        alarms.push((Urgency::Now, text));
    }
}

/// The store was put back to a time before this server was protected.
fn unknown_server(alarms: &mut Alarms, s: &ServerSpec) {
    let text = format!(
        "{}: the data side keeps this server ({}) and the store does not know it, so it cannot be recovered from \
         here; restore a newer store",
        s.name, s.id
    );
    alarms.push((Urgency::Now, text));
}

fn group_alarm(alarms: &mut Alarms, g: &GroupRow) {
    if let Some(trouble) = &g.trouble {
        alarms.push((Urgency::Soon, format!("group {}: no common point: {trouble}", g.name)));
    }
}

fn branch_alarm(alarms: &mut Alarms, s: &Server) {
    let n = s.runtime.branches;
    if n > 0 {
        let what =
            if n == 1 { "a divergent branch is".into() } else { format!("{n} divergent branches are") };
        let text = format!(
            "{0}: {what} kept, with what its old source wrote after its epoch was over; see `lifeboat branches {0}`, \
             take what is needed with `lifeboat mount {0} --branch ID`, then `lifeboat branches delete {0} ID`",
            s.name
        );
        alarms.push((Urgency::Later, text));
    }
}

/// A synchronous server that does not keep its promise.
fn sync_alarm(alarms: &mut Alarms, s: &Server, sync: &SyncStatus) {
    let since = sync.since.map_or(String::new(), |t| format!(" since {t}"));
    let text = match sync.state {
        SyncModeState::Blocked => {
            let then = match s.replication.on_loss {
                OnLoss::Block => format!(
                    "after {} s they fail with an I/O error; see to the link, or let them go on without this site: \
                     `lifeboat set {} --on-loss degrade`",
                    s.replication.loss_seconds, s.name
                ),
                OnLoss::Degrade => {
                    format!(
                        "after {} s they go on without this site; see to the link",
                        s.replication.loss_seconds
                    )
                }
            };
            format!("{}: synchronous writes wait for this site{since}: {then}", s.name)
        }
        SyncModeState::Degraded => format!(
            "{}: NOT synchronous{since}: its policy let writes go on without this site, so the newest can be lost; see to \
             the link, it is synchronous again by itself once it has caught up",
            s.name
        ),
        SyncModeState::NotYet | SyncModeState::Synchronous | SyncModeState::Unknown => return,
    };
    alarms.push((Urgency::Now, text));
}

fn verify_alarm(alarms: &mut Alarms, s: &Server, v: &VerifyStatus, now: WallTime) {
    match v.state {
        VerifyState::Different => {
            let when = v.ended.unwrap_or(v.started);
            let from = v.point.map_or("later points are right once it is sent".into(), |p| {
                format!("points before {p} may be wrong there")
            });
            let text = format!(
                "{0}: source and copy differed in {1} at {2}; that was sent anew, {from}; compare again: \
                 `lifeboat verify {0}`",
                s.name,
                format_bytes(v.different_bytes),
                when
            );
            alarms.push((Urgency::Now, text));
        }
        VerifyState::Failed if v.ended.is_some_and(|e| now.since(e) < FAILED_FOR) => {
            let why = v.error.as_deref().unwrap_or("no reason is known");
            alarms.push((Urgency::Later, format!("{}: the comparison failed: {why}", s.name)));
        }
        VerifyState::Failed | VerifyState::Running | VerifyState::Equal => {}
    }
}

fn agent_alarm(alarms: &mut Alarms, a: &Agent, now: WallTime) {
    if a.revoked || a.servers.is_empty() {
        return;
    }
    if a.certificate_expires <= now {
        let text = format!("the agent '{}' has an expired certificate; join it again", a.name);
        alarms.push((Urgency::Now, text));
    } else if a.certificate_expires.since(now) < AGENT_CERTIFICATE {
        let hours = a.certificate_expires.since(now).as_secs() / 3600;
        let text = format!("the agent '{}' has not renewed its certificate, which ends in {hours} h", a.name);
        alarms.push((Urgency::Soon, text));
    }
}

fn run_alarms(alarms: &mut Alarms, r: &Run) {
    if r.kind == RunKind::Failover && r.state == RunState::Exited {
        let text = format!("{}: the machine that runs here has ended; see {}", r.server, r.directory);
        alarms.push((Urgency::Now, text));
    }
}

/// The newest operation of each kind and server counts: a later one that went well clears the alarm.
fn operation_alarms(alarms: &mut Alarms, operations: &[Operation], now: WallTime) {
    let newer = |i: usize, o: &Operation| {
        operations[..i]
            .iter()
            .any(|n| n.server == o.server && n.kind == o.kind && n.state != OperationState::Running)
    };
    for (i, o) in operations.iter().enumerate() {
        let recent = o.ended.is_some_and(|e| now.since(e) < FAILED_FOR);
        if !recent || newer(i, o) {
            continue;
        }
        let what = match o.kind {
            OperationKind::Drill => "the drill",
            OperationKind::DrillCleanup => "the clean-up",
            OperationKind::Failover => "the failover",
            OperationKind::Commit => "the commit",
        };
        let urgency = if o.kind == OperationKind::Failover { Urgency::Now } else { Urgency::Later };
        match o.state {
            OperationState::Failed => {
                let why = o.error.as_ref().map_or("no reason is known".into(), ToString::to_string);
                alarms.push((urgency, format!("{}: {what} failed: {why}", o.server)));
            }
            OperationState::ChecksFailed => {
                alarms.push((urgency, format!("{}: {what} ran, but not all checks passed", o.server)));
            }
            OperationState::Running | OperationState::Succeeded | OperationState::Cancelled => {}
        }
    }
}
