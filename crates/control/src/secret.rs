//! Tokens as people see them.
//!
//! ```text
//! person  lb_<id>_<secret>
//! agent   lbj_<id>_<secret>_<fingerprint of the site's CA>
//!         id: 16 hex digits, public   secret: 64 hex digits   fingerprint: 64 hex digits
//! ```
//!
//! Invariants: the secret has 256 random bits; only its BLAKE3 hash is stored; hashes are compared in constant time;
//! a secret never appears in `Debug` output.

use lifeboat_api::tls::Fingerprint;
use lifeboat_base::Entropy;
use std::fmt;
use zeroize::Zeroizing;

const ID: usize = 16;
const SECRET: usize = 64;

/// The id and secret of one token.
pub struct Secret {
    pub id: String,
    secret: Zeroizing<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Secret {
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut id = [0; ID / 2];
        let mut secret = Zeroizing::new([0; SECRET / 2]);
        entropy.fill(&mut id);
        entropy.fill(&mut *secret);
        Self { id: hex(&id), secret: Zeroizing::new(hex(&*secret)) }
    }

    /// Reads a person's token.
    pub fn parse_person(token: &str) -> Option<Self> {
        Self::parse(token.strip_prefix("lb_")?)
    }

    /// Reads an agent's join token. The fingerprint in it is for the agent.
    pub fn parse_join(token: &str) -> Option<Self> {
        let (own, fingerprint) = token.strip_prefix("lbj_")?.rsplit_once('_')?;
        fingerprint.parse::<Fingerprint>().ok()?;
        Self::parse(own)
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('_')?;
        let hex = |t: &str, len| t.len() == len && t.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        (hex(id, ID) && hex(secret, SECRET))
            .then(|| Self { id: id.into(), secret: Zeroizing::new(secret.into()) })
    }

    /// As a person gets it.
    pub fn person(&self) -> String {
        format!("lb_{}_{}", self.id, *self.secret)
    }

    /// As an agent gets it, with the CA to trust.
    pub fn join(&self, ca: Fingerprint) -> String {
        format!("lbj_{}_{}_{ca}", self.id, *self.secret)
    }

    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.secret.as_bytes()).as_bytes()
    }

    /// Compares with a stored hash, in constant time.
    pub fn matches(&self, stored: &[u8; 32]) -> bool {
        blake3::hash(self.secret.as_bytes()) == blake3::Hash::from_bytes(*stored)
    }
}

#[cfg(test)]
mod tests;
