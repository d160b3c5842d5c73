//! How a job comes to a session of an agent.
//!
//! The job asks the agent over its control session; the agent opens a session that names the job.
//!
//! Invariants: a session is let in for a job that waits for this agent, once, and never for one that has ended; what waits
//! between the two is bounded.

use crate::Site;
use lifeboat_api::port::PortError;
use lifeboat_api::types::ErrorCode;
use lifeboat_base::AgentId;
use lifeboat_base::limits::{BACKUP_QUEUE, MAX_TEXT, SESSION_SILENCE};
use lifeboat_replicate::message::control;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long an agent may take to answer the request, and to open its session.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often a job that waits looks whether it was cancelled.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A job's end of a session: what comes in, what goes out.
pub(crate) struct Door<I, O> {
    agent: AgentId,
    pub incoming: mpsc::Sender<I>,
    pub outgoing: mpsc::Receiver<O>,
}

/// Jobs that wait for their agent's session.
pub(crate) struct Waiting<I, O>(Mutex<HashMap<u64, Door<I, O>>>);

impl<I, O> Default for Waiting<I, O> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<I, O> Waiting<I, O> {
    /// The door of a job, for the agent it waits for; once.
    pub fn take(&self, job: u64, agent: AgentId) -> Option<Door<I, O>> {
        let mut waiting = self.0.lock();
        if waiting.get(&job).is_none_or(|d| d.agent != agent) {
            return None;
        }
        waiting.remove(&job)
    }

    /// Has a job wait, with room for so many answers. It does not any more when its place is dropped.
    pub(super) fn wait(&self, job: u64, agent: AgentId, room: usize) -> (Place<'_, I, O>, Line<I, O>) {
        let (incoming, received) = mpsc::channel(BACKUP_QUEUE);
        let (answers, outgoing) = mpsc::channel(room);
        self.0.lock().insert(job, Door { agent, incoming, outgoing });
        let line = Line { runtime: tokio::runtime::Handle::current(), received, answers };
        (Place { waiting: self, job }, line)
    }
}

/// A job's place in [`Waiting`]; taken back when it is dropped.
pub(super) struct Place<'a, I, O> {
    waiting: &'a Waiting<I, O>,
    job: u64,
}

impl<I, O> Drop for Place<'_, I, O> {
    fn drop(&mut self) {
        self.waiting.0.lock().remove(&self.job);
    }
}

/// The job's end of the agent's session.
pub(super) struct Line<I, O> {
    runtime: tokio::runtime::Handle,
    received: mpsc::Receiver<I>,
    pub answers: mpsc::Sender<O>,
}

impl<I, O> Line<I, O> {
    /// `None` when nothing came in time, or nothing will.
    pub fn receive(&mut self, patience: Duration) -> Option<I> {
        let Self { runtime, received, .. } = self;
        runtime.block_on(async { tokio::time::timeout(patience, received.recv()).await.ok().flatten() })
    }

    /// Whether nothing will come any more.
    pub fn ended(&self) -> bool {
        self.received.is_closed() && self.received.is_empty()
    }

    /// Whether it is on its way. Why the session ended is said where it is read.
    pub fn tell(&self, message: O) -> bool {
        let sent = async { tokio::time::timeout(SESSION_SILENCE, self.answers.send(message)).await };
        matches!(self.runtime.block_on(sent), Ok(Ok(())))
    }
}

pub(super) fn agent_id(agent: &str) -> Result<AgentId, PortError> {
    let unknown = || PortError::new(ErrorCode::Invalid, format!("'{agent}' is no agent's id"));
    agent.parse().map_err(|_| unknown())
}

pub(super) fn broken(why: impl Into<String>) -> PortError {
    let text = format!("the agent broke the protocol: {}", why.into());
    PortError::new(ErrorCode::Unavailable, text).hint("bring agent and site to the same version")
}

pub(super) fn clip(text: String) -> String {
    if text.len() > MAX_TEXT { text.chars().take(MAX_TEXT / 4).collect() } else { text }
}

impl Site {
    /// Asks an agent over its control session for one of its own. Blocks.
    pub(super) fn ask_agent(
        &self,
        agent: AgentId,
        job: u64,
        request: control::Body,
    ) -> Result<(), PortError> {
        let link = self.sessions.agents.lock().get(&agent).cloned();
        let link = link.ok_or_else(|| {
            PortError::new(ErrorCode::Unavailable, "the agent is not connected")
                .hint("start it, or see why it is away: lifeboat agents")
        })?;
        let runtime = tokio::runtime::Handle::current();
        let error = match runtime.block_on(link.ask(job, request, PATIENCE)) {
            Some(control::Body::BackupResult(r)) => r.error,
            Some(control::Body::RestoreResult(r)) => r.error,
            _ => {
                return Err(PortError::new(ErrorCode::Unavailable, "the agent does not answer")
                    .hint("it may be older than this site: bring both to one version"));
            }
        };
        if error.is_empty() {
            return Ok(());
        }
        let text = format!("the agent refused: {}", clip(error));
        Err(PortError::new(ErrorCode::Unavailable, text))
    }
}
