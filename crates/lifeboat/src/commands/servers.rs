//! Status, protect, and a server's life before recovery.

use super::Session;
use super::follow::{Poll, spinner};
use super::now;
use crate::args::{AcceptArgs, DeleteArgs, ProtectArgs, SetArgs, StatusArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::out::confirm;
use crate::render::{servers, status, text};
use indicatif::ProgressBar;
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::{
    CaptureSpec, Health, LaunchSettings, ProtectRequest, ReplicationSpec, RetentionSpec, Server,
    ServerChange, WatchSpec, WindowSpec,
};
use std::time::Duration;

impl Session {
    pub(super) async fn status(&self, args: &StatusArgs) -> Outcome {
        if args.watch && self.out.terminal {
            return self.watch().await;
        }
        let status = self.client.status().await?;
        self.out.answer(&status, status::screen)?;
        match status.alarms.len() {
            n if n > 0 && args.check => Err(Failure::new(Exit::ChecksFailed, format!("{n} alarm(s)"))),
            _ => Ok(()),
        }
    }

    async fn watch(&self) -> Outcome {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            let screen = match self.client.status().await {
                Ok(status) => status::screen(&status, self.out.style),
                Err(e) => Failure::from(e).to_string(),
            };
            self.out.line(format!("\x1b[H\x1b[2J{screen}"))?;
        }
    }

    pub(super) async fn protect(&self, args: ProtectArgs) -> Outcome {
        let wait = args.wait;
        let request = protect_request(args);
        let server = self.client.protect(&request).await?;
        if !wait {
            return self.out.answer(&server, |s, _| {
                format!("{} is protected; watch it: lifeboat status --watch", s.name)
            });
        }
        self.out.note(format!("{} is protected; the copy goes on if you leave with Ctrl-C", server.name));
        let server = self.wait_replicating(&server.name).await?;
        self.out.answer(&server, |s, style| {
            let rpo = text::maybe_millis(s.runtime.rpo_ms);
            format!("{} is {}, RPO {rpo}", s.name, style.green("replicating"))
        })
    }

    async fn wait_replicating(&self, name: &str) -> Outcome<Server> {
        let bar = spinner(self.out.live && !self.out.json);
        let mut told = Told::default();
        let mut poll = Poll::new();
        loop {
            let Some(server) = poll.next(self.client.server(name)).await? else {
                bar.set_message("the site is away; waiting for it");
                continue;
            };
            match server.state {
                ServerState::Replicating => {
                    bar.finish_and_clear();
                    return Ok(server);
                }
                s if s.wants_capture() => self.tell(&bar, &mut told, &server),
                other => {
                    return Err(Failure::new(
                        Exit::Refused,
                        format!("{name} is {other}; somebody changed it meanwhile"),
                    )
                    .hint(format!("see it: lifeboat server {name}")));
                }
            }
        }
    }

    /// The bar on a terminal; elsewhere a line when the phase changes and at each tenth of it.
    fn tell(&self, bar: &ProgressBar, told: &mut Told, server: &Server) {
        let r = &server.runtime;
        let line = match (&r.sync, r.health, &r.reason) {
            (_, Health::Stalled, Some(reason)) => format!("stalled: {}", text::one_line(reason)),
            (Some(sync), _, _) => servers::sync_line(sync),
            (None, _, Some(reason)) => text::one_line(reason),
            (None, _, None) => server.state.to_string(),
        };
        bar.set_message(line.clone());
        let tenth = r.sync.as_ref().map(|s| s.done_bytes.saturating_mul(10) / s.total_bytes.max(1));
        let phase = r.sync.as_ref().map(|s| servers::phase(s.phase)).unwrap_or_default();
        let mark = Told { stage: format!("{}{phase}{:?}", server.state, r.health), tenth };
        if !self.out.live && *told != mark {
            self.out.note(format!("  {line}"));
        }
        *told = mark;
    }

    pub(super) async fn servers(&self) -> Outcome {
        let servers = self.client.servers().await?;
        self.out.answer(&servers, |s, style| match s.is_empty() {
            true => "no servers yet; protect one: lifeboat protect NAME --agent AGENT --qmp SOCKET".into(),
            false => servers::table(s, now(), style, ""),
        })
    }

    pub(super) async fn server(&self, name: &str) -> Outcome {
        let server = self.client.server(name).await?;
        self.out.answer(&server, |s, style| servers::full(s, now(), style))
    }

    pub(super) async fn set(&self, args: &SetArgs) -> Outcome {
        let server = self.client.server(&args.name).await?;
        let change = change(args, &server);
        let nothing = change.window.is_none()
            && change.launch.is_none()
            && change.replication.is_none()
            && change.watch.is_none()
            && change.retention.is_none();
        if nothing {
            return Err(Failure::usage("nothing is changed by this")
                .hint("name a setting with another value than it has; see lifeboat set --help"));
        }
        let server = self.client.change_server(&args.name, &change).await?;
        self.out.answer(&server, |s, _| servers::settings(s))
    }

    pub(super) async fn accept(&self, args: &AcceptArgs) -> Outcome {
        let server = self.client.server(&args.name).await?;
        if let (Some(why), false) = (&server.stale, args.yes) {
            let what = format!("{} is held: {}.", args.name, text::one_line(why));
            let after = "Afterwards it can be resumed and failed over again, from what the data holds.";
            confirm(&format!("{what}\n{after}"), &args.name)?;
        }
        let server = self.client.accept(&args.name).await?;
        self.out.answer(&server, |s, _| {
            format!(
                "{0} is {1} at epoch {2}, and no longer held; go on with: lifeboat resume {0}",
                s.name, s.state, s.epoch
            )
        })
    }

    pub(super) async fn stop(&self, name: &str) -> Outcome {
        let server = self.client.stop(name).await?;
        self.out.answer(&server, |s, _| {
            format!("{0} is {1}; its points are kept. Go on with: lifeboat resume {0}", s.name, s.state)
        })
    }

    pub(super) async fn resume(&self, name: &str) -> Outcome {
        let server = self.client.resume(name).await?;
        self.out
            .answer(&server, |s, _| format!("{} is {}; watch it: lifeboat status --watch", s.name, s.state))
    }

    pub(super) async fn delete(&self, args: &DeleteArgs) -> Outcome {
        if !args.delete_points {
            return Err(Failure::usage(format!("deleting {} deletes its recovery points", args.name))
                .hint("say so with --delete-points; to keep them, use lifeboat stop"));
        }
        if !args.yes {
            confirm(&format!("{} and all its recovery points will be deleted.", args.name), &args.name)?;
        }
        self.client.delete_server(&args.name, true).await?;
        self.out.note(format!("{} is deleted", args.name));
        Ok(())
    }
}

/// Only what is different from how the server is now.
fn change(args: &SetArgs, server: &Server) -> ServerChange {
    let window = WindowSpec {
        seconds: args.window.map_or(server.window.seconds, |w| w.as_secs()),
        bytes: args.window_bytes.unwrap_or(server.window.bytes),
    };
    let launch = args.launch.over(&server.launch);
    ServerChange {
        window: (window != server.window).then_some(window),
        launch: (launch != server.launch).then_some(launch),
        replication: args.replication.over(&server.replication).filter(|r| *r != server.replication),
        watch: args.watch.over(&server.watch).filter(|w| *w != server.watch),
        retention: args.retention.over(&server.retention).filter(|r| *r != server.retention),
    }
}

/// What was last said of a sync.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    stage: String,
    tenth: Option<u64>,
}

fn protect_request(args: ProtectArgs) -> ProtectRequest {
    let capture = match args.qmp {
        Some(qmp) => CaptureSpec::Mirror { qmp, disks: args.disk },
        None => CaptureSpec::Splitter { paths: args.export, listen: args.listen },
    };
    ProtectRequest {
        name: args.name,
        agent: args.agent,
        capture,
        window: WindowSpec { seconds: args.window.as_secs(), bytes: args.window_bytes },
        launch: args.launch.over(&LaunchSettings::default()),
        replication: args.replication.over(&ReplicationSpec::default()).unwrap_or_default(),
        watch: args.watch.over(&WatchSpec::default()).unwrap_or_default(),
        retention: args.retention.over(&RetentionSpec::default()).unwrap_or_default(),
    }
}
