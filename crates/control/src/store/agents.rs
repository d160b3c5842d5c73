//! Agents that have joined.

use super::{Note, Store, StoreError, Tx, maybe_time, nanos, parsed, taken, time};
use lifeboat_base::{AgentId, WallTime};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    pub id: AgentId,
    pub name: String,
    pub joined: WallTime,
    /// Serial number of its newest certificate, hex.
    pub serial: String,
    pub certificate_expires: WallTime,
    pub revoked: bool,
}

fn read(row: &SqliteRow) -> Result<AgentRow, StoreError> {
    Ok(AgentRow {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        joined: time(row, "joined")?,
        serial: row.try_get("serial")?,
        certificate_expires: time(row, "certificate_expires")?,
        revoked: maybe_time(row, "revoked_at")?.is_some(),
    })
}

pub(super) async fn insert_agent(tx: &mut Tx, agent: &AgentRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO agents (id, name, joined, serial, certificate_expires) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(agent.id.to_string())
    .bind(&agent.name)
    .bind(nanos(agent.joined))
    .bind(&agent.serial)
    .bind(nanos(agent.certificate_expires))
    .execute(&mut **tx)
    .await
    .map_err(taken("agent name"))?;
    Ok(())
}

pub(super) async fn mark_revoked(tx: &mut Tx, agent: AgentId, now: WallTime) -> Result<u64, StoreError> {
    let done = sqlx::query("UPDATE agents SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
        .bind(nanos(now))
        .bind(agent.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected())
}

impl Store {
    /// All agents, revoked ones too, by name.
    pub async fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM agents ORDER BY name, joined").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Records the certificate an agent got now. False when there is no such agent or it is revoked.
    pub async fn renewed(
        &self,
        agent: AgentId,
        serial: &str,
        expires: WallTime,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE agents SET serial = $1, certificate_expires = $2 WHERE id = $3 AND revoked_at IS NULL",
        )
        .bind(serial)
        .bind(nanos(expires))
        .bind(agent.to_string())
        .execute(&mut *tx)
        .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    /// False when there is no such agent or it is revoked already.
    pub async fn revoke_agent(&self, agent: AgentId, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let rows = mark_revoked(&mut tx, agent, self.now()).await?;
        self.end_change(tx, rows, note).await
    }
}
