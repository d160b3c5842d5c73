//! Everything control remembers, in one SQLite file. Nothing else touches SQL.
//!
//! Invariants: what a method returned `Ok` for is on stable storage (WAL, `synchronous=FULL`); a change and its audit
//! entry are one transaction; a server has at most one running operation, held by a unique index; secrets are
//! kept as hashes only. Writers take the database's write lock first (`BEGIN IMMEDIATE`), so no transaction fails
//! half way for want of it. The SQL text numbers its parameters (`$1`), as PostgreSQL also wants them.

mod agents;
mod audit;
mod groups;
mod import;
mod operations;
mod runs;
mod servers;
mod sets;
mod tokens;

pub use agents::AgentRow;
pub use audit::Note;
pub use groups::{GroupPointRow, GroupRow, MemberPoint};
pub use import::Import;
pub use operations::{NewOperation, OperationRow};
pub use runs::RunRow;
pub use servers::{ServerChange, ServerRow};
pub use tokens::{Redeemed, TokenRow};

use lifeboat_api::types::{ApiError, ErrorCode};
use lifeboat_base::{Clock, WallTime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, Sqlite, Transaction};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

/// How long a writer waits for another before it gives up.
const BUSY: Duration = Duration::from_secs(10);

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A rule of uniqueness stands in the way; nothing was changed.
    #[error("the {0} is taken")]
    Taken(&'static str),
    #[error("no space is left for the store; make room on the state directory's file system")]
    NoSpace,
    /// What is stored cannot be understood (I3).
    #[error("the store is damaged: {0}; restore the state directory's store from a backup")]
    Damaged(String),
    #[error("the store was written by a newer version of Lifeboat; start that version: {0}")]
    Newer(String),
    #[error("the store failed: {0}")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        let code = e.as_database_error().and_then(|d| d.code()).and_then(|c| c.parse::<u32>().ok());
        // SQLite's primary result code is the low byte of the extended one.
        match code.map(|c| c & 0xff) {
            Some(13) => Self::NoSpace,
            Some(11 | 26) => Self::Damaged(e.to_string()),
            _ => match e {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Damaged(e.to_string()),
                _ => Self::Database(e),
            },
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        let code = match &e {
            StoreError::Taken(_) => ErrorCode::Conflict,
            StoreError::NoSpace => ErrorCode::NoSpace,
            StoreError::Damaged(_) => ErrorCode::Corrupt,
            StoreError::Newer(_) | StoreError::Database(_) => ErrorCode::Internal,
        };
        if code == ErrorCode::Internal {
            tracing::error!(error = %e, "store");
        }
        ApiError::new(code, e.to_string())
    }
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    clock: Arc<dyn Clock>,
}

type Tx = Transaction<'static, Sqlite>;

impl Store {
    /// Opens the store at `path`, which must exist unless `create`, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file is missing, damaged, or written by a newer version.
    pub async fn open(path: &Path, create: bool, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        MIGRATIONS.run(&pool).await.map_err(|e| match e {
            sqlx::migrate::MigrateError::VersionMissing(_)
            | sqlx::migrate::MigrateError::VersionTooNew(..) => StoreError::Newer(e.to_string()),
            sqlx::migrate::MigrateError::Execute(e) => e.into(),
            e => StoreError::Damaged(e.to_string()),
        })?;
        Ok(Self { pool, clock })
    }

    /// Finishes what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A copy of everything, as a backup makes it.
    #[cfg(test)]
    pub(crate) async fn copy_to(&self, path: &Path) {
        let sql = format!("VACUUM INTO '{}'", path.display());
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.expect("backup");
    }

    async fn write(&self) -> Result<Tx, StoreError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Ends a change that had to find its row: audited and committed where one was changed. False, and nothing at all is
    /// changed, where none was.
    async fn end_change(&self, mut tx: Tx, rows: u64, note: &Note) -> Result<bool, StoreError> {
        if rows == 0 {
            return Ok(false);
        }
        audit::append(&mut tx, self.now(), note).await?;
        tx.commit().await?;
        Ok(true)
    }

    fn now(&self) -> WallTime {
        self.clock.wall()
    }

    /// A remembered setting.
    pub async fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let row =
            sqlx::query("SELECT value FROM meta WHERE key = $1").bind(key).fetch_optional(&self.pool).await?;
        row.map(|r| Ok(r.try_get("value")?)).transpose()
    }

    /// Remembers a setting.
    pub async fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2";
        sqlx::query(sql).bind(key).bind(value).execute(&self.pool).await?;
        Ok(())
    }
}

// ---- between columns and types

fn nanos(t: WallTime) -> i64 {
    i64::try_from(t.0).unwrap_or(i64::MAX)
}

fn time(row: &SqliteRow, column: &str) -> Result<WallTime, StoreError> {
    let value: i64 = row.try_get(column)?;
    Ok(WallTime(u64::try_from(value).unwrap_or(0)))
}

fn maybe_time(row: &SqliteRow, column: &str) -> Result<Option<WallTime>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.map(|v| WallTime(u64::try_from(v).unwrap_or(0))))
}

fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| StoreError::Damaged(format!("'{text}' in column {column}")))
}

fn maybe_parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| t.parse().map_err(|_| StoreError::Damaged(format!("'{t}' in column {column}")))).transpose()
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged(e.to_string()))
}

fn from_json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|e| StoreError::Damaged(format!("column {column}: {e}")))
}

/// The one word a plain enum has in JSON, which is also its word in the store.
fn word<T: Serialize>(value: &T) -> Result<String, StoreError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => Ok(s),
        _ => Err(StoreError::Damaged("an enum without a word".into())),
    }
}

fn from_word<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_value(serde_json::Value::String(text))
        .map_err(|e| StoreError::Damaged(format!("column {column}: {e}")))
}

/// An error of an insert, where breaking uniqueness has a meaning.
fn taken(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |e| match e.as_database_error() {
        Some(d) if d.is_unique_violation() => StoreError::Taken(what),
        _ => e.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
