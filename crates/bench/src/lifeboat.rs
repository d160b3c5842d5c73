//! Lifeboat itself: a site and an agent as real processes on this machine, driven by the command line as a person would.

use crate::fullsync::FullSync;
use crate::system::{AfterLoad, Place, Running, System, peak_memory, unix_uri};
use anyhow::{Context as _, Result, bail};
use lifeboat_e2e::{Agent, Site};
use lifeboat_sim::clock;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Name of the one protected server.
pub const NAME: &str = "bench-1";
/// Longest wait for a first copy.
const SYNC: Duration = Duration::from_secs(600);
/// How often the lag is asked for under load: often enough to see it grow, rarely enough to cost nothing.
const SAMPLE: Duration = Duration::from_secs(1);

/// A site with an agent that has joined; both end with it.
pub struct Pair {
    pub site: Arc<Site>,
    pub agent: Agent,
}

impl Pair {
    /// Starts both in `dir`.
    pub fn start(dir: &Path) -> Self {
        let site = Site::start(dir, "site", &lifeboat_e2e::Place::host());
        let agent = site.agent(dir, "agent", &lifeboat_e2e::Place::host());
        Self { site: Arc::new(site), agent }
    }

    /// Puts a splitter in front of `disk`; replication of it begins.
    pub fn protect(&self, name: &str, disk: &Path) {
        self.protect_with(name, disk, &[]);
    }

    /// As [`protect`](Self::protect), with options.
    pub fn protect_with(&self, name: &str, disk: &Path, options: &[&str]) {
        let disk = disk.display().to_string();
        self.site.ok(&[&["protect", name, "--agent", "agent", "--export", &disk], options].concat());
    }

    /// What the agent says of its one server.
    ///
    /// # Errors
    /// When it says nothing of it.
    pub fn agent_told(&self, key: &str) -> Result<u64> {
        let mut command = Command::new(lifeboat_e2e::tool::binary("lifeboat-agent"));
        let output = command.arg("--dir").arg(&self.agent.dir).args(["status", "--json"]).output()?;
        let status: Value = serde_json::from_slice(&output.stdout).context("the agent's status")?;
        let told = &status["servers"][0][key];
        told.as_u64().with_context(|| format!("no {key} in {status}"))
    }

    /// Waits until the server has a point and every write goes out as it comes; returns when the first point was made,
    /// in milliseconds since 1970.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn wait_live(&self, name: &str) -> Result<u64> {
        let start = clock::elapsed();
        loop {
            let server = self.site.server(name);
            let runtime = &server["runtime"];
            if server["state"] == "replicating" && runtime["health"] == "ready" {
                return unix_ms(&runtime["oldest"]["received"]);
            }
            if clock::elapsed() - start > SYNC {
                bail!("{name} is not replicating after {SYNC:?}: {server}");
            }
            // Not `wait_for`: it asks so often that asking would slow the copy down.
            clock::pace(Duration::from_millis(400));
        }
    }

    /// URI of the export a load goes to.
    pub fn uri(&self, name: &str) -> String {
        unix_uri(&self.agent.export(name), "")
    }

    /// Peak resident memory of both.
    ///
    /// # Errors
    /// When one is gone.
    pub fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let of = |p: &lifeboat_e2e::Process| peak_memory(p.pid().as_raw());
        Ok(vec![("agent", of(&self.agent.process)?), ("site", of(&self.site.process)?)])
    }
}

/// RFC 3339 to milliseconds since 1970.
fn unix_ms(value: &Value) -> Result<u64> {
    let text = value.as_str().with_context(|| format!("{value} is no time"))?;
    let time: jiff::Timestamp = text.parse().with_context(|| format!("{text} is no time"))?;
    Ok(u64::try_from(time.as_millisecond())?)
}

/// Asks for a server's `rpo_ms` until it is told to stop.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Sampler {
    /// Begins at once, a sample each `every`.
    pub fn start(site: &Arc<Site>, name: &'static str, every: Duration) -> Self {
        let (stop, site) = (Arc::new(AtomicBool::new(false)), Arc::clone(site));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (start, mut samples) = (clock::elapsed(), Vec::new());
            while !stopped.load(Ordering::SeqCst) {
                samples.push(rpo_ms(&site, name));
                let next = start + every * u32::try_from(samples.len()).unwrap_or(u32::MAX);
                clock::pace(next.saturating_sub(clock::elapsed()));
            }
            samples
        });
        Self { stop, thread }
    }

    /// The samples, oldest first.
    ///
    /// # Errors
    /// When sampling failed.
    pub fn finish(self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the server could not be asked for its RPO"))
    }
}

/// What would be lost now; very much while there is no point.
fn rpo_ms(site: &Site, name: &str) -> u64 {
    site.server(name)["runtime"]["rpo_ms"].as_u64().unwrap_or(u64::MAX / 2)
}

/// The splitter, replicating asynchronously to a site on this machine: TLS, sealed journal, fdatasync.
pub struct Lifeboat;

struct Protected {
    pair: Pair,
    sampler: Option<Sampler>,
}

impl System for Lifeboat {
    fn name(&self) -> &'static str {
        "lifeboat"
    }

    fn start(&self, place: &Place) -> Result<Box<dyn Running>> {
        let pair = Pair::start(&place.dir);
        pair.protect(NAME, &place.disk);
        pair.wait_live(NAME)?;
        Ok(Box::new(Protected { pair, sampler: None }))
    }
}

impl Running for Protected {
    fn uri(&self) -> String {
        self.pair.uri(NAME)
    }

    fn load_begins(&mut self) {
        self.sampler = Some(Sampler::start(&self.pair.site, NAME, SAMPLE));
    }

    fn after_load(&mut self) -> Result<AfterLoad> {
        let lag = rpo_ms(&self.pair.site, NAME);
        let samples = self.sampler.take().map_or(Ok(vec![]), Sampler::finish)?;
        Ok(AfterLoad {
            lag: Some(Duration::from_millis(lag)),
            lag_growing: growing(&samples),
            memory: self.pair.memory()?,
        })
    }
}

/// Whether the last quarter of the samples is clearly above the quarter before it.
fn growing(samples: &[u64]) -> bool {
    let quarter = samples.len() / 4;
    let tail = &samples[samples.len() - 2 * quarter..];
    let mean = |s: &[u64]| s.iter().map(|v| *v as f64).sum::<f64>() / s.len().max(1) as f64;
    let (before, last) = tail.split_at(quarter);
    quarter > 0 && mean(last) > mean(before) * 1.5 + 200.0
}

impl FullSync for Lifeboat {
    fn name(&self) -> &'static str {
        "lifeboat"
    }

    fn sync(&self, place: &Place) -> Result<(Duration, u64)> {
        let pair = Pair::start(&place.dir);
        let asked = clock::unix_ms();
        pair.protect(NAME, &place.disk);
        let first = pair.wait_live(NAME)?;
        let stored = pair.site.server(NAME)["runtime"]["journal_bytes"].as_u64().unwrap_or(0);
        Ok((Duration::from_millis(first.saturating_sub(asked)), stored))
    }
}

#[cfg(test)]
mod tests;
