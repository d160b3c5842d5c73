//! A store that is older than the data: restored from a backup, or a state directory put together from two.
//!
//! Invariants: an epoch never falls: where the data side knows a higher one, the store takes it over; from then on the
//! server is held: nothing is captured and no failover begins, or goes on, until a person has looked and said so (I4).
//! The data side's knowledge is read before the store's rows: the store always raises an epoch first, so only a
//! store that was put back is ever behind.

use super::{App, conflict};
use crate::policy::Actor;
use crate::store::{Note, ServerRow};
use lifeboat_api::lifecycle::{ServerEvent, ServerState};
use lifeboat_api::types::{ApiError, Server};
use lifeboat_base::{Epoch, ServerId};
use std::collections::HashMap;

/// Epochs that the data side knows.
pub(super) type Known = HashMap<ServerId, Epoch>;

pub(super) fn refuse(row: &ServerRow) -> Result<(), ApiError> {
    match &row.stale {
        None => Ok(()),
        Some(why) => Err(conflict(format!("'{}' is held: {why}", row.name)).hint(format!(
            "see what runs and which points there are, then say so: `lifeboat accept {}`",
            row.name
        ))),
    }
}

impl App {
    pub(super) fn known_epochs(&self) -> Known {
        self.site.held().into_iter().map(|s| (s.id, s.epoch)).collect()
    }

    /// Holds a server whose data is of a later epoch than the store knows. True when it was behind.
    pub(super) async fn catch_up(&self, row: &ServerRow, known: &Known) -> Result<bool, ApiError> {
        let Some(found) = known.get(&row.id).copied().filter(|e| *e > row.epoch) else { return Ok(false) };
        let why = format!(
            "its data is at epoch {found} and the store said {}, {}, so the store is older than the data",
            row.epoch, row.state
        );
        let note = Note::done("site", "server.stale", &row.name, &why).outcome("failed");
        let to = held_state(row.state);
        if self.store.set_stale(row.id, row.state, to, found, &why, &note).await? {
            tracing::error!(server = row.name, why, "a server is held until a person has looked");
            self.asserted.lock().remove(&row.id);
        }
        Ok(true)
    }

    /// A person has looked: the server can be moved again.
    pub async fn accept(&self, actor: &Actor, name: &str) -> Result<Server, ApiError> {
        let row = self.named(name).await?;
        let detail = row.stale.clone().unwrap_or_default();
        let note = Note::done(&actor.name, "server.accept", &row.name, detail);
        if !self.store.clear_stale(row.id, &note).await? {
            return Err(conflict(format!("'{}' is not held; there is nothing to accept", row.name)));
        }
        self.wake.notify_one();
        self.server(name).await
    }
}

/// Nothing is captured in it.
fn held_state(state: ServerState) -> ServerState {
    [ServerEvent::StopRequested, ServerEvent::FailoverFailed]
        .into_iter()
        .find_map(|e| state.next(e))
        .unwrap_or(state)
}
