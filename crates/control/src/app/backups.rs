//! Backups of files: their sets, what was made of them, and what is in it.
//!
//! Invariants: the site's own host is an admin's: a set of its paths, and the content of such a backup, take an admin,
//! because both read any file there, the site's keys too. Towards the data side a set names its agent by id, towards
//! people by name.

use super::vault::{admin_only, hold_allowed, hold_words, retention_allowed};
use super::{App, PATIENCE, conflict, not_found, within};
use crate::policy::{Actor, Role};
use crate::store::{AgentRow, Note};
use crate::validate;
use lifeboat_api::port::{Content, FilesAt};
use lifeboat_api::types::{
    ApiError, Backup, BackupSet, BackupSetInfo, ErrorCode, FileChanges, FileEntry, HoldRequest, VaultState,
};
use std::collections::HashMap;

/// Sets a site has at most.
const MAX_SETS: usize = 1000;
/// Digits of an id that are enough to name a backup.
const SHORT_ID: usize = 8;

pub(super) type AgentNames = HashMap<String, String>;

fn named_agent(agent: &mut Option<String>, names: &AgentNames) {
    if let Some(known) = agent.as_ref().and_then(|a| names.get(a)) {
        *agent = Some(known.clone());
    }
}

impl App {
    pub(super) async fn set_named(&self, name: &str) -> Result<BackupSet, ApiError> {
        validate::text("the backup set", name)?;
        self.store.backup_set(name).await?.ok_or_else(|| {
            not_found("backup set", name).hint("`lifeboat backup sets` lists the sets of this site")
        })
    }

    pub(super) async fn names_by_id(&self) -> Result<AgentNames, ApiError> {
        Ok(self.store.agents().await?.into_iter().map(|a| (a.id.to_string(), a.name)).collect())
    }

    /// An agent that something can be asked of.
    pub(super) async fn agent_in_use(&self, name: &str) -> Result<AgentRow, ApiError> {
        let agent = self.agent_named(name).await?;
        if agent.revoked {
            return Err(conflict(format!("the agent '{}' was revoked", agent.name))
                .hint("join it again with a new join token"));
        }
        Ok(agent)
    }

    /// All sets, with how they stand where the data side says so.
    pub async fn backup_sets(&self) -> Result<Vec<BackupSetInfo>, ApiError> {
        let names = self.names_by_id().await?;
        let mut known: HashMap<String, BackupSetInfo> =
            self.port().backup_sets().into_iter().map(|i| (i.set.name.clone(), i)).collect();
        let mut all = Vec::new();
        for mut set in self.store.backup_sets().await? {
            named_agent(&mut set.agent, &names);
            let found = known.remove(&set.name);
            let mut info = found.unwrap_or(BackupSetInfo {
                set: set.clone(),
                backups: 0,
                last: None,
                error: None,
                next: None,
            });
            info.set = set;
            if let Some(last) = &mut info.last {
                named_agent(&mut last.agent, &names);
                last.errors.clear();
            }
            all.push(info);
        }
        Ok(all)
    }

    /// Makes a set, or changes the one of that name.
    pub async fn put_backup_set(&self, actor: &Actor, mut set: BackupSet) -> Result<BackupSet, ApiError> {
        validate::backup_set(&set)?;
        self.catalogue_was_read().await?;
        let old = self.store.backup_set(&set.name).await?;
        retention_allowed(actor, old.as_ref().map(|o| &o.retention), &set.retention)?;
        if old.is_none() {
            self.name_of_no_backups(actor, &set.name).await?;
        }
        let on_site = |s: &BackupSet| s.agent.is_none();
        if on_site(&set) || old.as_ref().is_some_and(on_site) {
            admin_only(actor, "backing up files of the site's own host")?;
        }
        let shown = set.agent.clone();
        if let Some(name) = &set.agent {
            let agent = self.agent_in_use(name).await?;
            set.agent = Some(agent.id.to_string());
        }
        if old.is_none() && self.store.backup_sets().await?.len() >= MAX_SETS {
            return Err(conflict(format!("this site has {MAX_SETS} backup sets, and more are not kept"))
                .hint("delete one first: its backups stay"));
        }
        let detail = format!(
            "{} on {}, schedule {}",
            set.paths.join(", "),
            shown.as_deref().unwrap_or("the site's host"),
            set.schedule.as_deref().unwrap_or("none")
        );
        let action = if old.is_some() { "backup.set-change" } else { "backup.set-create" };
        self.store.put_backup_set(&set, &Note::done(&actor.name, action, &set.name, detail)).await?;
        self.tell_sets().await;
        Ok(BackupSet { agent: shown, ..set })
    }

    /// Backups go by the retention of the set of their name, so only an admin takes up the name of some that are kept.
    async fn name_of_no_backups(&self, actor: &Actor, name: &str) -> Result<(), ApiError> {
        if actor.role == Role::Admin || self.port().status().state == VaultState::Off {
            return Ok(());
        }
        match within(PATIENCE, self.port().backups(Some(name))).await {
            Ok(kept) if !kept.is_empty() => admin_only(actor, "making a set anew whose backups are kept"),
            Ok(_) => Ok(()),
            // Nobody knows of the name.
            Err(e) if e.code == ErrorCode::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Forgets a set; its backups stay until they are deleted.
    pub async fn delete_backup_set(&self, actor: &Actor, name: &str) -> Result<(), ApiError> {
        let note = Note::done(&actor.name, "backup.set-delete", name, "its backups stay");
        if !self.store.delete_backup_set(name, &note).await? {
            return Err(not_found("backup set", name).hint("`lifeboat backup sets` lists them"));
        }
        self.tell_sets().await;
        Ok(())
    }

    /// Tells the data side at once, so that a set can be run in the next breath; what fails is told again in a moment.
    async fn tell_sets(&self) {
        if let Err(error) = self.assert_sets().await {
            tracing::warn!(%error, "the data side is told of the backup sets in a moment");
        }
        self.wake_vault.notify_one();
    }

    /// Makes the data side hold the sets the store has.
    pub(super) async fn assert_sets(&self) -> Result<(), ApiError> {
        let sets = self.store.backup_sets().await?;
        if self.told_sets.lock().as_ref() == Some(&sets) {
            return Ok(());
        }
        within(PATIENCE, self.port().ensure_backup_sets(&sets)).await?;
        *self.told_sets.lock() = Some(sets);
        Ok(())
    }

    pub async fn backups(&self, set: Option<&str>) -> Result<Vec<Backup>, ApiError> {
        if let Some(set) = set {
            validate::text("the backup set", set)?;
        }
        let names = self.names_by_id().await?;
        let mut all = self.port().backups(set).await?;
        for backup in &mut all {
            named_agent(&mut backup.agent, &names);
            // A list of thousands stays small: each one's own page has them.
            backup.errors.clear();
        }
        Ok(all)
    }

    pub async fn backup(&self, id: &str) -> Result<Backup, ApiError> {
        validate::text("the backup", id)?;
        let mut backup = self.port().backup(id).await?;
        named_agent(&mut backup.agent, &self.names_by_id().await?);
        Ok(backup)
    }

    /// Deletes a backup for good, by its id or the first digits of it.
    pub async fn delete_backup(&self, actor: &Actor, id: &str) -> Result<(), ApiError> {
        let backup = self.backup(id).await?;
        // A set's name stands for its newest, which may be another one than a moment ago.
        let named = id.len() >= SHORT_ID && backup.id.starts_with(&id.to_ascii_lowercase());
        if !named && backup.id != id {
            let short: String = backup.id.chars().take(SHORT_ID).collect();
            let why = "is no id of a backup, and what it names may be another one soon";
            return Err(ApiError::new(ErrorCode::Invalid, format!("'{}' {why}", validate::shown(id)))
                .hint(format!("delete it by its id: {short}")));
        }
        self.port().delete_backup(&backup.id).await?;
        let detail = format!("backup {} of {}", backup.id, backup.time);
        self.note(Note::done(&actor.name, "backup.delete", &backup.set, detail)).await;
        Ok(())
    }

    pub async fn hold_backup(&self, actor: &Actor, id: &str, hold: HoldRequest) -> Result<Backup, ApiError> {
        validate::hold(&hold)?;
        hold_allowed(actor, &hold)?;
        let backup = self.backup(id).await?;
        let detail = format!("backup {}: {}", backup.id, hold_words(&hold));
        let mut held = self.port().hold_backup(&backup.id, hold).await?;
        self.note(Note::done(&actor.name, "backup.hold", &backup.set, detail)).await;
        named_agent(&mut held.agent, &self.names_by_id().await?);
        Ok(held)
    }

    pub async fn diff_backups(&self, older: &str, newer: &str) -> Result<FileChanges, ApiError> {
        validate::text("the older backup", older)?;
        validate::text("the newer backup", newer)?;
        self.port().diff(older, newer).await
    }

    pub async fn backup_files(&self, id: &str, path: &str) -> Result<Vec<FileEntry>, ApiError> {
        validate::text("the backup", id)?;
        validate::path_within(path)?;
        self.port().list_files(FilesAt::Backup(id.into()), path).await
    }

    /// A file of a backup. What came from the site's own host is given to admins only.
    pub async fn backup_content(&self, actor: &Actor, id: &str, path: &str) -> Result<Content, ApiError> {
        validate::path_within(path)?;
        let backup = self.backup(id).await?;
        if backup.agent.is_none() {
            admin_only(actor, "reading files of the site's own host")?;
        }
        let content = self.port().read_file(FilesAt::Backup(backup.id.clone()), path).await?;
        let detail = format!("backup {}, {}", backup.id, validate::shown(path));
        self.note(Note::done(&actor.name, "backup.read", &backup.set, detail)).await;
        Ok(content)
    }

    pub async fn mount_backup(&self, actor: &Actor, id: &str, directory: &str) -> Result<(), ApiError> {
        validate::directory(directory)?;
        let backup = self.backup(id).await?;
        within(PATIENCE, self.port().mount_backup(&backup.id, directory)).await?;
        let detail = format!("backup {} at {directory}", backup.id);
        self.note(Note::done(&actor.name, "backup.mount", &backup.set, detail)).await;
        Ok(())
    }

    pub async fn unmount_backup(&self, actor: &Actor, directory: &str) -> Result<(), ApiError> {
        validate::directory(directory)?;
        within(PATIENCE, self.port().unmount_backup(directory)).await?;
        self.note(Note::done(&actor.name, "backup.unmount", directory, "")).await;
        Ok(())
    }

    async fn at_point(&self, name: &str, point: &str, path: &str) -> Result<(String, FilesAt), ApiError> {
        validate::text("the point", point)?;
        validate::path_within(path)?;
        let row = self.named(name).await?;
        let point = self.site.resolve_point(row.id, point).await?;
        let what = format!("{}, {}", point.id, validate::shown(path));
        Ok((what, FilesAt::Point { server: row.id, point: point.id }))
    }

    /// What a directory on a server's disks holds at a point.
    pub async fn point_files(&self, name: &str, point: &str, path: &str) -> Result<Vec<FileEntry>, ApiError> {
        let (_, at) = self.at_point(name, point, path).await?;
        self.port().list_files(at, path).await
    }

    pub async fn point_content(
        &self,
        actor: &Actor,
        name: &str,
        point: &str,
        path: &str,
    ) -> Result<Content, ApiError> {
        let (what, at) = self.at_point(name, point, path).await?;
        let content = self.port().read_file(at, path).await?;
        self.note(Note::done(&actor.name, "point.read-file", name, what)).await;
        Ok(content)
    }

    /// Refused while an attached site has not read what it is to recover: the two would get in each other's way.
    pub(super) async fn catalogue_was_read(&self) -> Result<(), ApiError> {
        if self.store.waits_for_catalogue().await? {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                "this site was attached to a vault and has not read its catalogue yet",
            )
            .hint("see `lifeboat vault status`; it goes on by itself once the vault is open"));
        }
        Ok(())
    }
}
