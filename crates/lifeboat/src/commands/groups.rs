//! Groups: servers that are brought back to one moment together.

use super::follow::verdict;
use super::{Session, now};
use crate::args::groups::{GroupCommand, GroupCreateArgs, GroupDrillArgs, GroupFailoverArgs};
use crate::failure::{Failure, Outcome};
use crate::out::confirm;
use crate::render::{groups, operations, text};
use lifeboat_api::types::{GroupDrillRequest, GroupFailoverRequest, GroupRequest, Operation, OperationState};

impl Session {
    pub(super) async fn group(&self, command: GroupCommand) -> Outcome {
        match command {
            GroupCommand::Create(args) => self.group_create(args).await,
            GroupCommand::List => {
                let all = self.client.groups().await?;
                self.out.answer(&all, |g, style| groups::table(g, now(), style))
            }
            GroupCommand::Show(args) => {
                let group = self.client.group(&args.name).await?;
                self.out.answer(&group, |g, style| groups::full(g, now(), style))
            }
            GroupCommand::Delete(args) => {
                if !args.yes {
                    let what = format!(
                        "The group {} and its points are forgotten; its servers and their points stay.",
                        args.name
                    );
                    confirm(&what, &args.name)?;
                }
                self.client.delete_group(&args.name).await?;
                self.out.note(format!("{} is forgotten", args.name));
                Ok(())
            }
            GroupCommand::Points(args) => {
                let points = self.client.group_points(&args.name, Some(args.limit)).await?;
                self.out.answer(&points, |p, _| groups::points(p, now()))
            }
            GroupCommand::Point(args) => {
                let point = self.client.cut_group_point(&args.name).await?;
                self.out.answer(&point, |p, _| groups::points(std::slice::from_ref(p), now()))
            }
            GroupCommand::Drill(args) => self.group_drill(args).await,
            GroupCommand::Failover(args) => self.group_failover(args).await,
        }
    }

    async fn group_create(&self, args: GroupCreateArgs) -> Outcome {
        let every = u32::try_from(args.every.as_secs())
            .map_err(|_| Failure::usage("--every is too long; a week is the longest"))?;
        let request = GroupRequest {
            name: args.name,
            servers: args.servers,
            every_seconds: every,
            hold_ms: args.hold_ms,
        };
        let group = self.client.create_group(&request).await?;
        self.out.answer(&group, |g, _| format!("{0} is made; its points: lifeboat group points {0}", g.name))
    }

    async fn group_drill(&self, args: GroupDrillArgs) -> Outcome {
        let request = GroupDrillRequest {
            point: args.point,
            checks: args.checks.by_server(),
            check_seconds: args.checks.check_timeout.as_secs(),
            keep_seconds: args.keep.as_secs(),
        };
        let all = self.client.group_drill(&args.name, &request).await?;
        self.see_all_through(all, args.detach).await
    }

    async fn group_failover(&self, args: GroupFailoverArgs) -> Outcome {
        if !args.yes {
            let group = self.client.group(&args.name).await?;
            let servers = self.client.servers().await?;
            let alive: Vec<&str> = servers
                .iter()
                .filter(|s| group.servers.contains(&s.name) && s.runtime.connected)
                .map(|s| s.name.as_str())
                .collect();
            let mut what = format!(
                "{} will run here from the point '{}' of {}; their replication ends.",
                group.servers.join(", "),
                args.point,
                group.name
            );
            if !alive.is_empty() {
                what.push_str(&format!(
                    "\nThe source is ALIVE of: {}. Stop it first, or there will be two. That you forced it is written into \
                     the audit log.",
                    alive.join(", ")
                ));
            }
            if args.discard_current {
                what.push_str("\nMachines that run here now, and all they wrote, are thrown away.");
            }
            confirm(&what, &args.name)?;
        }
        let request = GroupFailoverRequest {
            point: args.point,
            checks: args.checks.by_server(),
            check_seconds: args.checks.check_timeout.as_secs(),
            discard_current: args.discard_current,
        };
        let all = self.client.group_failover(&args.name, &request).await?;
        self.see_all_through(all, args.detach).await
    }

    /// Follows operations that began together, one after the other; they go on at the same time.
    async fn see_all_through(&self, all: Vec<Operation>, detach: bool) -> Outcome {
        if detach {
            return self.out.answer(&all, |all, style| operations::table(all, now(), style, ""));
        }
        let mut ended = Vec::new();
        for op in all {
            self.out.note(format!(
                "{} of {}; it goes on if you leave with Ctrl-C: lifeboat op {}",
                operations::kind(op.kind),
                op.server,
                text::short(op.id)
            ));
            ended.push(self.follow(op.id).await?);
        }
        self.out.answer(&ended, |all, style| operations::table(all, now(), style, ""))?;
        // The first that went wrong says what went wrong; a failure counts before a check.
        let failed =
            ended.iter().find(|o| matches!(o.state, OperationState::Failed | OperationState::Cancelled));
        let worst = failed.or_else(|| ended.iter().find(|o| o.state == OperationState::ChecksFailed));
        worst.map_or(Ok(()), verdict)
    }
}
