//! Who may come in on the replication port: [`ControlPort`] for the data side.
//!
//! Invariants: only an agent in the table that is not revoked, with a certificate valid by this site's clock, is
//! admitted; the table follows the store, and a revocation is in the table before the store's answer is
//! given out; every refusal is audited, the flood of them bounded. Needs nothing of the data side, so it can be
//! built before it.

use crate::ca::{Ca, PeerCertificate};
use crate::limit::RefusalLimit;
use crate::store::{AgentRow, Note, Store, StoreError};
use async_trait::async_trait;
use lifeboat_api::port::{ControlPort, PortError, Refusal};
use lifeboat_api::types::{ApiError, ErrorCode};
use lifeboat_base::{AgentId, Clock, Entropy};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Audit entries waiting to be written; further ones are counted and the count is written.
const QUEUE: usize = 1024;

struct Known {
    name: String,
    revoked: bool,
}

/// The gate. One per site.
pub struct Gate {
    store: Store,
    ca: Arc<Ca>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    agent_life: Duration,
    agents: RwLock<HashMap<AgentId, Known>>,
    refusals: RefusalLimit,
    notes: mpsc::Sender<Note>,
    queue: Mutex<Option<mpsc::Receiver<Note>>>,
    lost: AtomicU64,
}

impl Gate {
    /// Reads the agents the store knows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        store: Store,
        ca: Arc<Ca>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        agent_life: Duration,
    ) -> Result<Arc<Self>, StoreError> {
        let agents = store.agents().await?;
        let agents = agents.into_iter().map(|a| (a.id, Known { name: a.name, revoked: a.revoked })).collect();
        let (notes, queue) = mpsc::channel(QUEUE);
        Ok(Arc::new(Self {
            store,
            ca,
            clock,
            entropy,
            agent_life,
            agents: RwLock::new(agents),
            refusals: RefusalLimit::default(),
            notes,
            queue: Mutex::new(Some(queue)),
            lost: AtomicU64::new(0),
        }))
    }

    pub fn ca(&self) -> &Arc<Ca> {
        &self.ca
    }

    /// How long the certificates last that it has agents given.
    pub fn agent_life(&self) -> Duration {
        self.agent_life
    }

    pub(crate) fn joined(&self, agent: &AgentRow) {
        self.agents.write().insert(agent.id, Known { name: agent.name.clone(), revoked: agent.revoked });
    }

    pub(crate) fn revoked(&self, agent: AgentId) {
        if let Some(known) = self.agents.write().get_mut(&agent) {
            known.revoked = true;
        }
    }

    /// Writes queued entries to the audit log until the gate is dropped. Runs once; a second call returns.
    pub(crate) async fn write_notes(self: Arc<Self>) {
        let Some(mut queue) = self.queue.lock().take() else { return };
        while let Some(note) = queue.recv().await {
            self.write(&note).await;
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let detail = format!("{lost} entries came faster than they could be written");
                self.write(&Note::done("site", "audit.overflow", "", detail).outcome("lost")).await;
            }
        }
    }

    async fn write(&self, note: &Note) {
        if let Err(e) = self.store.note(note).await {
            tracing::error!(error = %e, ?note, "an audit entry could not be written");
        }
    }

    fn push(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn refused(&self, who: &str, address: &str, why: &str) {
        // A new connection has a new port: the host says which refusals are alike.
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let verdict = self.refusals.judge(&format!("{host} {why}"), self.clock.monotonic());
        if verdict.untold > 0 {
            let detail = format!("{} more refusals within a minute", verdict.untold);
            self.push(Note::done("site", "peer.connect", "", detail).outcome("refused"));
        }
        if verdict.tell {
            tracing::warn!(who, address, why, "peer refused");
            self.push(Note::done(who, "peer.connect", address, why).outcome("refused"));
        }
    }

    fn judge(&self, certificate: &[u8]) -> Result<AgentId, (String, Refusal)> {
        let unknown = "unknown".to_string();
        let peer = PeerCertificate::read(certificate).ok_or((unknown, Refusal::Unknown))?;
        let agents = self.agents.read();
        let known = agents.get(&peer.agent).ok_or((format!("agent {}", peer.agent), Refusal::Unknown))?;
        let who = format!("agent {}", known.name);
        let now = self.clock.wall();
        if known.revoked {
            Err((who, Refusal::Revoked))
        } else if now < peer.not_before || now > peer.not_after {
            Err((who, Refusal::NotValid))
        } else {
            Ok(peer.agent)
        }
    }
}

#[async_trait]
impl ControlPort for Gate {
    fn admit(&self, certificate: &[u8], address: &str) -> Result<AgentId, Refusal> {
        self.judge(certificate).map_err(|(who, refusal)| {
            self.refused(&who, address, &refusal.to_string());
            refusal
        })
    }

    fn handshake_refused(&self, address: &str, why: &str) {
        self.refused("unknown", address, why);
    }

    async fn renew(&self, agent: AgentId, csr: &str) -> Result<String, PortError> {
        let gone = || {
            ApiError::new(ErrorCode::Forbidden, "the agent was revoked or never joined")
                .hint("join it again with a new join token")
        };
        let name = match self.agents.read().get(&agent) {
            Some(known) if !known.revoked => known.name.clone(),
            _ => return Err(gone()),
        };
        let issued = self
            .ca
            .agent(csr, agent, self.agent_life, self.clock.wall(), &*self.entropy)
            .map_err(|e| ApiError::new(ErrorCode::Invalid, e.to_string()))?;
        let detail = format!("serial {}, until {}", issued.serial, issued.expires);
        let note = Note::done(format!("agent {name}"), "agent.renew", name, detail);
        if self.store.renewed(agent, &issued.serial, issued.expires, &note).await? {
            Ok(issued.chain)
        } else {
            Err(gone())
        }
    }

    fn note(&self, action: &str, target: &str, outcome: &str, detail: &str) {
        self.push(Note::done("site", action, target, detail).outcome(outcome));
    }
}

#[cfg(test)]
mod tests;
