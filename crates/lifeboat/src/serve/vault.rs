//! The vault's places as stores, and its key.
//!
//! Invariants: a place that cannot be reached keeps the site from nothing but the vault: it is opened when it is first
//! needed, and tried again; a vault is made only by `init`, or by the first start of a site from before there were
//! vaults, and never over anything that is there.

use super::config::vault::{Place, Vault as VaultConfig};
use super::keys;
use crate::failure::{Exit, Failure, Outcome};
use bytes::Bytes;
use lifeboat_base::{Clock, Entropy, Secret, SystemClock, WallTime};
use lifeboat_control::kit::{KitPlace, KitSource};
use lifeboat_site::vault::VaultSettings;
use lifeboat_vault::store::copies::Copies;
use lifeboat_vault::store::dir::DirStore;
use lifeboat_vault::store::probe::{Verdict, probe};
use lifeboat_vault::store::s3::{S3Keys, S3Settings, S3Store};
use lifeboat_vault::store::{Locked, ObjectInfo, Part, Put, Store};
use lifeboat_vault::{ObjectName, StoreError, Vault, VaultError, VaultOptions};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The local index, within the state directory: a cache.
pub const INDEX: &str = "vault-index.redb";

/// Largest file of authorities that is read, in bytes.
const MAX_CA: u64 = 1 << 20;

/// A place that is opened when it is first needed.
struct Late {
    place: Place,
    dir: PathBuf,
    entropy: Arc<dyn Entropy>,
    opened: OnceLock<Arc<dyn Store>>,
}

impl Late {
    fn store(&self) -> Result<&dyn Store, StoreError> {
        if let Some(store) = self.opened.get() {
            return Ok(&**store);
        }
        let store = open_place(&self.place, &self.dir, &self.entropy, false)?;
        Ok(&**self.opened.get_or_init(|| store))
    }
}

impl Store for Late {
    fn describe(&self) -> String {
        self.opened.get().map_or_else(|| self.place.location.clone(), |s| s.describe())
    }

    fn has_locks(&self) -> Result<bool, StoreError> {
        self.store()?.has_locks()
    }

    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        self.store()?.put_new(name, body)
    }

    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        self.store()?.get(name, part)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.store()?.size(name)
    }

    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.store()?.list(prefix, found)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.store()?.delete(name)
    }

    fn lock(&self, name: &ObjectName, until: WallTime) -> Result<Locked, StoreError> {
        self.store()?.lock(name, until)
    }

    fn reap(&self) -> Result<u64, StoreError> {
        self.store()?.reap()
    }
}

/// Opens a place; with `make`, a directory that is not there is made.
fn open_place(
    place: &Place,
    dir: &Path,
    entropy: &Arc<dyn Entropy>,
    make: bool,
) -> Result<Arc<dyn Store>, StoreError> {
    if !place.is_s3() {
        let root = place.directory(dir);
        let store = if make { DirStore::create(root)? } else { DirStore::open(root)? };
        return Ok(Arc::new(store));
    }
    let broken = |why: String| StoreError::Broken { store: place.location.clone(), why };
    let mut settings = S3Settings::parse(&place.location).map_err(broken)?;
    settings.endpoint = place.endpoint.clone();
    if let Some(region) = &place.region {
        settings.region = region.clone();
    }
    settings.path_style = place.path_style;
    settings.allow_http = place.allow_http;
    if let Some(path) = &place.ca {
        settings.ca = Some(read_ca(path).map_err(broken)?);
    }
    if let Some(path) = &place.access_key_file {
        let profile = place.profile.clone().unwrap_or_else(|| "default".into());
        settings.keys = S3Keys::File { path: path.clone(), profile };
    }
    Ok(Arc::new(S3Store::new(settings, Arc::clone(entropy))?))
}

fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    file.and_then(|f| f.take(MAX_CA).read_to_end(&mut bytes))
        .map(|_| bytes)
        .map_err(|e| format!("cannot read the authorities in {}: {e}", path.display()))
}

/// All places as one store. Nothing is asked of them yet.
fn store(config: &VaultConfig, dir: &Path, entropy: &Arc<dyn Entropy>) -> Outcome<Arc<dyn Store>> {
    let late = |place: Place| -> Arc<dyn Store> {
        let (dir, entropy) = (dir.to_path_buf(), Arc::clone(entropy));
        Arc::new(Late { place, dir, entropy, opened: OnceLock::new() })
    };
    let mut stores: Vec<Arc<dyn Store>> = config.places().into_iter().map(late).collect();
    match stores.len() {
        1 => Ok(stores.remove(0)),
        _ => {
            let quorum = usize::try_from(config.quorum()).unwrap_or(usize::MAX);
            let copies = Copies::new(stores, quorum, Arc::new(SystemClock)).map_err(VaultError::from)?;
            Ok(Arc::new(copies))
        }
    }
}

/// What the data side is told of the vault; `None` where there is none.
///
/// # Errors
/// When its key is missing or damaged.
pub fn settings(
    config: &VaultConfig,
    dir: &Path,
    entropy: &Arc<dyn Entropy>,
) -> Outcome<Option<VaultSettings>> {
    if config.off {
        return Ok(None);
    }
    let mut site_keys = vec![Secret(*keys::load_vault(dir)?)];
    if let Some(next) = keys::next_vault(dir)? {
        tracing::warn!(
            "replacing the vault's key was cut off: end this site and run `lifeboat vault key replace` again"
        );
        site_keys.push(Secret(*next));
    }
    let mut settings = VaultSettings::new(store(config, dir, entropy)?, site_keys, dir.join(INDEX));
    settings.scrub_rate = config.scrub_rate.0;
    settings.tier_rate = config.tier_rate.0;
    settings.quorum = config.quorum();
    settings.directories = config.places().iter().filter(|p| !p.is_s3()).map(|p| p.directory(dir)).collect();
    Ok(Some(settings))
}

/// What recovery kits are made of; `None` where there is no vault.
///
/// # Errors
/// When a key cannot be read.
pub fn kit_source(config: &VaultConfig, site: &str, dir: &Path) -> Outcome<Option<KitSource>> {
    if config.off {
        return Ok(None);
    }
    let (ca_certificate, ca_key) = lifeboat_control::init::ca_files(dir)?;
    let place = |p: Place| KitPlace {
        location: if p.is_s3() { p.location } else { p.directory(dir).display().to_string() },
        endpoint: p.endpoint,
        region: p.region,
        path_style: p.path_style,
        allow_http: p.allow_http,
    };
    Ok(Some(KitSource {
        site: site.into(),
        vault_key: keys::to_hex(&keys::load_vault(dir)?),
        ca_certificate,
        ca_key,
        places: config.places().into_iter().map(place).collect(),
        quorum: config.quorum(),
    }))
}

/// Tries whether each place can hold a vault, and makes one there. Blocks.
///
/// # Errors
/// When a place cannot hold one, or there is one already.
pub fn create(
    config: &VaultConfig,
    dir: &Path,
    key: &keys::Key,
    clock: &dyn Clock,
    entropy: &Arc<dyn Entropy>,
) -> Outcome<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for place in config.places() {
        let verdict = try_place(&place, dir, entropy)?;
        if !verdict.usable {
            return Err(Failure::new(Exit::Refused, verdict.text));
        }
        verdicts.push(verdict);
    }
    Vault::create(&*store(config, dir, entropy)?, &Secret(**key), clock, &**entropy)?;
    Ok(verdicts)
}

/// Finds out whether a place can hold a vault. Blocks.
///
/// # Errors
/// When its settings cannot be used.
pub fn try_place(place: &Place, dir: &Path, entropy: &Arc<dyn Entropy>) -> Outcome<Verdict> {
    let store = open_place(place, dir, entropy, true).map_err(VaultError::from)?;
    Ok(probe(&*store, &**entropy))
}

/// A site that never had a vault gets one where `site.toml` says, or in its directory, once. Blocks.
///
/// # Errors
/// When it cannot be made; the site goes on without one until its next start.
pub fn upgrade(config: &VaultConfig, dir: &Path, clock: &dyn Clock, entropy: &Arc<dyn Entropy>) -> Outcome {
    if config.off || keys::has_vault(dir) {
        return Ok(());
    }
    let begun = keys::begun_vault(dir)?;
    let local = config.places().iter().any(|p| !p.is_s3() && p.directory(dir).join("vault").exists());
    if begun.is_none() && (local || dir.join(INDEX).exists()) {
        // There was a vault, and its key is lost: said by name when the key is loaded.
        return Ok(());
    }
    let key = match begun {
        Some(key) => key,
        None => keys::begin_vault(dir, &**entropy)?,
    };
    match create(config, dir, &key, clock, entropy) {
        Ok(_) => {}
        // Made by a start that was cut off before it said so; the key it began with opens it.
        Err(_) if opens(config, dir, &key, entropy) => {}
        Err(e) => return Err(e),
    }
    keys::finish_vault(dir)?;
    tracing::info!(
        location = config.location,
        "this site has a vault now; make a recovery kit: lifeboat vault key kit"
    );
    Ok(())
}

fn opens(config: &VaultConfig, dir: &Path, key: &keys::Key, entropy: &Arc<dyn Entropy>) -> bool {
    open(config, dir, key, entropy).is_ok()
}

/// What opens the vault without a local index.
///
/// # Errors
/// When its places do not fit each other.
pub fn options(
    config: &VaultConfig,
    dir: &Path,
    site_keys: Vec<Secret>,
    entropy: &Arc<dyn Entropy>,
) -> Outcome<VaultOptions> {
    let (store, settings) = (store(config, dir, entropy)?, lifeboat_vault::Settings::default());
    Ok(VaultOptions { store, site_keys, index: None, settings })
}

/// The id of the vault that `key` opens. Blocks.
///
/// # Errors
/// When there is none, or it is not opened by it.
pub fn open(
    config: &VaultConfig,
    dir: &Path,
    key: &keys::Key,
    entropy: &Arc<dyn Entropy>,
) -> Outcome<lifeboat_vault::VaultId> {
    let options = options(config, dir, vec![Secret(**key)], entropy)?;
    let vault = Vault::open(options, Arc::new(SystemClock), Arc::clone(entropy))?;
    Ok(vault.id())
}

impl From<VaultError> for Failure {
    fn from(e: VaultError) -> Self {
        let exit = match &e {
            VaultError::NoVault(_) | VaultError::Store(StoreError::NotFound(_)) => Exit::NotFound,
            VaultError::Store(StoreError::Unreachable { .. }) => Exit::Unavailable,
            VaultError::Store(StoreError::Denied { .. } | StoreError::Locked { .. })
            | VaultError::Refused { .. }
            | VaultError::Version { .. } => Exit::Refused,
            VaultError::WrongKey | VaultError::Damaged { .. } | VaultError::Missing(_) => Exit::Corrupt,
            _ => Exit::Failed,
        };
        let failure = Self::new(exit, e.to_string());
        match &e {
            VaultError::Store(StoreError::Denied { .. }) => failure.hint(
                "check the access key and the bucket's policy; `lifeboat vault probe` tries each right",
            ),
            VaultError::Store(StoreError::Unreachable { .. }) => {
                failure.hint("check location and endpoint, and that the network or the disk is there")
            }
            VaultError::NoVault(_) => failure.hint("check the location: bucket, prefix or directory"),
            VaultError::WrongKey => failure.hint("use the recovery kit of this very vault"),
            _ => failure,
        }
    }
}
