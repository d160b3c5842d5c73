//! The replication listener: who may come in, and what each session does.
//!
//! Every peer proves itself by TLS before it may say anything, then has a moment for one small
//! `Hello`. A session is cut when its agent is revoked, its server's epoch ends or a frame breaks the rules.

use crate::server::{Job, No, ServerCell, SessionOut};
use crate::Site;
use lifeboat_base::limits::{BLOCK, HANDSHAKE, MAX_FRAME, MAX_HELLO, SESSION_SILENCE, SITE_QUEUE};
use lifeboat_base::{AgentId, Epoch, ServerId, WallTime};
use lifeboat_replicate::message::{
    Assignments, Control, Hello, ProbeResult, Refuse, RefuseCode, Renew, Renewed, Report, StreamSession, VERSION,
    Welcome, control, hello,
};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::shell::{ShellError, read_frame, write_frame, write_message};
use lifeboat_replicate::wire::{Ack, Answer, FrameType, Offer, Ping, decode_message, decode_records, message_frame};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
/// How often an idle session hears from this side.
const KEEPALIVE: Duration = Duration::from_secs(2);

type Tls = TlsStream<TcpStream>;

/// An agent that holds a control session.
pub struct AgentLink {
    pub session: u64,
    pub address: String,
    pub version: String,
    pub since: WallTime,
    pub instance: u64,
    outgoing: mpsc::Sender<Control>,
    probes: Mutex<HashMap<u64, oneshot::Sender<ProbeResult>>>,
    end: watch::Sender<Option<No>>,
}

impl AgentLink {
    /// Sends what is to be captured.
    pub async fn assign(&self, assignments: Assignments) {
        let message = Control { id: 0, body: Some(control::Body::Assignments(assignments)) };
        let _ = self.outgoing.send(message).await;
    }

    /// Asks what is behind a capture.
    pub async fn probe(&self, id: u64, capture: String, patience: Duration) -> Option<ProbeResult> {
        let (tx, rx) = oneshot::channel();
        self.probes.lock().insert(id, tx);
        let body = control::Body::Probe(lifeboat_replicate::message::Probe { capture });
        let sent = self.outgoing.send(Control { id, body: Some(body) }).await.is_ok();
        let result = if sent { tokio::time::timeout(patience, rx).await.ok().and_then(Result::ok) } else { None };
        self.probes.lock().remove(&id);
        result
    }

    pub fn cut(&self, no: No) {
        self.end.send_replace(Some(no));
    }
}

/// A stream session now open.
pub struct StreamLink {
    pub agent: AgentId,
    pub instance: u64,
    end: watch::Sender<Option<No>>,
}

/// Everything that is connected.
#[derive(Default)]
pub struct Sessions {
    next: AtomicU64,
    pub agents: Mutex<HashMap<AgentId, Arc<AgentLink>>>,
    pub streams: Mutex<HashMap<ServerId, (u64, StreamLink)>>,
}

impl Sessions {
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Cuts every session of an agent.
    pub fn cut_agent(&self, agent: AgentId, no: &No) {
        if let Some(link) = self.agents.lock().get(&agent) {
            link.cut(no.clone());
        }
        for (_, stream) in self.streams.lock().values() {
            if stream.agent == agent {
                stream.end.send_replace(Some(no.clone()));
            }
        }
    }

    pub fn cut_stream(&self, server: ServerId, no: &No) {
        if let Some((_, stream)) = self.streams.lock().get(&server) {
            stream.end.send_replace(Some(no.clone()));
        }
    }
}

/// Accepts peers until `shutdown` is set.
pub async fn serve(site: Arc<Site>, listener: TcpListener, tls: TlsAcceptor, mut shutdown: watch::Receiver<bool>) {
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
    let hello = tokio::time::timeout(HANDSHAKE, read_frame(&mut stream, MAX_HELLO)).await;
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
            format!("this site speaks version {VERSION}, the agent {}; bring both to one release", hello.version),
        );
        let _ = refuse(&mut stream, &no).await;
        return;
    }
    let ended = match hello.session.clone() {
        Some(hello::Session::Control(_)) => control_session(site, stream, agent, address, &hello).await,
        Some(hello::Session::Stream(s)) => stream_session(site, stream, agent, &hello, s).await,
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
    agent: AgentId,
    address: SocketAddr,
    hello: &Hello,
) -> Result<(), ShellError> {
    let (outgoing, mut queue) = mpsc::channel(OUTGOING);
    let (end, mut ended) = watch::channel(None);
    let session = site.sessions.next_id();
    let link = Arc::new(AgentLink {
        session,
        address: address.to_string(),
        version: hello.agent_version.chars().take(32).collect(),
        since: site.clock.wall(),
        instance: hello.instance,
        outgoing,
        probes: Mutex::default(),
        end,
    });
    let clash = {
        let mut agents = site.sessions.agents.lock();
        let other = agents.get(&agent).filter(|o| o.instance != hello.instance).map(|o| o.address.clone());
        if other.is_none() {
            agents.insert(agent, Arc::clone(&link));
        }
        other
    };
    if let Some(other) = clash {
        let text = format!(
            "another agent with the same identity is connected from {other}; \
             if that one is gone it is forgotten within {SESSION_SILENCE:?}; \
             if it is a clone of this machine, remove its state directory and join it anew"
        );
        site.note("agent.clash", &agent.to_string(), "refused", &format!("{address} while {other} is connected"));
        return refuse(&mut stream, &No::new(RefuseCode::Busy, text)).await;
    }
    tracing::info!(%agent, %address, "agent connected");
    let welcome = Welcome { version: VERSION, ..Welcome::default() };
    write_message(&mut stream, FrameType::Welcome, &welcome).await?;
    link.assign(site.assignments(agent)).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        loop {
            let (kind, body) = tokio::time::timeout(SESSION_SILENCE, read_frame(&mut reader, MAX_FRAME))
                .await
                .map_err(|_| ShellError::Closed)??;
            if kind != FrameType::Control {
                return Err(ShellError::Closed);
            }
            handle_control(site, agent, &link, decode_message(&body)?).await;
        }
    };
    let write = async {
        loop {
            let message = tokio::select! {
                m = queue.recv() => m.ok_or(ShellError::Closed)?,
                () = tokio::time::sleep(KEEPALIVE) => Control { id: 0, body: Some(control::Body::Ping(true)) },
                no = end_of(&mut ended) => {
                    refuse(&mut writer, &no).await?;
                    return Ok(());
                }
            };
            write_frame(&mut writer, &message_frame(FrameType::Control, &message)).await?;
        }
    };
    let result: Result<(), ShellError> = tokio::select! { r = read => r, w = write => w };
    let mut agents = site.sessions.agents.lock();
    if agents.get(&agent).is_some_and(|l| l.session == session) {
        agents.remove(&agent);
    }
    tracing::info!(%agent, %address, "agent disconnected");
    result
}

async fn handle_control(site: &Arc<Site>, agent: AgentId, link: &Arc<AgentLink>, message: Control) {
    match message.body {
        Some(control::Body::Report(report)) => take_report(site, agent, report),
        Some(control::Body::ProbeResult(result)) => {
            if let Some(waiting) = link.probes.lock().remove(&message.id) {
                let _ = waiting.send(result);
            }
        }
        Some(control::Body::Renew(Renew { csr })) => {
            let (site, link) = (Arc::clone(site), Arc::clone(link));
            tokio::spawn(async move {
                let Some(control) = site.control() else { return };
                let renewed = match control.renew(agent, &csr).await {
                    Ok(certificate) => Renewed { certificate, error: String::new() },
                    Err(e) => Renewed { certificate: String::new(), error: e.to_string() },
                };
                let _ = link.outgoing.send(Control { id: 0, body: Some(control::Body::Renewed(renewed)) }).await;
            });
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
            cell.measured.lock().report = Some(r);
        }
    }
}

// ---- stream sessions --------------------------------------------------------------------------

/// Whether this agent may send this server's writes.
fn may_stream(site: &Site, agent: AgentId, s: &StreamSession) -> Result<Arc<ServerCell>, No> {
    let not_assigned = || No::new(RefuseCode::NotAssigned, "this server is not assigned to this agent");
    let id = ServerId::from_slice(&s.server).map_err(|_| not_assigned())?;
    let cell = site.cell(id).ok_or_else(not_assigned)?;
    let spec = cell.spec.read();
    if spec.agent != agent {
        site.note("stream.refused", &spec.name, "refused", &format!("agent {agent} does not own this server"));
        return Err(not_assigned());
    }
    if Epoch(s.epoch) != spec.epoch {
        let text = format!("epoch {} is over; the site is at epoch {}", s.epoch, spec.epoch);
        if Epoch(s.epoch) < spec.epoch {
            site.note("stream.stale-epoch", &spec.name, "refused", &text);
        }
        return Err(No::new(RefuseCode::StaleEpoch, text));
    }
    if !spec.active {
        return Err(No::new(RefuseCode::NotAssigned, "replication of this server is stopped"));
    }
    drop(spec);
    Ok(cell)
}

async fn stream_session(
    site: &Arc<Site>,
    mut stream: Tls,
    agent: AgentId,
    hello: &Hello,
    s: StreamSession,
) -> Result<(), ShellError> {
    let cell = match may_stream(site, agent, &s) {
        Ok(c) => c,
        Err(no) => return refuse(&mut stream, &no).await,
    };
    let server = cell.spec.read().id;
    let session = site.sessions.next_id();
    let (end, ended) = watch::channel(None);
    let busy = {
        let mut streams = site.sessions.streams.lock();
        let busy = streams.get(&server).is_some_and(|(_, l)| l.instance != hello.instance);
        if !busy {
            let link = StreamLink { agent, instance: hello.instance, end: end.clone() };
            streams.insert(server, (session, link));
        }
        busy
    };
    if busy {
        let no = No::new(RefuseCode::Busy, "another agent process sends this server's writes now");
        return refuse(&mut stream, &no).await;
    }
    let result = admitted_stream(&cell, stream, session, Epoch(s.epoch), s.disks, (end, ended)).await;
    {
        let mut streams = site.sessions.streams.lock();
        if streams.get(&server).is_some_and(|(id, _)| *id == session) {
            streams.remove(&server);
        }
    }
    let _ = cell.jobs.send(Job::Close { session }).await;
    result
}

async fn admitted_stream(
    cell: &Arc<ServerCell>,
    mut stream: Tls,
    session: u64,
    epoch: Epoch,
    disks: Vec<lifeboat_replicate::message::Disk>,
    (end, mut ended): (watch::Sender<Option<No>>, watch::Receiver<Option<No>>),
) -> Result<(), ShellError> {
    let (acks, mut acked) = watch::channel(Ack::default());
    let (answers, mut answer_queue) = mpsc::channel::<Answer>(OUTGOING);
    let out = SessionOut { acks, answers, end };
    let (reply, opened) = oneshot::channel();
    let job = Job::Open { session, epoch, disks, out, reply };
    let opened = match cell.jobs.send(job).await {
        Ok(()) => opened.await.ok(),
        Err(_) => None,
    };
    let no_worker = || No::new(RefuseCode::Shutdown, "the site goes down");
    let (welcome, mut receiver) = match opened.unwrap_or_else(|| Err(no_worker())) {
        Ok(o) => o,
        Err(no) => return refuse(&mut stream, &no).await,
    };
    write_message(&mut stream, FrameType::Welcome, &welcome).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        let room = Arc::new(Semaphore::new(SITE_QUEUE / 1024));
        loop {
            let outcome = read_one(cell, &mut reader, session, &mut receiver, &room).await;
            match outcome {
                Ok(()) => {}
                Err(Ended::Shell(e)) => return Err(e),
                Err(Ended::No(no)) => return Ok(Some(no)),
            }
        }
    };
    let write = async {
        loop {
            tokio::select! {
                a = acked.changed() => {
                    a.map_err(|_| ShellError::Closed)?;
                    let frame = acked.borrow_and_update().frame();
                    write_frame(&mut writer, &frame).await?;
                }
                a = answer_queue.recv() => {
                    let answer = a.ok_or(ShellError::Closed)?;
                    write_frame(&mut writer, &answer.frame()).await?;
                }
                no = end_of(&mut ended) => return Ok(Some(no)),
                () = tokio::time::sleep(KEEPALIVE) => {
                    let ack = *acked.borrow();
                    // Before the first acknowledgement: what the welcome said.
                    let durable = ack.durable.max(lifeboat_base::Seq(welcome.durable));
                    write_frame(&mut writer, &Ack { durable, ..ack }.frame()).await?;
                }
            }
        }
    };
    let last: Result<Option<No>, ShellError> = tokio::select! { r = read => r, w = write => w };
    if let Some(no) = last? {
        refuse(&mut writer, &no).await?;
    }
    Ok(())
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
    let (kind, body) = tokio::time::timeout(SESSION_SILENCE, read_frame(reader, MAX_FRAME))
        .await
        .map_err(|_| Ended::Shell(ShellError::Closed))??;
    let len = body.len();
    let job = match kind {
        FrameType::Records => {
            let records = decode_records(body).map_err(|e| protocol(e.to_string()))?;
            let records = receiver.records(records).map_err(|e| protocol(e.to_string()))?;
            cell.received.fetch_add(len as u64, Ordering::Relaxed);
            let kib = u32::try_from(len.div_ceil(1024)).unwrap_or(u32::MAX);
            let permit = Arc::clone(room).acquire_many_owned(kib).await.map_err(|_| ShellError::Closed)?;
            Job::Records { session, records, _room: permit }
        }
        FrameType::Offer => {
            let offer = Offer::decode(body).map_err(|e| protocol(e.to_string()))?;
            // The last block of a disk may be short: its start must lie within.
            let last = (offer.hashes.len() as u64 - 1) * BLOCK as u64 + 1;
            receiver.range(offer.disk, offer.offset, last).map_err(|e| protocol(e.to_string()))?;
            Job::Offer { session, offer }
        }
        FrameType::Ping => Job::Ping { session, ping: Ping::decode(body).map_err(|e| protocol(e.to_string()))? },
        other => return Err(protocol(format!("unexpected {other:?}"))),
    };
    cell.jobs.send(job).await.map_err(|_| Ended::Shell(ShellError::Closed))
}
