//! Capture of a running QEMU machine by its own live mirror.
//!
//! Each writable disk gets a `blockdev-mirror` job in write-blocking mode whose target is this
//! agent's NBD sink: a guest write completes only when the sink has it, so every prefix of the stream is
//! what a power cut would leave. The job mirrors new writes only; the old content is read by the
//! sync through a read-only NBD export of the same node, below the mirror. (QEMU's own full pass
//! was measured at 345 MB/s; reading it ourselves is several times that.)
//!
//! If the agent dies, the job fails with the next write and the machine runs on. What it writes then its dirty bitmaps
//! note ([`bitmaps`]); without them an attach compares everything.

use super::bitmaps::{self, Bitmaps};
use super::{CaptureError, CaptureState, StateCell};
use crate::stream::Stream;
use crate::tracking::Tracking;
use bytes::Bytes;
use lifeboat_base::{Clock, DiskId};
use lifeboat_block::{BlockDevice, BlockError, ZeroMode};
use lifeboat_nbd::client::{Client, ClientSettings};
use lifeboat_nbd::server::{Export, Exports, Server, ServerSettings};
use lifeboat_qmp::{Events, Mirror, MirrorSync, NbdExport, Qmp, QmpError};
use lifeboat_replicate::sender::Suspects;
use parking_lot::{Condvar, Mutex};
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const QMP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a mirror may take to become ready; it has nothing to copy.
const READY: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(1);
/// How often the jobs are looked at, besides listening to events.
const LOOK: Duration = Duration::from_secs(3);
const GOODBYE: Duration = Duration::from_secs(2);
/// After how many looks the dirty bitmaps are cared for.
const ROTATE_LOOKS: u32 = 2;
/// Everything Lifeboat makes inside QEMU begins with this.
const PREFIX: &str = "lifeboat-";

/// Where QEMU sends the guest's writes.
struct Sink {
    size: u64,
    stream: Arc<Stream>,
    disk: DiskId,
}

impl BlockDevice for Sink {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, _offset: u64, _buf: &mut [u8]) -> Result<(), BlockError> {
        Err(BlockError::Io(io::Error::other("the mirror's sink is only written")))
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        lifeboat_block::device::check_range(self.size, offset, data.len() as u64)?;
        self.stream.write(self.disk, offset, data);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<(), BlockError> {
        lifeboat_block::device::check_range(self.size, offset, len)?;
        self.stream.zero(self.disk, offset, len);
        Ok(())
    }

    fn trim(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        lifeboat_block::device::check_range(self.size, offset, len)?;
        // The machine's disk may be set to ignore discards, and keeps its old bytes then: look. Until then no
        // point is cut, so none says zeros that are not there.
        self.stream.suspect(self.disk, offset, len);
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// A disk as QEMU names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// The name it is known by: stable over restarts of the machine where QEMU allows.
    pub name: String,
    /// Every name it answers to.
    aliases: Vec<String>,
    node: String,
    pub size: u64,
}

impl MachineDisk {
    /// QEMU's name of the node below every filter of ours.
    pub fn node(&self) -> &str {
        &self.node
    }
}

/// The machine's writable disks; those of `wanted` in that order, or all where `wanted` is empty.
///
/// # Errors
/// When QEMU does not answer, there is none, or a wanted one is missing.
pub fn find_disks(qmp: &Qmp, wanted: &[String]) -> Result<Vec<MachineDisk>, CaptureError> {
    let blocks = qmp.query_block().map_err(|e| qmp_error(&e))?;
    let all: Vec<MachineDisk> = blocks
        .into_iter()
        .filter(|b| !b.device.starts_with("pflash"))
        .filter_map(|b| {
            let inserted = b.inserted.filter(|i| !i.read_only)?;
            let node = inserted.node_name?;
            let qdev = b.qdev.unwrap_or_default();
            let aliases: Vec<String> =
                [b.device, node.clone(), qdev].into_iter().filter(|n| !n.is_empty()).collect();
            let name = aliases.iter().find(|n| !n.starts_with('#')).unwrap_or(&node).clone();
            Some(MachineDisk { name, aliases, node, size: inserted.image.virtual_size })
        })
        .collect();
    if all.is_empty() {
        return Err(CaptureError::invalid(
            "the machine has no writable disk",
            "attach a disk that is not read-only, or check that this is the right QMP socket",
        ));
    }
    let names = || all.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
    if wanted.is_empty() {
        return Ok(all);
    }
    let found: Vec<MachineDisk> = wanted
        .iter()
        .map(|w| {
            all.iter()
                .find(|d| d.aliases.contains(w))
                .map(|d| MachineDisk { name: w.clone(), ..d.clone() })
                .ok_or_else(|| {
                    CaptureError::invalid(
                        format!("the machine has no writable disk '{w}'"),
                        format!("its writable disks are: {}", names()),
                    )
                })
        })
        .collect::<Result<_, _>>()?;
    for (i, disk) in found.iter().enumerate() {
        if let Some(first) = found[..i].iter().find(|d| d.node == disk.node) {
            return Err(CaptureError::invalid(
                format!("'{}' and '{}' are the same disk", first.name, disk.name),
                "name each disk once",
            ));
        }
    }
    Ok(found)
}

pub fn qmp_error(e: &QmpError) -> CaptureError {
    CaptureError {
        message: e.to_string(),
        hint: String::new(),
        invalid: matches!(e, QmpError::NoSocket { .. }),
    }
}

/// What a mirror capture needs.
pub struct MirrorSettings {
    pub qmp: PathBuf,
    /// Names and sizes as first probed.
    pub disks: Vec<(String, u64)>,
    /// Unix sockets of the sink and of QEMU's export.
    pub sink: PathBuf,
    pub export: PathBuf,
    pub tracking: Option<Arc<Tracking>>,
    /// What an earlier process left there.
    pub found: Suspects,
    pub base: u64,
}

/// Tells the capture's thread to end.
#[derive(Default)]
pub struct StopFlag {
    set: Mutex<bool>,
    changed: Condvar,
    /// What was made in the machine for the next process may stay.
    leave: AtomicBool,
}

impl StopFlag {
    /// Ends the capture, but the machine goes on noting its writes for the agent that comes next.
    pub fn set_and_leave(&self) {
        self.leave.store(true, Ordering::SeqCst);
        self.set();
    }

    pub fn set(&self) {
        *self.set.lock() = true;
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        *self.set.lock()
    }

    /// Waits until it is set, at most `timeout`; tells whether it is.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut set = self.set.lock();
        self.changed.wait_while_for(&mut set, |s| !*s, timeout);
        *set
    }
}

/// Attaches, watches and attaches again, until stopped. Then detaches and leaves nothing in QEMU.
pub fn run(
    settings: &MirrorSettings,
    stream: &Arc<Stream>,
    clock: &Arc<dyn Clock>,
    state: &StateCell,
    stop: &StopFlag,
) {
    let mut first = true;
    while !stop.is_set() {
        match Attached::attach(settings, stream, clock, first) {
            Ok(mut attached) => {
                first = false;
                state.set(CaptureState::Attached);
                let why = attached.watch(stop, stream);
                // Before QEMU is asked anything: the machine may be writing unseen already.
                stream.seal();
                attached.clean_up();
                // The machine's last writes are here: they are worth a moment.
                stream.drain(GOODBYE);
                stream.detach();
                match why {
                    Lost::Stopped => break,
                    Lost::MachineGone => {
                        state.set(CaptureState::Waiting(
                            "machine shut down",
                            "the machine's QEMU ended".into(),
                        ));
                    }
                    Lost::Job(why) => state.set(CaptureState::Waiting("mirror lost", why)),
                }
            }
            Err(e) => state.set(e),
        }
        stop.wait(RETRY);
    }
    if !stop.leave.load(Ordering::SeqCst) {
        forget_bitmaps(settings);
    }
    state.set(CaptureState::Stopped);
}

enum Lost {
    Stopped,
    MachineGone,
    Job(String),
}

/// Nothing of ours stays in the machine.
fn forget_bitmaps(settings: &MirrorSettings) {
    if let Ok(qmp) = Qmp::connect(&settings.qmp, QMP_TIMEOUT) {
        bitmaps::remove_all(&qmp);
    }
}

struct Attached {
    qmp: Qmp,
    events: Events,
    server: Server,
    disks: Vec<MachineDisk>,
    bitmaps: Option<Bitmaps>,
}

fn job(i: usize) -> String {
    format!("{PREFIX}mirror-{i}")
}

fn target(i: usize) -> String {
    format!("{PREFIX}target-{i}")
}

fn export(i: usize) -> String {
    format!("{PREFIX}export-{i}")
}

impl Attached {
    fn attach(
        settings: &MirrorSettings,
        stream: &Arc<Stream>,
        clock: &Arc<dyn Clock>,
        first: bool,
    ) -> Result<Self, CaptureState> {
        let qmp = Qmp::connect(&settings.qmp, QMP_TIMEOUT).map_err(|e| match e {
            QmpError::NoSocket { .. } => CaptureState::Waiting("qmp socket gone", e.to_string()),
            QmpError::Refused { .. } | QmpError::Closed => {
                CaptureState::Waiting("machine not running", e.to_string())
            }
            QmpError::Busy { .. } => CaptureState::Waiting("qmp socket busy", e.to_string()),
            other => CaptureState::Stalled(other.to_string()),
        })?;
        let events = qmp.events();
        clean(&qmp);
        let wanted: Vec<String> = settings.disks.iter().map(|d| d.0.clone()).collect();
        let disks = find_disks(&qmp, &wanted).map_err(|e| CaptureState::Stalled(e.to_string()))?;
        for (disk, (name, size)) in disks.iter().zip(&settings.disks) {
            if disk.size != *size {
                return Err(CaptureState::Stalled(format!(
                    "disk '{name}' has {} bytes now, {size} when it was protected; \
                     protect the machine anew under another name",
                    disk.size
                )));
            }
        }
        let exports = Exports::default();
        for (i, disk) in disks.iter().enumerate() {
            let sink = Sink { size: disk.size, stream: Arc::clone(stream), disk: DiskId(i as u16) };
            exports.insert(&format!("disk{i}"), Export::new(Arc::new(sink)));
        }
        let server =
            Server::listen_unix(&settings.sink, exports, ServerSettings::default(), Arc::clone(clock))
                .map_err(|e| CaptureState::Stalled(e.to_string()))?;
        let mut attached = Self { qmp, events, server, disks: disks.clone(), bitmaps: None };
        match attached.set_up(settings, &disks) {
            Ok(source) => {
                let suspects = attached.track(settings, first);
                stream.attach(source, suspects);
                Ok(attached)
            }
            Err(e) => {
                attached.clean_up();
                Err(CaptureState::Waiting("attach failed", e))
            }
        }
    }

    /// Mirrors first, so that no write falls between the reading and the mirroring.
    fn set_up(
        &self,
        settings: &MirrorSettings,
        disks: &[MachineDisk],
    ) -> Result<Vec<Arc<dyn BlockDevice>>, String> {
        let text = |e: QmpError| e.to_string();
        for (i, disk) in disks.iter().enumerate() {
            let node = json!({
                "driver": "nbd",
                "node-name": target(i),
                "server": { "type": "unix", "path": settings.sink },
                "export": format!("disk{i}"),
                // Discards reach the sink; zeros come as zeros.
                "discard": "unmap",
            });
            self.qmp.blockdev_add(node).map_err(text)?;
            let (job, target) = (job(i), target(i));
            self.qmp
                .blockdev_mirror(&Mirror::blocking(&job, &disk.node, &target, MirrorSync::None))
                .map_err(text)?;
        }
        self.wait_ready()?;
        self.qmp.nbd_server_start(&settings.export).map_err(|e| {
            format!("{e}; this machine's built-in NBD server is used by something else, stop that first")
        })?;
        let mut source: Vec<Arc<dyn BlockDevice>> = Vec::new();
        for (i, disk) in disks.iter().enumerate() {
            let (id, name) = (export(i), format!("disk{i}"));
            let export = NbdExport { id: &id, node: &disk.node, name: &name, writable: false, bitmaps: &[] };
            self.qmp.block_export_add(&export).map_err(text)?;
            let client = Client::connect_unix(&settings.export, &name, &ClientSettings::default())
                .map_err(|e| format!("the machine's read-only export cannot be read: {e}"))?;
            if client.size() < disk.size {
                return Err(format!(
                    "disk '{}' is {} bytes long in its export, not {}",
                    disk.name,
                    client.size(),
                    disk.size
                ));
            }
            source.push(Arc::new(client));
        }
        Ok(source)
    }

    /// What may differ, now that every write is captured.
    fn track(&mut self, settings: &MirrorSettings, first: bool) -> Suspects {
        let Some(tracking) = &settings.tracking else { return Suspects::All };
        // Later than the first time, this process knows what it sent; QEMU knows what it did not see.
        let base = if first { settings.base } else { tracking.base() };
        let here = Suspects::Only { ranges: Vec::new(), floor: lifeboat_base::Seq::ZERO };
        let found = if first { &settings.found } else { &here };
        match Bitmaps::take_over(&self.qmp, &settings.export, &self.disks, tracking, found, base) {
            Ok((bitmaps, suspects)) => {
                self.bitmaps = Some(bitmaps);
                suspects
            }
            Err(e) => {
                tracing::warn!("the machine's dirty bitmaps cannot be used: {e}; all is compared");
                bitmaps::remove_all(&self.qmp);
                Suspects::All
            }
        }
    }

    fn wait_ready(&self) -> Result<(), String> {
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(100);
        loop {
            let jobs = self.qmp.query_block_jobs().map_err(|e| e.to_string())?;
            let ours: Vec<_> = jobs.iter().filter(|j| j.device.starts_with(PREFIX)).collect();
            if ours.len() < self.disks.len() {
                return Err("QEMU ended the mirror as soon as it began".into());
            }
            if ours.iter().all(|j| j.ready) {
                return Ok(());
            }
            if waited >= READY {
                return Err("QEMU's mirror did not become ready".into());
            }
            // An event is the wait.
            self.events.next(step);
            waited += step;
        }
    }

    fn watch(&mut self, stop: &StopFlag, stream: &Stream) -> Lost {
        let mut quiet = Duration::ZERO;
        let mut rounds = 0;
        let step = Duration::from_millis(250);
        loop {
            if stop.is_set() {
                return Lost::Stopped;
            }
            match self.events.next(step) {
                Some(e) if e.name.starts_with("BLOCK_JOB_") => {
                    let ours = e.data["device"].as_str().is_some_and(|d| d.starts_with(PREFIX));
                    let over = matches!(e.name.as_str(), "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED");
                    if ours && over {
                        let error = e.data["error"].as_str().unwrap_or("it was cancelled");
                        return Lost::Job(format!("QEMU ended the mirror: {error}"));
                    }
                }
                Some(_) => {}
                None => {
                    if self.events.closed() || self.qmp.closed() {
                        return Lost::MachineGone;
                    }
                    quiet += step;
                }
            }
            if quiet >= LOOK {
                quiet = Duration::ZERO;
                rounds += 1;
                if rounds % ROTATE_LOOKS == 0
                    && let Some(bitmaps) = &mut self.bitmaps
                {
                    bitmaps.rotate(&self.qmp, &self.disks, stream);
                }
                match self.qmp.query_block_jobs() {
                    Ok(jobs) => {
                        let ours = jobs.iter().filter(|j| j.device.starts_with(PREFIX)).count();
                        if ours < self.disks.len() {
                            return Lost::Job("QEMU's mirror is gone".into());
                        }
                    }
                    Err(e) if e.is_gone() => return Lost::MachineGone,
                    Err(e) => tracing::warn!("the machine does not answer: {e}"),
                }
            }
        }
    }

    fn clean_up(self) {
        if !self.qmp.closed() {
            clean(&self.qmp);
        }
        if let Err(e) = self.server.shutdown(GOODBYE) {
            tracing::warn!("{e}");
        }
    }
}

/// Removes everything of Lifeboat's from the machine. What is not there is no error.
fn clean(qmp: &Qmp) {
    let ignore = |what: &str, r: Result<(), QmpError>| {
        if let Err(e) = r
            && !e.is_not_found()
            && !e.is_gone()
        {
            tracing::debug!("{what}: {e}");
        }
    };
    let jobs = qmp.query_block_jobs().unwrap_or_default();
    let mut ours: Vec<String> =
        jobs.into_iter().map(|j| j.device).filter(|d| d.starts_with(PREFIX)).collect();
    for id in &ours {
        ignore("job-cancel", qmp.job_cancel(id));
    }
    let events = qmp.events();
    for _ in 0..50 {
        if ours.is_empty() {
            break;
        }
        events.next(Duration::from_millis(100));
        let jobs = qmp.query_block_jobs().unwrap_or_default();
        ours.retain(|id| jobs.iter().any(|j| j.device == *id));
    }
    let exports = qmp.execute("query-block-exports", serde_json::Value::Null).unwrap_or_default();
    let ids: Vec<String> = exports
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e["id"].as_str())
        .filter(|id| id.starts_with(PREFIX))
        .map(Into::into)
        .collect();
    let others = exports.as_array().map_or(0, Vec::len) > ids.len();
    for id in ids {
        ignore("block-export-del", qmp.block_export_del(&id, true));
    }
    // The server may be somebody else's: stopped only when nothing but ours is on it.
    if !others {
        ignore("nbd-server-stop", qmp.nbd_server_stop());
    }
    for node in qmp.query_named_block_nodes().unwrap_or_default() {
        if node.node_name.starts_with(PREFIX) {
            ignore("blockdev-del", qmp.blockdev_del(&node.node_name));
        }
    }
}
