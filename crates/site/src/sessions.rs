//! Who is connected now.
//!
//! Invariant: whoever is not in these lists is not connected, or is being told to go: a session that takes
//! another's place ends it.

use crate::server::No;
use lifeboat_base::{AgentId, ServerId, WallTime};
use lifeboat_replicate::message::{Control, ProbeResult, control};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// An agent that holds a control session.
pub struct AgentLink {
    pub session: u64,
    pub address: String,
    pub version: String,
    pub since: WallTime,
    pub instance: u64,
    pub(crate) outgoing: mpsc::Sender<Control>,
    /// Its assignments may have changed.
    pub(crate) assignments: Notify,
    pub(crate) probes: Mutex<HashMap<u64, oneshot::Sender<ProbeResult>>>,
    pub(crate) end: watch::Sender<Option<No>>,
}

impl AgentLink {
    /// Has the session send what is to be captured, as it is when it is sent: two changes at once cannot overtake
    /// each other, and nobody waits for a slow peer.
    pub fn assign(&self) {
        self.assignments.notify_one();
    }

    /// Asks what is behind a capture.
    pub async fn probe(&self, id: u64, capture: String, patience: Duration) -> Option<ProbeResult> {
        let (tx, rx) = oneshot::channel();
        self.probes.lock().insert(id, tx);
        let body = control::Body::Probe(lifeboat_replicate::message::Probe { capture });
        let sent = self.outgoing.send(Control { id, body: Some(body) }).await.is_ok();
        let result =
            if sent { tokio::time::timeout(patience, rx).await.ok().and_then(Result::ok) } else { None };
        self.probes.lock().remove(&id);
        result
    }

    pub fn cut(&self, no: No) {
        self.end.send_replace(Some(no));
    }
}

/// A stream session now open.
pub struct StreamLink {
    pub agent: AgentId,
    pub instance: u64,
    pub(crate) end: watch::Sender<Option<No>>,
}

/// Everything that is connected.
#[derive(Default)]
pub struct Sessions {
    next: AtomicU64,
    pub agents: Mutex<HashMap<AgentId, Arc<AgentLink>>>,
    pub streams: Mutex<HashMap<ServerId, (u64, StreamLink)>>,
}

impl Sessions {
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Cuts every session of an agent.
    pub fn cut_agent(&self, agent: AgentId, no: &No) {
        if let Some(link) = self.agents.lock().get(&agent) {
            link.cut(no.clone());
        }
        for (_, stream) in self.streams.lock().values() {
            if stream.agent == agent {
                stream.end.send_replace(Some(no.clone()));
            }
        }
    }

    pub fn cut_stream(&self, server: ServerId, no: &No) {
        if let Some((_, stream)) = self.streams.lock().get(&server) {
            stream.end.send_replace(Some(no.clone()));
        }
    }
}

/// A session in the lists of [`Sessions`]; off them when dropped, however it ended.
pub(crate) struct Listed<'a> {
    pub sessions: &'a Sessions,
    pub session: u64,
    pub key: Key,
}

pub(crate) enum Key {
    Agent(AgentId),
    Stream(ServerId),
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        match self.key {
            Key::Agent(id) => {
                let mut agents = self.sessions.agents.lock();
                if agents.get(&id).is_some_and(|l| l.session == self.session) {
                    agents.remove(&id);
                }
            }
            Key::Stream(id) => {
                let mut streams = self.sessions.streams.lock();
                if streams.get(&id).is_some_and(|(s, _)| *s == self.session) {
                    streams.remove(&id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
