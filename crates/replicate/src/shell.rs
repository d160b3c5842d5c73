//! The thin shell around the state machines: frames over an asynchronous stream, and TLS.
//!
//! Both ends prove who they are (mutual TLS 1.3, the site's own authority only). The site is always
//! verified under one name, [`SITE_NAME`], so that its address may change.

use crate::wire::{FRAME_HEADER, FrameType, WireError, message_frame, parse_header};
use bytes::{Bytes, BytesMut};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The name in every site certificate.
pub const SITE_NAME: &str = "site.lifeboat";

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

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate or key could be read: {0}")]
    Pem(String),
    #[error("certificate and key cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("the authority cannot be used to verify agents: {0}")]
    Verifier(String),
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certs {
        Ok(c) if !c.is_empty() => Ok(c),
        Ok(_) => Err(TlsError::Pem("no certificate in the text".into())),
        Err(e) => Err(TlsError::Pem(e.to_string())),
    }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| TlsError::Pem(e.to_string()))
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for c in certificates(ca_pem)? {
        store.add(c)?;
    }
    Ok(Arc::new(store))
}

/// TLS for the replication listener: clients must show a certificate of `ca_pem`.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(chain_pem: &str, key_pem: &str, ca_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca_pem)?, provider.clone())
        .build()
        .map_err(|e| TlsError::Verifier(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(chain_pem)?, key(key_pem)?)?;
    // Sessions are long; a resumed one would not show its certificate again.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS for an agent: trusts `ca_pem` only and shows its own certificate.
///
/// # Errors
/// See [`TlsError`].
pub fn client_config(chain_pem: &str, key_pem: &str, ca_pem: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_auth_cert(certificates(chain_pem)?, key(key_pem)?)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
