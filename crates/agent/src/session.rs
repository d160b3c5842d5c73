//! Sessions with the site: one for control, one for each server's stream.
//!
//! A session that ends is begun again after a moment that grows and is drawn by chance, so that a
//! thousand agents do not all come back at once.

use crate::identity::Identity;
use crate::stream::Stream;
use crate::streams::Streams;
use lifeboat_base::limits::{HANDSHAKE, HEARTBEAT_EVERY, MAX_FRAME, SESSION_SILENCE};
use lifeboat_base::{Entropy, Seq, ServerId};
use lifeboat_replicate::message::restore::RestoreResult;
use lifeboat_replicate::message::{
    Assignments, BackupResult, Control, ControlSession, Disk, Hello, Refuse, RefuseCode, Report,
    StreamSession, VERSION, Welcome, control, hello,
};
use lifeboat_replicate::sender::{FrameBytes, Welcomed};
use lifeboat_replicate::shell::{ShellError, read_frame, write_frame, write_message};
use lifeboat_replicate::wire::{Ack, Answer, FrameType, decode_message};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the site cannot be reached at {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("the site refused: {message}")]
    Refused { code: RefuseCode, message: String },
    #[error(transparent)]
    Shell(#[from] ShellError),
    #[error("the site broke the protocol: {0}")]
    Protocol(String),
    #[error("the session was stopped")]
    Stopped,
}

/// What a session needs of this process.
#[derive(Clone)]
pub struct Link {
    pub identity: Arc<Identity>,
    pub entropy: Arc<dyn Entropy>,
    /// Drawn once per process.
    pub instance: u64,
}

impl Link {
    async fn connect(&self) -> Result<TlsStream<TcpStream>, SessionError> {
        let address = self.identity.replication();
        let unreachable = |why: String| SessionError::Unreachable { address: address.clone(), why };
        let attempt = async {
            let tcp = TcpStream::connect(&address).await.map_err(|e| unreachable(e.to_string()))?;
            tcp.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
            TlsConnector::from(self.identity.tls())
                .connect(lifeboat_api::tls::site_name(), tcp)
                .await
                .map_err(|e| unreachable(e.to_string()))
        };
        tokio::time::timeout(HANDSHAKE, attempt)
            .await
            .unwrap_or_else(|_| Err(unreachable(format!("no answer within {HANDSHAKE:?}"))))
    }

    /// Connects and says hello under a name; the site's welcome.
    pub(crate) async fn open(
        &self,
        instance: u64,
        session: hello::Session,
    ) -> Result<(TlsStream<TcpStream>, Welcome), SessionError> {
        let mut tls = self.connect().await?;
        let hello = Hello {
            version: VERSION,
            instance,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            session: Some(session),
        };
        let greet = async {
            write_message(&mut tls, FrameType::Hello, &hello).await?;
            read_frame(&mut tls, MAX_FRAME, HANDSHAKE).await
        };
        let (kind, body) = tokio::time::timeout(HANDSHAKE, greet)
            .await
            .unwrap_or(Err(ShellError::Closed))
            .map_err(SessionError::from)?;
        match kind {
            FrameType::Welcome => {
                let welcome: Welcome = decode_message(&body).map_err(ShellError::from)?;
                Ok((tls, welcome))
            }
            FrameType::Refuse => Err(refused(&body)),
            other => Err(SessionError::Protocol(format!("{other:?} instead of a welcome"))),
        }
    }
}

/// The site's next message in a session of one kind of frames.
pub(crate) async fn next_message<M: prost::Message + Default>(
    reader: &mut (impl AsyncRead + Unpin),
    (kind, limit): (FrameType, usize),
) -> Result<M, SessionError> {
    let (came, body) = read_frame(reader, limit, SESSION_SILENCE).await?;
    match came {
        // Content stays where the frame was read to.
        _ if came == kind => M::decode(body).map_err(|e| SessionError::Protocol(e.to_string())),
        FrameType::Refuse => Err(refused(&body)),
        other => Err(SessionError::Protocol(format!("unexpected {other:?}"))),
    }
}

fn refused(body: &[u8]) -> SessionError {
    match decode_message::<Refuse>(body) {
        Ok(r) => SessionError::Refused { code: r.code(), message: r.message },
        Err(e) => SessionError::Protocol(e.to_string()),
    }
}

/// Waits between attempts: twice as long each time, within bounds, half of it by chance.
struct Backoff(Duration);

impl Backoff {
    fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let half = self.0 / 2;
        let chance = Duration::from_nanos(entropy.next_u64() % (half.as_nanos() as u64).max(1));
        self.0 = (self.0 * 2).min(LONGEST_WAIT);
        half + chance
    }
}

/// Keeps a server's stream connected until it is stopped. `refusal` holds the site's last no.
pub async fn run_stream(
    link: Link,
    server: ServerId,
    disks: Vec<Disk>,
    stream: Arc<Stream>,
    refusal: Arc<parking_lot::Mutex<Option<String>>>,
) {
    let mut backoff = Backoff(FIRST_WAIT);
    while !stream.stopped() {
        let error = match stream_session(&link, server, &disks, &stream, &refusal, &mut backoff).await {
            Ok(()) => return,
            Err(e) => e,
        };
        stream.with_sender(|s| s.disconnected());
        if stream.stopped() {
            return;
        }
        match &error {
            SessionError::Refused { code, message } if *code != RefuseCode::Shutdown => {
                tracing::warn!(%server, ?code, "the site refused the stream: {message}");
                *refusal.lock() = Some(message.clone());
            }
            e => tracing::info!(%server, "stream session ended: {e}"),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next(&*link.entropy)) => {}
            () = stopped(&stream) => return,
        }
    }
}

async fn stopped(stream: &Stream) {
    while !stream.stopped() {
        stream.writer_wake.notified().await;
    }
}

async fn stream_session(
    link: &Link,
    server: ServerId,
    disks: &[Disk],
    stream: &Arc<Stream>,
    refusal: &parking_lot::Mutex<Option<String>>,
    backoff: &mut Backoff,
) -> Result<(), SessionError> {
    let (name, lineage) = stream.names();
    let hello = StreamSession {
        server: server.as_bytes().to_vec(),
        epoch: stream.epoch().0,
        disks: disks.to_vec(),
        lineage,
        alive: stream.alive().0,
    };
    let (tls, welcome) = link.open(name, hello::Session::Stream(hello)).await?;
    let now = stream.clock().wall();
    let welcomed = Welcomed {
        durable: Seq(welcome.durable),
        has_content: welcome.has_content,
        same_writer: welcome.same_writer,
        follows: welcome.follows,
    };
    stream.with_sender(|s| {
        s.connected(now, &welcomed);
        if welcome.branch {
            s.on_branch();
        }
    });
    stream.welcomed(name);
    tracing::info!(%server, durable = welcome.durable, branch = welcome.branch, "stream connected");
    let (mut reader, mut writer) = tokio::io::split(tls);
    tokio::select! {
        r = read_stream(&mut reader, stream, refusal, backoff) => r,
        w = write_stream(&mut writer, stream, name) => w,
    }
}

async fn read_stream(
    reader: &mut (impl AsyncRead + Unpin),
    stream: &Stream,
    refusal: &parking_lot::Mutex<Option<String>>,
    backoff: &mut Backoff,
) -> Result<(), SessionError> {
    loop {
        let (kind, body) = read_frame(reader, MAX_FRAME, SESSION_SILENCE).await?;
        let outcome = match kind {
            FrameType::Ack => {
                // Not before: a site that cannot store finds out with the first record after its welcome.
                *backoff = Backoff(FIRST_WAIT);
                *refusal.lock() = None;
                let ack = Ack::decode(body).map_err(ShellError::from)?;
                stream.with_sender(|s| s.ack(ack))
            }
            FrameType::Answer => {
                let answer = Answer::decode(body).map_err(ShellError::from)?;
                let now = stream.clock().wall();
                stream.with_sender(|s| s.answered(now, &answer))
            }
            FrameType::Refuse => return Err(refused(&body)),
            other => return Err(SessionError::Protocol(format!("unexpected {other:?}"))),
        };
        outcome.map_err(|e| SessionError::Protocol(e.to_string()))?;
    }
}

async fn write_stream(
    writer: &mut (impl AsyncWrite + Unpin),
    stream: &Arc<Stream>,
    name: u64,
) -> Result<(), SessionError> {
    // The first frame: the site sets its idea of this clock by it.
    let mut last_ping = None;
    loop {
        if stream.stopped() {
            writer.shutdown().await.map_err(ShellError::from)?;
            return Ok(());
        }
        let now = stream.clock().monotonic();
        if last_ping.is_none_or(|at| now.saturating_sub(at) >= HEARTBEAT_EVERY) {
            last_ping = Some(now);
            let ping = stream.with_ping();
            writer.write_all(&ping).await.map_err(ShellError::from)?;
        }
        let frame = stream.next_frame();
        // After it was taken: none leaves under a name that is not ours any more.
        if stream.name() != name {
            return Err(SessionError::Protocol("tracking is of no use any more; under another name".into()));
        }
        match frame {
            Some(FrameBytes::Memory(frame)) => {
                writer.write_all(&frame).await.map_err(ShellError::from)?;
                continue;
            }
            Some(FrameBytes::Spooled(slot)) => {
                let source = Arc::clone(stream);
                let read = tokio::task::spawn_blocking(move || source.read_spooled(slot)).await;
                let frame = read.map_err(|_| SessionError::Stopped)?.map_err(ShellError::from)?;
                writer.write_all(&frame).await.map_err(ShellError::from)?;
                continue;
            }
            None => {}
        }
        writer.flush().await.map_err(ShellError::from)?;
        tokio::select! {
            () = stream.writer_wake.notified() => {}
            () = tokio::time::sleep(HEARTBEAT_EVERY) => {}
        }
    }
}

/// What the control session exchanges with the rest of the agent.
pub struct ControlChannel {
    /// What the site wants captured.
    pub assignments: mpsc::Sender<Assignments>,
    /// The newest report.
    pub report: watch::Receiver<Report>,
    /// True while a control session is open.
    pub connected: watch::Sender<bool>,
    /// What is captured here.
    pub streams: Arc<Streams>,
    /// Whether the site may have files brought back here.
    pub restores: bool,
}

/// Keeps a control session open until the process ends.
pub async fn run_control(link: Link, channel: ControlChannel) {
    let mut backoff = Backoff(FIRST_WAIT);
    loop {
        match link.open(link.instance, hello::Session::Control(ControlSession {})).await {
            Ok((tls, _)) => {
                backoff = Backoff(FIRST_WAIT);
                tracing::info!("connected to the site");
                let _ = channel.connected.send(true);
                let ended = control_session(&link, tls, &channel).await;
                let _ = channel.connected.send(false);
                if let Err(e) = ended {
                    tracing::warn!("control session ended: {e}");
                }
            }
            Err(e) => tracing::warn!("{e}"),
        }
        tokio::time::sleep(backoff.next(&*link.entropy)).await;
    }
}

async fn control_session(
    link: &Link,
    tls: TlsStream<TcpStream>,
    channel: &ControlChannel,
) -> Result<(), SessionError> {
    let (mut reader, mut writer) = tokio::io::split(tls);
    let (answers, mut outgoing) = mpsc::channel::<Control>(16);
    let mut report = channel.report.clone();
    let read = async {
        loop {
            let (kind, body) = read_frame(&mut reader, MAX_FRAME, SESSION_SILENCE).await?;
            match kind {
                FrameType::Control => {
                    let message: Control = decode_message(&body).map_err(ShellError::from)?;
                    handle_control(link, message, channel, &answers).await?;
                }
                FrameType::Refuse => return Err(refused(&body)),
                other => return Err(SessionError::Protocol(format!("unexpected {other:?}"))),
            }
        }
    };
    let write = async {
        loop {
            let message = tokio::select! {
                Some(m) = outgoing.recv() => m,
                Ok(()) = report.changed() => {
                    let report = report.borrow_and_update().clone();
                    Control { id: 0, body: Some(control::Body::Report(report)) }
                }
                () = tokio::time::sleep(HEARTBEAT_EVERY) => Control { id: 0, body: Some(control::Body::Ping(true)) },
            };
            let frame = lifeboat_replicate::wire::message_frame(FrameType::Control, &message);
            write_frame(&mut writer, &frame).await?;
        }
    };
    let renew = async {
        loop {
            link.identity.renewal_due().await;
            if let Some(csr) = link.identity.renewal_request() {
                let body = control::Body::Renew(lifeboat_replicate::message::Renew { csr });
                let _ = answers.send(Control { id: 0, body: Some(body) }).await;
            }
        }
    };
    tokio::select! { r = read => r, w = write => w, () = renew => Ok(()) }
}

async fn handle_control(
    link: &Link,
    message: Control,
    channel: &ControlChannel,
    answers: &mpsc::Sender<Control>,
) -> Result<(), SessionError> {
    match message.body {
        Some(control::Body::Assignments(a)) => {
            channel.assignments.send(a).await.map_err(|_| SessionError::Stopped)?;
        }
        Some(control::Body::Probe(probe)) => {
            let answers = answers.clone();
            // A probe opens files and sockets; the session goes on meanwhile.
            tokio::spawn(async move {
                let result =
                    tokio::task::spawn_blocking(move || crate::supervisor::answer_probe(&probe)).await;
                if let Ok(result) = result {
                    let body = Some(control::Body::ProbeResult(result));
                    let _ = answers.send(Control { id: message.id, body }).await;
                }
            });
        }
        // A group's members hold their writes meanwhile: answered at once.
        Some(control::Body::Hold(hold)) => {
            let body = Some(control::Body::HoldResult(channel.streams.hold(&hold)));
            let _ = answers.send(Control { id: message.id, body }).await;
        }
        Some(control::Body::Cut(cut)) => {
            let body = Some(control::Body::CutResult(channel.streams.cut(&cut)));
            let _ = answers.send(Control { id: message.id, body }).await;
        }
        Some(control::Body::Verify(verify)) => channel.streams.verify(&verify),
        Some(control::Body::Backup(request)) => {
            let error = crate::backup::start(link, request);
            let body = Some(control::Body::BackupResult(BackupResult { error }));
            let _ = answers.send(Control { id: message.id, body }).await;
        }
        Some(control::Body::Restore(request)) => {
            let error = crate::restore::start(link, request, channel.restores);
            let body = Some(control::Body::RestoreResult(RestoreResult { error }));
            let _ = answers.send(Control { id: message.id, body }).await;
        }
        Some(control::Body::Renewed(r)) if r.error.is_empty() => {
            if let Err(e) = link.identity.renewed(&r.certificate) {
                tracing::error!("the renewed certificate cannot be used: {e:#}");
            }
        }
        Some(control::Body::Renewed(r)) => {
            tracing::error!("the site does not renew the certificate: {}", r.error)
        }
        Some(control::Body::Ping(_)) | None => {}
        Some(other) => {
            return Err(SessionError::Protocol(format!("unexpected control message {other:?}")));
        }
    }
    Ok(())
}
