//! Stories of groups: one point for all, or none.

use super::{code, text};
use crate::fake::{Stage, Trouble, admin};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::*;
use lifeboat_base::ServerId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

fn request(every_seconds: u32) -> GroupRequest {
    GroupRequest {
        name: "app".into(),
        servers: vec!["web-1".into(), "db-1".into()],
        every_seconds,
        hold_ms: 500,
    }
}

fn drill(point: &str) -> GroupDrillRequest {
    let checks = BTreeMap::from([("web-1".to_string(), vec!["tcp:80".to_string()])]);
    GroupDrillRequest { point: point.into(), checks, check_seconds: 60, keep_seconds: 600 }
}

fn failover(point: &str) -> GroupFailoverRequest {
    GroupFailoverRequest {
        point: point.into(),
        checks: BTreeMap::new(),
        check_seconds: 60,
        discard_current: false,
    }
}

/// `web-1` and `db-1`, replicating.
async fn two(stage: &Stage) -> [ServerId; 2] {
    let web = stage.replicating().await;
    let db = stage.app.protect(&admin(), stage.protect_request("db-1", "a1")).await.unwrap().id;
    stage.site.point(db);
    stage.until_state("db-1", ServerState::Replicating).await;
    [web, db]
}

async fn latest(stage: &Stage, id: &str) {
    stage
        .until(&format!("{id} is there"), || async {
            let latest = stage.app.group("app").await.unwrap().latest;
            latest.is_some_and(|p| p.id == id).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_group_gets_a_point_of_all_its_members_and_can_be_brought_back_to_it() {
    let stage = Stage::new().await;
    let ids = two(&stage).await;
    let group = stage.app.create_group(&admin(), &request(0)).await.unwrap();
    assert_eq!((group.servers, group.latest), (vec!["web-1".to_string(), "db-1".into()], None));
    assert_eq!(
        text(stage.app.group_drill(&admin(), "app", &drill("latest")).await),
        "the group 'app' has no such point as 'latest' (`lifeboat group points app` lists them)"
    );
    let first = stage.app.cut_group_point(&admin(), "app").await.unwrap();
    assert_eq!((first.id.as_str(), first.held_us), ("g1", 1500));
    let parts: Vec<String> = first.members.iter().map(|m| format!("{} {}", m.server, m.point)).collect();
    assert_eq!(parts, ["web-1 p1.2", "db-1 p1.2"]);
    for id in ids {
        stage.site.point(id);
    }
    stage.clock.advance(Duration::from_secs(60));
    let second = stage.app.cut_group_point(&admin(), "app").await.unwrap();
    assert_eq!(stage.app.group("app").await.unwrap().latest, Some(second));
    let query = GroupPointsQuery { limit: Some(10) };
    assert_eq!(stage.app.group_points("app", &query).await.unwrap().len(), 2);

    // By name, and by age: not the newest part of each, but what belongs together.
    for point in ["g1", "30s"] {
        let ops = stage.app.group_drill(&admin(), "app", &drill(point)).await.unwrap();
        assert_eq!(ops.iter().map(|o| o.server.as_str()).collect::<Vec<_>>(), ["web-1", "db-1"]);
        for op in &ops {
            let op = stage.ended(op.id).await;
            assert_eq!(op.state, OperationState::Succeeded, "{op:#?}");
            let run = stage.app.run(op.run.unwrap()).await.unwrap();
            assert_eq!(run.point.id.to_string(), "p1.2", "{point}");
            assert_eq!(run.checks.len(), usize::from(op.server == "web-1"));
            let cleaning = stage.app.clean_up(&admin(), run.id, false).await.unwrap();
            stage.ended(cleaning.id).await;
        }
    }
    let ops = stage.app.group_failover(&admin(), "app", &failover("g1")).await.unwrap();
    for op in ops {
        let op = stage.ended(op.id).await;
        assert_eq!(op.state, OperationState::Succeeded, "{op:#?}");
        // Not what arrived last: this member's part of the point.
        assert_eq!(stage.app.run(op.run.unwrap()).await.unwrap().point.id.to_string(), "p1.2");
    }
    let audit = stage.store.audit(100, None).await.unwrap();
    let started = audit.iter().filter(|e| e.action == "failover.start" && e.detail.ends_with(", group app"));
    assert_eq!(started.count(), 2);
    stage.sound().await;
}

#[tokio::test]
async fn a_group_that_makes_no_sense_is_refused() {
    let stage = Stage::new().await;
    two(&stage).await;
    let with = |f: &dyn Fn(&mut GroupRequest)| {
        let mut r = request(60);
        f(&mut r);
        r
    };
    for bad in [
        with(&|r| r.name = "Not/a name".into()),
        with(&|r| r.servers.clear()),
        with(&|r| r.servers = vec!["web-1".into(); 65]),
        with(&|r| r.servers = vec!["web-1".into(), "web-1".into()]),
        with(&|r| r.hold_ms = 9),
        with(&|r| r.hold_ms = 2001),
        with(&|r| r.every_seconds = u32::MAX),
    ] {
        assert_eq!(code(stage.app.create_group(&admin(), &bad).await), ErrorCode::Invalid, "{bad:?}");
    }
    let stranger = with(&|r| r.servers.push("nobody".into()));
    assert_eq!(code(stage.app.create_group(&admin(), &stranger).await), ErrorCode::NotFound);
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    assert_eq!(
        text(stage.app.create_group(&admin(), &request(0)).await),
        "a group 'app' exists already (choose another name, or delete that one first)"
    );
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
    for bad in ["p1.2", "g", "gx", "-1", "yesterday"] {
        let e = stage.app.group_drill(&admin(), "app", &drill(bad)).await.unwrap_err();
        assert_eq!(e.code, ErrorCode::Invalid, "{bad}: {e}");
    }
    assert_eq!(code(stage.app.group_drill(&admin(), "app", &drill("g7")).await), ErrorCode::NotFound);
    let mut wrong = drill("latest");
    wrong.checks.insert("mail-1".into(), vec!["tcp:25".into()]);
    assert_eq!(
        text(stage.app.group_drill(&admin(), "app", &wrong).await),
        "a check is for 'mail-1', which is not in 'app' (its servers are web-1, db-1)"
    );
    assert!(stage.site.live_runs().is_empty());
}

#[tokio::test]
async fn a_barrier_that_fails_makes_no_point_and_an_alarm_until_one_succeeds() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.site.world.lock().group_trouble = Some("db-1: its agent did not answer within 500 ms".into());
    stage.app.create_group(&admin(), &request(10)).await.unwrap();
    let alarm = "group app: no common point: db-1: its agent did not answer within 500 ms";
    stage
        .until("the alarm", || async {
            stage.app.status().await.unwrap().alarms.contains(&alarm.to_string()).then_some(())
        })
        .await;
    let group = stage.app.group("app").await.unwrap();
    assert_eq!(group.latest, None);
    assert_eq!(group.trouble.as_deref(), Some("db-1: its agent did not answer within 500 ms"));
    stage.site.world.lock().group_trouble = None;
    stage.clock.advance(Duration::from_secs(10));
    latest(&stage, "g1").await;
    assert_eq!(stage.app.status().await.unwrap().alarms, Vec::<String>::new());
    stage.sound().await;
}

#[tokio::test]
async fn a_cut_that_leaves_a_member_out_is_no_point() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    stage.site.world.lock().group_leaves_out = true;
    assert_eq!(code(stage.app.cut_group_point(&admin(), "app").await), ErrorCode::Internal);
    assert_eq!(stage.app.group("app").await.unwrap().latest, None);
}

#[tokio::test]
async fn points_come_by_themselves_at_their_interval_and_go_on_after_a_restart() {
    let mut stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(60)).await.unwrap();
    latest(&stage, "g1").await;
    stage.clock.advance(Duration::from_secs(59));
    stage.app.status().await.unwrap();
    assert_eq!(stage.app.group("app").await.unwrap().latest.unwrap().id, "g1");
    stage.clock.advance(Duration::from_secs(1));
    latest(&stage, "g2").await;
    stage.restart().await;
    latest(&stage, "g3").await;
    stage.sound().await;
}

#[tokio::test]
async fn one_server_has_one_barrier_cut_at_a_time() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    let other = GroupRequest { name: "half".into(), servers: vec!["db-1".into()], ..request(0) };
    stage.app.create_group(&admin(), &other).await.unwrap();
    let gate = Arc::new(Notify::new());
    stage.site.world.lock().group_barrier = Some(gate.clone());
    let app = stage.app.clone();
    let first = tokio::spawn(async move { app.cut_group_point(&admin(), "app").await });
    stage.until("it is being cut", || async { (!stage.app.cutting.lock().is_empty()).then_some(()) }).await;
    for name in ["app", "half"] {
        let e = text(stage.app.cut_group_point(&admin(), name).await);
        assert!(e.starts_with(&format!("a barrier is being cut in a server of '{name}' just now")), "{e}");
    }
    gate.notify_one();
    first.await.unwrap().unwrap();
    assert!(stage.app.cutting.lock().is_empty());
    assert_eq!(stage.app.group("app").await.unwrap().trouble, None, "being busy is no trouble");
}

#[tokio::test]
async fn a_barrier_that_is_broken_off_leaves_its_servers_free_for_the_next() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    stage.site.world.lock().group_barrier = Some(Arc::new(Notify::new()));
    let app = stage.app.clone();
    let cut = tokio::spawn(async move { app.cut_group_point(&admin(), "app").await });
    stage.until("it is being cut", || async { (!stage.app.cutting.lock().is_empty()).then_some(()) }).await;
    cut.abort();
    assert!(cut.await.unwrap_err().is_cancelled());
    stage.site.world.lock().group_barrier = None;
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
}

#[tokio::test]
async fn a_point_one_of_whose_parts_has_left_its_journal_is_forgotten_and_never_half_used() {
    let stage = Stage::new().await;
    let [_, db] = two(&stage).await;
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
    // It has left the journal, and the reconciler has not looked yet.
    stage.app.stop().await;
    let gone = stage.site.world.lock().points.get_mut(&db).unwrap().remove(1);
    assert_eq!(gone.id.to_string(), "p1.2");
    let e = text(stage.app.group_failover(&admin(), "app", &failover("g1")).await);
    assert_eq!(
        e,
        "this point of 'app' cannot be used: db-1: there is no such point (choose a later one: `lifeboat group \
         points app`)"
    );
    assert!(stage.store.running_operations().await.unwrap().is_empty(), "of none, rather than of one");
    let oldest = stage.site.world.lock().points[&db][1].clone();
    assert_eq!(oldest.id.to_string(), "p1.3");
    stage.site.world.lock().runtimes.get_mut(&db).unwrap().oldest = Some(oldest);
    stage.app.start();
    stage
        .until("g1 is forgotten", || async {
            let points = stage.app.group_points("app", &GroupPointsQuery::default()).await.unwrap();
            (points.len() == 1 && points[0].id == "g2").then_some(())
        })
        .await;
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
    latest(&stage, "g3").await;
}

#[tokio::test]
async fn all_members_begin_or_none_does() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
    stage.site.world.lock().endless_checks = true;
    let busy = crate::fake::drill_request();
    stage.app.drill(&admin(), "db-1", &busy).await.unwrap();
    let e = text(stage.app.group_failover(&admin(), "app", &failover("latest")).await);
    assert!(e.starts_with("a drill of 'db-1' is running since "), "{e}");
    assert_eq!(stage.store.running_operations().await.unwrap().len(), 1);
    assert_eq!(stage.app.server("web-1").await.unwrap().state, ServerState::Replicating);
    let started = stage.audit().await.into_iter().filter(|e| e.contains("failover.start")).count();
    assert_eq!(started, 0, "what did not begin is not in the log");
}

#[tokio::test]
async fn a_member_stays_until_its_group_is_gone() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(0)).await.unwrap();
    stage.app.cut_group_point(&admin(), "app").await.unwrap();
    let yes = DeleteServerQuery { confirm_points: true };
    assert_eq!(
        text(stage.app.delete_server(&admin(), "db-1", &yes).await),
        "'db-1' is in the group 'app' (delete the group first: `lifeboat group delete app`; its servers stay)"
    );
    stage.app.delete_group(&admin(), "app").await.unwrap();
    assert_eq!(code(stage.app.group("app").await), ErrorCode::NotFound);
    assert_eq!(code(stage.app.delete_group(&admin(), "app").await), ErrorCode::NotFound);
    stage.app.delete_server(&admin(), "db-1", &yes).await.unwrap();
    // A new group of that name has none of the old one's points.
    let again = GroupRequest { servers: vec!["web-1".into()], ..request(0) };
    stage.app.create_group(&admin(), &again).await.unwrap();
    assert!(stage.app.group_points("app", &GroupPointsQuery::default()).await.unwrap().is_empty());
    stage.sound().await;
}

#[tokio::test]
async fn a_member_that_is_stopped_is_named_and_one_that_begins_is_waited_for() {
    let stage = Stage::new().await;
    two(&stage).await;
    stage.app.create_group(&admin(), &request(10)).await.unwrap();
    latest(&stage, "g1").await;
    stage.app.stop_server(&admin(), "db-1").await.unwrap();
    stage.clock.advance(Duration::from_secs(10));
    stage.until("it says so", || async { stage.app.group("app").await.unwrap().trouble }).await;
    let trouble = stage.app.group("app").await.unwrap().trouble.unwrap();
    assert!(trouble.starts_with("'db-1' is stopped, so it gets no barrier"), "{trouble}");
    // All at rest: nothing is wanted of them.
    stage.app.stop_server(&admin(), "web-1").await.unwrap();
    stage
        .until("it is quiet", || async {
            stage.app.group("app").await.unwrap().trouble.is_none().then_some(())
        })
        .await;
    stage.site.trouble(Trouble::None);
    for name in ["web-1", "db-1"] {
        stage.app.resume_server(&admin(), name).await.unwrap();
    }
    stage.clock.advance(Duration::from_secs(20));
    latest(&stage, "g2").await;
    stage.sound().await;
}
