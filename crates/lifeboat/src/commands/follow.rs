//! Watching something that takes its time. A short absence of the site is waited out: operations go on
//! by themselves and a restarted `serve` resumes them.

use super::Session;
use crate::failure::{Exit, Failure, Outcome};
use crate::render::operations;
use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_api::client::ClientError;
use lifeboat_api::types::{Operation, OperationState, Step, StepState};
use lifeboat_base::{Clock, OperationId, SystemClock};
use std::future::Future;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(250);
/// How long the site may be away before watching it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again, a quarter of a second apart.
pub struct Poll {
    away_since: Option<Duration>,
    interval: tokio::time::Interval,
}

impl Poll {
    pub fn new() -> Self {
        let mut interval = tokio::time::interval(POLL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { away_since: None, interval }
    }

    /// The next answer; `None` when the site is away for the moment.
    ///
    /// # Errors
    /// What the site says, or that it stayed away too long.
    pub async fn next<T>(&mut self, ask: impl Future<Output = Result<T, ClientError>>) -> Outcome<Option<T>> {
        self.interval.tick().await;
        match ask.await {
            Ok(answer) => {
                self.away_since = None;
                Ok(Some(answer))
            }
            Err(e @ ClientError::Unreachable { .. }) => {
                let now = SystemClock.monotonic();
                let since = *self.away_since.get_or_insert(now);
                if now.saturating_sub(since) < PATIENCE { Ok(None) } else { Err(e.into()) }
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// A line at the bottom of a terminal; hidden where stderr is none.
pub fn spinner(live: bool) -> ProgressBar {
    if !live {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

impl Session {
    /// Shows the steps of an operation until it ends.
    ///
    /// # Errors
    /// When the site is away too long or does not know the operation.
    pub(super) async fn follow(&self, id: OperationId) -> Outcome<Operation> {
        let show = !self.out.json;
        let bar = spinner(self.out.live && show);
        let mut shown: Vec<StepState> = Vec::new();
        let mut poll = Poll::new();
        loop {
            let Some(op) = poll.next(self.client.operation(id)).await? else {
                bar.set_message("the site is away; waiting for it");
                continue;
            };
            shown.resize(op.steps.len(), StepState::Pending);
            for (step, seen) in op.steps.iter().zip(&mut shown) {
                if show && *seen != step.state && self.worth_a_line(step) {
                    let line = operations::step(step, self.out.style);
                    bar.suspend(|| self.out.line(line))?;
                }
                *seen = step.state;
            }
            if let Some(step) = op.steps.iter().find(|s| s.state == StepState::Running) {
                let percent = step.percent.map(|p| format!(" {p} %")).unwrap_or_default();
                bar.set_message(format!(
                    "{}{percent} {}",
                    step.name,
                    crate::render::text::one_line(&step.detail)
                ));
            }
            if op.state != OperationState::Running {
                bar.finish_and_clear();
                return Ok(op);
            }
        }
    }

    /// On a terminal a running step is the spinner's; elsewhere it gets a line, too.
    fn worth_a_line(&self, step: &Step) -> bool {
        match step.state {
            StepState::Pending => false,
            StepState::Running => !self.out.live,
            StepState::Done | StepState::Failed | StepState::Skipped => true,
        }
    }
}

/// An operation's end as a command's end.
///
/// # Errors
/// When it did not succeed; the exit code says how.
pub fn verdict(op: &Operation) -> Outcome {
    let what = operations::kind(op.kind);
    match op.state {
        OperationState::Running | OperationState::Succeeded => Ok(()),
        OperationState::ChecksFailed => {
            let failure = Failure::new(
                Exit::ChecksFailed,
                format!("the {what} of {} ran, but its checks did not pass", op.server),
            );
            let run = op.run.map(|r| r.to_string().chars().take(8).collect::<String>());
            Err(match run {
                Some(run) => failure.hint(format!("see why: lifeboat run {run}, lifeboat serial {run}")),
                None => failure,
            })
        }
        OperationState::Cancelled => {
            Err(Failure::failed(format!("the {what} of {} was cancelled", op.server)))
        }
        OperationState::Failed => Err(match &op.error {
            Some(e) => {
                let mut failure = Failure::from(e.clone());
                failure.message = format!("the {what} of {} failed: {}", op.server, failure.message);
                failure
            }
            None => Failure::failed(format!("the {what} of {} failed", op.server)),
        }),
    }
}
