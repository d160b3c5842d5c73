//! The endpoints. Each is a line to the rules in [`crate::app`]; what they take and give is in
//! [`lifeboat_api::types`].

mod backups;
mod content;
mod groups;
mod vault;
mod watch;

use super::answer::{Arg, Asked, Body, HttpError};
use crate::app::App;
use crate::policy::{self, Access, Actor};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use lifeboat_api::types::{
    Agent, ApiError, AuditEntry, AuditQuery, AuditVerification, CleanUpQuery, CreateTokenRequest,
    CreatedToken, DeleteServerQuery, DrillRequest, FailoverRequest, JoinRequest, JoinResponse, Mount,
    MountRequest, Operation, OperationsQuery, PointInfo, PointsQuery, ProtectRequest, Run, SerialQuery,
    Server, ServerChange, SiteStatus, TokenInfo,
};
use lifeboat_base::{OperationId, RunId};
use std::sync::{Arc, OnceLock};
use utoipa::openapi::path::{Operation as PathOperation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, Ref, ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Site = State<Arc<App>>;
type Who = Extension<Actor>;
type Answer<T> = Result<Json<T>, HttpError>;
/// An operation that has begun.
type Begun = Result<(StatusCode, Json<Operation>), HttpError>;

fn begun(operation: Operation) -> Begun {
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// Whether the site answers.
#[utoipa::path(get, path = "/healthz", tag = "site", responses((status = 200, description = "it does")))]
async fn healthz() -> Json<&'static str> {
    Json("ok")
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "site",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn openapi() -> impl IntoResponse {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.get_or_init(openapi_json).as_str())
}

/// The one screen: servers, agents, runs, operations and alarms.
#[utoipa::path(get, path = "/v1/status", tag = "site", responses((status = 200, body = SiteStatus)))]
async fn status(State(app): Site) -> Answer<SiteStatus> {
    Ok(Json(app.status().await?))
}

/// All protected servers.
#[utoipa::path(get, path = "/v1/servers", tag = "servers", responses((status = 200, body = Vec<Server>)))]
async fn list_servers(State(app): Site) -> Answer<Vec<Server>> {
    Ok(Json(app.servers().await?))
}

/// Protects a server.
#[utoipa::path(post, path = "/v1/servers", tag = "servers", request_body = ProtectRequest,
    responses((status = 201, body = Server)))]
async fn protect(
    State(app): Site,
    Extension(who): Who,
    Body(request): Body<ProtectRequest>,
) -> Result<(StatusCode, Json<Server>), HttpError> {
    Ok((StatusCode::CREATED, Json(app.protect(&who, request).await?)))
}

/// One server, by name or id.
#[utoipa::path(get, path = "/v1/servers/{name}", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, body = Server)))]
async fn server(State(app): Site, Arg(name): Arg<String>) -> Answer<Server> {
    Ok(Json(app.server(&name).await?))
}

/// Forgets a server and deletes all its recovery points.
#[utoipa::path(delete, path = "/v1/servers/{name}", tag = "servers",
    params(("name" = String, Path), DeleteServerQuery), responses((status = 204)))]
async fn delete_server(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Asked(query): Asked<DeleteServerQuery>,
) -> Result<StatusCode, HttpError> {
    app.delete_server(&who, &name, &query).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes settings of a server; what is not given stays. Takes effect at once.
#[utoipa::path(patch, path = "/v1/servers/{name}", tag = "servers", params(("name" = String, Path)),
    request_body = ServerChange, responses((status = 200, body = Server)))]
async fn change_server(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Body(change): Body<ServerChange>,
) -> Answer<Server> {
    Ok(Json(app.change_server(&who, &name, &change).await?))
}

/// Says that a person has looked at a server that is held because the store is older than its data.
#[utoipa::path(post, path = "/v1/servers/{name}/accept", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, body = Server)))]
async fn accept(State(app): Site, Extension(who): Who, Arg(name): Arg<String>) -> Answer<Server> {
    Ok(Json(app.accept(&who, &name).await?))
}

/// Stops replication; recovery points are kept.
#[utoipa::path(post, path = "/v1/servers/{name}/stop", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, body = Server)))]
async fn stop(State(app): Site, Extension(who): Who, Arg(name): Arg<String>) -> Answer<Server> {
    Ok(Json(app.stop_server(&who, &name).await?))
}

/// Starts replication of a stopped server again.
#[utoipa::path(post, path = "/v1/servers/{name}/resume", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, body = Server)))]
async fn resume(State(app): Site, Extension(who): Who, Arg(name): Arg<String>) -> Answer<Server> {
    Ok(Json(app.resume_server(&who, &name).await?))
}

/// Recovery points, newest first, thinned evenly to the limit.
#[utoipa::path(get, path = "/v1/servers/{name}/points", tag = "points",
    params(("name" = String, Path), PointsQuery), responses((status = 200, body = Vec<PointInfo>)))]
async fn points(
    State(app): Site,
    Arg(name): Arg<String>,
    Asked(query): Asked<PointsQuery>,
) -> Answer<Vec<PointInfo>> {
    Ok(Json(app.points(&name, &query).await?))
}

/// Resolves `latest`, a point id, an age or a time to a recovery point.
#[utoipa::path(get, path = "/v1/servers/{name}/points/{point}", tag = "points",
    params(("name" = String, Path), ("point" = String, Path)), responses((status = 200, body = PointInfo)))]
async fn point(State(app): Site, Arg((name, point)): Arg<(String, String)>) -> Answer<PointInfo> {
    Ok(Json(app.point(&name, &point).await?))
}

/// Starts a drill: a test of a point, isolated, while replication goes on.
#[utoipa::path(post, path = "/v1/servers/{name}/drills", tag = "recovery", params(("name" = String, Path)),
    request_body = DrillRequest, responses((status = 202, body = Operation)))]
async fn drill(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Body(request): Body<DrillRequest>,
) -> Begun {
    begun(app.drill(&who, &name, &request).await?)
}

/// Starts a failover, or changes the point of one.
#[utoipa::path(post, path = "/v1/servers/{name}/failover", tag = "recovery", params(("name" = String, Path)),
    request_body = FailoverRequest, responses((status = 202, body = Operation)))]
async fn failover(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
    Body(request): Body<FailoverRequest>,
) -> Begun {
    begun(app.failover(&who, &name, &request).await?)
}

/// Makes a failover final, once its disks are copied.
#[utoipa::path(post, path = "/v1/servers/{name}/commit", tag = "recovery", params(("name" = String, Path)),
    responses((status = 202, body = Operation)))]
async fn commit(State(app): Site, Extension(who): Who, Arg(name): Arg<String>) -> Begun {
    begun(app.commit(&who, &name).await?)
}

/// Points being served over NBD.
#[utoipa::path(get, path = "/v1/mounts", tag = "points", responses((status = 200, body = Vec<Mount>)))]
async fn mounts(State(app): Site) -> Json<Vec<Mount>> {
    Json(app.mounts())
}

/// Serves a point over NBD on Unix sockets of the site's host.
#[utoipa::path(post, path = "/v1/mounts", tag = "points", request_body = MountRequest,
    responses((status = 201, body = Mount)))]
async fn mount(
    State(app): Site,
    Extension(who): Who,
    Body(request): Body<MountRequest>,
) -> Result<(StatusCode, Json<Mount>), HttpError> {
    Ok((StatusCode::CREATED, Json(app.mount(&who, &request).await?)))
}

/// Ends a mount.
#[utoipa::path(delete, path = "/v1/mounts/{id}", tag = "points", params(("id" = String, Path)),
    responses((status = 204)))]
async fn unmount(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<String>,
) -> Result<StatusCode, HttpError> {
    app.unmount(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The newest runs, cleaned up or not.
#[utoipa::path(get, path = "/v1/runs", tag = "recovery", responses((status = 200, body = Vec<Run>)))]
async fn runs(State(app): Site) -> Answer<Vec<Run>> {
    Ok(Json(app.runs().await?))
}

/// One run with its report.
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "recovery", params(("id" = String, Path)),
    responses((status = 200, body = Run)))]
async fn run(State(app): Site, Arg(id): Arg<RunId>) -> Answer<Run> {
    Ok(Json(app.run(id).await?))
}

/// Ends a drill: cancels it while it is being carried out, removes its machine afterwards. Logs are kept. The machine of a
/// committed failover is ended and deleted too, once that is confirmed.
#[utoipa::path(delete, path = "/v1/runs/{id}", tag = "recovery",
    params(("id" = String, Path), CleanUpQuery), responses((status = 202, body = Operation)))]
async fn clean_up(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<RunId>,
    Asked(query): Asked<CleanUpQuery>,
) -> Begun {
    begun(app.clean_up(&who, id, query.confirm_disks).await?)
}

/// A picture of a run's screen.
#[utoipa::path(get, path = "/v1/runs/{id}/screen.png", tag = "recovery", params(("id" = String, Path)),
    responses((status = 200, content_type = "image/png", body = Vec<u8>)))]
async fn screen(State(app): Site, Arg(id): Arg<RunId>) -> Result<impl IntoResponse, HttpError> {
    Ok(([(CONTENT_TYPE, "image/png")], app.screen(id).await?))
}

/// The end of a run's serial log, as the guest wrote it.
#[utoipa::path(get, path = "/v1/runs/{id}/serial", tag = "recovery", params(("id" = String, Path), SerialQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
async fn serial(
    State(app): Site,
    Arg(id): Arg<RunId>,
    Asked(query): Asked<SerialQuery>,
) -> Result<impl IntoResponse, HttpError> {
    Ok(([(CONTENT_TYPE, "application/octet-stream")], app.serial(id, &query).await?))
}

/// Operations, newest first.
#[utoipa::path(get, path = "/v1/operations", tag = "recovery", params(OperationsQuery),
    responses((status = 200, body = Vec<Operation>)))]
async fn operations(State(app): Site, Asked(query): Asked<OperationsQuery>) -> Answer<Vec<Operation>> {
    Ok(Json(app.operations(&query).await?))
}

/// One operation with its steps.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "recovery", params(("id" = String, Path)),
    responses((status = 200, body = Operation)))]
async fn operation(State(app): Site, Arg(id): Arg<OperationId>) -> Answer<Operation> {
    Ok(Json(app.operation(id).await?))
}

/// All tokens, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "people", responses((status = 200, body = Vec<TokenInfo>)))]
async fn tokens(State(app): Site) -> Answer<Vec<TokenInfo>> {
    Ok(Json(app.tokens().await?))
}

/// Creates a token; its secret is in the answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", tag = "people", request_body = CreateTokenRequest,
    responses((status = 201, body = CreatedToken)))]
async fn create_token(
    State(app): Site,
    Extension(who): Who,
    Body(request): Body<CreateTokenRequest>,
) -> Result<(StatusCode, Json<CreatedToken>), HttpError> {
    Ok((StatusCode::CREATED, Json(app.create_token(&who, &request).await?)))
}

/// Revokes a token at once.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "people", params(("id" = String, Path)),
    responses((status = 204)))]
async fn revoke_token(
    State(app): Site,
    Extension(who): Who,
    Arg(id): Arg<String>,
) -> Result<StatusCode, HttpError> {
    app.revoke_token(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets an agent join with a one-time token.
#[utoipa::path(post, path = "/v1/join", tag = "agents", request_body = JoinRequest,
    responses((status = 201, body = JoinResponse)))]
async fn join(
    State(app): Site,
    Body(request): Body<JoinRequest>,
) -> Result<(StatusCode, Json<JoinResponse>), HttpError> {
    Ok((StatusCode::CREATED, Json(app.join(&request).await?)))
}

/// All agents that have joined.
#[utoipa::path(get, path = "/v1/agents", tag = "agents", responses((status = 200, body = Vec<Agent>)))]
async fn agents(State(app): Site) -> Answer<Vec<Agent>> {
    Ok(Json(app.agents().await?))
}

/// Revokes an agent, by name or id, and cuts its sessions.
#[utoipa::path(delete, path = "/v1/agents/{name}", tag = "agents", params(("name" = String, Path)),
    responses((status = 204)))]
async fn revoke_agent(
    State(app): Site,
    Extension(who): Who,
    Arg(name): Arg<String>,
) -> Result<StatusCode, HttpError> {
    app.revoke_agent(&who, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The audit log, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "people", params(AuditQuery),
    responses((status = 200, body = Vec<AuditEntry>)))]
async fn audit(State(app): Site, Asked(query): Asked<AuditQuery>) -> Answer<Vec<AuditEntry>> {
    Ok(Json(app.audit(&query).await?))
}

/// Whether the audit log is whole.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "people", responses((status = 200, body = AuditVerification)))]
async fn verify_audit(State(app): Site) -> Answer<AuditVerification> {
    Ok(Json(app.verify_audit().await?))
}

pub(super) fn all() -> OpenApiRouter<Arc<App>> {
    let info = InfoBuilder::new()
        .title("Lifeboat")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Disaster recovery: protect, drill, fail over, commit."))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
        .routes(routes!(healthz))
        .routes(routes!(openapi))
        .routes(routes!(status))
        .routes(routes!(list_servers, protect))
        .routes(routes!(server, delete_server, change_server))
        .routes(routes!(accept))
        .merge(watch::all())
        .merge(groups::all())
        .merge(vault::all())
        .merge(backups::all())
        .routes(routes!(stop))
        .routes(routes!(resume))
        .routes(routes!(points))
        .routes(routes!(point))
        .routes(routes!(drill))
        .routes(routes!(failover))
        .routes(routes!(commit))
        .routes(routes!(mounts, mount))
        .routes(routes!(unmount))
        .routes(routes!(runs))
        .routes(routes!(run, clean_up))
        .routes(routes!(screen))
        .routes(routes!(serial))
        .routes(routes!(operations))
        .routes(routes!(operation))
        .routes(routes!(tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(join))
        .routes(routes!(agents))
        .routes(routes!(revoke_agent))
        .routes(routes!(audit))
        .routes(routes!(verify_audit))
}

/// The API's OpenAPI 3.1 document, as committed in `docs/openapi.json`.
pub fn openapi_json() -> String {
    let mut document = all().into_openapi();
    let components = document.components.get_or_insert_with(Components::new);
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("lb_<id>_<secret>")).build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    let (name, schema) =
        (<ApiError as utoipa::ToSchema>::name(), <ApiError as utoipa::PartialSchema>::schema());
    components.schemas.insert(name.into_owned(), schema);
    let mut more = Vec::new();
    <ApiError as utoipa::ToSchema>::schemas(&mut more);
    components.schemas.extend(more);
    for (path, item) in &mut document.paths.paths {
        let PathItem { get, post, patch, delete, .. } = item;
        for (method, operation) in [("GET", get), ("POST", post), ("PATCH", patch), ("DELETE", delete)] {
            if let Some(operation) = operation {
                describe(operation, method, path);
            }
        }
    }
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// Adds to an operation what all have in common: errors, and who may call it.
fn describe(operation: &mut PathOperation, method: &str, path: &str) {
    let error = ContentBuilder::new().schema(Some(Ref::from_schema_name("ApiError"))).build();
    let error =
        ResponseBuilder::new().description("what went wrong").content("application/json", error).build();
    operation.responses.responses.insert("default".into(), error.into());
    let access = policy::find(method, path).map_or(Access::Open, |r| r.access);
    if let Access::AtLeast(role) = access {
        operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
        operation.description = Some(match operation.description.take() {
            Some(text) => format!("{text}\n\nTakes a token of role {} or higher.", role.name()),
            None => format!("Takes a token of role {} or higher.", role.name()),
        });
    }
}
