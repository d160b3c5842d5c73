//! The data side of a site: receives streams, keeps journals, serves points, runs machines.
//!
//! ```text
//!  agents --mTLS--> listen --> server (one worker thread owns each journal)
//!                                |  reader
//!                              mount --NBD--> tools, launch --> QEMU
//! ```
//! It decides nothing: control does, through [`lifeboat_api::port::SitePort`].

pub mod errors;
pub mod launch;
pub mod listen;
pub mod mount;
pub mod port;
pub mod server;

use lifeboat_api::port::ControlPort;
use lifeboat_base::{AgentId, Clock, Entropy, ServerId};
use lifeboat_journal::JournalKey;
use lifeboat_replicate::message::{Assignment, Assignments, Disk};
use parking_lot::RwLock;
use server::ServerCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How often journals are looked at for what has left their window.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Settings of the data side.
pub struct SiteConfig {
    /// State directory: `servers/`, `runs/`, `mounts/` are made in it.
    pub dir: PathBuf,
    pub journal_key: JournalKey,
    /// For times a person writes without a zone.
    pub zone: jiff::tz::TimeZone,
    /// `None`: probe for the accelerator.
    pub accel: Option<launch::AccelKind>,
}

/// See the crate's text. Control uses it as a [`port::SiteHandle`].
pub struct Site {
    pub(crate) config: SiteConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) cells: RwLock<HashMap<ServerId, Arc<ServerCell>>>,
    pub(crate) opening: tokio::sync::Mutex<()>,
    pub(crate) sessions: listen::Sessions,
    pub(crate) mounts: mount::Mounts,
    pub(crate) launcher: launch::Launcher,
    /// Ends checks when the site stops.
    pub(crate) cancel: Arc<launch::Cancel>,
    control: OnceLock<Arc<dyn ControlPort>>,
    shutdown: watch::Sender<bool>,
}

impl Site {
    /// # Errors
    /// When the state directory cannot be used.
    pub fn new(config: SiteConfig, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> std::io::Result<Arc<Self>> {
        for sub in ["servers", "runs", "mounts"] {
            std::fs::create_dir_all(config.dir.join(sub))?;
        }
        let mut settings = launch::LauncherSettings::new(&config.dir);
        settings.force_accel = config.accel;
        Ok(Arc::new(Self {
            mounts: mount::Mounts::new(config.dir.join("mounts"), Arc::clone(&clock)),
            launcher: launch::Launcher::new(settings, Arc::clone(&clock)),
            config,
            clock,
            entropy,
            cells: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
            sessions: listen::Sessions::default(),
            cancel: Arc::default(),
            control: OnceLock::new(),
            shutdown: watch::channel(false).0,
        }))
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

    pub(crate) fn cell(&self, server: ServerId) -> Option<Arc<ServerCell>> {
        self.cells.read().get(&server).cloned()
    }

    /// Everything an agent shall capture now.
    pub(crate) fn assignments(&self, agent: AgentId) -> Assignments {
        let cells = self.cells.read();
        let mut servers: Vec<Assignment> = cells
            .values()
            .map(|c| c.spec.read())
            .filter(|s| s.agent == agent && s.active)
            .map(|s| Assignment {
                server: s.id.as_bytes().to_vec(),
                name: s.name.clone(),
                epoch: s.epoch.0,
                capture: serde_json::to_string(&s.capture).unwrap_or_default(),
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

    /// Serves again what runs depend on. Call when every server is held again.
    pub async fn resume_mounts(self: &Arc<Self>) {
        for record in self.mounts.leftovers() {
            let id = record.mount.id.clone();
            if let Err(e) = self.serve_mount(record.server, record.mount, true).await {
                tracing::error!(mount = id, "a run's point cannot be served again: {e}");
                self.note("mount.resume", &id, "failed", &e.to_string());
            }
        }
    }

    /// Listens for agents, trims journals and finds out how guests can be run, until [`shutdown`](Self::shutdown).
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
    ) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        Ok(self.serve(listener, tls)?)
    }

    /// As [`listen`](Self::listen), on a socket that is bound already.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn serve(self: &Arc<Self>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) -> std::io::Result<SocketAddr> {
        let bound = listener.local_addr()?;
        tokio::spawn(listen::serve(Arc::clone(self), listener, TlsAcceptor::from(tls), self.shutdown.subscribe()));
        tokio::spawn(Arc::clone(self).trim_loop());
        let site = Arc::clone(self);
        tokio::task::spawn_blocking(move || match site.launcher.accel() {
            Ok(a) => tracing::info!("guests run with {}: {}", a.kind.name(), a.reason),
            Err(e) => tracing::warn!("no guest can be run yet: {e}"),
        });
        Ok(bound)
    }

    async fn trim_loop(self: Arc<Self>) {
        let mut stop = self.shutdown.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(TRIM_EVERY) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            let cells: Vec<_> = self.cells.read().values().cloned().collect();
            for cell in cells {
                let trimmed = tokio::task::spawn_blocking(move || {
                    let plan = cell.keeper.plan_trim()?;
                    if plan.is_empty() {
                        return Ok(());
                    }
                    let name = cell.spec.read().name.clone();
                    tracing::info!(server = name, points = plan.points_dropped(), freed = plan.bytes_freed(), "trim");
                    cell.keeper.trim(&plan).map(drop)
                })
                .await;
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
        let cells: Vec<_> = self.cells.read().values().cloned().collect();
        for cell in cells {
            cell.stop().await;
        }
        let site = Arc::clone(self);
        if tokio::task::spawn_blocking(move || site.mounts.stop()).await.is_err() {
            tracing::error!("ending the mounts failed");
        }
    }
}
