#![allow(clippy::unwrap_used)]
use super::*;
use crate::fake::{Stage, Trouble, admin, csr, drill_request, failover_request};
use crate::policy::{Access, RULES, Role};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use lifeboat_api::client::{Client, ClientError, Trust};
use lifeboat_api::tls;
use lifeboat_api::types::*;
use lifeboat_base::WallTime;
use std::collections::BTreeSet;
use tokio::sync::oneshot;

/// The API of a stage, on a port of its own.
struct Served {
    stage: Stage,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let identity =
            stage.ca.server(&[], lifeboat_base::Clock::wall(&*stage.clock), &*stage.entropy).unwrap();
        let tls = Arc::new(tls::server_config(&identity.chain, &identity.key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let app = stage.app.clone();
        let server =
            tokio::spawn(async move { serve(listener, tls, app, async { drop(stopped.await) }).await });
        Self { stage, port, stop: Some(stop), server }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A client that knows the site by its fingerprint only.
    fn client(&self, token: Option<&str>) -> Client {
        Client::connect(&self.url(), &Trust::Fingerprint(self.stage.ca.fingerprint()), token).unwrap()
    }

    async fn as_role(&self, kind: TokenKind) -> Client {
        self.client(Some(&self.stage.token(kind).await))
    }

    /// A request as no proper client makes it: status, and the error if it is one.
    async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Option<ApiError>) {
        let config = tls::client_config_pinned(self.stage.ca.fingerprint()).unwrap();
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let stream =
            tokio_rustls::TlsConnector::from(Arc::new(config)).connect(tls::site_name(), tcp).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        assert!(response.headers().get("cache-control").is_none_or(|v| v == "no-store"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).ok())
    }
}

fn api(e: ClientError) -> (u16, String) {
    match e {
        ClientError::Api(e, status) => (status, e.to_string()),
        e => panic!("{e}"),
    }
}

#[tokio::test]
async fn a_server_is_protected_drilled_failed_over_and_committed_over_the_wire() {
    let served = Served::new().await;
    served.stage.agent("a1").await;
    let c = served.as_role(TokenKind::Operator).await;
    c.health().await.unwrap();
    let server = c.protect(&served.stage.protect_request("web-1", "a1")).await.unwrap();
    served.stage.site.point(server.id);
    served.stage.until_state("web-1", lifeboat_api::lifecycle::ServerState::Replicating).await;
    assert_eq!(c.servers().await.unwrap().len(), 1);
    assert_eq!(
        c.points("web-1", &PointsQuery { limit: Some(5), ..PointsQuery::default() }).await.unwrap().len(),
        1
    );
    assert_eq!(c.point("web-1", "latest").await.unwrap().id.to_string(), "p1.1");

    let request =
        MountRequest { server: "web-1".into(), point: "latest".into(), writable: true, branch: None };
    let mount = c.mount(&request).await.unwrap();
    assert_eq!(c.mounts().await.unwrap(), std::slice::from_ref(&mount));
    c.unmount(&mount.id).await.unwrap();

    let op = c.drill("web-1", &drill_request()).await.unwrap();
    served.stage.ended(op.id).await;
    let run = c.run(op.run.unwrap()).await.unwrap();
    assert_eq!(c.runs().await.unwrap().len(), 1);
    assert_eq!(&c.screen(run.id).await.unwrap()[..], b"\x89PNG");
    assert_eq!(&c.serial(run.id, Some(7)).await.unwrap()[..], b"login: ");
    let cleaning = c.clean_up(run.id, false).await.unwrap();
    served.stage.ended(cleaning.id).await;

    c.stop("web-1").await.unwrap();
    c.resume("web-1").await.unwrap();
    served.stage.until_state("web-1", lifeboat_api::lifecycle::ServerState::Replicating).await;
    let op = c.failover("web-1", &failover_request()).await.unwrap();
    served.stage.ended(op.id).await;
    let op = c.commit("web-1").await.unwrap();
    assert_eq!(served.stage.ended(op.id).await.state, OperationState::Succeeded);
    assert_eq!(c.operation(op.id).await.unwrap().kind, OperationKind::Commit);
    let query = OperationsQuery { server: Some("web-1".into()), limit: Some(2) };
    assert_eq!(c.operations(&query).await.unwrap().len(), 2);
    let status = c.status().await.unwrap();
    assert_eq!((status.servers[0].epoch, status.alarms.len()), (2, 0), "{:?}", status.alarms);
    let audit = c.audit(&AuditQuery { limit: Some(3), before: None }).await.unwrap();
    assert_eq!(audit.len(), 3);
    assert!(c.verify_audit().await.unwrap().ok);
    assert_eq!(c.openapi().await.unwrap()["info"]["title"], "Lifeboat");

    let a = served.as_role(TokenKind::Admin).await;
    // The machine it runs on goes first, and not without a word of its own.
    let run = c.server("web-1").await.unwrap().run.unwrap();
    assert_eq!(api(a.delete_server("web-1", true).await.unwrap_err()).0, 409);
    assert_eq!(api(a.clean_up(run, false).await.unwrap_err()).0, 409);
    served.stage.site.world.lock().may_end.push(run);
    let op = a.clean_up(run, true).await.unwrap();
    served.stage.ended(op.id).await;
    a.delete_server("web-1", true).await.unwrap();
    assert_eq!(api(c.server("web-1").await.unwrap_err()).0, 404);
    served.stage.sound().await;
}

#[tokio::test]
async fn servers_are_changed_watched_and_grouped_over_the_wire() {
    let served = Served::new().await;
    let id = served.stage.replicating().await;
    let o = served.as_role(TokenKind::Operator).await;
    let window = WindowSpec { seconds: 7200, bytes: 1 << 30 };
    let change = ServerChange { window: Some(window.clone()), ..ServerChange::default() };
    assert_eq!(o.change_server("web-1", &change).await.unwrap().window, window);
    assert_eq!(api(o.change_server("web-1", &change).await.unwrap_err()).0, 400);
    assert_eq!(api(o.accept("web-1").await.unwrap_err()).0, 409);
    let server = o.verify("web-1", &VerifyRequest::default()).await.unwrap();
    assert_eq!(server.runtime.verify.unwrap().state, VerifyState::Running);
    let stats = RpoStats { p50_ms: 1, p99_ms: 2, max_ms: 3, samples: 4 };
    let minute = RpoMinute { start: lifeboat_base::Clock::wall(&*served.stage.clock), stats };
    served.stage.site.world.lock().rpo.insert(id, vec![minute; 3]);
    assert_eq!(o.rpo("web-1", Some(2)).await.unwrap(), [minute; 2]);
    assert_eq!(o.check("web-1", true).await.unwrap().records, 100);
    assert!(
        o.branches(None).await.unwrap().is_empty() && o.branches(Some("web-1")).await.unwrap().is_empty()
    );
    assert_eq!(api(o.delete_branch("web-1", "b1.7f3a").await.unwrap_err()).0, 403);
    let a = served.as_role(TokenKind::Admin).await;
    assert_eq!(api(a.delete_branch("web-1", "b1.7f3a").await.unwrap_err()).0, 404);

    let request =
        GroupRequest { name: "app".into(), servers: vec!["web-1".into()], every_seconds: 0, hold_ms: 100 };
    o.create_group(&request).await.unwrap();
    let point = o.cut_group_point("app").await.unwrap();
    assert_eq!(o.group_points("app", Some(5)).await.unwrap(), std::slice::from_ref(&point));
    assert_eq!(o.group("app").await.unwrap().latest, Some(point));
    assert_eq!(o.groups().await.unwrap().len(), 1);
    let drill: GroupDrillRequest = serde_json::from_value(serde_json::json!({"point": "g1"})).unwrap();
    for op in o.group_drill("app", &drill).await.unwrap() {
        assert_eq!(served.stage.ended(op.id).await.state, OperationState::Succeeded);
    }
    let failover: GroupFailoverRequest = serde_json::from_value(serde_json::json!({})).unwrap();
    for op in o.group_failover("app", &failover).await.unwrap() {
        assert_eq!(served.stage.ended(op.id).await.state, OperationState::Succeeded);
    }
    o.delete_group("app").await.unwrap();
    assert_eq!(api(o.group("app").await.unwrap_err()).0, 404);
    served.stage.sound().await;
}

#[test]
fn no_two_endpoints_have_one_name() {
    let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_string();
            assert!(names.insert(name), "{method} {path}: its operationId is another's too");
            assert!(operation["responses"]["default"].is_object(), "{method} {path} describes no errors");
        }
    }
}

#[tokio::test]
async fn an_agent_joins_over_the_wire_knowing_only_its_token() {
    let served = Served::new().await;
    let a = served.as_role(TokenKind::Admin).await;
    let request = CreateTokenRequest { kind: TokenKind::Agent, name: None, ttl_seconds: None };
    let token = a.create_token(&request).await.unwrap().token;
    let fingerprint: tls::Fingerprint = token.rsplit('_').next().unwrap().parse().unwrap();
    let stranger = Client::connect(&served.url(), &Trust::Fingerprint(fingerprint), None).unwrap();
    let joined = stranger.join(&JoinRequest { token, name: "a1".into(), csr: csr() }).await.unwrap();
    assert_eq!(a.agents().await.unwrap()[0].id, joined.agent);
    a.revoke_agent("a1").await.unwrap();
    assert!(a.agents().await.unwrap()[0].revoked);
    let mine = a.tokens().await.unwrap();
    assert_eq!(mine.len(), 2);
    let own = mine.iter().find(|t| t.kind == TokenKind::Admin).unwrap();
    assert_eq!(api(a.revoke_token(&own.id).await.unwrap_err()).0, 409, "the last admin token stays");
}

/// A path with its variables filled in.
fn filled(pattern: &str) -> String {
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let by_id = pattern.starts_with("/v1/runs") || pattern.starts_with("/v1/operations");
    pattern
        .replace("{id}", if by_id { id } else { "none" })
        .replace("{name}", "none")
        .replace("{branch}", "b1.7f3a")
        .replace("{point}", "latest")
}

#[tokio::test]
async fn every_role_may_do_what_the_table_says_and_nothing_else() {
    let served = Served::new().await;
    served.stage.site.vault.ready();
    let mut tokens = Vec::new();
    for (role, kind) in [
        (Role::Viewer, TokenKind::Viewer),
        (Role::Operator, TokenKind::Operator),
        (Role::Admin, TokenKind::Admin),
    ] {
        tokens.push((role, format!("Bearer {}", served.stage.token(kind).await)));
    }
    // An agent's join token is nobody's.
    let join = format!("Bearer {}", served.stage.token(TokenKind::Agent).await);
    let json = ("content-type", "application/json");
    for rule in RULES {
        let path = filled(rule.path);
        let (without, _) = served.raw(rule.method, &path, &[json], b"{}").await;
        let (with_join, _) = served.raw(rule.method, &path, &[json, ("authorization", &join)], b"{}").await;
        let closed = rule.access != Access::Open;
        assert_eq!(without == 401, closed, "{rule:?} without a token: {without}");
        assert_eq!(with_join == 401, closed, "{rule:?} with a join token: {with_join}");
        for (role, token) in &tokens {
            let (status, error) =
                served.raw(rule.method, &path, &[json, ("authorization", token)], b"{}").await;
            let allowed = match rule.access {
                Access::Open => true,
                Access::AtLeast(least) => *role >= least,
            };
            assert_eq!(status == 403, !allowed, "{role:?} {rule:?}: {status} {error:?}");
            assert!(status < 500 && status != 401 && status != 405, "{role:?} {rule:?}: {status} {error:?}");
        }
    }
    served.stage.sound().await;
}

#[test]
fn the_policy_table_and_the_document_name_the_same_endpoints() {
    let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|k| ["get", "post", "put", "patch", "delete"].contains(&&***k))
        {
            documented.insert((method.to_uppercase(), path.clone()));
        }
    }
    let rules: BTreeSet<_> = RULES.iter().map(|r| (r.method.to_string(), r.path.to_string())).collect();
    assert_eq!(rules, documented);
    assert_eq!(rules.len(), RULES.len(), "no endpoint twice");
}

#[test]
fn the_document_is_openapi_3_1_and_refers_to_nothing_missing() {
    let text = openapi_json();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = &document["components"]["schemas"];
    let mut rest = text.as_str();
    let mut refs = 0;
    while let Some(at) = rest.find("#/components/schemas/") {
        rest = &rest[at + "#/components/schemas/".len()..];
        let name = &rest[..rest.find('"').unwrap()];
        assert!(schemas.get(name).is_some(), "{name} is not described");
        refs += 1;
    }
    assert!(refs > 30);
    assert_eq!(document["paths"]["/v1/status"]["get"]["security"][0]["token"], serde_json::json!([]));
    assert!(document["paths"]["/v1/join"]["post"].get("security").is_none());
}

#[tokio::test]
async fn whatever_is_sent_the_answer_is_an_error_people_can_read() {
    let served = Served::new().await;
    let token = format!("Bearer {}", served.stage.token(TokenKind::Admin).await);
    let auth = ("authorization", token.as_str());
    let json = ("content-type", "application/json");
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let deep_object = "{\"a\":".repeat(50_000);
    let capture = r#"{"name":"a","agent":"b","capture":{"kind":"mirror","qmp":"/q","evil":1}}"#;
    let text = "text/plain";
    let huge = vec![b'x'; limits::MAX_API_BODY + 1];
    for (method, path, headers, body, status) in [
        ("GET", "/", vec![auth], &b""[..], 404),
        ("GET", "/v1/nothing", vec![], b"", 404),
        ("GET", "/v1/../etc/passwd", vec![auth], b"", 404),
        ("PUT", "/v1/servers", vec![auth], b"", 405),
        ("DELETE", "/v1/status", vec![auth], b"", 405),
        ("TRACE", "/v1/status", vec![], b"", 405),
        ("POST", "/v1/servers", vec![auth], b"{}", 415),
        ("POST", "/v1/servers", vec![auth, ("content-type", text)], b"{}", 415),
        ("POST", "/v1/servers", vec![auth, json], b"", 400),
        ("POST", "/v1/servers", vec![auth, json], b"{\"name\":", 400),
        ("POST", "/v1/servers", vec![auth, json], b"\xff\xfe", 400),
        ("POST", "/v1/servers", vec![auth, json], &deep, 400),
        ("POST", "/v1/servers", vec![auth, json], deep_object.as_bytes(), 400),
        ("POST", "/v1/servers", vec![auth, json], capture.as_bytes(), 400),
        ("POST", "/v1/servers", vec![auth, json], &huge, 413),
        ("POST", "/v1/join", vec![json], &huge, 413),
        ("POST", "/v1/join", vec![json], &deep, 400),
        ("GET", "/v1/runs/nonsense", vec![auth], b"", 400),
        ("GET", "/v1/servers/%ff", vec![auth], b"", 400),
        ("GET", "/v1/servers/%2e%2e%2fetc", vec![auth], b"", 404),
        ("GET", "/v1/audit?limit=-1", vec![auth], b"", 400),
        ("GET", "/v1/audit?limit=99999999", vec![auth], b"", 400),
        ("GET", "/v1/audit?evil=1", vec![auth], b"", 400),
        ("GET", "/v1/status", vec![("authorization", "Basic eDp5")], b"", 401),
        ("GET", "/v1/status", vec![("authorization", "Bearer")], b"", 401),
        ("GET", "/v1/status", vec![("authorization", "Bearer lb_x_y")], b"", 401),
    ] {
        let (got, error) = served.raw(method, path, &headers, body).await;
        assert_eq!(got, status, "{method} {path}: {error:?}");
        assert!(error.is_some_and(|e| !e.message.is_empty() && e.message.len() < 400), "{method} {path}");
    }
    let (_, error) = served.raw("GET", "/v1/nothing", &[], b"").await;
    assert_eq!(
        error.unwrap().to_string(),
        "there is no endpoint 'GET /v1/nothing' (the API is described at /v1/openapi.json)"
    );
    let (_, error) = served.raw("POST", "/v1/servers", &[auth, json], b"{\"nam\":1}").await;
    assert_eq!(
        error.unwrap().to_string(),
        "the body is not what this endpoint takes: unknown field `nam`, expected one of `name`, `agent`, `capture`, \
         `window`, `launch`, `replication`, `watch`, `retention` at line 1 column 6 (the API is described at /v1/openapi.json)"
    );
    assert!(served.stage.app.servers().await.unwrap().is_empty());
    served.stage.sound().await;
}

#[tokio::test]
async fn what_is_refused_is_audited_and_changes_nothing() {
    let served = Served::new().await;
    let viewer = served.as_role(TokenKind::Viewer).await;
    let operator = served.as_role(TokenKind::Operator).await;
    let before = served.stage.audit().await.len();
    let (status, text) = api(viewer.stop("web-1").await.unwrap_err());
    assert_eq!(
        (status, text.as_str()),
        (403, "a token of role viewer may not do this; it takes operator (ask an admin for another token)")
    );
    let (status, text) = api(operator.stop("web-1").await.unwrap_err());
    assert_eq!(
        (status, text.as_str()),
        (404, "there is no server 'web-1' (`lifeboat status` lists the servers of this site)")
    );
    for _ in 0..20 {
        let e = served.client(Some("lb_0123456789abcdef_wrong")).status().await.unwrap_err();
        assert_eq!(api(e), (401, "the token is not valid (ask an admin for a new one)".into()));
    }
    let audit = served.stage.audit().await;
    let new: Vec<&str> = audit[..audit.len() - before].iter().map(|e| e.split(' ').next().unwrap()).collect();
    assert_eq!(new, ["unknown", "operator", "viewer"], "twenty wrong tokens are one entry");
    assert!(audit[1].ends_with("server.stop /v1/servers/web-1/stop refused"), "{audit:?}");
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_half_made() {
    let served = Served::new().await;
    served.stage.agent("a1").await;
    let request = served.stage.protect_request("web-1", "a1");
    served.stage.site.trouble(Trouble::HangBefore(1));
    let c = served.as_role(TokenKind::Operator).await.with_timeout(Duration::from_millis(300));
    let e = c.protect(&request).await.unwrap_err();
    assert!(matches!(e, ClientError::Unreachable { .. }), "{e}");
    served.stage.site.trouble(Trouble::None);
    // The row is there, so the reconciler completes what the request could not.
    served
        .stage
        .until("it is held", || async { (!served.stage.site.world.lock().held.is_empty()).then_some(()) })
        .await;
    assert_eq!(served.stage.app.servers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn strangers_with_other_protocols_are_shown_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let served = Served::new().await;
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0; 4096], b"SSH-2.0-x\r\n"] {
        let mut tcp = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        let _ = tcp.write_all(noise).await;
        let _ = tcp.shutdown().await;
        let mut sink = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut sink)).await;
        assert!(ended.is_ok(), "the connection stays open");
    }
    served.client(None).health().await.unwrap();
}

#[tokio::test]
async fn another_site_is_not_taken_for_this_one() {
    let served = Served::new().await;
    let other = Served::new().await;
    let trust = Trust::Fingerprint(tls::Fingerprint::of(b"another CA"));
    let c = Client::connect(&served.url(), &trust, Some("lb_secret")).unwrap();
    assert!(matches!(c.status().await, Err(ClientError::Tls { .. })));
    drop(other);
}

#[tokio::test]
async fn shutdown_lets_a_request_end_and_then_is_over() {
    let mut served = Served::new().await;
    served.stage.agent("a1").await;
    let c = served.as_role(TokenKind::Operator).await;
    let idle = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    c.status().await.unwrap();
    served.stop.take().unwrap().send(()).unwrap();
    // Also with a stranger who never says a word.
    tokio::time::timeout(GRACE / 2, &mut served.server).await.unwrap().unwrap();
    drop(idle);
    assert!(matches!(c.status().await, Err(ClientError::Unreachable { .. })));
    served.stage.app.stop().await;
    let _ = admin();
}

#[tokio::test]
async fn the_vault_is_watched_held_and_read_over_the_wire() {
    let served = Served::new().await;
    let id = served.stage.replicating().await;
    let a = served.as_role(TokenKind::Admin).await;
    let o = served.as_role(TokenKind::Operator).await;
    assert_eq!(a.vault().await.unwrap().state, VaultState::Off);
    served.stage.site.vault.ready();
    assert_eq!(a.vault().await.unwrap().state, VaultState::Ready);
    assert_eq!(o.vault_usage(true).await.unwrap().total.points, 1);
    let job = o.start_vault_job(&VaultJobRequest::Check { read_percent: 5 }).await.unwrap();
    assert_eq!(o.vault_job(&job.id).await.unwrap(), job);
    assert_eq!(o.vault_jobs().await.unwrap(), std::slice::from_ref(&job));
    o.cancel_vault_job(&job.id).await.unwrap();
    assert_eq!(o.vault_job(&job.id).await.unwrap().state, VaultJobState::Cancelled);
    assert_eq!(api(o.start_vault_job(&VaultJobRequest::Prune { plan: job.id }).await.unwrap_err()).0, 403);
    assert_eq!(a.rotate_vault_key().await.unwrap().generation, 2);
    assert_eq!(api(o.rotate_vault_key().await.unwrap_err()).0, 403);
    served.stage.site.vault.0.lock().clocks = (WallTime(1_000_000_000), WallTime(9_000_000_000));
    assert!(o.vault_clock().await.unwrap().report.is_some());
    assert_eq!(api(o.accept_vault_clock().await.unwrap_err()).0, 403, "locks may end by it");
    let clock = a.accept_vault_clock().await.unwrap();
    assert_eq!((clock.counted, clock.report), (WallTime(9_000_000_000), None));
    let entry = served.stage.store.audit(1, None).await.unwrap().remove(0);
    assert_eq!(entry.action, "vault.clock-accept");

    let name = HoldRequest { name: Some("before-upgrade".into()), ..HoldRequest::default() };
    let held = o.hold_point("web-1", "latest", &name).await.unwrap();
    assert_eq!(held.vault.unwrap().name.as_deref(), Some("before-upgrade"));
    let lock = HoldRequest { lock_seconds: Some(60), ..HoldRequest::default() };
    assert_eq!(api(o.hold_point("web-1", "latest", &lock).await.unwrap_err()).0, 403);
    a.hold_point("web-1", "latest", &lock).await.unwrap();

    let files = o.point_files("web-1", "latest", "disk0p1/etc").await.unwrap();
    assert!(files[0].name.contains("disk0p1/etc") && files[0].name.contains(&id.to_string()), "{files:?}");
    let pieces: Vec<Bytes> = (0..50).map(|n| Bytes::from(vec![n; 1 << 16])).collect();
    served.stage.site.vault.0.lock().content = pieces.iter().cloned().map(Ok).collect();
    let mut got = Vec::new();
    let mut sink = |piece: Bytes| {
        got.extend_from_slice(&piece);
        Ok(())
    };
    o.point_content("web-1", "latest", "disk0p1/etc/passwd", &mut sink).await.unwrap();
    assert_eq!(got, pieces.concat());
    // Half a file is no file.
    let broken = ApiError::new(ErrorCode::Corrupt, "a chunk is damaged");
    served.stage.site.vault.0.lock().content = vec![Ok(pieces[0].clone()), Err(broken)];
    let cut = o.point_content("web-1", "latest", "disk0p1/x", &mut |_| Ok(())).await.unwrap_err();
    assert!(matches!(&cut, ClientError::Protocol { why, .. } if why.contains("broke off")), "{cut}");
    served.stage.sound().await;
}

#[tokio::test]
async fn files_are_backed_up_and_read_over_the_wire() {
    let served = Served::new().await;
    served.stage.agent("a1").await;
    served.stage.site.vault.ready();
    let a = served.as_role(TokenKind::Admin).await;
    let o = served.as_role(TokenKind::Operator).await;
    let set: BackupSet =
        serde_json::from_value(serde_json::json!({"name": "etc", "paths": ["/etc"]})).unwrap();
    let (status, text) = api(o.put_backup_set(&set).await.unwrap_err());
    assert_eq!(status, 403, "the site's own host is an admin's: {text}");
    a.put_backup_set(&set).await.unwrap();
    let far = BackupSet { name: "far".into(), agent: Some("a1".into()), ..set.clone() };
    o.put_backup_set(&far).await.unwrap();
    let sets = o.backup_sets().await.unwrap();
    assert_eq!(
        sets.iter().map(|s| (s.set.name.as_str(), s.set.agent.as_deref())).collect::<Vec<_>>(),
        [("etc", None), ("far", Some("a1"))]
    );
    let run = VaultJobRequest::Backup { set: "etc".into() };
    assert_eq!(o.start_vault_job(&run).await.unwrap().subject, "etc");
    let missing = VaultJobRequest::Backup { set: "nothing".into() };
    assert_eq!(api(o.start_vault_job(&missing).await.unwrap_err()).0, 404);
    let agent = served.stage.site.vault.0.lock().sets[1].agent.clone();
    {
        use crate::fake::FakeVault;
        let mut w = served.stage.site.vault.0.lock();
        w.backups =
            vec![FakeVault::backup("b1", "etc", None), FakeVault::backup("b2", "far", agent.as_deref())];
        w.content = vec![Ok(Bytes::from_static(b"root:x"))];
    }
    assert_eq!(o.backups(Some("far")).await.unwrap()[0].agent.as_deref(), Some("a1"));
    assert_eq!(o.backups(None).await.unwrap().len(), 2);
    assert_eq!(o.backup_files("b1", "/etc").await.unwrap().len(), 1);
    assert_eq!(o.diff_backups("b1", "b2").await.unwrap().changes[0].path, "b1..b2");
    let mut got = Vec::new();
    let mut sink = |piece: Bytes| {
        got.extend_from_slice(&piece);
        Ok(())
    };
    let denied = o.backup_content("b1", "/etc/shadow", &mut sink).await.unwrap_err();
    assert_eq!(api(denied).0, 403);
    o.backup_content("b2", "/etc/shadow", &mut sink).await.unwrap();
    a.backup_content("b1", "/etc/shadow", &mut sink).await.unwrap();
    assert_eq!(got, b"root:xroot:x");
    a.mount_backup("b1", "/mnt/x").await.unwrap();
    assert_eq!(served.stage.site.vault.0.lock().mounts, ["/mnt/x"]);
    a.unmount_backup("/mnt/x").await.unwrap();
    let keep = HoldRequest { name: Some("keep".into()), ..HoldRequest::default() };
    assert_eq!(o.hold_backup("b1", &keep).await.unwrap().hold.name.as_deref(), Some("keep"));
    a.delete_backup("b2").await.unwrap();
    assert_eq!(api(o.delete_backup_set("far").await.unwrap_err()).0, 403);
    a.delete_backup_set("far").await.unwrap();
    // Who may not shorten what is kept does not do it by a set of the same name either.
    served.stage.site.vault.0.lock().backups.push(crate::fake::FakeVault::backup(
        "b3",
        "far",
        agent.as_deref(),
    ));
    assert_eq!(api(o.put_backup_set(&far).await.unwrap_err()).0, 403);
    assert_eq!(o.backup_sets().await.unwrap().len(), 1);
    let audit = served.stage.audit().await;
    let refused = audit.iter().filter(|e| e.contains("backup.read-file") && e.ends_with("refused")).count();
    assert_eq!(refused, 1, "{audit:?}");
    served.stage.sound().await;
}

#[tokio::test]
async fn a_recovery_kit_is_an_admins_and_in_the_log() {
    let served = Served::new().await;
    let a = served.as_role(TokenKind::Admin).await;
    let o = served.as_role(TokenKind::Operator).await;
    let identity = age::x25519::Identity::generate();
    let to = KitRequest::Recipient(identity.to_public().to_string());
    assert_eq!(api(a.recovery_kit(&to).await.unwrap_err()).0, 409, "there is no vault");
    served.stage.site.vault.ready();
    assert_eq!(api(o.recovery_kit(&to).await.unwrap_err()).0, 403);
    let short = KitRequest::Passphrase("short".into());
    assert_eq!(api(a.recovery_kit(&short).await.unwrap_err()).0, 400);
    let kit = a.recovery_kit(&to).await.unwrap();
    assert_eq!(kit.vault, "0f".repeat(16));
    assert!(kit.text.contains("-----BEGIN AGE ENCRYPTED FILE-----"));
    let audit = served.stage.audit().await;
    let given = format!("vault.kit {} done", kit.vault);
    assert_eq!(audit.iter().filter(|e| e.ends_with(&given)).count(), 1, "{audit:?}");
    served.stage.sound().await;
}
