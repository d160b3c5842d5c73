//! The one screen for three in the morning.

use super::App;
use crate::store::ServerRow;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{
    Agent, ApiError, Health, Operation, OperationKind, OperationState, Run, RunKind, RunState, Server,
    SiteStatus,
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
enum Urgency {
    /// Data or service is at stake now.
    Now,
    /// Protection is not what it should be.
    Soon,
    /// Look at it in daylight.
    Later,
}

type Alarms = Vec<(Urgency, String)>;

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
            alarms: Vec::new(),
        };
        let faults = self.store.servers().await?;
        let mut alarms = self.site_alarms(&status);
        faults.iter().for_each(|s| fault(&mut alarms, s));
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
        let limit = u64::try_from(self.config.rpo_alarm.as_millis()).unwrap_or(u64::MAX);
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
    if let Some(fault) = &s.fault {
        let text =
            format!("{}: set aside because of a mistake in Lifeboat ({fault}); stop and resume it", s.name);
        alarms.push((Urgency::Now, text));
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
