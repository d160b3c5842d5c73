//! Protected servers.

use super::{Note, Store, StoreError, Tx, audit, from_json, json, maybe_parsed, nanos, parsed, taken, time};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::port::ServerSpec;
use lifeboat_api::types::{
    CaptureSpec, DiskInfo, LaunchSettings, ReplicationSpec, RetentionSpec, ServerChange as Settings,
    WatchSpec, WindowSpec,
};
use lifeboat_base::{AgentId, Epoch, RunId, ServerId, WallTime};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    pub id: ServerId,
    pub name: String,
    pub agent: AgentId,
    pub capture: CaptureSpec,
    pub window: WindowSpec,
    pub launch: LaunchSettings,
    pub replication: ReplicationSpec,
    pub watch: WatchSpec,
    pub retention: RetentionSpec,
    pub state: ServerState,
    pub epoch: Epoch,
    pub created: WallTime,
    /// As probed when it was protected; never changes.
    pub disks: Vec<DiskInfo>,
    /// The run that carries the server after a failover.
    pub run: Option<RunId>,
    /// Why control no longer dares to move it.
    pub fault: Option<String>,
    /// What the data side knew better than this store, until a person has looked: no failover from it before.
    pub stale: Option<String>,
    /// Its points are being deleted; it is not shown any more.
    pub deleting: bool,
}

impl ServerRow {
    /// What the data side should hold for it.
    pub fn spec(&self) -> ServerSpec {
        ServerSpec {
            id: self.id,
            name: self.name.clone(),
            agent: self.agent,
            epoch: self.epoch,
            capture: self.capture.clone(),
            disks: self.disks.clone(),
            window: self.window.clone(),
            replication: self.replication.clone(),
            retention: self.retention.clone(),
            active: self.state.wants_capture() && !self.deleting,
        }
    }
}

/// A step in a server's life. The epoch only ever grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerChange {
    pub from: ServerState,
    pub to: ServerState,
    pub epoch: Epoch,
    pub run: Option<RunId>,
}

fn read(row: &SqliteRow) -> Result<ServerRow, StoreError> {
    let epoch: i64 = row.try_get("epoch")?;
    Ok(ServerRow {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        agent: parsed(row, "agent")?,
        capture: from_json(row, "capture")?,
        window: from_json(row, "journal_window")?,
        launch: from_json(row, "launch")?,
        replication: from_json(row, "replication")?,
        watch: from_json(row, "watch")?,
        retention: from_json(row, "retention")?,
        state: parsed(row, "state")?,
        epoch: Epoch(u32::try_from(epoch).map_err(|_| StoreError::Damaged(format!("epoch {epoch}")))?),
        created: time(row, "created")?,
        disks: from_json(row, "disks")?,
        run: maybe_parsed(row, "run")?,
        fault: row.try_get("fault")?,
        stale: row.try_get("stale")?,
        deleting: row.try_get::<i64, _>("deleting")? != 0,
    })
}

pub(super) async fn insert(tx: &mut Tx, s: &ServerRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO servers (id, name, agent, capture, journal_window, launch, state, epoch, created, disks, \
         replication, watch, retention) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(s.id.to_string())
    .bind(&s.name)
    .bind(s.agent.to_string())
    .bind(json(&s.capture)?)
    .bind(json(&s.window)?)
    .bind(json(&s.launch)?)
    .bind(s.state.name())
    .bind(i64::from(s.epoch.0))
    .bind(nanos(s.created))
    .bind(json(&s.disks)?)
    .bind(json(&s.replication)?)
    .bind(json(&s.watch)?)
    .bind(json(&s.retention)?)
    .execute(&mut **tx)
    .await
    .map_err(taken("server name"))?;
    Ok(())
}

impl Store {
    pub async fn insert_server(&self, s: &ServerRow, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        insert(&mut tx, s).await?;
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    /// All servers by name, with those being deleted.
    pub async fn servers(&self) -> Result<Vec<ServerRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM servers ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    pub async fn server(&self, id: ServerId) -> Result<Option<ServerRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM servers WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    pub async fn server_named(&self, name: &str) -> Result<Option<ServerRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM servers WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Makes a change if the server is still in the state it starts from; false when not. Clears a fault.
    pub async fn change_server(
        &self,
        id: ServerId,
        c: &ServerChange,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE servers SET state = $1, epoch = $2, run = $3, fault = NULL \
             WHERE id = $4 AND state = $5 AND epoch <= $2 AND deleting = 0",
        )
        .bind(c.to.name())
        .bind(i64::from(c.epoch.0))
        .bind(c.run.map(|r| r.to_string()))
        .bind(id.to_string())
        .bind(c.from.name())
        .execute(&mut *tx)
        .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    /// Changes what is given of a server's settings.
    pub async fn set_settings(&self, id: ServerId, c: &Settings, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "UPDATE servers SET journal_window = COALESCE($1, journal_window), launch = COALESCE($2, launch), \
             replication = COALESCE($3, replication), watch = COALESCE($4, watch), \
             retention = COALESCE($5, retention) WHERE id = $6",
        )
        .bind(c.window.as_ref().map(json).transpose()?)
        .bind(c.launch.as_ref().map(json).transpose()?)
        .bind(c.replication.as_ref().map(json).transpose()?)
        .bind(c.watch.as_ref().map(json).transpose()?)
        .bind(c.retention.as_ref().map(json).transpose()?)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    /// Takes over a higher epoch that the data side was found at, and holds the server until a person has looked.
    /// False when it is not in the state `from` any more, or not behind.
    pub async fn set_stale(
        &self,
        id: ServerId,
        from: ServerState,
        to: ServerState,
        found: Epoch,
        why: &str,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE servers SET epoch = $1, state = $2, stale = $3 \
             WHERE id = $4 AND state = $5 AND epoch < $1 AND deleting = 0",
        )
        .bind(i64::from(found.0))
        .bind(to.name())
        .bind(why)
        .bind(id.to_string())
        .bind(from.name())
        .execute(&mut *tx)
        .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    /// A person has looked. False when there was nothing to look at.
    pub async fn clear_stale(&self, id: ServerId, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE servers SET stale = NULL WHERE id = $1 AND stale IS NOT NULL")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    pub async fn set_fault(&self, id: ServerId, fault: &str, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("UPDATE servers SET fault = $1 WHERE id = $2")
            .bind(fault)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    /// From here on the server is on its way out, whatever happens. False when a group has it.
    pub async fn mark_deleting(&self, id: ServerId, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query(
            "UPDATE servers SET deleting = 1 \
             WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM group_members WHERE server = $1)",
        )
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    pub async fn delete_server(&self, id: ServerId, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM servers WHERE id = $1").bind(id.to_string()).execute(&mut *tx).await?;
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }
}
