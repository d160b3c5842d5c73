//! One protected server at the receiving site: what is shared of it, and the thread that owns its journal.
//!
//! Invariant: only the worker thread writes the journal, through [`ServerCore`], where all decisions are.

mod compare;
pub mod core;
mod notes;

pub use self::compare::Trunk;
pub use self::core::ServerCore;
pub use self::notes::EpochEnd;

use crate::lag::Coverage;
use crate::watch::Watched;
use bytes::Bytes;
use lifeboat_api::port::ServerSpec;
use lifeboat_api::types::WindowSpec;
use lifeboat_base::{Clock, Entropy, Epoch};
use lifeboat_block::Record;
use lifeboat_block::storage::{DirStorage, Storage};
use lifeboat_journal::{
    Elsewhere, Journal, JournalConfig, JournalError, JournalKeeper, JournalKey, JournalReader, OpenReport,
};
use lifeboat_replicate::message::{Disk, RefuseCode, ServerReport, Welcome};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::wire::{Ack, Answer, BlockHash, Offer, Ping};
use parking_lot::{Mutex, RwLock};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// Jobs waiting for the worker; their bytes are bounded besides, by `SITE_QUEUE`.
const JOBS: usize = 1024;
/// A refusal to be sent to the agent.
#[derive(Debug, Clone)]
pub struct No {
    pub code: RefuseCode,
    pub message: String,
}

impl No {
    pub fn new(code: RefuseCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a session hears from the worker.
#[derive(Clone)]
pub struct SessionOut {
    pub acks: watch::Sender<Ack>,
    pub answers: mpsc::Sender<Answer>,
    /// Set when the session must end, with the reason.
    pub end: watch::Sender<Option<No>>,
}

/// Work for the worker.
pub enum Job {
    Open {
        session: u64,
        /// The agent process's number.
        instance: u64,
        /// Earlier processes whose unacknowledged writes its tracking covers.
        lineage: Vec<u64>,
        epoch: Epoch,
        disks: Vec<Disk>,
        out: SessionOut,
        reply: oneshot::Sender<Result<(Welcome, Receiver), No>>,
    },
    Records {
        session: u64,
        records: Vec<Record>,
        /// Room in the queue they hold, given back once they are taken.
        room: Option<OwnedSemaphorePermit>,
    },
    Offer {
        session: u64,
        offer: Offer,
    },
    Ping {
        session: u64,
        ping: Ping,
    },
    Close {
        session: u64,
    },
    SetEpoch {
        epoch: Epoch,
        reply: oneshot::Sender<Result<(), JournalError>>,
    },
    /// Everything queued before is carried out first.
    Stop {
        reply: oneshot::Sender<()>,
    },
}

/// What is measured of a server.
#[derive(Debug, Default, Clone)]
pub struct Measured {
    pub report: Option<ServerReport>,
    /// The stream session now open.
    pub session: Option<u64>,
    pub coverage: Coverage,
    pub lag_bytes: u64,
    /// Barriers are being cut.
    pub live: bool,
    /// Why nothing can be stored.
    pub fault: Option<String>,
}

/// Shared face of a server.
pub struct ServerCell {
    pub spec: RwLock<ServerSpec>,
    pub reader: JournalReader,
    pub keeper: JournalKeeper,
    pub opened: OpenReport,
    pub jobs: mpsc::Sender<Job>,
    pub measured: Mutex<Measured>,
    /// What is watched of it besides.
    pub watched: Mutex<Watched>,
    /// The agent process that wrote last, when that is known.
    pub writer: RwLock<Option<u64>>,
    /// Where earlier epochs ended, oldest first.
    pub ends: RwLock<Vec<EpochEnd>>,
    pub received: AtomicU64,
    pub content: AtomicU64,
    /// Bytes of content that were offered and found at this site.
    pub supplied: AtomicU64,
    /// Something the journal stands on is lost: the next session has to compare everything.
    pub compare_all: AtomicBool,
    /// Held by whoever puts something of it into the vault.
    pub into_vault: RwLock<()>,
    /// It is being deleted: nothing of it goes into the vault any more.
    pub going: AtomicBool,
}

/// Where a server's state lives.
#[derive(Clone)]
pub struct ServerStorage {
    /// The journal alone.
    pub journal: Arc<dyn Storage>,
    /// Small files about the server.
    pub own: Arc<dyn Storage>,
}

impl ServerStorage {
    /// The server's directory, with the journal's in it.
    ///
    /// # Errors
    /// What the system reports.
    pub fn in_dir(dir: &Path) -> io::Result<Self> {
        let journal = DirStorage::new(&dir.join("journal"))?;
        Ok(Self { journal: Arc::new(journal), own: Arc::new(DirStorage::new(dir)?) })
    }
}

/// Content that is somewhere else at this site, by its hash.
pub trait Finder: Send + Sync {
    /// `len` bytes with the BLAKE3 `hash`; `None` also where they cannot be had now. Blocks.
    fn find(&self, hash: &BlockHash, len: usize) -> Option<Bytes>;

    /// Runs what may block on something far away, beside the caller, who goes on at the end of `limit` whether it is done or
    /// not. It is not run at all while what is far away does not answer.
    fn within(&self, limit: Duration, work: Box<dyn FnOnce() + Send>);
}

/// What a server has besides its journal.
#[derive(Clone)]
pub struct Beyond {
    /// Where the journal's base is.
    pub elsewhere: Arc<dyn Elsewhere>,
    /// Where content is looked for that is offered and not in the journal.
    pub finder: Arc<dyn Finder>,
}

/// What opening a server needs.
pub struct OpenServer<'a> {
    pub storage: ServerStorage,
    pub key: JournalKey,
    pub spec: &'a ServerSpec,
    /// See [`journal_config`].
    pub config: JournalConfig,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub beyond: Option<Beyond>,
}

/// Says of a server that is not open yet which process wrote its newest record.
///
/// # Errors
/// What the system reports.
pub fn preset_writer(own: &Arc<dyn Storage>, writer: u64) -> io::Result<()> {
    notes::Notes(Arc::clone(own)).set_writer(writer)
}

/// The journal's settings for a window.
pub fn journal_config(window: &WindowSpec) -> JournalConfig {
    JournalConfig {
        window: Duration::from_secs(window.seconds),
        window_bytes: window.bytes,
        ..JournalConfig::default()
    }
}

impl ServerCell {
    /// Opens the journal and starts its worker.
    ///
    /// # Errors
    /// What the journal says.
    pub fn open(o: &OpenServer<'_>) -> Result<Arc<Self>, JournalError> {
        Self::start(ServerCore::open(o)?)
    }

    /// Opens the journal of a branch and starts its worker.
    ///
    /// # Errors
    /// What the journal says.
    pub fn open_branch(o: &OpenServer<'_>, trunk: Trunk) -> Result<Arc<Self>, JournalError> {
        Self::start(ServerCore::open_branch(o, trunk)?)
    }

    fn start((core, queue): (ServerCore, mpsc::Receiver<Job>)) -> Result<Arc<Self>, JournalError> {
        let cell = Arc::clone(core.cell());
        std::thread::Builder::new().name("journal".into()).spawn(move || run(core, queue)).map_err(
            |source| JournalError::Io { what: "cannot start the journal's thread".into(), source },
        )?;
        Ok(cell)
    }

    fn new(spec: ServerSpec, journal: &Journal, opened: OpenReport) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, queue) = mpsc::channel(JOBS);
        let cell = Self {
            spec: RwLock::new(spec),
            reader: journal.reader(),
            keeper: journal.keeper(),
            opened,
            jobs,
            measured: Mutex::default(),
            watched: Mutex::default(),
            writer: RwLock::default(),
            ends: RwLock::default(),
            received: AtomicU64::new(0),
            content: AtomicU64::new(0),
            supplied: AtomicU64::new(0),
            compare_all: AtomicBool::new(false),
            into_vault: RwLock::default(),
            going: AtomicBool::new(false),
        };
        (cell, queue)
    }

    /// Ends the worker after everything queued; the journal is closed then.
    pub async fn stop(&self) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Stop { reply }).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// The worker thread: takes what waits, commits it at once.
fn run(mut core: ServerCore, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.blocking_recv() {
        let mut stopped = core.handle(job);
        while stopped.is_none()
            && !core.is_full()
            && let Ok(job) = queue.try_recv()
        {
            stopped = core.handle(job);
        }
        core.commit();
        if let Some(reply) = stopped {
            if let Err(e) = core.close() {
                tracing::error!("closing the journal: {e}");
            }
            let _ = reply.send(());
            return;
        }
    }
}

#[cfg(test)]
mod tests;
