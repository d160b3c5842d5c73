//! Long work on the vault: what is under way and how it ended. In memory only; all of it may be started again.
//!
//! Invariants: one job of a kind at a time, but for backups and restores, of which there is one per subject; the list is
//! bounded; a job that panics has failed, and is not running for ever.

use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, VaultJob, VaultJobResult, VaultJobState};
use lifeboat_base::{Clock, Entropy};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Jobs that are remembered.
const MOST: usize = 100;

struct Entry {
    job: VaultJob,
    cancel: Arc<AtomicBool>,
}

/// See the module's text.
pub struct Jobs {
    all: Arc<Mutex<VecDeque<Entry>>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// A job's own view of itself. Cheap to clone.
#[derive(Clone)]
pub struct JobControl {
    id: String,
    all: Arc<Mutex<VecDeque<Entry>>>,
    cancel: Arc<AtomicBool>,
}

impl JobControl {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it was asked to end.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// For work that watches a flag.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// The step it is at.
    pub fn step(&self, text: &str) {
        self.change(|job| job.step = text.chars().take(200).collect());
    }

    /// How far it is; `total` 0 where that is not known.
    pub fn progress(&self, done: u64, total: u64, unit: &str) {
        self.change(|job| {
            (job.done, job.total) = (done, total);
            if job.unit != unit {
                job.unit = unit.into();
            }
        });
    }

    fn change(&self, f: impl FnOnce(&mut VaultJob)) {
        if let Some(entry) = self.all.lock().iter_mut().find(|e| e.job.id == self.id) {
            f(&mut entry.job);
        }
    }
}

impl Jobs {
    pub(crate) fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { all: Arc::default(), clock, entropy }
    }

    /// Newest first.
    pub fn list(&self) -> Vec<VaultJob> {
        self.all.lock().iter().map(|e| e.job.clone()).collect()
    }

    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &str) -> Result<VaultJob, PortError> {
        let all = self.all.lock();
        all.iter().find(|e| e.job.id == id).map(|e| e.job.clone()).ok_or_else(|| unknown(id))
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has ended.
    pub fn cancel(&self, id: &str) -> Result<(), PortError> {
        let all = self.all.lock();
        let entry = all.iter().find(|e| e.job.id == id).ok_or_else(|| unknown(id))?;
        if entry.job.state != VaultJobState::Running {
            return Err(PortError::new(ErrorCode::Conflict, format!("job {id} has ended already")));
        }
        entry.cancel.store(true, Ordering::Release);
        Ok(())
    }

    /// Asks all to end.
    pub fn cancel_all(&self) {
        self.all.lock().iter().for_each(|e| e.cancel.store(true, Ordering::Release));
    }

    /// Whether one of a kind runs, or of kinds that begin so.
    pub fn runs(&self, kind: &str) -> bool {
        self.all.lock().iter().any(|e| e.job.state == VaultJobState::Running && e.job.kind.starts_with(kind))
    }

    /// Starts work on a thread of its own. `alone`: what may run once at a time, as its kind or its kind and subject.
    ///
    /// # Errors
    /// `Conflict`, which names the job that runs already.
    pub fn start(
        &self,
        (kind, subject): (&str, &str),
        alone: impl Fn(&VaultJob) -> bool,
        work: impl FnOnce(&JobControl) -> Result<VaultJobResult, PortError> + Send + 'static,
    ) -> Result<VaultJob, PortError> {
        let (control, job) = self.enter(kind, subject, alone)?;
        let clock = Arc::clone(&self.clock);
        tokio::task::spawn_blocking(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| work(&control))).unwrap_or_else(|_| {
                Err(PortError::new(ErrorCode::Internal, "the job died; see the site's log"))
            });
            let now = clock.wall();
            control.change(|job| {
                job.ended = Some(now);
                match ended {
                    Ok(result) => (job.state, job.result) = (VaultJobState::Succeeded, Some(result)),
                    Err(e) if control.cancelled() => {
                        (job.state, job.error) = (VaultJobState::Cancelled, Some(e.to_string()));
                    }
                    Err(e) => (job.state, job.error) = (VaultJobState::Failed, Some(e.to_string())),
                }
            });
        });
        Ok(job)
    }

    fn enter(
        &self,
        kind: &str,
        subject: &str,
        alone: impl Fn(&VaultJob) -> bool,
    ) -> Result<(JobControl, VaultJob), PortError> {
        let mut all = self.all.lock();
        let running = |e: &&Entry| e.job.state == VaultJobState::Running && alone(&e.job);
        if let Some(other) = all.iter().find(running) {
            let text = format!("job {} ({}) is under way", other.job.id, other.job.kind);
            return Err(PortError::new(ErrorCode::Conflict, text)
                .hint(format!("wait for it, or cancel it: lifeboat vault cancel {}", other.job.id)));
        }
        let id = loop {
            let id = format!("{:08x}", self.entropy.next_u64() as u32);
            if !all.iter().any(|e| e.job.id == id) {
                break id;
            }
        };
        if all.len() >= MOST {
            match all.iter().rposition(|e| e.job.state != VaultJobState::Running) {
                Some(at) => drop(all.remove(at)),
                None => {
                    return Err(PortError::new(ErrorCode::Conflict, format!("{MOST} jobs are under way")));
                }
            }
        }
        let job = VaultJob {
            id: id.clone(),
            kind: kind.into(),
            subject: subject.into(),
            state: VaultJobState::Running,
            started: self.clock.wall(),
            ended: None,
            done: 0,
            total: 0,
            unit: String::new(),
            step: "beginning".into(),
            error: None,
            result: None,
        };
        let cancel = Arc::new(AtomicBool::new(false));
        all.push_front(Entry { job: job.clone(), cancel: Arc::clone(&cancel) });
        Ok((JobControl { id, all: Arc::clone(&self.all), cancel }, job))
    }
}

fn unknown(id: &str) -> PortError {
    PortError::new(ErrorCode::NotFound, format!("there is no job '{id}'"))
        .hint("list them: lifeboat vault jobs")
}

#[cfg(test)]
mod tests;
