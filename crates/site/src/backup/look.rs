//! Looking into backups: list, read, compare, mount.

use super::{Backups, Reading, files_error};
use crate::port::blocking;
use lifeboat_api::port::{Content, PortError};
use lifeboat_api::types::{ErrorCode, FileChange, FileChangeKind, FileChanges, FileEntry, FileKind};
use lifeboat_base::WallTime;
use lifeboat_base::limits::{MAX_API_ROWS, MAX_DIFF};
use lifeboat_files::diff::{Change, ChangeKind, diff};
use lifeboat_files::entries::Dump;
use lifeboat_files::fuse;
use lifeboat_files::reader::Tree;
use lifeboat_files::show;
use lifeboat_files::tree::{Entry, EntryKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces of content that wait for a slow reader; each is at most a blob.
const AHEAD: usize = 4;
/// Where this site's mounts are written down, so that what a crash leaves is found.
const MOUNTS: &str = "backup-mounts";

/// A backup that is shown at a directory.
pub(super) struct Mounted {
    backup: String,
    _reading: Reading,
}

fn time(t: lifeboat_files::tree::Time) -> WallTime {
    let nanos = i128::from(t.secs) * 1_000_000_000 + i128::from(t.nanos);
    WallTime(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

/// An entry, as the API shows it.
fn file_entry(entry: &Entry) -> FileEntry {
    let (kind, target) = match &entry.kind {
        EntryKind::File(_) => (FileKind::File, None),
        EntryKind::Directory(_) => (FileKind::Directory, None),
        EntryKind::Symlink(target) => (FileKind::Symlink, Some(show(target))),
        EntryKind::Fifo => (FileKind::Fifo, None),
        EntryKind::Socket => (FileKind::Socket, None),
        EntryKind::Block(..) => (FileKind::Block, None),
        EntryKind::Char(..) => (FileKind::Char, None),
    };
    FileEntry {
        name: show(&entry.name),
        kind,
        size: entry.size(),
        mode: entry.meta.mode,
        uid: entry.meta.uid,
        gid: entry.meta.gid,
        modified: time(entry.meta.mtime),
        target,
    }
}

/// So many entries and no more: a listing is one answer.
pub(crate) fn bounded<T>(rows: impl Iterator<Item = Result<T, PortError>>) -> Result<Vec<T>, PortError> {
    let mut out = Vec::new();
    for row in rows {
        if out.len() >= MAX_API_ROWS as usize {
            return Err(PortError::new(ErrorCode::Invalid, format!("there are more than {MAX_API_ROWS}"))
                .hint("mount it instead: lifeboat backup mount"));
        }
        out.push(row?);
    }
    Ok(out)
}

/// Collects changes while there is room: [`MAX_API_ROWS`] of them, [`MAX_DIFF`] bytes of paths.
#[derive(Default)]
struct Found {
    all: FileChanges,
    bytes: usize,
}

impl Found {
    /// `false` when there is no room for this one, nor for any after it.
    fn take(&mut self, change: &Change) -> bool {
        let path = show(&change.path);
        self.bytes += path.len();
        if self.all.changes.len() >= MAX_API_ROWS as usize || self.bytes > MAX_DIFF {
            self.all.truncated = true;
            return false;
        }
        let kind = match change.kind {
            ChangeKind::Added => FileChangeKind::Added,
            ChangeKind::Removed => FileChangeKind::Removed,
            ChangeKind::Content => FileChangeKind::Content,
            ChangeKind::Metadata => FileChangeKind::Metadata,
            ChangeKind::Type => FileChangeKind::Type,
        };
        self.all.changes.push(FileChange { path, change: kind, before: change.before, after: change.after });
        true
    }
}

impl Backups {
    /// What a directory holds, or the file itself.
    pub(crate) fn entries(&self, backup: &str, path: &str) -> Result<Vec<FileEntry>, PortError> {
        let (source, root, _reading) = self.tree(backup)?;
        let tree = Tree::new(&*source, root);
        let here = tree.at(path.as_bytes()).map_err(|e| files_error(&e))?;
        let EntryKind::Directory(hash) = here.kind else { return Ok(vec![file_entry(&here)]) };
        let entries = tree.entries(&hash).map_err(|e| files_error(&e))?;
        bounded(entries.map(|e| e.map(|e| file_entry(&e)).map_err(|e| files_error(&e))))
    }

    /// A file's content.
    pub(crate) async fn content(self: &Arc<Self>, backup: &str, path: &str) -> Result<Content, PortError> {
        let (backups, backup, path) = (Arc::clone(self), backup.to_string(), path.to_string());
        blocking(move || {
            let (source, root, reading) = backups.tree(&backup)?;
            let found = Tree::new(&*source, root).at(path.as_bytes()).map_err(|e| files_error(&e))?;
            let EntryKind::File(file) = found.kind else {
                return Err(PortError::new(ErrorCode::Invalid, format!("{path} is no file")));
            };
            let (pieces, content) = mpsc::channel(AHEAD);
            tokio::task::spawn_blocking(move || {
                let _reading = reading;
                for piece in Dump::new(Tree::new(&*source, root), &file) {
                    let over = piece.is_err();
                    let gone = pieces.blocking_send(piece.map_err(|e| files_error(&e))).is_err();
                    if over || gone {
                        return;
                    }
                }
            });
            Ok(content)
        })
        .await
    }

    /// What differs between two backups, as much of it as an answer has room for.
    pub(crate) fn compare(&self, older: &str, newer: &str) -> Result<FileChanges, PortError> {
        let (old_source, old_root, _old) = self.tree(older)?;
        let (new_source, new_root, _new) = self.tree(newer)?;
        let mut found = Found::default();
        let (older, newer) = (Tree::new(&*old_source, old_root), Tree::new(&*new_source, new_root));
        diff(older, newer, &mut |change| found.take(&change)).map_err(|e| files_error(&e))?;
        Ok(found.all)
    }

    /// Shows a backup at an empty directory of this host. What is shown there already is fine.
    pub(crate) fn mount(&self, backup: &str, directory: &str) -> Result<(), PortError> {
        let at = mountable(directory)?;
        let (source, root, reading) = self.tree(backup)?;
        let id = reading.id.to_string();
        let mut mounts = self.mounts.lock();
        // A person may have unmounted it.
        mounts.retain(|path, _| is_mounted(path));
        if let Some(there) = mounts.get(&at) {
            if there.backup == id {
                return Ok(());
            }
            return Err(PortError::new(
                ErrorCode::Conflict,
                format!("backup {} is mounted there", there.backup),
            )
            .hint(format!("unmount it first: lifeboat backup unmount {directory}")));
        }
        let empty = std::fs::read_dir(&at).map(|mut d| d.next().is_none());
        if !empty.map_err(|e| no_place(directory, &e.to_string()))? {
            return Err(no_place(directory, "it is not empty"));
        }
        let served = lifeboat_files::mount::serve(source, root).map_err(|e| files_error(&e))?;
        mounts.insert(at.clone(), Mounted { backup: id, _reading: reading });
        // Written down before it is there: what is not there is not missed.
        self.write_mounts(&mounts);
        served.attach(&at).map_err(|e| {
            mounts.remove(&at);
            files_error(&e)
        })
    }

    pub(crate) fn unmount(&self, directory: &str) -> Result<(), PortError> {
        let at = PathBuf::from(directory);
        let mut mounts = self.mounts.lock();
        let at = std::fs::canonicalize(&at).unwrap_or(at);
        if !mounts.contains_key(&at) {
            return Err(PortError::new(ErrorCode::NotFound, format!("no backup is mounted at {directory}")));
        }
        if is_mounted(&at) {
            fuse::detach(&at).map_err(|e| files_error(&e))?;
        }
        mounts.remove(&at);
        self.write_mounts(&mounts);
        Ok(())
    }

    /// Unmounts everything, when the site stops. What is in use goes when nobody uses it any more.
    pub(crate) fn unmount_all(&self) {
        let mut mounts = self.mounts.lock();
        for path in mounts.keys() {
            fuse::let_go(path);
        }
        mounts.clear();
        self.write_mounts(&mounts);
    }

    fn write_mounts(&self, mounts: &std::collections::HashMap<PathBuf, Mounted>) {
        let paths: Vec<&PathBuf> = mounts.keys().collect();
        let text = serde_json::to_vec(&paths).unwrap_or_default();
        if let Err(e) = std::fs::write(self.dir.join(MOUNTS), text) {
            tracing::warn!(
                "mounts of backups cannot be written down: {e}; a crash leaves them to be unmounted by hand"
            );
        }
    }
}

/// Whether one of ours is there: its root is another device than its parent.
fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

fn no_place(directory: &str, why: &str) -> PortError {
    PortError::new(ErrorCode::Invalid, format!("cannot mount at {directory}: {why}"))
        .hint("name an existing, empty directory of this site's host, from / on")
}

fn mountable(directory: &str) -> Result<PathBuf, PortError> {
    if !Path::new(directory).is_absolute() {
        return Err(no_place(directory, "it is not absolute"));
    }
    std::fs::canonicalize(directory).map_err(|e| no_place(directory, &e.to_string()))
}

/// Takes away what an earlier process of this site left mounted.
pub(super) fn reap_mounts(dir: &Path) {
    let Ok(text) = std::fs::read(dir.join(MOUNTS)) else { return };
    for path in serde_json::from_slice::<Vec<PathBuf>>(&text).unwrap_or_default() {
        if fuse::reap(&path) {
            tracing::info!("{}: a backup was still mounted there; unmounted", path.display());
        }
    }
    let _ = std::fs::remove_file(dir.join(MOUNTS));
}

#[cfg(test)]
mod tests;
