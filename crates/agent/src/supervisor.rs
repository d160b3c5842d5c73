//! Makes what is captured equal to what the site has assigned.
//!
//! The assignments are kept on disk, so that after a restart the captures come up at once, even
//! while the site is away: a splitter's users must not depend on the far site.
//!
//! Invariant: a server's tracking log stays as long as the server is assigned, and goes when it is not: who writes to its
//! disks then is nobody's business here.

mod unit;

use crate::capture::mirror::{self, MirrorSettings, StopFlag};
use crate::capture::splitter::{Listen, Splitter, SplitterSettings};
use crate::capture::{CaptureState, StateCell, probe};
use crate::identity::{Identity, write_private};
use crate::session::{Link, run_stream};
use crate::spool::Spool;
use crate::stream::{Stream, StreamSettings};
use crate::streams::Streams;
use crate::tracking::{Found, TrackSpec, Tracking};
use anyhow::{Context, Result, bail, ensure};
use lifeboat_api::types::CaptureSpec;
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS};
use lifeboat_base::{Clock, Epoch, ServerId};
use lifeboat_block::storage::{DirStorage, Storage};
use lifeboat_replicate::message::{
    Assignment, Assignments, Disk, Failure, Phase, Probe, ProbeResult, Report, ServerReport,
};
use lifeboat_replicate::sender;
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use unit::{Retiring, Unit};

/// How long a splitter waits before it tries again to serve.
const RETRY: Duration = Duration::from_secs(2);

/// See the module's text.
pub struct Supervisor {
    link: Link,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    units: HashMap<ServerId, Unit>,
    /// What could not be started, and why: said to the site, tried again with the next assignments.
    broken: Vec<(Assignment, String)>,
    rates: HashMap<ServerId, Rate>,
    streams: Arc<Streams>,
    tracks: Arc<dyn Storage>,
    /// What still goes out of captures that were taken away.
    retiring: Vec<Retiring>,
}

/// What a capture works with.
struct Parts<'a> {
    stream: &'a Arc<Stream>,
    state: &'a Arc<StateCell>,
    stop: &'a Arc<StopFlag>,
}

/// Bytes per second over the last few seconds.
#[derive(Default)]
struct Rate {
    at: Duration,
    done: u64,
    rate: u64,
}

impl Supervisor {
    /// # Errors
    /// When the directory of the tracking logs cannot be made.
    pub fn new(link: Link, clock: Arc<dyn Clock>, runtime: Handle, streams: Arc<Streams>) -> Result<Self> {
        let dir = link.identity.dir().join("track");
        let tracks = DirStorage::new(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let spools = link.identity.dir().join("spool");
        if spools.exists() {
            // Of no use to anybody: their keys are gone.
            fs::remove_dir_all(&spools).with_context(|| format!("cannot empty {}", spools.display()))?;
        }
        Ok(Self {
            link,
            clock,
            runtime,
            units: HashMap::new(),
            broken: Vec::new(),
            rates: HashMap::new(),
            streams,
            tracks: Arc::new(tracks),
            retiring: Vec::new(),
        })
    }

    fn spools(&self) -> PathBuf {
        self.link.identity.dir().join("spool")
    }

    fn cache(&self) -> PathBuf {
        self.link.identity.dir().join("assignments.bin")
    }

    /// Starts what was assigned before the restart.
    pub fn restore(&mut self) {
        let Ok(bytes) = fs::read(self.cache()) else { return };
        match Assignments::decode(&bytes[..]) {
            Ok(a) => self.apply(a, false),
            Err(e) => tracing::warn!("the stored assignments are damaged and left aside: {e}"),
        }
    }

    /// Starts, restarts and stops captures until they equal the assignments.
    pub fn apply(&mut self, assignments: Assignments, store: bool) {
        if store && let Err(e) = write_private(&self.cache(), &assignments.encode_to_vec()) {
            tracing::warn!("the assignments cannot be stored: {e:#}");
        }
        let mut wanted = HashMap::new();
        for a in assignments.servers {
            match ServerId::from_slice(&a.server) {
                Ok(id) => drop(wanted.insert(id, a)),
                Err(e) => tracing::warn!("an assignment is ignored: {e}"),
            }
        }
        for (id, unit) in &mut self.units {
            if let Some(a) = wanted.get(id) {
                unit.adapt(a);
            }
        }
        let over: Vec<ServerId> = self
            .units
            .iter()
            .filter(|(id, u)| wanted.get(id) != Some(&u.assignment))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            if let Some(unit) = self.units.remove(&id) {
                tracing::info!(server = unit.assignment.name, "capture stops");
                self.streams.remove(id);
                self.forget(id);
                self.retiring.extend(unit.retire());
            }
        }
        for (a, _) in std::mem::take(&mut self.broken) {
            if let Ok(id) = ServerId::from_slice(&a.server)
                && !wanted.contains_key(&id)
            {
                self.forget(id);
            }
        }
        self.retiring.retain(|r| !r.is_over());
        for (id, a) in wanted {
            if !self.units.contains_key(&id) {
                tracing::info!(server = a.name, epoch = a.epoch, "capture starts");
                match self.start(id, a.clone()) {
                    Ok(unit) => drop(self.units.insert(id, unit)),
                    Err(e) => {
                        tracing::error!(server = a.name, "the capture cannot start: {e:#}");
                        self.broken.push((a, format!("the capture cannot start: {e:#}")));
                    }
                }
            }
        }
    }

    /// Nothing is known any more of a server that is not assigned here.
    fn forget(&self, id: ServerId) {
        if let Err(e) = Tracking::remove(&*self.tracks, id) {
            tracing::warn!("the tracking log cannot be removed: {e}");
        }
    }

    fn start(&mut self, id: ServerId, assignment: Assignment) -> Result<Unit> {
        // One stream at a time in one reign: two would give the same numbers to different records.
        let (before, others) = std::mem::take(&mut self.retiring)
            .into_iter()
            .partition(|r: &Retiring| r.is_of(id, assignment.epoch));
        self.retiring = others;
        before.into_iter().for_each(Retiring::end);
        let spec: CaptureSpec = serde_json::from_str(&assignment.capture)
            .context("the assignment's capture is not understood")?;
        check_disks(&assignment, &spec)?;
        let (settings, found) = self.stream_settings(id, &assignment, &spec)?;
        let stream = Stream::new(Arc::clone(&self.clock), settings);
        let state = Arc::new(StateCell::default());
        let stop = Arc::new(StopFlag::default());
        let threads = stream.start()?;
        let parts = Parts { stream: &stream, state: &state, stop: &stop };
        let (capture, exports) = match self.capture(id, &assignment, &spec, &parts, found) {
            Ok(c) => c,
            Err(e) => {
                stream.stop();
                return Err(e);
            }
        };
        self.streams.insert(id, Arc::clone(&stream));
        let refusal = Arc::new(Mutex::new(None));
        let session = self.runtime.spawn(run_stream(
            self.link.clone(),
            id,
            assignment.disks.clone(),
            Arc::clone(&stream),
            Arc::clone(&refusal),
        ));
        Ok(Unit {
            assignment,
            stream,
            state,
            stop,
            refusal,
            exports,
            capture: Some(capture),
            threads,
            session,
        })
    }

    /// Tracking and spool are worth much and not everything: without them the guest is protected all the same.
    fn stream_settings(
        &self,
        id: ServerId,
        assignment: &Assignment,
        spec: &CaptureSpec,
    ) -> Result<(StreamSettings, Found)> {
        let replication = unit::replication(assignment)?;
        let track = TrackSpec {
            server: id,
            epoch: Epoch(assignment.epoch),
            sizes: assignment.disks.iter().map(|d| d.size).collect(),
            intents: matches!(spec, CaptureSpec::Splitter { .. }),
        };
        let (tracking, found) = match Tracking::open(&*self.tracks, &track, &*self.link.entropy) {
            Ok((tracking, found)) => (Some(tracking), found),
            Err(e) => {
                tracing::error!("no tracking: {e}; after a restart of this agent everything is compared");
                if let Err(e) = Tracking::remove(&*self.tracks, id) {
                    // An old log that a later process would believe, while this one keeps none: not so.
                    return Err(
                        anyhow::anyhow!(e).context("the old tracking log can neither be used nor removed")
                    );
                }
                (None, Found::nothing())
            }
        };
        let dir = self.spools().join(format!("{id}-{}", assignment.epoch));
        let spool = Spool::open(&dir, &*self.link.entropy)
            .inspect_err(|e| tracing::error!("no spool: {e}; a link that is down costs points sooner"));
        let settings = StreamSettings {
            epoch: track.epoch,
            sizes: track.sizes,
            // Its own: a stream that is still retiring is another writer.
            instance: self.link.entropy.next_u64(),
            lineage: found.lineage.clone(),
            alive: found.alive,
            policy: unit::policy(&replication),
            armed: found.armed,
            tracking,
            spool: spool.ok(),
            spool_bytes: replication.spool_bytes,
        };
        Ok((settings, found))
    }

    fn capture(
        &self,
        id: ServerId,
        assignment: &Assignment,
        spec: &CaptureSpec,
        parts: &Parts<'_>,
        found: Found,
    ) -> Result<(JoinHandle<()>, Vec<String>)> {
        let run = self.link.identity.dir().join("run");
        fs::create_dir_all(&run).with_context(|| format!("cannot create {}", run.display()))?;
        // Short names: a Unix socket's path holds 107 bytes.
        let short: String = id.0.simple().to_string().chars().take(12).collect();
        let thread = std::thread::Builder::new().name(format!("capture-{}", assignment.name));
        let (stream, state, stop, clock) = (
            Arc::clone(parts.stream),
            Arc::clone(parts.state),
            Arc::clone(parts.stop),
            Arc::clone(&self.clock),
        );
        match spec {
            CaptureSpec::Mirror { qmp, .. } => {
                let settings = MirrorSettings {
                    qmp: qmp.into(),
                    disks: assignment.disks.iter().map(|d| (d.name.clone(), d.size)).collect(),
                    sink: run.join(format!("{short}.sink")),
                    export: run.join(format!("{short}.read")),
                    tracking: stream.tracking().cloned(),
                    found: found.suspects,
                    base: found.base,
                };
                Ok((
                    thread.spawn(move || mirror::run(&settings, &stream, &clock, &state, &stop))?,
                    Vec::new(),
                ))
            }
            CaptureSpec::Splitter { paths, listen } => {
                let listen = match listen {
                    Some(l) => Listen::parse(l)?,
                    None => Listen::Unix(run.join(format!("{}.nbd", assignment.name))),
                };
                let tls = match listen {
                    Listen::Tcp(_) => Some(self.link.identity.server_tls()?),
                    Listen::Unix(_) => None,
                };
                let exports = (0..paths.len()).map(|i| listen.uri(&format!("disk{i}"))).collect();
                let settings = SplitterSettings {
                    paths: paths.iter().map(PathBuf::from).collect(),
                    sizes: assignment.disks.iter().map(|d| d.size).collect(),
                    listen,
                    tls,
                    tracking: stream.tracking().cloned(),
                    found: found.suspects,
                    until: found.until,
                };
                Ok((
                    thread.spawn(move || serve_splitter(&settings, &stream, &clock, &state, &stop))?,
                    exports,
                ))
            }
        }
    }

    /// How everything is doing.
    pub fn report(&mut self) -> Report {
        let now = self.clock.monotonic();
        self.rates.retain(|id, _| self.units.contains_key(id));
        let mut servers: Vec<ServerReport> = self
            .units
            .iter()
            .map(|(id, u)| {
                let s = u.stream.status();
                let rate = self.rates.entry(*id).or_default();
                let elapsed = now.saturating_sub(rate.at);
                if elapsed >= Duration::from_secs(1) {
                    let done = s.done_bytes.saturating_sub(rate.done);
                    rate.rate = (done as f64 / elapsed.as_secs_f64()) as u64;
                    *rate = Rate { at: now, done: s.done_bytes, rate: rate.rate };
                }
                let confirm = u.stream.confirm_status();
                let capture = u.state.get();
                let stalled = match (&capture, u.refusal.lock().clone()) {
                    (_, Some(no)) => no,
                    (CaptureState::Attached, None) => u.stream.trouble().unwrap_or_default(),
                    (c, None) => c.reason(),
                };
                ServerReport {
                    server: id.as_bytes().to_vec(),
                    capture: capture.name(),
                    stalled,
                    phase: phase(s.phase) as i32,
                    total_bytes: s.total_bytes,
                    done_bytes: s.done_bytes,
                    sent_bytes: s.sent_bytes,
                    rate: rate.rate,
                    disks: u.assignment.disks.clone(),
                    exports: u.exports.clone(),
                    lag_bytes: s.lag_bytes,
                    spool_bytes: s.spool_bytes,
                    hashed_bytes: s.hashed_bytes,
                    verify: u.stream.verify_report(),
                    sync_state: confirm.state as i32,
                    sync_since: confirm.since.0,
                    flushes: confirm.flushes,
                    degraded_from: confirm.degraded.0.0,
                    degraded_until: confirm.degraded.1.0,
                }
            })
            .collect();
        servers.extend(self.broken.iter().map(|(a, why)| ServerReport {
            server: a.server.clone(),
            capture: CaptureState::Stalled(String::new()).name(),
            stalled: why.clone(),
            disks: a.disks.clone(),
            ..ServerReport::default()
        }));
        Report { servers }
    }

    /// What a server's next process would have to compare, in bytes.
    pub fn suspect_bytes(&self, server: &[u8]) -> Option<u64> {
        let unit = self.units.get(&ServerId::from_slice(server).ok()?)?;
        Some(unit.stream.tracking()?.suspect_bytes())
    }

    /// Detaches everything, leaving nothing in any machine but the bitmaps by which the next process knows what it missed.
    pub fn stop_all(&mut self) {
        std::mem::take(&mut self.retiring).into_iter().for_each(Retiring::end);
        for (id, unit) in self.units.drain() {
            self.streams.remove(id);
            unit.stop();
        }
    }
}

fn phase(p: sender::Phase) -> Phase {
    match p {
        sender::Phase::Idle => Phase::Idle,
        sender::Phase::Scan => Phase::Scan,
        sender::Phase::Full => Phase::Full,
        sender::Phase::Resync => Phase::Resync,
        sender::Phase::Live => Phase::Live,
    }
}

/// The site is trusted, and still not to make this process ask for more memory than there is.
fn check_disks(assignment: &Assignment, spec: &CaptureSpec) -> Result<()> {
    let disks = &assignment.disks;
    ensure!(!disks.is_empty() && disks.len() <= MAX_DISKS, "the assignment has {} disks", disks.len());
    if let Some(d) = disks.iter().find(|d| d.size == 0 || d.size > MAX_DISK) {
        bail!("the assignment gives disk '{}' {} bytes", d.name, d.size);
    }
    if let CaptureSpec::Splitter { paths, .. } = spec {
        ensure!(
            paths.len() == disks.len(),
            "the assignment has {} paths for {} disks",
            paths.len(),
            disks.len()
        );
    }
    Ok(())
}

/// Serves a splitter until it is stopped; a source or address that is not to be had is awaited.
fn serve_splitter(
    settings: &SplitterSettings,
    stream: &Arc<Stream>,
    clock: &Arc<dyn Clock>,
    state: &StateCell,
    stop: &StopFlag,
) {
    while !stop.is_set() {
        match Splitter::start(settings, stream, clock, state) {
            Ok(splitter) => {
                while !stop.wait(Duration::from_secs(3600)) {}
                splitter.stop(stream, state);
            }
            Err(e) => {
                state.set(CaptureState::Stalled(e.to_string()));
                stop.wait(RETRY);
            }
        }
    }
}

/// Carries out a probe the site asks for.
pub fn answer_probe(request: &Probe) -> ProbeResult {
    let failed = |message: String, hint: String, invalid| ProbeResult {
        disks: Vec::new(),
        error: Some(Failure { message, hint, invalid }),
    };
    let spec: CaptureSpec = match serde_json::from_str(&request.capture) {
        Ok(s) => s,
        Err(e) => {
            return failed(
                format!("this agent does not understand the capture: {e}"),
                "bring agent and site to the same version".into(),
                true,
            );
        }
    };
    match probe::probe(&spec) {
        Ok(disks) => ProbeResult {
            disks: disks
                .into_iter()
                .map(|d| Disk { index: u32::from(d.index), name: d.name, size: d.size })
                .collect(),
            error: None,
        },
        Err(e) => failed(e.message, e.hint, e.invalid),
    }
}

/// Whether an identity's directory is in use by a running agent: holds the lock while it lives.
///
/// # Errors
/// When another agent runs on this directory.
pub fn lock_directory(identity: &Identity) -> Result<fs::File> {
    let path = identity.dir().join("lock");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    file.try_lock().map_err(|_| {
        anyhow::anyhow!("an agent runs on {} already; stop that one first", identity.dir().display())
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests;
