//! What operations are asked to do and what their steps remember, as the store keeps it.
//!
//! Invariants: [`Work`] never changes after the operation was made; [`Memory`] is saved with every step. Both are
//! read back by a later version after a crash, so fields are only ever added, with a default.

use crate::store::{OperationRow, StoreError};
use lifeboat_api::types::{
    LaunchSettings, Operation, OperationKind, OperationState, PointInfo, Step, StepState,
};
use lifeboat_base::{Epoch, RunId, ServerId, WallTime};
use serde::{Deserialize, Serialize};

/// What was asked for, with everything decided at the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Work {
    Drill {
        launching: Launching,
        keep_seconds: u64,
    },
    Failover {
        launching: Launching,
        /// Everything that arrived counts, also what arrives until replication is off.
        latest: bool,
        /// The epoch to raise the server to; none when only the point changes.
        epoch: Option<Epoch>,
        /// The run to throw away.
        previous: Option<RunId>,
    },
    CleanUp {
        run: RunId,
    },
    Commit {
        run: RunId,
    },
}

/// What drills and failovers have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Launching {
    pub run: RunId,
    pub point: PointInfo,
    pub launch: LaunchSettings,
    pub checks: Vec<String>,
    pub check_ports: Vec<u16>,
    pub check_seconds: u64,
    pub post_script: Option<String>,
    /// What the source's clock showed at the request, as far as can be known.
    pub source_now: Option<WallTime>,
}

/// What earlier steps found out for later ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// The point as resolved by a step.
    pub point: Option<PointInfo>,
    pub checks_failed: bool,
}

/// The steps of each kind of work, in order.
pub(super) mod step {
    pub const RESOLVE: &str = "resolve";
    pub const MOUNT: &str = "mount";
    pub const START: &str = "start";
    pub const CHECKS: &str = "checks";
    pub const REPORT: &str = "report";
    pub const STOP: &str = "stop-replication";
    pub const DISCARD: &str = "discard-current";
    pub const COMPLETE: &str = "complete";
    pub const HYDRATE: &str = "hydrate";
    pub const RELEASE: &str = "release";
    pub const COMMIT: &str = "commit";
    pub const DESTROY: &str = "destroy";

    pub const DRILL: &[&str] = &[RESOLVE, MOUNT, START, CHECKS, REPORT];
    /// The new point is mounted before the old run is thrown away: what can fail early fails while the old runs.
    pub const FAILOVER: &[&str] = &[STOP, RESOLVE, MOUNT, DISCARD, START, CHECKS, COMPLETE, HYDRATE, REPORT];
    pub const CLEAN_UP: &[&str] = &[DESTROY];
    pub const COMMITTING: &[&str] = &[HYDRATE, RELEASE, COMMIT];
}

impl Work {
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Drill { .. } => OperationKind::Drill,
            Self::Failover { .. } => OperationKind::Failover,
            Self::CleanUp { .. } => OperationKind::DrillCleanup,
            Self::Commit { .. } => OperationKind::Commit,
        }
    }

    pub fn run(&self) -> RunId {
        match self {
            Self::Drill { launching, .. } | Self::Failover { launching, .. } => launching.run,
            Self::CleanUp { run } | Self::Commit { run } => *run,
        }
    }

    pub fn launching(&self) -> Option<&Launching> {
        match self {
            Self::Drill { launching, .. } | Self::Failover { launching, .. } => Some(launching),
            _ => None,
        }
    }

    pub fn steps(&self) -> &'static [&'static str] {
        match self {
            Self::Drill { .. } => step::DRILL,
            Self::Failover { .. } => step::FAILOVER,
            Self::CleanUp { .. } => step::CLEAN_UP,
            Self::Commit { .. } => step::COMMITTING,
        }
    }
}

/// An operation as the engine works on it.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub server: ServerId,
    pub operation: Operation,
    pub work: Work,
    pub memory: Memory,
    pub cancel: bool,
}

impl Job {
    pub fn load(row: OperationRow) -> Result<Self, StoreError> {
        let damaged =
            |e: serde_json::Error| StoreError::Damaged(format!("operation {}: {e}", row.operation.id));
        Ok(Self {
            server: row.server,
            work: serde_json::from_value(row.work).map_err(damaged)?,
            memory: serde_json::from_value(row.memory).map_err(damaged)?,
            cancel: row.cancel,
            operation: row.operation,
        })
    }

    pub fn row(&self) -> Result<OperationRow, StoreError> {
        let damaged = |e: serde_json::Error| StoreError::Damaged(e.to_string());
        Ok(OperationRow {
            server: self.server,
            work: serde_json::to_value(&self.work).map_err(damaged)?,
            memory: serde_json::to_value(&self.memory).map_err(damaged)?,
            cancel: self.cancel,
            operation: self.operation.clone(),
        })
    }

    /// Position of the step called `name`, and whether it has begun.
    pub fn begun(&self, name: &str) -> bool {
        self.operation.steps.iter().any(|s| s.name == name && s.state != StepState::Pending)
    }

    pub fn done(&self, name: &str) -> bool {
        let over = |s: StepState| matches!(s, StepState::Done | StepState::Skipped);
        self.operation.steps.iter().any(|s| s.name == name && over(s.state))
    }

    pub fn running(&self) -> bool {
        self.operation.state == OperationState::Running
    }

    /// The point the run is made of.
    pub fn point(&self) -> Option<&PointInfo> {
        self.memory.point.as_ref().or_else(|| self.work.launching().map(|l| &l.point))
    }
}

/// Steps that have not begun.
pub(super) fn pending(names: &[&str]) -> Vec<Step> {
    names
        .iter()
        .map(|name| Step {
            name: (*name).into(),
            state: StepState::Pending,
            detail: String::new(),
            started: None,
            ended: None,
            percent: None,
        })
        .collect()
}
