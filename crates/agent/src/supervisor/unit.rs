//! One server under capture.

use crate::capture::StateCell;
use crate::capture::mirror::StopFlag;
use crate::stream::{ConfirmPolicy, Stream};
use anyhow::{Context, Result};
use lifeboat_api::types::{OnLoss, ReplicationMode, ReplicationSpec};
use lifeboat_base::ServerId;
use lifeboat_replicate::message::Assignment;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long what was captured may take to reach the site after the capture was taken away.
const RETIRE: Duration = Duration::from_secs(60);
const RETIRE_LOOK: Duration = Duration::from_millis(200);

/// See the module's text.
pub(super) struct Unit {
    pub assignment: Assignment,
    pub stream: Arc<Stream>,
    pub state: Arc<StateCell>,
    pub stop: Arc<StopFlag>,
    pub refusal: Arc<Mutex<Option<String>>>,
    pub exports: Vec<String>,
    pub capture: Option<JoinHandle<()>>,
    pub threads: Vec<JoinHandle<()>>,
    pub session: tokio::task::JoinHandle<()>,
}

/// What an assignment says of how writes go to the site.
///
/// # Errors
/// When it is not understood: nothing may be promised then that is not kept.
pub(super) fn replication(assignment: &Assignment) -> Result<ReplicationSpec> {
    if assignment.replication.is_empty() {
        return Ok(ReplicationSpec::default());
    }
    serde_json::from_str(&assignment.replication)
        .context("its replication settings are not understood; bring agent and site to the same version")
}

pub(super) fn policy(spec: &ReplicationSpec) -> ConfirmPolicy {
    match spec.mode {
        ReplicationMode::Async => ConfirmPolicy::Asynchronous,
        ReplicationMode::Sync => ConfirmPolicy::Synchronous {
            limit: Duration::from_secs(spec.loss_seconds.into()),
            degrade: spec.on_loss == OnLoss::Degrade,
        },
    }
}

/// What still goes out of a capture that was taken away.
pub(super) struct Retiring {
    server: ServerId,
    epoch: u32,
    stream: Arc<Stream>,
    thread: JoinHandle<()>,
}

impl Retiring {
    pub fn is_of(&self, server: ServerId, epoch: u32) -> bool {
        self.server == server && self.epoch == epoch
    }

    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it now.
    pub fn end(self) {
        self.stream.stop();
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("a retiring stream's thread died");
        }
    }
}

impl Unit {
    /// Takes over what can be changed while the capture goes on.
    pub fn adapt(&mut self, wanted: &Assignment) {
        if self.assignment.replication == wanted.replication {
            return;
        }
        let alike = Assignment { replication: self.assignment.replication.clone(), ..wanted.clone() };
        if alike == self.assignment {
            // Not understood: started anew with these, and refused with the reason.
            let Ok(spec) = replication(wanted) else { return };
            self.stream.set_policy(policy(&spec));
            self.stream.set_spool_bytes(spec.spool_bytes);
            self.assignment = wanted.clone();
        }
    }

    /// Ends the capture for this process; the next one goes on with it.
    pub fn stop(mut self) {
        let served = self.stream.attached();
        self.stop.set_and_leave();
        self.end_capture();
        let (tracking, now) = (self.stream.tracking().cloned(), self.stream.clock().wall());
        self.end();
        // Who never served the source cannot say that nobody else changed it.
        if let Some(Err(e)) = tracking.filter(|_| served).map(|t| t.beat(now, true)) {
            tracing::warn!("the tracking log does not know that this process ended properly: {e}");
        }
    }

    /// Ends the capture for good. What was captured still goes out, for a while: to the line, or, when the server's epoch is
    /// over, to a branch beside it.
    pub fn retire(mut self) -> Option<Retiring> {
        self.stop.set();
        self.end_capture();
        let server = ServerId::from_slice(&self.assignment.server).ok()?;
        let (epoch, stream) = (self.assignment.epoch, Arc::clone(&self.stream));
        let rest = std::thread::Builder::new().name("retire".into()).spawn(move || {
            let stream = Arc::clone(&self.stream);
            let begun = stream.clock().monotonic();
            let left = || stream.status().lag_bytes;
            while left() > 0 && !stream.stopped() && stream.clock().monotonic().saturating_sub(begun) < RETIRE
            {
                std::thread::park_timeout(RETIRE_LOOK);
            }
            if left() > 0 {
                tracing::warn!(
                    server = self.assignment.name,
                    left = left(),
                    "not everything captured reached the site"
                );
            }
            self.end();
        });
        match rest {
            Ok(thread) => Some(Retiring { server, epoch, stream, thread }),
            Err(e) => {
                tracing::error!("what was captured last is given up: {e}");
                stream.stop();
                None
            }
        }
    }

    fn end_capture(&mut self) {
        if self.capture.take().is_some_and(|c| c.join().is_err()) {
            tracing::error!("the capture's thread died");
        }
    }

    fn end(self) {
        self.stream.stop();
        for t in self.threads {
            if t.join().is_err() {
                tracing::error!("a stream's thread died");
            }
        }
        self.session.abort();
    }
}
