//! Backups of files: sets, when they are due, making and reading them.
//!
//! Invariants:
//! - a backup is a snapshot of the vault: it is there whole, with every blob its tree names, or not at all;
//! - one backup of a set at a time; what a pruner ended begins anew;
//! - the site's own directory is never part of a backup made on its host: it holds the vault, or what leads to it;
//! - a snapshot that is read (mounted, dumped, restored) is known here as long, and is not deleted meanwhile.
//!
//! ```text
//!  schedule ──┐                       ┌── walk on this host ──────────────┐
//!  person ────┴──> job ──> session ───┤                                   ├──> vault: Owner::Set
//!                                     └── agent: offers, blobs (remote) ──┘
//!  list, diff, read, mount, restore <── tree of a snapshot ──> agent: restore there
//! ```

pub(crate) mod blobs;
mod details;
mod door;
mod holds;
pub(crate) mod look;
pub(crate) mod remote;
pub(crate) mod restore;
mod schedule;
pub(crate) mod session;

pub use blobs::Trees;

use crate::Site;
use crate::vault::jobs::JobControl;
use crate::vault::{SiteVault, policy, vault_error};
use blobs::{VaultSink, VaultSource};
use details::Details;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{
    Backup, BackupSet, BackupSetInfo, ErrorCode, RetentionSpec, VaultJob, VaultJobResult,
};
use lifeboat_base::limits::MAX_TEXT;
use lifeboat_base::{Clock, WallTime};
use lifeboat_files::exclude::Exclude;
use lifeboat_files::reader::Tree;
use lifeboat_files::walk::{WalkOptions, Walked, walk};
use lifeboat_files::{FilesError, Hash, Monitor};
use lifeboat_replicate::message::BackupFrame;
use lifeboat_replicate::message::restore::RestoreFrame;
use lifeboat_vault::{Owner, Snapshot, SnapshotBody, SnapshotId, Stats, Vault, VaultError};
use look::Mounted;
use parking_lot::Mutex;
use schedule::Due;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a backup that a pruner ended is begun again.
const ATTEMPTS: usize = 3;
/// Threads that read files, or write them.
const THREADS: usize = 2;
/// How often progress is noted, and cancelling seen.
const NOTE_EVERY: Duration = Duration::from_millis(250);

/// A set, and how its last try went.
struct State {
    set: BackupSet,
    due: Due,
    error: Option<String>,
}

/// See the module's text.
pub struct Backups {
    vault: Arc<SiteVault>,
    /// The site's directory.
    dir: PathBuf,
    zone: jiff::tz::TimeZone,
    clock: Arc<dyn Clock>,
    sets: Mutex<BTreeMap<String, State>>,
    mounts: Mutex<HashMap<PathBuf, Mounted>>,
    /// Snapshots that are read now, how often.
    reading: Arc<Mutex<HashMap<SnapshotId, usize>>>,
    pub(crate) remote: door::Waiting<remote::Incoming, BackupFrame>,
    pub(crate) restores: door::Waiting<restore::Incoming, RestoreFrame>,
}

/// Keeps a snapshot from being deleted.
pub(crate) struct Reading {
    id: SnapshotId,
    all: Arc<Mutex<HashMap<SnapshotId, usize>>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

/// What went wrong with a tree, in the API's words.
pub(crate) fn files_error(e: &FilesError) -> PortError {
    let code = match e {
        FilesError::Blob(lifeboat_files::BlobError::Store(_)) => ErrorCode::Unavailable,
        FilesError::Blob(_) | FilesError::Damaged(_) => ErrorCode::Corrupt,
        FilesError::Path { .. } => ErrorCode::Conflict,
        FilesError::NotFound(_) => ErrorCode::NotFound,
        FilesError::Invalid(_) => ErrorCode::Invalid,
        FilesError::Cancelled => ErrorCode::Conflict,
    };
    PortError::new(code, e.to_string())
}

/// What a try to make a backup came to.
pub(crate) enum Failed {
    /// A pruner ended the session, or what it builds on is gone: begin anew.
    Again(String),
    For(PortError),
}

impl From<PortError> for Failed {
    fn from(e: PortError) -> Self {
        Self::For(e)
    }
}

impl From<VaultError> for Failed {
    fn from(e: VaultError) -> Self {
        match e {
            VaultError::Fenced(why) => Self::Again(why),
            e => Self::For(vault_error(&e)),
        }
    }
}

impl Backups {
    pub(crate) fn new(
        vault: Arc<SiteVault>,
        dir: PathBuf,
        zone: jiff::tz::TimeZone,
        clock: Arc<dyn Clock>,
    ) -> Self {
        look::reap_mounts(&dir);
        Self {
            vault,
            dir,
            zone,
            clock,
            sets: Mutex::default(),
            mounts: Mutex::default(),
            reading: Arc::default(),
            remote: door::Waiting::default(),
            restores: door::Waiting::default(),
        }
    }

    /// Makes the sets that are held equal to these.
    ///
    /// # Errors
    /// Which set is wrong in what; then nothing changed.
    pub(crate) fn ensure(&self, sets: &[BackupSet]) -> Result<(), PortError> {
        // Control says it again and again.
        let same = |held: &BTreeMap<String, State>| {
            held.len() == sets.len() && sets.iter().all(|s| held.get(&s.name).is_some_and(|h| h.set == *s))
        };
        if same(&self.sets.lock()) {
            return Ok(());
        }
        for set in sets {
            check(set)?;
        }
        let since = schedule::load(&self.dir);
        let now = self.clock.wall();
        let mut held = self.sets.lock();
        let mut new = BTreeMap::new();
        for set in sets {
            let known = held.remove(&set.name);
            let state = match known {
                Some(known) if known.set.schedule == set.schedule => State { set: set.clone(), ..known },
                _ => {
                    // A schedule counts from when it was given, also over restarts.
                    let since = since.get(&set.name).filter(|s| s.schedule == set.schedule);
                    let since = since.map_or(now, |s| s.since.min(now));
                    State { set: set.clone(), due: Due::new(since), error: None }
                }
            };
            new.insert(set.name.clone(), state);
        }
        *held = new;
        schedule::save(&self.dir, held.values().map(|s| (&s.set, s.due.since)));
        Ok(())
    }

    /// Sets, and how they stand.
    pub(crate) fn sets(&self) -> Vec<BackupSetInfo> {
        let made = self.vault.open().map(|v| self.made(&v)).unwrap_or_default();
        let held = self.sets.lock();
        let info = |state: &State| {
            let own: Vec<&Backup> = made.iter().filter(|b| b.set == state.set.name).collect();
            BackupSetInfo {
                set: state.set.clone(),
                backups: own.len() as u64,
                last: own.first().map(|b| (*b).clone()),
                error: state.error.clone(),
                next: state.due.next(&state.set, own.first().map(|b| b.time), &self.zone),
            }
        };
        held.values().map(info).collect()
    }

    fn set(&self, name: &str) -> Result<BackupSet, PortError> {
        self.sets.lock().get(name).map(|s| s.set.clone()).ok_or_else(|| {
            PortError::new(ErrorCode::NotFound, format!("there is no backup set '{name}'"))
                .hint("list them: lifeboat backup sets")
        })
    }

    /// Every backup, newest first.
    fn made(&self, vault: &Vault) -> Vec<Backup> {
        let now = self.vault.now();
        let mut snapshots = vault.snapshots();
        snapshots.retain(|s| matches!(s.owner, Owner::Set(_)));
        snapshots.sort_by_key(|s| std::cmp::Reverse((s.body.site_time, s.id)));
        let verdicts = self.verdicts(vault, now);
        snapshots.iter().filter_map(|s| Details::backup(vault, s, verdicts.get(&s.id))).collect()
    }

    /// Backups, newest first.
    pub(crate) fn list(&self, set: Option<&str>) -> Result<Vec<Backup>, PortError> {
        let mut made = self.made(&self.vault.open()?);
        if let Some(set) = set {
            made.retain(|b| b.set == set);
            if made.is_empty() {
                self.set(set)?;
            }
        }
        Ok(made)
    }

    /// One backup, by its id, the beginning of it, or its set's name for the newest.
    pub(crate) fn backup(&self, name: &str) -> Result<Backup, PortError> {
        let vault = self.vault.open()?;
        let found = find(&vault, name)?;
        let verdicts = self.verdicts(&vault, self.vault.now());
        Details::backup(&vault, &found, verdicts.get(&found.id)).ok_or_else(|| unknown(name))
    }

    /// Snapshots that are being read and have to stay.
    pub fn in_use(&self) -> HashSet<SnapshotId> {
        self.reading.lock().keys().copied().collect()
    }

    fn read(&self, id: SnapshotId) -> Reading {
        *self.reading.lock().entry(id).or_default() += 1;
        Reading { id, all: Arc::clone(&self.reading) }
    }

    /// The tree of a backup, and what keeps it there meanwhile.
    fn tree(&self, name: &str) -> Result<(Arc<VaultSource>, Hash, Reading), PortError> {
        let vault = self.vault.open()?;
        let found = find(&vault, name)?;
        let root = found.body.tree.ok_or_else(|| unknown(name))?;
        let reading = self.read(found.id);
        // Is it deleted by somebody who has not seen that it is read?
        if vault.is_going(&found.id) {
            return Err(unknown(name));
        }
        Ok((Arc::new(VaultSource::new(vault)), Hash::from_bytes(root), reading))
    }

    /// The newest backup of a set whose tree can be built on.
    fn newest(vault: &Vault, set: &str) -> Option<Arc<Snapshot>> {
        let all = vault.snapshots_of(&Owner::Set(set.into()));
        all.into_iter().find(|s| s.body.tree.is_some())
    }

    /// Walks this host into the vault.
    fn make_here(&self, set: &BackupSet, control: &JobControl) -> Result<Arc<Snapshot>, Failed> {
        let vault = self.vault.open()?;
        let begun = self.clock.wall();
        let session = vault.begin(Owner::Set(set.name.clone()))?;
        let previous = Self::newest(&vault, &set.name).and_then(|s| s.body.tree).map(Hash::from_bytes);
        let source = VaultSource::new(vault.clone());
        let options = walk_options(set, self.never()).map_err(|e| files_error(&e))?;
        let sink = VaultSink::new(&session);
        let monitor = Monitor::default();
        control.step("reading files");
        let walked = watched(&monitor, control, || {
            walk(&options, previous.map(|root| Tree::new(&source, root)), &sink, &monitor, &*self.clock)
        });
        let walked = match walked {
            Ok(w) => w,
            // What the session met says more than that a blob could not be put.
            Err(e) => return Err(sink.failed().map_or_else(|| files_error(&e).into(), Failed::from)),
        };
        control.step("storing");
        Ok(session.commit(self.body(set, begun, walked))?)
    }

    /// What is in no backup of this host: the site's own directory, a vault beside it, and backups that are shown here.
    fn never(&self) -> Vec<PathBuf> {
        let mut never: Vec<PathBuf> = self.mounts.lock().keys().cloned().collect();
        never.push(self.dir.clone());
        never.extend(self.vault.settings().into_iter().flat_map(|s| s.directories.iter().cloned()));
        never
    }

    fn body(&self, set: &BackupSet, begun: WallTime, walked: Walked) -> SnapshotBody {
        let now = self.vault.now();
        let lock = set.retention.lock_seconds;
        let details = Details::new(set, walked.problems).encode();
        SnapshotBody {
            point: None,
            consistency: 0,
            source_time: begun,
            site_time: now,
            disks: Vec::new(),
            tree: Some(*walked.root.as_bytes()),
            details,
            stats: Stats {
                files: walked.files,
                files_read: walked.files_read,
                size: walked.bytes,
                ..Stats::default()
            },
            locked_until: (lock > 0).then(|| now.saturating_add(Duration::from_secs(lock))),
        }
    }
}

impl Site {
    /// Makes a backup of a set, as a job.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while one of it is made; why the vault cannot be used.
    pub(crate) fn start_backup(self: &Arc<Self>, name: &str) -> Result<VaultJob, PortError> {
        let set = self.backups.set(name)?;
        self.vault.open()?;
        let site = Arc::clone(self);
        let alone = |job: &VaultJob| job.kind == "backup" && job.subject == name;
        self.vault.jobs.start(("backup", name), alone, move |control| {
            let made = site.make_backup(&set, control);
            // A site that stops ends everything, and makes up for it when it runs again.
            let cancelled = control.cancelled() && !*site.shutdown.borrow();
            site.backups.note(&set.name, made.as_ref().err(), cancelled);
            made.map(VaultJobResult::Backup)
        })
    }

    fn make_backup(&self, set: &BackupSet, control: &JobControl) -> Result<Backup, PortError> {
        let mut attempt = 1;
        loop {
            let made = match &set.agent {
                None => self.backups.make_here(set, control),
                // The second time nothing is built on.
                Some(agent) => self.make_through(agent, set, control, attempt > 1),
            };
            match made {
                Ok(snapshot) => return self.backups.backup(&snapshot.id.to_string()),
                Err(Failed::Again(why)) if attempt < ATTEMPTS && !control.cancelled() => {
                    tracing::info!(set = set.name, "the backup begins anew: {why}");
                    attempt += 1;
                }
                Err(Failed::Again(why)) => {
                    let text = format!("the backup was begun {attempt} times and ended each time: {why}");
                    return Err(PortError::new(ErrorCode::Unavailable, text).hint("try again later"));
                }
                Err(Failed::For(e)) => return Err(e),
            }
        }
    }
}

/// Does work in a thread of its own while this one notes how far it is and whether it is to end.
fn watched<T: Send>(monitor: &Monitor, control: &JobControl, work: impl FnOnce() -> T + Send) -> T {
    let (done, over) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            use std::sync::mpsc::RecvTimeoutError;
            while over.recv_timeout(NOTE_EVERY) == Err(RecvTimeoutError::Timeout) {
                note(monitor, control);
            }
        });
        let result = work();
        drop(done);
        control.progress(monitor.files.load(Ordering::Relaxed), 0, "files");
        result
    })
}

/// Passes on what a job's other half has to know.
pub(crate) fn note(monitor: &Monitor, control: &JobControl) {
    control.progress(monitor.files.load(Ordering::Relaxed), 0, "files");
    if control.cancelled() {
        monitor.cancel();
    }
}

fn walk_options(set: &BackupSet, leave_out: Vec<PathBuf>) -> Result<WalkOptions, FilesError> {
    Ok(WalkOptions {
        paths: set.paths.iter().map(PathBuf::from).collect(),
        exclude: Exclude::new(&set.exclude, &leave_out)?,
        one_file_system: set.one_file_system,
        readers: THREADS,
    })
}

/// Whether a set can be what it says.
fn check(set: &BackupSet) -> Result<(), PortError> {
    let wrong =
        |text: String| PortError::new(ErrorCode::Invalid, format!("backup set '{}': {text}", set.name));
    if set.name.is_empty() || set.name.len() > lifeboat_base::limits::MAX_NAME {
        return Err(wrong("its name is empty or too long".into()));
    }
    let long = |p: &String| p.len() > MAX_TEXT;
    if set.paths.is_empty()
        || set.paths.len() > lifeboat_files::walk::MAX_PATHS
        || set.paths.iter().any(|p| !Path::new(p).is_absolute() || long(p))
    {
        return Err(wrong(format!("give 1 to {} absolute paths", lifeboat_files::walk::MAX_PATHS)));
    }
    if set.exclude.iter().any(long) {
        return Err(wrong("a pattern is too long".into()));
    }
    Exclude::new(&set.exclude, &[]).map_err(|e| wrong(e.to_string()))?;
    policy(&set.retention)?;
    schedule::parse(set).map(drop)
}

fn unknown(name: &str) -> PortError {
    PortError::new(ErrorCode::NotFound, format!("there is no backup '{name}'"))
        .hint("list them: lifeboat backup list")
}

/// The snapshot of a backup, by id, the beginning of an id, or the set's name for its newest.
fn find(vault: &Vault, name: &str) -> Result<Arc<Snapshot>, PortError> {
    if let Some(newest) = Backups::newest(vault, name) {
        return Ok(newest);
    }
    let short = name.len() < 8 || name.len() > 32 || !name.bytes().all(|b| b.is_ascii_hexdigit());
    if short {
        return Err(unknown(name));
    }
    let name = name.to_ascii_lowercase();
    let is = |s: &Arc<Snapshot>| matches!(s.owner, Owner::Set(_)) && s.id.to_string().starts_with(&name);
    let mut found = vault.snapshots().into_iter().filter(is);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(unknown(&name)),
        (Some(_), Some(_)) => Err(PortError::new(
            ErrorCode::Invalid,
            format!("several backups begin with '{name}'; give more of the id"),
        )),
    }
}

/// What keeps the backups of sets this site does not know any more, or does not know yet.
fn retention_of(snapshot: &Snapshot) -> RetentionSpec {
    Details::decode(snapshot).map(|d| d.retention).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
