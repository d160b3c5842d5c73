//! Making a site's control files, once.
//!
//! Invariants: nothing that exists is overwritten; every file is readable by its owner only; what fails half way
//! leaves no file behind. The first admin token is returned and kept nowhere but as a hash.

use crate::ca::{Ca, CaError};
use crate::secret;
use crate::store::{Note, Store, StoreError, TokenRow};
use lifeboat_api::tls::Fingerprint;
use lifeboat_api::types::TokenKind;
use lifeboat_base::{Clock, Entropy};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The CA's certificate, PEM.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// The CA's private key, PEM.
pub const CA_KEY: &str = "ca.key";
/// The store.
pub const STORE: &str = "control.sqlite";

/// Why a site could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{0} exists already; use another directory, or remove the site there first")]
    Exists(PathBuf),
    #[error("there is no site in {0}; make one with `lifeboat init`")]
    Missing(PathBuf),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a person needs of a new site.
#[derive(Debug)]
pub struct NewSite {
    /// Shown once.
    pub admin_token: String,
    pub fingerprint: Fingerprint,
}

/// Makes the CA, the store and the first admin token in the existing directory `dir`.
///
/// # Errors
/// [`InitError::Exists`] when any of its files is there already; nothing is changed then.
pub async fn init(
    dir: &Path,
    site: &str,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<NewSite, InitError> {
    all_or_nothing(dir, site, None, clock, entropy).await
}

/// A site's authority, as a recovery kit has it. PEM.
#[derive(Clone, Copy)]
pub struct Authority<'a> {
    pub certificate: &'a str,
    pub key: &'a str,
}

/// As [`init`], with the authority of a site that is lost, so that its agents trust this one. The store waits for the
/// catalogue of the vault.
///
/// # Errors
/// As [`init`]; when certificate and key do not belong together.
pub async fn attach(
    dir: &Path,
    site: &str,
    authority: Authority<'_>,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<NewSite, InitError> {
    all_or_nothing(dir, site, Some(authority), clock, entropy).await
}

async fn all_or_nothing(
    dir: &Path,
    site: &str,
    authority: Option<Authority<'_>>,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<NewSite, InitError> {
    for file in [CA_CERTIFICATE, CA_KEY, STORE] {
        let path = dir.join(file);
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path));
        }
    }
    let made = make(dir, site, authority, clock, entropy).await;
    if made.is_err() {
        // All of these are ours: none existed before.
        let wal = format!("{STORE}-wal");
        let shm = format!("{STORE}-shm");
        for file in [CA_CERTIFICATE, CA_KEY, STORE, &wal, &shm] {
            let _ = std::fs::remove_file(dir.join(file));
        }
    }
    made
}

async fn make(
    dir: &Path,
    site: &str,
    authority: Option<Authority<'_>>,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<NewSite, InitError> {
    let now = clock.wall();
    let (ca, certificate, key) = match authority {
        None => Ca::create(site, now, entropy)?,
        Some(a) => (
            Ca::load(a.certificate, a.key)?,
            a.certificate.to_string(),
            zeroize::Zeroizing::new(a.key.into()),
        ),
    };
    create(&dir.join(CA_KEY), key.as_bytes())?;
    create(&dir.join(CA_CERTIFICATE), certificate.as_bytes())?;
    // Made here first, so that SQLite's file and those beside it take its permissions.
    create(&dir.join(STORE), b"")?;
    let store = Store::open(&dir.join(STORE), false, clock).await?;
    store.set_meta("site", site).await?;
    if authority.is_some() {
        store.wait_for_catalogue().await?;
    }
    let secret = secret::Secret::random(entropy);
    let token = TokenRow {
        id: secret.id.clone(),
        kind: TokenKind::Admin,
        name: "first-admin".into(),
        hash: secret.hash(),
        created: now,
        expires: None,
        used: false,
        revoked: false,
    };
    let action = if authority.is_some() { "site.attach" } else { "site.init" };
    let note = Note::done("site", action, site, format!("CA {}, token {}", ca.fingerprint(), token.id));
    store.insert_token(&token, &note).await?;
    store.close().await;
    sync_dir(dir)?;
    Ok(NewSite { admin_token: secret.person(), fingerprint: ca.fingerprint() })
}

/// The CA kept in `dir`.
///
/// # Errors
/// [`InitError::Missing`] when there is none.
pub fn load_ca(dir: &Path) -> Result<Ca, InitError> {
    let (certificate, key) = ca_files(dir)?;
    Ok(Ca::load(&certificate, &key)?)
}

/// Certificate and key of the CA kept in `dir`, PEM.
///
/// # Errors
/// [`InitError::Missing`] when there is none.
pub fn ca_files(dir: &Path) -> Result<(String, zeroize::Zeroizing<String>), InitError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => InitError::Missing(dir.to_path_buf()),
            _ => InitError::File { path, source },
        })
    };
    let key = zeroize::Zeroizing::new(read(CA_KEY)?);
    Ok((read(CA_CERTIFICATE)?, key))
}

/// The store kept in `dir`.
///
/// # Errors
/// [`InitError::Missing`] when there is none.
pub async fn open_store(dir: &Path, clock: Arc<dyn Clock>) -> Result<Store, InitError> {
    let path = dir.join(STORE);
    if !path.exists() {
        return Err(InitError::Missing(dir.to_path_buf()));
    }
    Ok(Store::open(&path, false, clock).await?)
}

fn create(path: &Path, content: &[u8]) -> Result<(), InitError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => InitError::Exists(path.to_path_buf()),
        _ => InitError::File { path: path.to_path_buf(), source },
    })
}

fn sync_dir(dir: &Path) -> Result<(), InitError> {
    let sync = || std::fs::File::open(dir)?.sync_all();
    sync().map_err(|source| InitError::File { path: dir.to_path_buf(), source })
}

#[cfg(test)]
mod tests;
