#![allow(clippy::unwrap_used)]
use super::*;
use lifeboat_base::ManualClock;
use std::sync::Arc;

async fn log(entries: usize) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Store::open(&dir.path().join("s.sqlite"), true, Arc::new(ManualClock::default())).await.unwrap();
    for i in 1..=entries {
        store.note(&Note::done("tess", "server.stop", format!("web-{i}"), "detail")).await.unwrap();
    }
    (dir, store)
}

async fn sql(store: &Store, text: &'static str) {
    sqlx::raw_sql(text).execute(&store.pool).await.unwrap();
}

#[test]
fn golden_hash() {
    let fields = ["tess", "server.stop", "web-1", "done", "detail"];
    assert_eq!(
        hex(&hash(&NO_HASH, 1, WallTime(1_767_225_600_000_000_000), fields)),
        "e89e205fc2a56873867ff6526afa188d4245a17064fafc3d7f40374225285e8f"
    );
}

#[test]
fn a_hash_tells_where_a_field_ends() {
    let t = WallTime(1);
    assert_ne!(hash(&NO_HASH, 1, t, ["ab", "c", "", "", ""]), hash(&NO_HASH, 1, t, ["a", "bc", "", "", ""]));
}

#[tokio::test]
async fn a_whole_log_is_verified_across_pages() {
    let (_dir, store) = log(0).await;
    assert!(store.verify_audit().await.unwrap().ok, "an empty log is whole");
    let (_dir, store) = log(PAGE as usize + 3).await;
    let v = store.verify_audit().await.unwrap();
    assert_eq!((v.ok, v.entries, v.first_bad), (true, 1003, None));
    let newest = store.audit(2, None).await.unwrap();
    assert_eq!((newest[0].seq, newest[1].seq), (1003, 1002));
    assert_eq!(newest[0].hash, v.head);
    assert_eq!(store.audit(10, Some(3)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn every_way_to_tamper_is_seen() {
    for (how, text, first_bad) in [
        ("a field", "UPDATE audit SET actor = 'eve' WHERE seq = 3", 3),
        ("a time", "UPDATE audit SET time = time + 1 WHERE seq = 3", 3),
        ("a hash", "UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 1) WHERE seq = 3", 3),
        ("one removed", "DELETE FROM audit WHERE seq = 3", 3),
        (
            "one removed and the others moved up",
            "DELETE FROM audit WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 4; UPDATE audit SET seq = 4 WHERE seq = 5",
            3,
        ),
        (
            "two swapped",
            "UPDATE audit SET seq = 9 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 9",
            2,
        ),
        ("the end cut off", "DELETE FROM audit WHERE seq >= 4", 4),
        ("all gone", "DELETE FROM audit", 1),
    ] {
        let (_dir, store) = log(5).await;
        assert!(store.verify_audit().await.unwrap().ok);
        sql(&store, text).await;
        let v = store.verify_audit().await.unwrap();
        assert_eq!((v.ok, v.first_bad), (false, Some(first_bad)), "{how}: {v:?}");
    }
}

#[tokio::test]
async fn long_texts_are_cut_at_a_character_and_the_chain_holds() {
    let (_dir, store) = log(1).await;
    store.note(&Note::done("tess", "a", "b", "é".repeat(5000))).await.unwrap();
    store.note(&Note::done("tess", "a", "b", "")).await.unwrap();
    assert_eq!(store.audit(2, None).await.unwrap()[1].detail, "é".repeat(MAX_FIELD / 2));
    assert!(store.verify_audit().await.unwrap().ok);
}
