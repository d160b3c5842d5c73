//! What only failovers and commits do. Each step may be repeated.
//!
//! Invariants: the epoch is raised and durable at the data side before the point is fixed, so nothing can arrive
//! behind it (I4); the run of an earlier failover is thrown away only after the new point is mounted, and a
//! failover that fails before that leaves the earlier run in charge.

use super::engine::Done;
use super::work::{Job, Work, step};
use super::{App, Carry, PATIENCE, STEP, conflict, within};
use crate::store::{ServerRow, StoreError};
use lifeboat_api::lifecycle::{ServerEvent, ServerState};
use lifeboat_api::types::{ApiError, ErrorCode};
use lifeboat_base::RunId;
use std::time::Duration;

/// How often a commit looks how far the hydration is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl App {
    pub(super) async fn server_of(&self, job: &Job) -> Result<ServerRow, ApiError> {
        let row = self.store.server(job.server).await?;
        row.ok_or_else(|| ApiError::new(ErrorCode::Corrupt, "the operation's server is not in the store"))
    }

    pub(super) async fn stop_replication(&self, job: &Job) -> Result<Done, ApiError> {
        let Work::Failover { epoch, .. } = &job.work else { return Ok(Done::Skipped(String::new())) };
        let row = self.server_of(job).await?;
        if row.state != ServerState::FailingOver {
            let carry = Carry { epoch: *epoch, run: None };
            let detail = format!("failover, operation {}", job.operation.id);
            let moved = self
                .apply(row.id, ServerEvent::FailoverStarted, carry, &job.operation.actor, &detail)
                .await?;
            if moved.is_none() {
                return Err(conflict(format!("'{}' has become {} meanwhile", row.name, row.state))
                    .hint("look at `lifeboat status` and ask again"));
            }
        }
        let row = self.server_of(job).await?;
        self.assert_server(row.id).await?;
        Ok(match epoch {
            Some(epoch) => Done::Done(format!("replication is off, epoch {epoch}")),
            None => Done::Skipped("replication is off already".into()),
        })
    }

    pub(super) async fn discard_previous(&self, job: &Job) -> Result<Done, ApiError> {
        match job.work {
            Work::Failover { previous: Some(run), .. } => {
                within(STEP, self.site.destroy_run(run, true)).await?;
                self.cleaned_up(run).await?;
                Ok(Done::Done(format!("run {run} is gone, its logs are kept")))
            }
            _ => Ok(Done::Skipped("there is none".into())),
        }
    }

    pub(super) async fn failed_over(&self, job: &Job) -> Result<Done, ApiError> {
        let row = self.server_of(job).await?;
        let run = job.work.run();
        if row.state != ServerState::FailedOver || row.run != Some(run) {
            let carry = Carry { epoch: None, run: Some(Some(run)) };
            self.apply_or_fault(&row, ServerEvent::FailoverDone, carry, &format!("run {run}")).await?;
        }
        Ok(Done::Done(format!("'{}' runs at this site", row.name)))
    }

    /// Copying goes on in the background and is watched by the reconciler; a start that fails is tried again there.
    pub(super) async fn start_hydration(&self, run: RunId) -> Done {
        match within(PATIENCE, self.site.hydrate(run)).await {
            Ok(()) => {
                self.hydrating.lock().insert(run);
                Done::Done("the disks are being copied in the background".into())
            }
            Err(e) => Done::Done(format!("copying the disks could not start yet, and is tried again: {e}")),
        }
    }

    pub(super) async fn wait_hydrated(&self, job: &mut Job, at: usize, run: RunId) -> Result<Done, ApiError> {
        within(PATIENCE, self.site.hydrate(run)).await?;
        self.hydrating.lock().insert(run);
        loop {
            let status = within(PATIENCE, self.site.run_status(run)).await?;
            let percent = status.hydrated_percent.min(100);
            self.store.update_run(run, |r| r.hydrated_percent = Some(percent)).await?;
            if percent == 100 {
                return Ok(Done::Done("all disks are copied".into()));
            }
            if !status.alive {
                return Err(ApiError::new(
                    ErrorCode::Unavailable,
                    format!("the machine has ended ({}) before its disks were copied", status.detail),
                )
                .hint("fail over again, to the same or another point"));
            }
            self.progress(job, at, percent, format!("{percent} % of the disks are copied")).await?;
            // Nothing wakes it but time: how far the copy is can only be asked.
            Self::pause(&tokio::sync::Notify::new(), LOOK_EVERY).await;
        }
    }

    pub(super) async fn committed(&self, job: &Job, run: RunId) -> Result<Done, ApiError> {
        let row = self.server_of(job).await?;
        if row.state != ServerState::Committed {
            self.apply_or_fault(&row, ServerEvent::Committed, Carry::default(), &format!("run {run}"))
                .await?;
        }
        Ok(Done::Done(format!("'{}' runs at this site for good", row.name)))
    }

    /// Leaves the server where a person can go on: the earlier run in charge if it still is there, else stopped.
    pub(super) async fn undo_failover(&self, job: &Job) -> Result<(), StoreError> {
        let Some(row) = self.store.server(job.server).await? else { return Ok(()) };
        let run = job.work.run();
        if row.state == ServerState::FailedOver && row.run == Some(run) {
            // It failed after the machine was in charge: that stays.
            return Ok(());
        }
        if row.stale.is_some() {
            // Begun by a store that was put back since. What runs now may be what this failover once made.
            return Ok(());
        }
        self.discard_run(run).await?;
        if row.state != ServerState::FailingOver {
            return Ok(());
        }
        let previous = match job.work {
            Work::Failover { previous: Some(run), .. } if !job.begun(step::DISCARD) => Some(run),
            _ => None,
        };
        let (event, detail) = match previous {
            Some(_) => (ServerEvent::FailoverDone, "the other point failed; the run before stays"),
            None => (ServerEvent::FailoverFailed, "the failover failed"),
        };
        if let Work::Failover { previous: Some(old), .. } = job.work
            && previous.is_none()
            && !job.done(step::DISCARD)
        {
            // It may be half gone; nothing carries it any more.
            self.discard_run(old).await?;
        }
        let carry = Carry { epoch: None, run: Some(previous) };
        match self.apply_or_fault(&row, event, carry, detail).await {
            Ok(()) => Ok(()),
            // Set aside with a fault, which is as far as undoing goes.
            Err(e) if e.code == ErrorCode::Internal => {
                tracing::error!(server = row.name, error = %e, "a failed failover could not be undone");
                Ok(())
            }
            Err(e) => Err(StoreError::Damaged(e.to_string())),
        }
    }
}
