//! Backups through an agent.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backup::session::backup_session;
use crate::backup::tests::Rig;
use crate::listen::Peer;
use crate::sessions::AgentLink;
use lifeboat_api::types::{VaultJob, VaultJobResult, VaultJobState};
use lifeboat_base::limits::{MAX_BACKUP_FRAME, SESSION_SILENCE};
use lifeboat_files::BlobSink;
use lifeboat_files::blob::MemoryBlobs;
use lifeboat_files::exclude::Exclude;
use lifeboat_files::walk::{WalkOptions, walk};
use lifeboat_files::{BlobError, Monitor};
use lifeboat_replicate::message::{BackupResult, BackupSession, BlobRef, Control, Refuse};
use lifeboat_replicate::shell::{read_frame, write_message};
use lifeboat_replicate::wire::{FrameType, decode_message};
use parking_lot::Mutex;
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{mpsc, watch};

/// An agent that says what the test's story needs.
pub(crate) struct Agent {
    pub id: AgentId,
    pub requests: mpsc::Receiver<Control>,
    pub link: Arc<AgentLink>,
}

impl Agent {
    /// Its control session is open.
    pub fn connect(rig: &Rig) -> Self {
        let id = rig.w.agent();
        let (outgoing, requests) = mpsc::channel(8);
        let (end, _) = watch::channel(None);
        let about = ("[::1]:1".to_string(), "1".to_string(), rig.site().clock.wall());
        let link = Arc::new(AgentLink::new(1, about, 7, outgoing, end));
        rig.site().sessions.agents.lock().insert(id, Arc::clone(&link));
        Self { id, requests, link }
    }

    /// The site asks for a backup; says that it comes.
    async fn asked(&mut self) -> u64 {
        let request = self.requests.recv().await.unwrap();
        let Some(control::Body::Backup(backup)) = request.body else { panic!("{request:?}") };
        self.link.answered(request.id, control::Body::BackupResult(BackupResult { error: String::new() }));
        backup.job
    }
}

/// A session; `None` when it was refused.
async fn open(rig: &Rig, agent: AgentId, job: u64, base: Vec<u8>) -> Result<DuplexStream, Refuse> {
    let (mut here, there) = tokio::io::duplex(64 << 10);
    let site = Arc::clone(rig.site());
    let certificate = agent.as_bytes().to_vec();
    let peer = Peer { agent, address: "[::1]:1".parse().unwrap(), certificate };
    tokio::spawn(async move {
        let _ = backup_session(&site, there, &peer, BackupSession { job, base }).await;
    });
    match read_frame(&mut here, MAX_BACKUP_FRAME, SESSION_SILENCE).await.unwrap() {
        (FrameType::Welcome, _) => Ok(here),
        (FrameType::Refuse, body) => Err(decode_message(&body).unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn say(line: &mut (impl AsyncWrite + Unpin), body: backup::Body) {
    write_message(line, FrameType::Backup, &frame(body)).await.unwrap();
}

async fn hear(line: &mut (impl AsyncRead + Unpin)) -> backup::Body {
    loop {
        let (kind, body) = read_frame(line, MAX_BACKUP_FRAME, SESSION_SILENCE).await.unwrap();
        assert_eq!(kind, FrameType::Backup, "{body:?}");
        match BackupFrame::decode(body).unwrap().body.unwrap() {
            backup::Body::Ping(_) => {}
            body => return body,
        }
    }
}

/// Blobs in the order in which they were put.
#[derive(Default)]
struct Ordered(Mutex<Vec<(BlobKind, Hash, bytes::Bytes)>>, MemoryBlobs);

impl BlobSink for Ordered {
    fn has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        self.1.has(kind, hash)
    }

    fn put(&self, kind: BlobKind, hash: Hash, content: bytes::Bytes) -> Result<(), BlobError> {
        self.0.lock().push((kind, hash, content.clone()));
        self.1.put(kind, hash, content)
    }
}

fn walked(rig: &Rig) -> (Ordered, BackupDone) {
    let sink = Ordered::default();
    let options = WalkOptions {
        paths: vec![rig.root()],
        exclude: Exclude::new(&[], &[]).unwrap(),
        one_file_system: false,
        readers: 1,
    };
    let walked = walk(&options, None, &sink, &Monitor::default(), &*rig.w.clock).unwrap();
    let done =
        BackupDone { root: walked.root.as_bytes().to_vec(), files: walked.files, ..BackupDone::default() };
    (sink, done)
}

/// Offers and sends like an agent does; how many blobs were needed.
async fn send_all(line: &mut DuplexStream, sink: &Ordered) -> usize {
    let blobs = sink.0.lock().clone();
    let mut sent = 0;
    for (kind, hash, content) in blobs {
        let tree = kind == BlobKind::Tree;
        let offer = BackupOffer { blobs: vec![BlobRef { hash: hash.as_bytes().to_vec(), tree }] };
        say(line, backup::Body::Offer(offer)).await;
        let backup::Body::Needed(needed) = hear(line).await else { panic!() };
        if !needed.blobs.is_empty() {
            sent += 1;
            say(line, backup::Body::Blob(BackupBlob { tree, content })).await;
        }
    }
    sent
}

struct Story {
    rig: Rig,
    agent: Agent,
}

impl Story {
    fn new() -> Self {
        let rig = Rig::new();
        for n in 0..5u8 {
            std::fs::write(rig.root().join(format!("{n}")), vec![n; 2000]).unwrap();
        }
        let agent = Agent::connect(&rig);
        rig.define(BackupSet { agent: Some(agent.id.to_string()), ..rig.set("remote") });
        Self { rig, agent }
    }

    /// The job, and the line of its session.
    async fn begin(&mut self, base: Vec<u8>) -> (VaultJob, DuplexStream, bool) {
        self.rig.w.clock.advance(Duration::from_secs(60));
        let job = self.rig.site().start_backup("remote").unwrap();
        let number = self.agent.asked().await;
        let mut line = open(&self.rig, self.agent.id, number, base).await.unwrap();
        let backup::Body::Begin(begin) = hear(&mut line).await else { panic!() };
        (job, line, begin.base)
    }

    /// A whole backup, as an agent makes it.
    async fn whole(&mut self, base: Vec<u8>) -> (Vec<u8>, usize, bool) {
        let (job, mut line, base) = self.begin(base).await;
        let (sink, done) = walked(&self.rig);
        let sent = send_all(&mut line, &sink).await;
        let root = done.root.clone();
        say(&mut line, backup::Body::Done(done)).await;
        assert_eq!(hear(&mut line).await, backup::Body::End(BackupEnd::default()));
        let job = self.rig.ended(&job.id).await;
        assert!(matches!(job.result, Some(VaultJobResult::Backup(_))), "{job:?}");
        (root, sent, base)
    }

    async fn failed(&self, job: &VaultJob) -> String {
        let job = self.rig.ended(&job.id).await;
        assert_eq!(job.state, VaultJobState::Failed, "{job:?}");
        job.error.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sends_what_the_vault_lacks_and_builds_on_what_is_proven() {
    let mut story = Story::new();
    let (root, sent, base) = story.whole(Vec::new()).await;
    assert!(!base && sent > 5, "{sent}");
    std::fs::write(story.rig.root().join("new"), "new").unwrap();
    let (newer, sent, base) = story.whole(root.clone()).await;
    assert!(base && newer != root);
    // The new file, and the directories above it; one of which another test may have changed as well.
    assert!((2..=6).contains(&sent), "{sent}");
    // What the agent remembers is not the newest backup's tree: nothing is built on it.
    let (_, _, base) = story.whole(root).await;
    assert!(!base);
    let made = story.rig.site().backups.list(Some("remote")).unwrap();
    assert_eq!(made.len(), 3);
    let path = story.rig.root().join("3").display().to_string();
    let mut content = story.rig.site().backups.content("remote", &path).await.unwrap();
    assert_eq!(content.recv().await.unwrap().unwrap(), vec![3; 2000]);
}

/// Content that the vault lost is sent again from the source, which has it still: the base is not believed to be whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_base_whose_content_was_lost_is_not_built_on() {
    let mut story = Story::new();
    let mut content = vec![0; 200_000];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    std::fs::write(story.rig.root().join("noise"), &content).unwrap();
    let (root, _, _) = story.whole(Vec::new()).await;
    let store = Arc::clone(&story.rig.store);
    let packs = store.names().into_iter().filter(|n| n.as_str().starts_with("packs/"));
    let largest = packs.max_by_key(|n| store.peek(n).unwrap().len()).unwrap();
    assert!(store.remove(&largest));
    story.rig.restart();
    story.agent = Agent::connect(&story.rig);
    story.rig.define(BackupSet { agent: Some(story.agent.id.to_string()), ..story.rig.set("remote") });
    let (job, _first, base) = story.begin(root).await;
    assert!(base);
    let number = story.agent.asked().await;
    let mut line = open(&story.rig, story.agent.id, number, Vec::new()).await.unwrap();
    assert_eq!(hear(&mut line).await, backup::Body::Begin(BackupBegin { base: false }));
    let (sink, done) = walked(&story.rig);
    assert!(send_all(&mut line, &sink).await > 0);
    say(&mut line, backup::Body::Done(done)).await;
    let job = story.rig.ended(&job.id).await;
    assert_eq!(job.state, VaultJobState::Succeeded, "{job:?}");
    let path = story.rig.root().join("noise").display().to_string();
    let mut back = story.rig.site().backups.content("remote", &path).await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = back.recv().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == content);
}

/// Row 35: a stolen credential opens no session nobody asked for, and none that waits for another agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_nobody_asked_for_is_refused_and_noted() {
    let mut story = Story::new();
    let thief = story.rig.w.agent();
    assert!(open(&story.rig, thief, 42, Vec::new()).await.is_err());
    let job = story.rig.site().start_backup("remote").unwrap();
    let number = story.agent.asked().await;
    let refused = open(&story.rig, thief, number, Vec::new()).await.unwrap_err();
    assert_eq!(refused.message, "this site waits for no such backup");
    assert!(story.rig.w.noted("backup.session"));
    let line = open(&story.rig, story.agent.id, number, Vec::new()).await.unwrap();
    assert!(open(&story.rig, story.agent.id, number, Vec::new()).await.is_err(), "once");
    drop(line);
    let error = story.failed(&job).await;
    assert!(error.starts_with("the agent's session ended before the backup did"), "{error}");
    assert!(story.rig.site().backups.list(None).unwrap().is_empty());
}

/// A tree that names what is not here never counts, whoever says so: rows 31 and 35.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_with_holes_is_never_a_backup() {
    let mut story = Story::new();
    for leave_out in [BlobKind::File, BlobKind::Tree] {
        let job = story.rig.site().start_backup("remote").unwrap();
        // It is begun anew, without a base, as often as it may be.
        for _ in 0..3 {
            let number = story.agent.asked().await;
            let mut line = open(&story.rig, story.agent.id, number, Vec::new()).await.unwrap();
            hear(&mut line).await;
            let (sink, _) = walked(&story.rig);
            let blobs = sink.0.lock().clone();
            let skip = blobs.iter().position(|b| b.0 == leave_out).unwrap();
            for (n, (kind, _, content)) in blobs.into_iter().enumerate() {
                if n != skip {
                    let blob = BackupBlob { tree: kind == BlobKind::Tree, content };
                    let message = frame(backup::Body::Blob(blob));
                    // It hangs up in the middle of it.
                    if write_message(&mut line, FrameType::Backup, &message).await.is_err() {
                        break;
                    }
                }
            }
        }
        let error = story.failed(&job).await;
        assert!(error.contains("the tree names content that is not in the vault"), "{error}");
    }
    assert!(story.rig.site().backups.list(None).unwrap().is_empty());
}

/// Content is no directory because the vault has it: a tree has to be looked through before it is one.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_looks_like_a_tree_is_not_taken_as_one() {
    let mut story = Story::new();
    let (job, mut line, _) = story.begin(Vec::new()).await;
    let (sink, done) = walked(&story.rig);
    let root = sink.0.lock().iter().find(|b| b.1.as_bytes() == &done.root[..]).unwrap().2.clone();
    say(&mut line, backup::Body::Blob(BackupBlob { tree: false, content: root })).await;
    let offer = BackupOffer { blobs: vec![BlobRef { hash: done.root.clone(), tree: true }] };
    say(&mut line, backup::Body::Offer(offer)).await;
    assert_eq!(hear(&mut line).await, backup::Body::Needed(BackupNeeded { blobs: vec![0] }));
    say(&mut line, backup::Body::Done(done)).await;
    let error = story.failed(&job).await;
    assert!(error.starts_with("the agent broke the protocol: the root was not sent"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_end_the_backup_with_a_reason() {
    let mut story = Story::new();
    let many = vec![BlobRef { hash: vec![0; 32], tree: false }; BACKUP_OFFER + 1];
    let short = vec![BlobRef { hash: vec![0; 31], tree: false }];
    let hostile = [
        (backup::Body::Offer(BackupOffer { blobs: many }), "an offer is empty or too long"),
        (backup::Body::Offer(BackupOffer { blobs: Vec::new() }), "an offer is empty or too long"),
        (backup::Body::Offer(BackupOffer { blobs: short }), "a hash has the wrong length"),
        (
            backup::Body::Blob(BackupBlob { tree: true, content: bytes::Bytes::from_static(b"no tree") }),
            "it is no tree",
        ),
        (backup::Body::Blob(BackupBlob { tree: false, content: bytes::Bytes::new() }), "a blob of 0 bytes"),
        (backup::Body::Needed(BackupNeeded::default()), "unexpected Needed"),
        (backup::Body::End(BackupEnd { error: "no disk".into() }), "could not make the backup: no disk"),
        (backup::Body::Done(BackupDone::default()), "the root's hash has the wrong length"),
    ];
    for (body, expected) in hostile {
        let (job, mut line, _) = story.begin(Vec::new()).await;
        say(&mut line, body).await;
        let error = story.failed(&job).await;
        assert!(error.contains(expected), "{error}");
    }
    assert!(story.rig.site().backups.list(None).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_there_or_refuses_is_named() {
    let mut story = Story::new();
    let job = story.rig.site().start_backup("remote").unwrap();
    let request = story.agent.requests.recv().await.unwrap();
    let no = control::Body::BackupResult(BackupResult { error: "4 backups are under way".into() });
    story.agent.link.answered(request.id, no);
    assert!(story.failed(&job).await.starts_with("the agent refused: 4 backups are under way"));
    story.rig.site().sessions.agents.lock().clear();
    let job = story.rig.site().start_backup("remote").unwrap();
    assert!(story.failed(&job).await.starts_with("the agent is not connected"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_through_an_agent_can_be_cancelled() {
    let mut story = Story::new();
    let (job, mut line, _) = story.begin(Vec::new()).await;
    story.rig.site().vault.jobs.cancel(&job.id).unwrap();
    let last = hear(&mut line).await;
    assert_eq!(last, backup::Body::End(BackupEnd { error: "it was cancelled".into() }));
    assert_eq!(story.rig.ended(&job.id).await.state, VaultJobState::Cancelled);
}

/// What a person ended does not begin again by itself before it is due the next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_due_backup_that_was_cancelled_is_over_until_the_next() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut story = Story::new();
    let agent = Some(story.agent.id.to_string());
    let nightly = BackupSet { agent, schedule: Some("0 3 * * *".into()), ..story.rig.set("remote") };
    story.rig.define(nightly.clone());
    story.rig.w.clock.advance(24 * HOUR);
    let due = |rig: &Rig| {
        rig.site().start_due_backups();
        rig.site().vault.jobs.list().len()
    };
    assert_eq!(due(&story.rig), 1);
    let number = story.agent.asked().await;
    let mut line = open(&story.rig, story.agent.id, number, Vec::new()).await.unwrap();
    let job = story.rig.site().vault.jobs.list()[0].id.clone();
    story.rig.site().vault.jobs.cancel(&job).unwrap();
    while !matches!(hear(&mut line).await, backup::Body::End(_)) {}
    assert_eq!(story.rig.ended(&job).await.state, VaultJobState::Cancelled);
    story.rig.w.clock.advance(HOUR);
    assert_eq!(due(&story.rig), 1, "no other one");
    story.rig.restart();
    story.rig.define(nightly);
    assert_eq!(due(&story.rig), 0, "nor after a restart");
    story.rig.w.clock.advance(24 * HOUR);
    assert_eq!(due(&story.rig), 1);
}
