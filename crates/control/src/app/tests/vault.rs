//! Retention, sets, the catalogue, and what of the vault is an alarm.

use super::{code, text};
use crate::fake::{Stage, admin, failover_request};
use crate::policy::{Actor, Role};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::*;
use lifeboat_base::{Epoch, PointId, Seq};
use std::time::Duration;

fn operator() -> Actor {
    Actor { name: "otto (t2)".into(), role: Role::Operator, token: Some("t2".into()) }
}

fn keep(preset: RetentionPreset) -> ServerChange {
    let retention = RetentionSpec { preset, ..RetentionSpec::default() };
    ServerChange { retention: Some(retention), ..ServerChange::default() }
}

fn set(name: &str) -> BackupSet {
    serde_json::from_value(serde_json::json!({"name": name, "paths": ["/srv"]})).unwrap()
}

#[tokio::test]
async fn what_is_kept_is_changed_by_an_admin_and_told_at_once() {
    let mut stage = Stage::new().await;
    let id = stage.replicating().await;
    assert_eq!(stage.app.server("web-1").await.unwrap().retention.preset, RetentionPreset::Aws);
    let change = keep(RetentionPreset::Gfs);
    assert_eq!(code(stage.app.change_server(&operator(), "web-1", &change).await), ErrorCode::Forbidden);
    let server = stage.app.change_server(&admin(), "web-1", &change).await.unwrap();
    assert_eq!(server.retention.preset, RetentionPreset::Gfs);
    assert_eq!(stage.site.world.lock().held[&id].retention.preset, RetentionPreset::Gfs);
    let entry = stage.store.audit(1, None).await.unwrap().remove(0);
    assert_eq!(entry.detail, "retention aws, locked 0 s -> gfs, locked 0 s");
    stage.restart().await;
    stage.until("it is told again", || async { stage.site.world.lock().held.get(&id).cloned() }).await;
    assert_eq!(stage.site.world.lock().held[&id].retention.preset, RetentionPreset::Gfs);
    let rule = |every, keep| RetentionRule { every_seconds: every, keep_seconds: keep };
    let own = |rules: Vec<RetentionRule>| ServerChange {
        retention: Some(RetentionSpec { preset: RetentionPreset::Own, rules, lock_seconds: 0 }),
        ..ServerChange::default()
    };
    let mut ruled = keep(RetentionPreset::Aws);
    ruled.retention.as_mut().unwrap().rules.push(rule(60, 60));
    let mut locked = keep(RetentionPreset::Aws);
    locked.retention.as_mut().unwrap().lock_seconds = u64::MAX;
    for bad in [
        own(vec![]),
        own(vec![rule(59, 60)]),
        own(vec![rule(60, 59)]),
        own(vec![rule(60, 60); 17]),
        ruled,
        locked,
    ] {
        assert_eq!(
            code(stage.app.change_server(&admin(), "web-1", &bad).await),
            ErrorCode::Invalid,
            "{bad:?}"
        );
    }
    for taken in ["latest", "2h", "p1.7", "2026-11-20"] {
        let hold = HoldRequest { name: Some(taken.into()), ..HoldRequest::default() };
        assert_eq!(
            code(stage.app.hold_point(&admin(), "web-1", "latest", hold).await),
            ErrorCode::Invalid,
            "{taken}"
        );
    }
    // A lock binds admins, too, so no operator sets one, not even at the start.
    let mut request = stage.protect_request("web-2", "a1");
    request.retention.lock_seconds = 60;
    assert_eq!(code(stage.app.protect(&operator(), request).await), ErrorCode::Forbidden);
    stage.sound().await;
}

/// Row 36: an admin deletes inside retention.
#[tokio::test]
async fn a_server_with_a_locked_point_is_not_deleted_and_neither_where_the_vault_cannot_be_asked() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.site.vault.ready();
    let lock = HoldRequest { lock_seconds: Some(60), ..HoldRequest::default() };
    stage.app.hold_point(&admin(), "web-1", "latest", lock).await.unwrap();
    let query = DeleteServerQuery { confirm_points: true };
    assert_eq!(text(stage.app.delete_server(&admin(), "web-1", &query).await), "p1.1 is locked");
    stage.site.vault.state(VaultState::Unavailable, Some("no route"));
    assert_eq!(text(stage.app.delete_server(&admin(), "web-1", &query).await), "the vault is away");
    assert_eq!(stage.app.server("web-1").await.unwrap().id, id);
    assert!(stage.site.world.lock().points.contains_key(&id));
    stage.site.vault.ready();
    stage.site.vault.0.lock().points.clear();
    stage.app.delete_server(&admin(), "web-1", &query).await.unwrap();
    stage.sound().await;
}

#[tokio::test]
async fn sets_are_told_to_the_data_side_and_told_again_to_one_that_was_away() {
    let mut stage = Stage::new().await;
    stage.app.put_backup_set(&admin(), set("srv")).await.unwrap();
    assert!(stage.site.vault.0.lock().sets.is_empty(), "there is no vault yet");
    stage.site.vault.ready();
    let told = |n: usize| {
        let site = stage.site.clone();
        async move { (site.vault.0.lock().sets.len() == n).then_some(()) }
    };
    stage.until("it is told", || told(1)).await;
    stage
        .app
        .put_backup_set(&admin(), BackupSet { schedule: Some("30 2 * * *".into()), ..set("srv") })
        .await
        .unwrap();
    assert_eq!(stage.site.vault.0.lock().sets[0].schedule.as_deref(), Some("30 2 * * *"));
    stage.site.vault.0.lock().sets.clear();
    stage.restart().await;
    let told = || async { (stage.site.vault.0.lock().sets.len() == 1).then_some(()) };
    stage.until("a new process tells it again", told).await;
    for bad in [
        BackupSet { paths: vec![], ..set("a") },
        BackupSet { paths: vec!["srv".into()], ..set("a") },
        BackupSet { paths: vec!["/srv/../etc".into()], ..set("a") },
        BackupSet { schedule: Some("soon".into()), ..set("a") },
        // The 30th of February.
        BackupSet { schedule: Some("0 0 30 2 *".into()), ..set("a") },
        BackupSet { exclude: vec!["x".into(); 257], ..set("a") },
        BackupSet { name: "A/B".into(), ..set("a") },
    ] {
        assert_eq!(
            code(stage.app.put_backup_set(&admin(), bad.clone()).await),
            ErrorCode::Invalid,
            "{bad:?}"
        );
    }
    let nobody = BackupSet { agent: Some("nobody".into()), ..set("a") };
    assert_eq!(code(stage.app.put_backup_set(&admin(), nobody).await), ErrorCode::NotFound);
    // What an admin made of the site's own host, an operator does not turn into something else.
    stage.agent("a1").await;
    let taken = BackupSet { agent: Some("a1".into()), ..set("srv") };
    assert_eq!(code(stage.app.put_backup_set(&operator(), taken).await), ErrorCode::Forbidden);
    stage.sound().await;
}

#[tokio::test]
async fn the_catalogue_is_put_when_it_changes_and_only_then() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.site.vault.ready();
    let puts = || stage.site.vault.0.lock().puts;
    stage.until("it is there", || async { (puts() == 1).then_some(()) }).await;
    let kept = stage.site.vault.0.lock().catalogue.clone().unwrap();
    assert_eq!((kept.servers[0].id, kept.servers[0].epoch, kept.agents[0].name.as_str()), (id, 1, "a1"));
    let looks = stage.app.vault_looks();
    stage
        .until("it was looked at again", || async { (stage.app.vault_looks() > looks + 5).then_some(()) })
        .await;
    assert_eq!(puts(), 1, "nothing has changed");
    stage.app.change_server(&admin(), "web-1", &keep(RetentionPreset::Gfs)).await.unwrap();
    stage.until("it is put again", || async { (puts() == 2).then_some(()) }).await;
    // The epoch of a failover is in it, too.
    let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    stage.ended(op.id).await;
    let epoch = || stage.site.vault.0.lock().catalogue.as_ref().unwrap().servers[0].epoch;
    stage.until("the epoch is in it", || async { (epoch() == 2).then_some(()) }).await;
    stage.sound().await;
}

/// A site with a server, a group and a set dies; a new one is attached to its vault.
#[tokio::test]
async fn an_attached_site_takes_the_catalogue_over_once_and_epochs_only_rise() {
    let old = Stage::new().await;
    let id = old.replicating().await;
    let gone = old.agent("gone").await;
    old.app.revoke_agent(&admin(), "gone").await.unwrap();
    let group =
        GroupRequest { name: "all".into(), servers: vec!["web-1".into()], every_seconds: 0, hold_ms: 500 };
    old.app.create_group(&admin(), &group).await.unwrap();
    old.app.put_backup_set(&admin(), set("srv")).await.unwrap();
    old.site.vault.ready();
    old.until("it is in the vault", || async {
        let w = old.site.vault.0.lock();
        w.catalogue.as_ref().filter(|c| c.backup_sets.len() == 1 && c.servers.len() == 1).map(|_| ())
    })
    .await;
    let catalogue = old.site.vault.0.lock().catalogue.clone();

    let mut new = Stage::new().await;
    new.store.wait_for_catalogue().await.unwrap();
    assert_eq!(
        code(new.app.protect(&admin(), new.protect_request("x", "early")).await),
        ErrorCode::Unavailable
    );
    assert_eq!(code(new.app.put_backup_set(&admin(), set("x")).await), ErrorCode::Unavailable);
    let alarms = new.app.status().await.unwrap().alarms;
    assert!(alarms.iter().any(|a| a.contains("has not read its catalogue")), "{alarms:?}");
    new.restart().await;
    assert_eq!(new.site.vault.0.lock().puts, 0);
    // The vault knows of a later epoch than the catalogue.
    let point = PointInfo { id: PointId { epoch: Epoch(7), seq: Seq(9) }, ..old.site.point(id) };
    new.site.world.lock().points.insert(id, vec![point]);
    new.site.vault.0.lock().catalogue = catalogue;
    new.site.vault.ready();
    new.until("the server is here", || async { new.app.server("web-1").await.ok() }).await;
    let server = new.app.server("web-1").await.unwrap();
    assert_eq!((server.id, server.state, server.epoch), (id, ServerState::Stopped, 8));
    assert_eq!(new.app.group("all").await.unwrap().servers, ["web-1"]);
    assert_eq!(new.app.backup_sets().await.unwrap()[0].set.name, "srv");
    assert!(new.store.agents().await.unwrap().iter().any(|a| a.id == gone && a.revoked));
    new.until("the data side holds it", || async { new.site.world.lock().held.get(&id).map(|s| s.epoch) })
        .await;
    assert!(!new.site.world.lock().held[&id].active);
    // It can be failed over with nobody of the old site there.
    let op = new.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    assert_eq!(new.ended(op.id).await.state, OperationState::Succeeded);
    assert_eq!(new.app.server("web-1").await.unwrap().epoch, 9);
    // And it is taken over once only.
    let audit = new.audit().await;
    assert_eq!(audit.iter().filter(|e| e.contains("vault.attach")).count(), 1, "{audit:?}");
    assert!(!new.store.waits_for_catalogue().await.unwrap());
    new.sound().await;
}

#[tokio::test]
async fn a_catalogue_that_does_not_fit_changes_nothing_and_says_why() {
    let old = Stage::new().await;
    old.replicating().await;
    old.site.vault.ready();
    old.until("it is in the vault", || async { old.site.vault.0.lock().catalogue.clone() }).await;
    let new = Stage::new().await;
    new.store.wait_for_catalogue().await.unwrap();
    // An agent of that name joined before the vault was open.
    new.agent("a1").await;
    new.site.vault.0.lock().catalogue = old.site.vault.0.lock().catalogue.clone();
    new.site.vault.ready();
    let looks = new.app.vault_looks();
    new.until("it was looked at", || async { (new.app.vault_looks() > looks + 3).then_some(()) }).await;
    assert!(new.app.servers().await.unwrap().is_empty());
    assert!(new.store.waits_for_catalogue().await.unwrap());
    assert_eq!(new.site.vault.0.lock().puts, 0, "the one that is there stays");
    new.sound().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_vault_is_an_alarm() {
    let stage = Stage::new().await;
    let vault = &stage.site.vault;
    let alarms = || async { stage.app.status().await.unwrap().alarms };
    let has = |all: &[String], what: &str| all.iter().any(|a| a.contains(what));
    vault.ready();
    assert!(alarms().await.is_empty(), "{:?}", alarms().await);
    vault.state(VaultState::Unavailable, Some("no route to s3.example.org"));
    assert!(has(&alarms().await, "no route to s3.example.org"));
    vault.state(VaultState::Degraded, Some("the clock jumped"));
    assert!(has(&alarms().await, "the vault: the clock jumped"));
    vault.ready();
    vault.change(|s| {
        s.copies = vec![
            VaultCopy {
                location: "s3://a/b".into(),
                reachable: false,
                error: Some("403".into()),
                lacking: 0,
                locks: false,
            },
            VaultCopy { location: "/srv/v".into(), reachable: true, error: None, lacking: 3, locks: false },
        ];
        s.findings = vec![VaultFinding {
            object: "packs/aa/bb".into(),
            what: "the seal is broken".into(),
            touches: vec!["web-1 p1.7".into()],
            repaired: false,
        }];
    });
    let all = alarms().await;
    assert!(has(&all, "s3://a/b cannot be reached: 403") && has(&all, "/srv/v lacks 3 objects"), "{all:?}");
    assert!(has(&all, "packs/aa/bb (the seal is broken), which touches web-1 p1.7"), "{all:?}");
    // A backlog is an alarm only when it does not shrink for long.
    vault.ready();
    vault.change(|s| s.backlog_bytes = 8 << 30);
    let looks = stage.app.vault_looks();
    stage.until("it was seen", || async { (stage.app.vault_looks() > looks + 5).then_some(()) }).await;
    assert!(alarms().await.is_empty(), "{:?}", alarms().await);
    stage.clock.advance(Duration::from_secs(2 * 3600));
    assert!(has(&alarms().await, "8.0 GiB of journals are due to go to the vault"), "{:?}", alarms().await);
    vault.change(|s| s.backlog_bytes = 7 << 30);
    stage.until("it shrank", || async { alarms().await.is_empty().then_some(()) }).await;
    stage.sound().await;
}
