//! The recovery kit: with it and the vault a new site recovers everything, without it a vault is noise.
//!
//! ```text
//! Lifeboat recovery kit ...                    for people: what this is, and what to do
//! -----BEGIN AGE ENCRYPTED FILE-----           age, armored; to a passphrase (scrypt) or a recipient
//!   JSON: format, site, vault, made, vault_key, ca_certificate, ca_key, places, quorum
//! -----END AGE ENCRYPTED FILE-----
//! ```
//!
//! Invariants: secrets stand inside the armor only, and credentials of an object store nowhere; the text before the
//! armor is not proven by anything, so nothing in it is believed when a kit is opened. A kit of a later format is
//! refused by name. Any `age` program opens it, too.

use age::secrecy::SecretString;
use lifeboat_api::types::KitRequest;
use lifeboat_base::WallTime;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// The newest format this version writes and reads.
pub const FORMAT: u16 = 1;
/// Largest kit that is read, in bytes.
pub const MAX_KIT: u64 = 256 << 10;
/// Shortest passphrase, in characters.
pub const MIN_PASSPHRASE: usize = 12;
/// Work for one guess at the passphrase: 2^18 rounds of scrypt, about a second. The same everywhere, so that a kit
/// made by a fast machine is opened by a slow one.
const WORK: u8 = 18;
const MAX_WORK: u8 = 22;
const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";

/// Why a kit could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    #[error("the passphrase is shorter than {MIN_PASSPHRASE} characters; use several words")]
    Short,
    #[error("'{0}' is no age recipient; it begins with age1 and age-keygen prints it")]
    Recipient(String),
    #[error("this is no recovery kit: {0}")]
    NoKit(String),
    #[error("the passphrase, or the identity, does not open this recovery kit")]
    WrongSecret,
    #[error(
        "the recovery kit is of format {0}; this version of Lifeboat reads up to {FORMAT}, so use a newer one"
    )]
    Newer(u16),
    #[error("the recovery kit could not be made: {0}")]
    Make(String),
}

/// One place of the vault, as `site.toml` has it, without credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitPlace {
    /// Directory or URL.
    pub location: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default)]
    pub path_style: bool,
    #[serde(default)]
    pub allow_http: bool,
}

impl KitPlace {
    /// How it is named on the command line besides.
    fn flags(&self) -> String {
        let mut flags = String::new();
        for (flag, value) in [("--endpoint", &self.endpoint), ("--region", &self.region)] {
            if let Some(value) = value {
                flags.push_str(&format!(" {flag} {value}"));
            }
        }
        for (flag, set) in [("--path-style", self.path_style), ("--allow-http", self.allow_http)] {
            if set {
                flags.push_str(&format!(" {flag}"));
            }
        }
        flags
    }
}

/// What of a kit does not change while a site runs.
#[derive(Clone)]
pub struct KitSource {
    pub site: String,
    /// The site's key, which the vault's own keys are wrapped with: 64 hexadecimal digits.
    pub vault_key: zeroize::Zeroizing<String>,
    pub ca_certificate: String,
    pub ca_key: zeroize::Zeroizing<String>,
    pub places: Vec<KitPlace>,
    pub quorum: u32,
}

impl fmt::Debug for KitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KitSource").field("site", &self.site).finish_non_exhaustive()
    }
}

/// What stands in the armor. Later versions read it back: fields are only ever added, with a default.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitContent {
    pub format: u16,
    pub site: String,
    /// 32 hexadecimal digits.
    pub vault: String,
    pub made: WallTime,
    /// 64 hexadecimal digits.
    pub vault_key: String,
    pub ca_certificate: String,
    pub ca_key: String,
    pub places: Vec<KitPlace>,
    pub quorum: u32,
}

impl Drop for KitContent {
    fn drop(&mut self) {
        self.vault_key.zeroize();
        self.ca_key.zeroize();
    }
}

impl fmt::Debug for KitContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KitContent")
            .field("site", &self.site)
            .field("vault", &self.vault)
            .finish_non_exhaustive()
    }
}

impl KitContent {
    pub fn new(source: &KitSource, vault: &str, made: WallTime) -> Self {
        Self {
            format: FORMAT,
            site: source.site.clone(),
            vault: vault.into(),
            made,
            vault_key: source.vault_key.to_string(),
            ca_certificate: source.ca_certificate.clone(),
            ca_key: source.ca_key.to_string(),
            places: source.places.clone(),
            quorum: source.quorum,
        }
    }

    /// Encrypts it. Takes about a second for a passphrase, on a thread that may block.
    ///
    /// # Errors
    /// When the passphrase is too short or the recipient is none.
    pub fn seal(&self, to: &KitRequest) -> Result<String, KitError> {
        let plain = serde_json::to_vec(self).map(zeroize::Zeroizing::new).map_err(make)?;
        let (armored, opens) = match to {
            KitRequest::Passphrase(p) => {
                if p.chars().count() < MIN_PASSPHRASE {
                    return Err(KitError::Short);
                }
                let mut recipient = age::scrypt::Recipient::new(SecretString::from(p.clone()));
                recipient.set_work_factor(WORK);
                (age::encrypt_and_armor(&recipient, &plain).map_err(make)?, "passphrase it was made with")
            }
            KitRequest::Recipient(r) => {
                let bad = |_| KitError::Recipient(crate::validate::shown(r));
                let recipient: age::x25519::Recipient = r.trim().parse().map_err(bad)?;
                (age::encrypt_and_armor(&recipient, &plain).map_err(make)?, "age identity it was made for")
            }
        };
        Ok(format!("{}{armored}\n", self.words(opens)))
    }

    /// For people, at three in the morning.
    fn words(&self, opens: &str) -> String {
        let line =
            |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let place = self.places.first().map_or("LOCATION".into(), |p| line(&p.location));
        let flags = self.places.first().map_or(String::new(), |p| line(&p.flags()));
        let places: Vec<String> =
            self.places.iter().map(|p| format!("    {}\n", line(&p.location))).collect();
        format!(
            "Lifeboat recovery kit of the site '{site}', made {made}

This file and the vault bring everything back after the site is lost: keys of the vault, the site's
certificate authority, and where the vault is. It opens with the {opens}.
Whoever has both can read all that was ever backed up: keep it apart from the site and from the vault.

    vault {vault}
{places}
What to do when the site is gone:
  1. Install lifeboat on a new machine. Have the credentials of the object store at hand, if it is one.
  2. lifeboat vault attach {place} --kit THIS-FILE --dir /srv/lifeboat{flags}
  3. lifeboat serve --dir /srv/lifeboat
  4. lifeboat login, as step 2 printed it; then: lifeboat status, lifeboat points SERVER
  5. lifeboat drill SERVER, or for real: lifeboat failover SERVER

",
            site = line(&self.site),
            made = self.made,
            vault = self.vault,
            places = places.concat(),
        )
    }
}

/// What opens a kit.
pub enum KitSecret {
    Passphrase(zeroize::Zeroizing<String>),
    /// The text of an age identity file.
    Identity(zeroize::Zeroizing<String>),
}

/// Opens a kit. Takes about a second for a passphrase, on a thread that may block.
///
/// # Errors
/// When it is none, is damaged, of a later format, or opens with something else.
pub fn open(text: &str, secret: &KitSecret) -> Result<KitContent, KitError> {
    let at = text.find(BEGIN).ok_or_else(|| KitError::NoKit("it has no encrypted part".into()))?;
    let armored = &text.as_bytes()[at..];
    let opened = match secret {
        KitSecret::Passphrase(p) => {
            let mut identity = age::scrypt::Identity::new(SecretString::from(p.to_string()));
            identity.set_max_work_factor(MAX_WORK);
            age::decrypt(&identity, armored)
        }
        KitSecret::Identity(text) => {
            let line = text.lines().map(str::trim).find(|l| l.starts_with("AGE-SECRET-KEY-"));
            let identity = line.and_then(|l| l.parse::<age::x25519::Identity>().ok());
            let identity = identity.ok_or(KitError::NoKit(
                "the identity file has no line that begins with AGE-SECRET-KEY-".into(),
            ))?;
            age::decrypt(&identity, armored)
        }
    };
    let plain = zeroize::Zeroizing::new(opened.map_err(refused)?);
    #[derive(Deserialize)]
    struct Head {
        format: u16,
    }
    let broken = |e: serde_json::Error| KitError::NoKit(format!("its content makes no sense ({e})"));
    let head: Head = serde_json::from_slice(&plain).map_err(broken)?;
    if head.format > FORMAT {
        return Err(KitError::Newer(head.format));
    }
    serde_json::from_slice(&plain).map_err(broken)
}

fn refused(e: age::DecryptError) -> KitError {
    use age::DecryptError as E;
    match e {
        E::NoMatchingKeys | E::KeyDecryptionFailed | E::DecryptionFailed => KitError::WrongSecret,
        E::ExcessiveWork { required, .. } => {
            KitError::NoKit(format!("its passphrase takes more work (2^{required}) than this version spends"))
        }
        E::UnknownFormat => KitError::NoKit("its encryption is of a later version of age".into()),
        other => KitError::NoKit(format!("it is damaged ({other})")),
    }
}

fn make(e: impl fmt::Display) -> KitError {
    KitError::Make(e.to_string())
}

#[cfg(test)]
mod tests;
