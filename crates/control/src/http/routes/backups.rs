//! Backups of files.

use super::super::answer::{Arg, Asked, Body, HttpError};
use super::content::{Whole, whole};
use super::{Answer, Site, Who};
use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use lifeboat_api::types::{
    Backup, BackupMountQuery, BackupMountRequest, BackupSet, BackupSetInfo, BackupsQuery, FileChanges,
    FileEntry, FilesQuery, HoldRequest,
};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Done = Result<StatusCode, HttpError>;

/// All backup sets, and how they stand.
#[utoipa::path(get, path = "/v1/backup-sets", tag = "backups",
    responses((status = 200, body = Vec<BackupSetInfo>)))]
async fn backup_sets(State(app): Site) -> Answer<Vec<BackupSetInfo>> {
    Ok(Json(app.backup_sets().await?))
}

/// Makes a set, or changes the one of that name. A set of the site's own host takes a token of role admin, and so does
/// a change of what is kept.
#[utoipa::path(post, path = "/v1/backup-sets", tag = "backups", request_body = BackupSet,
    responses((status = 200, body = BackupSet)))]
async fn put_backup_set(
    State(app): Site,
    Extension(who): Who,
    Body(set): Body<BackupSet>,
) -> Answer<BackupSet> {
    Ok(Json(app.put_backup_set(&who, set).await?))
}

/// Forgets a set; its backups stay until they are deleted.
#[utoipa::path(delete, path = "/v1/backup-sets/{name}", tag = "backups", params(("name" = String, Path)),
    responses((status = 204)))]
async fn delete_backup_set(State(app): Site, Extension(who): Who, Arg(name): Arg<String>) -> Done {
    app.delete_backup_set(&who, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Backups, newest first.
#[utoipa::path(get, path = "/v1/backups", tag = "backups", params(BackupsQuery),
    responses((status = 200, body = Vec<Backup>)))]
async fn backups(State(app): Site, Asked(query): Asked<BackupsQuery>) -> Answer<Vec<Backup>> {
    Ok(Json(app.backups(query.set.as_deref()).await?))
}

/// One backup: by its id, the start of it, or a set's name for its newest.
#[utoipa::path(get, path = "/v1/backups/{id}", tag = "backups", params(("id" = String, Path)),
    responses((status = 200, body = Backup)))]
async fn backup(State(app): Site, Arg(id): Arg<String>) -> Answer<Backup> {
    Ok(Json(app.backup(&id).await?))
}

/// Deletes a backup for good; one that is locked is refused. It takes the id, or its first 8 digits or more, and no set's
/// name.
#[utoipa::path(delete, path = "/v1/backups/{id}", tag = "backups", params(("id" = String, Path)),
    responses((status = 204)))]
async fn delete_backup(State(app): Site, Extension(who): Who, Arg(id): Arg<String>) -> Done {
    app.delete_backup(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Names a backup, releases it, or locks it. The last two take a token of role admin.
#[utoipa::path(post, path = "/v1/backups/{id}/hold", tag = "backups", params(("id" = String, Path)),
    request_body = HoldRequest, responses((status = 200, body = Backup)))]
async fn hold_backup(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<String>,
    Body(hold): Body<HoldRequest>,
) -> Answer<Backup> {
    Ok(Json(app.hold_backup(&who, &id, hold).await?))
}

/// What differs between two backups, the first of it where that is much.
#[utoipa::path(get, path = "/v1/backups/{id}/diff/{newer}", tag = "backups",
    params(("id" = String, Path), ("newer" = String, Path)), responses((status = 200, body = FileChanges)))]
async fn diff_backups(State(app): Site, Arg((id, newer)): Arg<(String, String)>) -> Answer<FileChanges> {
    Ok(Json(app.diff_backups(&id, &newer).await?))
}

/// What a directory of a backup holds.
#[utoipa::path(get, path = "/v1/backups/{id}/files", tag = "backups", params(("id" = String, Path), FilesQuery),
    responses((status = 200, body = Vec<FileEntry>)))]
async fn backup_files(
    State(app): Site,
    Arg(id): Arg<String>,
    Asked(query): Asked<FilesQuery>,
) -> Answer<Vec<FileEntry>> {
    Ok(Json(app.backup_files(&id, &query.path).await?))
}

/// A file of a backup; of the site's own host for a token of role admin only. A body that breaks off is not the whole
/// file.
#[utoipa::path(get, path = "/v1/backups/{id}/content", tag = "backups",
    params(("id" = String, Path), FilesQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
async fn backup_content(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<String>,
    Asked(query): Asked<FilesQuery>,
) -> Whole {
    Ok(whole(app.backup_content(&who, &id, &query.path).await?))
}

/// Shows a backup as a read-only file system at a directory of the site's host.
#[utoipa::path(post, path = "/v1/backups/{id}/mount", tag = "backups", params(("id" = String, Path)),
    request_body = BackupMountRequest, responses((status = 204)))]
async fn mount_backup(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<String>,
    Body(request): Body<BackupMountRequest>,
) -> Done {
    app.mount_backup(&who, &id, &request.directory).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends it.
#[utoipa::path(delete, path = "/v1/backup-mounts", tag = "backups", params(BackupMountQuery),
    responses((status = 204)))]
async fn unmount_backup(
    State(app): Site,
    Extension(who): Who,
    Asked(query): Asked<BackupMountQuery>,
) -> Done {
    app.unmount_backup(&who, &query.directory).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn all() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(backup_sets, put_backup_set))
        .routes(routes!(delete_backup_set))
        .routes(routes!(backups))
        .routes(routes!(backup, delete_backup))
        .routes(routes!(hold_backup))
        .routes(routes!(diff_backups))
        .routes(routes!(backup_files))
        .routes(routes!(backup_content))
        .routes(routes!(mount_backup))
        .routes(routes!(unmount_backup))
}
