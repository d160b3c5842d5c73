//! The REST API's client: one typed method per endpoint.
//!
//! Invariants: the site is verified before a token is sent; an answer is bounded in time
//! ([`limits::API_ANSWER`]) and size ([`limits::MAX_API_RESPONSE`]); nothing is sent twice by itself. Every request
//! has a connection of its own, so a client holds nothing that could go stale.

mod vault;

use crate::tls::{self, Fingerprint, TlsError};
use crate::types::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use lifeboat_base::{OperationId, RunId, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The API's default port.
pub const DEFAULT_PORT: u16 = 8443;

/// How a client knows the site.
#[derive(Debug, Clone)]
pub enum Trust {
    /// SHA-256 of the site's CA certificate.
    Fingerprint(Fingerprint),
    /// The site's CA certificate, PEM.
    CaPem(String),
}

/// Why a request had no good answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// What the client was given makes no sense; nothing was sent.
    #[error("{0}")]
    Settings(String),
    #[error(
        "cannot reach the site at {url}: {why}; check that `lifeboat serve` runs there and that address and port are right"
    )]
    Unreachable { url: String, why: String },
    #[error(
        "the site at {url} did not prove that it is the one you trust: {why}; \
         compare its fingerprint with the one `lifeboat init` printed, nothing was sent to it"
    )]
    Tls { url: String, why: String },
    /// The site's own words.
    #[error("{0}")]
    Api(ApiError, u16),
    #[error(
        "what answers at {url} does not speak this API: {why}; check the port, and that both sides have the same version"
    )]
    Protocol { url: String, why: String },
}

impl From<TlsError> for ClientError {
    fn from(e: TlsError) -> Self {
        Self::Settings(e.to_string())
    }
}

/// A site, as one person or program with one token sees it.
#[derive(Clone)]
pub struct Client {
    host: String,
    port: u16,
    tls: TlsConnector,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the site at `url` (`https://HOST[:PORT]`, or `HOST[:PORT]`; the port is 8443 by default).
    /// Connects when the first request is made.
    ///
    /// # Errors
    /// [`ClientError::Settings`] when the address, certificate or token cannot be used.
    pub fn connect(url: &str, trust: &Trust, token: Option<&str>) -> Result<Self, ClientError> {
        let (host, port) = parse_url(url)?;
        let config = match trust {
            Trust::Fingerprint(f) => tls::client_config_pinned(*f)?,
            Trust::CaPem(pem) => tls::client_config(pem)?,
        };
        let authorization = token
            .map(|t| {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", t.trim())).map_err(|_| {
                    ClientError::Settings("the token has characters no token has; copy it whole".into())
                })?;
                value.set_sensitive(true);
                Ok::<_, ClientError>(value)
            })
            .transpose()?;
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { host, port, tls, authorization, timeout: limits::API_ANSWER })
    }

    /// The same client with another limit on the time one request may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `https://HOST:PORT`
    pub fn url(&self) -> String {
        format!("https://{}:{}", bracketed(&self.host), self.port)
    }

    /// The host part of the site's address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    // ---- site

    /// `GET /v1/status`
    pub async fn status(&self) -> Result<SiteStatus, ClientError> {
        self.get("/v1/status").await
    }

    /// `GET /v1/openapi.json`
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/openapi.json").await
    }

    /// `GET /healthz`: answers without a token when the site is up.
    pub async fn health(&self) -> Result<(), ClientError> {
        self.call(Method::GET, "/healthz", None).await.map(drop)
    }

    // ---- servers

    pub async fn servers(&self) -> Result<Vec<Server>, ClientError> {
        self.get("/v1/servers").await
    }

    pub async fn server(&self, name: &str) -> Result<Server, ClientError> {
        self.get(&format!("/v1/servers/{}", escape(name))).await
    }

    pub async fn protect(&self, request: &ProtectRequest) -> Result<Server, ClientError> {
        self.post("/v1/servers", request).await
    }

    /// Stops replication; points are kept.
    pub async fn stop(&self, name: &str) -> Result<Server, ClientError> {
        self.post(&format!("/v1/servers/{}/stop", escape(name)), &()).await
    }

    /// Starts replication of a stopped server again.
    pub async fn resume(&self, name: &str) -> Result<Server, ClientError> {
        self.post(&format!("/v1/servers/{}/resume", escape(name)), &()).await
    }

    /// Forgets a server and, when `confirm_points`, all its recovery points; refused otherwise.
    pub async fn delete_server(&self, name: &str, confirm_points: bool) -> Result<(), ClientError> {
        self.delete(&format!("/v1/servers/{}?confirm_points={confirm_points}", escape(name))).await
    }

    /// Changes settings of a server; what is not given stays.
    pub async fn change_server(&self, name: &str, change: &ServerChange) -> Result<Server, ClientError> {
        let body = encoded(change)?;
        self.request(Method::PATCH, &format!("/v1/servers/{}", escape(name)), Some(body)).await
    }

    /// Says that a person has looked at a server whose store was older than its data.
    pub async fn accept(&self, name: &str) -> Result<Server, ClientError> {
        self.post(&format!("/v1/servers/{}/accept", escape(name)), &()).await
    }

    /// Starts comparing source and copy. How it goes is in the server's runtime.
    pub async fn verify(&self, name: &str, request: &VerifyRequest) -> Result<Server, ClientError> {
        self.post(&format!("/v1/servers/{}/verify", escape(name)), request).await
    }

    /// The measured RPO by the minute, newest first.
    pub async fn rpo(&self, name: &str, minutes: Option<u32>) -> Result<Vec<RpoMinute>, ClientError> {
        let mut q = Query::default();
        q.add("minutes", minutes);
        self.get(&q.on(&format!("/v1/servers/{}/rpo", escape(name)))).await
    }

    /// Looks at what is stored of a server; with `full` at every record, which takes its time.
    pub async fn check(&self, name: &str, full: bool) -> Result<CheckReport, ClientError> {
        let patient = self.clone().with_timeout(limits::API_CHECK + limits::HANDSHAKE);
        patient.get(&format!("/v1/servers/{}/check?full={full}", escape(name))).await
    }

    /// Divergent branches of one server, or of all.
    pub async fn branches(&self, name: Option<&str>) -> Result<Vec<Branch>, ClientError> {
        match name {
            Some(name) => self.get(&format!("/v1/servers/{}/branches", escape(name))).await,
            None => self.get("/v1/branches").await,
        }
    }

    /// Deletes what a stale writer left, for good.
    pub async fn delete_branch(&self, name: &str, branch: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/servers/{}/branches/{}", escape(name), escape(branch))).await
    }

    // ---- groups

    pub async fn groups(&self) -> Result<Vec<Group>, ClientError> {
        self.get("/v1/groups").await
    }

    pub async fn group(&self, name: &str) -> Result<Group, ClientError> {
        self.get(&format!("/v1/groups/{}", escape(name))).await
    }

    pub async fn create_group(&self, request: &GroupRequest) -> Result<Group, ClientError> {
        self.post("/v1/groups", request).await
    }

    /// Forgets a group and its points; the points of its servers stay.
    pub async fn delete_group(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/groups/{}", escape(name))).await
    }

    pub async fn group_points(&self, name: &str, limit: Option<u32>) -> Result<Vec<GroupPoint>, ClientError> {
        let mut q = Query::default();
        q.add("limit", limit);
        self.get(&q.on(&format!("/v1/groups/{}/points", escape(name)))).await
    }

    /// Cuts a point of the group now.
    pub async fn cut_group_point(&self, name: &str) -> Result<GroupPoint, ClientError> {
        self.post(&format!("/v1/groups/{}/points", escape(name)), &()).await
    }

    /// Starts a drill of each member from one point of the group.
    pub async fn group_drill(
        &self,
        name: &str,
        request: &GroupDrillRequest,
    ) -> Result<Vec<Operation>, ClientError> {
        self.post(&format!("/v1/groups/{}/drills", escape(name)), request).await
    }

    /// Starts a failover of each member to one point of the group.
    pub async fn group_failover(
        &self,
        name: &str,
        request: &GroupFailoverRequest,
    ) -> Result<Vec<Operation>, ClientError> {
        self.post(&format!("/v1/groups/{}/failover", escape(name)), request).await
    }

    // ---- points and mounts

    pub async fn points(&self, name: &str, query: &PointsQuery) -> Result<Vec<PointInfo>, ClientError> {
        let mut q = Query::default();
        q.add("from", query.from.as_deref());
        q.add("to", query.to.as_deref());
        q.add("limit", query.limit);
        self.get(&q.on(&format!("/v1/servers/{}/points", escape(name)))).await
    }

    /// Resolves `latest`, `p1.4711`, `20s` or a time to a point.
    pub async fn point(&self, name: &str, spec: &str) -> Result<PointInfo, ClientError> {
        self.get(&format!("/v1/servers/{}/points/{}", escape(name), escape(spec))).await
    }

    pub async fn mounts(&self) -> Result<Vec<Mount>, ClientError> {
        self.get("/v1/mounts").await
    }

    pub async fn mount(&self, request: &MountRequest) -> Result<Mount, ClientError> {
        self.post("/v1/mounts", request).await
    }

    pub async fn unmount(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/mounts/{}", escape(id))).await
    }

    // ---- operations and runs

    /// Starts a drill. Follow the answer with [`operation`](Self::operation).
    pub async fn drill(&self, name: &str, request: &DrillRequest) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/servers/{}/drills", escape(name)), request).await
    }

    /// Starts a failover, or changes the point of a server that is failed over.
    pub async fn failover(&self, name: &str, request: &FailoverRequest) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/servers/{}/failover", escape(name)), request).await
    }

    pub async fn commit(&self, name: &str) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/servers/{}/commit", escape(name)), &()).await
    }

    pub async fn operations(&self, query: &OperationsQuery) -> Result<Vec<Operation>, ClientError> {
        let mut q = Query::default();
        q.add("server", query.server.as_deref());
        q.add("limit", query.limit);
        self.get(&q.on("/v1/operations")).await
    }

    pub async fn operation(&self, id: OperationId) -> Result<Operation, ClientError> {
        self.get(&format!("/v1/operations/{id}")).await
    }

    pub async fn runs(&self) -> Result<Vec<Run>, ClientError> {
        self.get("/v1/runs").await
    }

    pub async fn run(&self, id: RunId) -> Result<Run, ClientError> {
        self.get(&format!("/v1/runs/{id}")).await
    }

    /// Starts cleaning up a drill's run.
    pub async fn clean_up(&self, id: RunId, confirm_disks: bool) -> Result<Operation, ClientError> {
        self.request(Method::DELETE, &format!("/v1/runs/{id}?confirm_disks={confirm_disks}"), None).await
    }

    /// The picture of a run's screen, PNG.
    pub async fn screen(&self, id: RunId) -> Result<Bytes, ClientError> {
        self.call(Method::GET, &format!("/v1/runs/{id}/screen.png"), None).await
    }

    /// The end of a run's serial log.
    pub async fn serial(&self, id: RunId, bytes: Option<u32>) -> Result<Bytes, ClientError> {
        let mut q = Query::default();
        q.add("bytes", bytes);
        self.call(Method::GET, &q.on(&format!("/v1/runs/{id}/serial")), None).await
    }

    // ---- people, agents, audit

    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ClientError> {
        self.get("/v1/tokens").await
    }

    pub async fn create_token(&self, request: &CreateTokenRequest) -> Result<CreatedToken, ClientError> {
        self.post("/v1/tokens", request).await
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/tokens/{}", escape(id))).await
    }

    /// Joins as an agent. Needs no token header: the join token is in the request.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinResponse, ClientError> {
        self.post("/v1/join", request).await
    }

    pub async fn agents(&self) -> Result<Vec<Agent>, ClientError> {
        self.get("/v1/agents").await
    }

    /// Revokes an agent, by name or id, and cuts its sessions.
    pub async fn revoke_agent(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/agents/{}", escape(name))).await
    }

    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, ClientError> {
        let mut q = Query::default();
        q.add("limit", query.limit);
        q.add("before", query.before);
        self.get(&q.on("/v1/audit")).await
    }

    pub async fn verify_audit(&self) -> Result<AuditVerification, ClientError> {
        self.get("/v1/audit/verify").await
    }

    // ---- one request

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.request(Method::POST, path, Some(encoded(body)?)).await
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let answer = self.call(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|e| self.protocol(format!("{path} answered with {e}")))
    }

    /// One request on a connection of its own; the body of a good answer.
    async fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, ClientError> {
        let slow = |seconds| ClientError::Unreachable {
            url: self.url(),
            why: format!("no answer within {seconds} s"),
        };
        let (status, bytes) = within(self.timeout, self.exchange(method, path, body), slow).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(self.refused(path, status, &bytes))
    }

    /// The site's own words in an answer that is no success.
    fn refused(&self, path: &str, status: StatusCode, bytes: &[u8]) -> ClientError {
        match serde_json::from_slice::<ApiError>(bytes) {
            Ok(error) => ClientError::Api(error, status.as_u16()),
            Err(_) => self.protocol(format!("{path} answered {status} without a reason")),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let request = self.build(method, path, body)?;
        let response = self.send(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limits::MAX_API_RESPONSE).collect().await;
        let bytes = body.map_err(|e| self.protocol(format!("the answer broke off: {e}")))?.to_bytes();
        Ok((status, bytes))
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{}", bracketed(&self.host), self.port))
            .header(ACCEPT, "application/json");
        if let Some(token) = &self.authorization {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| ClientError::Settings(format!("the request cannot be written: {e}")))
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { url: self.url(), why };
        let connect = async {
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| unreachable(plain_io(&e)))
        };
        let slow =
            |s| ClientError::Unreachable { url: self.url(), why: format!("no connection within {s} s") };
        let tcp = within(limits::HANDSHAKE.min(self.timeout), connect, slow).await?;
        let handshake =
            async { self.tls.connect(tls::site_name(), tcp).await.map_err(|e| self.handshake_failed(&e)) };
        let slow = |s| self.protocol(format!("no TLS handshake within {s} s"));
        let stream = within(limits::HANDSHAKE.min(self.timeout), handshake, slow).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.protocol(e.to_string()))?;
        // Ends by itself: `sender` and the response are all that keeps it alive.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|e| self.protocol(e.to_string()))
    }

    /// Tells a site that is not the trusted one from something that is no site at all.
    fn handshake_failed(&self, e: &std::io::Error) -> ClientError {
        use rustls::{CertificateError, Error};
        let url = self.url();
        match e.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                ClientError::Tls { url, why: "its certificate is of another authority".into() }
            }
            Some(Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::NotValidYet
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYetContext { .. },
            )) => ClientError::Tls {
                url,
                why: "its certificate is not valid now, so one of the two clocks may be wrong".into(),
            },
            Some(e @ (Error::InvalidCertificate(_) | Error::NoCertificatesPresented)) => {
                ClientError::Tls { url, why: e.to_string() }
            }
            Some(e) => ClientError::Protocol { url, why: e.to_string() },
            None => {
                ClientError::Unreachable { url, why: format!("the connection broke off ({})", plain_io(e)) }
            }
        }
    }

    fn protocol(&self, why: String) -> ClientError {
        ClientError::Protocol { url: self.url(), why }
    }
}

fn encoded(body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|e| ClientError::Settings(e.to_string()))
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
    slow: impl FnOnce(u64) -> ClientError,
) -> Result<T, ClientError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(slow(limit.as_secs().max(1))),
    }
}

/// An I/O error without the operating system's number.
fn plain_io(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "nothing listens there".into(),
        std::io::ErrorKind::UnexpectedEof => "closed by the other side".into(),
        _ => e.to_string(),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.into() }
}

/// Host and port of `https://HOST[:PORT]` or `HOST[:PORT]`.
fn parse_url(url: &str) -> Result<(String, u16), ClientError> {
    let bad = |why: &str| {
        let shown: String = url.chars().take(128).collect();
        ClientError::Settings(format!("'{shown}' is not a site's address ({why}); write https://HOST:PORT"))
    };
    let text = url.trim();
    let full = if text.contains("://") { text.to_string() } else { format!("https://{text}") };
    let uri: Uri = full.parse().map_err(|_| bad("it cannot be read"))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad("only https is spoken"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad("it has a path"));
    }
    let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("it has a user name"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port_given = authority.as_str().len() > authority.host().len();
    match authority.port_u16() {
        _ if host.is_empty() => Err(bad("it has no host")),
        Some(port) => Ok((host.into(), port)),
        None if port_given => Err(bad("its port is not a number below 65536")),
        None => Ok((host.into(), DEFAULT_PORT)),
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// A query string in the making.
#[derive(Default)]
struct Query(String);

impl Query {
    fn add(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(&format!("{key}={}", escape(&value.to_string())));
        }
    }

    fn on(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

#[cfg(test)]
mod tests;
