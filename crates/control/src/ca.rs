//! The site's certificate authority.
//!
//! Invariants: it signs exactly two kinds of certificate, told apart by their name: the site's own servers
//! ([`SITE_NAME`], server use only) and agents (`<uuid>.agent.lifeboat` and no other name). From a certificate request
//! only the public key is taken; every name, date and use is decided here. The site's own keys are ECDSA P-256.

use lifeboat_api::tls::{Fingerprint, SITE_NAME};
use lifeboat_base::{AgentId, Entropy, WallTime, limits};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use std::net::IpAddr;
use std::time::Duration;
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(86_400);
const CA_LIFE: Duration = Duration::from_secs(3653 * 86_400);
const SERVER_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Certificates are valid from a little before now, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// What an agent's name ends in, after its id.
const AGENT_SUFFIX: &str = ".agent.lifeboat";

/// How long an agent's certificate lasts. It renews itself long before.
pub const AGENT_LIFE: Duration = Duration::from_secs(7 * DAY.as_secs());

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the certificate request cannot be used: {0}; make it with `lifeboat-agent join`")]
    Request(String),
    #[error("the site's CA cannot be read: {0}; restore its files from a backup of the state directory")]
    Damaged(String),
    #[error("a certificate could not be made: {0}")]
    Make(String),
}

/// The authority with its key.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    fingerprint: Fingerprint,
    expires: WallTime,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// A certificate chain `[leaf, CA]` with its key, both PEM.
pub struct Identity {
    pub chain: String,
    pub key: Zeroizing<String>,
    pub expires: WallTime,
}

/// An agent's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM chain: the agent's certificate, then the CA's.
    pub chain: String,
    /// Hex.
    pub serial: String,
    pub expires: WallTime,
}

impl Ca {
    /// A new authority: itself, its certificate and its key, both PEM.
    ///
    /// # Errors
    /// When the crypto provider fails.
    pub fn create(
        site: &str,
        now: WallTime,
        entropy: &dyn Entropy,
    ) -> Result<(Self, String, Zeroizing<String>), CaError> {
        let key = KeyPair::generate().map_err(made)?;
        let mut params = params(now, CA_LIFE, &format!("Lifeboat site {site}"), entropy);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(made)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok((Self::load(&pem, &key_pem)?, pem, key_pem))
    }

    /// The authority kept in these PEM texts.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together.
    pub fn load(pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let damaged = |e: &dyn std::fmt::Display| CaError::Damaged(e.to_string());
        let key = KeyPair::from_pem(key_pem).map_err(|e| damaged(&e))?;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| damaged(&e))?;
        let certificate = block.parse_x509().map_err(|e| damaged(&e))?;
        if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(damaged(&"its key belongs to another certificate"));
        }
        let expires = from_seconds(certificate.validity().not_after.timestamp());
        let fingerprint = Fingerprint::of(&block.contents);
        let issuer = Issuer::from_ca_cert_pem(pem, key).map_err(|e| damaged(&e))?;
        Ok(Self { issuer, pem: pem.into(), fingerprint, expires })
    }

    /// The CA's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn expires(&self) -> WallTime {
        self.expires
    }

    /// An identity for the site's own listeners. `names` are further host names and addresses for it.
    ///
    /// # Errors
    /// When a name is neither a host name nor an address.
    pub fn server(
        &self,
        names: &[String],
        now: WallTime,
        entropy: &dyn Entropy,
    ) -> Result<Identity, CaError> {
        let key = KeyPair::generate().map_err(made)?;
        let mut params = params(now, SERVER_LIFE, SITE_NAME, entropy);
        let always = [SITE_NAME, "localhost", "127.0.0.1", "::1"];
        for name in always.into_iter().chain(names.iter().map(String::as_str)) {
            let san = match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => {
                    SanType::DnsName(name.try_into().map_err(|e| CaError::Make(format!("'{name}': {e}")))?)
                }
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).map_err(made)?;
        Ok(Identity {
            chain: format!("{}{}", leaf.pem(), self.pem),
            key: Zeroizing::new(key.serialize_pem()),
            expires: now.saturating_add(SERVER_LIFE),
        })
    }

    /// A certificate for an agent's public key, taken from `csr` (PEM, PKCS#10, signed by that key).
    ///
    /// # Errors
    /// [`CaError::Request`] when the request is too large, unreadable, or not signed by its own key.
    pub fn agent(
        &self,
        csr: &str,
        agent: AgentId,
        life: Duration,
        now: WallTime,
        entropy: &dyn Entropy,
    ) -> Result<Issued, CaError> {
        if csr.len() > limits::MAX_CSR {
            return Err(CaError::Request(format!("it is larger than {} bytes", limits::MAX_CSR)));
        }
        let request =
            CertificateSigningRequestParams::from_pem(csr).map_err(|e| CaError::Request(e.to_string()))?;
        let mut params = params(now, life, &agent.to_string(), entropy);
        let name = agent_name(agent);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(made)?)];
        // An agent's own exports are TLS servers under its own name, which is never the site's.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let leaf = params.signed_by(&request.public_key, &self.issuer).map_err(made)?;
        Ok(Issued {
            chain: format!("{}{}", leaf.pem(), self.pem),
            serial: serial.iter().map(|b| format!("{b:02x}")).collect(),
            expires: now.saturating_add(life),
        })
    }
}

/// What a peer's certificate says of it. The chain is verified by TLS before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCertificate {
    pub agent: AgentId,
    pub not_before: WallTime,
    pub not_after: WallTime,
}

impl PeerCertificate {
    /// Reads a certificate (DER); `None` when it is no agent's.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()??;
        let [x509_parser::extensions::GeneralName::DNSName(name)] = names.value.general_names[..] else {
            return None;
        };
        Some(Self {
            agent: name.strip_suffix(AGENT_SUFFIX)?.parse().ok()?,
            not_before: from_seconds(certificate.validity().not_before.timestamp()),
            not_after: from_seconds(certificate.validity().not_after.timestamp()),
        })
    }
}

/// The DNS name an agent's certificate carries.
pub fn agent_name(agent: AgentId) -> String {
    format!("{agent}{AGENT_SUFFIX}")
}

fn made(e: impl std::fmt::Display) -> CaError {
    CaError::Make(e.to_string())
}

fn from_seconds(seconds: i64) -> WallTime {
    WallTime(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000))
}

/// No key usages: QEMU's older versions want key encipherment of every certificate that lists its usages, and one with an
/// elliptic key must not list that (RFC 8813). What a certificate may be used for says its extended key usage.
fn params(now: WallTime, life: Duration, name: &str, entropy: &dyn Entropy) -> CertificateParams {
    let mut params = CertificateParams::default();
    let at = |t: WallTime| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(t.0 / 1_000_000_000);
    params.not_before = at(now.saturating_sub(BACKDATE));
    params.not_after = at(now.saturating_add(life));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    entropy.fill(&mut serial);
    // Positive and of full length in DER, whatever was drawn.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

#[cfg(test)]
mod tests;
