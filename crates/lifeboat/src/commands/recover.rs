//! Drill, failover, commit, and the runs and operations they make.

use super::follow::verdict;
use super::{Session, now};
use crate::args::{CheckArgs, CommitArgs, DrillArgs, FailoverArgs, ScreenArgs};
use crate::failure::{Failure, Outcome};
use crate::out::confirm;
use crate::render::{operations, points, runs, text};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{DrillRequest, FailoverRequest, Operation, OperationKind, OperationState, RunKind};
use std::path::Path;

impl Session {
    pub(super) async fn drill(&self, args: DrillArgs) -> Outcome {
        let name = args.name.ok_or_else(|| Failure::usage("which server is to be drilled?"))?;
        let request = DrillRequest {
            point: args.point,
            launch: args.launch.overrides(),
            checks: checks(&args.checks),
            post_script: args.checks.post_script.as_deref().map(absolute),
            check_seconds: args.checks.check_timeout.as_secs(),
            keep_seconds: args.keep.as_secs(),
        };
        let op = self.client.drill(&name, &request).await?;
        self.see_through(op, args.detach && !args.wait).await
    }

    pub(super) async fn failover(&self, args: FailoverArgs) -> Outcome {
        let server = self.client.server(&args.name).await?;
        if !args.yes {
            let point = self.client.point(&args.name, &args.point).await?;
            let consequence = if server.state == ServerState::FailedOver {
                "The machine that runs here now, and all it wrote, is thrown away."
            } else if server.runtime.connected {
                "Its source is ALIVE: its agent is connected and sending. Stop the source first, or there will be two.\n\
                 Its replication ends. That you forced it is written into the audit log."
            } else {
                "Its replication ends; the source must not serve any more."
            };
            let what = format!("{} will run here from {}.", args.name, points::words(&point, now()));
            confirm(&format!("{what}\n{consequence}"), &args.name)?;
        }
        let request = FailoverRequest {
            point: args.point,
            launch: args.launch.overrides(),
            checks: checks(&args.checks),
            post_script: args.checks.post_script.as_deref().map(absolute),
            check_seconds: args.checks.check_timeout.as_secs(),
            discard_current: args.discard_current,
        };
        let op = self.client.failover(&args.name, &request).await?;
        self.see_through(op, args.detach).await
    }

    pub(super) async fn commit(&self, args: CommitArgs) -> Outcome {
        if !args.yes {
            let what =
                format!("{} stays on the point it runs from; no other can be chosen afterwards.", args.name);
            confirm(&what, &args.name)?;
        }
        let op = self.client.commit(&args.name).await?;
        self.see_through(op, args.detach).await
    }

    pub(super) async fn cleanup(&self, run: &str, delete_disks: bool, yes: bool) -> Outcome {
        let run = self.find_run(run).await?;
        if run.kind == RunKind::Failover {
            if !delete_disks {
                let what = format!(
                    "run {} is the machine {} runs on since its failover",
                    text::short(run.id),
                    run.server
                );
                return Err(
                    Failure::usage(what).hint("to end it and delete its disks for good: --delete-disks")
                );
            }
            if !yes {
                let what = format!("The machine of {} is ended and all it wrote is deleted.", run.server);
                confirm(&what, &run.server)?;
            }
        }
        let op = self.client.clean_up(run.id, delete_disks).await?;
        self.see_through(op, false).await
    }

    /// Follows an operation to its end and reports it with its run.
    async fn see_through(&self, op: Operation, detach: bool) -> Outcome {
        let short = text::short(op.id);
        if detach {
            return self.out.answer(&op, |o, _| {
                format!(
                    "{} of {} is under way; watch it: lifeboat op {short} --follow",
                    operations::kind(o.kind),
                    o.server
                )
            });
        }
        self.out.note(format!(
            "{} of {}; it goes on if you leave with Ctrl-C: lifeboat op {short}",
            operations::kind(op.kind),
            op.server
        ));
        let op = self.follow(op.id).await?;
        self.out.answer(&op, |o, style| match o.state {
            // The error is reported on stderr, once, by the exit.
            OperationState::Failed => "failed".into(),
            _ => operations::ending(o, style),
        })?;
        // A clean-up and a commit are about a run that was reported when it was made.
        let makes_run = matches!(op.kind, OperationKind::Drill | OperationKind::Failover);
        if let (Some(run), true, false) = (op.run, makes_run, self.out.json)
            && let Ok(run) = self.client.run(run).await
        {
            self.out.line(format!("\n{}", runs::full(&run, now(), self.out.style).trim_end()))?;
        }
        verdict(&op)
    }

    pub(super) async fn runs(&self) -> Outcome {
        let all = self.client.runs().await?;
        self.out.answer(&all, |r, style| match r.is_empty() {
            true => "no runs yet".into(),
            false => runs::table(r, now(), style, ""),
        })
    }

    pub(super) async fn show_run(&self, run: &str) -> Outcome {
        let run = self.find_run(run).await?;
        self.out.answer(&run, |r, style| runs::full(r, now(), style))
    }

    pub(super) async fn screen(&self, args: ScreenArgs) -> Outcome {
        let run = self.find_run(&args.run).await?;
        let png = self.client.screen(run.id).await?;
        std::fs::write(&args.output, &png)
            .map_err(|e| Failure::io(format_args!("write {}", args.output.display()), &e))?;
        self.out.note(format!("{} written", args.output.display()));
        Ok(())
    }

    pub(super) async fn serial(&self, run: &str) -> Outcome {
        let run = self.find_run(run).await?;
        let log = self.client.serial(run.id, None).await?;
        // A guest's bytes could steer the terminal; only a pipe gets them as they are.
        match self.out.terminal {
            true => self.out.line(printable(&log)),
            false => self.out.bytes(&log),
        }
    }

    pub(super) async fn operations(&self) -> Outcome {
        let all = self.client.operations(&Default::default()).await?;
        self.out.answer(&all, |o, style| match o.is_empty() {
            true => "no operations yet".into(),
            false => operations::table(o, now(), style, ""),
        })
    }

    pub(super) async fn op(&self, id: &str, follow: bool) -> Outcome {
        let op = self.find_operation(id).await?;
        if follow {
            return self.see_through(op, false).await;
        }
        self.out.answer(&op, operations::full)
    }
}

/// Paths of scripts are this host's; the site gets them whole.
fn checks(args: &CheckArgs) -> Vec<String> {
    let whole = |check: &String| match check.strip_prefix("script:") {
        Some(file) => format!("script:{}", absolute(file)),
        None => check.clone(),
    };
    args.checks.iter().map(whole).collect()
}

fn absolute(file: &str) -> String {
    std::path::absolute(Path::new(file)).map_or_else(|_| file.to_string(), |p| p.display().to_string())
}

/// Text with line ends and tabs, every other control character replaced.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}
