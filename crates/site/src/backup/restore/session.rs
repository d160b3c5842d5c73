//! An agent's session for one restore.

use super::super::session::{Frames, carry};
use super::Incoming;
use crate::Site;
use crate::listen::Peer;
use lifeboat_replicate::message::restore::{Body, RestoreFrame, RestoreSession};
use lifeboat_replicate::shell::ShellError;
use lifeboat_replicate::wire::FrameType;
use tokio::io::{AsyncRead, AsyncWrite};

impl Frames for RestoreFrame {
    type Body = Body;
    const KIND: FrameType = FrameType::Restore;
    const JOB: &str = "restore";
    const NOTE: &str = "backup.restore-session";
    const LARGE: bool = true;

    fn body(self) -> Option<Body> {
        self.body
    }

    fn ping() -> Self {
        Self { body: Some(Body::Ping(true)) }
    }
}

pub(crate) async fn restore_session(
    site: &Site,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: &Peer,
    hello: RestoreSession,
) -> Result<(), ShellError> {
    carry(site, stream, peer, (&site.backups.restores, hello.job), Incoming::Opened, Incoming::Frame).await
}
