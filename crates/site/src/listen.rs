//! The replication listener: who may come in, and what each session does.
//!
//! Every peer proves itself by TLS before it may say anything, then has a moment for one small
//! `Hello`. A session is cut when its agent is revoked or its certificate ends, its server's epoch ends or a frame
//! breaks the rules, whether or not the peer reads: within [`KEEPALIVE`] at the latest.

mod stream;

use crate::Site;
use crate::backup::restore::session::restore_session;
use crate::backup::session::backup_session;
use crate::server::No;
use crate::sessions::{AgentLink, Key, Listed};
use lifeboat_base::limits::{HANDSHAKE, MAX_DISKS, MAX_FRAME, MAX_HELLO, MAX_TEXT, SESSION_SILENCE};
use lifeboat_base::{AgentId, ServerId};
use lifeboat_replicate::message::{
    Control, Hello, Refuse, RefuseCode, Renew, Renewed, Report, ServerReport, VERSION, Welcome, control,
    hello,
};
use lifeboat_replicate::shell::{ShellError, read_frame, write_frame, write_message};
use lifeboat_replicate::wire::{FrameType, decode_message, message_frame};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// Sessions at a time, those in their handshake included.
const MAX_SESSIONS: usize = 4096;
/// Answers and control messages waiting for a slow peer.
const OUTGOING: usize = 64;
/// How often an idle session hears from this side, and how often a peer is judged again.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(2);

/// Who a session's peer proved to be.
pub(crate) struct Peer {
    pub agent: AgentId,
    pub address: SocketAddr,
    pub certificate: Vec<u8>,
}

impl Peer {
    /// Whether it may still be here.
    pub fn admitted(&self, site: &Site) -> Result<(), No> {
        let Some(control) = site.control() else { return Ok(()) };
        match control.admit(&self.certificate, &self.address.to_string()) {
            Ok(_) => Ok(()),
            Err(why) => Err(No::new(RefuseCode::NotAssigned, why.to_string())),
        }
    }
}

/// Judges a session again and again; ends with the reason when it may not go on. What changed between a peer's
/// admission and its place in the lists is found so, and a certificate that ends.
pub(crate) async fn judge(judgement: impl Fn() -> Result<(), No>) -> No {
    loop {
        tokio::time::sleep(KEEPALIVE).await;
        if let Err(no) = judgement() {
            return no;
        }
    }
}

/// Writes a frame to a peer that reads.
pub(crate) async fn send(writer: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), ShellError> {
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
        Some(hello::Session::Stream(s)) => stream::stream_session(site, stream, &peer, &hello, s).await,
        Some(hello::Session::Backup(b)) => backup_session(site, stream, &peer, b).await,
        Some(hello::Session::Restore(r)) => restore_session(site, stream, &peer, r).await,
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

pub(crate) async fn refuse(stream: &mut (impl AsyncWrite + Unpin), no: &No) -> Result<(), ShellError> {
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
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
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
    site.note_often("agent.two-alive", &agent.to_string(), "found", &text);
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
            | control::Body::CutResult(_)
            | control::Body::BackupResult(_)
            | control::Body::RestoreResult(_)),
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

#[cfg(test)]
pub(crate) mod tests;
