//! Tokens of people, and one-time join tokens of agents.

use super::agents::{AgentRow, insert_agent};
use super::{Note, Store, StoreError, audit, from_word, maybe_time, nanos, taken, time, word};
use lifeboat_api::types::TokenKind;
use lifeboat_base::WallTime;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    pub id: String,
    pub kind: TokenKind,
    /// Of a join token: the agent name it is bound to, or empty.
    pub name: String,
    pub hash: [u8; 32],
    pub created: WallTime,
    pub expires: Option<WallTime>,
    pub used: bool,
    pub revoked: bool,
}

/// How spending a join token went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    Joined,
    /// Somebody else was faster, or it was revoked or ran out meanwhile.
    Spent,
}

fn read(row: &SqliteRow) -> Result<TokenRow, StoreError> {
    let hash: Vec<u8> = row.try_get("hash")?;
    Ok(TokenRow {
        id: row.try_get("id")?,
        kind: from_word(row, "kind")?,
        name: row.try_get("name")?,
        hash: hash.try_into().map_err(|_| StoreError::Damaged("a token hash of the wrong length".into()))?,
        created: time(row, "created")?,
        expires: maybe_time(row, "expires")?,
        used: maybe_time(row, "used_at")?.is_some(),
        revoked: maybe_time(row, "revoked_at")?.is_some(),
    })
}

impl Store {
    pub async fn insert_token(&self, token: &TokenRow, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        sqlx::query(
            "INSERT INTO tokens (id, kind, name, hash, created, expires) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&token.id)
        .bind(word(&token.kind)?)
        .bind(&token.name)
        .bind(&token.hash[..])
        .bind(nanos(token.created))
        .bind(token.expires.map(nanos))
        .execute(&mut *tx)
        .await
        .map_err(taken("token id"))?;
        audit::append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    pub async fn token(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM tokens WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// All tokens, newest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM tokens ORDER BY created DESC, id LIMIT 10000")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read).collect()
    }

    /// False when there is no such token or it is revoked already.
    pub async fn revoke_token(&self, id: &str, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
            .bind(nanos(self.now()))
            .bind(id)
            .execute(&mut *tx)
            .await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    /// Spends a join token and makes its agent known, both or neither.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when an agent of that name exists; the token stays unspent.
    pub async fn redeem(&self, token: &str, agent: &AgentRow, note: &Note) -> Result<Redeemed, StoreError> {
        let now = self.now();
        let mut tx = self.write().await?;
        let spent = sqlx::query(
            "UPDATE tokens SET used_at = $1 WHERE id = $2 AND kind = 'agent' AND used_at IS NULL \
             AND revoked_at IS NULL AND (expires IS NULL OR expires > $1)",
        )
        .bind(nanos(now))
        .bind(token)
        .execute(&mut *tx)
        .await?;
        if spent.rows_affected() != 1 {
            return Ok(Redeemed::Spent);
        }
        insert_agent(&mut tx, agent).await?;
        audit::append(&mut tx, now, note).await?;
        tx.commit().await?;
        Ok(Redeemed::Joined)
    }
}
