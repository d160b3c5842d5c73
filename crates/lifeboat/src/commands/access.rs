//! Login, tokens, agents, audit.

use super::{Session, now};
use crate::args::{AgentsCommand, AuditArgs, AuditCommand, Global, Role, TokenCommand, TokenCreateArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::profile::{self, Profile};
use crate::render::admin;
use lifeboat_api::types::{AuditQuery, CreateTokenRequest, TokenKind};
use std::io::{self, IsTerminal};

/// Proves that site, fingerprint and token fit together, then remembers them.
///
/// # Errors
/// When they do not, or the file cannot be written. Nothing is remembered then.
pub async fn login(global: &Global, out: Out) -> Outcome {
    let mut global = global.clone();
    if global.url.is_none() || global.fingerprint.is_none() {
        return Err(Failure::usage("login needs --url and --fingerprint; `lifeboat init` printed both"));
    }
    if global.token.is_none() {
        global.token = Some(ask_token()?);
    }
    let path = profile::path()?;
    let endpoint = profile::endpoint(&global, Profile::default())?;
    let session = Session::open(&endpoint, out)?;
    let status = session.client.status().await?;
    let profile = Profile {
        url: Some(session.client.url()),
        fingerprint: Some(endpoint.fingerprint.to_string()),
        token: Some(endpoint.token),
    };
    profile::save(&path, &profile)?;
    out.note(format!(
        "logged in at site {} ({}); remembered in {}",
        status.site,
        session.client.url(),
        path.display()
    ));
    Ok(())
}

/// From a terminal or a pipe, so that the token need not stand in the shell's history.
fn ask_token() -> Outcome<String> {
    if io::stdin().is_terminal() {
        eprint!("Token: ");
    }
    let mut token = String::new();
    io::stdin().read_line(&mut token).map_err(|e| Failure::io("read the token", &e))?;
    match token.trim() {
        "" => Err(Failure::usage("no token was given")
            .hint("give it with --token, LIFEBOAT_TOKEN, or on standard input")),
        token => Ok(token.to_string()),
    }
}

impl Session {
    pub(super) async fn token(&self, command: TokenCommand) -> Outcome {
        match command {
            TokenCommand::Create(args) => {
                let token = self.client.create_token(&token_request(args)).await?;
                self.out.answer(&token, |t, _| admin::created(t, &self.client.url()))
            }
            TokenCommand::List => {
                let tokens = self.client.tokens().await?;
                self.out.answer(&tokens, |t, style| admin::tokens(t, now(), style))
            }
            TokenCommand::Revoke { id } => {
                self.client.revoke_token(&id).await?;
                self.out.note(format!("token {id} is revoked"));
                Ok(())
            }
        }
    }

    pub(super) async fn agents(&self, command: Option<AgentsCommand>) -> Outcome {
        if let Some(AgentsCommand::Revoke { name }) = command {
            self.client.revoke_agent(&name).await?;
            self.out.note(format!("agent {name} is revoked; its sessions are cut"));
            return Ok(());
        }
        let agents = self.client.agents().await?;
        self.out.answer(&agents, |a, style| match a.is_empty() {
            true => "no agents yet; let one join: lifeboat token create --agent".into(),
            false => admin::agents(a, now(), style, ""),
        })
    }

    pub(super) async fn audit(&self, args: AuditArgs) -> Outcome {
        if let Some(AuditCommand::Verify) = args.command {
            let found = self.client.verify_audit().await?;
            self.out.answer(&found, |v, _| admin::verification(v))?;
            return match found.ok {
                true => Ok(()),
                false => Err(Failure::new(Exit::Corrupt, "the audit log was changed").hint(
                    "compare it with a backup of the store; what stands after the named entry proves nothing",
                )),
            };
        }
        let query = AuditQuery { limit: Some(args.limit), before: None };
        let entries = self.client.audit(&query).await?;
        self.out.answer(&entries, |e, _| admin::audit(e))
    }
}

fn token_request(args: TokenCreateArgs) -> CreateTokenRequest {
    let kind = match args.role {
        None => TokenKind::Agent,
        Some(Role::Viewer) => TokenKind::Viewer,
        Some(Role::Operator) => TokenKind::Operator,
        Some(Role::Admin) => TokenKind::Admin,
    };
    CreateTokenRequest { kind, name: args.name, ttl_seconds: args.ttl.map(|d| d.as_secs()) }
}
