//! Who is who on the wire.
//!
//! Invariants: TLS 1.3 only, with one provider (`aws_lc_rs`), never the process default. The site's own CA is the
//! only authority: a server is the site when its leaf chains to that CA, is meant for servers and carries the name
//! [`SITE_NAME`]. The address it was reached at proves nothing and is not compared. A client that knows nothing but
//! the CA's fingerprint finds the CA in the chain the server presents, which is therefore always `[leaf, CA]`.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name every server certificate of a site carries, and the only one clients ask for.
pub const SITE_NAME: &str = "site.lifeboat";

/// Most certificates looked at in a presented chain.
const MAX_CHAIN: usize = 4;

/// SHA-256 of a certificate's DER. Written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// Of the first certificate in a PEM text.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_pem(pem: &str) -> Result<Self, TlsError> {
        let first = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| TlsError::certificate(&e))?;
        Ok(Self::of(&first))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = TlsError;

    /// Reads 64 hex digits in either case; colons between them are ignored.
    fn from_str(s: &str) -> Result<Self, TlsError> {
        let digits: Vec<u8> = s.trim().bytes().filter(|c| *c != b':').take(65).collect();
        let mut out = [0; 32];
        if digits.len() != 64 {
            return Err(TlsError::Fingerprint);
        }
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |c: u8| (c as char).to_digit(16).ok_or(TlsError::Fingerprint);
            *byte =
                u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).map_err(|_| TlsError::Fingerprint)?;
        }
        Ok(Self(out))
    }
}

/// Why a TLS configuration could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error(
        "not a certificate fingerprint; it is 64 hex digits, printed by `lifeboat init` and part of every join token"
    )]
    Fingerprint,
    #[error("the certificate cannot be read: {0}; it must be PEM as the site wrote it")]
    Certificate(String),
    #[error("the private key cannot be read: {0}; it must be PEM as it was written when it was made")]
    Key(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl TlsError {
    fn certificate(e: &dyn fmt::Display) -> Self {
        Self::Certificate(e.to_string())
    }

    fn setup(e: &dyn fmt::Display) -> Self {
        Self::Setup(e.to_string())
    }
}

/// The one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client that knows the site by its CA's fingerprint only.
///
/// # Errors
/// [`TlsError::Setup`] when the provider cannot do TLS 1.3.
pub fn client_config_pinned(fingerprint: Fingerprint) -> Result<ClientConfig, TlsError> {
    Ok(client(Authority::Pinned(fingerprint))?.with_no_client_auth())
}

/// A client that has the site's CA certificate.
///
/// # Errors
/// When the PEM text holds no usable certificate.
pub fn client_config(ca_pem: &str) -> Result<ClientConfig, TlsError> {
    Ok(client(Authority::Known(roots(ca_pem)?))?.with_no_client_auth())
}

/// A client that also proves who it is: an agent. `chain_pem` is its own certificate first.
///
/// # Errors
/// When a PEM text cannot be read or the key does not fit the certificate.
pub fn client_config_mutual(ca_pem: &str, chain_pem: &str, key_pem: &str) -> Result<ClientConfig, TlsError> {
    client(Authority::Known(roots(ca_pem)?))?
        .with_client_auth_cert(chain(chain_pem)?, key(key_pem)?)
        .map_err(|e| TlsError::setup(&e))
}

/// The API's server: clients bring a token, not a certificate. `chain_pem` is `[leaf, CA]`.
///
/// # Errors
/// When a PEM text cannot be read or the key does not fit the certificate.
pub fn server_config(chain_pem: &str, key_pem: &str) -> Result<ServerConfig, TlsError> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::setup(&e))?
        .with_no_client_auth()
        .with_single_cert(chain(chain_pem)?, key(key_pem)?)
        .map_err(|e| TlsError::setup(&e))
}

/// The replication listener: every peer must show a certificate of the site's CA. Sessions are never resumed, so
/// each connection proves itself anew and a revoked peer has no ticket to come back with.
///
/// # Errors
/// When a PEM text cannot be read or the key does not fit the certificate.
pub fn server_config_mutual(chain_pem: &str, key_pem: &str, ca_pem: &str) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider())
        .build()
        .map_err(|e| TlsError::setup(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::setup(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(chain_pem)?, key(key_pem)?)
        .map_err(|e| TlsError::setup(&e))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// [`SITE_NAME`] as rustls wants it.
pub fn site_name() -> ServerName<'static> {
    ServerName::try_from(SITE_NAME).expect("the constant is a DNS name")
}

fn client(
    authority: Authority,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let provider = provider();
    let verifier = SiteVerifier { authority, provider: provider.clone() };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::setup(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CHAIN)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::certificate(&e))?;
    if all.is_empty() { Err(TlsError::Certificate("the text holds none".into())) } else { Ok(all) }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| TlsError::Key(e.to_string()))
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(ca_pem)? {
        store.add(certificate).map_err(|e| TlsError::certificate(&e))?;
    }
    Ok(store)
}

/// How a client knows the site's CA.
#[derive(Debug)]
enum Authority {
    Pinned(Fingerprint),
    Known(RootCertStore),
}

#[derive(Debug)]
struct SiteVerifier {
    authority: Authority,
    provider: Arc<CryptoProvider>,
}

impl SiteVerifier {
    /// The CA to verify against, or why the presented chain cannot be the site's.
    fn roots(&self, presented: &[CertificateDer<'_>]) -> Result<RootCertStore, RustlsError> {
        match &self.authority {
            Authority::Known(roots) => Ok(roots.clone()),
            Authority::Pinned(want) => {
                let ca = presented
                    .iter()
                    .take(MAX_CHAIN)
                    .find(|c| Fingerprint::of(c) == *want)
                    .ok_or(RustlsError::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut roots = RootCertStore::empty();
                roots.add(ca.clone().into_owned())?;
                Ok(roots)
            }
        }
    }
}

impl ServerCertVerifier for SiteVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _reached_as: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let roots = self.roots(intermediates)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        // No intermediate CA exists, so none is offered: the leaf is signed by the CA itself.
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, algorithms)?;
        verify_server_name(&leaf, &site_name())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod tests;
