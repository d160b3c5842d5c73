//! Changing how a server is kept, replicated, watched and launched.

use super::{App, within};
use crate::policy::Actor;
use crate::store::{Note, ServerRow};
use crate::validate;
use lifeboat_api::types::{ApiError, ErrorCode, ReplicationMode, RetentionSpec, Server, ServerChange};
use lifeboat_base::format_bytes;

impl App {
    /// Changes what is given, and tells the data side at once.
    pub async fn change_server(
        &self,
        actor: &Actor,
        name: &str,
        change: &ServerChange,
    ) -> Result<Server, ApiError> {
        let row = self.named(name).await?;
        change.window.as_ref().map_or(Ok(()), validate::window)?;
        change.launch.as_ref().map_or(Ok(()), validate::launch)?;
        change.replication.as_ref().map_or(Ok(()), |r| validate::replication(r, &row.capture))?;
        change.watch.as_ref().map_or(Ok(()), validate::watch)?;
        if let Some(r) = &change.retention {
            validate::retention(r)?;
            super::vault::retention_allowed(actor, Some(&row.retention), r)?;
        }
        let what = differences(&row, change);
        if what.is_empty() {
            return Err(ApiError::new(ErrorCode::Invalid, "nothing is changed by this")
                .hint("name a setting with another value than it has"));
        }
        let note = Note::done(&actor.name, "server.set", &row.name, what.join(", "));
        self.store.set_settings(row.id, change, &note).await?;
        if let Some(row) = self.store.server(row.id).await?
            && let Err(error) = within(super::PATIENCE, self.assert_server(row.id)).await
        {
            tracing::warn!(server = row.name, %error, "the data side is told of the new settings in a moment");
            self.wake.notify_one();
        }
        self.server(name).await
    }
}

/// What the change makes different, in words.
fn differences(row: &ServerRow, change: &ServerChange) -> Vec<String> {
    let mut out = Vec::new();
    let mut say = |what: &str, old: String, new: String| {
        if old != new {
            out.push(format!("{what} {old} -> {new}"));
        }
    };
    if let Some(w) = &change.window {
        say("window", format!("{} s", row.window.seconds), format!("{} s", w.seconds));
        say("window size", format_bytes(row.window.bytes), format_bytes(w.bytes));
    }
    if let Some(r) = &change.replication {
        let old = &row.replication;
        let mode = |m: ReplicationMode| match m {
            ReplicationMode::Async => "async".to_string(),
            ReplicationMode::Sync => "sync".to_string(),
        };
        say("mode", mode(old.mode), mode(r.mode));
        say(
            "on loss",
            format!("{:?}", old.on_loss).to_lowercase(),
            format!("{:?}", r.on_loss).to_lowercase(),
        );
        say("loss after", format!("{} s", old.loss_seconds), format!("{} s", r.loss_seconds));
        say("spool", format_bytes(old.spool_bytes), format_bytes(r.spool_bytes));
    }
    if let Some(w) = &change.watch {
        let old = &row.watch;
        let alarm = |s: Option<u32>| s.map_or("the site's".into(), |s| format!("{s} s"));
        let every = |h: u32| if h == 0 { "never".into() } else { format!("{h} h") };
        say("RPO alarm", alarm(old.rpo_alarm_seconds), alarm(w.rpo_alarm_seconds));
        say("verify every", every(old.verify_hours), every(w.verify_hours));
        say("verify rate", format_bytes(old.verify_rate), format_bytes(w.verify_rate));
    }
    if let Some(r) = &change.retention
        && *r != row.retention
    {
        out.push(format!("retention {} -> {}", retention(&row.retention), retention(r)));
    }
    if let Some(l) = &change.launch
        && *l != row.launch
    {
        let text = |l| serde_json::to_string(l).unwrap_or_default();
        out.push(format!("launch settings {} -> {}", text(&row.launch), text(l)));
    }
    out
}

/// `own (every 3600 s for 86400 s), locked 0 s`
fn retention(r: &RetentionSpec) -> String {
    let preset = format!("{:?}", r.preset).to_lowercase();
    let rules: Vec<String> =
        r.rules.iter().map(|r| format!("every {} s for {} s", r.every_seconds, r.keep_seconds)).collect();
    let rules = if rules.is_empty() { String::new() } else { format!(" ({})", rules.join(", ")) };
    format!("{preset}{rules}, locked {} s", r.lock_seconds)
}
