//! The thin shell around the state machines: frames over an asynchronous stream, TLS in practice.

use crate::wire::{FRAME_HEADER, FrameType, WireError, message_frame, parse_header};
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What ended a session.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    #[error("the connection was closed")]
    Closed,
    #[error("the peer said nothing for {0:?}")]
    Silent(Duration),
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

/// Reads one frame whose body is at most `limit` bytes, from a peer that is never silent for longer than
/// `silence`. A frame may take far longer than that: on a slow link each byte is a sign of life. Not safe to
/// cancel in the middle.
///
/// # Errors
/// See [`ShellError`].
pub async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
    silence: Duration,
) -> Result<(FrameType, Bytes), ShellError> {
    let header = read_bytes(stream, FRAME_HEADER, silence).await?;
    let mut fixed = [0; FRAME_HEADER];
    fixed.copy_from_slice(&header);
    let (kind, len) = parse_header(fixed, limit)?;
    Ok((kind, read_bytes(stream, len, silence).await?))
}

async fn read_bytes(
    stream: &mut (impl AsyncRead + Unpin),
    len: usize,
    silence: Duration,
) -> Result<Bytes, ShellError> {
    // Grows as bytes arrive, so a lying length costs its sender the bytes.
    let mut bytes = BytesMut::with_capacity(len.min(1 << 20));
    let mut rest = stream.take(len as u64);
    while bytes.len() < len {
        bytes.reserve((len - bytes.len()).min(1 << 20));
        let read = tokio::time::timeout(silence, rest.read_buf(&mut bytes)).await;
        if read.map_err(|_| ShellError::Silent(silence))?? == 0 {
            return Err(ShellError::Closed);
        }
    }
    Ok(bytes.freeze())
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

/// The same, to a peer that takes some of it within any `silence`. A large frame may take far longer than that.
///
/// # Errors
/// See [`ShellError`].
pub async fn write_patiently(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &[u8],
    silence: Duration,
) -> Result<(), ShellError> {
    let mut rest = frame;
    while !rest.is_empty() {
        let taken = tokio::time::timeout(silence, stream.write(rest)).await;
        match taken.map_err(|_| ShellError::Silent(silence))?? {
            0 => return Err(ShellError::Closed),
            n => rest = &rest[n..],
        }
    }
    tokio::time::timeout(silence, stream.flush()).await.map_err(|_| ShellError::Silent(silence))??;
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

#[cfg(test)]
mod tests;
