//! The thin shell around the state machines: frames over an asynchronous stream, TLS in practice.

use crate::wire::{FRAME_HEADER, FrameType, WireError, message_frame, parse_header};
use bytes::{Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What ended a session.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    #[error("the connection was closed")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
}

impl From<io::Error> for ShellError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed
            }
            _ => Self::Io(e),
        }
    }
}

/// Reads one frame whose body is at most `limit` bytes. Not safe to cancel in the middle.
///
/// # Errors
/// See [`ShellError`].
pub async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<(FrameType, Bytes), ShellError> {
    let mut header = [0; FRAME_HEADER];
    stream.read_exact(&mut header).await?;
    let (kind, len) = parse_header(header, limit)?;
    // Grows as bytes arrive, so a lying length costs its sender the bytes.
    let mut body = BytesMut::with_capacity(len.min(1 << 20));
    let mut rest = stream.take(len as u64);
    while body.len() < len {
        body.reserve((len - body.len()).min(1 << 20));
        if rest.read_buf(&mut body).await? == 0 {
            return Err(ShellError::Closed);
        }
    }
    Ok((kind, body.freeze()))
}

/// Writes whole frames and flushes.
///
/// # Errors
/// See [`ShellError`].
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), ShellError> {
    stream.write_all(frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Writes a message as one frame and flushes.
///
/// # Errors
/// See [`ShellError`].
pub async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: FrameType,
    message: &impl prost::Message,
) -> Result<(), ShellError> {
    write_frame(stream, &message_frame(kind, message)).await
}
