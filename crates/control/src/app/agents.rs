//! Agents: joining, listing, revoking.

use super::{App, conflict};
use crate::policy::Actor;
use crate::secret::Secret;
use crate::store::{AgentRow, Note, Redeemed, StoreError};
use crate::validate;
use lifeboat_api::types::{Agent, ApiError, ErrorCode, JoinRequest, JoinResponse, TokenKind};
use lifeboat_base::AgentId;

impl App {
    pub async fn agents(&self) -> Result<Vec<Agent>, ApiError> {
        let connected = self.site.agents();
        let servers = self.store.servers().await?;
        let agents = self.store.agents().await?;
        Ok(agents
            .into_iter()
            .map(|a| {
                let now = connected.iter().find(|c| c.id == a.id);
                Agent {
                    id: a.id,
                    joined: a.joined,
                    certificate_expires: a.certificate_expires,
                    revoked: a.revoked,
                    connected: now.is_some(),
                    address: now.map(|c| c.address.clone()),
                    version: now.map(|c| c.version.clone()),
                    servers: servers
                        .iter()
                        .filter(|s| s.agent == a.id && !s.deleting)
                        .map(|s| s.name.clone())
                        .collect(),
                    name: a.name,
                }
            })
            .collect())
    }

    /// Lets an agent in that brings a join token. The token is spent only when all of it succeeds.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinResponse, ApiError> {
        let wrong = || {
            ApiError::new(ErrorCode::Unauthenticated, "the join token is not valid")
                .hint("make a new one with `lifeboat token create --agent`")
        };
        let secret = Secret::parse_join(&request.token).ok_or_else(wrong)?;
        let token = self.store.token(&secret.id).await?;
        let token =
            token.filter(|t| secret.matches(&t.hash) && t.kind == TokenKind::Agent).ok_or_else(wrong)?;
        let gone = |why: &str| {
            ApiError::new(ErrorCode::Unauthenticated, format!("the join token {why}"))
                .hint("make a new one with `lifeboat token create --agent`")
        };
        let now = self.now();
        if token.used {
            return Err(gone("was used already"));
        }
        if token.revoked {
            return Err(gone("was revoked"));
        }
        if self.ended(&token) {
            return Err(gone("has expired"));
        }
        validate::name("an agent", &request.name)?;
        // It may have the name of one that the catalogue brings back.
        self.catalogue_was_read().await?;
        if !token.name.is_empty() && token.name != request.name {
            return Err(ApiError::new(
                ErrorCode::Forbidden,
                format!("the join token is for the agent '{}', not '{}'", token.name, request.name),
            )
            .hint("join with that name, or make another token"));
        }
        let id = AgentId::random(&*self.entropy);
        let issued = self
            .gate
            .ca()
            .agent(&request.csr, id, self.gate.agent_life(), now, &*self.entropy)
            .map_err(|e| ApiError::new(ErrorCode::Invalid, e.to_string()))?;
        let row = AgentRow {
            id,
            name: request.name.clone(),
            joined: now,
            serial: issued.serial.clone(),
            certificate_expires: issued.expires,
            revoked: false,
        };
        let detail = format!("id {id}, serial {}, until {}", issued.serial, issued.expires);
        let note = Note::done(format!("join token {}", token.id), "agent.join", &row.name, detail);
        match self.store.redeem(&token.id, &row, &note).await {
            Ok(Redeemed::Joined) => self.gate.joined(&row),
            Ok(Redeemed::Spent) => return Err(gone("was used already")),
            Err(StoreError::Taken(_)) => {
                return Err(conflict(format!("an agent '{}' exists already", request.name))
                    .hint("choose another name, or revoke that agent first; the token can still be used"));
            }
            Err(e) => return Err(e.into()),
        }
        Ok(JoinResponse {
            agent: id,
            name: row.name,
            certificate: issued.chain,
            ca: self.gate.ca().pem().into(),
            replication: self.config.replication.clone(),
        })
    }

    /// Revokes an agent by name or id and cuts its sessions.
    pub async fn revoke_agent(&self, actor: &Actor, name: &str) -> Result<(), ApiError> {
        let agent = self.agent_named(name).await?;
        let note = Note::done(&actor.name, "agent.revoke", &agent.name, format!("id {}", agent.id));
        let changed = self.store.revoke_agent(agent.id, &note).await?;
        self.gate.revoked(agent.id);
        self.site.disconnect_agent(agent.id);
        if changed {
            return Ok(());
        }
        Err(conflict(format!("the agent '{}' was revoked already", agent.name)))
    }
}
