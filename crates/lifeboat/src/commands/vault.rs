//! The vault, holding points, and files on disks at a point.

use super::content::write_to;
use super::secrets::kit_passphrase;
use super::{Session, now};
use crate::args::vault::{
    FilesArgs, FilesCommand, HoldArgs, HoldFlags, KeyCommand, KitArgs, PruneArgs, VaultCommand,
};
use crate::failure::{Failure, Outcome};
use crate::out::confirm;
use crate::render::{backups, points, vault};
use crate::serve::state::write_new;
use lifeboat_api::types::{HoldRequest, KitRequest, VaultJobRequest, VaultJobResult};

impl Session {
    pub(super) async fn vault(&self, command: VaultCommand) -> Outcome {
        match command {
            VaultCommand::Status => {
                let status = self.client.vault().await?;
                self.out.answer(&status, |s, style| vault::status(s, now(), style))
            }
            VaultCommand::Usage(args) => {
                let usage = self.client.vault_usage(args.points).await?;
                self.out.answer(&usage, vault::usage)
            }
            VaultCommand::Check(args) => {
                self.job(&VaultJobRequest::Check { read_percent: args.read_data }, args.detach).await
            }
            VaultCommand::Scrub(args) => self.job(&VaultJobRequest::Scrub, args.detach).await,
            VaultCommand::Repair(args) => self.job(&VaultJobRequest::Repair, args.detach).await,
            VaultCommand::Reindex(args) => self.job(&VaultJobRequest::Reindex, args.detach).await,
            VaultCommand::Prune(args) => self.prune(&args).await,
            VaultCommand::Jobs => {
                let jobs = self.client.vault_jobs().await?;
                self.out.answer(&jobs, |j, style| vault::jobs(j, now(), style))
            }
            VaultCommand::Job(args) => self.show_job(&args.id, args.follow).await,
            VaultCommand::Cancel(args) => {
                self.client.cancel_vault_job(&args.id).await?;
                self.out.note(format!("job {} ends; what it has done stays", args.id));
                Ok(())
            }
            VaultCommand::Clock(args) => {
                let mut clock = self.client.vault_clock().await?;
                if args.accept {
                    if !args.yes {
                        let what = format!(
                            "Points expire and locks end by {} from now on; until now they count by {}.",
                            clock.machine, clock.counted
                        );
                        confirm(&what, "accept")?;
                    }
                    clock = self.client.accept_vault_clock().await?;
                }
                self.out.answer(&clock, |c, _| vault::clock(c))
            }
            VaultCommand::Key(KeyCommand::Rotate) => {
                let rotated = self.client.rotate_vault_key().await?;
                self.out.answer(&rotated, |r, _| {
                    format!(
                        "new content is sealed with key generation {}; what is there stays readable.\n\
                         Recovery kits stay good: they hold the key that opens all generations.",
                        r.generation
                    )
                })
            }
            VaultCommand::Key(KeyCommand::Kit(args)) => self.kit(args).await,
            VaultCommand::Key(KeyCommand::Replace(_)) | VaultCommand::Probe(_) | VaultCommand::Attach(_) => {
                Err(Failure::failed("this command was sent the wrong way; that is a defect of lifeboat"))
            }
        }
    }

    /// A plan first, which a person sees before it is carried out.
    async fn prune(&self, args: &PruneArgs) -> Outcome {
        let job = self.client.start_vault_job(&VaultJobRequest::PrunePlan).await?;
        let job = self.follow_job(job).await?;
        let plan = match (&job.result, args.plan) {
            (Some(VaultJobResult::PrunePlan(plan)), false) => plan,
            _ => {
                self.out.answer(&job, vault::job_result)?;
                return super::jobs::job_verdict(&job);
            }
        };
        if !self.out.json {
            self.out.line(vault::plan(plan).trim_end())?;
        }
        if !args.yes {
            let what = format!(
                "{} points are forgotten for good and {} are freed.",
                plan.forget_count,
                lifeboat_base::format_bytes(plan.freed_bytes)
            );
            confirm(&what, "prune")?;
        }
        self.job(&VaultJobRequest::Prune { plan: job.id.clone() }, args.detach).await
    }

    async fn kit(&self, args: KitArgs) -> Outcome {
        if args.out.exists() {
            return Err(Failure::new(
                crate::failure::Exit::Refused,
                format!("{} exists already", args.out.display()),
            )
            .hint("choose another name; a kit is never written over another file"));
        }
        let to = match args.recipient {
            Some(recipient) => KitRequest::Recipient(recipient),
            None => {
                KitRequest::Passphrase(kit_passphrase(args.passphrase_file.as_deref(), true)?.to_string())
            }
        };
        let kit = self.client.recovery_kit(&to).await?;
        write_new(&args.out, kit.text.as_bytes(), 0o600)?;
        let answer = serde_json::json!({
            "file": args.out, "vault": kit.vault, "key_generation": kit.key_generation,
        });
        self.out.answer(&answer, |_, _| {
            format!(
                "{0} holds all keys of the vault {1}.\n\
                 Keep it apart from this site and from the vault, and its passphrase or identity apart from it.\n\
                 Try it while nothing burns: lifeboat vault attach LOCATION --kit {0} --dir /tmp/try",
                args.out.display(),
                kit.vault
            )
        })
    }

    pub(super) async fn hold(&self, args: HoldArgs) -> Outcome {
        self.confirm_lock(&args.hold, &format!("the point {} of {}", args.point, args.server))?;
        let held = self.client.hold_point(&args.server, &args.point, &hold_request(&args.hold)).await?;
        self.out.answer(&held, |p, _| points::table(std::slice::from_ref(p), now()))
    }

    /// A lock cannot be taken back, so a person says so where one is there.
    pub(super) fn confirm_lock(&self, hold: &HoldFlags, what: &str) -> Outcome {
        use std::io::IsTerminal;
        match hold.lock {
            Some(time) if std::io::stdin().is_terminal() => {
                let time = crate::render::text::coarse(time);
                confirm(&format!("For {time} nobody can delete {what}, not even an admin."), "lock")
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn files(&self, args: FilesArgs) -> Outcome {
        match args.command {
            FilesCommand::Ls { path } => {
                let entries = self.client.point_files(&args.server, &args.point, &path).await?;
                self.out.answer(&entries, |e, style| backups::entries(e, style))
            }
            FilesCommand::Get { path, output } => {
                write_to(output.as_deref(), async |sink| {
                    Ok(self.client.point_content(&args.server, &args.point, &path, sink).await?)
                })
                .await
            }
        }
    }
}

pub(super) fn hold_request(hold: &HoldFlags) -> HoldRequest {
    HoldRequest {
        name: hold.name.clone(),
        release: hold.release,
        lock_seconds: hold.lock.map(|l| l.as_secs()),
    }
}
