#![allow(clippy::unwrap_used)]
use super::*;
use crate::fake::{FakeSite, Stage, Trouble, admin, csr, drill_request};
use lifeboat_api::types::*;

mod backups;
mod groups;
mod operations;
mod settings;
mod stale;
mod vault;

fn code<T: std::fmt::Debug>(r: Result<T, ApiError>) -> ErrorCode {
    r.unwrap_err().code
}

fn text<T: std::fmt::Debug>(r: Result<T, ApiError>) -> String {
    r.unwrap_err().to_string()
}

#[tokio::test]
async fn a_server_goes_from_protected_to_replicating_as_its_agent_reports() {
    let stage = Stage::new().await;
    stage.agent("a1").await;
    let server = stage.app.protect(&admin(), stage.protect_request("web-1", "a1")).await.unwrap();
    assert_eq!((server.state, server.epoch, server.disks.len()), (ServerState::Initialized, 1, 2));
    assert!(stage.site.world.lock().held[&server.id].active);
    stage.site.sync_phase(server.id, SyncPhase::Scan);
    stage.until_state("web-1", ServerState::Scanning).await;
    stage.site.sync_phase(server.id, SyncPhase::Full);
    stage.until_state("web-1", ServerState::InitialSync).await;
    stage.site.point(server.id);
    stage.until_state("web-1", ServerState::Replicating).await;
    let audit = stage.audit().await;
    assert_eq!(audit.iter().filter(|e| *e == "site server.state web-1 done").count(), 3, "{audit:?}");
    assert!(audit.contains(&"tess (t1) server.protect web-1 done".into()), "{audit:?}");
    stage.sound().await;
}

#[tokio::test]
async fn what_cannot_be_protected_says_why_and_leaves_nothing() {
    let stage = Stage::new().await;
    let gone = stage.agent("gone").await;
    stage.agent("a1").await;
    stage.app.revoke_agent(&admin(), "gone").await.unwrap();
    assert_eq!(stage.site.world.lock().disconnected, [gone]);
    let good = stage.protect_request("web-1", "a1");
    let protect = |r: ProtectRequest| {
        let app = stage.app.clone();
        async move { app.protect(&admin(), r).await }
    };
    let with = |f: &dyn Fn(&mut ProtectRequest)| {
        let mut r = good.clone();
        f(&mut r);
        r
    };
    let t = text(protect(with(&|r| r.agent = "nobody".into())).await);
    assert_eq!(t, "there is no agent 'nobody' (`lifeboat agents` lists the agents of this site)");
    let t = text(protect(with(&|r| r.agent = "gone".into())).await);
    assert_eq!(t, "the agent 'gone' was revoked (join it again with a new join token)");
    let missing = CaptureSpec::Mirror { qmp: "/run/none".into(), disks: vec![] };
    let t = text(protect(with(&|r| r.capture = missing.clone())).await);
    assert_eq!(t, "/run/none does not exist (start the machine first)");
    stage.site.machine("/run/cdrom", &[]);
    let empty = CaptureSpec::Mirror { qmp: "/run/cdrom".into(), disks: vec![] };
    assert_eq!(code(protect(with(&|r| r.capture = empty.clone())).await), ErrorCode::Invalid);
    assert_eq!(code(protect(with(&|r| r.name = "Web/1".into())).await), ErrorCode::Invalid);
    assert_eq!(code(protect(with(&|r| r.launch.cpus = 0)).await), ErrorCode::Invalid);
    stage.site.world.lock().agents.clear();
    let t = text(protect(good.clone()).await);
    assert_eq!(t, "the agent 'a1' is not connected (start `lifeboat-agent run` on its host and see its log)");
    assert!(stage.app.servers().await.unwrap().is_empty());
    assert!(stage.site.world.lock().held.is_empty());
    stage.sound().await;
}

#[tokio::test]
async fn a_protection_whose_data_side_fails_is_undone() {
    for trouble in [Trouble::FailBefore(1), Trouble::FailAfter(1)] {
        let stage = Stage::new().await;
        stage.agent("a1").await;
        let request = stage.protect_request("web-1", "a1");
        stage.site.trouble(trouble);
        assert_eq!(text(stage.app.protect(&admin(), request.clone()).await), "told to fail");
        stage
            .until("nothing is left", || async {
                (stage.store.servers().await.unwrap().is_empty() && stage.site.world.lock().held.is_empty())
                    .then_some(())
            })
            .await;
        stage.site.trouble(Trouble::None);
        stage.app.protect(&admin(), request).await.unwrap();
        stage.sound().await;
    }
}

#[tokio::test]
async fn one_disk_is_protected_once() {
    let stage = Stage::new().await;
    stage.agent("a1").await;
    stage.agent("a2").await;
    let first = stage.protect_request("web-1", "a1");
    stage.app.protect(&admin(), first.clone()).await.unwrap();
    let again = ProtectRequest { name: "web-2".into(), ..first.clone() };
    assert_eq!(
        text(stage.app.protect(&admin(), again).await),
        "the machine at /run/web-1.qmp is already protected as 'web-1' (two captures of one disk cannot both be \
         right; delete that server first)"
    );
    let capture = CaptureSpec::Mirror { qmp: "/run/web-1.qmp".into(), disks: vec!["vdb".into()] };
    let part = ProtectRequest { name: "web-2".into(), capture, ..first.clone() };
    assert_eq!(code(stage.app.protect(&admin(), part).await), ErrorCode::Conflict);
    let splitter = |name: &str, paths: &[&str]| ProtectRequest {
        name: name.into(),
        capture: CaptureSpec::Splitter { paths: paths.iter().map(|p| (*p).into()).collect(), listen: None },
        ..first.clone()
    };
    ["/a", "/b", "/c"].iter().for_each(|p| stage.site.machine(p, &["disk"]));
    stage.app.protect(&admin(), splitter("files-1", &["/a", "/b"])).await.unwrap();
    let t = text(stage.app.protect(&admin(), splitter("files-2", &["/c", "/b"])).await);
    assert!(t.starts_with("the disk /b is already protected as 'files-1'"), "{t}");
    let twin = ProtectRequest { agent: "a2".into(), ..first.clone() };
    assert_eq!(
        text(stage.app.protect(&admin(), twin).await),
        "a server 'web-1' exists already (choose another name, or delete that one first)"
    );
    // The same path on another host is another disk.
    let other = ProtectRequest { name: "web-2".into(), agent: "a2".into(), ..first };
    stage.app.protect(&admin(), other).await.unwrap();
}

#[tokio::test]
async fn two_requests_at_once_cannot_take_one_disk() {
    let stage = Stage::new().await;
    stage.agent("a1").await;
    let first = stage.protect_request("web-1", "a1");
    let second = ProtectRequest { name: "web-2".into(), ..first.clone() };
    let (who_a, who_b) = (admin(), admin());
    let (a, b) = tokio::join!(stage.app.protect(&who_a, first), stage.app.protect(&who_b, second));
    assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|ok| **ok).count(), 1);
}

#[tokio::test]
async fn stop_and_resume_keep_points_and_epoch() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let stopped = stage.app.stop_server(&admin(), "web-1").await.unwrap();
    assert_eq!((stopped.state, stopped.epoch), (ServerState::Stopped, 1));
    assert!(!stage.site.world.lock().held[&id].active);
    assert_eq!(
        text(stage.app.stop_server(&admin(), "web-1").await),
        "'web-1' is stopped; it cannot stop (it is stopped already)"
    );
    stage.app.resume_server(&admin(), &id.to_string()).await.unwrap();
    stage.until_state("web-1", ServerState::Replicating).await;
    assert!(stage.site.world.lock().held[&id].active);
    assert_eq!(stage.site.world.lock().held[&id].epoch, Epoch(1));
    assert_eq!(code(stage.app.resume_server(&admin(), "web-1").await), ErrorCode::Conflict);
    stage.sound().await;
}

#[tokio::test]
async fn what_the_data_side_misses_of_a_stop_is_told_again() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.site.trouble(Trouble::FailBefore(1));
    stage.app.stop_server(&admin(), "web-1").await.unwrap();
    stage.until("it is told", || async { (!stage.site.world.lock().held[&id].active).then_some(()) }).await;
}

#[tokio::test]
async fn deleting_takes_the_points_only_when_that_is_said() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let yes = DeleteServerQuery { confirm_points: true };
    assert_eq!(
        text(stage.app.delete_server(&admin(), "web-1", &DeleteServerQuery::default()).await),
        "deleting 'web-1' deletes all its recovery points (say so with confirm_points=true, or stop it and keep them)"
    );
    let mount =
        MountRequest { server: "web-1".into(), point: "latest".into(), writable: false, branch: None };
    let mount = stage.app.mount(&admin(), &mount).await.unwrap();
    assert_eq!(code(stage.app.delete_server(&admin(), "web-1", &yes).await), ErrorCode::Conflict);
    stage.app.unmount(&admin(), &mount.id).await.unwrap();
    // The data side fails at first: what was decided is done all the same.
    stage.site.trouble(Trouble::FailBefore(1));
    stage.app.delete_server(&admin(), "web-1", &yes).await.unwrap();
    assert_eq!(code(stage.app.server("web-1").await), ErrorCode::NotFound);
    stage
        .until("it is gone", || async {
            (stage.store.server(id).await.unwrap().is_none() && stage.site.world.lock().held.is_empty())
                .then_some(())
        })
        .await;
    assert_eq!(code(stage.app.unmount(&admin(), "m9").await), ErrorCode::NotFound);
    stage.sound().await;
}

#[tokio::test]
async fn a_restart_tells_the_data_side_of_every_server_again() {
    let mut stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.restart().await;
    stage
        .until("it is held", || async { stage.site.world.lock().held.contains_key(&id).then_some(()) })
        .await;
}

#[tokio::test]
async fn an_agent_joins_once_with_its_token() {
    let stage = Stage::new().await;
    let request =
        CreateTokenRequest { kind: TokenKind::Agent, name: Some("a1".into()), ttl_seconds: Some(60) };
    let join = |token: &str, name: &str| JoinRequest { token: token.into(), name: name.into(), csr: csr() };
    let made = stage.app.create_token(&admin(), &request).await.unwrap();
    assert!(made.token.ends_with(&stage.ca.fingerprint().to_string()));

    assert_eq!(
        text(stage.app.join(&join(&made.token, "a2")).await),
        "the join token is for the agent 'a1', not 'a2' (join with that name, or make another token)"
    );
    let wrong = JoinRequest { csr: "nonsense".into(), ..join(&made.token, "a1") };
    assert_eq!(code(stage.app.join(&wrong).await), ErrorCode::Invalid);
    let joined = stage.app.join(&join(&made.token, "a1")).await.unwrap();
    assert_eq!(joined.ca, stage.ca.pem());
    assert_eq!(
        text(stage.app.join(&join(&made.token, "a1")).await),
        "the join token was used already (make a new one with `lifeboat token create --agent`)"
    );

    let made = stage
        .app
        .create_token(&admin(), &CreateTokenRequest { name: None, ..request.clone() })
        .await
        .unwrap();
    assert_eq!(
        code(stage.app.join(&join(&made.token, "a1")).await),
        ErrorCode::Conflict,
        "the name is taken"
    );
    stage.app.revoke_agent(&admin(), "a1").await.unwrap();
    let again = stage.app.join(&join(&made.token, "a1")).await.unwrap();
    assert_ne!(again.agent, joined.agent, "the refused join left the token unspent");

    let made = stage.app.create_token(&admin(), &CreateTokenRequest { name: None, ..request }).await.unwrap();
    stage.clock.advance(Duration::from_secs(60));
    assert_eq!(
        text(stage.app.join(&join(&made.token, "a3")).await),
        "the join token has expired (make a new one with `lifeboat token create --agent`)"
    );
    let person = stage.token(TokenKind::Admin).await;
    for nonsense in ["", "lbj_", person.as_str(), &made.token.replace("lbj_", "lb_")] {
        assert_eq!(
            code(stage.app.join(&join(nonsense, "a3")).await),
            ErrorCode::Unauthenticated,
            "{nonsense}"
        );
    }
    stage.sound().await;
}

#[tokio::test]
async fn a_join_token_is_spent_once_even_by_many_at_once() {
    let stage = Stage::new().await;
    let request = CreateTokenRequest { kind: TokenKind::Agent, name: None, ttl_seconds: None };
    let token = stage.app.create_token(&admin(), &request).await.unwrap().token;
    let mut all = JoinSet::new();
    for i in 0..8 {
        let (app, token) = (stage.app.clone(), token.clone());
        all.spawn(async move { app.join(&JoinRequest { token, name: format!("a{i}"), csr: csr() }).await });
    }
    let results = all.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
    assert_eq!(stage.app.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn tokens_open_the_door_until_they_end() {
    let stage = Stage::new().await;
    let request =
        CreateTokenRequest { kind: TokenKind::Viewer, name: Some("eve".into()), ttl_seconds: Some(10) };
    let made = stage.app.create_token(&admin(), &request).await.unwrap();
    let actor = stage.app.authenticate(Some(&made.token)).await.unwrap();
    assert_eq!((actor.name, actor.role), (format!("eve ({})", made.id), crate::policy::Role::Viewer));
    let mut forged = made.token.clone();
    let last = if forged.pop() == Some('0') { '1' } else { '0' };
    forged.push(last);
    assert_eq!(
        text(stage.app.authenticate(Some(&forged)).await),
        "the token is not valid (ask an admin for a new one)"
    );
    let join = stage.token(TokenKind::Agent).await;
    assert_eq!(code(stage.app.authenticate(Some(&join)).await), ErrorCode::Unauthenticated);
    assert_eq!(code(stage.app.authenticate(None).await), ErrorCode::Unauthenticated);
    stage.clock.advance(Duration::from_secs(10));
    assert_eq!(
        text(stage.app.authenticate(Some(&made.token)).await),
        "the token has expired (ask an admin for a new one)"
    );

    let lasting = stage.token(TokenKind::Admin).await;
    let id = stage.app.authenticate(Some(&lasting)).await.unwrap().token.unwrap();
    assert_eq!(
        text(stage.app.revoke_token(&admin(), &id).await),
        "this is the last admin token that does not expire (create another one first, or nobody can administer the site)"
    );
    stage.token(TokenKind::Admin).await;
    stage.app.revoke_token(&admin(), &id).await.unwrap();
    assert_eq!(
        text(stage.app.authenticate(Some(&lasting)).await),
        "the token was revoked (ask an admin for a new one)"
    );
    assert_eq!(code(stage.app.revoke_token(&admin(), &id).await), ErrorCode::Conflict);
    assert_eq!(code(stage.app.revoke_token(&admin(), "none").await), ErrorCode::NotFound);
    let shown = format!("{:?} {:?}", stage.app.tokens().await.unwrap(), stage.audit().await);
    assert!(!shown.contains(lasting.rsplit('_').next().unwrap()), "a secret is shown once");
}

#[tokio::test]
async fn the_screen_tells_what_needs_a_person_worst_first() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let alarms = || async { stage.app.status().await.unwrap().alarms };
    assert_eq!(alarms().await, Vec::<String>::new());
    let set =
        |site: &FakeSite, f: &dyn Fn(&mut ServerRuntime)| f(site.world.lock().runtimes.get_mut(&id).unwrap());
    set(&stage.site, &|r| {
        r.health = Health::Lag;
        r.reason = Some("the link is slow".into());
        r.rpo_ms = Some(61_500);
    });
    stage.site.world.lock().space = (90, 1000);
    assert_eq!(
        alarms().await,
        [
            "90 B (9 %) are free for journals; make room, or replication stops when it is full",
            "web-1: replication lags: the link is slow",
            "web-1: the newest recovery point is 61 s old, the limit is 60 s",
        ]
    );
    stage.site.world.lock().agents.clear();
    assert_eq!(
        alarms().await[0],
        "web-1: its agent 'a1' is not connected; see `lifeboat-agent run` on its host"
    );
    stage.clock.advance(AGENT_LIFE);
    assert_eq!(alarms().await[0], "the agent 'a1' has an expired certificate; join it again");
}

#[tokio::test]
async fn a_failed_operation_is_an_alarm_until_a_later_one_goes_well() {
    let stage = Stage::new().await;
    stage.replicating().await;
    stage.site.trouble(Trouble::FailBefore(1));
    let failed = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
    stage.ended(failed.id).await;
    assert_eq!(stage.app.status().await.unwrap().alarms, ["web-1: the drill failed: told to fail"]);
    stage.clock.advance(Duration::from_secs(1));
    let fine = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
    stage.ended(fine.id).await;
    assert_eq!(stage.app.status().await.unwrap().alarms, Vec::<String>::new());
}

use crate::ca::AGENT_LIFE;
