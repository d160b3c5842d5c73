//! The vault: how it stands, long work, held points, keys, and files on disks at a point.

use super::super::answer::{Arg, Asked, Body, HttpError};
use super::content::{Whole, whole};
use super::{Answer, Site, Who};
use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use lifeboat_api::types::{
    FileEntry, FilesQuery, HoldRequest, Kit, KitRequest, PointInfo, RotatedKey, UsageQuery, VaultClock,
    VaultJob, VaultJobRequest, VaultStatus, VaultUsage,
};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How the vault stands.
#[utoipa::path(get, path = "/v1/vault", tag = "vault", responses((status = 200, body = VaultStatus)))]
async fn vault_status(State(app): Site) -> Json<VaultStatus> {
    Json(app.vault())
}

/// What the vault holds: logical, unique and stored bytes, by server and backup set. Takes its time.
#[utoipa::path(get, path = "/v1/vault/usage", tag = "vault", params(UsageQuery),
    responses((status = 200, body = VaultUsage)))]
async fn vault_usage(State(app): Site, Asked(query): Asked<UsageQuery>) -> Answer<VaultUsage> {
    Ok(Json(app.vault_usage(query.points).await?))
}

/// Long work, newest first.
#[utoipa::path(get, path = "/v1/vault/jobs", tag = "vault", responses((status = 200, body = Vec<VaultJob>)))]
async fn vault_jobs(State(app): Site) -> Answer<Vec<VaultJob>> {
    Ok(Json(app.jobs().await?))
}

/// Starts long work. A prune and a restore take a token of role admin.
#[utoipa::path(post, path = "/v1/vault/jobs", tag = "vault", request_body = VaultJobRequest,
    responses((status = 202, body = VaultJob)))]
async fn start_vault_job(
    State(app): Site,
    Extension(who): Who,
    Body(request): Body<VaultJobRequest>,
) -> Result<(StatusCode, Json<VaultJob>), HttpError> {
    Ok((StatusCode::ACCEPTED, Json(app.start_job(&who, request).await?)))
}

/// How far long work is, or how it ended.
#[utoipa::path(get, path = "/v1/vault/jobs/{id}", tag = "vault", params(("id" = String, Path)),
    responses((status = 200, body = VaultJob)))]
async fn vault_job(State(app): Site, Arg(id): Arg<String>) -> Answer<VaultJob> {
    Ok(Json(app.job(&id).await?))
}

/// Asks long work to end; what it has done stays, and nothing half done counts.
#[utoipa::path(delete, path = "/v1/vault/jobs/{id}", tag = "vault", params(("id" = String, Path)),
    responses((status = 204)))]
async fn cancel_vault_job(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<String>,
) -> Result<StatusCode, HttpError> {
    app.cancel_job(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// New content is sealed with a new key from now on.
#[utoipa::path(post, path = "/v1/vault/key/rotate", tag = "vault", responses((status = 200, body = RotatedKey)))]
async fn rotate_vault_key(State(app): Site, Extension(who): Who) -> Answer<RotatedKey> {
    Ok(Json(app.rotate_vault_key(&who).await?))
}

/// The time that retention and locks count by.
#[utoipa::path(get, path = "/v1/vault/clock", tag = "vault", responses((status = 200, body = VaultClock)))]
async fn vault_clock(State(app): Site) -> Answer<VaultClock> {
    Ok(Json(app.vault_clock()?))
}

/// A person says that the clock of the site's host is right: points and locks count by it from now on.
#[utoipa::path(post, path = "/v1/vault/clock/accept", tag = "vault", responses((status = 200, body = VaultClock)))]
async fn accept_vault_clock(State(app): Site, Extension(who): Who) -> Answer<VaultClock> {
    Ok(Json(app.accept_vault_clock(&who).await?))
}

/// A recovery kit: all keys, encrypted to a passphrase or an age recipient.
#[utoipa::path(post, path = "/v1/vault/kit", tag = "vault", request_body = KitRequest,
    responses((status = 200, body = Kit)))]
async fn recovery_kit(State(app): Site, Extension(who): Who, Body(to): Body<KitRequest>) -> Answer<Kit> {
    Ok(Json(app.recovery_kit(&who, to).await?))
}

/// Names a point, releases it, or locks it. One that is in the journal only is put into the vault first. Releasing and
/// locking take a token of role admin.
#[utoipa::path(post, path = "/v1/servers/{name}/points/{point}/hold", tag = "points",
    params(("name" = String, Path), ("point" = String, Path)), request_body = HoldRequest,
    responses((status = 200, body = PointInfo)))]
async fn hold_point(
    State(app): Site,
    Extension(who): Who,
    Arg((name, point)): Arg<(String, String)>,
    Body(hold): Body<HoldRequest>,
) -> Answer<PointInfo> {
    Ok(Json(app.hold_point(&who, &name, &point, hold).await?))
}

/// What a directory on a server's disks holds at a point.
#[utoipa::path(get, path = "/v1/servers/{name}/points/{point}/files", tag = "points",
    params(("name" = String, Path), ("point" = String, Path), FilesQuery),
    responses((status = 200, body = Vec<FileEntry>)))]
async fn point_files(
    State(app): Site,
    Arg((name, point)): Arg<(String, String)>,
    Asked(query): Asked<FilesQuery>,
) -> Answer<Vec<FileEntry>> {
    Ok(Json(app.point_files(&name, &point, &query.path).await?))
}

/// A file on a server's disks as it was at a point. A body that breaks off is not the whole file.
#[utoipa::path(get, path = "/v1/servers/{name}/points/{point}/content", tag = "points",
    params(("name" = String, Path), ("point" = String, Path), FilesQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
async fn point_content(
    State(app): Site,
    Extension(who): Who,
    Arg((name, point)): Arg<(String, String)>,
    Asked(query): Asked<FilesQuery>,
) -> Whole {
    Ok(whole(app.point_content(&who, &name, &point, &query.path).await?))
}

pub(super) fn all() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(vault_status))
        .routes(routes!(vault_usage))
        .routes(routes!(vault_jobs, start_vault_job))
        .routes(routes!(vault_job, cancel_vault_job))
        .routes(routes!(rotate_vault_key))
        .routes(routes!(vault_clock))
        .routes(routes!(accept_vault_clock))
        .routes(routes!(recovery_kit))
        .routes(routes!(hold_point))
        .routes(routes!(point_files))
        .routes(routes!(point_content))
}
