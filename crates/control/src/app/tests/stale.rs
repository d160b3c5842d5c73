//! The store is restored from an old backup, or control was lost (failures 26), and forced failovers (23).

use super::super::work::Job;
use super::{code, text};
use crate::fake::{Stage, Trouble, admin, failover_request};
use crate::store::Store;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::*;
use lifeboat_base::Epoch;
use std::path::PathBuf;

/// A copy of the store, as a backup takes it.
async fn backup(stage: &Stage) -> PathBuf {
    let path = stage.dir.path().join("backup.sqlite");
    stage.store.copy_to(&path).await;
    path
}

/// The process ends, the old store is put back, and a new process starts.
async fn restore(stage: &mut Stage, backup: &PathBuf) {
    stage.app.stop().await;
    stage.store.close().await;
    let path = stage.dir.path().join("restored.sqlite");
    std::fs::copy(backup, &path).unwrap();
    stage.store = Store::open(&path, false, stage.clock.clone()).await.unwrap();
    stage.restart().await;
}

async fn held(stage: &Stage) -> Server {
    stage
        .until("it is held", || async {
            let s = stage.app.server("web-1").await.unwrap();
            s.stale.is_some().then_some(s)
        })
        .await
}

#[tokio::test]
async fn f26_epochs_never_fall_and_no_failover_begins_from_a_store_that_was_put_back() {
    let mut stage = Stage::new().await;
    let id = stage.replicating().await;
    let old = backup(&stage).await;
    let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    assert_eq!(stage.ended(op.id).await.state, OperationState::Succeeded);
    let run = op.run.unwrap();

    restore(&mut stage, &old).await;
    let server = held(&stage).await;
    assert_eq!((server.state, server.epoch), (ServerState::Stopped, 2));
    let why = "its data is at epoch 2 and the store said 1, replicating, so the store is older than the data";
    assert_eq!(server.stale.as_deref(), Some(why));
    assert_eq!(
        stage.app.status().await.unwrap().alarms[0],
        format!(
            "web-1: held, nothing is captured: {why}; see what runs here and which points there are, then \
             `lifeboat accept web-1`"
        )
    );
    assert_eq!(
        text(stage.app.failover(&admin(), "web-1", &failover_request()).await),
        format!(
            "'web-1' is held: {why} (see what runs and which points there are, then say so: `lifeboat accept web-1`)"
        )
    );
    assert_eq!(code(stage.app.resume_server(&admin(), "web-1").await), ErrorCode::Conflict);
    stage
        .until("the data side is told", || async {
            let world = stage.site.world.lock();
            world.held.get(&id).is_some_and(|s| s.epoch == Epoch(2) && !s.active).then_some(())
        })
        .await;
    // What the newer store had made goes on.
    assert!(stage.site.live_runs().contains(&run));

    stage.app.accept(&admin(), "web-1").await.unwrap();
    assert_eq!(code(stage.app.accept(&admin(), "web-1").await), ErrorCode::Conflict);
    assert_eq!(stage.app.server("web-1").await.unwrap().stale, None);
    // It stays so: what was accepted is not found again.
    stage.restart().await;
    stage.app.resume_server(&admin(), "web-1").await.unwrap();
    stage.until_state("web-1", ServerState::Replicating).await;
    assert_eq!(stage.app.server("web-1").await.unwrap().epoch, 2);
    let audit = stage.audit().await;
    assert!(audit.contains(&"site server.stale web-1 failed".into()), "{audit:?}");
    assert!(audit.contains(&"tess (t1) server.accept web-1 done".into()), "{audit:?}");
    stage.sound().await;
}

#[tokio::test]
async fn f26_a_failover_the_old_store_had_begun_goes_no_further_and_undoes_nothing() {
    let mut stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.site.world.lock().endless_checks = true;
    let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    stage.until("its machine runs", || async { (!stage.site.live_runs().is_empty()).then_some(()) }).await;
    let old = backup(&stage).await;
    let run = op.run.unwrap();
    // Much has happened since the backup: the data is two epochs on.
    stage.site.world.lock().epochs.insert(id, Epoch(4));
    stage.site.world.lock().endless_checks = false;
    restore(&mut stage, &old).await;
    held(&stage).await;
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Failed, "{op:#?}");
    assert!(op.error.as_ref().is_some_and(|e| e.message.starts_with("'web-1' is held: ")), "{op:#?}");
    assert!(stage.site.live_runs().contains(&run), "what runs may be what serves: {op:#?}");
    let server = stage.app.server("web-1").await.unwrap();
    assert_eq!((server.epoch, server.state, server.run), (4, ServerState::Stopped, None));
    stage.sound().await;
}

#[tokio::test]
async fn f26_replication_goes_on_while_control_is_lost_and_others_are_not_touched() {
    let mut stage = Stage::new().await;
    stage.replicating().await;
    let db = stage.app.protect(&admin(), stage.protect_request("db-1", "a1")).await.unwrap().id;
    let old = backup(&stage).await;
    let late = stage.app.protect(&admin(), stage.protect_request("late-1", "a1")).await.unwrap().id;
    let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    stage.ended(op.id).await;
    restore(&mut stage, &old).await;
    held(&stage).await;
    stage.site.point(db);
    stage.until_state("db-1", ServerState::Replicating).await;
    assert!(stage.site.world.lock().held[&db].active);
    // What the old store never heard of is not let go of, and is not kept quiet about.
    assert!(stage.site.world.lock().kept.contains_key(&late));
    let alarms = stage.app.status().await.unwrap().alarms;
    let unknown = format!(
        "late-1: the data side keeps this server ({late}) and the store does not know it, so it cannot be recovered \
         from here; restore a newer store"
    );
    assert!(alarms.contains(&unknown), "{alarms:?}");
    stage.sound().await;
}

#[tokio::test]
async fn f26_a_failover_in_mid_way_is_never_taken_for_an_old_store() {
    // The data side is told of the new epoch after the store knows it, whatever fails between.
    for trouble in [Trouble::FailBefore(1), Trouble::FailAfter(1)] {
        let stage = Stage::new().await;
        stage.replicating().await;
        stage.site.trouble(trouble);
        let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
        stage.ended(op.id).await;
        let server = stage.app.server("web-1").await.unwrap();
        assert_eq!((server.stale, server.epoch), (None, 2), "{trouble:?}");
        stage.sound().await;
    }
}

#[tokio::test]
async fn f23_a_failover_forced_while_the_source_lives_is_recorded_as_such() {
    let stage = Stage::new().await;
    stage.replicating().await;
    let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    stage.ended(op.id).await;
    let entry = |action: &'static str| {
        let store = stage.store.clone();
        async move {
            let all = store.audit(100, None).await.unwrap();
            all.into_iter().find(|e| e.action == action).unwrap()
        }
    };
    let begun = entry("failover.start").await;
    assert!(
        begun.detail.ends_with(
            ", forced: the source was alive, its agent at 10.0.0.9:40000 connected and sending, RPO 500 ms"
        ),
        "{}",
        begun.detail
    );
    assert_eq!(begun.actor, "tess (t1)");

    let lost = Stage::new().await;
    let id = lost.replicating().await;
    lost.site.world.lock().agents.clear();
    lost.site.world.lock().runtimes.get_mut(&id).unwrap().connected = false;
    let op = lost.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    lost.ended(op.id).await;
    let all = lost.store.audit(100, None).await.unwrap();
    let begun = all.into_iter().find(|e| e.action == "failover.start").unwrap();
    assert!(!begun.detail.contains("forced"), "{}", begun.detail);
}

/// A failover is refused by its own steps, not only at the request.
#[tokio::test]
async fn f26_every_step_of_a_failover_looks_again() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.app.stop().await;
    let row = stage.store.server(id).await.unwrap().unwrap();
    let new = stage.app.plan_failover(&admin(), &row, &failover_request()).await.unwrap();
    let note = crate::store::Note::done("test", "server.stale", "web-1", "");
    let held = stage
        .store
        .set_stale(id, row.state, ServerState::Stopped, Epoch(7), "put back", &note)
        .await
        .unwrap();
    assert!(held);
    let mut job = Job::load(new.row).unwrap();
    for at in 0..job.operation.steps.len() {
        let refused = stage.app.step(&mut job, at).await;
        assert!(refused.is_err_and(|e| e.code == ErrorCode::Conflict), "step {at}");
    }
    assert!(stage.site.live_runs().is_empty());
    assert_eq!(stage.store.server(id).await.unwrap().unwrap().epoch, Epoch(7));
}
