//! The data side of a site: receives streams, keeps journals, serves points, runs machines.
//!
//! ```text
//!  agents --mTLS--> listen --> server (one worker thread owns each journal)
//!                                |  reader
//!                              mount --NBD--> tools, launch --> QEMU
//! ```
//! It decides nothing: control does, through [`lifeboat_api::port::SitePort`].

pub mod backup;
pub(crate) mod branches;
mod check;
pub mod disk_files;
pub mod errors;
mod groups;
mod health;
pub mod lag;
pub mod launch;
pub mod listen;
pub mod mount;
mod owners;
pub mod port;
pub mod rpo;
pub mod server;
pub mod sessions;
#[cfg(test)]
mod testing;
pub mod vault;
mod verify;
pub mod watch;

use lifeboat_api::port::{ControlPort, PortError, ServerSpec};
use lifeboat_api::tls::server_config_mutual;
use lifeboat_base::{AgentId, Clock, Entropy, ServerId};
use lifeboat_journal::JournalKey;
use lifeboat_replicate::message::{Assignment, Assignments, Disk};
use parking_lot::{Mutex, RwLock};
use server::ServerCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// How often journals are looked at for what has left their window.
const TRIM_EVERY: Duration = Duration::from_secs(30);
/// How often the audit log hears the same of a peer that does not stop trying.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Different things told within that time.
const MOST_TOLD: usize = 1024;

/// Settings of the data side.
pub struct SiteSettings {
    /// State directory: `servers/`, `runs/`, `mounts/` are made in it.
    pub dir: PathBuf,
    /// Where agents connect; bound already.
    pub replication: std::net::TcpListener,
    /// This site's certificate `[leaf, CA]`, its key, and the CA agents must come from. PEM.
    pub chain_pem: String,
    pub key_pem: Zeroizing<String>,
    pub ca_pem: String,
    pub journal_key: Zeroizing<[u8; 32]>,
    /// `None`: probe for the accelerator.
    pub accel: Option<launch::AccelKind>,
    /// `None`: there is no vault, and journals keep all there is.
    pub vault: Option<vault::VaultSettings>,
}

/// Why the data side could not start.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("cannot use {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("cannot listen for agents: {0}")]
    Listen(std::io::Error),
    #[error(transparent)]
    Tls(#[from] lifeboat_api::tls::TlsError),
}

/// See the crate's text. Control uses it as a [`port::SiteHandle`].
pub struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) journal_key: JournalKey,
    /// For times a person writes without a zone.
    pub(crate) zone: jiff::tz::TimeZone,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) cells: RwLock<HashMap<ServerId, Arc<ServerCell>>>,
    /// What control last wanted of each server, kept on disk: an agent that connects right after a
    /// restart is told the same as before, not that nothing is assigned to it.
    pub(crate) specs: RwLock<HashMap<ServerId, ServerSpec>>,
    /// Who owned each server in earlier epochs.
    pub(crate) owners: Mutex<HashMap<ServerId, owners::Owners>>,
    pub(crate) branches: branches::Branches,
    pub vault: Arc<vault::SiteVault>,
    pub backups: Arc<backup::Backups>,
    pub disk_files: disk_files::DiskFiles,
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// Why servers this site should hold could not be opened.
    pub(crate) unopened: Mutex<HashMap<ServerId, PortError>>,
    /// One assertion is written down at a time: two at once would take each other's file away.
    pub(crate) remembering: tokio::sync::Mutex<()>,
    /// Held while a group's barrier is cut.
    pub(crate) cutting: tokio::sync::Mutex<()>,
    /// A window became smaller.
    pub(crate) trim_now: Notify,
    /// Free bytes and all bytes of the file system of a directory.
    pub(crate) space: fn(&std::path::Path) -> (u64, u64),
    pub(crate) sessions: sessions::Sessions,
    told: Mutex<HashMap<(&'static str, String), Duration>>,
    pub(crate) mounts: mount::Mounts,
    /// Mounts of runs found at the start, until their server is held again.
    interrupted: Mutex<Vec<mount::MountRecord>>,
    pub(crate) launcher: launch::Launcher,
    /// Ends checks when the site stops.
    pub(crate) cancel: Arc<launch::Cancel>,
    control: OnceLock<Arc<dyn ControlPort>>,
    pub(crate) shutdown: tokio::sync::watch::Sender<bool>,
}

impl Site {
    /// Starts listening, trimming, and finding out how guests can be run. Servers are held once
    /// control says so; nobody is let in before [`set_control`](Self::set_control).
    ///
    /// # Errors
    /// See [`SiteError`].
    pub async fn start(
        settings: SiteSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, SiteError> {
        let tls = server_config_mutual(&settings.chain_pem, &settings.key_pem, &settings.ca_pem)?;
        settings.replication.set_nonblocking(true).map_err(SiteError::Listen)?;
        let listener = TcpListener::from_std(settings.replication).map_err(SiteError::Listen)?;
        let site = Self::in_dir(
            (settings.dir, settings.vault),
            &settings.journal_key,
            settings.accel,
            clock,
            entropy,
        )?;
        let site = Arc::new(site);
        let accept = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(listen::serve(Arc::clone(&site), listener, accept, site.shutdown.subscribe()));
        tokio::spawn(Arc::clone(&site).trim_loop());
        tokio::spawn(Arc::clone(&site).vault_loop());
        tokio::spawn(Arc::clone(&site).lock_loop());
        tokio::spawn(Arc::clone(&site).backup_loop());
        tokio::spawn(Arc::clone(&site).watch_loop());
        let prober = Arc::clone(&site);
        tokio::task::spawn_blocking(move || match prober.launcher.accel() {
            Ok(a) => tracing::info!("guests run with {}: {}", a.kind.name(), a.reason),
            Err(e) => tracing::warn!("no guest can be run yet: {e}"),
        });
        Ok(site)
    }

    /// A site that does not listen.
    fn in_dir(
        (dir, vault): (PathBuf, Option<vault::VaultSettings>),
        journal_key: &[u8; 32],
        accel: Option<launch::AccelKind>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, SiteError> {
        for sub in ["servers", "runs", "mounts"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).map_err(|source| SiteError::Directory { path, source })?;
        }
        let mut launcher = launch::LauncherSettings::new(&dir);
        launcher.force_accel = accel;
        let mounts = mount::Mounts::new(dir.join("mounts"), Arc::clone(&clock));
        let interrupted = mounts.leftovers();
        let specs = load_specs(&dir.join("servers"));
        let owners = specs.keys().map(|id| (*id, owners::load(&dir.join("servers").join(id.to_string()))));
        let owners = owners.collect();
        let vault = vault::SiteVault::new(vault, dir.clone(), Arc::clone(&clock), Arc::clone(&entropy));
        let vault = Arc::new(vault);
        let zone = jiff::tz::TimeZone::system();
        let backups = backup::Backups::new(Arc::clone(&vault), dir.clone(), zone, Arc::clone(&clock));
        Ok(Self {
            vault,
            backups: Arc::new(backups),
            disk_files: disk_files::DiskFiles::default(),
            mounts,
            interrupted: Mutex::new(interrupted),
            launcher: launch::Launcher::new(launcher, Arc::clone(&clock)),
            dir,
            journal_key: JournalKey(*journal_key),
            zone: jiff::tz::TimeZone::system(),
            clock,
            entropy,
            cells: RwLock::default(),
            owners: Mutex::new(owners),
            specs: RwLock::new(specs),
            branches: branches::Branches::default(),
            space: port::disk_space,
            opening: tokio::sync::Mutex::default(),
            unopened: Mutex::default(),
            remembering: tokio::sync::Mutex::default(),
            cutting: tokio::sync::Mutex::default(),
            trim_now: Notify::new(),
            sessions: sessions::Sessions::default(),
            told: Mutex::default(),
            cancel: Arc::default(),
            control: OnceLock::new(),
            shutdown: tokio::sync::watch::channel(false).0,
        })
    }

    /// Names who decides. Without it nobody is let in. Once.
    pub fn set_control(&self, control: Arc<dyn ControlPort>) {
        if self.control.set(control).is_err() {
            tracing::error!("control was set twice; the first stays");
        }
    }

    pub(crate) fn control(&self) -> Option<Arc<dyn ControlPort>> {
        self.control.get().cloned()
    }

    /// For the audit log.
    pub(crate) fn note(&self, action: &str, target: &str, outcome: &str, detail: &str) {
        if let Some(control) = self.control() {
            control.note(action, target, outcome, detail);
        }
    }

    /// For the audit log, about what a peer may repeat as often as it likes: told once in [`TOLD_EVERY`].
    pub(crate) fn note_often(&self, action: &'static str, target: &str, outcome: &str, detail: &str) {
        let now = self.clock.monotonic();
        {
            let mut told = self.told.lock();
            told.retain(|_, at| now.saturating_sub(*at) < TOLD_EVERY);
            let key = (action, target.to_owned());
            if told.contains_key(&key) || told.len() >= MOST_TOLD {
                return;
            }
            told.insert(key, now);
        }
        self.note(action, target, outcome, detail);
    }

    pub(crate) fn cell(&self, server: ServerId) -> Option<Arc<ServerCell>> {
        self.cells.read().get(&server).cloned()
    }

    /// Everything an agent shall capture now.
    pub(crate) fn assignments(&self, agent: AgentId) -> Assignments {
        let specs = self.specs.read();
        let mut servers: Vec<Assignment> = specs
            .values()
            .filter(|s| s.agent == agent && s.active)
            .map(|s| Assignment {
                server: s.id.as_bytes().to_vec(),
                name: s.name.clone(),
                epoch: s.epoch.0,
                capture: serde_json::to_string(&s.capture).unwrap_or_default(),
                replication: serde_json::to_string(&s.replication).unwrap_or_default(),
                disks: s
                    .disks
                    .iter()
                    .map(|d| Disk { index: u32::from(d.index), name: d.name.clone(), size: d.size })
                    .collect(),
            })
            .collect();
        servers.sort_by(|a, b| a.server.cmp(&b.server));
        Assignments { servers }
    }

    /// Serves again what runs of a server depended on when the process ended.
    pub(crate) async fn resume_mounts(self: &Arc<Self>, server: ServerId) {
        let mine: Vec<mount::MountRecord> = {
            let mut all = self.interrupted.lock();
            all.extract_if(.., |r| r.server == server).collect()
        };
        for record in mine {
            let id = record.mount.id.clone();
            if let Err(e) = self.serve_mount(record.server, record.mount.clone(), true).await {
                tracing::error!(mount = id, "a run's point cannot be served again yet: {e}");
                self.note_often("mount.resume", &id, "failed", &e.to_string());
                self.interrupted.lock().push(record);
            }
        }
    }

    /// Ends a run's mount for good.
    pub(crate) fn drop_run_mount(&self, id: &str) {
        self.interrupted.lock().retain(|r| r.mount.id != id);
        self.mounts.remove(id);
    }

    /// A run still reads a point of this server, now or since before the restart.
    pub(crate) fn carries_run(&self, server: ServerId) -> bool {
        self.mounts.of_server(server).iter().any(|id| id.starts_with(port::RUN_MOUNT))
            || self.interrupted.lock().iter().any(|r| r.server == server)
    }

    async fn trim_loop(self: Arc<Self>) {
        let mut stop = self.shutdown.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(TRIM_EVERY) => {}
                () = self.trim_now.notified() => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            // Where there is a vault it takes what leaves the window, and the journal folds nothing.
            let cells: Vec<_> = self.cells.read().values().cloned().collect();
            for cell in cells {
                if self.vault.is_set() {
                    let site = Arc::clone(&self);
                    if let Err(e) = tokio::task::spawn_blocking(move || site.bound_now(&cell)).await {
                        tracing::error!("bounding a journal died: {e}");
                    }
                    continue;
                }
                // A run's point must outlive a restart of this process, which a mount's hold on it does not.
                if self.carries_run(cell.spec.read().id) {
                    continue;
                }
                let trimmed = tokio::task::spawn_blocking(move || fold(&cell)).await;
                if let Ok(Err(e)) = trimmed {
                    tracing::warn!("trimming a journal: {e}");
                }
            }
        }
    }

    /// Stops listening, lets journals finish what they have, ends mounts. Machines run on.
    pub async fn shutdown(self: &Arc<Self>) {
        self.shutdown.send_replace(true);
        self.cancel.cancel();
        self.vault.jobs.cancel_all();
        self.vault.save_clock();
        let cells: Vec<_> = self.cells.read().values().cloned().collect();
        let branches = self.branches.take_all();
        for cell in cells.into_iter().chain(branches.iter().filter_map(|b| b.cell.clone())) {
            cell.stop().await;
        }
        let site = Arc::clone(self);
        let stop = move || {
            site.backups.unmount_all();
            site.mounts.stop();
        };
        if tokio::task::spawn_blocking(stop).await.is_err() {
            tracing::error!("ending the mounts failed");
        }
    }
}

/// Drops what has left the window, and folds what is before it.
pub(crate) fn fold(cell: &ServerCell) -> Result<(), lifeboat_journal::JournalError> {
    let plan = cell.keeper.plan_trim()?;
    if plan.is_empty() {
        return Ok(());
    }
    let name = cell.spec.read().name.clone();
    tracing::info!(server = name, points = plan.points_dropped(), freed = plan.bytes_freed(), "trim");
    cell.keeper.trim(&plan).map(drop)
}

/// Name of the file beside a server's journal that says what control wants of it.
pub(crate) const SPEC_FILE: &str = "spec.json";

fn load_specs(servers: &Path) -> HashMap<ServerId, ServerSpec> {
    let mut specs = HashMap::new();
    for entry in std::fs::read_dir(servers).into_iter().flatten().flatten() {
        let path = entry.path().join(SPEC_FILE);
        let Ok(text) = std::fs::read(&path) else { continue };
        match serde_json::from_slice::<ServerSpec>(&text) {
            Ok(spec) => drop(specs.insert(spec.id, spec)),
            // Control says it again in a moment.
            Err(e) => tracing::warn!("{} is left aside: {e}", path.display()),
        }
    }
    specs
}
