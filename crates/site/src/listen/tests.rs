#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{PATIENCE, Wire, World, announce, barrier, data};
use lifeboat_api::port::SitePort;
use lifeboat_api::types::{ErrorCode, Health, ReplicationMode, VerifyState};
use lifeboat_replicate::message::{DiskRange, StreamSession, SyncState, VerifyReport};
use lifeboat_replicate::shell::write_message;
use std::net::{IpAddr, Ipv4Addr};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex};

fn peer(agent: AgentId, instance: u64) -> (Peer, Hello) {
    let host = Ipv4Addr::new(10, 0, 0, instance as u8);
    let peer = Peer {
        agent,
        address: SocketAddr::new(IpAddr::V4(host), 1000),
        certificate: agent.as_bytes().to_vec(),
    };
    (peer, Hello { version: VERSION, instance, agent_version: "1".into(), session: None })
}

/// Serves a stream session of process `instance` of `agent`.
pub(crate) async fn stream(
    site: &Arc<Site>,
    stream: DuplexStream,
    agent: AgentId,
    instance: u64,
    session: StreamSession,
) {
    let (peer, hello) = peer(agent, instance);
    let _ = super::stream::stream_session(site, stream, &peer, &hello, session).await;
}

/// A control session from the agent's side.
pub(crate) struct Agent {
    pub reader: ReadHalf<DuplexStream>,
    pub writer: WriteHalf<DuplexStream>,
}

impl Agent {
    /// Connects; the first assignments are taken.
    pub(crate) async fn connect(site: &Arc<Site>, agent: AgentId, instance: u64) -> Result<Self, Refuse> {
        let (near, far) = duplex(1 << 20);
        let site = Arc::clone(site);
        tokio::spawn(async move {
            let (peer, hello) = peer(agent, instance);
            control_session(&site, far, &peer, &hello).await
        });
        let (mut reader, writer) = tokio::io::split(near);
        let (kind, body) = read_frame(&mut reader, MAX_FRAME, PATIENCE).await.unwrap();
        if kind == FrameType::Refuse {
            return Err(decode_message(&body).unwrap());
        }
        let mut agent = Self { reader, writer };
        agent.next(|b| matches!(b, control::Body::Assignments(_))).await;
        Ok(agent)
    }

    /// The next message of a kind.
    pub(crate) async fn next(&mut self, wanted: impl Fn(&control::Body) -> bool) -> Control {
        loop {
            let (_, body) = read_frame(&mut self.reader, MAX_FRAME, PATIENCE).await.unwrap();
            let message: Control = decode_message(&body).unwrap();
            if message.body.as_ref().is_some_and(&wanted) {
                return message;
            }
        }
    }

    pub(crate) async fn say(&mut self, id: u64, body: control::Body) {
        let message = Control { id, body: Some(body) };
        write_message(&mut self.writer, FrameType::Control, &message).await.unwrap();
    }

    pub(crate) async fn report(&mut self, server: ServerId, report: ServerReport) {
        let report =
            ServerReport { server: server.as_bytes().to_vec(), capture: "attached".into(), ..report };
        self.say(0, control::Body::Report(Report { servers: vec![report] })).await;
    }
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

/// Failure 21: two that are alive at once are an alarm; one that only lingers is not.
#[tokio::test]
async fn two_agents_with_one_identity_are_refused_and_seen() {
    let w = World::new();
    let agent = w.agent();
    let spec = w.spec("web-1", agent, 1);
    w.site.ensure_server(&spec).await.unwrap();
    let mut first = Agent::connect(&w.site, agent, 1).await.unwrap();
    let mut line = Wire::hello(&w.site, agent, spec.id, (1, 1), &[]).await.unwrap();
    let last = line.send(1, &[announce(), data(0, 1, 512), barrier()]).await;
    line.acked(last).await;
    let reason = || w.site.runtime(spec.id).unwrap().reason.unwrap_or_default();

    let refused = Agent::connect(&w.site, agent, 2).await.err().unwrap();
    assert_eq!(refused.code, RefuseCode::Busy as i32);
    assert!(!reason().contains("two agents"), "the first may be gone: {}", reason());
    w.clock.advance(Duration::from_secs(2));
    first.report(spec.id, ServerReport::default()).await;
    until("a clash is seen", || w.noted("two agents with one identity are alive")).await;
    assert!(reason().contains("at 10.0.0.1 and at 10.0.0.2"), "{}", reason());
    assert_eq!(w.site.runtime(spec.id).unwrap().health, Health::Lag);

    let no = Wire::hello(&w.site, agent, spec.id, (2, 1), &[]).await.err().unwrap();
    assert_eq!(no.code, RefuseCode::Busy);
    let last = line.send(2, &[data(512, 2, 512), barrier()]).await;
    line.acked(last).await;
    w.clock.advance(Duration::from_secs(3601));
    assert!(!reason().contains("two agents"), "an hour later: {}", reason());
}

/// Failures 13 and 21: an agent of another name.
#[tokio::test]
async fn a_server_of_another_agent_is_refused_noted_and_seen() {
    let w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    w.site.ensure_server(&spec).await.unwrap();
    let stranger = w.agent();
    for epoch in [1, 2] {
        let no = Wire::hello(&w.site, stranger, spec.id, (7, epoch), &[]).await.err().unwrap();
        assert_eq!(no.code, RefuseCode::NotAssigned);
    }
    assert!(w.noted("stream.refused web-1 refused"));
    let _agent = Agent::connect(&w.site, spec.agent, 1).await.unwrap();
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    let last = line.send(1, &[announce(), barrier()]).await;
    line.acked(last).await;
    assert!(w.site.runtime(spec.id).unwrap().reason.unwrap().contains("does not own this server"));
}

#[tokio::test]
async fn synchronous_mode_is_shown_and_its_changes_are_audited() {
    let w = World::new();
    let mut spec = w.spec("web-1", w.agent(), 1);
    spec.replication.mode = ReplicationMode::Sync;
    w.site.ensure_server(&spec).await.unwrap();
    let mut agent = Agent::connect(&w.site, spec.agent, 1).await.unwrap();
    let states = [
        (SyncState::Synchronous, ""),
        (SyncState::Blocked, "sync.blocked web-1"),
        (SyncState::Degraded, "sync.degraded web-1"),
        (SyncState::NotYet, ""),
        (SyncState::Synchronous, "sync.restored web-1"),
    ];
    for (n, (state, note)) in states.into_iter().enumerate() {
        let at = n as u64 + 1;
        let report = ServerReport { sync_state: state as i32, hashed_bytes: at, ..ServerReport::default() };
        agent.report(spec.id, report).await;
        until("the report", || w.site.runtime(spec.id).unwrap().hashed_bytes == at).await;
        assert!(note.is_empty() || w.noted(note), "{note}");
    }
    assert_eq!(w.control.0.lock().iter().filter(|n| n.starts_with("sync.")).count(), 3);
    assert!(w.site.runtime(spec.id).unwrap().sync_mode.is_some());
    // What nobody could tell while it lasted is told once, and shown.
    for at in 10..13 {
        let (degraded_from, degraded_until) = (1_000_000_000, 2_000_000_000);
        let sync_state = SyncState::Synchronous as i32;
        let report = ServerReport {
            sync_state,
            hashed_bytes: at,
            degraded_from,
            degraded_until,
            ..Default::default()
        };
        agent.report(spec.id, report).await;
        until("the report", || w.site.runtime(spec.id).unwrap().hashed_bytes == at).await;
    }
    let told = w.control.0.lock().iter().filter(|n| n.starts_with("sync.degraded")).count();
    assert_eq!(told, 2);
}

#[tokio::test]
async fn a_comparison_is_asked_for_told_and_leads_to_a_point() {
    let mut w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    w.site.ensure_server(&spec).await.unwrap();
    assert!(w.site.verify(spec.id, 0).await.is_err(), "no agent");
    let mut agent = Agent::connect(&w.site, spec.agent, 1).await.unwrap();
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    let first = line.send(1, &[announce(), barrier()]).await;
    line.acked(first).await;
    w.site.verify(spec.id, 123).await.unwrap();
    let asked = agent.next(|b| matches!(b, control::Body::Verify(_))).await;
    let Some(control::Body::Verify(asked)) = asked.body else { panic!("no request") };
    assert_eq!((asked.server.as_slice(), asked.rate), (&spec.id.as_bytes()[..], 123));
    let status = |w: &World| w.site.runtime(spec.id).unwrap().verify.unwrap();
    assert_eq!(status(&w).state, VerifyState::Running);

    let different = vec![DiskRange { disk: 0, offset: 65536, len: 65536 }];
    let over = VerifyReport {
        id: asked.id,
        total_bytes: 10,
        done_bytes: 10,
        over: true,
        different_bytes: 65536,
        different,
        ..VerifyReport::default()
    };
    agent.report(spec.id, ServerReport { verify: Some(over), ..ServerReport::default() }).await;
    until("the verdict", || status(&w).state == VerifyState::Different).await;
    assert!(w.noted("verify.different web-1 found: 64.0 KiB differed and were sent anew: disk0 65536+65536"));
    let cell = w.site.cell(spec.id).unwrap();
    w.site.watch(&cell);
    assert_eq!(status(&w).point, None, "no barrier came since");
    let next = line.send(2, &[data(0, 1, 512), barrier()]).await;
    line.acked(next).await;
    w.site.watch(&cell);
    assert_eq!(status(&w).point.unwrap().seq, next);
    drop(cell);
    let before = status(&w);
    w.restart(&spec).await;
    assert_eq!(status(&w), before, "kept over a restart");
}

/// Control and a person may assert the same server at once; each is answered.
#[tokio::test(flavor = "multi_thread")]
async fn assertions_of_one_server_at_once_do_not_take_each_others_file_away() {
    let w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    for round in 0..20u64 {
        let told = (0..8u64).map(|n| {
            let (site, mut spec) = (w.site.clone(), spec.clone());
            spec.window.seconds = 3600 + round * 8 + n;
            tokio::spawn(async move { site.ensure_server(&spec).await })
        });
        for answer in told.collect::<Vec<_>>() {
            answer.await.unwrap().unwrap();
        }
    }
}

/// Who asks right after a start, or for a journal that cannot be opened, hears that and no less.
#[tokio::test]
async fn a_server_that_is_not_open_says_why() {
    let w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    w.site.ensure_server(&spec).await.unwrap();
    let cell = w.site.cells.write().remove(&spec.id).unwrap();
    cell.stop().await;
    drop(cell);
    let e = w.site.check_journal(spec.id, false).await.unwrap_err();
    assert!(e.code == ErrorCode::Unavailable && e.message.contains("not open yet"), "{e}");
    let journal = w.site.server_dir(spec.id).join("journal");
    for entry in std::fs::read_dir(&journal).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("manifest") {
            std::fs::write(entry.path(), b"rot").unwrap();
        }
    }
    let opening = w.site.ensure_server(&spec).await.unwrap_err();
    let e = w.site.check_journal(spec.id, false).await.unwrap_err();
    assert_eq!(e.message, opening.message);
    assert!(e.message.contains("manifest"), "{e}");
    let _ = w.site.forget_server(spec.id).await;
    assert_eq!(w.site.check_journal(spec.id, false).await.unwrap_err().code, ErrorCode::NotFound);
}

/// I1: a host that was put back from an older state has tracking that does not know what was sent since.
#[tokio::test]
async fn tracking_older_than_the_newest_point_is_not_believed() {
    const SECOND: u64 = 1_000_000_000;
    let w = World::new();
    let spec = w.spec("web-1", w.agent(), 1);
    w.site.ensure_server(&spec).await.unwrap();
    let mut line = Wire::hello(&w.site, spec.agent, spec.id, (1, 1), &[]).await.unwrap();
    let last = line.send(1000 * SECOND, &[announce(), data(0, 1, 4096), barrier()]).await;
    line.acked(last).await;
    drop(line);
    for (process, alive, follows) in [(2, 990 * SECOND, true), (3, 900 * SECOND, false), (4, 0, true)] {
        let hello = || Wire::hello_by(&w.site, spec.agent, spec.id, (process, 1), (&[1], alive));
        // The session before may still be on its way out.
        let mut said = hello().await;
        while said.is_err() {
            tokio::task::yield_now().await;
            said = hello().await;
        }
        assert_eq!(said.ok().unwrap().welcome.follows, follows, "alive at {alive}");
    }
}
