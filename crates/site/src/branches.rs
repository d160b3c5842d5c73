//! What a writer sends whose epoch is over: kept beside the line, as a branch (I4).
//!
//! Invariants:
//! - nothing of a branch is ever read by the line: it has a journal, a worker and sessions of its own;
//! - a branch holds what follows one record of the line, its base, and nothing else; its writer's numbers go on from
//!   there;
//! - records go to a branch only from the agent that owned the server in that epoch, and into the branch that its process,
//!   or one it follows, wrote before; any other process gets a branch of its own;
//! - a branch is listed only once it is whole enough to be found again: `branch.json` is written last.
//!
//! ```text
//!  line    e1 ──────●────── e2 ─────────────>      the line: base and window as ever
//!                   │ base: last record of e1
//!  branch           └── e1 ────>                   servers/ID/branches/b1.7f3a/{branch.json, writer, journal/}
//! ```
//! A branch is read as its own extents, zeros included, over the line's content at the base. When the base has left the
//! line's window only the branch's own records are left: it stays listed and cannot be mounted.

use crate::server::{No, OpenServer, ServerCell, ServerStorage, Trunk, preset_writer};
use crate::{Site, errors};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{Branch as BranchInfo, ErrorCode, Mount};
use lifeboat_base::limits::{MAX_BRANCHES, MAX_LINEAGE};
use lifeboat_base::{Epoch, PointId, Seq, ServerId, WallTime};
use lifeboat_block::BlockDevice;
use lifeboat_journal::{JournalConfig, PointError};
use lifeboat_replicate::message::RefuseCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const ABOUT: &str = "branch.json";
/// Of a hundred parts of the disk, how many a branch never takes: the line needs the room more.
const KEPT_FREE: u64 = 10;

/// What is kept of a branch besides its journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub id: String,
    pub epoch: Epoch,
    /// The last record it shares with the line.
    pub base: Seq,
    /// Arrival of its writer, by this site's clock.
    pub began: WallTime,
    /// The process it was begun for.
    pub instance: u64,
}

/// See the module's text.
pub(crate) struct Branch {
    pub about: About,
    dir: PathBuf,
    /// `None` when its journal cannot be opened.
    pub cell: Option<Arc<ServerCell>>,
}

type OfServer = BTreeMap<String, Arc<Branch>>;

/// The branches of all servers held.
#[derive(Default)]
pub(crate) struct Branches {
    all: Mutex<HashMap<ServerId, OfServer>>,
    /// Held while a branch is begun or deleted.
    changing: Mutex<()>,
    /// Writers whose branches were deleted: they are not to bring them back.
    deleted: Mutex<Vec<(ServerId, Epoch, u64)>>,
}

/// Deleted branches whose writers are remembered.
const MOST_DELETED: usize = 64;

impl Branches {
    pub(crate) fn of(&self, server: ServerId) -> Vec<Arc<Branch>> {
        self.all.lock().get(&server).map(|b| b.values().cloned().collect()).unwrap_or_default()
    }

    fn get(&self, server: ServerId, id: &str) -> Option<Arc<Branch>> {
        self.all.lock().get(&server)?.get(id).cloned()
    }

    /// Forgets a server's branches; their workers are the caller's to stop.
    pub(crate) fn take(&self, server: ServerId) -> Vec<Arc<Branch>> {
        self.all.lock().remove(&server).map(|b| b.into_values().collect()).unwrap_or_default()
    }

    pub(crate) fn take_all(&self) -> Vec<Arc<Branch>> {
        std::mem::take(&mut *self.all.lock()).into_values().flat_map(BTreeMap::into_values).collect()
    }
}

impl Branch {
    /// Its name for a process of `epoch`: as short as is free.
    fn name(epoch: Epoch, instance: u64, taken: impl Fn(&str) -> bool) -> Option<String> {
        let digits = format!("{instance:016x}");
        (4..=16).map(|n| format!("b{epoch}.{}", &digits[..n])).find(|id| !taken(id))
    }

    fn mountable(&self, line: &ServerCell) -> bool {
        let whole = |c: &Arc<ServerCell>| c.reader.usage().newest.is_some();
        line.reader.reaches(self.about.base) && self.cell.as_ref().is_some_and(whole)
    }

    fn info(&self, server: &str, line: &ServerCell) -> BranchInfo {
        let usage = self.cell.as_ref().map(|c| c.reader.usage());
        let content = self.cell.as_ref().and_then(|c| c.reader.content().ok());
        let (records, content_bytes) = content.unwrap_or_default();
        BranchInfo {
            id: self.about.id.clone(),
            server: server.into(),
            epoch: self.about.epoch.0,
            base: PointId { epoch: self.about.epoch, seq: self.about.base },
            first: self.about.began,
            newest: usage
                .as_ref()
                .and_then(|u| u.newest.as_ref())
                .map_or(self.about.began, |p| p.site_time.max(self.about.began)),
            records,
            content_bytes,
            stored_bytes: usage.map_or(0, |u| u.bytes),
            mountable: self.mountable(line),
        }
    }
}

fn storage(e: &io::Error) -> No {
    No::new(RefuseCode::Storage, format!("the site cannot keep what you have: {e}; it is tried again"))
}

/// Whether a branch may still grow.
fn roomy(free: u64, total: u64) -> bool {
    total == 0 || u128::from(free) * 100 >= u128::from(total) * u128::from(KEPT_FREE)
}

impl Site {
    fn branches_dir(&self, server: ServerId) -> PathBuf {
        self.server_dir(server).join("branches")
    }

    fn open_branch(&self, line: &ServerCell, about: &About, dir: &Path) -> io::Result<Arc<ServerCell>> {
        let mut spec = line.spec.read().clone();
        spec.epoch = about.epoch;
        spec.name = format!("{} {}", spec.name, about.id);
        let config =
            JournalConfig { window: Duration::MAX, window_bytes: u64::MAX, ..JournalConfig::default() };
        let open = OpenServer {
            storage: ServerStorage::in_dir(dir)?,
            key: self.journal_key.clone(),
            spec: &spec,
            config,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            beyond: None,
        };
        let trunk = Trunk { line: line.reader.clone(), base: about.base };
        ServerCell::open_branch(&open, trunk).map_err(|e| io::Error::other(e.to_string()))
    }

    /// Opens what there is. What was never announced is removed.
    pub(crate) fn load_branches(&self, line: &Arc<ServerCell>) {
        let server = line.spec.read().id;
        let mut found = OfServer::new();
        for entry in fs::read_dir(self.branches_dir(server)).into_iter().flatten().flatten() {
            let dir = entry.path();
            let about = match fs::read(dir.join(ABOUT)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if let Err(e) = fs::remove_dir_all(&dir) {
                        tracing::warn!("{}: {e}", dir.display());
                    }
                    continue;
                }
                read => read.and_then(|b| serde_json::from_slice::<About>(&b).map_err(io::Error::from)),
            };
            let about = match about {
                Ok(about) if dir.ends_with(&about.id) => about,
                Ok(_) => continue,
                Err(e) => {
                    tracing::error!("{} cannot be read: {e}", dir.join(ABOUT).display());
                    continue;
                }
            };
            let cell = self.open_branch(line, &about, &dir);
            if let Err(e) = &cell {
                tracing::error!(branch = about.id, "a branch cannot be opened: {e}");
                self.trouble(line, format!("branch {} cannot be opened: {e}", about.id));
            }
            let branch = Branch { cell: cell.ok(), dir, about };
            found.insert(branch.about.id.clone(), Arc::new(branch));
        }
        self.branches.all.lock().insert(server, found);
    }

    /// Whether branches may still grow.
    pub(crate) fn room_for_branches(&self, line: &ServerCell) -> Result<(), No> {
        let (free, total) = (self.space)(&self.dir);
        if roomy(free, total) {
            return Ok(());
        }
        let text = format!(
            "less than {KEPT_FREE} % of this site's disk is free, so no more is kept of a writer whose epoch is over: \
             make room, or delete branches"
        );
        self.trouble(line, text.clone());
        Err(No::new(RefuseCode::Storage, text))
    }

    /// The branch a process of an epoch that is over goes on with, or a new one. Blocks.
    pub(crate) fn branch_for(
        &self,
        line: &Arc<ServerCell>,
        epoch: Epoch,
        instance: u64,
        lineage: &[u64],
    ) -> Result<Arc<Branch>, No> {
        let _changing = self.branches.changing.lock();
        let (server, name) = {
            let spec = line.spec.read();
            (spec.id, spec.name.clone())
        };
        let there = self.branches.of(server);
        let of_epoch = || there.iter().filter(|b| b.about.epoch == epoch);
        for process in std::iter::once(&instance).chain(lineage.iter().take(MAX_LINEAGE)) {
            // Or was begun for it, and it has not come to write.
            let its = |b: &&Arc<Branch>| {
                b.about.instance == *process
                    || b.cell.as_ref().is_some_and(|c| *c.writer.read() == Some(*process))
            };
            if let Some(branch) = of_epoch().find(its) {
                return Ok(Arc::clone(branch));
            }
        }
        let gone = |process: &u64| self.branches.deleted.lock().contains(&(server, epoch, *process));
        if std::iter::once(&instance).chain(lineage).any(gone) {
            let text = "what this writer had was deleted at the site, and no more of it is kept";
            return Err(No::new(RefuseCode::StaleEpoch, text));
        }
        let end = line.ends.read().iter().copied().find(|e| e.epoch == epoch);
        let Some(end) = end else {
            let text = format!("epoch {epoch} is over, and it is not known here where it ended");
            return Err(No::new(RefuseCode::StaleEpoch, text));
        };
        self.room_for_branches(line)?;
        if there.len() >= MAX_BRANCHES {
            let text = format!(
                "{MAX_BRANCHES} branches are kept of this server; delete some, \
                 then what this writer has is kept too: lifeboat branches {name}"
            );
            self.trouble(line, text.clone());
            return Err(No::new(RefuseCode::Storage, text));
        }
        let root = self.branches_dir(server);
        let taken = |id: &str| root.join(id).exists();
        let id = Branch::name(epoch, instance, taken)
            .ok_or_else(|| No::new(RefuseCode::Storage, "no name is left for a branch"))?;
        let dir = root.join(&id);
        let about = About { id: id.clone(), epoch, base: end.last, began: self.clock.wall(), instance };
        let made = self.make_branch(line, &about, end.writer, &dir);
        let branch = match made {
            Ok(cell) => Arc::new(Branch { about, dir, cell: Some(cell) }),
            Err(e) => {
                if let Err(e) = fs::remove_dir_all(&dir) {
                    tracing::warn!("{}: {e}", dir.display());
                }
                return Err(storage(&e));
            }
        };
        self.branches.all.lock().entry(server).or_default().insert(id.clone(), Arc::clone(&branch));
        let text =
            format!("{id}: a writer of epoch {epoch}, which is over, goes on after record {}", end.last);
        tracing::warn!(server = name, "{text}");
        self.note("branch.begun", &name, "begun", &text);
        Ok(branch)
    }

    fn make_branch(
        &self,
        line: &ServerCell,
        about: &About,
        writer: Option<u64>,
        dir: &Path,
    ) -> io::Result<Arc<ServerCell>> {
        let storage = ServerStorage::in_dir(dir)?;
        if let Some(writer) = writer {
            preset_writer(&storage.own, writer)?;
        }
        let cell = self.open_branch(line, about, dir)?;
        let temporary = dir.join("branch.new");
        fs::write(&temporary, serde_json::to_vec(about)?)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, dir.join(ABOUT))?;
        for dir in [dir, &self.branches_dir(line.spec.read().id)] {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(cell)
    }

    fn branch(&self, server: ServerId, id: &str) -> Result<Arc<Branch>, PortError> {
        self.branches.get(server, id).ok_or_else(|| {
            PortError::new(ErrorCode::NotFound, format!("there is no branch '{id}'"))
                .hint("list them: lifeboat branches")
        })
    }

    /// See [`SitePort::branches`](lifeboat_api::port::SitePort::branches). Blocks.
    pub(crate) fn list_branches(&self, server: ServerId) -> Result<Vec<BranchInfo>, PortError> {
        let line = self.cell_of(server)?;
        let name = line.spec.read().name.clone();
        let mut all: Vec<_> = self.branches.of(server).iter().map(|b| b.info(&name, &line)).collect();
        all.sort_by_key(|b| std::cmp::Reverse(b.first));
        Ok(all)
    }

    /// See [`SitePort::delete_branch`](lifeboat_api::port::SitePort::delete_branch).
    pub(crate) async fn drop_branch(self: &Arc<Self>, server: ServerId, id: &str) -> Result<(), PortError> {
        let branch = self.branch(server, id)?;
        if let Some(mount) = self.mounts.of_branch(server, id) {
            let text = format!("branch {id} is mounted as {mount}");
            return Err(PortError::new(ErrorCode::Conflict, text).hint("unmount it first: lifeboat unmount"));
        }
        {
            let _changing = self.branches.changing.lock();
            let mut deleted = self.branches.deleted.lock();
            let writer = branch.cell.as_ref().and_then(|c| *c.writer.read());
            deleted.extend(
                writer.into_iter().chain([branch.about.instance]).map(|w| (server, branch.about.epoch, w)),
            );
            let over = deleted.len().saturating_sub(MOST_DELETED);
            deleted.drain(..over);
        }
        let no = No::new(RefuseCode::StaleEpoch, "the branch was deleted at the site");
        self.sessions.cut_stream(&(server, Some(id.to_owned())), &no);
        if let Some(of_server) = self.branches.all.lock().get_mut(&server) {
            of_server.remove(id);
        }
        if let Some(cell) = &branch.cell {
            cell.stop().await;
        }
        let dir = branch.dir.clone();
        crate::port::blocking(move || {
            // Nothing finds it any more once this is gone.
            let removed = match fs::remove_file(dir.join(ABOUT)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => fs::remove_dir_all(&dir),
            };
            removed.map_err(|e| {
                PortError::new(ErrorCode::Unavailable, format!("cannot delete {}: {e}", dir.display()))
            })
        })
        .await
    }

    /// The newest whole state of a branch, to be served as `mount`. Blocks.
    pub(crate) fn serve_branch(
        &self,
        server: ServerId,
        id: &str,
        (mount, name, writable): (String, &str, bool),
    ) -> Result<Mount, PortError> {
        let line = self.cell_of(server)?;
        let branch = self.branch(server, id)?;
        let conflict = |text: String| PortError::new(ErrorCode::Conflict, text);
        let cell = branch
            .cell
            .as_ref()
            .ok_or_else(|| PortError::new(ErrorCode::Corrupt, format!("branch {id} cannot be opened")))?;
        if !line.reader.reaches(branch.about.base) {
            return Err(conflict(format!(
                "record {} of the line, from which branch {id} grows, has left the window",
                branch.about.base
            )));
        }
        let point = cell.reader.usage().newest.ok_or_else(|| {
            conflict(format!(
                "nothing whole has arrived of branch {id} yet; wait until its writer has sent it"
            ))
        })?;
        let names: Vec<String> = line.spec.read().disks.iter().map(|d| d.name.clone()).collect();
        let point = crate::port::point_info(&point);
        let mount = Mount { id: mount, server: name.into(), point, writable, disks: Vec::new() };
        let base = branch.about.base;
        let open = |at: PointId| {
            let disks = cell.reader.disks_after(at.seq);
            disks
                .into_iter()
                .map(|d| {
                    let device = match line.reader.open_at(d.disk, base) {
                        Ok(below) => cell.reader.open_over(Arc::new(below), at.seq),
                        Err(PointError::UnknownDisk { .. }) => cell.reader.open_at(d.disk, at.seq),
                        Err(e) => Err(e),
                    };
                    let device = device.map_err(|e| errors::point(&e))?;
                    Ok((d.disk.0, Arc::new(device) as Arc<dyn BlockDevice>))
                })
                .collect()
        };
        self.mounts.serve(server, Some(id), mount, &names, &open)
    }
}

#[cfg(test)]
mod tests;
