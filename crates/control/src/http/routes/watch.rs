//! Watching over what is kept: comparisons, measured RPO, checks, divergent branches.

use super::super::answer::{Arg, Asked, Body, HttpError};
use super::{Answer, Site, Who};
use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use lifeboat_api::types::{Branch, CheckQuery, CheckReport, RpoMinute, RpoQuery, Server, VerifyRequest};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Starts comparing source and copy, block by block, while both go on. How it goes is in the server's runtime.
#[utoipa::path(post, path = "/v1/servers/{name}/verify", tag = "servers", params(("name" = String, Path)),
    request_body = VerifyRequest, responses((status = 202, body = Server)))]
async fn verify(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Body(request): Body<VerifyRequest>,
) -> Result<(StatusCode, Json<Server>), HttpError> {
    Ok((StatusCode::ACCEPTED, Json(app.verify(&who, &name, &request).await?)))
}

/// The measured RPO by the minute, newest first.
#[utoipa::path(get, path = "/v1/servers/{name}/rpo", tag = "servers", params(("name" = String, Path), RpoQuery),
    responses((status = 200, body = Vec<RpoMinute>)))]
async fn rpo(
    State(app): Site,
    Arg(name): Arg<String>,
    Asked(query): Asked<RpoQuery>,
) -> Answer<Vec<RpoMinute>> {
    Ok(Json(app.rpo(&name, &query).await?))
}

/// Looks at what is stored of a server and names the points that damage affects. Answers when it is over, which
/// takes its time with `full`.
#[utoipa::path(get, path = "/v1/servers/{name}/check", tag = "servers",
    params(("name" = String, Path), CheckQuery), responses((status = 200, body = CheckReport)))]
async fn check(
    State(app): Site,
    Arg(name): Arg<String>,
    Asked(query): Asked<CheckQuery>,
) -> Answer<CheckReport> {
    Ok(Json(app.check(&name, &query).await?))
}

/// What stale writers of a server left, newest first.
#[utoipa::path(get, path = "/v1/servers/{name}/branches", tag = "points", params(("name" = String, Path)),
    responses((status = 200, body = Vec<Branch>)))]
async fn branches(State(app): Site, Arg(name): Arg<String>) -> Answer<Vec<Branch>> {
    Ok(Json(app.branches(Some(&name)).await?))
}

/// What stale writers left, newest first.
#[utoipa::path(get, path = "/v1/branches", tag = "points", responses((status = 200, body = Vec<Branch>)))]
async fn all_branches(State(app): Site) -> Answer<Vec<Branch>> {
    Ok(Json(app.branches(None).await?))
}

/// Deletes what a stale writer left, for good.
#[utoipa::path(delete, path = "/v1/servers/{name}/branches/{branch}", tag = "points",
    params(("name" = String, Path), ("branch" = String, Path)), responses((status = 204)))]
async fn delete_branch(
    State(app): Site,
    Extension(who): Who,
    Arg((name, branch)): Arg<(String, String)>,
) -> Result<StatusCode, HttpError> {
    app.delete_branch(&who, &name, &branch).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn all() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(verify))
        .routes(routes!(rpo))
        .routes(routes!(check))
        .routes(routes!(branches))
        .routes(routes!(all_branches))
        .routes(routes!(delete_branch))
}
