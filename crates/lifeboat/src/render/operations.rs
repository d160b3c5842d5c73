//! Operations and their steps.

use super::table::{Cell, Table};
use super::text::{ago, moment, one_line, short, span};
use crate::out::Style;
use lifeboat_api::types::{Operation, OperationKind, OperationState, Step, StepState};
use lifeboat_base::WallTime;
use std::fmt::Write;

pub fn kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Drill => "drill",
        OperationKind::DrillCleanup => "cleanup",
        OperationKind::Failover => "failover",
        OperationKind::Commit => "commit",
    }
}

fn state(state: OperationState, style: Style) -> Cell {
    let painted = |text: &str, shown: String| Cell::painted(text, shown);
    match state {
        OperationState::Running => "running".into(),
        OperationState::Succeeded => painted("succeeded", style.green("succeeded")),
        OperationState::ChecksFailed => painted("checks failed", style.red("checks failed")),
        OperationState::Failed => painted("failed", style.red("failed")),
        OperationState::Cancelled => "cancelled".into(),
    }
}

pub fn table(operations: &[Operation], now: WallTime, style: Style, indent: &str) -> String {
    let mut table = Table::new(["OPERATION", "KIND", "SERVER", "STATE", "STARTED", "BY", "NOW"]);
    for op in operations {
        let doing = match (&op.error, op.steps.iter().rev().find(|s| s.state == StepState::Running)) {
            (Some(e), _) => one_line(&e.message),
            (None, Some(step)) => step_words(step),
            (None, None) => String::new(),
        };
        table.row([
            short(op.id).into(),
            kind(op.kind).into(),
            op.server.as_str().into(),
            state(op.state, style),
            ago(now, op.started).into(),
            op.actor.as_str().into(),
            doing.into(),
        ]);
    }
    table.render(indent)
}

fn step_words(step: &Step) -> String {
    let mut text = step.name.clone();
    if let Some(percent) = step.percent {
        let _ = write!(text, " {percent} %");
    }
    if !step.detail.is_empty() {
        let _ = write!(text, ": {}", step.detail);
    }
    one_line(&text)
}

/// One line of a step: mark, name, what happened, how long it took.
pub fn step(s: &Step, style: Style) -> String {
    let mark = match s.state {
        StepState::Pending => " ".into(),
        StepState::Running => ">".into(),
        StepState::Done => style.green("+"),
        StepState::Failed => style.red("x"),
        StepState::Skipped => "-".into(),
    };
    let mut line = format!("  {mark} {}", step_words(s));
    if let (Some(from), Some(to)) = (s.started, s.ended) {
        let _ = write!(line, " {}", style.dim(&format!("({})", span(to.since(from)))));
    }
    line
}

/// An operation with all its steps.
pub fn full(op: &Operation, style: Style) -> String {
    let mut out =
        format!("{} of {} {}\n", kind(op.kind), style.bold(&op.server), style.dim(&op.id.to_string()));
    let _ = writeln!(out, "started {} UTC by {}", moment(op.started), op.actor);
    for s in &op.steps {
        let _ = writeln!(out, "{}", step(s, style));
    }
    out.push_str(&ending(op, style));
    out
}

/// How it ended, and the error where there is one.
pub fn ending(op: &Operation, style: Style) -> String {
    let took = op.ended.map(|e| format!(" after {}", span(e.since(op.started)))).unwrap_or_default();
    let mut out = match op.state {
        OperationState::Running => "still running\n".into(),
        OperationState::Succeeded => format!("{}{took}\n", style.green("succeeded")),
        OperationState::ChecksFailed => format!("{}{took}\n", style.red("checks did not pass")),
        OperationState::Failed => format!("{}{took}\n", style.red("failed")),
        OperationState::Cancelled => format!("cancelled{took}\n"),
    };
    if let Some(e) = &op.error {
        let _ = writeln!(out, "  {}", one_line(&e.message));
        if let Some(hint) = &e.hint {
            let _ = writeln!(out, "  next: {}", one_line(hint));
        }
    }
    out
}

#[cfg(test)]
mod tests;
