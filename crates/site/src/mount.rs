//! Points served over NBD.
//!
//! A mount is a map, not a copy: it opens at once whatever its size. Mounts of runs are described
//! in a file and served again when the site starts, so that a guest outlives a restart; writable ones are
//! thrown away with the process, as they were announced.

use lifeboat_api::port::PortError;
use lifeboat_api::types::{ErrorCode, Mount, MountedDisk};
use lifeboat_base::{Clock, DiskId, PointId, ServerId};
use lifeboat_block::{BlockDevice, CowOverlay, FileDevice};
use lifeboat_nbd::{Exports, Server, ServerSettings};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Mounts at a time.
const MAX_MOUNTS: usize = 256;
const GOODBYE: Duration = Duration::from_secs(2);

/// What is kept of a mount, so that it can be served again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRecord {
    pub server: ServerId,
    pub mount: Mount,
}

/// Opens the disks of a point, each with its number.
pub type OpenDisks<'a> = dyn Fn(PointId) -> Result<Vec<(u16, Arc<dyn BlockDevice>)>, PortError> + 'a;

struct Served {
    record: MountRecord,
    /// Of the line when there is none.
    branch: Option<String>,
    servers: Vec<Server>,
    dir: PathBuf,
}

/// See the module's text.
pub struct Mounts {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    served: Mutex<BTreeMap<String, Served>>,
}

fn failed(what: &str, e: impl std::fmt::Display) -> PortError {
    PortError::new(ErrorCode::Unavailable, format!("{what}: {e}"))
}

impl Mounts {
    pub fn new(dir: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { dir, clock, served: Mutex::default() }
    }

    pub fn list(&self) -> Vec<Mount> {
        self.served.lock().values().map(|s| s.record.mount.clone()).collect()
    }

    pub fn get(&self, id: &str) -> Option<Mount> {
        self.served.lock().get(id).map(|s| s.record.mount.clone())
    }

    pub fn of_server(&self, server: ServerId) -> Vec<String> {
        self.served
            .lock()
            .values()
            .filter(|s| s.record.server == server)
            .map(|s| s.record.mount.id.clone())
            .collect()
    }

    /// A mount of this branch, when there is one.
    pub fn of_branch(&self, server: ServerId, branch: &str) -> Option<String> {
        let served = self.served.lock();
        let mut its =
            served.values().filter(|s| s.record.server == server && s.branch.as_deref() == Some(branch));
        its.next().map(|s| s.record.mount.id.clone())
    }

    /// What was served when the process ended; writable mounts are swept away.
    pub fn leftovers(&self) -> Vec<MountRecord> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let record = fs::read(path.join("mount.json"))
                .ok()
                .and_then(|b| serde_json::from_slice::<MountRecord>(&b).ok())
                .filter(|r| !r.mount.writable && path.ends_with(&r.mount.id));
            match record {
                Some(r) => found.push(r),
                None => {
                    if let Err(e) = fs::remove_dir_all(&path) {
                        tracing::warn!("{}: {e}", path.display());
                    }
                }
            }
        }
        found
    }

    /// Serves a point of the line, or of a branch. A mount with the same id is left as it is. `mount.disks` is filled in.
    ///
    /// # Errors
    /// When the point cannot be opened or a socket cannot be made; nothing is left behind.
    pub fn serve(
        &self,
        server: ServerId,
        branch: Option<&str>,
        mut mount: Mount,
        names: &[String],
        open: &OpenDisks<'_>,
    ) -> Result<Mount, PortError> {
        let mut served = self.served.lock();
        if let Some(there) = served.get(&mount.id) {
            return Ok(there.record.mount.clone());
        }
        if served.len() >= MAX_MOUNTS {
            return Err(PortError::new(
                ErrorCode::Conflict,
                format!("{MAX_MOUNTS} points are mounted already"),
            )
            .hint("unmount some: lifeboat mounts, lifeboat unmount ID"));
        }
        let dir = self.dir.join(&mount.id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|e| failed(&format!("cannot make {}", dir.display()), e))?;
        match self.start(open, &mut mount, names, &dir) {
            Ok(servers) => {
                let record = MountRecord { server, mount: mount.clone() };
                let branch = branch.map(str::to_owned);
                served.insert(mount.id.clone(), Served { record, branch, servers, dir });
                Ok(mount)
            }
            Err(e) => {
                // What a run depends on stays described, so that it can be tried again.
                if !dir.join("mount.json").exists()
                    && let Err(e) = fs::remove_dir_all(&dir)
                {
                    tracing::warn!("{}: {e}", dir.display());
                }
                Err(e)
            }
        }
    }

    fn start(
        &self,
        open: &OpenDisks<'_>,
        mount: &mut Mount,
        names: &[String],
        dir: &Path,
    ) -> Result<Vec<Server>, PortError> {
        let point: PointId = mount.point.id;
        let disks = open(point)?;
        let mut servers = Vec::with_capacity(disks.len());
        mount.disks.clear();
        for (index, mut device) in disks {
            let size = device.size();
            if mount.writable {
                let upper = dir.join(format!("disk{index}.overlay"));
                let upper = FileDevice::create(&upper, size)
                    .map_err(|e| failed(&format!("cannot make {}", upper.display()), e))?;
                let overlay = CowOverlay::new(device, Arc::new(upper));
                device = Arc::new(overlay.map_err(|e| failed("cannot make the overlay", e))?);
            }
            let socket = dir.join(format!("disk{index}.sock"));
            if socket.as_os_str().len() > 107 {
                return Err(PortError::new(
                    ErrorCode::Invalid,
                    format!("{} is too long for a socket", socket.display()),
                )
                .hint("use a shorter state directory"));
            }
            let server = Server::listen_unix(
                &socket,
                Exports::single(device),
                ServerSettings::default(),
                Arc::clone(&self.clock),
            )
            .map_err(|e| failed("cannot serve the point", e))?;
            servers.push(server);
            mount.disks.push(MountedDisk {
                index,
                name: names.get(usize::from(index)).cloned().unwrap_or_else(|| DiskId(index).to_string()),
                size,
                uri: format!("nbd+unix:///?socket={}", socket.display()),
                socket: socket.display().to_string(),
            });
        }
        Ok(servers)
    }

    /// Describes a served mount on disk, so that it is served again after a restart.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, id: &str) -> Result<(), PortError> {
        let served = self.served.lock();
        let Some(s) = served.get(id) else { return Ok(()) };
        let write = || -> std::io::Result<()> {
            let temp = s.dir.join("mount.new");
            fs::write(&temp, serde_json::to_vec(&s.record)?)?;
            fs::File::open(&temp)?.sync_all()?;
            fs::rename(&temp, s.dir.join("mount.json"))?;
            fs::File::open(&s.dir)?.sync_all()
        };
        write().map_err(|e| failed("cannot describe the mount", e))
    }

    /// Ends a mount of this module's own naming, also one that could not be served again. One that is not there is
    /// no error.
    pub fn remove(&self, id: &str) {
        let Some(served) = self.served.lock().remove(id) else {
            match fs::remove_dir_all(self.dir.join(id)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => tracing::warn!("mount {id}: {e}"),
                _ => {}
            }
            return;
        };
        for s in served.servers {
            if let Err(e) = s.shutdown(GOODBYE) {
                tracing::warn!("{e}");
            }
        }
        if let Err(e) = fs::remove_dir_all(&served.dir) {
            tracing::warn!("{}: {e}", served.dir.display());
        }
    }

    /// Ends all, leaving what is kept described on disk.
    pub fn stop(&self) {
        for (_, served) in std::mem::take(&mut *self.served.lock()) {
            for s in served.servers {
                if let Err(e) = s.shutdown(GOODBYE) {
                    tracing::warn!("{e}");
                }
            }
            if !served.dir.join("mount.json").exists()
                && let Err(e) = fs::remove_dir_all(&served.dir)
            {
                tracing::warn!("{}: {e}", served.dir.display());
            }
        }
    }
}
