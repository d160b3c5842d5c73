//! Looking at runs, and getting rid of them.

use super::{App, STEP, not_found, within};
use crate::store::{RunRow, StoreError};
use lifeboat_api::port::RunStatus;
use lifeboat_api::types::{ApiError, ErrorCode, Run, RunKind, RunState, SerialQuery};
use lifeboat_base::{RunId, limits};
use std::time::Duration;

/// When a clean-up that failed is tried again.
pub(super) const RETRY_CLEAN_UP: Duration = Duration::from_secs(60);
/// Runs that a listing shows.
const SHOWN: u32 = 200;
const DEFAULT_SERIAL: u32 = 64 << 10;

impl App {
    pub async fn runs(&self) -> Result<Vec<Run>, ApiError> {
        Ok(self.store.runs(SHOWN).await?.into_iter().map(|r| r.run).collect())
    }

    pub async fn run(&self, id: RunId) -> Result<Run, ApiError> {
        let row = self.store.run(id).await?.ok_or_else(|| not_found("run", &id.to_string()))?;
        Ok(row.run)
    }

    /// PNG.
    pub async fn screen(&self, id: RunId) -> Result<Vec<u8>, ApiError> {
        let run = self.run(id).await?;
        if run.state == RunState::CleanedUp {
            return Err(ApiError::new(ErrorCode::NotFound, "the run is cleaned up")
                .hint(format!("its last picture is in {}", run.directory)));
        }
        self.site.screenshot(id).await
    }

    pub async fn serial(&self, id: RunId, query: &SerialQuery) -> Result<Vec<u8>, ApiError> {
        let bytes = query.bytes.unwrap_or(DEFAULT_SERIAL);
        if bytes == 0 || bytes as usize > limits::MIB {
            return Err(ApiError::new(ErrorCode::Invalid, "bytes is 1 to 1048576"));
        }
        self.run(id).await?;
        self.site.serial(id, bytes as usize).await
    }

    /// Gets rid of a run that came to nothing. What cannot be removed now is removed by a later clean-up.
    pub(super) async fn discard_run(&self, id: RunId) -> Result<(), StoreError> {
        match within(STEP, self.site.destroy_run(id, true)).await {
            Ok(()) => self.cleaned_up(id).await,
            Err(error) => {
                tracing::warn!(run = %id, %error, "a run could not be removed; it is tried again");
                let later = self.now().saturating_add(RETRY_CLEAN_UP);
                self.store
                    .update_run(id, |run| {
                        run.state = RunState::Exited;
                        run.expires = Some(later);
                    })
                    .await?;
                Ok(())
            }
        }
    }

    pub(super) async fn cleaned_up(&self, id: RunId) -> Result<(), StoreError> {
        self.hydrating.lock().remove(&id);
        let change = |run: &mut Run| {
            run.state = RunState::CleanedUp;
            run.expires = None;
            run.forwards.clear();
        };
        self.store.update_run(id, change).await?;
        Ok(())
    }

    /// Brings what the store says of a live run up to what the data side sees.
    pub(super) async fn refresh_run(&self, row: &RunRow, status: RunStatus) -> Result<(), StoreError> {
        let change = move |run: &mut Run| {
            // A clean-up may have come between.
            if !matches!(run.state, RunState::Running | RunState::Exited) {
                return;
            }
            run.state = if status.alive { RunState::Running } else { RunState::Exited };
            if run.kind == RunKind::Failover {
                run.hydrated_percent = Some(status.hydrated_percent.min(100));
            }
            run.forwards = status.forwards;
        };
        self.store.update_run(row.run.id, change).await?;
        Ok(())
    }
}
