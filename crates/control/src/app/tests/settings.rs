//! Changing settings, comparisons, checks, branches, and what they are alarms for.

use super::{code, text};
use crate::fake::{FakeSite, Stage, Trouble, admin};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::*;
use lifeboat_base::{Clock, Epoch, PointId, Seq, ServerId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const HOUR: Duration = Duration::from_secs(3600);

/// `files-1`, served through a splitter.
async fn splitter(stage: &Stage) -> ServerId {
    stage.agent("a1").await;
    stage.site.machine("/dev/x", &["disk"]);
    let capture = CaptureSpec::Splitter { paths: vec!["/dev/x".into()], listen: None };
    let mut request = stage.protect_request("files-1", "a1");
    request.capture = capture;
    request.replication.mode = ReplicationMode::Sync;
    let id = stage.app.protect(&admin(), request).await.unwrap().id;
    stage.site.point(id);
    stage.until_state("files-1", ServerState::Replicating).await;
    id
}

fn set(site: &FakeSite, id: ServerId, f: &dyn Fn(&mut ServerRuntime)) {
    f(site.world.lock().runtimes.get_mut(&id).unwrap());
}

#[tokio::test]
async fn settings_change_at_once_and_what_changed_is_in_the_log() {
    let mut stage = Stage::new().await;
    let id = splitter(&stage).await;
    assert_eq!(stage.site.world.lock().held[&id].replication.mode, ReplicationMode::Sync);
    let replication = ReplicationSpec {
        on_loss: OnLoss::Degrade,
        loss_seconds: 5,
        ..stage.app.server("files-1").await.unwrap().replication
    };
    let change = ServerChange {
        replication: Some(replication.clone()),
        watch: Some(WatchSpec { rpo_alarm_seconds: Some(5), ..WatchSpec::default() }),
        ..ServerChange::default()
    };
    let server = stage.app.change_server(&admin(), "files-1", &change).await.unwrap();
    assert_eq!((server.replication.clone(), server.watch.rpo_alarm_seconds), (replication.clone(), Some(5)));
    assert_eq!(server.window, WindowSpec::default(), "what is not given stays");
    assert_eq!(stage.site.world.lock().held[&id].replication, replication, "it is told before the answer");
    let entry = stage.store.audit(1, None).await.unwrap().remove(0);
    assert_eq!(
        (entry.action.as_str(), entry.detail.as_str()),
        ("server.set", "on loss block -> degrade, loss after 30 s -> 5 s, RPO alarm the site's -> 5 s")
    );
    assert_eq!(
        text(stage.app.change_server(&admin(), "files-1", &change).await),
        "nothing is changed by this (name a setting with another value than it has)"
    );
    // The data side is away for the moment: what was decided is told later.
    stage.site.trouble(Trouble::FailBefore(1));
    let window = WindowSpec { seconds: 3600, bytes: 1 << 30 };
    let change = ServerChange { window: Some(window.clone()), ..ServerChange::default() };
    stage.app.change_server(&admin(), "files-1", &change).await.unwrap();
    stage
        .until("it is told", || async { (stage.site.world.lock().held[&id].window == window).then_some(()) })
        .await;
    stage.restart().await;
    stage.until("it is told again", || async { stage.site.world.lock().held.get(&id).cloned() }).await;
    assert_eq!(stage.site.world.lock().held[&id].replication, replication);
    stage.sound().await;
}

#[tokio::test]
async fn impossible_settings_change_nothing_and_say_why() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let before = stage.site.world.lock().held[&id].clone();
    let sync = ReplicationSpec { mode: ReplicationMode::Sync, ..ReplicationSpec::default() };
    let change = ServerChange { replication: Some(sync.clone()), ..ServerChange::default() };
    assert_eq!(
        text(stage.app.change_server(&admin(), "web-1", &change).await),
        "a mirror cannot be synchronous: QEMU's mirror does not pass the guest's flushes on (serve the disk through a \
         splitter: protect it with --export PATH instead of --qmp)"
    );
    let mut request = stage.protect_request("web-2", "a1");
    request.replication = sync;
    assert_eq!(code(stage.app.protect(&admin(), request).await), ErrorCode::Invalid);
    let replication = |f: &dyn Fn(&mut ReplicationSpec)| {
        let mut r = ReplicationSpec::default();
        f(&mut r);
        ServerChange { replication: Some(r), ..ServerChange::default() }
    };
    let watch = |f: &dyn Fn(&mut WatchSpec)| {
        let mut w = WatchSpec::default();
        f(&mut w);
        ServerChange { watch: Some(w), ..ServerChange::default() }
    };
    for bad in [
        replication(&|r| r.loss_seconds = 0),
        replication(&|r| r.loss_seconds = 3601),
        replication(&|r| r.spool_bytes = 1),
        replication(&|r| r.spool_bytes = u64::MAX),
        watch(&|w| w.rpo_alarm_seconds = Some(0)),
        watch(&|w| w.verify_hours = u32::MAX),
        watch(&|w| w.verify_rate = 1),
        ServerChange { window: Some(WindowSpec { seconds: 0, bytes: 1 << 30 }), ..ServerChange::default() },
        ServerChange {
            launch: Some(LaunchSettings { cpus: 0, ..LaunchSettings::default() }),
            ..ServerChange::default()
        },
        ServerChange::default(),
    ] {
        assert_eq!(
            code(stage.app.change_server(&admin(), "web-1", &bad).await),
            ErrorCode::Invalid,
            "{bad:?}"
        );
    }
    assert_eq!(stage.site.world.lock().held[&id], before);
    assert!(!stage.audit().await.iter().any(|e| e.contains("server.set")));
}

#[tokio::test]
async fn a_synchronous_server_that_breaks_its_promise_is_an_alarm() {
    let stage = Stage::new().await;
    let id = splitter(&stage).await;
    let status = |state| SyncStatus {
        state,
        since: Some(lifeboat_base::WallTime(0)),
        flushes: 1,
        source_us: 1,
        encode_us: 1,
        site_us: 1,
        longest_us: 1,
    };
    let alarms = |state: SyncModeState| {
        set(&stage.site, id, &|r| r.sync_mode = Some(status(state)));
        let app = stage.app.clone();
        async move { app.status().await.unwrap().alarms }
    };
    for fine in [SyncModeState::Synchronous, SyncModeState::NotYet, SyncModeState::Unknown] {
        assert_eq!(alarms(fine).await, Vec::<String>::new(), "{fine:?}");
    }
    assert_eq!(
        alarms(SyncModeState::Blocked).await,
        [
            "files-1: synchronous writes wait for this site since 1970-01-01T00:00:00.000Z: after 30 s they fail with an \
          I/O error; see to the link, or let them go on without this site: `lifeboat set files-1 --on-loss degrade`"
        ]
    );
    assert_eq!(
        alarms(SyncModeState::Degraded).await,
        [
            "files-1: NOT synchronous since 1970-01-01T00:00:00.000Z: its policy let writes go on without this site, so \
          the newest can be lost; see to the link, it is synchronous again by itself once it has caught up"
        ]
    );
}

#[tokio::test]
async fn a_servers_own_rpo_limit_counts_before_the_sites() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    set(&stage.site, id, &|r| r.rpo_ms = Some(6_000));
    assert_eq!(stage.app.status().await.unwrap().alarms, Vec::<String>::new());
    let watch = WatchSpec { rpo_alarm_seconds: Some(5), ..WatchSpec::default() };
    let change = ServerChange { watch: Some(watch), ..ServerChange::default() };
    stage.app.change_server(&admin(), "web-1", &change).await.unwrap();
    assert_eq!(
        stage.app.status().await.unwrap().alarms,
        ["web-1: the newest recovery point is 6 s old, the limit is 5 s"]
    );
}

#[tokio::test]
async fn source_and_copy_are_compared_when_asked_and_a_difference_is_an_alarm() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let request = VerifyRequest { rate: Some(1 << 20) };
    let server = stage.app.verify(&admin(), "web-1", &request).await.unwrap();
    assert_eq!(server.runtime.verify.unwrap().state, VerifyState::Running);
    assert!(stage.site.world.lock().log.contains(&"verify 1048576".to_string()));
    assert_eq!(
        text(stage.app.verify(&admin(), "web-1", &request).await),
        "'web-1' is being compared already (watch it: `lifeboat server web-1`)"
    );
    assert!(stage.audit().await.contains(&"tess (t1) server.verify web-1 done".into()));
    set(&stage.site, id, &|r| {
        let v = r.verify.as_mut().unwrap();
        v.state = VerifyState::Different;
        v.ended = Some(lifeboat_base::WallTime(0));
        v.different_bytes = 65_536;
        v.point = Some(PointId { epoch: Epoch(1), seq: Seq(9) });
    });
    assert_eq!(
        stage.app.status().await.unwrap().alarms,
        [
            "web-1: source and copy differed in 64.0 KiB at 1970-01-01T00:00:00.000Z; that was sent anew, points before \
          p1.9 may be wrong there; compare again: `lifeboat verify web-1`"
        ]
    );
    assert_eq!(
        code(stage.app.verify(&admin(), "web-1", &VerifyRequest { rate: Some(1) }).await),
        ErrorCode::Invalid
    );
    set(&stage.site, id, &|r| r.connected = false);
    assert_eq!(code(stage.app.verify(&admin(), "web-1", &request).await), ErrorCode::Unavailable);
    stage.app.stop_server(&admin(), "web-1").await.unwrap();
    assert_eq!(code(stage.app.verify(&admin(), "web-1", &request).await), ErrorCode::Conflict);
}

#[tokio::test]
async fn comparisons_come_by_themselves_one_at_a_time_per_agent() {
    let stage = Stage::new().await;
    let web = stage.replicating().await;
    let db = stage.app.protect(&admin(), stage.protect_request("db-1", "a1")).await.unwrap().id;
    stage.site.point(db);
    stage.until_state("db-1", ServerState::Replicating).await;
    let begun =
        |stage: &Stage| stage.site.world.lock().log.iter().filter(|l| l.starts_with("verify")).count();
    assert_eq!(begun(&stage), 0, "not at once");
    stage.clock.advance(HOUR * 24 * 7);
    stage.until("one begins", || async { (begun(&stage) == 1).then_some(()) }).await;
    stage.clock.advance(Duration::from_secs(120));
    stage.app.status().await.unwrap();
    assert_eq!(begun(&stage), 1, "the other waits for it");
    let now = stage.clock.wall();
    for id in [web, db] {
        set(&stage.site, id, &|r| {
            if let Some(v) = &mut r.verify {
                v.state = VerifyState::Equal;
                v.ended = Some(now);
            }
        });
    }
    stage.until("the other begins", || async { (begun(&stage) == 2).then_some(()) }).await;
    // What was begun is noted once the data side has answered.
    let noted = |audit: &[String], name| audit.contains(&format!("site server.verify {name} done"));
    let both = async || {
        let audit = stage.audit().await;
        (noted(&audit, "web-1") && noted(&audit, "db-1")).then_some(())
    };
    stage.until("both are in the audit log", both).await;
    stage.sound().await;
}

#[tokio::test]
async fn a_check_names_the_points_that_are_affected_and_one_runs_at_a_time() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let finding = CheckFinding {
        what: "segment 3 at 4096: a record's checksum is wrong".into(),
        first_point: Some(PointId { epoch: Epoch(1), seq: Seq(7) }),
        last_point: None,
    };
    let report = CheckReport { segments: 4, findings: vec![finding], ..CheckReport::default() };
    stage.site.world.lock().reports.insert(id, report.clone());
    let full = stage.app.check("web-1", &CheckQuery { full: true }).await.unwrap();
    assert_eq!((full.server.as_str(), full.records, full.findings), ("web-1", 100, report.findings));
    let gate = Arc::new(Notify::new());
    stage.site.world.lock().check_gate = Some(gate.clone());
    let app = stage.app.clone();
    let first = tokio::spawn(async move { app.check("web-1", &CheckQuery { full: true }).await });
    stage.until("it checks", || async { (!stage.app.checking.lock().is_empty()).then_some(()) }).await;
    assert_eq!(
        text(stage.app.check("web-1", &CheckQuery::default()).await),
        "the journal of 'web-1' is being checked already (wait for that check to end)"
    );
    gate.notify_one();
    first.await.unwrap().unwrap();
    assert!(stage.app.checking.lock().is_empty());
    assert_eq!(code(stage.app.check("none", &CheckQuery::default()).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn branches_are_shown_mounted_and_deleted_by_name() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let now = stage.clock.wall();
    let branch = Branch {
        id: "b1.7f3a".into(),
        server: String::new(),
        epoch: 1,
        base: PointId { epoch: Epoch(1), seq: Seq(1) },
        first: now,
        newest: now,
        records: 12,
        content_bytes: 4096,
        stored_bytes: 900,
        mountable: true,
    };
    stage.site.world.lock().branches.insert(id, vec![branch.clone()]);
    set(&stage.site, id, &|r| r.branches = 1);
    let shown = vec![Branch { server: "web-1".into(), ..branch }];
    assert_eq!(stage.app.branches(Some("web-1")).await.unwrap(), shown);
    assert_eq!(stage.app.branches(None).await.unwrap(), shown);
    // Also when nothing of it is captured any more.
    stage.app.stop_server(&admin(), "web-1").await.unwrap();
    let alarms = stage.app.status().await.unwrap().alarms;
    assert!(
        alarms
            .iter()
            .any(|a| a.starts_with("web-1: a divergent branch is kept, with what its old source wrote")),
        "{alarms:?}"
    );
    let request = MountRequest {
        server: "web-1".into(),
        point: "latest".into(),
        writable: false,
        branch: Some("b1.7f3a".into()),
    };
    let mount = stage.app.mount(&admin(), &request).await.unwrap();
    stage.app.unmount(&admin(), &mount.id).await.unwrap();
    assert_eq!(
        text(stage.app.delete_branch(&admin(), "web-1", "b9.0000").await),
        "there is no branch 'b9.0000' (`lifeboat branches web-1` lists them)"
    );
    stage.app.delete_branch(&admin(), "web-1", "b1.7f3a").await.unwrap();
    assert!(stage.app.branches(None).await.unwrap().is_empty());
    let entries = stage.store.audit(3, None).await.unwrap();
    assert_eq!(entries[0].action, "branch.delete");
    assert_eq!(entries[0].detail, "b1.7f3a from p1.1, 12 records");
}

#[tokio::test]
async fn the_measured_rpo_is_given_by_the_minute() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let stats = RpoStats { p50_ms: 200, p99_ms: 900, max_ms: 1000, samples: 60 };
    let minute = RpoMinute { start: stage.clock.wall(), stats };
    stage.site.world.lock().rpo.insert(id, vec![minute; 5]);
    assert_eq!(stage.app.rpo("web-1", &RpoQuery { minutes: Some(3) }).await.unwrap().len(), 3);
    assert_eq!(stage.app.rpo("web-1", &RpoQuery::default()).await.unwrap().len(), 5);
    for wrong in [0, 1441] {
        let query = RpoQuery { minutes: Some(wrong) };
        assert_eq!(code(stage.app.rpo("web-1", &query).await), ErrorCode::Invalid);
    }
}

#[tokio::test]
async fn f17_a_clock_that_jumps_deletes_no_drill_early_and_revives_no_token() {
    const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 86_400);
    let stage = Stage::new().await;
    stage.replicating().await;
    let ask = CreateTokenRequest { kind: TokenKind::Viewer, name: None, ttl_seconds: Some(3600) };
    let token = stage.app.create_token(&admin(), &ask).await.unwrap().token;
    let op = stage.app.drill(&admin(), "web-1", &crate::fake::drill_request()).await.unwrap();
    let run = stage.ended(op.id).await.run.unwrap();
    let state = || async { stage.app.run(run).await.unwrap().state };
    let looked = || async {
        let seen = stage.app.looks();
        stage.until("two looks", || async { (stage.app.looks() >= seen + 2).then_some(()) }).await;
    };
    looked().await;
    let true_time = stage.clock.wall();
    stage.clock.set_wall(true_time.saturating_add(TEN_YEARS));
    looked().await;
    assert_eq!(state().await, RunState::Running, "ten years on, and its ten minutes are not over");
    stage.clock.set_wall(true_time.saturating_sub(TEN_YEARS));
    stage.clock.advance(HOUR);
    stage.until("it is cleaned up", || async { (state().await == RunState::CleanedUp).then_some(()) }).await;
    assert_eq!(code(stage.app.authenticate(Some(&token)).await), ErrorCode::Unauthenticated);
    stage.sound().await;
}

#[tokio::test]
async fn a_server_that_is_forgotten_is_not_told_of_again_by_a_slow_teller() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let gate = Arc::new(Notify::new());
    stage.site.world.lock().ensure_gate = Some(gate.clone());
    let change = ServerChange {
        window: Some(WindowSpec { seconds: 3600, bytes: 1 << 30 }),
        ..ServerChange::default()
    };
    let app = stage.app.clone();
    let telling = tokio::spawn(async move { app.change_server(&admin(), "web-1", &change).await });
    stage.until("it tells", || async { (stage.site.world.lock().waiting > 0).then_some(()) }).await;
    let app = stage.app.clone();
    let yes = DeleteServerQuery { confirm_points: true };
    let deleting = tokio::spawn(async move { app.delete_server(&admin(), "web-1", &yes).await });
    stage
        .until("it is on its way out", || async {
            stage.store.server(id).await.unwrap().is_none_or(|r| r.deleting).then_some(())
        })
        .await;
    stage.site.world.lock().ensure_gate = None;
    gate.notify_waiters();
    drop(telling.await.unwrap());
    deleting.await.unwrap().unwrap();
    stage
        .until("it is gone", || async { stage.store.server(id).await.unwrap().is_none().then_some(()) })
        .await;
    let (seen, looks) = (stage.app.looks(), 2);
    stage.until("two looks", || async { (stage.app.looks() >= seen + looks).then_some(()) }).await;
    assert!(stage.site.world.lock().kept.is_empty(), "the data side keeps what nobody knows");
    assert_eq!(stage.app.status().await.unwrap().alarms, Vec::<String>::new());
    stage.sound().await;
}
