//! What stands before every endpoint: the policy table, the token, the time limit, the audit of refusals.

use super::answer::{HttpError, Refused};
use crate::app::App;
use crate::policy::{self, Access, Actor, Rule};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lifeboat_api::types::{ApiError, ErrorCode};
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest path that the audit log keeps.
const MAX_TARGET: usize = 256;

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

pub(super) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match admit(&app, request).await {
        Ok((request, rule, visit)) => carry_out(app, request, rule, visit, next).await,
        Err(refused) => refused.into_response(),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// One request, as the audit log needs it.
struct Visit {
    /// `None` on an endpoint that is open to all.
    actor: Option<String>,
    address: String,
    target: String,
    method: Method,
}

async fn admit(app: &App, mut request: Request) -> Result<(Request, &'static Rule, Visit), HttpError> {
    let path = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_string()).unwrap_or_default();
    let method = request.method().clone();
    let looked_up = if method == Method::HEAD { Method::GET } else { method.clone() };
    let Some(rule) = policy::find(looked_up.as_str(), &path) else {
        let error = ApiError::new(ErrorCode::Invalid, format!("this endpoint does not take {method}"));
        return Err(HttpError::with_status(error, StatusCode::METHOD_NOT_ALLOWED));
    };
    let address = request.extensions().get::<Peer>().map_or("unknown".into(), |p| p.0.to_string());
    let target: String = request.uri().path().chars().take(MAX_TARGET).collect();
    let mut visit = Visit { actor: None, address, target, method };
    let Access::AtLeast(role) = rule.access else { return Ok((request, rule, visit)) };
    let actor = match app.authenticate(bearer(request.headers())).await {
        Ok(actor) => actor,
        Err(error) => {
            if error.code == ErrorCode::Unauthenticated {
                app.stranger_refused(&visit.address, rule.action, &error).await;
            }
            return Err(error.into());
        }
    };
    if actor.role < role {
        let error = ApiError::new(
            ErrorCode::Forbidden,
            format!("a token of role {} may not do this; it takes {}", actor.role.name(), role.name()),
        )
        .hint("ask an admin for another token");
        app.refused(&actor.name, rule.action, &visit.target, &error).await;
        return Err(error.into());
    }
    visit.actor = Some(actor.name.clone());
    request.extensions_mut().insert::<Actor>(actor);
    Ok((request, rule, visit))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Carries a request to its end on a task of its own: a caller that goes away, or a limit that is over, must not
/// leave anything half made.
async fn carry_out(
    app: Arc<App>,
    request: Request,
    rule: &'static Rule,
    visit: Visit,
    next: Next,
) -> Response {
    let work = tokio::spawn(async move {
        let response = next.run(request).await;
        if let Some(Refused(error)) = response.extensions().get::<Refused>() {
            audit(&app, rule, &visit, error).await;
        }
        response
    });
    match tokio::time::timeout(rule.limit, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(broke)) => {
            tracing::error!(error = %broke, action = rule.action, "a request broke");
            let error = ApiError::new(ErrorCode::Internal, "the site made a mistake with this request")
                .hint("its log says more");
            HttpError::from(error).into_response()
        }
        Err(_) => {
            let error = ApiError::new(ErrorCode::Unavailable, "this takes longer than a request may")
                .hint("it goes on at the site; look at the status before asking again");
            HttpError::from(error).into_response()
        }
    }
}

/// A look that finds nothing is nothing to audit; a change that was refused is, and a look that was forbidden.
async fn audit(app: &App, rule: &Rule, visit: &Visit, error: &ApiError) {
    let look = visit.method == Method::GET || visit.method == Method::HEAD;
    match &visit.actor {
        _ if look && error.code != ErrorCode::Forbidden => {}
        Some(actor) => app.refused(actor, rule.action, &visit.target, error).await,
        None => app.stranger_refused(&visit.address, rule.action, error).await,
    }
}
