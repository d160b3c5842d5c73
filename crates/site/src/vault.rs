//! The vault of this site: opened in the background, filled from the journals, asked for points.
//!
//! Invariants:
//! - a vault that cannot be reached keeps nothing else from working: journals take their streams, points that need nothing
//!   of it open, and it is tried again;
//! - what expires and what is locked goes by the guarded time ([`ClockGuard`]), never by the machine's clock alone;
//! - a journal lets go of records only after the snapshot that holds them is in the vault (see `tier`); a snapshot that
//!   a journal stands on, or that is read, is not deleted here.
//!
//! ```text
//!  journals ──tier──> snapshots of points, bases          worker: one server at a time, in the background
//!      │                       │
//!      └── base below ◄────────┤  bases: what lies below a journal's records, and content for offers
//!                              │
//!  SitePort ◄── points ◄───────┘  points of the journal and of the vault as one list
//!  VaultPort ◄── port, jobs       status, usage, check, prune, holds, catalogue
//! ```

mod bases;
mod catalogue;
mod holds;
pub mod jobs;
mod locks;
mod points;
mod port;
mod tier;
mod usage;
mod work;
mod worker;

pub(crate) use points::unreadable;
pub use tier::{Made, Tier, TierError};

use bases::{Looks, Uses};
use jobs::Jobs;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, RetentionPreset, RetentionSpec, VaultClock, VaultFinding};
use lifeboat_base::{Clock, Entropy, PointId, Secret, ServerId, WallTime};
use lifeboat_vault::guard::{ClockGuard, GuardState};
use lifeboat_vault::retention::{Policy, Rule};
use lifeboat_vault::store::{Health, Store};
use lifeboat_vault::{StoreError, Vault, VaultError, VaultOptions};
use locks::Locks;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use work::ScrubState;

/// Where the guarded time is kept over restarts.
const CLOCK_FILE: &str = "vault-clock";

/// What the site is told of its vault.
#[derive(Clone)]
pub struct VaultSettings {
    pub store: Arc<dyn Store>,
    /// What opens the vault's keys; the first is the one in use.
    pub site_keys: Vec<Secret>,
    /// File of the local index.
    pub index: Option<PathBuf>,
    pub settings: lifeboat_vault::Settings,
    /// Bytes a scrub may read in a second; 0: no limit.
    pub scrub_rate: u64,
    /// Bytes that may be read from journals in a second for the vault; 0: no limit.
    pub tier_rate: u64,
    /// Bytes of a journal's finished segments that are worth another base below it. A first copy needs about so much room.
    pub base_bytes: u64,
    /// Copies a write must reach, for people.
    pub quorum: u32,
    /// Directories of this host the vault is in: part of no backup of its files.
    pub directories: Vec<PathBuf>,
}

impl VaultSettings {
    /// With the usual settings.
    pub fn new(store: Arc<dyn Store>, site_keys: Vec<Secret>, index: PathBuf) -> Self {
        Self {
            store,
            site_keys,
            index: Some(index),
            settings: lifeboat_vault::Settings::default(),
            scrub_rate: 32 << 20,
            tier_rate: 0,
            base_bytes: 128 << 20,
            quorum: 1,
            directories: Vec::new(),
        }
    }
}

/// How far opening it is.
pub(crate) enum Phase {
    Off,
    /// Objects looked at, of how many.
    Opening {
        done: u64,
        total: u64,
    },
    Ready(Vault),
    /// Why not; it is tried again.
    Away {
        why: String,
    },
}

/// How tiering of one server stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Bytes of the journal that are due to go.
    pub backlog: u64,
    /// Why the last try failed, and when by the monotonic clock.
    pub error: Option<(Duration, String)>,
}

/// See the module's text.
pub struct SiteVault {
    settings: Option<VaultSettings>,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    phase: RwLock<Phase>,
    guard: OnceLock<ClockGuard>,
    pub jobs: Jobs,
    pub(crate) uses: Uses,
    pub(crate) standing: Mutex<HashMap<ServerId, Standing>>,
    /// Points of journals that could not be read when they were to be put into the vault.
    unreadable: Mutex<HashMap<ServerId, HashSet<PointId>>>,
    /// After an error nothing is looked up for offers until then, by the monotonic clock.
    quiet_until: Mutex<Duration>,
    /// What is looked up for offers now.
    looks: Looks,
    /// The catalogue that is in the vault, without when it was written.
    written: Mutex<Option<serde_json::Value>>,
    /// What the last look found damaged or missing; kept on disk, too.
    findings: Mutex<Vec<VaultFinding>>,
    /// Plans that can be carried out, by the jobs that made them.
    plans: Mutex<Vec<(String, lifeboat_vault::prune::PrunePlan)>>,
    scrub: Mutex<ScrubState>,
    /// How the copies were when they were asked last.
    copies: Mutex<Vec<Health>>,
    locks: Mutex<Locks>,
    /// Until when the store counts as away, by the monotonic clock, and why.
    unreachable: Mutex<Option<(Duration, StoreError)>>,
    /// Held while the guarded time is written down.
    saving: Mutex<()>,
    /// When work was last begun by schedule, by the monotonic clock.
    tried: Mutex<HashMap<&'static str, Duration>>,
    /// There may be something to do.
    pub(crate) wake: Notify,
}

/// A vault's error in the API's words.
pub fn vault_error(e: &VaultError) -> PortError {
    let code = match e {
        VaultError::Store(StoreError::NoSpace(_)) => ErrorCode::NoSpace,
        VaultError::Store(StoreError::Locked { .. }) | VaultError::Refused { .. } => ErrorCode::Conflict,
        VaultError::Store(StoreError::NotFound(_))
        | VaultError::Damaged { .. }
        | VaultError::Missing(_)
        | VaultError::WrongKey => ErrorCode::Corrupt,
        VaultError::Store(_) | VaultError::Fenced(_) | VaultError::Io { .. } => ErrorCode::Unavailable,
        VaultError::NoVault(_) | VaultError::Version { .. } => ErrorCode::Conflict,
        VaultError::Invalid(_) => ErrorCode::Invalid,
        VaultError::Index(_) => ErrorCode::Internal,
        VaultError::Cancelled => ErrorCode::Conflict,
    };
    let text = match e {
        VaultError::Refused { why, until: Some(until) } => format!("{why} (until {until})"),
        other => other.to_string(),
    };
    PortError::new(code, format!("the vault: {text}"))
}

/// What keeps a server's points.
///
/// # Errors
/// Which rule is out of which bounds.
pub fn policy(spec: &RetentionSpec) -> Result<Policy, PortError> {
    match spec.preset {
        RetentionPreset::Aws => Ok(Policy::aws()),
        RetentionPreset::Hbr24 => Ok(Policy::hbr24()),
        RetentionPreset::Gfs => Ok(Policy::gfs()),
        RetentionPreset::None => Ok(Policy::none()),
        RetentionPreset::Own => {
            let rule = |r: &lifeboat_api::types::RetentionRule| Rule {
                every: r.every_seconds,
                keep: r.keep_seconds,
            };
            let rules: Vec<Rule> = spec.rules.iter().map(rule).collect();
            Policy::own(&rules).map_err(|e| PortError::new(ErrorCode::Invalid, e.to_string()))
        }
    }
}

impl SiteVault {
    pub(crate) fn new(
        settings: Option<VaultSettings>,
        dir: PathBuf,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let phase = if settings.is_some() { Phase::Opening { done: 0, total: 0 } } else { Phase::Off };
        let (scrub, locks) = (Self::load_scrub(&dir), Locks::load(&dir));
        let findings = Self::load_findings(&dir);
        Self {
            settings,
            dir,
            jobs: Jobs::new(Arc::clone(&clock), Arc::clone(&entropy)),
            clock,
            entropy,
            phase: RwLock::new(phase),
            guard: OnceLock::new(),
            uses: Uses::default(),
            standing: Mutex::default(),
            unreadable: Mutex::default(),
            quiet_until: Mutex::default(),
            looks: Looks::default(),
            written: Mutex::default(),
            findings: Mutex::new(findings),
            plans: Mutex::default(),
            scrub: Mutex::new(scrub),
            copies: Mutex::default(),
            locks: Mutex::new(locks),
            unreachable: Mutex::default(),
            saving: Mutex::default(),
            tried: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Whether the site has one at all.
    pub fn is_set(&self) -> bool {
        self.settings.is_some()
    }

    pub fn settings(&self) -> Option<&VaultSettings> {
        self.settings.as_ref()
    }

    /// The vault.
    ///
    /// # Errors
    /// That there is none, or why it cannot be used now.
    pub fn open(&self) -> Result<Vault, PortError> {
        match &*self.phase.read() {
            Phase::Ready(vault) => Ok(vault.clone()),
            Phase::Off => Err(PortError::new(ErrorCode::Conflict, "this site has no vault")
                .hint("set [vault] location in site.toml and restart 'lifeboat serve'")),
            Phase::Opening { .. } => {
                Err(PortError::new(ErrorCode::Unavailable, "the vault is being opened; its index is made")
                    .hint("see how far it is: lifeboat vault status"))
            }
            Phase::Away { why } => {
                Err(PortError::new(ErrorCode::Unavailable, format!("the vault cannot be opened: {why}"))
                    .hint("it is tried again by itself; see 'lifeboat vault status'"))
            }
        }
    }

    pub(crate) fn phase<T>(&self, look: impl FnOnce(&Phase) -> T) -> T {
        look(&self.phase.read())
    }

    /// The time that retention and locks count by.
    pub fn now(&self) -> WallTime {
        self.guard.get().map_or_else(|| self.clock.wall(), ClockGuard::now)
    }

    /// What a person has to know of the clock.
    pub fn clock_report(&self) -> Option<String> {
        self.guard.get().and_then(ClockGuard::report)
    }

    /// Opens it and brings its index in line. Blocks, the first time for as long as reading every pack's directory takes.
    ///
    /// # Errors
    /// Why it cannot be used now.
    pub(crate) fn open_now(&self) -> Result<(), VaultError> {
        let Some(settings) = &self.settings else { return Ok(()) };
        let options = VaultOptions {
            store: Arc::clone(&settings.store),
            site_keys: settings.site_keys.clone(),
            index: settings.index.clone(),
            settings: settings.settings.clone(),
        };
        let opened = Vault::open(options, Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let opened = opened.and_then(|vault| {
            let refreshed = vault.refresh(&|done, total| {
                *self.phase.write() = Phase::Opening { done, total };
            })?;
            for (object, why) in &refreshed.damaged {
                tracing::error!("the vault's {object} cannot be read: {why}");
            }
            Ok(vault)
        });
        match opened {
            Ok(vault) => {
                let newest = vault.snapshots().iter().map(|s| s.body.site_time).max();
                let saved = std::fs::read_to_string(self.dir.join(CLOCK_FILE)).ok();
                let saved = saved.and_then(|text| GuardState::parse(&text));
                self.guard.get_or_init(|| ClockGuard::start(Arc::clone(&self.clock), saved, newest));
                self.standing.lock().values_mut().for_each(|s| s.error = None);
                self.look_at_copies(&settings.store);
                *self.phase.write() = Phase::Ready(vault);
                self.wake.notify_one();
                Ok(())
            }
            Err(e) => {
                *self.phase.write() = Phase::Away { why: e.to_string() };
                Err(e)
            }
        }
    }

    /// Finds out what each copy lacks: a place that is new among several has nothing yet. Nobody waits for it, since a copy
    /// may hang.
    fn look_at_copies(&self, store: &Arc<dyn Store>) {
        if store.copies() < 2 {
            return;
        }
        let store = Arc::clone(store);
        let look = move || {
            if let Err(e) = store.whole() {
                tracing::warn!("the vault: {e}");
            }
        };
        if let Err(e) = std::thread::Builder::new().name("vault-survey".into()).spawn(look) {
            tracing::warn!("what the vault's copies lack is not known: {e}");
        }
    }

    /// Brings what is known in line with what is there. Blocks.
    pub(crate) fn look_again(&self) -> Result<(), PortError> {
        let refreshed = self.open()?.refresh(&|_, _| {});
        refreshed.map(drop).map_err(|e| vault_error(&e))
    }

    /// Asks the copies how they are. Blocks.
    pub(crate) fn ask_copies(&self) {
        if let Some(settings) = &self.settings {
            let health = settings.store.health();
            *self.copies.lock() = health;
        }
    }

    /// The time that retention and locks count by, beside the machine's.
    pub(crate) fn clock_state(&self) -> Result<VaultClock, PortError> {
        self.open()?;
        Ok(VaultClock { counted: self.now(), machine: self.clock.wall(), report: self.clock_report() })
    }

    /// A person says that the machine's clock is right. Blocks.
    pub(crate) fn accept_clock(&self) -> Result<VaultClock, PortError> {
        self.open()?;
        if let Some(guard) = self.guard.get() {
            let (before, after) = guard.accept();
            tracing::warn!(%before, %after, "the machine's clock was accepted: retention and locks count by it");
            self.save_clock();
            self.wake.notify_one();
        }
        self.clock_state()
    }

    /// Writes the guarded time down.
    pub(crate) fn save_clock(&self) {
        let Some(guard) = self.guard.get() else { return };
        let _alone = self.saving.lock();
        let (path, new) = (self.dir.join(CLOCK_FILE), self.dir.join("vault-clock.new"));
        let write = || -> std::io::Result<()> {
            std::fs::write(&new, guard.state().to_text())?;
            std::fs::File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &path)
        };
        if let Err(e) = write() {
            tracing::warn!(
                "{}: {e}; after a restart points last longer than their dates say",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests;
