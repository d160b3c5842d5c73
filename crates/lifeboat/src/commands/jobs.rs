//! Long work on the vault: started, followed, reported.

use super::follow::Poll;
use super::{Session, now};
use crate::failure::{Exit, Failure, Outcome};
use crate::render::vault;
use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_api::types::{VaultJob, VaultJobRequest, VaultJobResult, VaultJobState};

impl Session {
    /// Starts a job, and follows it to its end unless `detach`.
    pub(super) async fn job(&self, request: &VaultJobRequest, detach: bool) -> Outcome {
        let job = self.client.start_vault_job(request).await?;
        if detach {
            return self.out.answer(&job, |j, _| {
                format!(
                    "{} is under way; watch it: lifeboat vault job {} --follow",
                    vault::kind(&j.kind),
                    j.id
                )
            });
        }
        let job = self.follow_job(job).await?;
        self.out.answer(&job, vault::job_result)?;
        job_verdict(&job)
    }

    /// Shows how far a job is until it ends.
    ///
    /// # Errors
    /// When the site is away too long, or has forgotten the job.
    pub(super) async fn follow_job(&self, job: VaultJob) -> Outcome<VaultJob> {
        self.out.note(format!(
            "{}; it goes on if you leave with Ctrl-C: lifeboat vault job {} --follow",
            vault::kind(&job.kind),
            job.id
        ));
        let bar = if self.out.live && !self.out.json { job_bar(&job) } else { ProgressBar::hidden() };
        let mut poll = Poll::new();
        let mut told = String::new();
        loop {
            let Some(job) = poll.next(self.client.vault_job(&job.id)).await? else {
                bar.set_message("the site is away; waiting for it");
                continue;
            };
            if job.state != VaultJobState::Running {
                bar.finish_and_clear();
                return Ok(job);
            }
            if job.total > 0 {
                bar.set_length(job.total);
            }
            bar.set_position(job.done);
            bar.set_message(crate::render::text::one_line(&job.step));
            if !self.out.live && told != job.step {
                self.out.note(format!("  {}", vault::progress(&job)));
                told = job.step;
            }
        }
    }

    pub(super) async fn show_job(&self, id: &str, follow: bool) -> Outcome {
        let mut job = self.client.vault_job(id).await?;
        if follow && job.state == VaultJobState::Running {
            job = self.follow_job(job).await?;
        }
        self.out.answer(&job, |j, style| vault::job(j, now(), style))?;
        if follow { job_verdict(&job) } else { Ok(()) }
    }
}

fn job_bar(job: &VaultJob) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let counts = match job.unit.as_str() {
        "bytes" => "{bytes} of {total_bytes}  {bytes_per_sec}",
        _ => "{pos} of {len}",
    };
    let unit = if job.unit == "bytes" { "" } else { &job.unit };
    let template = format!("  [{{bar:30}}] {{percent}} %  {counts} {unit}  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("##-"));
    }
    bar
}

/// A job's end as a command's end.
///
/// # Errors
/// When it did not succeed, or found damage; the exit code says how.
pub(super) fn job_verdict(job: &VaultJob) -> Outcome {
    let what = vault::kind(&job.kind);
    match job.state {
        VaultJobState::Running => Ok(()),
        VaultJobState::Cancelled => {
            Err(Failure::failed(format!("{what} was cancelled; what it has done stays")))
        }
        VaultJobState::Failed => {
            let why = job.error.as_deref().unwrap_or("no reason is known");
            Err(Failure::failed(format!("{what} failed: {why}")))
        }
        VaultJobState::Succeeded => match &job.result {
            Some(VaultJobResult::Check(c)) if c.findings.iter().any(|f| !f.repaired) => {
                Err(Failure::new(Exit::Corrupt, "the vault is damaged").hint(
                    "bring back what can be brought back: lifeboat vault repair; do not rely on the points named",
                ))
            }
            Some(VaultJobResult::Repair(r)) if !r.left.is_empty() => {
                Err(Failure::new(Exit::Corrupt, "not everything could be brought back").hint(
                    "no copy and no source has it; protect the servers named anew, and see to the disks of the vault",
                ))
            }
            Some(VaultJobResult::Restore(r)) if r.error_count > 0 => {
                Err(Failure::failed(format!("{} entries could not be brought back", r.error_count))
                    .hint("they are named above; the rest is there"))
            }
            Some(VaultJobResult::Backup(b)) if b.error_count > 0 => {
                Err(Failure::new(Exit::ChecksFailed, format!("{} entries could not be read", b.error_count))
                    .hint("they are named above; the rest is in the backup"))
            }
            _ => Ok(()),
        },
    }
}
