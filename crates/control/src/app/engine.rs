//! Carries operations out.
//!
//! Invariants: a step's outcome is stored before the next step begins; a step that was begun and not stored is done
//! again, which every step allows; an operation whose step failed is undone before it is called failed, and the
//! undoing too is taken up again after a crash. What the store cannot take now leaves the operation running, and the
//! reconciler comes back to it.

use super::work::{Job, Work};
use super::{App, conflict};
use crate::store::{Note, StoreError};
use lifeboat_api::types::{ApiError, OperationKind, OperationState, StepState};
use lifeboat_base::OperationId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How a step went well.
pub(super) enum Done {
    Done(String),
    /// There was nothing to do.
    Skipped(String),
}

/// Takes an operation off the list of those being carried out, whatever happens.
struct Driving<'a>(&'a App, OperationId);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.driving.lock().remove(&self.1);
    }
}

impl App {
    /// Starts carrying out an operation unless this process does already.
    pub(super) fn take_up(self: &Arc<Self>, id: OperationId) {
        let cancel = Arc::new(Notify::new());
        {
            let mut driving = self.driving.lock();
            if driving.contains_key(&id) {
                return;
            }
            driving.insert(id, cancel.clone());
        }
        let app = self.clone();
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _driving = Driving(&app, id);
            if let Err(e) = app.drive(id, &cancel).await {
                tracing::error!(operation = %id, error = %e, "an operation pauses until the store works again");
            }
        });
    }

    async fn drive(&self, id: OperationId, cancel: &Notify) -> Result<(), StoreError> {
        let Some(row) = self.store.operation(id).await? else { return Ok(()) };
        let mut job = Job::load(row)?;
        while job.running() {
            let steps = &job.operation.steps;
            if steps.iter().any(|s| s.state == StepState::Failed) {
                self.give_up(&mut job).await?;
                continue;
            }
            match steps.iter().position(|s| matches!(s.state, StepState::Pending | StepState::Running)) {
                Some(at) => self.one_step(&mut job, at, cancel).await?,
                None => self.finish(&mut job).await?,
            }
        }
        self.wake.notify_one();
        Ok(())
    }

    async fn one_step(&self, job: &mut Job, at: usize, cancel: &Notify) -> Result<(), StoreError> {
        let step = &mut job.operation.steps[at];
        step.state = StepState::Running;
        step.started = step.started.or_else(|| Some(self.clock.wall()));
        self.store.save_step(&job.row()?, at).await?;
        let cancellable = job.work.kind() == OperationKind::Drill;
        let cancelled = async {
            if !cancellable {
                std::future::pending::<()>().await;
            }
            cancel.notified().await;
        };
        let outcome = if job.cancel && cancellable {
            None
        } else {
            tokio::select! {
                biased;
                () = cancelled => None,
                outcome = self.step(job, at) => Some(outcome),
            }
        };
        let (state, detail) = match outcome {
            Some(Ok(Done::Done(detail))) => (StepState::Done, detail),
            Some(Ok(Done::Skipped(why))) => (StepState::Skipped, why),
            Some(Err(error)) => {
                let text = error.to_string();
                job.operation.error = Some(error);
                (StepState::Failed, text)
            }
            None => {
                job.cancel = true;
                job.operation.error = Some(conflict("the drill was cancelled"));
                (StepState::Failed, "cancelled".into())
            }
        };
        let step = &mut job.operation.steps[at];
        tracing::info!(operation = %job.operation.id, step = step.name, ?state, detail, "step");
        step.state = state;
        step.detail = detail;
        step.ended = Some(self.clock.wall());
        self.store.save_step(&job.row()?, at).await
    }

    /// Shows how far a step is. Saved when it changes.
    pub(super) async fn progress(
        &self,
        job: &mut Job,
        at: usize,
        percent: u8,
        detail: String,
    ) -> Result<(), ApiError> {
        let step = &mut job.operation.steps[at];
        if step.percent == Some(percent) && step.detail == detail {
            return Ok(());
        }
        step.percent = Some(percent);
        step.detail = detail;
        Ok(self.store.save_step(&job.row()?, at).await?)
    }

    pub(super) async fn finish(&self, job: &mut Job) -> Result<(), StoreError> {
        if let Work::Drill { launching, keep_seconds } = &job.work {
            let expires = self.now().saturating_add(Duration::from_secs(*keep_seconds));
            self.store.update_run(launching.run, |run| run.expires = run.expires.or(Some(expires))).await?;
        }
        let state =
            if job.memory.checks_failed { OperationState::ChecksFailed } else { OperationState::Succeeded };
        self.end(job, state).await
    }

    /// Undoes what a failed operation has done, then calls it failed.
    async fn give_up(&self, job: &mut Job) -> Result<(), StoreError> {
        match &job.work {
            Work::Drill { launching, .. } => self.discard_run(launching.run).await?,
            Work::Failover { .. } => self.undo_failover(job).await?,
            Work::CleanUp { run } => {
                // Tried again by the reconciler.
                let later = self.now().saturating_add(super::runs::RETRY_CLEAN_UP);
                self.store.update_run(*run, |run| run.expires = Some(later)).await?;
            }
            Work::Commit { .. } => {}
        }
        for step in &mut job.operation.steps {
            if step.state == StepState::Pending {
                step.state = StepState::Skipped;
            }
        }
        let state = if job.cancel { OperationState::Cancelled } else { OperationState::Failed };
        self.end(job, state).await
    }

    async fn end(&self, job: &mut Job, state: OperationState) -> Result<(), StoreError> {
        job.operation.state = state;
        job.operation.ended = Some(self.now());
        let (action, outcome) = (ended(job.work.kind()), outcome(state));
        let why = job.operation.error.as_ref().map_or(String::new(), |e| format!(": {e}"));
        let detail = format!("operation {}{why}", job.operation.id);
        tracing::info!(server = job.operation.server, action, outcome, detail);
        let note = Note::done("site", action, &job.operation.server, detail).outcome(outcome);
        self.store.end_operation(&job.row()?, &note).await
    }
}

fn ended(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Drill => "drill.end",
        OperationKind::DrillCleanup => "run.cleaned-up",
        OperationKind::Failover => "failover.end",
        OperationKind::Commit => "commit.end",
    }
}

fn outcome(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Succeeded => "done",
        OperationState::ChecksFailed => "checks-failed",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}
