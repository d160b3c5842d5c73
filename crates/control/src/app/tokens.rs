//! Tokens of people, and who stands behind one.

use super::{App, conflict, not_found};
use crate::policy::{Actor, Role};
use crate::secret::Secret;
use crate::store::{Note, TokenRow};
use crate::validate;
use lifeboat_api::types::{ApiError, CreateTokenRequest, CreatedToken, ErrorCode, TokenInfo, TokenKind};
use std::time::Duration;

const AGENT_TTL: u64 = 3600;
const MAX_AGENT_TTL: u64 = 86_400;
const MAX_TTL: u64 = 10 * 366 * 86_400;

/// Nothing with an end lasts longer.
pub(super) const LONGEST: Duration = Duration::from_secs(MAX_TTL);

/// Who a request comes from.
pub type Admission = Result<Actor, ApiError>;

impl App {
    /// Who stands behind a token. Says why not only to one who knows the secret.
    pub async fn authenticate(&self, token: Option<&str>) -> Admission {
        let wrong = |message: &str| ApiError::new(ErrorCode::Unauthenticated, message);
        let Some(token) = token else {
            return Err(wrong("this needs a token").hint("send `Authorization: Bearer lb_...`"));
        };
        let unknown = || wrong("the token is not valid").hint("ask an admin for a new one");
        let secret = Secret::parse_person(token).ok_or_else(unknown)?;
        let row =
            self.store.token(&secret.id).await?.filter(|t| secret.matches(&t.hash)).ok_or_else(unknown)?;
        let role = Role::of(row.kind).ok_or_else(unknown)?;
        if row.revoked {
            return Err(wrong("the token was revoked").hint("ask an admin for a new one"));
        }
        if self.ended(&row) {
            return Err(wrong("the token has expired").hint("ask an admin for a new one"));
        }
        Ok(Actor { name: format!("{} ({})", row.name, row.id), role, token: Some(row.id) })
    }

    /// Whether a token is over: by the wall clock, or because its time has passed since it was first seen, though the
    /// wall clock was put back.
    pub(super) fn ended(&self, token: &TokenRow) -> bool {
        token.expires.is_some_and(|e| self.token_ends.over(&token.id, e, &*self.clock) || e <= self.now())
    }

    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ApiError> {
        let rows = self.store.tokens().await?;
        Ok(rows
            .into_iter()
            .map(|t| TokenInfo {
                id: t.id,
                kind: t.kind,
                name: t.name,
                created: t.created,
                expires: t.expires,
                used: t.used,
                revoked: t.revoked,
            })
            .collect())
    }

    /// The answer holds the only copy of the secret.
    pub async fn create_token(
        &self,
        actor: &Actor,
        request: &CreateTokenRequest,
    ) -> Result<CreatedToken, ApiError> {
        let agent = request.kind == TokenKind::Agent;
        if let Some(name) = &request.name {
            validate::name(if agent { "an agent" } else { "a token" }, name)?;
        }
        let longest = if agent { MAX_AGENT_TTL } else { MAX_TTL };
        let ttl = match request.ttl_seconds {
            None => agent.then_some(AGENT_TTL),
            Some(s) if (1..=longest).contains(&s) => Some(s),
            Some(s) => {
                return Err(ApiError::new(
                    ErrorCode::Invalid,
                    format!("such a token lasts 1 to {longest} seconds, not {s}"),
                ));
            }
        };
        let secret = Secret::random(&*self.entropy);
        let now = self.now();
        let unnamed = Role::of(request.kind).map_or("", Role::name);
        let row = TokenRow {
            id: secret.id.clone(),
            kind: request.kind,
            name: request.name.clone().unwrap_or_else(|| unnamed.into()),
            hash: secret.hash(),
            created: now,
            expires: ttl.map(|s| now.saturating_add(Duration::from_secs(s))),
            used: false,
            revoked: false,
        };
        let until = row.expires.map_or("for good".into(), |e| format!("until {e}"));
        let detail = format!("{:?} '{}', {until}", row.kind, row.name);
        let note = Note::done(&actor.name, "token.create", &row.id, detail);
        self.store.insert_token(&row, &note).await?;
        // From here on its time counts.
        self.ended(&row);
        let token = if agent { secret.join(self.gate.ca().fingerprint()) } else { secret.person() };
        Ok(CreatedToken { id: row.id, kind: row.kind, token, expires: row.expires })
    }

    pub async fn revoke_token(&self, actor: &Actor, id: &str) -> Result<(), ApiError> {
        let unknown = || not_found("token", id).hint("`lifeboat token list` lists them; an id has 16 digits");
        let tokens = self.store.tokens().await?;
        let token = tokens.iter().find(|t| t.id == id).ok_or_else(unknown)?;
        let lasting = |t: &&TokenRow| t.kind == TokenKind::Admin && !t.revoked && t.expires.is_none();
        if lasting(&token) && tokens.iter().filter(lasting).count() == 1 {
            return Err(conflict("this is the last admin token that does not expire")
                .hint("create another one first, or nobody can administer the site"));
        }
        let note = Note::done(&actor.name, "token.revoke", id, format!("{:?} '{}'", token.kind, token.name));
        if self.store.revoke_token(id, &note).await? {
            return Ok(());
        }
        Err(conflict(format!("the token {id} was revoked already")))
    }
}
