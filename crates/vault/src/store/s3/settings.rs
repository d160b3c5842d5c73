//! Where a bucket is, and how it is talked to.

use crate::error::StoreError;
use crate::id::ObjectName;
use async_trait::async_trait;
use lifeboat_base::limits;
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{ClientOptions, CredentialProvider, RetryConfig, StaticCredentialProvider};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long and how often a service is asked. Each bound is small: who calls has his own plan for a store that is away.
#[derive(Debug, Clone)]
pub struct S3Limits {
    /// For a connection to be made.
    pub connect: Duration,
    /// For the answer to one request, without the time its bytes take.
    pub answer: Duration,
    /// Slowest transfer that is waited for, in bytes per second.
    pub slowest: u64,
    /// Attempts at one request.
    pub attempts: u32,
    /// Before the second attempt; doubles, with some chance, up to 16 times that.
    pub pause: Duration,
    /// For all attempts, without the time their bytes take once.
    pub total: Duration,
    /// Larger objects go up in parts of this many bytes. A pack fits into one.
    pub part: usize,
}

impl S3Limits {
    /// S3 takes no smaller part but the last, in bytes.
    pub const SMALLEST_PART: usize = 5 * limits::MIB;
}

impl Default for S3Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(15),
            slowest: 256 * 1024,
            attempts: 5,
            pause: Duration::from_millis(100),
            total: Duration::from_secs(40),
            part: 64 * limits::MIB,
        }
    }
}

/// Who Lifeboat is to the service.
#[derive(Clone)]
pub enum S3Keys {
    /// As AWS's own tools find out: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, a web identity, or the role of
    /// the container or machine.
    Environment,
    Given {
        id: String,
        secret: Zeroizing<String>,
        token: Option<Zeroizing<String>>,
    },
    /// A file as AWS's tools have it (`[default]`, `aws_access_key_id = …`, `aws_secret_access_key = …`), read for each
    /// request: keys that were replaced are used at once.
    File {
        path: PathBuf,
        profile: String,
    },
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Given { id, .. } => write!(f, "Given({id})"),
            Self::File { path, profile } => write!(f, "File({}, {profile})", path.display()),
        }
    }
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct S3Settings {
    pub bucket: String,
    /// What the vault's names begin with in the bucket; empty for the whole bucket.
    pub prefix: String,
    /// URL without bucket; AWS's of the region where it is not given.
    pub endpoint: Option<String>,
    /// `us-east-1` is what services without regions expect.
    pub region: String,
    /// `endpoint/bucket` instead of `bucket.endpoint`.
    pub path_style: bool,
    /// Whether an endpoint may begin with `http://`: content is sealed, credentials are not sent, and names and times
    /// can be seen.
    pub allow_http: bool,
    /// PEM of authorities to be trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    pub keys: S3Keys,
    pub limits: S3Limits,
}

impl S3Settings {
    /// From `s3://bucket/prefix`; what else there is has its default.
    ///
    /// # Errors
    /// What is wrong with the URL, for people.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("s3://").ok_or_else(|| format!("'{url}' does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let settings = Self {
            bucket: bucket.to_string(),
            prefix: prefix.trim_end_matches('/').to_string(),
            endpoint: None,
            region: "us-east-1".into(),
            path_style: false,
            allow_http: false,
            ca: None,
            keys: S3Keys::Environment,
            limits: S3Limits::default(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// What is wrong, for people.
    fn check(&self) -> Result<(), String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if !(3..=63).contains(&self.bucket.len()) || !self.bucket.bytes().all(fits) {
            return Err(format!(
                "'{}' is no name of a bucket: 3 to 63 letters, digits, dots and dashes",
                self.bucket
            ));
        }
        if !self.prefix.is_empty() && ObjectName::new(self.prefix.clone()).is_none() {
            return Err(format!(
                "'{}' cannot be a prefix: lower-case letters, digits and .-_ between slashes",
                self.prefix
            ));
        }
        let endpoint = self.url();
        match endpoint.split_once("://") {
            Some(("https", host)) if !host.is_empty() => Ok(()),
            Some(("http", host)) if !host.is_empty() && self.allow_http => Ok(()),
            Some(("http", _)) => Err(format!(
                "{endpoint} is not encrypted: use https, or set allow_http if the network is your own"
            )),
            _ => Err(format!("'{endpoint}' is no endpoint: https://host or https://host:port")),
        }
    }

    fn url(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_string(),
            None => format!("https://s3.{}.amazonaws.com", self.region),
        }
    }

    /// What all keys begin with: ends with a slash, or is empty.
    pub(super) fn prefix(&self) -> Result<String, StoreError> {
        self.check().map_err(|why| StoreError::Broken { store: self.describe(), why })?;
        Ok(if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) })
    }

    /// URL of the bucket, without a slash at the end.
    pub(super) fn bucket_url(&self) -> String {
        let url = self.url();
        match url.split_once("://") {
            Some((scheme, host)) if !self.path_style => format!("{scheme}://{}.{host}", self.bucket),
            _ => format!("{url}/{}", self.bucket),
        }
    }

    pub(super) fn describe(&self) -> String {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("/{}", self.prefix) };
        let at = self.endpoint.as_ref().map(|e| format!(" at {e}")).unwrap_or_default();
        format!("s3://{}{prefix}{at}", self.bucket)
    }

    pub(super) fn client_options(&self) -> Result<ClientOptions, String> {
        let mut options = ClientOptions::new()
            .with_allow_http(self.allow_http)
            .with_connect_timeout(self.limits.connect)
            // Each attempt has its own bound, by its bytes.
            .with_timeout_disabled();
        if let Some(pem) = &self.ca {
            let bundle = object_store::Certificate::from_pem_bundle(pem)
                .map_err(|e| format!("the file of authorities (ca) cannot be read: {e}"))?;
            if bundle.is_empty() {
                return Err("the file of authorities (ca) has no certificate in it".into());
            }
            for certificate in bundle {
                options = options.with_root_certificate(certificate);
            }
        }
        Ok(options)
    }

    pub(super) fn credentials(&self, options: &ClientOptions) -> Result<AwsCredentialProvider, String> {
        match &self.keys {
            S3Keys::Given { id, secret, token } => {
                Ok(Arc::new(StaticCredentialProvider::new(AwsCredential {
                    key_id: id.clone(),
                    secret_key: secret.to_string(),
                    token: token.as_ref().map(|t| t.to_string()),
                })))
            }
            S3Keys::File { path, profile } => {
                let file = KeyFile { path: path.clone(), profile: profile.clone() };
                file.read()?;
                Ok(Arc::new(file))
            }
            S3Keys::Environment => {
                // Asked only where a role has to be looked up.
                let retry = RetryConfig {
                    max_retries: 2,
                    retry_timeout: self.limits.connect,
                    ..RetryConfig::default()
                };
                let options = options.clone().with_timeout(self.limits.answer);
                let s3 = AmazonS3Builder::from_env()
                    .with_bucket_name(&self.bucket)
                    .with_region(&self.region)
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map_err(|e| format!("the credentials in the environment cannot be used: {e}"))?;
                Ok(s3.credentials().clone())
            }
        }
    }
}

#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    profile: String,
}

impl KeyFile {
    fn read(&self) -> Result<AwsCredential, String> {
        let path = self.path.display();
        let text = std::fs::read_to_string(&self.path)
            .map(Zeroizing::new)
            .map_err(|e| format!("cannot read the access keys in {path}: {e}"))?;
        let (mut within, mut id, mut secret, mut token) = (false, None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                within = section.trim() == self.profile;
            } else if let Some((key, value)) = line.split_once('=').filter(|_| within) {
                let value = Some(value.trim().to_string());
                match key.trim() {
                    "aws_access_key_id" => id = value,
                    "aws_secret_access_key" => secret = value,
                    "aws_session_token" => token = value,
                    _ => {}
                }
            }
        }
        match (id, secret) {
            (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
            _ => Err(format!(
                "{path} has no aws_access_key_id and aws_secret_access_key below [{}]",
                self.profile
            )),
        }
    }
}

#[async_trait]
impl CredentialProvider for KeyFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let failed = |why: String| object_store::Error::Generic { store: "S3", source: why.into() };
        self.read().map(Arc::new).map_err(failed)
    }
}
