//! What a site is made of: store and control on one side, the data side on the other, joined by the
//! two ports of `lifeboat_api::port`. The only file that knows all of them.

use crate::failure::{Exit, Failure, Outcome};
use crate::serve::attach::blocking;
use crate::serve::config::SiteConfig;
use crate::serve::config::vault::Vault as VaultConfig;
use crate::serve::{keys, listen, vault};
use lifeboat_api::port::{ControlPort, SitePort};
use lifeboat_api::tls::{Fingerprint, server_config};
use lifeboat_base::{Clock, Entropy, SystemClock, SystemEntropy};
use lifeboat_control::init::{Authority, InitError};
use lifeboat_control::kit::KitContent;
use lifeboat_control::store::Store;
use lifeboat_control::{AGENT_LIFE, App, ControlConfig, Gate};
use lifeboat_site::port::SiteHandle;
use lifeboat_site::{Site, SiteSettings};
use std::fmt::Display;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Settings and listeners of a site that is about to start.
pub struct Parts<'a> {
    pub dir: &'a Path,
    pub config: &'a SiteConfig,
    pub api: TcpListener,
    pub replication: TcpListener,
}

/// What `init` made, to be shown once.
#[derive(Debug)]
pub struct Made {
    pub fingerprint: Fingerprint,
    pub token: String,
    /// What was found of the places the vault is kept in.
    pub vault: Vec<String>,
}

/// Makes keys, CA, store, the first token and the vault in an empty directory.
///
/// # Errors
/// When something cannot be written, or the place named cannot hold a vault; the caller takes everything back.
pub async fn init(dir: &Path, config: &SiteConfig) -> Outcome<Made> {
    keys::create(dir, None, &SystemEntropy)?;
    let made = lifeboat_control::init::init(dir, &config.name, Arc::new(SystemClock), &SystemEntropy).await?;
    // Last, because what is made in a bucket is not taken back.
    let vault = match config.vault.off {
        true => Vec::new(),
        false => {
            let (config, dir, key) = (config.vault.clone(), dir.to_path_buf(), keys::load_vault(dir)?);
            let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
            blocking(move || vault::create(&config, &dir, &key, &SystemClock, &entropy)).await?
        }
    };
    let vault = vault.into_iter().map(|v| v.text).collect();
    Ok(Made { fingerprint: made.fingerprint, token: made.admin_token, vault })
}

/// Makes a site in an empty directory that has a lost site's keys and CA.
///
/// # Errors
/// When something cannot be written; the caller takes everything back.
pub async fn attach(dir: &Path, config: &SiteConfig, kit: &KitContent, key: &keys::Key) -> Outcome<Made> {
    keys::create(dir, Some(key), &SystemEntropy)?;
    let authority = Authority { certificate: &kit.ca_certificate, key: &kit.ca_key };
    let clock = Arc::new(SystemClock);
    let made = lifeboat_control::init::attach(dir, &config.name, authority, clock, &SystemEntropy).await?;
    Ok(Made { fingerprint: made.fingerprint, token: made.admin_token, vault: Vec::new() })
}

/// The API's description, as the code makes it.
pub fn openapi() -> String {
    lifeboat_control::openapi_json()
}

/// Where the vault is, after one was made for a site that never had one. What fails there keeps nothing else from working.
async fn with_vault(
    config: &SiteConfig,
    dir: &Path,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> VaultConfig {
    let (wanted, dir, clock, entropy) =
        (config.vault.clone(), dir.to_path_buf(), Arc::clone(clock), Arc::clone(entropy));
    let made = blocking(move || vault::upgrade(&wanted, &dir, &*clock, &entropy)).await;
    match made {
        Ok(()) => config.vault.clone(),
        Err(error) => {
            tracing::error!(%error, "this site has no vault: it could not be made, which is tried again at the next start");
            VaultConfig { off: true, ..config.vault.clone() }
        }
    }
}

/// A site that runs.
pub struct Running {
    fingerprint: Fingerprint,
    app: Arc<App>,
    site: Arc<Site>,
    store: Store,
    stop_api: watch::Sender<bool>,
    api_ended: watch::Receiver<bool>,
}

/// Starts everything. Listeners are bound already, so nothing outside sees a site that cannot start.
///
/// # Errors
/// When keys, store or journals cannot be opened.
pub async fn start(parts: Parts<'_>) -> Outcome<Running> {
    let Parts { dir, config, api, replication } = parts;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let port = replication.local_addr().map_err(|e| Failure::io("find the replication port", &e))?.port();

    let journal_key = keys::load(dir)?;
    let vault = with_vault(config, dir, &clock, &entropy).await;
    let store = lifeboat_control::init::open_store(dir, clock.clone()).await?;
    let ca = Arc::new(lifeboat_control::init::load_ca(dir)?);
    // Made anew at each start: it is never older than the process, and no key of it is kept.
    let identity =
        ca.server(&config.advertise, clock.wall(), &*entropy).map_err(failed("make the certificate"))?;
    let gate = Gate::open(store.clone(), ca.clone(), clock.clone(), entropy.clone(), AGENT_LIFE)
        .await
        .map_err(failed("open the store"))?;

    let settings = SiteSettings {
        dir: dir.to_path_buf(),
        replication,
        chain_pem: identity.chain.clone(),
        key_pem: identity.key.clone(),
        ca_pem: ca.pem().to_string(),
        journal_key,
        accel: config.machines.acceleration.forced(),
        vault: vault::settings(&vault, dir, &entropy)?,
    };
    let site =
        Site::start(settings, clock.clone(), entropy.clone()).await.map_err(failed("start the data side"))?;
    site.set_control(gate.clone() as Arc<dyn ControlPort>);

    let control = ControlConfig {
        site: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        replication: format!("{}:{port}", config.advertised_host()),
        rpo_alarm: Duration::from_secs(config.alarms.rpo_seconds),
        server_certificate_expires: Some(identity.expires),
        scripts: Some(dir.join("scripts")),
        kit: vault::kit_source(&vault, &config.name, dir)?,
        ..ControlConfig::default()
    };
    let app = App::new(
        store.clone(),
        gate,
        Arc::new(SiteHandle(site.clone())) as Arc<dyn SitePort>,
        clock,
        entropy,
        control,
    );
    app.start();

    let tls = Arc::new(server_config(&identity.chain, &identity.key).map_err(failed("set up TLS"))?);
    let address = listen::address(&api);
    let listener = tokio::net::TcpListener::from_std(api)
        .map_err(|e| Failure::io(format_args!("listen on {address}"), &e))?;
    let (stop_api, mut stopping) = watch::channel(false);
    let (ended, api_ended) = watch::channel(false);
    let serving = lifeboat_control::serve(listener, tls, app.clone(), async move {
        // An error means that the sender is gone, which is a stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    });
    // Twice spawned, so that a panic inside is an end like any other.
    let serving = tokio::spawn(serving);
    tokio::spawn(async move {
        let _ = serving.await;
        let _ = ended.send(true);
    });
    Ok(Running { fingerprint: ca.fingerprint(), app, site, store, stop_api, api_ended })
}

impl Running {
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Resolves when a part ended that should not have.
    pub async fn failed(&self) -> &'static str {
        let _ = self.api_ended.clone().wait_for(|ended| *ended).await;
        "the API"
    }

    /// Ends everything in the order in which it is needed: people first, then decisions, then data.
    pub async fn shutdown(mut self) {
        let _ = self.stop_api.send(true);
        let _ = self.api_ended.wait_for(|ended| *ended).await;
        self.app.stop().await;
        self.site.shutdown().await;
        self.store.close().await;
    }
}

impl From<InitError> for Failure {
    fn from(e: InitError) -> Self {
        let exit = match e {
            InitError::Exists(_) => Exit::Refused,
            InitError::Missing(_) => Exit::NotFound,
            InitError::Ca(_) => Exit::Corrupt,
            InitError::File { .. } | InitError::Store(_) => Exit::Failed,
        };
        Self::new(exit, e.to_string())
    }
}

/// Puts what was being done before an error.
fn failed<E: Display>(doing: &'static str) -> impl FnOnce(E) -> Failure {
    move |e| Failure::failed(format!("cannot {doing}: {e}"))
}
