//! One server under capture.

use crate::capture::StateCell;
use crate::capture::mirror::StopFlag;
use crate::stream::{ConfirmPolicy, Stream};
use lifeboat_api::types::{OnLoss, ReplicationMode, ReplicationSpec};
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
pub(super) fn replication(assignment: &Assignment) -> ReplicationSpec {
    if assignment.replication.is_empty() {
        return ReplicationSpec::default();
    }
    serde_json::from_str(&assignment.replication).unwrap_or_else(|e| {
        tracing::error!("the assignment's replication settings are not understood: {e}");
        ReplicationSpec::default()
    })
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

impl Unit {
    /// Takes over what can be changed while the capture goes on.
    pub fn adapt(&mut self, wanted: &Assignment) {
        if self.assignment.replication == wanted.replication {
            return;
        }
        let alike = Assignment { replication: self.assignment.replication.clone(), ..wanted.clone() };
        if alike == self.assignment {
            let spec = replication(wanted);
            self.stream.set_policy(policy(&spec));
            self.stream.set_spool_bytes(spec.spool_bytes);
            self.assignment = wanted.clone();
        }
    }

    /// Ends the capture for this process; the next one goes on with it.
    pub fn stop(mut self) {
        self.stop.set_and_leave();
        self.end_capture();
        let (tracking, now) = (self.stream.tracking().cloned(), self.stream.clock().wall());
        self.end();
        if let Some(Err(e)) = tracking.map(|t| t.beat(now, true)) {
            tracing::warn!("the tracking log does not know that this process ended properly: {e}");
        }
    }

    /// Ends the capture for good. What was captured still goes out, for a while: to the line, or, when the server's epoch is
    /// over, to a branch beside it.
    pub fn retire(mut self) {
        self.stop.set();
        self.end_capture();
        let unit = self;
        let name = unit.assignment.name.clone();
        let stream = Arc::clone(&unit.stream);
        let rest = std::thread::Builder::new().name("retire".into()).spawn(move || {
            let begun = unit.stream.clock().monotonic();
            while unit.stream.status().lag_bytes > 0
                && unit.stream.clock().monotonic().saturating_sub(begun) < RETIRE
            {
                std::thread::park_timeout(RETIRE_LOOK);
            }
            let left = unit.stream.status().lag_bytes;
            if left > 0 {
                tracing::warn!(server = name, left, "not everything captured reached the site");
            }
            unit.end();
        });
        if let Err(e) = rest {
            tracing::error!("what was captured last is given up: {e}");
            stream.stop();
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
