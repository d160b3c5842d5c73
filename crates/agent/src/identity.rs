//! Who this agent is: its key, its certificate, the site it belongs to. Files of the state directory:
//!
//! ```text
//! agent.toml     name, id, address of the site's replication listener; whether files may be brought back
//! agent.key      private key, PEM, mode 0600; never leaves this host
//! agent.pem      certificate chain, renewed in place
//! ca.pem         the site's authority, pinned at join
//! ```

use anyhow::{Context, Result, bail, ensure};
use lifeboat_api::client::{Client, Trust};
use lifeboat_api::tls::{Fingerprint, client_config_mutual};
use lifeboat_api::types::JoinRequest;
use lifeboat_base::{AgentId, Clock};
use parking_lot::RwLock;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `agent.toml`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name at the site.
    pub name: String,
    /// Given by the site.
    pub id: AgentId,
    /// `HOST:PORT` of the site's replication listener.
    pub replication: String,
    /// The site may bring no files back to this host: a person's setting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_restore: bool,
}

/// See the module's text.
pub struct Identity {
    dir: PathBuf,
    config: AgentConfig,
    key_pem: String,
    ca_pem: String,
    current: RwLock<Current>,
    clock: Arc<dyn Clock>,
}

struct Current {
    tls: Arc<ClientConfig>,
    chain_pem: String,
    validity: (u64, u64),
}

fn read(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file so that after a crash it is the old one or the new one.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temp = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temp);
        let mut f = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        f.write_all(content)?;
        f.sync_all()?;
        fs::rename(&temp, path)?;
        path.parent().map_or(Ok(()), |d| fs::File::open(d)?.sync_all())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Seconds since 1970 between which the first certificate of a chain is valid.
fn validity(chain_pem: &str) -> Result<(u64, u64)> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(chain_pem.as_bytes()).context("the certificate is not PEM")?;
    let cert = pem.parse_x509().context("the certificate cannot be read")?;
    let v = cert.validity();
    Ok((
        u64::try_from(v.not_before.timestamp()).unwrap_or(0),
        u64::try_from(v.not_after.timestamp()).unwrap_or(0),
    ))
}

impl Identity {
    /// # Errors
    /// When this directory holds no agent that has joined, or its files are damaged.
    pub fn load(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        if !dir.join("agent.toml").exists() {
            bail!(
                "{} holds no agent; join a site first: lifeboat-agent join --site URL --token TOKEN",
                dir.display()
            );
        }
        let path = dir.join("agent.toml");
        let config: AgentConfig =
            toml::from_str(&read(dir, "agent.toml")?).with_context(|| format!("in {}", path.display()))?;
        let (key_pem, ca_pem, chain_pem) =
            (read(dir, "agent.key")?, read(dir, "ca.pem")?, read(dir, "agent.pem")?);
        let current = Self::current(&ca_pem, chain_pem, &key_pem)?;
        Ok(Self { dir: dir.into(), config, key_pem, ca_pem, current: RwLock::new(current), clock })
    }

    fn current(ca_pem: &str, chain_pem: String, key_pem: &str) -> Result<Current> {
        let tls = client_config_mutual(ca_pem, &chain_pem, key_pem)?;
        let validity = validity(&chain_pem)?;
        Ok(Current { tls: Arc::new(tls), chain_pem, validity })
    }

    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn replication(&self) -> String {
        self.config.replication.clone()
    }

    pub fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.read().tls)
    }

    /// TLS for a splitter's TCP listener: this agent's certificate; clients must show one of the same site.
    ///
    /// # Errors
    /// When the files cannot be used so.
    pub fn server_tls(&self) -> Result<Arc<rustls::ServerConfig>> {
        let chain = self.current.read().chain_pem.clone();
        Ok(Arc::new(lifeboat_api::tls::server_config_mutual(&chain, &self.key_pem, &self.ca_pem)?))
    }

    /// Waits until half of the certificate's life is over.
    pub async fn renewal_due(&self) {
        loop {
            let (from, to) = self.current.read().validity;
            let now = self.clock.wall().0 / 1_000_000_000;
            let half = from + to.saturating_sub(from) / 2;
            if now >= half {
                // The answer may take a while, or be a no: do not ask again at once.
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            tokio::time::sleep(Duration::from_secs((half - now).min(3600))).await;
        }
    }

    /// A certificate request for the present key.
    pub fn renewal_request(&self) -> Option<String> {
        certificate_request(&self.key_pem)
            .inspect_err(|e| tracing::error!("no certificate request: {e:#}"))
            .ok()
    }

    /// Takes a renewed chain into use, for sessions to come.
    ///
    /// # Errors
    /// When it does not fit the key or cannot be stored.
    pub fn renewed(&self, chain_pem: &str) -> Result<()> {
        let current = Self::current(&self.ca_pem, chain_pem.into(), &self.key_pem)?;
        write_private(&self.dir.join("agent.pem"), chain_pem.as_bytes())?;
        *self.current.write() = current;
        tracing::info!("the certificate was renewed");
        Ok(())
    }
}

fn certificate_request(key_pem: &str) -> Result<String> {
    let key = rcgen::KeyPair::from_pem(key_pem)?;
    let params = rcgen::CertificateParams::default();
    Ok(params.serialize_request(&key)?.pem()?)
}

/// What `join` needs.
pub struct Join {
    pub dir: PathBuf,
    /// URL of the site's API.
    pub site: String,
    pub token: String,
    pub name: String,
    /// Overrides what the site says of its replication listener.
    pub replication: Option<String>,
}

/// Joins a site: makes a key here, has it certified, pins the site. Nothing is left behind on failure.
///
/// # Errors
/// With what to do next.
pub async fn join(join: Join) -> Result<AgentConfig> {
    let dir = &join.dir;
    ensure!(
        !dir.join("agent.toml").exists(),
        "{} holds an agent that has joined already; run it, or remove the directory to join anew",
        dir.display()
    );
    let fingerprint: Fingerprint = join
        .token
        .trim()
        .rsplit('_')
        .next()
        .and_then(|f| f.parse().ok())
        .context("this is not a join token; make one at the site: lifeboat token create --agent")?;
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
    // Before the token is spent: a directory that cannot be written is found now.
    let made = !dir.exists();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    let key_pem = key.serialize_pem();
    let joined = async {
        write_private(&dir.join("agent.key"), key_pem.as_bytes())?;
        certified(&join, fingerprint, csr, &key_pem).await
    }
    .await;
    if joined.is_err() {
        for name in ["agent.toml", "agent.pem", "ca.pem", "agent.key"] {
            let _ = fs::remove_file(dir.join(name));
        }
        if made {
            let _ = fs::remove_dir(dir);
        }
    }
    joined
}

/// Has the key certified and stores what the site answers.
async fn certified(join: &Join, fingerprint: Fingerprint, csr: String, key_pem: &str) -> Result<AgentConfig> {
    let dir = &join.dir;
    let client = Client::connect(&join.site, &Trust::Fingerprint(fingerprint), None)?;
    let request = JoinRequest { token: join.token.trim().into(), name: join.name.clone(), csr };
    let answer = client.join(&request).await?;
    ensure!(
        Fingerprint::of_pem(&answer.ca)? == fingerprint,
        "the site answered with another authority than the token names; do not use this token"
    );
    Identity::current(&answer.ca, answer.certificate.clone(), key_pem)
        .context("the site's answer cannot be used")?;
    let replication = match &join.replication {
        Some(r) => r.clone(),
        None => match answer.replication.strip_prefix(':') {
            Some(port) => format!("{}:{port}", client.host()),
            None => answer.replication.clone(),
        },
    };
    let config = AgentConfig { name: answer.name, id: answer.agent, replication, no_restore: false };
    write_private(&dir.join("ca.pem"), answer.ca.as_bytes())?;
    write_private(&dir.join("agent.pem"), answer.certificate.as_bytes())?;
    // Last: its presence says that all is there.
    write_private(&dir.join("agent.toml"), toml::to_string(&config)?.as_bytes())?;
    Ok(config)
}
