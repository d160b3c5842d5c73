//! Sets of files that are backed up together.

use super::{Note, Store, StoreError, Tx, audit, from_json, json, nanos};
use lifeboat_api::types::BackupSet;

pub(super) async fn insert_set(tx: &mut Tx, set: &BackupSet, now: i64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO backup_sets (name, created, body) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO UPDATE SET body = $3",
    )
    .bind(&set.name)
    .bind(now)
    .bind(json(set)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// All sets by name.
    pub async fn backup_sets(&self) -> Result<Vec<BackupSet>, StoreError> {
        let rows = sqlx::query("SELECT body FROM backup_sets ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(|r| from_json(r, "body")).collect()
    }

    pub async fn backup_set(&self, name: &str) -> Result<Option<BackupSet>, StoreError> {
        let row = sqlx::query("SELECT body FROM backup_sets WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(|r| from_json(r, "body")).transpose()
    }

    /// Makes a set, or changes the one of that name.
    pub async fn put_backup_set(&self, set: &BackupSet, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        insert_set(&mut tx, set, nanos(self.now())).await?;
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    /// False when there is no such set.
    pub async fn delete_backup_set(&self, name: &str, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done =
            sqlx::query("DELETE FROM backup_sets WHERE name = $1").bind(name).execute(&mut *tx).await?;
        self.end_change(tx, done.rows_affected(), note).await
    }
}
