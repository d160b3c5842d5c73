//! The life of a protected server, as one table.
//!
//! Invariant: a server's state changes only by [`ServerState::next`]. The same names stand in the
//! API, the CLI and the store.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// Known, nothing captured yet.
    Initialized,
    /// The agent measures what has to be sent.
    Scanning,
    /// Content is on its way; no recovery point exists yet.
    InitialSync,
    /// Writes arrive as they happen; recovery points exist.
    Replicating,
    /// A failover is being carried out; replication is off.
    FailingOver,
    /// Runs at this site; the point can still be changed.
    FailedOver,
    /// Runs at this site for good; unprotected until it is protected anew.
    Committed,
    /// Replication was stopped by a person; points are kept.
    Stopped,
}

/// What can happen to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerEvent {
    ScanStarted,
    SyncStarted,
    /// The first recovery point exists.
    FirstPoint,
    StopRequested,
    ResumeRequested,
    FailoverStarted,
    FailoverDone,
    FailoverFailed,
    Committed,
}

impl ServerState {
    pub const ALL: [ServerState; 8] = [
        Self::Initialized,
        Self::Scanning,
        Self::InitialSync,
        Self::Replicating,
        Self::FailingOver,
        Self::FailedOver,
        Self::Committed,
        Self::Stopped,
    ];

    /// The state after `event`, or `None` where the event is not allowed.
    pub fn next(self, event: ServerEvent) -> Option<ServerState> {
        use ServerEvent as E;
        use ServerState as S;
        match (self, event) {
            (S::Initialized, E::ScanStarted) => Some(S::Scanning),
            (S::Initialized | S::Scanning, E::SyncStarted) => Some(S::InitialSync),
            (S::Initialized | S::Scanning | S::InitialSync, E::FirstPoint) => Some(S::Replicating),
            (S::Initialized | S::Scanning | S::InitialSync | S::Replicating, E::StopRequested) => {
                Some(S::Stopped)
            }
            (S::Stopped, E::ResumeRequested) => Some(S::Initialized),
            // A failed failover leaves replication off: the epoch may have been raised already.
            (S::Replicating | S::Stopped | S::FailedOver, E::FailoverStarted) => Some(S::FailingOver),
            (S::FailingOver, E::FailoverDone) => Some(S::FailedOver),
            (S::FailingOver, E::FailoverFailed) => Some(S::Stopped),
            (S::FailedOver, E::Committed) => Some(S::Committed),
            _ => None,
        }
    }

    /// Whether the agent should capture and send in this state.
    pub fn wants_capture(self) -> bool {
        matches!(self, Self::Initialized | Self::Scanning | Self::InitialSync | Self::Replicating)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Initialized => "initialized",
            Self::Scanning => "scanning",
            Self::InitialSync => "initial-sync",
            Self::Replicating => "replicating",
            Self::FailingOver => "failing-over",
            Self::FailedOver => "failed-over",
            Self::Committed => "committed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ServerState {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|v| v.name() == s).ok_or_else(|| format!("'{s}' is not a server state"))
    }
}

#[cfg(test)]
mod tests;
