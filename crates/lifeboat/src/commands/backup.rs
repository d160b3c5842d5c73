//! Backups of files.

use super::content::write_to;
use super::vault::hold_request;
use super::{Session, now};
use crate::args::backup::{BackupCommand, CreateArgs, RestoreArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::out::confirm;
use crate::render::backups;
use lifeboat_api::types::{BackupSet, RestoreRequest, RetentionSpec, VaultJobRequest};
use std::path::{Component, Path, PathBuf};

impl Session {
    pub(super) async fn backup(&self, command: BackupCommand) -> Outcome {
        match command {
            BackupCommand::Create(args) => self.backup_create(args).await,
            BackupCommand::Run(args) => {
                self.job(&VaultJobRequest::Backup { set: args.set }, args.detach.detach).await
            }
            BackupCommand::Sets => {
                let sets = self.client.backup_sets().await?;
                self.out.answer(&sets, |s, style| backups::sets(s, now(), style))
            }
            BackupCommand::Forget(args) => {
                self.client.delete_backup_set(&args.set).await?;
                self.out.note(format!(
                    "set {0} is forgotten; its backups stay: lifeboat backup list {0}",
                    args.set
                ));
                Ok(())
            }
            BackupCommand::List(args) => {
                let all = self.client.backups(args.set.as_deref()).await?;
                self.out.answer(&all, |b, _| backups::table(b, now()))
            }
            BackupCommand::Show(args) => {
                let backup = self.client.backup(&args.backup).await?;
                self.out.answer(&backup, |b, style| backups::full(b, now(), style))
            }
            BackupCommand::Ls(args) => {
                let entries = self.client.backup_files(&args.backup, &args.path).await?;
                self.out.answer(&entries, |e, style| backups::entries(e, style))
            }
            BackupCommand::Diff(args) => {
                let changes = self.client.diff_backups(&args.older, &args.newer).await?;
                self.out.answer(&changes, backups::changes)
            }
            BackupCommand::Restore(args) => self.restore(args).await,
            BackupCommand::Dump(args) => {
                write_to(args.output.as_deref(), async |sink| {
                    Ok(self.client.backup_content(&args.backup, &args.path, sink).await?)
                })
                .await
            }
            BackupCommand::Mount(args) => {
                let directory = absolute(&args.directory)?;
                self.client.mount_backup(&args.backup, &directory).await?;
                self.out
                    .note(format!("it is at {directory}; end it with: lifeboat backup unmount {directory}"));
                Ok(())
            }
            BackupCommand::Unmount(args) => {
                let directory = absolute(&args.directory)?;
                self.client.unmount_backup(&directory).await?;
                self.out.note(format!("{directory} is a plain directory again"));
                Ok(())
            }
            BackupCommand::Hold(args) => {
                // A set's newest may be another one by the time a person has answered.
                let backup = self.client.backup(&args.backup).await?;
                let what = format!("the backup {} of {}", backups::short_id(&backup.id), backup.set);
                self.confirm_lock(&args.hold, &what)?;
                let held = self.client.hold_backup(&backup.id, &hold_request(&args.hold)).await?;
                self.out.answer(&held, |b, style| backups::full(b, now(), style))
            }
            BackupCommand::Delete(args) => {
                let mut which = args.backup;
                if !args.yes {
                    let backup = self.client.backup(&which).await?;
                    let id = backups::short_id(&backup.id);
                    let what = format!("The backup {id} of {} is deleted for good.", backup.set);
                    confirm(&what, &id)?;
                    which = backup.id;
                }
                self.client.delete_backup(&which).await?;
                let id = backups::short_id(&which);
                self.out.note(format!("backup {id} is deleted; the next prune frees its room"));
                Ok(())
            }
        }
    }

    async fn backup_create(&self, args: CreateArgs) -> Outcome {
        let known = self.client.backup_sets().await?;
        let names: Vec<String> = known.iter().map(|k| k.set.name.clone()).collect();
        let set = backup_set(&args, known.into_iter().map(|k| k.set))?;
        let is_new = !names.contains(&set.name);
        let set = self.client.put_backup_set(&set).await?;
        if args.only_define {
            return self
                .out
                .answer(&set, |s, _| format!("set {0} is defined; run it: lifeboat backup run {0}", s.name));
        }
        let name = set.name.clone();
        let ended = self.job(&VaultJobRequest::Backup { set: set.name }, args.detach).await;
        ended.map_err(|failure| match failure.hint {
            None if is_new => failure.hint(format!(
                "the set is defined all the same: change it with this command and --name {name}, or forget it: lifeboat \
                 backup forget {name}"
            )),
            _ => failure,
        })
    }

    async fn restore(&self, args: RestoreArgs) -> Outcome {
        let request = RestoreRequest {
            backup: args.backup,
            paths: args.path,
            target: on_host(&args.to, args.agent.as_ref())?,
            agent: args.agent,
            overwrite: args.overwrite,
            verify: args.verify,
        };
        self.job(&VaultJobRequest::Restore(request), args.detach.detach).await
    }
}

/// What the flags say over the set of that name, if there is one.
fn backup_set(args: &CreateArgs, known: impl Iterator<Item = BackupSet>) -> Outcome<BackupSet> {
    let paths: Vec<String> =
        args.paths.iter().map(|path| on_host(path, args.agent.as_ref())).collect::<Outcome<_>>()?;
    let name = args.name.clone().unwrap_or_else(|| default_name(&paths[0]));
    let mut known = known;
    let old = known.find(|k| k.name == name);
    if let (None, Some(old)) = (&args.name, &old)
        && (old.paths != paths || old.agent != args.agent)
    {
        return Err(Failure::new(
            Exit::Refused,
            format!("the set '{name}' backs up something else: {}", old.paths.join(", ")),
        )
        .hint(format!("name the new one: --name NAME; or change that one: --name {name}")));
    }
    let base = old.as_ref().map(|o| o.retention.clone()).unwrap_or_else(RetentionSpec::default);
    // What is not named stays; what is to go is named by its own flag.
    let old = old.as_ref();
    let exclude = match (args.exclude.is_empty(), old.filter(|_| !args.no_exclude)) {
        (true, Some(old)) => old.exclude.clone(),
        _ => args.exclude.clone(),
    };
    let one_file_system =
        args.one_file_system || old.is_some_and(|o| o.one_file_system && !args.no_one_file_system);
    let schedule = old.filter(|_| !args.no_schedule).and_then(|o| o.schedule.clone());
    Ok(BackupSet {
        agent: args.agent.clone(),
        exclude,
        one_file_system,
        schedule: args.schedule.clone().or(schedule),
        retention: args.retention.over(&base).unwrap_or(base),
        name,
        paths,
    })
}

/// The last part of a path, made a name: `/srv/Web Files` is `web-files`, `/` is `root`.
fn default_name(path: &str) -> String {
    let last = path.rsplit('/').find(|p| !p.is_empty()).unwrap_or("root");
    let plain: String = last
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    let plain = plain.trim_start_matches(['.', '_', '-']);
    if plain.is_empty() { "files".into() } else { plain.into() }
}

/// A path of the site's host or of an agent's, where only the agent knows what a relative one means.
fn on_host(path: &Path, agent: Option<&String>) -> Outcome<String> {
    match agent {
        Some(_) if !path.is_absolute() => {
            Err(Failure::usage(format!("'{}' is not absolute", path.display()))
                .hint("write paths of the agent's host from its root"))
        }
        _ => absolute(path),
    }
}

/// As the site needs it: from the root, without `.` and `..`.
fn absolute(path: &Path) -> Outcome<String> {
    let full =
        std::path::absolute(path).map_err(|e| Failure::io(format_args!("find {}", path.display()), &e))?;
    let mut plain = PathBuf::new();
    for part in full.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain.into_os_string().into_string().map_err(|_| {
        Failure::usage(format!("'{}' is not UTF-8, which the API speaks", path.display()))
            .hint("name a directory above it")
    })
}

#[cfg(test)]
mod tests;
