//! Watching over what is kept: RPO, comparisons, checks, branches.

use super::follow::{Poll, spinner};
use super::{Session, now};
use crate::args::{BranchesArgs, BranchesCommand, CheckJournalArgs, RpoArgs, VerifyArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::out::confirm;
use crate::render::watch;
use lifeboat_api::types::{RpoMinute, RpoStats, VerifyRequest, VerifyState, VerifyStatus};
use lifeboat_base::{Clock, SystemClock, WallTime};
use serde::Serialize;
use std::time::Duration;

/// How long an agent may take to begin a comparison.
const BEGIN: Duration = Duration::from_secs(60);

/// What `rpo` answers as JSON.
#[derive(Debug, Serialize)]
pub struct Rpo {
    pub server: String,
    pub now_ms: Option<u64>,
    pub hour: Option<RpoStats>,
    pub day: Option<RpoStats>,
    /// Newest first.
    pub minutes: Vec<RpoMinute>,
}

impl Session {
    pub(super) async fn rpo(&self, args: &RpoArgs) -> Outcome {
        let server = self.client.server(&args.name).await?;
        let minutes = self.client.rpo(&args.name, Some(args.minutes)).await?;
        let rpo = Rpo {
            server: server.name,
            now_ms: server.runtime.rpo_ms,
            hour: server.runtime.rpo_hour,
            day: server.runtime.rpo_day,
            minutes,
        };
        self.out.answer(&rpo, watch::rpo)
    }

    pub(super) async fn verify(&self, args: &VerifyArgs) -> Outcome {
        let before = self.client.server(&args.name).await?.runtime.verify.map(|v| v.started);
        let server = self.client.verify(&args.name, &VerifyRequest { rate: args.rate }).await?;
        if args.no_wait {
            return self.out.answer(&server, |s, _| {
                format!("{0} is being compared; how far it is: lifeboat server {0}", s.name)
            });
        }
        self.out.note(format!("{} is being compared; it goes on if you leave with Ctrl-C", server.name));
        let status = self.wait_compared(&server.name, before).await?;
        self.out.answer(&status, |v, style| watch::compared(&server.name, v, now(), style))?;
        match status.state {
            VerifyState::Running | VerifyState::Equal => Ok(()),
            VerifyState::Different => Err(Failure::new(
                Exit::ChecksFailed,
                format!("source and copy of {} were not equal", server.name),
            )
            .hint(format!("what differed was sent anew; compare again: lifeboat verify {}", server.name))),
            VerifyState::Failed => Err(Failure::failed(format!(
                "the comparison of {} failed: {}",
                server.name,
                status.error.as_deref().unwrap_or("no reason is known")
            ))),
        }
    }

    /// Follows the comparison that is not the one which started at `before`.
    async fn wait_compared(&self, name: &str, before: Option<WallTime>) -> Outcome<VerifyStatus> {
        let bar = self.byte_bar();
        let mut poll = Poll::new();
        let since = SystemClock.monotonic();
        let mut told = None;
        loop {
            let Some(seen) = poll.next(self.client.server(name)).await? else { continue };
            match seen.runtime.verify.filter(|v| Some(v.started) != before) {
                Some(v) if v.state != VerifyState::Running => {
                    bar.finish_and_clear();
                    return Ok(v);
                }
                Some(v) => {
                    bar.set_length(v.total_bytes);
                    bar.set_position(v.done_bytes);
                    let tenth = v.done_bytes.saturating_mul(10) / v.total_bytes.max(1);
                    if !self.out.live && told != Some(tenth) {
                        self.out.note(format!("  {}", watch::progress(&v)));
                    }
                    told = Some(tenth);
                }
                None if SystemClock.monotonic().saturating_sub(since) > BEGIN => {
                    return Err(Failure::new(Exit::Unavailable, "the agent has not begun to compare")
                        .hint("see `lifeboat-agent run` on its host, and its version"));
                }
                None => {}
            }
        }
    }

    pub(super) async fn check(&self, args: &CheckJournalArgs) -> Outcome {
        let names = match &args.name {
            Some(name) => vec![name.clone()],
            None => self.client.servers().await?.into_iter().map(|s| s.name).collect(),
        };
        let bar = spinner(self.out.live && !self.out.json);
        let mut reports = Vec::new();
        for name in names {
            bar.set_message(format!("looking at what is stored of {name}"));
            reports.push(self.client.check(&name, args.full).await?);
        }
        bar.finish_and_clear();
        match reports.as_slice() {
            [one] if !args.all => self.out.answer(one, watch::checked)?,
            _ => self.out.answer(&reports, |all, style| watch::all_checked(all, style))?,
        }
        let damaged: Vec<&str> =
            reports.iter().filter(|r| !r.findings.is_empty()).map(|r| r.server.as_str()).collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let what = format!("what is stored of {} is damaged", damaged.join(", "));
        Err(Failure::new(Exit::Corrupt, what).hint("do not use the points named; see to this site's disks"))
    }

    pub(super) async fn branches(&self, args: BranchesArgs) -> Outcome {
        let Some(BranchesCommand::Delete(args)) = args.command else {
            let all = self.client.branches(args.name.as_deref()).await?;
            return self.out.answer(&all, |b, _| watch::branches(b, now()));
        };
        if !args.yes {
            let what = format!(
                "The branch {} of {} is deleted for good; what it holds is nowhere else.",
                args.branch, args.name
            );
            confirm(&what, &args.branch)?;
        }
        self.client.delete_branch(&args.name, &args.branch).await?;
        self.out.note(format!("branch {} of {} is deleted", args.branch, args.name));
        Ok(())
    }
}
