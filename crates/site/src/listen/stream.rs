//! Stream sessions: who may send a server's writes, and where they go.

use super::{KEEPALIVE, OUTGOING, Peer, end_of, judge, refuse, send, two_agents};
use crate::Site;
use crate::server::{Job, No, ServerCell, SessionOut};
use crate::sessions::{Key, Listed, StreamLink, Target};
use lifeboat_base::limits::{BLOCK, MAX_FRAME, SESSION_SILENCE, SITE_QUEUE};
use lifeboat_base::{AgentId, Epoch, ServerId};
use lifeboat_replicate::message::{Hello, RefuseCode, StreamSession};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::shell::{ShellError, read_frame};
use lifeboat_replicate::wire::{Ack, Answer, FrameType, Offer, Ping, decode_records, message_frame};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// What an agent may write.
enum Right {
    /// The line: it owns the server in the present epoch.
    Line,
    /// A branch: it owned the server in an epoch that is over.
    Branch,
}

/// Whether this agent may send this server's writes, and where they go.
fn may_stream(site: &Site, agent: AgentId, s: &StreamSession) -> Result<(Arc<ServerCell>, Right), No> {
    let not_assigned = || No::new(RefuseCode::NotAssigned, "this server is not assigned to this agent");
    let id = ServerId::from_slice(&s.server).map_err(|_| not_assigned())?;
    let cell = site.cell(id).ok_or_else(not_assigned)?;
    let (name, owner, epoch, active) = {
        let spec = cell.spec.read();
        (spec.name.clone(), spec.agent, spec.epoch, spec.active)
    };
    let stale = Epoch(s.epoch) < epoch;
    let owner = if stale { site.owner_then(id, Epoch(s.epoch)).unwrap_or(owner) } else { owner };
    if owner != agent {
        let text = format!("agent {agent} does not own this server");
        site.note_often("stream.refused", &name, "refused", &text);
        site.trouble(&cell, format!("{text}, but wants to send its writes; it is refused"));
        return Err(not_assigned());
    }
    if stale {
        return Ok((cell, Right::Branch));
    }
    if Epoch(s.epoch) != epoch {
        let text = format!("epoch {} has not begun; the site is at epoch {epoch}", s.epoch);
        return Err(No::new(RefuseCode::StaleEpoch, text));
    }
    if !active {
        return Err(No::new(RefuseCode::NotAssigned, "replication of this server is stopped"));
    }
    Ok((cell, Right::Line))
}

/// An agent that sends shows a sign of life in its tracking far more often than this.
const OLD_TRACKING: Duration = Duration::from_secs(60);

pub(super) async fn stream_session(
    site: &Arc<Site>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: &Peer,
    hello: &Hello,
    s: StreamSession,
) -> Result<(), ShellError> {
    let agent = peer.agent;
    let (cell, target) = match find_target(site, agent, hello.instance, &s).await {
        Ok(t) => t,
        Err(no) => return refuse(&mut stream, &no).await,
    };
    let session = site.sessions.next_id();
    let (end, ended) = watch::channel(None);
    let rival = Arc::default();
    let other = {
        let mut streams = site.sessions.streams.lock();
        let other =
            streams.get(&target).filter(|(_, l)| l.instance != hello.instance).map(|(_, l)| l.rival.clone());
        if other.is_none() {
            let link =
                StreamLink { agent, instance: hello.instance, rival: Arc::clone(&rival), end: end.clone() };
            if let Some((_, old)) = streams.insert(target.clone(), (session, link)) {
                old.end.send_replace(Some(No::new(RefuseCode::Busy, "a newer session took over")));
            }
        }
        other
    };
    if let Some(other) = other {
        other.challenged(site.clock.monotonic(), peer.address.ip().to_string());
        let no = No::new(RefuseCode::Busy, "another agent process sends this server's writes now");
        return refuse(&mut stream, &no).await;
    }
    let key = Key::Stream(target.clone());
    let listed = Listed { sessions: &site.sessions, session, key };
    let judgement = || peer.admitted(site).and_then(|()| may_go_on(site, agent, &s, &target));
    let opening = Opening {
        session,
        instance: hello.instance,
        lineage: believed(&cell, &s),
        epoch: Epoch(s.epoch),
        disks: s.disks.clone(),
    };
    let heard = || {
        if let Some(there) = rival.heard(site.clock.monotonic()) {
            two_agents(site, agent, &peer.address.ip().to_string(), &there);
        }
    };
    let result = admitted_stream(&cell, stream, opening, (end, ended), (judgement, heard)).await;
    drop(listed);
    let _ = cell.jobs.send(Job::Close { session }).await;
    result
}

/// Whose tracking this one's is. Nobody's, when its last sign of life is long before a point that is here: then its host was put
/// back from an older state, and it does not know what it sent since.
fn believed(cell: &ServerCell, s: &StreamSession) -> Vec<u64> {
    let newest = cell.reader.usage().newest.map_or(0, |p| p.source_time.0);
    let late = u64::try_from(OLD_TRACKING.as_nanos()).unwrap_or(u64::MAX);
    if s.alive > 0 && s.alive.saturating_add(late) < newest {
        tracing::warn!(
            server = cell.spec.read().name,
            "the agent's tracking is older than what is here: all is compared"
        );
        return Vec::new();
    }
    s.lineage.clone()
}

/// What this session writes: the line's journal, or a branch's, which is begun when there is none.
async fn find_target(
    site: &Arc<Site>,
    agent: AgentId,
    instance: u64,
    s: &StreamSession,
) -> Result<(Arc<ServerCell>, Target), No> {
    let (line, right) = may_stream(site, agent, s)?;
    let server = line.spec.read().id;
    let Right::Branch = right else { return Ok((line, (server, None))) };
    let (site, epoch, lineage) = (Arc::clone(site), Epoch(s.epoch), s.lineage.clone());
    let found = tokio::task::spawn_blocking(move || site.branch_for(&line, epoch, instance, &lineage)).await;
    let died = |e| Err(No::new(RefuseCode::Storage, format!("an internal task died: {e}")));
    let branch = found.unwrap_or_else(died)?;
    let cell = branch.cell.clone().ok_or_else(|| {
        No::new(RefuseCode::Storage, format!("branch {} cannot be opened", branch.about.id))
    })?;
    Ok((cell, (server, Some(branch.about.id.clone()))))
}

/// Whether a session may still write what it writes.
fn may_go_on(site: &Site, agent: AgentId, s: &StreamSession, target: &Target) -> Result<(), No> {
    let (line, right) = may_stream(site, agent, s)?;
    match (right, &target.1) {
        (Right::Line, None) => Ok(()),
        (Right::Branch, Some(_)) => site.room_for_branches(&line),
        // Another epoch has begun meanwhile.
        (Right::Branch | Right::Line, _) => {
            let text = format!("epoch {} is over", s.epoch);
            site.note_often("stream.stale-epoch", &line.spec.read().name, "refused", &text);
            Err(No::new(RefuseCode::StaleEpoch, text))
        }
    }
}

/// What a stream begins with.
struct Opening {
    session: u64,
    instance: u64,
    lineage: Vec<u64>,
    epoch: Epoch,
    disks: Vec<lifeboat_replicate::message::Disk>,
}

async fn admitted_stream(
    cell: &Arc<ServerCell>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    opening: Opening,
    (end, mut ended): (watch::Sender<Option<No>>, watch::Receiver<Option<No>>),
    (judgement, heard): (impl Fn() -> Result<(), No>, impl Fn()),
) -> Result<(), ShellError> {
    let Opening { session, instance, lineage, epoch, disks } = opening;
    let (acks, mut acked) = watch::channel(Ack::default());
    let (answers, mut answer_queue) = mpsc::channel::<Answer>(OUTGOING);
    let out = SessionOut { acks, answers, end };
    let (reply, opened) = oneshot::channel();
    let job = Job::Open { session, instance, lineage, epoch, disks, out, reply };
    let opened = match cell.jobs.send(job).await {
        Ok(()) => opened.await.ok(),
        Err(_) => None,
    };
    let no_worker = || No::new(RefuseCode::Shutdown, "the site goes down");
    let (welcome, mut receiver) = match opened.unwrap_or_else(|| Err(no_worker())) {
        Ok(o) => o,
        Err(no) => return refuse(&mut stream, &no).await,
    };
    send(&mut stream, &message_frame(FrameType::Welcome, &welcome)).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        let room = Arc::new(Semaphore::new(SITE_QUEUE / 1024));
        loop {
            let outcome = read_one(cell, &mut reader, session, &mut receiver, &room).await;
            heard();
            match outcome {
                Ok(()) => {}
                Err(Ended::Shell(e)) => return Err(e),
                Err(Ended::No(no)) => return Ok(no),
            }
        }
    };
    let write = async {
        loop {
            tokio::select! {
                a = acked.changed() => {
                    a.map_err(|_| ShellError::Closed)?;
                    let frame = acked.borrow_and_update().frame();
                    send(&mut writer, &frame).await?;
                }
                a = answer_queue.recv() => {
                    let answer = a.ok_or(ShellError::Closed)?;
                    send(&mut writer, &answer.frame()).await?;
                }
                () = tokio::time::sleep(KEEPALIVE) => {
                    let ack = *acked.borrow();
                    // Before the first acknowledgement: what the welcome said.
                    let durable = ack.durable.max(lifeboat_base::Seq(welcome.durable));
                    send(&mut writer, &Ack { durable, ..ack }.frame()).await?;
                }
            }
        }
    };
    // Beside the writing, not in it: a peer that does not read is cut all the same.
    let last: Result<No, ShellError> = tokio::select! {
        r = read => r,
        w = write => w,
        no = end_of(&mut ended) => Ok(no),
        no = judge(judgement) => Ok(no),
    };
    refuse(&mut writer, &last?).await
}

enum Ended {
    Shell(ShellError),
    No(No),
}

impl<E: Into<ShellError>> From<E> for Ended {
    fn from(e: E) -> Self {
        Self::Shell(e.into())
    }
}

async fn read_one(
    cell: &Arc<ServerCell>,
    reader: &mut (impl AsyncRead + Unpin),
    session: u64,
    receiver: &mut Receiver,
    room: &Arc<Semaphore>,
) -> Result<(), Ended> {
    let protocol = |m: String| Ended::No(No::new(RefuseCode::Protocol, m));
    let (kind, body) = read_frame(reader, MAX_FRAME, SESSION_SILENCE).await?;
    let len = body.len();
    let job = match kind {
        FrameType::Records => {
            let records = decode_records(body).map_err(|e| protocol(e.to_string()))?;
            let records = receiver.records(records).map_err(|e| protocol(e.to_string()))?;
            cell.received.fetch_add(len as u64, Ordering::Relaxed);
            let kib = u32::try_from(len.div_ceil(1024)).unwrap_or(u32::MAX);
            let permit = Arc::clone(room).acquire_many_owned(kib).await.map_err(|_| ShellError::Closed)?;
            Job::Records { session, records, room: Some(permit) }
        }
        FrameType::Offer => {
            let offer = Offer::decode(body).map_err(|e| protocol(e.to_string()))?;
            // The last block of a disk may be short: its start must lie within.
            let last = (offer.hashes.len() as u64 - 1) * BLOCK as u64 + 1;
            receiver.range(offer.disk, offer.offset, last).map_err(|e| protocol(e.to_string()))?;
            Job::Offer { session, offer }
        }
        FrameType::Ping => {
            Job::Ping { session, ping: Ping::decode(body).map_err(|e| protocol(e.to_string()))? }
        }
        other => return Err(protocol(format!("unexpected {other:?}"))),
    };
    cell.jobs.send(job).await.map_err(|_| Ended::Shell(ShellError::Closed))
}
