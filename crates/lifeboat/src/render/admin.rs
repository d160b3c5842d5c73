//! Tokens, agents and the audit log.

use super::table::{Cell, Table};
use super::text::{ago, moment, one_line};
use crate::out::Style;
use lifeboat_api::types::{Agent, AuditEntry, AuditVerification, CreatedToken, TokenInfo, TokenKind};
use lifeboat_base::WallTime;
use std::fmt::Write;

fn kind(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Agent => "agent",
        TokenKind::Viewer => "viewer",
        TokenKind::Operator => "operator",
        TokenKind::Admin => "admin",
    }
}

/// A fresh token: the secret alone on its line, so that it can be taken whole.
pub fn created(token: &CreatedToken, url: &str) -> String {
    let mut out = format!("{}\n", token.token);
    let until = token.expires.map_or_else(|| "never".into(), |t| format!("{} UTC", moment(t)));
    let _ =
        writeln!(out, "\n{} token {}, expires {until}; it is not shown again", kind(token.kind), token.id);
    if token.kind == TokenKind::Agent {
        let _ = writeln!(
            out,
            "on the host of the servers: lifeboat-agent join --site {url} --token TOKEN, then lifeboat-agent run"
        );
    }
    out
}

pub fn tokens(tokens: &[TokenInfo], now: WallTime, style: Style) -> String {
    let mut table = Table::new(["TOKEN", "KIND", "NAME", "CREATED", "EXPIRES", "STATE"]);
    for t in tokens {
        let state: Cell = match (t.revoked, t.used, t.expires) {
            (true, _, _) => Cell::painted("revoked", style.dim("revoked")),
            (_, _, Some(e)) if e <= now && !t.used => Cell::painted("expired", style.dim("expired")),
            (_, true, _) if t.kind == TokenKind::Agent => Cell::painted("used", style.dim("used")),
            _ => "valid".into(),
        };
        table.row([
            t.id.as_str().into(),
            kind(t.kind).into(),
            t.name.as_str().into(),
            moment(t.created).into(),
            t.expires.map_or_else(|| "never".into(), |e| ago(now, e)).into(),
            state,
        ]);
    }
    table.render("")
}

pub fn agents(agents: &[Agent], now: WallTime, style: Style, indent: &str) -> String {
    let mut table = Table::new(["AGENT", "STATE", "ADDRESS", "VERSION", "CERTIFICATE", "SERVERS"]);
    for a in agents {
        let state = match (a.revoked, a.connected) {
            (true, _) => Cell::painted("revoked", style.dim("revoked")),
            (_, true) => Cell::painted("connected", style.green("connected")),
            _ => Cell::painted("not connected", style.red("not connected")),
        };
        let certificate = match a.certificate_expires > now {
            true => format!("ends {}", ago(now, a.certificate_expires)),
            false => format!("ended {}", ago(now, a.certificate_expires)),
        };
        table.row([
            a.name.as_str().into(),
            state,
            a.address.as_deref().unwrap_or("-").into(),
            a.version.as_deref().unwrap_or("-").into(),
            certificate.into(),
            a.servers.join(", ").into(),
        ]);
    }
    table.render(indent)
}

pub fn audit(entries: &[AuditEntry]) -> String {
    let mut table = Table::new([">SEQ", "TIME (UTC)", "WHO", "WHAT", "ON", "OUTCOME", "DETAIL"]);
    for e in entries {
        table.row([
            e.seq.to_string().into(),
            moment(e.time).into(),
            e.actor.as_str().into(),
            e.action.as_str().into(),
            e.target.as_str().into(),
            e.outcome.as_str().into(),
            one_line(&e.detail).into(),
        ]);
    }
    table.render("")
}

pub fn verification(v: &AuditVerification) -> String {
    match v.first_bad {
        None if v.ok => format!("the audit log is whole: {} entries, head {}", v.entries, v.head),
        Some(seq) => format!("the audit log is DAMAGED from entry {seq} on: {}", one_line(&v.detail)),
        None => format!("the audit log is DAMAGED: {}", one_line(&v.detail)),
    }
}
