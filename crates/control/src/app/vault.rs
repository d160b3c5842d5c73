//! The vault: how it stands, long work on it, holding points, its keys.
//!
//! Invariants: what deletes, overwrites or gives secrets away takes an admin, also where an operator reaches the
//! endpoint; a recovery kit is in the audit log before it is given out; nothing but the kit's maker sees the keys.

use super::backups::AgentNames;
use super::{App, PATIENCE, conflict, within};
use crate::kit::{KitContent, KitError};
use crate::policy::{Actor, Role};
use crate::store::Note;
use crate::validate;
use lifeboat_api::port::VaultPort;
use lifeboat_api::types::{
    ApiError, ErrorCode, HoldRequest, Kit, KitRequest, PointInfo, RestoreRequest, RetentionSpec, RotatedKey,
    VaultClock, VaultJob, VaultJobRequest, VaultState, VaultStatus, VaultUsage,
};

/// Refuses what only an admin may do at an endpoint that others reach, too.
pub(super) fn admin_only(actor: &Actor, what: &str) -> Result<(), ApiError> {
    if actor.role == Role::Admin {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Forbidden, format!("{what} takes a token of role admin"))
        .hint("ask an admin to do it"))
}

/// Whether `new` may follow `old` without an admin: only what is equal. Shorter retention deletes points, and a lock
/// binds even admins.
pub(super) fn retention_allowed(
    actor: &Actor,
    old: Option<&RetentionSpec>,
    new: &RetentionSpec,
) -> Result<(), ApiError> {
    match old {
        Some(old) if old == new => Ok(()),
        Some(_) => admin_only(actor, "changing what is kept"),
        None if new.lock_seconds > 0 => admin_only(actor, "locking points against everybody"),
        None => Ok(()),
    }
}

impl App {
    pub(super) fn port(&self) -> &dyn VaultPort {
        self.site.vault()
    }

    /// Whether it can be written to now.
    pub(super) fn vault_works(&self) -> bool {
        matches!(self.port().status().state, VaultState::Ready | VaultState::Degraded)
    }

    pub fn vault(&self) -> VaultStatus {
        self.port().status()
    }

    pub async fn vault_usage(&self, by_point: bool) -> Result<VaultUsage, ApiError> {
        self.port().usage(by_point).await
    }

    /// Starts long work.
    pub async fn start_job(&self, actor: &Actor, mut job: VaultJobRequest) -> Result<VaultJob, ApiError> {
        let (action, target, detail) = match &mut job {
            VaultJobRequest::Check { read_percent } if *read_percent > 100 => {
                return Err(ApiError::new(ErrorCode::Invalid, "a check reads 0 to 100 percent"));
            }
            VaultJobRequest::Check { read_percent } => {
                ("vault.check", String::new(), format!("reads {read_percent} % back"))
            }
            VaultJobRequest::Scrub => ("vault.scrub", String::new(), String::new()),
            VaultJobRequest::Repair => ("vault.repair", String::new(), String::new()),
            VaultJobRequest::PrunePlan => ("vault.prune-plan", String::new(), String::new()),
            VaultJobRequest::Prune { plan } => {
                admin_only(actor, "a prune")?;
                validate::text("the plan", plan)?;
                ("vault.prune", String::new(), format!("plan {plan}"))
            }
            VaultJobRequest::Reindex => ("vault.reindex", String::new(), String::new()),
            VaultJobRequest::Backup { set } => {
                self.set_named(set).await?;
                // In the first moments of a process the data side may not have heard of it.
                self.assert_sets().await?;
                ("backup.run", set.clone(), String::new())
            }
            VaultJobRequest::Restore(r) => {
                // It writes anywhere on the site's host or an agent's, with the rights of that process.
                admin_only(actor, "a restore")?;
                validate::restore(r)?;
                let place = self.restore_home(r).await?;
                let what = if r.paths.is_empty() { "everything".into() } else { r.paths.join(", ") };
                let how = if r.overwrite { ", replacing what is there" } else { "" };
                ("backup.restore", r.backup.clone(), format!("{what} to {place}{how}"))
            }
        };
        let note = Note::done(&actor.name, action, target, detail);
        let mut started = within(PATIENCE, self.port().start(job)).await?;
        let more = if note.detail.is_empty() { String::new() } else { format!("; {}", note.detail) };
        self.note(Note { detail: format!("job {}{more}", started.id), ..note }).await;
        named_subject(&mut started, &self.names_by_id().await?);
        Ok(started)
    }

    /// Where a restore goes, in words; its agent is named by id then. What came from an agent's host has its place there,
    /// not over the site's own files.
    async fn restore_home(&self, r: &mut RestoreRequest) -> Result<String, ApiError> {
        if let Some(name) = &r.agent {
            let agent = self.agent_in_use(name).await?;
            r.agent = Some(agent.id.to_string());
            return Ok(format!("{} on the host of agent '{}'", r.target, agent.name));
        }
        if r.target.trim_end_matches('/').is_empty()
            && let Some(agent) = self.backup(&r.backup).await?.agent
        {
            return Err(conflict(format!(
                "the backup is of the host of agent '{agent}': restored to / it would replace files of this site's host"
            ))
            .hint("restore it there with --agent NAME, or to a directory of this host"));
        }
        Ok(r.target.clone())
    }

    pub async fn jobs(&self) -> Result<Vec<VaultJob>, ApiError> {
        let names = self.names_by_id().await?;
        let mut jobs = self.port().jobs();
        jobs.iter_mut().for_each(|job| named_subject(job, &names));
        Ok(jobs)
    }

    pub async fn job(&self, id: &str) -> Result<VaultJob, ApiError> {
        let mut job = self.port().job(id)?;
        named_subject(&mut job, &self.names_by_id().await?);
        Ok(job)
    }

    pub async fn cancel_job(&self, actor: &Actor, id: &str) -> Result<(), ApiError> {
        let job = self.job(id).await?;
        self.port().cancel(&job.id)?;
        let what = format!("job {}, {} {}", job.id, job.kind, job.subject);
        self.note(Note::done(&actor.name, "vault.cancel", &job.subject, what)).await;
        Ok(())
    }

    /// Names, releases or locks a point.
    pub async fn hold_point(
        &self,
        actor: &Actor,
        name: &str,
        point: &str,
        hold: HoldRequest,
    ) -> Result<PointInfo, ApiError> {
        validate::hold(&hold)?;
        hold_allowed(actor, &hold)?;
        let row = self.named(name).await?;
        validate::text("the point", point)?;
        let point = self.site.resolve_point(row.id, point).await?;
        let words = hold_words(&hold);
        let held = self.port().hold_point(row.id, point.id, hold).await?;
        let detail = format!("{}: {words}", point.id);
        self.note(Note::done(&actor.name, "point.hold", &row.name, detail)).await;
        Ok(held)
    }

    pub async fn rotate_vault_key(&self, actor: &Actor) -> Result<RotatedKey, ApiError> {
        let generation = self.port().rotate_key().await?;
        let detail = format!("new content is sealed with generation {generation}");
        self.note(Note::done(&actor.name, "vault.key-rotate", "", detail)).await;
        Ok(RotatedKey { generation })
    }

    pub fn vault_clock(&self) -> Result<VaultClock, ApiError> {
        self.port().clock()
    }

    pub async fn accept_vault_clock(&self, actor: &Actor) -> Result<VaultClock, ApiError> {
        let before = self.port().clock()?.counted;
        let clock = self.port().accept_clock().await?;
        let detail = format!("points and locks count by {}; before by {before}", clock.counted);
        self.note(Note::done(&actor.name, "vault.clock-accept", "", detail)).await;
        Ok(clock)
    }

    /// A recovery kit, encrypted to what was asked for.
    pub async fn recovery_kit(&self, actor: &Actor, to: KitRequest) -> Result<Kit, ApiError> {
        let status = self.port().status();
        let (Some(source), true) = (self.config.kit.clone(), status.state != VaultState::Off) else {
            return Err(conflict("this site has no vault, so there is nothing to recover from")
                .hint("set [vault] location in site.toml and restart 'lifeboat serve'"));
        };
        let Some(vault) = status.id.clone() else {
            return Err(ApiError::new(ErrorCode::Unavailable, "the vault has not been opened yet")
                .hint("see `lifeboat vault status`, and try again"));
        };
        let whom = match &to {
            KitRequest::Passphrase(_) => "a passphrase".to_string(),
            KitRequest::Recipient(r) => validate::shown(r),
        };
        let content = KitContent::new(&source, &vault, self.now());
        let sealed = tokio::task::spawn_blocking(move || content.seal(&to)).await;
        let text = match sealed {
            Ok(Ok(text)) => text,
            Ok(Err(e @ (KitError::Short | KitError::Recipient(_)))) => {
                return Err(ApiError::new(ErrorCode::Invalid, e.to_string()));
            }
            Ok(Err(e)) => return Err(ApiError::new(ErrorCode::Internal, e.to_string())),
            Err(e) => {
                return Err(ApiError::new(ErrorCode::Internal, format!("making the kit broke off: {e}")));
            }
        };
        let detail = format!("all keys of vault {vault} and of the CA, encrypted to {whom}");
        // Who holds a kit can read everything: it is not given out where that cannot be written down.
        self.store.note(&Note::done(&actor.name, "vault.kit", &vault, detail)).await?;
        Ok(Kit { text, vault, key_generation: status.key_generation })
    }
}

/// A restore to an agent's host says by its id where it writes; people know it by its name.
fn named_subject(job: &mut VaultJob, names: &AgentNames) {
    if job.kind == "restore"
        && let Some((what, agent)) = job.subject.rsplit_once(" on ")
        && let Some(name) = names.get(agent)
    {
        job.subject = format!("{what} on {name}");
    }
}

/// A name only keeps more; the rest can make points go, or can never be taken back.
pub(super) fn hold_allowed(actor: &Actor, hold: &HoldRequest) -> Result<(), ApiError> {
    match hold {
        HoldRequest { release: true, .. } => admin_only(actor, "releasing a named point"),
        HoldRequest { lock_seconds: Some(_), .. } => admin_only(actor, "locking a point against everybody"),
        _ => Ok(()),
    }
}

pub(super) fn hold_words(hold: &HoldRequest) -> String {
    let mut words = Vec::new();
    if let Some(name) = &hold.name {
        words.push(format!("named '{name}'"));
    }
    if hold.release {
        words.push("released".into());
    }
    if let Some(s) = hold.lock_seconds {
        words.push(format!("locked for {s} s"));
    }
    words.join(", ")
}
