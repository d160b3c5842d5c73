//! Operations and their steps.

use super::runs::{RunRow, put_run};
use super::{
    Note, Store, StoreError, Tx, audit, from_json, from_word, json, maybe_parsed, maybe_time, nanos, parsed,
    taken, time, word,
};
use lifeboat_api::types::{ApiError, Operation, OperationState, Step};
use lifeboat_base::{OperationId, ServerId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// An operation with what only control knows of it.
#[derive(Debug, Clone)]
pub struct OperationRow {
    pub server: ServerId,
    pub operation: Operation,
    /// What was asked for.
    pub work: serde_json::Value,
    /// What earlier steps found out for later ones.
    pub memory: serde_json::Value,
    /// A person wants it to end.
    pub cancel: bool,
}

/// An operation that is about to begin.
#[derive(Debug, Clone)]
pub struct NewOperation {
    pub row: OperationRow,
    /// The run it makes.
    pub run: Option<RunRow>,
    pub note: Note,
}

fn read_step(row: &SqliteRow) -> Result<Step, StoreError> {
    let percent: Option<i64> = row.try_get("percent")?;
    Ok(Step {
        name: row.try_get("name")?,
        state: from_word(row, "state")?,
        detail: row.try_get("detail")?,
        started: maybe_time(row, "started")?,
        ended: maybe_time(row, "ended")?,
        percent: percent.and_then(|p| u8::try_from(p).ok()),
    })
}

fn read(row: &SqliteRow, steps: Vec<Step>) -> Result<OperationRow, StoreError> {
    let error: Option<String> = row.try_get("error")?;
    let error: Option<ApiError> = error
        .map(|e| serde_json::from_str(&e).map_err(|e| StoreError::Damaged(format!("column error: {e}"))))
        .transpose()?;
    Ok(OperationRow {
        server: parsed(row, "server")?,
        operation: Operation {
            id: parsed(row, "id")?,
            kind: from_word(row, "kind")?,
            server: row.try_get("server_name")?,
            state: from_word(row, "state")?,
            steps,
            started: time(row, "started")?,
            ended: maybe_time(row, "ended")?,
            error,
            run: maybe_parsed(row, "run")?,
            actor: row.try_get("actor")?,
        },
        work: from_json(row, "work")?,
        memory: from_json(row, "memory")?,
        cancel: row.try_get::<i64, _>("cancel")? != 0,
    })
}

async fn put_step(
    tx: &mut Tx,
    operation: OperationId,
    position: usize,
    step: &Step,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO steps (operation, position, name, state, detail, started, ended, percent) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (operation, position) \
         DO UPDATE SET state = $4, detail = $5, started = $6, ended = $7, percent = $8",
    )
    .bind(operation.to_string())
    .bind(i64::try_from(position).unwrap_or(i64::MAX))
    .bind(&step.name)
    .bind(word(&step.state)?)
    .bind(&step.detail)
    .bind(step.started.map(nanos))
    .bind(step.ended.map(nanos))
    .bind(step.percent.map(i64::from))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Stores new operations, their steps and their runs, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when another operation of one of the servers is running.
    pub async fn begin_operations(&self, all: &[NewOperation]) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        for new in all {
            let op = &new.row.operation;
            sqlx::query(
                "INSERT INTO operations (id, kind, server, server_name, state, started, actor, run, work, memory) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(op.id.to_string())
            .bind(word(&op.kind)?)
            .bind(new.row.server.to_string())
            .bind(&op.server)
            .bind(word(&op.state)?)
            .bind(nanos(op.started))
            .bind(&op.actor)
            .bind(op.run.map(|r| r.to_string()))
            .bind(json(&new.row.work)?)
            .bind(json(&new.row.memory)?)
            .execute(&mut *tx)
            .await
            .map_err(taken("server's one running operation"))?;
            for (position, step) in op.steps.iter().enumerate() {
                put_step(&mut tx, op.id, position, step).await?;
            }
            if let Some(run) = &new.run {
                put_run(&mut tx, run).await?;
            }
            audit::append(&mut tx, self.now(), &new.note).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Stores one step as it stands, with the operation's memory and error.
    pub async fn save_step(&self, row: &OperationRow, position: usize) -> Result<(), StoreError> {
        let op = &row.operation;
        let Some(step) = op.steps.get(position) else { return Ok(()) };
        let mut tx = self.write().await?;
        put_step(&mut tx, op.id, position, step).await?;
        sqlx::query("UPDATE operations SET memory = $1, error = $2 WHERE id = $3")
            .bind(json(&row.memory)?)
            .bind(op.error.as_ref().map(json).transpose()?)
            .bind(op.id.to_string())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Stores how an operation ended.
    pub async fn end_operation(&self, row: &OperationRow, note: &Note) -> Result<(), StoreError> {
        let op = &row.operation;
        let mut tx = self.write().await?;
        sqlx::query("UPDATE operations SET state = $1, ended = $2, error = $3 WHERE id = $4")
            .bind(word(&op.state)?)
            .bind(op.ended.map(nanos))
            .bind(op.error.as_ref().map(json).transpose()?)
            .bind(op.id.to_string())
            .execute(&mut *tx)
            .await?;
        for (position, step) in op.steps.iter().enumerate() {
            put_step(&mut tx, op.id, position, step).await?;
        }
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    /// Asks a running operation to end. False when it is not running any more.
    pub async fn cancel_operation(&self, id: OperationId, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE operations SET cancel = 1 WHERE id = $1 AND state = 'running'")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    pub async fn operation(&self, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM operations WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some(row) => Ok(Some(read(&row, self.steps(&row).await?)?)),
            None => Ok(None),
        }
    }

    /// Operations, newest first, of one server or of all.
    pub async fn operations(
        &self,
        server: Option<&str>,
        limit: u32,
    ) -> Result<Vec<OperationRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM operations WHERE ($1 IS NULL OR server_name = $1) ORDER BY started DESC LIMIT $2",
        )
        .bind(server)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        self.with_steps(&rows).await
    }

    pub async fn running_operations(&self) -> Result<Vec<OperationRow>, StoreError> {
        let state = word(&OperationState::Running)?;
        let rows = sqlx::query("SELECT * FROM operations WHERE state = $1 ORDER BY started")
            .bind(state)
            .fetch_all(&self.pool)
            .await?;
        self.with_steps(&rows).await
    }

    /// The running operation of one server.
    pub async fn running_operation(&self, server: ServerId) -> Result<Option<OperationRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM operations WHERE state = 'running' AND server = $1")
            .bind(server.to_string())
            .fetch_all(&self.pool)
            .await?;
        Ok(self.with_steps(&rows).await?.pop())
    }

    async fn with_steps(&self, rows: &[SqliteRow]) -> Result<Vec<OperationRow>, StoreError> {
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            out.push(read(row, self.steps(row).await?)?);
        }
        Ok(out)
    }

    async fn steps(&self, operation: &SqliteRow) -> Result<Vec<Step>, StoreError> {
        let id: String = operation.try_get("id")?;
        let rows = sqlx::query("SELECT * FROM steps WHERE operation = $1 ORDER BY position")
            .bind(id)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read_step).collect()
    }
}
