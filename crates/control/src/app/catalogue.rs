//! What a new site needs to know, kept in the vault; and a new site that learns it.
//!
//! Invariants: a catalogue is put only when it differs from the one this process put last, and never before an attached
//! site has read the one that is there; a server comes out of a catalogue stopped, at an epoch above every one that
//! the catalogue or the vault's points know of, so nothing that its old site or agent still sends is taken (I4).

use super::{App, PATIENCE, within};
use crate::store::{AgentRow, GroupRow, Import, Note, ServerRow, StoreError};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{ApiError, Catalogue, CatalogueAgent, CatalogueServer, ErrorCode, GroupRequest};
use lifeboat_base::{AgentId, Epoch, ServerId, WallTime};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// Longest time to read or write a catalogue.
const CATALOGUE: Duration = Duration::from_secs(120);

impl App {
    /// Keeps what the vault is to know in step with the store. A vault that hangs keeps nothing else waiting.
    pub(super) async fn keep_vault(self: Arc<Self>) {
        let mut complaint = None;
        loop {
            let pause = match self.look_at_vault().await {
                Ok(()) => {
                    complaint = None;
                    *self.vault_trouble.lock() = None;
                    self.config.reconcile_every
                }
                Err(e) => {
                    let text = e.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "the vault does not know all it should; tried again");
                        *self.vault_trouble.lock() = Some(text.clone());
                        complaint = Some(text);
                    }
                    AGAIN.min(self.config.reconcile_every * 20)
                }
            };
            self.vault_looks.fetch_add(1, Ordering::Relaxed);
            Self::pause(&self.wake_vault, pause).await;
        }
    }

    async fn look_at_vault(&self) -> Result<(), ApiError> {
        self.watch_backlog();
        if !self.vault_works() {
            return Ok(());
        }
        if self.store.waits_for_catalogue().await? {
            self.import_catalogue().await?;
        }
        self.assert_sets().await?;
        let catalogue = self.compose_catalogue().await?;
        let text = serde_json::to_string(&catalogue).map_err(unreadable)?;
        if self.kept_catalogue.lock().as_ref() == Some(&text) {
            return Ok(());
        }
        let written = Catalogue { written: self.now(), ..catalogue };
        within(CATALOGUE, self.port().put_catalogue(&written)).await?;
        *self.kept_catalogue.lock() = Some(text);
        Ok(())
    }

    /// What a new site would need to know now; the time is left out, so that two can be compared.
    async fn compose_catalogue(&self) -> Result<Catalogue, ApiError> {
        let agents = self.store.agents().await?;
        let servers: Vec<ServerRow> =
            self.store.servers().await?.into_iter().filter(|s| !s.deleting).collect();
        let names: HashMap<ServerId, String> = servers.iter().map(|s| (s.id, s.name.clone())).collect();
        let group = |g: GroupRow| GroupRequest {
            servers: g.servers.iter().filter_map(|s| names.get(s).cloned()).collect(),
            name: g.name,
            every_seconds: g.every_seconds,
            hold_ms: g.hold_ms,
        };
        Ok(Catalogue {
            site: self.config.site.clone(),
            written: WallTime(0),
            agents: agents
                .into_iter()
                .map(|a| CatalogueAgent {
                    id: a.id,
                    name: a.name,
                    joined: a.joined,
                    serial: a.serial,
                    certificate_expires: a.certificate_expires,
                    revoked: a.revoked,
                })
                .collect(),
            groups: self.store.groups().await?.into_iter().map(group).collect(),
            backup_sets: self.store.backup_sets().await?,
            servers: servers.into_iter().map(kept_server).collect(),
        })
    }

    /// Takes over what the vault's catalogue says, once.
    async fn import_catalogue(&self) -> Result<(), ApiError> {
        let found = within(CATALOGUE, self.port().catalogue()).await?;
        let (import, detail) = match &found {
            None => {
                (Import::default(), "the vault has no catalogue; there is nothing to take over".to_string())
            }
            Some(c) => {
                let import = self.rows_of(c).await?;
                let detail = format!(
                    "catalogue of site '{}' written {}: {} servers, {} agents, {} groups, {} backup sets",
                    c.site,
                    c.written,
                    import.servers.len(),
                    import.agents.len(),
                    import.groups.len(),
                    import.sets.len()
                );
                (import, detail)
            }
        };
        let note = Note::done("site", "vault.attach", "", &detail);
        match self.store.import(&import, &note).await {
            Ok(_) => {}
            Err(StoreError::Taken(what)) => {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!("the catalogue of the vault was not taken over: a {what} in it is taken here"),
                )
                .hint(
                    "attach the vault in a new directory, and let nothing join before its catalogue is read",
                ));
            }
            Err(e) => return Err(e.into()),
        }
        import.agents.iter().for_each(|a| self.gate.joined(a));
        tracing::info!(detail, "the vault's catalogue was read");
        self.wake.notify_one();
        Ok(())
    }

    /// The rows a catalogue stands for.
    async fn rows_of(&self, c: &Catalogue) -> Result<Import, ApiError> {
        let mut agents: Vec<AgentRow> = c.agents.iter().map(agent_row).collect();
        // A revoked one may have had the name that another has now.
        agents.sort_by_key(|a| (!a.revoked, a.joined));
        let known: HashSet<AgentId> = agents.iter().map(|a| a.id).collect();
        let mut servers = Vec::new();
        for s in &c.servers {
            let agent = match s.agent.filter(|a| known.contains(a)) {
                Some(agent) => agent,
                None => return Err(damaged(format!("the server '{}' has no agent in it", s.name))),
            };
            let epoch = Epoch(u32::try_from(s.epoch).map_err(|_| damaged(format!("epoch {}", s.epoch)))?);
            let newest = match within(PATIENCE, self.site.points(s.id, None, None, 1)).await {
                Ok(points) => points,
                Err(e) if e.code == ErrorCode::NotFound => Vec::new(),
                // What is not known now may be an epoch above: the whole is tried again.
                Err(e) => return Err(e),
            };
            let newest = newest.iter().map(|p| p.id.epoch).max().unwrap_or(Epoch(0));
            servers.push(self.server_row(s, agent, epoch.max(newest).next()));
        }
        let ids: HashMap<&str, ServerId> = c.servers.iter().map(|s| (s.name.as_str(), s.id)).collect();
        let mut groups = Vec::new();
        for g in &c.groups {
            let members: Vec<ServerId> =
                g.servers.iter().filter_map(|s| ids.get(s.as_str()).copied()).collect();
            if members.is_empty() {
                continue;
            }
            groups.push(GroupRow {
                name: g.name.clone(),
                servers: members,
                every_seconds: g.every_seconds,
                hold_ms: g.hold_ms,
                created: self.now(),
                trouble: None,
            });
        }
        Ok(Import { agents, servers, groups, sets: c.backup_sets.clone() })
    }

    fn server_row(&self, s: &CatalogueServer, agent: AgentId, epoch: Epoch) -> ServerRow {
        ServerRow {
            id: s.id,
            name: s.name.clone(),
            agent,
            capture: s.capture.clone(),
            window: s.window.clone(),
            launch: s.launch.clone(),
            replication: s.replication.clone(),
            watch: s.watch.clone(),
            retention: s.retention.clone(),
            state: ServerState::Stopped,
            epoch,
            created: self.now(),
            disks: s.disks.clone(),
            run: None,
            fault: None,
            stale: None,
            deleting: false,
        }
    }
}

fn kept_server(s: ServerRow) -> CatalogueServer {
    CatalogueServer {
        id: s.id,
        name: s.name,
        agent: Some(s.agent),
        disks: s.disks,
        capture: s.capture,
        window: s.window,
        retention: s.retention,
        replication: s.replication,
        watch: s.watch,
        launch: s.launch,
        epoch: u64::from(s.epoch.0),
    }
}

fn agent_row(a: &CatalogueAgent) -> AgentRow {
    AgentRow {
        id: a.id,
        name: a.name.clone(),
        joined: a.joined,
        serial: a.serial.clone(),
        certificate_expires: a.certificate_expires,
        revoked: a.revoked,
    }
}

fn damaged(why: String) -> ApiError {
    ApiError::new(ErrorCode::Corrupt, format!("the catalogue of the vault makes no sense: {why}"))
        .hint("`lifeboat vault check` says whether the vault is whole")
}

fn unreadable(e: serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("the catalogue cannot be written down: {e}"))
}
