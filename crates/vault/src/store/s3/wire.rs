//! One request to the service, asked until it is answered or time is up.
//!
//! Signing, credentials and TLS are object_store's; what is asked again, how often and how long, is decided here.

use super::settings::{S3Limits, S3Settings};
use super::{collect, content_length, xml};
use crate::error::StoreError;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{DATE, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use lifeboat_base::{Entropy, limits};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpError, HttpErrorKind, ReqwestConnector};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::time::{sleep, timeout};

/// Largest answer that is no content, in bytes: a page of a listing has up to 1000 names.
const MOST_XML: u64 = 8 * limits::MIB as u64;

/// Most text of a service's that gets into an error.
const MOST_TEXT: usize = 300;

/// A request. Every one may be made again.
#[derive(Debug)]
pub(super) struct Request<'a> {
    method: Method,
    /// Empty for the bucket itself.
    key: &'a str,
    query: Vec<(&'static str, &'a str)>,
    headers: Vec<(HeaderName, &'a str)>,
    body: Bytes,
    /// Largest content of a success; `None` where it is a document, which may be an error.
    content: Option<u64>,
    /// Overrides [`S3Limits::attempts`].
    attempts: Option<u32>,
}

impl<'a> Request<'a> {
    pub fn new(method: Method, key: &'a str) -> Self {
        Self {
            method,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            content: None,
            attempts: None,
        }
    }

    pub fn query(mut self, name: &'static str, value: &'a str) -> Self {
        self.query.push((name, value));
        self
    }

    pub fn header(mut self, name: HeaderName, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// What comes back is an object's content, of so many bytes at most.
    pub fn content(mut self, most: u64) -> Self {
        self.content = Some(most);
        self
    }

    /// Is asked once.
    pub fn once(mut self) -> Self {
        self.attempts = Some(1);
        self
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// What time it was for the service.
    pub fn date(&self) -> Option<Timestamp> {
        let date = self.headers.get(DATE)?.to_str().ok()?;
        DateTimeParser::new().parse_timestamp(date).ok()
    }
}

/// Why there is no answer, or none that says yes.
#[derive(Debug)]
pub(super) enum Failure {
    Answered {
        status: u16,
        code: String,
        message: String,
        /// Where the bucket is, if told.
        region: Option<String>,
    },
    Credentials(String),
    Transport {
        kind: HttpErrorKind,
        why: String,
    },
    /// Not within the time allowed.
    Slow(Duration),
    /// More bytes than were asked for.
    TooLarge(u64),
    /// The request cannot be made.
    Invalid(String),
}

impl Failure {
    pub fn transport(e: HttpError) -> Self {
        // The error's own words are "error sending request"; why is among its causes.
        let (mut why, mut cause) = (e.to_string(), std::error::Error::source(&e));
        while let Some(next) = cause {
            let text = next.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            cause = next.source();
        }
        Self::Transport { kind: e.kind(), why: shortened(&why) }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub fn code(&self) -> &str {
        match self {
            Self::Answered { code, .. } => code,
            _ => "",
        }
    }

    /// The name of a conditional write is taken.
    pub fn is_taken(&self) -> bool {
        self.status() == Some(412)
    }

    /// There is no such object; a missing bucket is something else.
    pub fn is_no_key(&self) -> bool {
        self.status() == Some(404) && !matches!(self.code(), "NoSuchBucket" | "NoSuchUpload")
    }

    /// Asking again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Answered { status, code, .. } => {
                matches!(status, 408 | 409 | 429 | 500 | 502 | 503 | 504)
                    || matches!(
                        code.as_str(),
                        "InternalError"
                            | "SlowDown"
                            | "ServiceUnavailable"
                            | "RequestTimeout"
                            | "Throttling"
                            | "BadDigest"
                            | "IncompleteBody"
                    )
            }
            Self::Transport { why, .. } => !why.contains("certificate"),
            Self::Slow(_) => true,
            Self::Credentials(_) | Self::TooLarge(_) | Self::Invalid(_) => false,
        }
    }
}

pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_TEXT).collect()
}

/// A way to one bucket.
pub(super) struct Wire {
    http: HttpClient,
    credentials: AwsCredentialProvider,
    entropy: Arc<dyn Entropy>,
    settings: S3Settings,
    url: String,
    name: String,
    handle: Handle,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.name)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Nothing is under way: each call waits for its own. This one may be dropped where waiting is forbidden.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Wire {
    pub fn new(settings: S3Settings, entropy: Arc<dyn Entropy>) -> Result<Self, StoreError> {
        let name = settings.describe();
        let broken = |why: String| StoreError::Broken { store: name.clone(), why };
        let options = settings.client_options().map_err(broken)?;
        let credentials = settings.credentials(&options).map_err(broken)?;
        let http = ReqwestConnector::default().connect(&options).map_err(|e| broken(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vault-s3")
            .enable_all()
            .build()
            .map_err(|e| broken(format!("cannot start a thread for it: {e}")))?;
        let (url, handle) = (settings.bucket_url(), runtime.handle().clone());
        Ok(Self { http, credentials, entropy, settings, url, name, handle, runtime: Some(runtime) })
    }

    pub fn describe(&self) -> &str {
        &self.name
    }

    pub fn settings(&self) -> &S3Settings {
        &self.settings
    }

    fn limits(&self) -> &S3Limits {
        &self.settings.limits
    }

    /// Asks, again where that may help, and reports the last failure.
    pub fn call(&self, request: &Request) -> Result<Answer, Failure> {
        self.handle.block_on(self.asked(request))
    }

    async fn asked(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let limits = self.limits();
        let bytes = request.body.len() as u64 + request.content.unwrap_or(0).min(limits.part as u64);
        let moving = Duration::from_secs(bytes / limits.slowest.max(1));
        let (each, all) = (limits.answer + moving, limits.total + moving);
        let digest = digest(&SHA256, &request.body);
        let mut last = Failure::Slow(all);
        let attempts = async {
            for attempt in 1..=request.attempts.unwrap_or(limits.attempts).max(1) {
                if attempt > 1 {
                    tracing::debug!(store = %self.name, attempt, ?last, "asking again");
                    sleep(self.pause(attempt)).await;
                }
                match timeout(each, self.once(request, digest.as_ref())).await {
                    Ok(Ok(answer)) => return Some(answer),
                    Ok(Err(failure)) => last = failure,
                    Err(_) => last = Failure::Slow(each),
                }
                if !last.is_transient() {
                    break;
                }
            }
            None
        };
        let answer = timeout(all, attempts).await;
        answer.ok().flatten().ok_or(last)
    }

    /// Doubles with each attempt; between half and all of it, so that many clients do not come back at once.
    fn pause(&self, attempt: u32) -> Duration {
        let most = self.limits().pause * (1 << (attempt - 2).min(4));
        most / 2 + most.mul_f64((self.entropy.next_u64() % 1024) as f64 / 2048.0)
    }

    async fn once(&self, request: &Request<'_>, digest: &[u8]) -> Result<Answer, Failure> {
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|e| Failure::Credentials(shortened(&e.to_string())))?;
        let mut http = http::Request::builder().method(request.method.clone()).uri(self.uri(request));
        for (name, value) in &request.headers {
            http = http.header(name, *value);
        }
        let invalid = |e: String| Failure::Invalid(e);
        let mut http = http.body(request.body.clone().into()).map_err(|e| invalid(e.to_string()))?;
        AwsAuthorizer::new(&credential, "s3", &self.settings.region)
            .try_authorize(&mut http, Some(digest))
            .map_err(|e| invalid(e.to_string()))?;
        let answer = self.http.execute(http).await.map_err(Failure::transport)?;
        let (parts, body) = answer.into_parts();
        let expected = content_length(&parts.headers).filter(|_| request.method != Method::HEAD);
        if parts.status.is_success() {
            let body = collect(body, expected, request.content.unwrap_or(MOST_XML)).await?;
            // Some calls answer before they know how they end.
            return match request.content.is_none().then(|| xml::error(&body)).flatten() {
                Some(error) => Err(answered(parts.status, &parts.headers, error)),
                None => Ok(Answer { headers: parts.headers, body }),
            };
        }
        let body = collect(body, expected, MOST_XML).await.unwrap_or_default();
        Err(answered(parts.status, &parts.headers, xml::error(&body).unwrap_or_default()))
    }

    fn uri(&self, request: &Request) -> String {
        let mut uri = format!("{}/{}", self.url, request.key);
        for (n, (name, value)) in request.query.iter().enumerate() {
            uri.push(if n == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            encode(value, &mut uri);
        }
        uri
    }
}

fn encode(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn answered(status: StatusCode, headers: &HeaderMap, error: xml::ErrorBody) -> Failure {
    let told = headers.get("x-amz-bucket-region").and_then(|r| r.to_str().ok()).map(shortened);
    Failure::Answered {
        status: status.as_u16(),
        code: shortened(&error.code),
        message: shortened(&error.message),
        region: error.region.map(|r| shortened(&r)).or(told),
    }
}
