//! Machines launched from points.

use super::{Store, StoreError, Tx, from_json, json, nanos, parsed, word};
use lifeboat_api::types::Run;
use lifeboat_base::{RunId, ServerId};
use sqlx::sqlite::SqliteRow;

#[derive(Debug, Clone)]
pub struct RunRow {
    pub server: ServerId,
    pub run: Run,
}

fn read(row: &SqliteRow) -> Result<RunRow, StoreError> {
    Ok(RunRow { server: parsed(row, "server")?, run: from_json(row, "body")? })
}

pub(super) async fn put_run(tx: &mut Tx, row: &RunRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO runs (id, server, state, started, expires, body) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (id) DO UPDATE SET state = $3, expires = $5, body = $6",
    )
    .bind(row.run.id.to_string())
    .bind(row.server.to_string())
    .bind(word(&row.run.state)?)
    .bind(nanos(row.run.started))
    .bind(row.run.expires.map(nanos))
    .bind(json(&row.run)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Changes a run under the write lock, so that two who change it at once both count. The run as it is then, or
    /// `None` when there is none.
    pub async fn update_run(
        &self,
        id: RunId,
        change: impl FnOnce(&mut Run) + Send,
    ) -> Result<Option<Run>, StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query("SELECT * FROM runs WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(mut row) = row.as_ref().map(read).transpose()? else { return Ok(None) };
        let before = json(&row.run)?;
        change(&mut row.run);
        if json(&row.run)? != before {
            put_run(&mut tx, &row).await?;
            tx.commit().await?;
        }
        Ok(Some(row.run))
    }

    pub async fn run(&self, id: RunId) -> Result<Option<RunRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM runs WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Runs that are not cleaned up, newest first.
    pub async fn live_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM runs WHERE state <> 'cleaned-up' ORDER BY started DESC")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read).collect()
    }

    /// The newest runs, cleaned up or not.
    pub async fn runs(&self, limit: u32) -> Result<Vec<RunRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM runs ORDER BY started DESC LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read).collect()
    }
}
