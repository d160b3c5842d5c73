//! Groups, their points, and recovering a whole group.

use super::super::answer::{Arg, Asked, Body, HttpError};
use super::{Answer, Site, Who};
use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use lifeboat_api::types::{
    Group, GroupDrillRequest, GroupFailoverRequest, GroupPoint, GroupPointsQuery, GroupRequest, Operation,
};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Created<T> = Result<(StatusCode, Json<T>), HttpError>;

/// All groups.
#[utoipa::path(get, path = "/v1/groups", tag = "groups", responses((status = 200, body = Vec<Group>)))]
async fn list_groups(State(app): Site) -> Answer<Vec<Group>> {
    Ok(Json(app.groups().await?))
}

/// Makes a group of servers that get one barrier at one moment.
#[utoipa::path(post, path = "/v1/groups", tag = "groups", request_body = GroupRequest,
    responses((status = 201, body = Group)))]
async fn create_group(
    State(app): Site,
    Extension(who): Who,
    Body(request): Body<GroupRequest>,
) -> Created<Group> {
    Ok((StatusCode::CREATED, Json(app.create_group(&who, &request).await?)))
}

/// One group.
#[utoipa::path(get, path = "/v1/groups/{name}", tag = "groups", params(("name" = String, Path)),
    responses((status = 200, body = Group)))]
async fn group(State(app): Site, Arg(name): Arg<String>) -> Answer<Group> {
    Ok(Json(app.group(&name).await?))
}

/// Forgets a group and its points. Its servers and their points stay.
#[utoipa::path(delete, path = "/v1/groups/{name}", tag = "groups", params(("name" = String, Path)),
    responses((status = 204)))]
async fn delete_group(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
) -> Result<StatusCode, HttpError> {
    app.delete_group(&who, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Points of a group, newest first.
#[utoipa::path(get, path = "/v1/groups/{name}/points", tag = "groups",
    params(("name" = String, Path), GroupPointsQuery), responses((status = 200, body = Vec<GroupPoint>)))]
async fn group_points(
    State(app): Site,
    Arg(name): Arg<String>,
    Asked(query): Asked<GroupPointsQuery>,
) -> Answer<Vec<GroupPoint>> {
    Ok(Json(app.group_points(&name, &query).await?))
}

/// Cuts a point of the group now.
#[utoipa::path(post, path = "/v1/groups/{name}/points", tag = "groups", params(("name" = String, Path)),
    responses((status = 201, body = GroupPoint)))]
async fn cut_group_point(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
) -> Created<GroupPoint> {
    Ok((StatusCode::CREATED, Json(app.cut_group_point(&who, &name).await?)))
}

/// Starts a drill of each member, all from one point of the group; of all or of none.
#[utoipa::path(post, path = "/v1/groups/{name}/drills", tag = "groups", params(("name" = String, Path)),
    request_body = GroupDrillRequest, responses((status = 202, body = Vec<Operation>)))]
async fn group_drill(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Body(request): Body<GroupDrillRequest>,
) -> Created<Vec<Operation>> {
    Ok((StatusCode::ACCEPTED, Json(app.group_drill(&who, &name, &request).await?)))
}

/// Starts a failover of each member, all to one point of the group; of all or of none.
#[utoipa::path(post, path = "/v1/groups/{name}/failover", tag = "groups", params(("name" = String, Path)),
    request_body = GroupFailoverRequest, responses((status = 202, body = Vec<Operation>)))]
async fn group_failover(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Body(request): Body<GroupFailoverRequest>,
) -> Created<Vec<Operation>> {
    Ok((StatusCode::ACCEPTED, Json(app.group_failover(&who, &name, &request).await?)))
}

pub(super) fn all() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_groups, create_group))
        .routes(routes!(group, delete_group))
        .routes(routes!(group_points, cut_group_point))
        .routes(routes!(group_drill))
        .routes(routes!(group_failover))
}
