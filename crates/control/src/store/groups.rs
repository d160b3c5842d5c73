//! Groups and their points.
//!
//! Invariants: a group's point has a number that no other point of it had; a server that is being deleted is in no
//! group, and a member cannot be marked for deletion.

use super::{Note, Store, StoreError, Tx, audit, from_json, json, nanos, parsed, taken, time};
use lifeboat_base::{PointId, ServerId, WallTime};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    pub name: String,
    /// In the order they were named; never changes.
    pub servers: Vec<ServerId>,
    pub every_seconds: u32,
    pub hold_ms: u32,
    pub created: WallTime,
    /// Why the last attempt made no point.
    pub trouble: Option<String>,
}

/// One member's part of a group's point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPoint {
    pub server: ServerId,
    pub point: PointId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPointRow {
    pub number: u64,
    pub time: WallTime,
    pub held_us: u64,
    pub members: Vec<MemberPoint>,
}

fn count(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| StoreError::Damaged(format!("{value} in column {column}")))
}

fn small(row: &SqliteRow, column: &str) -> Result<u32, StoreError> {
    let value = count(row, column)?;
    u32::try_from(value).map_err(|_| StoreError::Damaged(format!("{value} in column {column}")))
}

fn read(row: &SqliteRow, servers: Vec<ServerId>) -> Result<GroupRow, StoreError> {
    Ok(GroupRow {
        name: row.try_get("name")?,
        servers,
        every_seconds: small(row, "every_seconds")?,
        hold_ms: small(row, "hold_ms")?,
        created: time(row, "created")?,
        trouble: row.try_get("trouble")?,
    })
}

fn read_point(row: &SqliteRow) -> Result<GroupPointRow, StoreError> {
    Ok(GroupPointRow {
        number: count(row, "number")?,
        time: time(row, "time")?,
        held_us: count(row, "held_us")?,
        members: from_json(row, "members")?,
    })
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// False when a member has gone, or is going, meanwhile.
pub(super) async fn add_group(tx: &mut Tx, g: &GroupRow) -> Result<bool, StoreError> {
    sqlx::query("INSERT INTO groups (name, every_seconds, hold_ms, created) VALUES ($1, $2, $3, $4)")
        .bind(&g.name)
        .bind(i64::from(g.every_seconds))
        .bind(i64::from(g.hold_ms))
        .bind(nanos(g.created))
        .execute(&mut **tx)
        .await
        .map_err(taken("group name"))?;
    for (position, server) in g.servers.iter().enumerate() {
        let done = sqlx::query(
            "INSERT INTO group_members (group_name, position, server) \
             SELECT $1, $2, id FROM servers WHERE id = $3 AND deleting = 0",
        )
        .bind(&g.name)
        .bind(whole(position as u64))
        .bind(server.to_string())
        .execute(&mut **tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Store {
    /// Stores a new group. False when a member has gone, or is going, meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when a group has the name.
    pub async fn insert_group(&self, g: &GroupRow, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        if !add_group(&mut tx, g).await? {
            return Ok(false);
        }
        audit::append(&mut tx, self.now(), note).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn members(&self, group: &str) -> Result<Vec<ServerId>, StoreError> {
        let rows = sqlx::query("SELECT server FROM group_members WHERE group_name = $1 ORDER BY position")
            .bind(group)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|r| parsed(r, "server")).collect()
    }

    /// All groups by name.
    pub async fn groups(&self) -> Result<Vec<GroupRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM groups ORDER BY name").fetch_all(&self.pool).await?;
        let mut groups = Vec::with_capacity(rows.len());
        for row in &rows {
            let servers = self.members(row.try_get("name")?).await?;
            groups.push(read(row, servers)?);
        }
        Ok(groups)
    }

    pub async fn group(&self, name: &str) -> Result<Option<GroupRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM groups WHERE name = $1").bind(name).fetch_optional(&self.pool).await?;
        match row {
            Some(row) => Ok(Some(read(&row, self.members(name).await?)?)),
            None => Ok(None),
        }
    }

    /// Names of the groups a server is in.
    pub async fn groups_of(&self, server: ServerId) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT group_name FROM group_members WHERE server = $1 ORDER BY group_name")
            .bind(server.to_string())
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|r| Ok(r.try_get("group_name")?)).collect()
    }

    /// Forgets a group and its points; the points of its servers stay. False when there is no such group.
    pub async fn delete_group(&self, name: &str, note: &Note) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let done = sqlx::query("DELETE FROM groups WHERE name = $1").bind(name).execute(&mut *tx).await?;
        self.end_change(tx, done.rows_affected(), note).await
    }

    /// Remembers why there was no point, or that all is well.
    pub async fn set_group_trouble(&self, g: &GroupRow, trouble: Option<&str>) -> Result<(), StoreError> {
        sqlx::query("UPDATE groups SET trouble = $1 WHERE name = $2 AND created = $3")
            .bind(trouble)
            .bind(&g.name)
            .bind(nanos(g.created))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Gives a point its number, stores it, forgets the oldest beyond `most`, and clears the group's trouble. `None`
    /// when the group has gone meanwhile.
    pub async fn add_group_point(
        &self,
        g: &GroupRow,
        members: &[MemberPoint],
        held_us: u64,
        most: u64,
    ) -> Result<Option<GroupPointRow>, StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE groups SET next_point = next_point + 1, trouble = NULL WHERE name = $1 AND created = $2 \
             RETURNING next_point - 1 AS number",
        )
        .bind(&g.name)
        .bind(nanos(g.created))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let point = GroupPointRow {
            number: count(&row, "number")?,
            time: self.now(),
            held_us,
            members: members.to_vec(),
        };
        sqlx::query(
            "INSERT INTO group_points (group_name, number, time, held_us, members) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&g.name)
        .bind(whole(point.number))
        .bind(nanos(point.time))
        .bind(whole(held_us))
        .bind(json(&point.members)?)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM group_points WHERE group_name = $1 AND number <= $2")
            .bind(&g.name)
            .bind(whole(point.number.saturating_sub(most)))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(point))
    }

    /// Points of a group, newest first.
    pub async fn group_points(&self, name: &str, limit: u32) -> Result<Vec<GroupPointRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM group_points WHERE group_name = $1 ORDER BY number DESC LIMIT $2")
                .bind(name)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(read_point).collect()
    }

    /// The oldest points of a group, oldest first.
    pub async fn oldest_group_points(
        &self,
        name: &str,
        limit: u32,
    ) -> Result<Vec<GroupPointRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM group_points WHERE group_name = $1 ORDER BY number LIMIT $2")
            .bind(name)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read_point).collect()
    }

    /// The point with this number, or the newest not after `at`.
    pub async fn group_point(
        &self,
        name: &str,
        number: Option<u64>,
        at: Option<WallTime>,
    ) -> Result<Option<GroupPointRow>, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM group_points WHERE group_name = $1 AND ($2 IS NULL OR number = $2) \
             AND ($3 IS NULL OR time <= $3) ORDER BY number DESC LIMIT 1",
        )
        .bind(name)
        .bind(number.map(whole))
        .bind(at.map(nanos))
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read_point).transpose()
    }

    /// Forgets a group's points up to this number.
    pub async fn prune_group_points(&self, name: &str, number: u64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM group_points WHERE group_name = $1 AND number <= $2")
            .bind(name)
            .bind(whole(number))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
