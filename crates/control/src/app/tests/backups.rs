//! Restores: who may ask for them, and where they go. Backups that are deleted.

use super::{code, text};
use crate::fake::{FakeVault, Stage, admin};
use crate::policy::{Actor, Role};
use lifeboat_api::types::*;

fn restore(backup: &str, target: &str, agent: Option<&str>) -> VaultJobRequest {
    VaultJobRequest::Restore(RestoreRequest {
        backup: backup.into(),
        paths: Vec::new(),
        target: target.into(),
        agent: agent.map(Into::into),
        overwrite: true,
        verify: false,
    })
}

#[tokio::test]
async fn a_restore_to_an_agents_host_is_an_admins_named_and_audited() {
    let stage = Stage::new().await;
    let id = stage.agent("web").await;
    stage.agent("gone").await;
    stage.app.revoke_agent(&admin(), "gone").await.unwrap();
    stage.site.vault.ready();
    let agents = FakeVault::backup("aaaa0000", "home", Some(&id.to_string()));
    stage.site.vault.0.lock().backups = vec![agents, FakeVault::backup("bbbb0000", "etc", None)];
    let anna = admin();
    let start = |job: VaultJobRequest| stage.app.start_job(&anna, job);

    let otto = Actor { name: "otto (t2)".into(), role: Role::Operator, token: Some("t2".into()) };
    let asked = restore("aaaa0000", "/", Some("web"));
    assert_eq!(code(stage.app.start_job(&otto, asked.clone()).await), ErrorCode::Forbidden);
    assert_eq!(code(start(restore("aaaa0000", "/", Some("nobody"))).await), ErrorCode::NotFound);
    assert_eq!(
        text(start(restore("aaaa0000", "/x", Some("gone"))).await),
        "the agent 'gone' was revoked (join it again with a new join token)"
    );
    for target in ["srv", "/.", "/srv/..", "/srv/./x"] {
        assert_eq!(
            code(start(restore("aaaa0000", target, Some("web"))).await),
            ErrorCode::Invalid,
            "{target}"
        );
        assert_eq!(code(start(restore("aaaa0000", target, None)).await), ErrorCode::Invalid, "{target}");
    }
    let over = text(start(restore("aaaa0000", "/", None)).await);
    assert!(over.contains("host of agent 'web'") && over.contains("--agent NAME"), "{over}");
    assert!(stage.app.jobs().await.unwrap().is_empty(), "what is refused changes nothing");

    let job = start(asked).await.unwrap();
    assert_eq!(job.subject, "aaaa0000 to / on web");
    assert_eq!(stage.site.vault.0.lock().jobs[0].subject, format!("aaaa0000 to / on {id}"));
    assert_eq!(stage.app.job(&job.id).await.unwrap().subject, job.subject);
    assert_eq!(stage.app.jobs().await.unwrap()[0].subject, job.subject);
    let entry = stage.store.audit(1, None).await.unwrap().remove(0);
    assert_eq!((entry.action.as_str(), entry.target.as_str()), ("backup.restore", "aaaa0000"));
    assert_eq!(entry.detail, "job j1; everything to / on the host of agent 'web', replacing what is there");
    // Of the site's own host to an agent's, and the other way round.
    start(restore("bbbb0000", "/", Some("web"))).await.unwrap();
    start(restore("aaaa0000", "/srv/web", None)).await.unwrap();
    stage.sound().await;
}

/// What the newest of a set is may change between looking and deleting.
#[tokio::test]
async fn a_backup_is_deleted_by_its_id_only() {
    let stage = Stage::new().await;
    stage.site.vault.ready();
    let both =
        vec![FakeVault::backup("aaaa0000bbbb", "www", None), FakeVault::backup("cccc0000dddd", "www", None)];
    stage.site.vault.0.lock().backups.clone_from(&both);
    let refused = stage.app.delete_backup(&admin(), "www").await;
    assert_eq!(
        text(refused),
        "'www' is no id of a backup, and what it names may be another one soon (delete it by its id: aaaa0000)"
    );
    assert_eq!(stage.site.vault.0.lock().backups, both, "what is refused changes nothing");
    stage.app.delete_backup(&admin(), "AAAA0000").await.unwrap();
    stage.app.delete_backup(&admin(), "cccc0000dddd").await.unwrap();
    assert!(stage.site.vault.0.lock().backups.is_empty());
    stage.sound().await;
}
