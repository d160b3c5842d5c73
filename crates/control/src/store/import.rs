//! Taking over what the catalogue of an attached vault says, once.
//!
//! Invariants: all of it is stored, with its audit entry and with the word that it is done, or nothing; it is done on a
//! store that waits for it and on no other, so it is never done twice.

use super::agents::{insert_agent, mark_revoked};
use super::groups::add_group;
use super::servers::insert;
use super::sets::insert_set;
use super::{AgentRow, GroupRow, Note, ServerRow, Store, StoreError, audit, nanos};
use lifeboat_api::types::BackupSet;

/// Set in `meta` while a site was attached and has not read the catalogue.
const ATTACHED: &str = "attached";

/// What a catalogue says, as rows.
#[derive(Debug, Clone, Default)]
pub struct Import {
    pub agents: Vec<AgentRow>,
    pub servers: Vec<ServerRow>,
    pub groups: Vec<GroupRow>,
    pub sets: Vec<BackupSet>,
}

impl Store {
    /// Whether the catalogue of the vault has still to be read.
    pub async fn waits_for_catalogue(&self) -> Result<bool, StoreError> {
        Ok(self.meta(ATTACHED).await?.is_some())
    }

    /// From here on the store waits for the catalogue.
    pub async fn wait_for_catalogue(&self) -> Result<(), StoreError> {
        self.set_meta(ATTACHED, "catalogue not read").await
    }

    /// False, and nothing is changed, when the store does not wait for it.
    pub async fn import(&self, import: &Import, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM meta WHERE key = $1").bind(ATTACHED).execute(&mut *tx).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        for agent in &import.agents {
            // A revoked one first loses its name, which a later agent may have.
            insert_agent(&mut tx, agent).await?;
            if agent.revoked {
                mark_revoked(&mut tx, agent.id, self.now()).await?;
            }
        }
        for server in &import.servers {
            insert(&mut tx, server).await?;
        }
        for group in &import.groups {
            if !add_group(&mut tx, group).await? {
                return Err(StoreError::Damaged(format!("the group {} has unknown members", group.name)));
            }
        }
        for set in &import.sets {
            insert_set(&mut tx, set, nanos(self.now())).await?;
        }
        audit::append(&mut tx, self.now(), note).await?;
        tx.commit().await?;
        Ok(true)
    }
}
