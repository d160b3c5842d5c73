//! Restores to an agent's host: the site's half, against an agent that says what the test's story needs.
#![allow(clippy::unwrap_used)]

use super::session::restore_session;
use super::*;
use crate::backup::remote::tests::Agent;
use crate::backup::tests::{Rig, request};
use crate::listen::Peer;
use lifeboat_api::types::VaultJobState;
use lifeboat_base::limits::{MAX_BACKUP_FRAME, SESSION_SILENCE};
use lifeboat_replicate::message::restore::{RestoreResult, RestoreSession};
use lifeboat_replicate::message::{BlobRef, Refuse};
use lifeboat_replicate::shell::{read_frame, write_message};
use lifeboat_replicate::wire::{FrameType, decode_message};
use prost::Message;
use tokio::io::DuplexStream;

struct Story {
    rig: Rig,
    agent: Agent,
    target: tempfile::TempDir,
}

/// Answers of a site as they come.
struct Far(DuplexStream);

impl Far {
    async fn say(&mut self, body: Body) {
        write_message(&mut self.0, FrameType::Restore, &frame(body)).await.unwrap();
    }

    async fn hear(&mut self) -> Body {
        loop {
            let (kind, body) = read_frame(&mut self.0, MAX_BACKUP_FRAME, SESSION_SILENCE).await.unwrap();
            assert_eq!(kind, FrameType::Restore, "{body:?}");
            match RestoreFrame::decode(body).unwrap().body.unwrap() {
                Body::Ping(_) => {}
                body => return body,
            }
        }
    }

    async fn get(&mut self, tree: bool, hash: &Hash) -> RestoreBlob {
        let blobs = vec![BlobRef { hash: hash.as_bytes().to_vec(), tree }];
        self.say(Body::Get(RestoreGet { blobs })).await;
        match self.hear().await {
            Body::Blob(blob) => blob,
            other => panic!("{other:?}"),
        }
    }
}

impl Story {
    async fn new() -> Self {
        let rig = Rig::new();
        for n in 0..5u8 {
            std::fs::write(rig.root().join(format!("{n}")), vec![n; 2000]).unwrap();
        }
        rig.define(rig.set("home"));
        rig.back_up("home").await;
        let agent = Agent::connect(&rig);
        Self { rig, agent, target: tempfile::tempdir().unwrap() }
    }

    fn request(&self) -> RestoreRequest {
        RestoreRequest { agent: Some(self.agent.id.to_string()), ..request("home", self.target.path()) }
    }

    fn start(&self) -> VaultJob {
        self.rig.site().start_restore(self.request()).unwrap()
    }

    /// The site asks; what this agent says to it.
    async fn asked(&mut self, error: &str) -> Restore {
        let message = self.agent.requests.recv().await.unwrap();
        let Some(control::Body::Restore(restore)) = message.body else { panic!("{message:?}") };
        let result = RestoreResult { error: error.into() };
        self.agent.link.answered(message.id, control::Body::RestoreResult(result));
        restore
    }

    async fn open(&self, agent: AgentId, job: u64) -> Result<Far, Refuse> {
        let (mut here, there) = tokio::io::duplex(64 << 10);
        let site = Arc::clone(self.rig.site());
        let certificate = agent.as_bytes().to_vec();
        let peer = Peer { agent, address: "[::1]:1".parse().unwrap(), certificate };
        tokio::spawn(async move {
            let _ = restore_session(&site, there, &peer, RestoreSession { job }).await;
        });
        match read_frame(&mut here, MAX_BACKUP_FRAME, SESSION_SILENCE).await.unwrap() {
            (FrameType::Welcome, _) => Ok(Far(here)),
            (FrameType::Refuse, body) => Err(decode_message(&body).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    async fn begin(&mut self) -> (VaultJob, Far, Hash) {
        let job = self.start();
        let restore = self.asked("").await;
        let line = self.open(self.agent.id, restore.job).await.unwrap();
        (job, line, Hash::from_bytes(restore.root[..].try_into().unwrap()))
    }

    async fn failed(&self, job: &VaultJob) -> String {
        let job = self.rig.ended(&job.id).await;
        assert_eq!(job.state, VaultJobState::Failed, "{job:?}");
        job.error.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_given_the_blobs_of_the_backup_and_its_result_counts() {
    let mut story = Story::new().await;
    let job = story.start();
    let restore = story.asked("").await;
    let told: RestoreRequest = serde_json::from_str(&restore.request).unwrap();
    assert_eq!(told, RestoreRequest { agent: None, ..story.request() });
    let mut line = story.open(story.agent.id, restore.job).await.unwrap();
    let root = Hash::from_bytes(restore.root[..].try_into().unwrap());
    let blob = line.get(true, &root).await;
    assert_eq!((blake3::hash(&blob.content), blob.missing, &blob.error[..]), (root, false, ""));
    let content = vec![3; 2000];
    let hash = blake3::hash(&content);
    assert_eq!(line.get(false, &hash).await.content, content);
    let nothing = line.get(false, &blake3::hash(b"not there")).await;
    assert!(nothing.missing && nothing.content.is_empty());
    // Many at a time, in any order.
    let blobs = vec![BlobRef { hash: hash.as_bytes().to_vec(), tree: false }; RESTORE_GET];
    for _ in 0..4 {
        line.say(Body::Get(RestoreGet { blobs: blobs.clone() })).await;
    }
    for _ in 0..4 * RESTORE_GET {
        assert!(matches!(line.hear().await, Body::Blob(b) if b.content == content));
    }
    assert!(!story.rig.site().backups.in_use().is_empty(), "the backup stays meanwhile");
    let done = RestoreDone {
        files: 5,
        bytes: 10_000,
        verified: 4,
        problems: vec!["/x: its owner cannot be set".into()],
        problem_count: 1,
    };
    line.say(Body::Done(done)).await;
    assert_eq!(line.hear().await, Body::End(BackupEnd::default()));
    let job = story.rig.ended(&job.id).await;
    let Some(VaultJobResult::Restore(report)) = &job.result else { panic!("{job:?}") };
    assert_eq!((report.files, report.verified, report.error_count), (5, 4, 1));
    assert_eq!(report.errors, ["/x: its owner cannot be set"]);
    assert!(story.rig.site().backups.in_use().is_empty());
}

/// Row 35: a stolen credential opens no session nobody asked for, and nothing is given once the job has ended.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_given_only_to_the_agent_that_was_asked_and_only_meanwhile() {
    let mut story = Story::new().await;
    let thief = story.rig.w.agent();
    assert!(story.open(thief, 42).await.is_err());
    let job = story.start();
    let number = story.asked("").await.job;
    let refused = story.open(thief, number).await.map(drop).unwrap_err();
    assert_eq!(refused.message, "this site waits for no such restore");
    assert!(story.rig.w.noted("backup.restore-session"));
    let mut line = story.open(story.agent.id, number).await.unwrap();
    assert!(story.open(story.agent.id, number).await.is_err(), "once");
    line.say(Body::Done(RestoreDone::default())).await;
    assert_eq!(line.hear().await, Body::End(BackupEnd::default()));
    story.rig.ended(&job.id).await;
    let (kind, _) = read_frame(&mut line.0, MAX_BACKUP_FRAME, SESSION_SILENCE).await.unwrap();
    assert_eq!(kind, FrameType::Refuse, "the session is over");
    assert!(story.open(story.agent.id, number).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_end_the_restore_with_a_reason() {
    let mut story = Story::new().await;
    let blob = |len: usize| BlobRef { hash: vec![0; len], tree: false };
    let hostile = [
        (Body::Get(RestoreGet { blobs: vec![blob(32); RESTORE_GET + 1] }), "a request is empty or too long"),
        (Body::Get(RestoreGet::default()), "a request is empty or too long"),
        (Body::Get(RestoreGet { blobs: vec![blob(31)] }), "a hash has the wrong length"),
        (Body::Blob(RestoreBlob::default()), "an unexpected blob"),
        (Body::Ping(true), "an unexpected ping"),
        (Body::End(BackupEnd { error: "no room".into() }), "the agent could not restore: no room"),
    ];
    for (body, expected) in hostile {
        let (job, mut line, _) = story.begin().await;
        line.say(body).await;
        let error = story.failed(&job).await;
        assert!(error.contains(expected), "{error}");
        let Body::End(end) = line.hear().await else { panic!() };
        assert!(end.error.contains(expected), "{end:?}");
    }
}

/// An agent that asks and does not take the answers: what is read for it stays bounded, and it is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_for_too_much_is_told() {
    let mut story = Story::new().await;
    let (job, mut line, root) = story.begin().await;
    let blobs = vec![BlobRef { hash: root.as_bytes().to_vec(), tree: true }; RESTORE_GET];
    let get = Body::Get(RestoreGet { blobs });
    let much =
        async { while write_message(&mut line.0, FrameType::Restore, &frame(get.clone())).await.is_ok() {} };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), much).await;
    // The end does not wait for who takes nothing.
    let error = story.failed(&job).await;
    assert!(error.contains("it asks for too much at a time"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_says_what_to_do() {
    let mut story = Story::new().await;
    let (job, line, _) = story.begin().await;
    drop(line);
    let error = story.failed(&job).await;
    assert!(
        error.starts_with("the agent's session ended before the restore did; what is written stays"),
        "{error}"
    );
    assert!(error.contains("restore again, with --overwrite"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_through_an_agent_can_be_cancelled() {
    let mut story = Story::new().await;
    let (job, mut line, _) = story.begin().await;
    let again = story.rig.site().start_restore(story.request()).unwrap_err();
    assert_eq!(again.code, ErrorCode::Conflict, "one at a time to one place");
    story.rig.site().vault.jobs.cancel(&job.id).unwrap();
    let Body::End(end) = line.hear().await else { panic!() };
    assert_eq!(end.error, "it was cancelled; what is written stays");
    assert_eq!(story.rig.ended(&job.id).await.state, VaultJobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_refuses_or_is_not_there_is_named() {
    let mut story = Story::new().await;
    let job = story.start();
    story.asked("nothing is restored to this host").await;
    assert_eq!(story.failed(&job).await, "the agent refused: nothing is restored to this host");
    let relative = RestoreRequest { target: "x".into(), ..story.request() };
    let job = story.rig.site().start_restore(relative).unwrap();
    assert!(story.failed(&job).await.contains("name a directory of the agent's host"));
    // An older one that does not know the request says as little as one that is gone.
    let Story { agent, .. } = &mut story;
    agent.requests.close();
    let job = story.start();
    let error = story.failed(&job).await;
    assert_eq!(
        error,
        "the agent does not answer (it may be older than this site: bring both to one version)"
    );
    story.rig.site().sessions.agents.lock().clear();
    let job = story.start();
    assert!(story.failed(&job).await.starts_with("the agent is not connected"));
}
