//! The replication listener: who may come in, and what each session does.
//!
//! Every peer proves itself by TLS before it may say anything, then has a moment for one small
//! `Hello`. A session is cut when its agent is revoked or its certificate ends, its server's epoch ends or a frame
//! breaks the rules, whether or not the peer reads: within [`KEEPALIVE`] at the latest.

use crate::Site;
use crate::server::{Job, No, ServerCell, SessionOut};
use crate::sessions::{AgentLink, Key, Listed, StreamLink, Target};
use lifeboat_base::limits::{
    BLOCK, HANDSHAKE, MAX_DISKS, MAX_FRAME, MAX_HELLO, MAX_TEXT, SESSION_SILENCE, SITE_QUEUE,
};
use lifeboat_base::{AgentId, Epoch, ServerId};
use lifeboat_replicate::message::{
    Control, Hello, Refuse, RefuseCode, Renew, Renewed, Report, ServerReport, StreamSession, VERSION,
    Welcome, control, hello,
};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::shell::{ShellError, read_frame, write_frame, write_message};
use lifeboat_replicate::wire::{
    Ack, Answer, FrameType, Offer, Ping, decode_message, decode_records, message_frame,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Sessions at a time, those in their handshake included.
const MAX_SESSIONS: usize = 4096;
/// Answers and control messages waiting for a slow peer.
const OUTGOING: usize = 64;
/// How often an idle session hears from this side, and how often a peer is judged again.
const KEEPALIVE: Duration = Duration::from_secs(2);

type Tls = TlsStream<TcpStream>;

/// Who a session's peer proved to be.
struct Peer {
    agent: AgentId,
    address: SocketAddr,
    certificate: Vec<u8>,
}

impl Peer {
    /// Whether it may still be here.
    fn admitted(&self, site: &Site) -> Result<(), No> {
        let Some(control) = site.control() else { return Ok(()) };
        match control.admit(&self.certificate, &self.address.to_string()) {
            Ok(_) => Ok(()),
            Err(why) => Err(No::new(RefuseCode::NotAssigned, why.to_string())),
        }
    }
}

/// Judges a session again and again; ends with the reason when it may not go on. What changed between a peer's
/// admission and its place in the lists is found so, and a certificate that ends.
async fn judge(judgement: impl Fn() -> Result<(), No>) -> No {
    loop {
        tokio::time::sleep(KEEPALIVE).await;
        if let Err(no) = judgement() {
            return no;
        }
    }
}

/// Writes a frame to a peer that reads.
async fn send(writer: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), ShellError> {
    tokio::time::timeout(SESSION_SILENCE, write_frame(writer, frame))
        .await
        .unwrap_or(Err(ShellError::Silent(SESSION_SILENCE)))
}

/// Accepts peers until `shutdown` is set.
pub async fn serve(
    site: Arc<Site>,
    listener: TcpListener,
    tls: TlsAcceptor,
    mut shutdown: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(MAX_SESSIONS));
    loop {
        let accepted = tokio::select! {
            a = listener.accept() => a,
            _ = shutdown.wait_for(|s| *s) => return,
        };
        let (tcp, address) = match accepted {
            Ok(a) => a,
            Err(e) => {
                tracing::warn!("accepting a peer: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(%address, "turned away: {MAX_SESSIONS} sessions are open");
            continue;
        };
        let (site, tls, mut shutdown) = (Arc::clone(&site), tls.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = peer(&site, tcp, address, &tls) => {}
                _ = shutdown.wait_for(|s| *s) => {}
            }
        });
    }
}

async fn peer(site: &Arc<Site>, tcp: TcpStream, address: SocketAddr, tls: &TlsAcceptor) {
    let Some(control) = site.control() else { return };
    let _ = tcp.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await;
    let mut stream = match handshake {
        Ok(Ok(s)) => s,
        Ok(Err(e)) => return control.handshake_refused(&address.to_string(), &e.to_string()),
        Err(_) => return control.handshake_refused(&address.to_string(), "no handshake in time"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
    let Some(certificate) = certificate else {
        return control.handshake_refused(&address.to_string(), "no certificate was shown");
    };
    let agent = match control.admit(&certificate, &address.to_string()) {
        Ok(a) => a,
        Err(why) => {
            let no = No::new(RefuseCode::NotAssigned, why.to_string());
            let _ = refuse(&mut stream, &no).await;
            return;
        }
    };
    let peer = Peer { agent, address, certificate };
    let hello = tokio::time::timeout(HANDSHAKE, read_frame(&mut stream, MAX_HELLO, HANDSHAKE)).await;
    let hello: Hello = match hello {
        Ok(Ok((FrameType::Hello, body))) => match decode_message(&body) {
            Ok(h) => h,
            Err(e) => return tracing::warn!(%address, "no hello: {e}"),
        },
        Ok(Ok((other, _))) => return tracing::warn!(%address, "{other:?} instead of a hello"),
        Ok(Err(e)) => return tracing::debug!(%address, "no hello: {e}"),
        Err(_) => return tracing::warn!(%address, "no hello in time"),
    };
    if hello.version != VERSION {
        let no = No::new(
            RefuseCode::Version,
            format!(
                "this site speaks version {VERSION}, the agent {}; bring both to one release",
                hello.version
            ),
        );
        let _ = refuse(&mut stream, &no).await;
        return;
    }
    let ended = match hello.session.clone() {
        Some(hello::Session::Control(_)) => control_session(site, stream, &peer, &hello).await,
        Some(hello::Session::Stream(s)) => stream_session(site, stream, &peer, &hello, s).await,
        None => Err(ShellError::Closed),
    };
    if let Err(e) = ended {
        tracing::debug!(%address, %agent, "session ended: {e}");
    }
}

/// Waits until the session is told to end, and why.
async fn end_of(ended: &mut watch::Receiver<Option<No>>) -> No {
    let gone = || No::new(RefuseCode::Shutdown, "the site goes down");
    match ended.wait_for(Option::is_some).await {
        Ok(no) => no.clone().unwrap_or_else(gone),
        Err(_) => gone(),
    }
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), no: &No) -> Result<(), ShellError> {
    let message = Refuse { code: no.code as i32, message: no.message.clone() };
    let said = async {
        write_message(stream, FrameType::Refuse, &message).await?;
        stream.shutdown().await.map_err(ShellError::from)
    };
    // A peer that does not listen is not waited for.
    tokio::time::timeout(KEEPALIVE, said).await.unwrap_or(Ok(()))
}

// ---- control sessions -------------------------------------------------------------------------

async fn control_session(
    site: &Arc<Site>,
    mut stream: Tls,
    peer: &Peer,
    hello: &Hello,
) -> Result<(), ShellError> {
    let (agent, address) = (peer.agent, peer.address);
    let (outgoing, mut queue) = mpsc::channel(OUTGOING);
    let (end, mut ended) = watch::channel(None);
    let session = site.sessions.next_id();
    let version = hello.agent_version.chars().take(32).collect();
    let about = (address.to_string(), version, site.clock.wall());
    let link = Arc::new(AgentLink::new(session, about, hello.instance, outgoing, end));
    let clash = {
        let mut agents = site.sessions.agents.lock();
        let other = agents.get(&agent).filter(|o| o.instance != hello.instance).cloned();
        if other.is_none()
            && let Some(old) = agents.insert(agent, Arc::clone(&link))
        {
            old.cut(No::new(RefuseCode::Busy, "a newer session took over"));
        }
        other
    };
    if let Some(other) = clash {
        other.rival.challenged(site.clock.monotonic(), address.ip().to_string());
        let other = &other.address;
        let text = format!(
            "another agent with the same identity is connected from {other}; \
             if that one is gone it is forgotten within {SESSION_SILENCE:?}; \
             if it is a clone of this machine, remove its state directory and join it anew"
        );
        let detail = format!("{} while {} is connected", address.ip(), host_of(other));
        site.note_often("agent.clash", &agent.to_string(), "refused", &detail);
        return refuse(&mut stream, &No::new(RefuseCode::Busy, text)).await;
    }
    let _listed = Listed { sessions: &site.sessions, session, key: Key::Agent(agent) };
    tracing::info!(%agent, %address, "agent connected");
    let welcome = Welcome { version: VERSION, ..Welcome::default() };
    send(&mut stream, &message_frame(FrameType::Welcome, &welcome)).await?;
    link.assign();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        loop {
            let (kind, body) = read_frame(&mut reader, MAX_FRAME, SESSION_SILENCE).await?;
            if kind != FrameType::Control {
                return Err(ShellError::Closed);
            }
            if let Some(other) = link.rival.heard(site.clock.monotonic()) {
                two_agents(site, agent, host_of(&link.address), &other);
            }
            handle_control(site, agent, &link, decode_message(&body)?).await;
        }
    };
    let write = async {
        loop {
            let message = tokio::select! {
                m = queue.recv() => m.ok_or(ShellError::Closed)?,
                () = link.assignments.notified() => {
                    Control { id: 0, body: Some(control::Body::Assignments(site.assignments(agent))) }
                }
                () = tokio::time::sleep(KEEPALIVE) => Control { id: 0, body: Some(control::Body::Ping(true)) },
            };
            send(&mut writer, &message_frame(FrameType::Control, &message)).await?;
        }
    };
    // Beside the writing, not in it: a peer that does not read is cut all the same.
    let last: Result<No, ShellError> = tokio::select! {
        r = read => r,
        w = write => w,
        no = end_of(&mut ended) => Ok(no),
        no = judge(|| peer.admitted(site)) => Ok(no),
    };
    tracing::info!(%agent, %address, "agent disconnected");
    refuse(&mut writer, &last?).await
}

/// The host of `host:port`.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// Two processes with one identity are alive at once: a person has to choose (failures 21).
fn two_agents(site: &Site, agent: AgentId, here: &str, there: &str) {
    let text = format!(
        "two agents with one identity are alive, at {here} and at {there}; the one at {there} is refused: \
         if it is a clone of a machine, remove its state directory and join it anew"
    );
    site.note_often("agent.clash", &agent.to_string(), "found", &text);
    let cells: Vec<_> = site.cells.read().values().cloned().collect();
    for cell in cells.iter().filter(|c| c.spec.read().agent == agent) {
        site.trouble(cell, text.clone());
    }
}

async fn handle_control(site: &Arc<Site>, agent: AgentId, link: &Arc<AgentLink>, message: Control) {
    match message.body {
        Some(control::Body::Report(report)) => take_report(site, agent, report),
        Some(
            body @ (control::Body::ProbeResult(_)
            | control::Body::HoldResult(_)
            | control::Body::CutResult(_)),
        ) => link.answered(message.id, body),
        Some(control::Body::Renew(Renew { csr })) => {
            // One at a time: the agent's next word waits.
            let Some(control) = site.control() else { return };
            let renewed = match control.renew(agent, &csr).await {
                Ok(certificate) => Renewed { certificate, error: String::new() },
                Err(e) => Renewed { certificate: String::new(), error: e.to_string() },
            };
            let _ = link.outgoing.send(Control { id: 0, body: Some(control::Body::Renewed(renewed)) }).await;
        }
        _ => {}
    }
}

fn take_report(site: &Site, agent: AgentId, report: Report) {
    for r in report.servers {
        let cell = ServerId::from_slice(&r.server).ok().and_then(|id| site.cell(id));
        if let Some(cell) = cell
            && cell.spec.read().agent == agent
        {
            site.note_sync(&cell, &r);
            site.verify_report(&cell, r.verify.as_ref());
            cell.measured.lock().report = Some(bounded(r));
        }
    }
}

/// A report as it is kept: what is shown of it, no longer than people write.
fn bounded(r: ServerReport) -> ServerReport {
    let cut =
        |text: String| if text.len() > MAX_TEXT { text.chars().take(MAX_TEXT / 4).collect() } else { text };
    ServerReport {
        capture: cut(r.capture),
        stalled: cut(r.stalled),
        exports: r.exports.into_iter().take(MAX_DISKS).map(cut).collect(),
        disks: Vec::new(),
        // Kept on its own.
        verify: None,
        ..r
    }
}

// ---- stream sessions --------------------------------------------------------------------------

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

async fn stream_session(
    site: &Arc<Site>,
    mut stream: Tls,
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
        lineage: s.lineage.clone(),
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
    mut stream: Tls,
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
