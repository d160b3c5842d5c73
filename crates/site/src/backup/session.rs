//! An agent's session for one backup or one restore: between the wire and the job that waits for it.
//!
//! Invariant: nothing is kept here. What the job does not take in time keeps the agent from sending more.

use super::door::Waiting;
use super::remote::Incoming;
use crate::Site;
use crate::listen::{KEEPALIVE, Peer, judge, refuse, send};
use crate::server::No;
use lifeboat_base::limits::{MAX_BACKUP_FRAME, SESSION_SILENCE};
use lifeboat_replicate::message::{BackupFrame, BackupSession, RefuseCode, VERSION, Welcome, backup};
use lifeboat_replicate::shell::{ShellError, read_frame, write_patiently};
use lifeboat_replicate::wire::{FrameType, WireError, message_frame};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

/// The frames of one kind of session.
pub(super) trait Frames: Message + Default {
    type Body;
    const KIND: FrameType;
    /// What the job is called.
    const JOB: &str;
    /// What a session that no job waits for is noted as.
    const NOTE: &str;
    /// What goes out may be large: a slow link may take its time over it, as long as some of it is taken.
    const LARGE: bool;

    fn body(self) -> Option<Self::Body>;
    fn ping() -> Self;
}

impl Frames for BackupFrame {
    type Body = backup::Body;
    const KIND: FrameType = FrameType::Backup;
    const JOB: &str = "backup";
    const NOTE: &str = "backup.session";
    const LARGE: bool = false;

    fn body(self) -> Option<backup::Body> {
        self.body
    }

    fn ping() -> Self {
        Self { body: Some(backup::Body::Ping(true)) }
    }
}

pub(crate) async fn backup_session(
    site: &Site,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: &Peer,
    hello: BackupSession,
) -> Result<(), ShellError> {
    let opened = Incoming::Opened { base: hello.base };
    carry(site, stream, peer, (&site.backups.remote, hello.job), opened, Incoming::Frame).await
}

/// Carries frames between the agent and its job, until either ends. The job hears `opened` first.
pub(super) async fn carry<I, F: Frames>(
    site: &Site,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: &Peer,
    (waiting, job): (&Waiting<I, F>, u64),
    opened: I,
    heard: impl Fn(F::Body) -> I,
) -> Result<(), ShellError> {
    let Some(door) = waiting.take(job, peer.agent) else {
        let why = format!("a session for a {} nobody asked for", F::JOB);
        site.note_often(F::NOTE, &peer.agent.to_string(), "refused", &why);
        let no = No::new(RefuseCode::NotAssigned, format!("this site waits for no such {}", F::JOB));
        return refuse(&mut stream, &no).await;
    };
    let welcome = Welcome { version: VERSION, ..Welcome::default() };
    send(&mut stream, &message_frame(FrameType::Welcome, &welcome)).await?;
    let (incoming, mut outgoing) = (door.incoming, door.outgoing);
    if incoming.send(opened).await.is_err() {
        return Err(ShellError::Closed);
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        loop {
            let (kind, body) = read_frame(&mut reader, MAX_BACKUP_FRAME, SESSION_SILENCE).await?;
            if kind != F::KIND {
                return Err(ShellError::Closed);
            }
            // Content stays where the frame was read to.
            let frame = F::decode(body).map_err(|e| WireError::Message(e.to_string()))?;
            let Some(body) = frame.body() else { continue };
            if incoming.send(heard(body)).await.is_err() {
                // The job has ended; its last word is on its way out.
                std::future::pending::<()>().await;
            }
        }
    };
    let write = async {
        loop {
            let frame = tokio::select! {
                frame = outgoing.recv() => match frame {
                    Some(frame) => frame,
                    None => return Ok(No::new(RefuseCode::Shutdown, format!("the {} has ended", F::JOB))),
                },
                () = tokio::time::sleep(KEEPALIVE) => F::ping(),
            };
            let frame = message_frame(F::KIND, &frame);
            match F::LARGE {
                true => write_patiently(&mut writer, &frame, SESSION_SILENCE).await?,
                false => send(&mut writer, &frame).await?,
            }
        }
    };
    let last: Result<No, ShellError> = tokio::select! {
        r = read => r,
        w = write => w,
        no = judge(|| peer.admitted(site)) => Ok(no),
    };
    refuse(&mut writer, &last?).await
}
