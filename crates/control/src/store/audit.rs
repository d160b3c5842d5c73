//! The audit log: a chain of hashes.
//!
//! Invariants: `seq` counts from 1 without gaps; each entry's hash covers the hash before it and every field, so
//! no entry can be changed, removed or slipped in without all later hashes changing; the newest hash also stands in
//! `meta`, so cutting the end off shows. Entries are only ever appended.
//!
//! ```text
//! hash = BLAKE3( previous hash (32) | seq u64 LE | time u64 LE | then actor, action, target, outcome, detail,
//!                each as length u32 LE and UTF-8 bytes )
//! ```

use super::{Store, StoreError, Tx, nanos, time};
use lifeboat_api::types::{AuditEntry, AuditVerification};
use lifeboat_base::WallTime;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

const HEAD: &str = "audit_head";
const NO_HASH: [u8; 32] = [0; 32];
/// Longest text of one field, in bytes.
const MAX_FIELD: usize = 2048;
const PAGE: i64 = 1000;

/// An entry to be: who did what to what, and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub actor: String,
    pub action: String,
    pub target: String,
    /// `done`, `refused`, `failed`, ...
    pub outcome: String,
    pub detail: String,
}

impl Note {
    /// Something that was done.
    pub fn done(
        actor: impl Into<String>,
        action: impl Into<String>,
        target: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            actor: actor.into(),
            action: action.into(),
            target: target.into(),
            outcome: "done".into(),
            detail: detail.into(),
        }
    }

    /// The same with another outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: &str) -> Self {
        self.outcome = outcome.into();
        self
    }
}

/// Cuts a text at a character boundary.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_FIELD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn hash(previous: &[u8; 32], seq: u64, time: WallTime, fields: [&str; 5]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(&seq.to_le_bytes()).update(&time.0.to_le_bytes());
    for field in fields {
        let len = u32::try_from(field.len()).unwrap_or(u32::MAX);
        hasher.update(&len.to_le_bytes()).update(field.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The entry of `row`, its stored hash, and the hash it should have after `previous`.
fn read(row: &SqliteRow, previous: &[u8; 32]) -> Result<(AuditEntry, Vec<u8>, [u8; 32]), StoreError> {
    let seq: i64 = row.try_get("seq")?;
    let stored: Vec<u8> = row.try_get("hash")?;
    let entry = AuditEntry {
        seq: u64::try_from(seq).unwrap_or(0),
        time: time(row, "time")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        outcome: row.try_get("outcome")?,
        detail: row.try_get("detail")?,
        hash: hex(&stored),
    };
    let fields = [&*entry.actor, &*entry.action, &*entry.target, &*entry.outcome, &*entry.detail];
    let want = hash(previous, entry.seq, entry.time, fields);
    Ok((entry, stored, want))
}

/// Appends to the chain within a transaction that holds the write lock.
pub(super) async fn append(tx: &mut Tx, now: WallTime, note: &Note) -> Result<(), StoreError> {
    let last = sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut **tx)
        .await?;
    let (seq, previous) = match last {
        None => (1, NO_HASH),
        Some(row) => {
            let hash: Vec<u8> = row.try_get("hash")?;
            let hash = hash
                .try_into()
                .map_err(|_| StoreError::Damaged("an audit hash of the wrong length".into()))?;
            (row.try_get::<i64, _>("seq")? + 1, hash)
        }
    };
    let fields = [&*note.actor, &*note.action, &*note.target, &*note.outcome, &*note.detail].map(cut);
    // Stored as i64, so the hash covers what will be read back.
    let time = WallTime(u64::try_from(nanos(now)).unwrap_or(0));
    let hash = hash(&previous, u64::try_from(seq).unwrap_or(0), time, fields);
    sqlx::query(
        "INSERT INTO audit (seq, time, actor, action, target, outcome, detail, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(nanos(time))
    .bind(fields[0])
    .bind(fields[1])
    .bind(fields[2])
    .bind(fields[3])
    .bind(fields[4])
    .bind(&hash[..])
    .execute(&mut **tx)
    .await?;
    sqlx::query("INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2")
        .bind(HEAD)
        .bind(format!("{seq}:{}", hex(&hash)))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

impl Store {
    /// Appends an entry on its own.
    pub async fn note(&self, note: &Note) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        append(&mut tx, self.now(), note).await?;
        Ok(tx.commit().await?)
    }

    /// Entries, newest first; only those before `before` when given.
    pub async fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<AuditEntry>, StoreError> {
        let before = before.and_then(|b| i64::try_from(b).ok()).unwrap_or(i64::MAX);
        let rows = sqlx::query("SELECT * FROM audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2")
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok(read(row, &NO_HASH)?.0)).collect()
    }

    /// Walks the whole chain.
    pub async fn verify_audit(&self) -> Result<AuditVerification, StoreError> {
        // One read transaction: entries appended meanwhile do not look like a wrong end.
        let mut tx = self.pool.begin().await?;
        let (mut entries, mut previous) = (0u64, NO_HASH);
        let broken = |entries, seq: u64, why: &str| AuditVerification {
            ok: false,
            entries,
            first_bad: Some(seq),
            head: hex(&NO_HASH),
            detail: format!(
                "{why} at entry {seq}; entries before it can be trusted, compare later ones with a copy of the log"
            ),
        };
        loop {
            let rows = sqlx::query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(i64::try_from(entries).unwrap_or(i64::MAX))
                .bind(PAGE)
                .fetch_all(&mut *tx)
                .await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let (entry, stored, want) = read(row, &previous)?;
                if entry.seq != entries + 1 {
                    return Ok(broken(entries, entries + 1, "the log has a gap"));
                }
                if stored != want {
                    return Ok(broken(entries, entry.seq, "the log was changed"));
                }
                entries = entry.seq;
                previous = want;
            }
        }
        let head =
            sqlx::query("SELECT value FROM meta WHERE key = $1").bind(HEAD).fetch_optional(&mut *tx).await?;
        let head: Option<String> = head.map(|r| r.try_get("value")).transpose()?;
        if head != (entries > 0).then(|| format!("{entries}:{}", hex(&previous))) {
            return Ok(broken(entries, entries + 1, "the end of the log is missing"));
        }
        Ok(AuditVerification {
            ok: true,
            entries,
            first_bad: None,
            head: hex(&previous),
            detail: format!("{entries} entries, each linked to the one before"),
        })
    }
}

#[cfg(test)]
mod tests;
