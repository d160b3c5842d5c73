//! One protected disk, captured by a splitter, with a proxy on the way to the site.

use crate::dir::TestDir;
use crate::judge::{Load, compare, judge_several};
use crate::net::Place;
use crate::proxy::Proxy;
use crate::site::{Agent, SOON, Site};
use crate::wait::wait_for;
use lifeboat_sim::oracle::Settings;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Its name at the site.
pub const SERVER: &str = "db-1";

/// See the module's text.
#[derive(Debug)]
pub struct Rig {
    pub proxy: Proxy,
    pub agent: Agent,
    pub site: Site,
    pub disk: PathBuf,
    pub ledger: PathBuf,
    /// Last: it is removed when everything in it has ended.
    pub dir: TestDir,
}

impl Rig {
    /// A disk of `mib`, protected with `arguments` besides the usual ones.
    ///
    /// # Panics
    /// When it does not come to replicate.
    pub fn start(name: &str, mib: u64, arguments: &[&str]) -> Self {
        let dir = TestDir::new(name);
        let agents = dir.path().to_path_buf();
        Self::with_agent_in(dir, &agents, mib, arguments)
    }

    /// As [`Rig::start`], with the agent's directory inside `agents`.
    ///
    /// # Panics
    /// When it does not come to replicate.
    pub fn with_agent_in(dir: TestDir, agents: &Path, mib: u64, arguments: &[&str]) -> Self {
        let site = Site::start(dir.path(), "site", &Place::host());
        let proxy = Proxy::start(site.replication().parse().unwrap());
        let agent = site.agent_by(agents, "source", &Place::host(), &proxy.address().to_string());
        let disk = dir.join("disk0.img");
        std::fs::File::create(&disk).unwrap().set_len(mib << 20).unwrap();
        let protect = ["protect", SERVER, "--agent", "source", "--export", disk.to_str().unwrap()];
        site.ok(&[&protect, arguments].concat());
        site.wait_ready(SERVER);
        let ledger = dir.join("ledger");
        Self { proxy, agent, site, disk, ledger, dir }
    }

    /// Starts the oracle's load.
    pub fn load(&self, settings: Settings) -> Load {
        Load::start(&self.agent, SERVER, &self.ledger, settings)
    }

    /// What the site knows of the server.
    pub fn runtime(&self) -> Value {
        self.site.server(SERVER)["runtime"].clone()
    }

    pub fn connected(&self) -> bool {
        self.runtime()["connected"] == true
    }

    /// Waits until the site says `health` with `text` in the reason.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_told(&self, health: &str, text: &str) {
        wait_for(
            &format!("{health:?} with {text:?} to be told, {}", self.dir.path().display()),
            SOON,
            || {
                let r = self.runtime();
                r["health"] == health
                    && (text.is_empty() || r["reason"].as_str().is_some_and(|t| t.contains(text)))
            },
        );
    }

    /// The agent's own word on the server; null while it has none.
    pub fn agent_status(&self) -> Value {
        let text = std::fs::read(self.agent.dir.join("status.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).map_or(Value::Null, |s| s["servers"][0].clone())
    }

    /// The copy must be the source, and `points` of those on the way prefixes of it.
    ///
    /// # Panics
    /// When they are not.
    pub fn judge_all(&self, points: usize) {
        self.site.wait_caught_up(SERVER);
        judge_several(&self.site, SERVER, &self.ledger, points);
        compare(&self.site, SERVER, std::slice::from_ref(&self.disk));
    }

    /// Kills the agent at once and starts it again.
    pub fn kill_agent(&mut self) {
        self.agent.process.kill();
        self.agent.restart();
    }
}
