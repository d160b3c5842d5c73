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
    sqlx::query("INSERT INTO _sqlx_migrations SELECT 9999, 'later', installed_on, 1, checksum, 0 FROM _sqlx_migrations LIMIT 1")
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

#[tokio::test]
async fn a_server_of_the_version_before_has_the_defaults_it_lived_by() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.sqlite");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let first = sqlx::migrate::Migrator::with_migrations(vec![MIGRATIONS.migrations[0].clone()]);
    first.run(&old).await.unwrap();
    let (server, agent) = ("67e55044-10b1-426f-9247-bb680e5fe0c8", "67e55044-10b1-426f-9247-bb680e5fe0c9");
    let window = r#"{"seconds":60,"bytes":1048576}"#;
    let sql = format!(
        r#"INSERT INTO agents VALUES ('{agent}', 'a1', 1, '01', 2, NULL);
           INSERT INTO servers (id, name, agent, capture, journal_window, launch, state, epoch, created, disks)
           VALUES ('{server}', 'web-1', '{agent}', '{{"kind":"mirror","qmp":"/q"}}', '{window}', '{{}}', 'replicating',
                   3, 1, '[]')"#
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&old).await.unwrap();
    old.close().await;
    let clock: Arc<dyn Clock> = Arc::new(lifeboat_base::ManualClock::default());
    let store = Store::open(&path, false, clock).await.unwrap();
    let row = store.server_named("web-1").await.unwrap().unwrap();
    assert_eq!((row.replication, row.watch), Default::default());
    assert_eq!((row.epoch, row.window.seconds, row.stale), (Epoch(3), 60, None));
    assert!(store.groups().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_groups_points_are_numbered_once_and_bounded() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.app.stop().await;
    let s = &stage.store;
    let group = |created| GroupRow {
        name: "app".into(),
        servers: vec![id],
        every_seconds: 0,
        hold_ms: 500,
        created: WallTime(created),
        trouble: None,
    };
    let first = group(1);
    assert!(s.insert_group(&first, &note()).await.unwrap());
    assert!(matches!(s.insert_group(&group(2), &note()).await, Err(StoreError::Taken(_))));
    let part = MemberPoint { server: id, point: "p1.1".parse().unwrap() };
    for n in 1..=5 {
        let p = s.add_group_point(&first, &[part], 7, 3).await.unwrap().unwrap();
        assert_eq!(p.number, n);
    }
    let numbers: Vec<u64> = s.group_points("app", 9).await.unwrap().iter().map(|p| p.number).collect();
    assert_eq!(numbers, [5, 4, 3]);
    s.prune_group_points("app", 5).await.unwrap();
    assert_eq!(s.add_group_point(&first, &[part], 7, 3).await.unwrap().unwrap().number, 6);
    // The same name, another group: what was cut for the old one is not its.
    assert!(s.delete_group("app", &note()).await.unwrap());
    assert!(s.insert_group(&group(2), &note()).await.unwrap());
    assert_eq!(s.add_group_point(&first, &[part], 7, 3).await.unwrap(), None);
    // A member cannot be on its way out, and what is cannot become one.
    assert!(!s.mark_deleting(id, &note()).await.unwrap());
    assert!(s.delete_group("app", &note()).await.unwrap());
    assert!(s.mark_deleting(id, &note()).await.unwrap());
    assert!(!s.insert_group(&group(3), &note()).await.unwrap());
    assert!(s.groups().await.unwrap().is_empty(), "all or nothing");
}
