//! Capture by an NBD export that passes through to a file or block device.
//!
//! Invariants: a write is answered only after the source has it; it is handed to the stream in the
//! order the source got it where ranges overlap; a write that failed at the source is never sent as if it
//! had not: its range is compared again. Before the source gets a write, the write-intent log has it on stable storage.

use super::range_lock::RangeLock;
use super::{CaptureError, CaptureState, StateCell};
use crate::stream::Stream;
use crate::tracking::{Intent, Tracking};
use bytes::Bytes;
use lifeboat_base::{Clock, DiskId, WallTime};
use lifeboat_block::{BlockDevice, BlockError, Extent, FileDevice, ZeroMode};
use lifeboat_nbd::server::{Export, Exports, Server, ServerSettings};
use lifeboat_replicate::sender::Suspects;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a write waits for the site to learn that the write-intent log is not to be believed.
const VOID: Duration = Duration::from_secs(10);
/// How long clients get to end when the capture stops.
const GOODBYE: Duration = Duration::from_secs(3);

/// Passes everything through to `inner` and tells the stream of every change.
pub struct SplitDevice {
    inner: Arc<dyn BlockDevice>,
    stream: Arc<Stream>,
    tracking: Option<Arc<Tracking>>,
    disk: DiskId,
    order: RangeLock,
}

impl SplitDevice {
    pub fn new(
        inner: Arc<dyn BlockDevice>,
        stream: Arc<Stream>,
        tracking: Option<Arc<Tracking>>,
        disk: DiskId,
    ) -> Self {
        Self { inner, stream, tracking, disk, order: RangeLock::default() }
    }

    /// The write-intent log knows of the write before the source does.
    fn intend(&self, offset: u64, len: u64) -> Result<Option<Intent>, BlockError> {
        let Some(tracking) = &self.tracking else { return Ok(None) };
        let intent = tracking.intend(self.disk, offset, len);
        if tracking.broken().is_some() {
            self.stream.disown_tracking();
            // A log that says too little and cannot be taken back: the write waits until the site knows better.
            if !self.stream.await_void(VOID) {
                return Err(BlockError::Io(std::io::Error::from_raw_os_error(libc::EIO)));
            }
        }
        Ok(Some(intent))
    }
}

impl BlockDevice for SplitDevice {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.inner.read(offset, buf)
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        let len = data.len() as u64;
        lifeboat_block::device::check_range(self.size(), offset, len)?;
        let _order = self.order.lock(offset, len);
        let _intent = self.intend(offset, len)?;
        match self.inner.write(offset, data.clone()) {
            Ok(()) => {
                self.stream.write(self.disk, offset, data);
                Ok(())
            }
            Err(e) => {
                if !matches!(e, BlockError::OutOfRange { .. } | BlockError::ReadOnly) {
                    self.stream.suspect(self.disk, offset, len);
                }
                Err(e)
            }
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError> {
        lifeboat_block::device::check_range(self.size(), offset, len)?;
        let _order = self.order.lock(offset, len);
        let _intent = self.intend(offset, len)?;
        match self.inner.write_zeroes(offset, len, mode) {
            Ok(()) => {
                self.stream.zero(self.disk, offset, len);
                Ok(())
            }
            Err(e) => {
                if !matches!(e, BlockError::OutOfRange { .. } | BlockError::ReadOnly) {
                    self.stream.suspect(self.disk, offset, len);
                }
                Err(e)
            }
        }
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.stream.confirm(|| self.inner.flush())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        self.inner.status(offset, len)
    }
}

/// Where a splitter listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Listen {
    /// `unix:PATH`, `tcp:ADDR:PORT`.
    ///
    /// # Errors
    /// With the forms that work.
    pub fn parse(text: &str) -> Result<Self, CaptureError> {
        let bad = || {
            CaptureError::invalid(
                format!("'{text}' is no address to listen on"),
                "write unix:/absolute/path.sock or tcp:ADDRESS:PORT",
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            // sun_path holds 108 bytes with its end.
            if !path.is_absolute() || path.as_os_str().len() > 107 {
                return Err(bad());
            }
            return Ok(Self::Unix(path));
        }
        text.strip_prefix("tcp:").and_then(|a| a.parse().ok()).map(Self::Tcp).ok_or_else(bad)
    }

    /// URI of export `name` for clients.
    pub fn uri(&self, name: &str) -> String {
        match self {
            Self::Unix(path) => format!("nbd+unix:///{name}?socket={}", path.display()),
            Self::Tcp(address) => format!("nbds://{address}/{name}"),
        }
    }
}

/// A running splitter. Dropping it ends the exports.
pub struct Splitter {
    server: Option<Server>,
    /// Held so that no second agent serves the same file.
    _locks: Vec<File>,
}

/// Opens a source for writing and claims it against other agents.
pub fn open_source(path: &Path) -> Result<(FileDevice, File), CaptureError> {
    let shown = path.display();
    let hint = "check the path and that the agent may read and write it";
    let device = FileDevice::open(path, false)
        .map_err(|e| CaptureError::invalid(format!("cannot open {shown}: {e}"), hint))?;
    if device.size() == 0 {
        return Err(CaptureError::invalid(
            format!("{shown} is empty"),
            "give a disk image or a block device",
        ));
    }
    let lock =
        File::open(path).map_err(|e| CaptureError::failed(format!("cannot open {shown}: {e}"), hint))?;
    match lock.try_lock() {
        Ok(()) => Ok((device, lock)),
        Err(std::fs::TryLockError::WouldBlock) => Err(CaptureError::failed(
            format!("{shown} is in use by another agent or program"),
            "one disk can be protected by one agent only; stop the other one first",
        )),
        Err(std::fs::TryLockError::Error(e)) => {
            Err(CaptureError::failed(format!("cannot lock {shown}: {e}"), hint))
        }
    }
}

/// What a splitter needs.
pub struct SplitterSettings {
    pub paths: Vec<PathBuf>,
    pub sizes: Vec<u64>,
    pub listen: Listen,
    /// For TCP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub tracking: Option<Arc<Tracking>>,
    /// What an earlier process left there, and until when it watched the source.
    pub found: Suspects,
    pub until: WallTime,
}

/// Whether a file was changed, or put in its place, after `until`; of devices that is not known. What cannot be looked at was.
fn changed_since(file: &File, until: WallTime) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = file.metadata() else { return true };
    let nanos = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
    let changed = nanos(meta.mtime(), meta.mtime_nsec()).max(nanos(meta.ctime(), meta.ctime_nsec()));
    meta.is_file() && changed > i128::from(until.0)
}

impl Splitter {
    /// Opens the sources, attaches them to the stream and serves them: disk `i` as export `diskI`, disk 0
    /// as the default export too.
    ///
    /// # Errors
    /// When a source or the address cannot be used; nothing is left behind.
    pub fn start(
        settings: &SplitterSettings,
        stream: &Arc<Stream>,
        clock: &Arc<dyn Clock>,
        state: &StateCell,
    ) -> Result<Self, CaptureError> {
        let mut devices: Vec<Arc<dyn BlockDevice>> = Vec::new();
        let mut locks = Vec::new();
        for (path, size) in settings.paths.iter().zip(&settings.sizes) {
            let (device, lock) = open_source(path)?;
            if device.size() != *size {
                return Err(CaptureError::invalid(
                    format!(
                        "{} has {} bytes now, {size} when it was protected",
                        path.display(),
                        device.size()
                    ),
                    "restore its size, or stop the protection and protect it anew under another name",
                ));
            }
            devices.push(Arc::new(device));
            locks.push(lock);
        }
        let exports = Exports::default();
        for (i, device) in devices.iter().enumerate() {
            let tracking = settings.tracking.clone();
            let split = SplitDevice::new(Arc::clone(device), Arc::clone(stream), tracking, DiskId(i as u16));
            let mut export = Export::new(Arc::new(split));
            export.description = settings.paths[i].display().to_string();
            if i == 0 {
                exports.insert("", export.clone());
            }
            exports.insert(&format!("disk{i}"), export);
        }
        let nbd = ServerSettings { tls: settings.tls.clone(), ..ServerSettings::default() };
        let mut found = settings.found.clone();
        if found != Suspects::All
            && let Some(at) = locks.iter().position(|file| changed_since(file, settings.until))
        {
            let path = settings.paths[at].display();
            tracing::warn!("{path} was changed while no agent served it; everything is compared");
            found = Suspects::All;
        }
        // Attached first: not one write may pass before the stream is ready for it.
        stream.attach(devices, found);
        let server = match &settings.listen {
            Listen::Unix(path) => Server::listen_unix(path, exports, nbd, Arc::clone(clock)),
            Listen::Tcp(address) => Server::listen_tcp(*address, exports, nbd, Arc::clone(clock)),
        };
        match server {
            Ok(server) => {
                state.set(CaptureState::Attached);
                Ok(Self { server: Some(server), _locks: locks })
            }
            Err(e) => {
                stream.detach();
                Err(CaptureError::failed(e.to_string(), "free the address or give another with --listen"))
            }
        }
    }

    /// Ends the exports; clients are cut after a moment.
    pub fn stop(mut self, stream: &Stream, state: &StateCell) {
        if let Some(server) = self.server.take()
            && let Err(e) = server.shutdown(GOODBYE)
        {
            tracing::warn!("{e}");
        }
        if !stream.drain(GOODBYE) {
            tracing::info!("not everything reached the site before the capture stopped");
        }
        stream.detach();
        state.set(CaptureState::Stopped);
    }
}

#[cfg(test)]
mod tests;
