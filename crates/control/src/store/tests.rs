#![allow(clippy::unwrap_used)]
use super::*;
use crate::fake::Stage;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_base::Epoch;

fn note() -> Note {
    Note::done("t", "a", "x", "")
}

#[tokio::test]
async fn a_server_changes_only_from_the_state_it_is_in_and_its_epoch_never_falls() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.app.stop().await;
    let change = |from, to, epoch| ServerChange { from, to, epoch: Epoch(epoch), run: None };
    let s = &stage.store;
    let entries = s.verify_audit().await.unwrap().entries;
    let stale = change(ServerState::Scanning, ServerState::Stopped, 1);
    assert!(!s.change_server(id, &stale, &note()).await.unwrap());
    let good = change(ServerState::Replicating, ServerState::FailingOver, 5);
    assert!(s.change_server(id, &good, &note()).await.unwrap());
    let back = change(ServerState::FailingOver, ServerState::Stopped, 4);
    assert!(!s.change_server(id, &back, &note()).await.unwrap());
    let row = s.server(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.epoch), (ServerState::FailingOver, Epoch(5)));
    assert_eq!(s.verify_audit().await.unwrap().entries, entries + 1, "what changed nothing says nothing");
}

#[tokio::test]
async fn what_was_stored_is_read_back_by_the_next_start() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.app.stop().await;
    let before = stage.store.server(id).await.unwrap();
    stage.store.close().await;
    let again = Store::open(&stage.dir.path().join("s.sqlite"), false, stage.clock.clone()).await.unwrap();
    assert_eq!(again.server(id).await.unwrap(), before);
    assert!(again.verify_audit().await.unwrap().ok);
    assert_eq!(again.meta("nothing").await.unwrap(), None);
}

#[tokio::test]
async fn a_damaged_or_newer_store_is_a_named_error() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(lifeboat_base::ManualClock::default());
    let path = dir.path().join("s.sqlite");
    std::fs::write(&path, [7; 8192]).unwrap();
    let e = Store::open(&path, false, clock.clone()).await.err().unwrap();
    assert!(matches!(e, StoreError::Damaged(_)), "{e:?}");

    let path = dir.path().join("n.sqlite");
    let store = Store::open(&path, true, clock.clone()).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations SELECT 9999, 'later', installed_on, 1, checksum, 0 FROM _sqlx_migrations")
        .execute(&store.pool)
        .await
        .unwrap();
    store.close().await;
    let e = Store::open(&path, false, clock.clone()).await.err().unwrap();
    assert!(matches!(e, StoreError::Newer(_)), "{e:?}");

    let e = Store::open(&dir.path().join("none.sqlite"), false, clock).await.err().unwrap();
    assert!(matches!(e, StoreError::Database(_)), "{e:?}");
}

#[tokio::test]
async fn words_that_are_not_known_are_damage_and_not_a_default() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.app.stop().await;
    for (column, value) in [("state", "flying"), ("capture", "{}"), ("agent", "x"), ("epoch", "99999999999")]
    {
        let before: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT CAST({column} AS TEXT) FROM servers")))
                .fetch_one(&stage.store.pool)
                .await
                .unwrap();
        let set = |v: &str| {
            let sql = format!(
                "PRAGMA foreign_keys = OFF; UPDATE servers SET {column} = '{v}'; PRAGMA foreign_keys = ON"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&stage.store.pool)
        };
        set(value).await.unwrap();
        let e = stage.store.server(id).await.unwrap_err();
        assert!(matches!(e, StoreError::Damaged(_)), "{column}: {e:?}");
        set(&before).await.unwrap();
    }
    stage.store.server(id).await.unwrap();
}
