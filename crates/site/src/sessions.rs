//! Who is connected now.
//!
//! Invariant: whoever is not in these lists is not connected, or is being told to go: a session that takes
//! another's place ends it.

use crate::server::No;
use lifeboat_base::{AgentId, ServerId, WallTime};
use lifeboat_replicate::message::{Control, control};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// How long after a second claimant came the first must still be heard for both to be alive. What waited in a buffer when
/// a host went down is read sooner.
const ALIVE: Duration = Duration::from_secs(1);

/// Tells a restart, in which the old session only lingers, from two that are alive at once.
#[derive(Default)]
pub(crate) struct Rival {
    waits: AtomicBool,
    challenge: Mutex<Option<(Duration, String)>>,
}

impl Rival {
    /// Another process wanted this session's place, from `address`, and was refused.
    pub(crate) fn challenged(&self, now: Duration, address: String) {
        *self.challenge.lock() = Some((now, address));
        self.waits.store(true, Ordering::Release);
    }

    /// The session's own peer was heard. Gives the other's address when both are alive.
    pub(crate) fn heard(&self, now: Duration) -> Option<String> {
        if !self.waits.load(Ordering::Acquire) {
            return None;
        }
        let mut challenge = self.challenge.lock();
        let (since, _) = challenge.as_ref()?;
        if now.saturating_sub(*since) < ALIVE {
            return None;
        }
        self.waits.store(false, Ordering::Release);
        challenge.take().map(|(_, address)| address)
    }
}

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
    /// Requests that wait for their answers.
    waiting: Mutex<HashMap<u64, oneshot::Sender<control::Body>>>,
    pub(crate) rival: Rival,
    pub(crate) end: watch::Sender<Option<No>>,
}

impl AgentLink {
    /// Has the session send what is to be captured, as it is when it is sent: two changes at once cannot overtake
    /// each other, and nobody waits for a slow peer.
    pub fn assign(&self) {
        self.assignments.notify_one();
    }

    /// Sends a request and gives its answer; `None` when none comes in time. `id` must be new.
    pub async fn ask(&self, id: u64, body: control::Body, patience: Duration) -> Option<control::Body> {
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(id, tx);
        // A peer that takes nothing is not waited for longer than one that does not answer.
        let asked = async {
            self.outgoing.send(Control { id, body: Some(body) }).await.ok()?;
            rx.await.ok()
        };
        let answer = tokio::time::timeout(patience, asked).await.ok().flatten();
        self.waiting.lock().remove(&id);
        answer
    }

    /// Sends what needs no answer, if the peer takes anything.
    pub fn tell(&self, id: u64, body: control::Body) -> bool {
        self.outgoing.try_send(Control { id, body: Some(body) }).is_ok()
    }

    /// An answer came. One that nobody waits for any more is dropped.
    pub fn answered(&self, id: u64, body: control::Body) {
        if let Some(waiting) = self.waiting.lock().remove(&id) {
            let _ = waiting.send(body);
        }
    }

    pub fn cut(&self, no: No) {
        self.end.send_replace(Some(no));
    }
}

impl AgentLink {
    pub(crate) fn new(
        session: u64,
        (address, version, since): (String, String, WallTime),
        instance: u64,
        outgoing: mpsc::Sender<Control>,
        end: watch::Sender<Option<No>>,
    ) -> Self {
        let (assignments, waiting, rival) = (Notify::new(), Mutex::default(), Rival::default());
        Self { session, address, version, since, instance, outgoing, assignments, waiting, rival, end }
    }
}

/// A stream session now open.
pub struct StreamLink {
    pub agent: AgentId,
    pub instance: u64,
    pub(crate) rival: Arc<Rival>,
    pub(crate) end: watch::Sender<Option<No>>,
}

/// What a stream writes: a server's line, or the branch of that name.
pub type Target = (ServerId, Option<String>);

/// Everything that is connected.
#[derive(Default)]
pub struct Sessions {
    next: AtomicU64,
    pub agents: Mutex<HashMap<AgentId, Arc<AgentLink>>>,
    pub streams: Mutex<HashMap<Target, (u64, StreamLink)>>,
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

    pub fn cut_stream(&self, target: &Target, no: &No) {
        if let Some((_, stream)) = self.streams.lock().get(target) {
            stream.end.send_replace(Some(no.clone()));
        }
    }

    /// Cuts the streams of a server's line and of its branches.
    pub fn cut_server(&self, server: ServerId, no: &No) {
        for (_, (_, stream)) in self.streams.lock().iter().filter(|((s, _), _)| *s == server) {
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
    Stream(Target),
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        match &self.key {
            Key::Agent(id) => {
                let mut agents = self.sessions.agents.lock();
                if agents.get(id).is_some_and(|l| l.session == self.session) {
                    agents.remove(id);
                }
            }
            Key::Stream(target) => {
                let mut streams = self.sessions.streams.lock();
                if streams.get(target).is_some_and(|(s, _)| *s == self.session) {
                    streams.remove(target);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
