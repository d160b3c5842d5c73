//! Single files out of a disk's point.
//!
//! ```text
//!  point --> BlockDevice --> copy-on-write in memory --> FUSE file --> loop device --> the kernel's file system
//!                            (what a journal replay        |_________ mounted nowhere: held by a descriptor _________|
//!                             writes goes there)
//! ```
//! The copy-on-write lets the file system replay its own journal, so that what is seen is what a machine would see that is
//! started from this point; where that fails it is looked at without.
//!
//! Invariants:
//! - nothing of it appears in any mount table: when this process ends, however it ends, the kernel takes all of it away;
//! - the point is never written; what a replay may write is bounded;
//! - a path is looked up below the file system's root and never leaves it, whatever names and links the disk has;
//! - only so many disks are looked at at a time, and none longer than it is used.

mod export;
mod look;
mod partitions;

use crate::Site;
use crate::backup::look::bounded;
use crate::port::blocking;
use lifeboat_api::port::{Content, PortError};
use lifeboat_api::types::{ErrorCode, FileEntry, FileKind};
use lifeboat_base::{PointId, ServerId, WallTime};
use look::{Look, Part};
use parking_lot::Mutex;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Points looked at at a time; the one longest unused gives way.
const MOST: usize = 4;
/// How long a point stays open after it was last looked at.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of a file read at a time, and how many of those wait for a slow reader.
const PIECE: usize = 256 << 10;
const AHEAD: usize = 4;

struct Open {
    server: ServerId,
    point: PointId,
    look: Arc<Look>,
    used: Duration,
}

/// See the module's text.
#[derive(Default)]
pub struct DiskFiles(Mutex<Vec<Open>>);

impl DiskFiles {
    /// What is not looked at any more is closed.
    pub(crate) fn sweep(&self, now: Duration) {
        let gone: Vec<Open> = {
            let mut open = self.0.lock();
            let idle = |o: &mut Open| now.saturating_sub(o.used) > IDLE && Arc::strong_count(&o.look) == 1;
            open.extract_if(.., idle).collect()
        };
        // Unmounting reads and waits: not under the lock.
        drop(gone);
    }

    fn find(&self, server: ServerId, point: PointId, now: Duration) -> Option<Arc<Look>> {
        let mut open = self.0.lock();
        let found = open.iter_mut().find(|o| o.server == server && o.point == point)?;
        found.used = now;
        Some(Arc::clone(&found.look))
    }

    fn keep(&self, server: ServerId, point: PointId, look: &Arc<Look>, now: Duration) {
        let gone = {
            let mut open = self.0.lock();
            let oldest = open.iter().enumerate().min_by_key(|(_, o)| o.used).map(|(n, _)| n);
            let gone = oldest.filter(|_| open.len() >= MOST).map(|n| open.remove(n));
            open.push(Open { server, point, look: Arc::clone(look), used: now });
            gone
        };
        drop(gone);
    }
}

/// The partition's name and the path within it.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

impl Site {
    fn look(&self, server: ServerId, point: PointId) -> Result<Arc<Look>, PortError> {
        let now = self.clock.monotonic();
        if let Some(look) = self.disk_files.find(server, point, now) {
            return Ok(look);
        }
        let look = Arc::new(Look::new(self.open_disks(server, point)?)?);
        self.disk_files.keep(server, point, &look, now);
        Ok(look)
    }

    /// What a directory of a disk holds, or the file itself; the root lists partitions. Blocks.
    pub(crate) fn disk_entries(
        &self,
        server: ServerId,
        point: PointId,
        path: &str,
    ) -> Result<Vec<FileEntry>, PortError> {
        let look = self.look(server, point)?;
        let (name, inner) = split(path);
        if name.is_empty() {
            return Ok(look.parts().iter().map(part_entry).collect());
        }
        let root = look.mounted(name)?;
        bounded(root.entries(inner)?.into_iter().map(Ok))
    }

    /// A file's content.
    pub(crate) async fn disk_content(
        self: &Arc<Self>,
        server: ServerId,
        point: PointId,
        path: &str,
    ) -> Result<Content, PortError> {
        let (site, path) = (Arc::clone(self), path.to_string());
        blocking(move || {
            let look = site.look(server, point)?;
            let (name, inner) = split(&path);
            let file = look.mounted(name)?.file(inner)?;
            let (pieces, content) = mpsc::channel(AHEAD);
            tokio::task::spawn_blocking(move || {
                // Both stay until the last byte: the look holds the disks.
                let _look = look;
                send(file, &pieces);
            });
            Ok(content)
        })
        .await
    }
}

fn send(mut file: File, pieces: &mpsc::Sender<Result<bytes::Bytes, PortError>>) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => read,
            Err(e) => {
                let _ = pieces.blocking_send(Err(PortError::new(
                    ErrorCode::Corrupt,
                    format!("it cannot be read: {e}"),
                )));
                return;
            }
        };
        piece.truncate(read);
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            return;
        }
    }
}

fn part_entry(part: &Part) -> FileEntry {
    FileEntry {
        name: part.name.clone(),
        kind: FileKind::Directory,
        size: part.len,
        mode: 0o555,
        uid: 0,
        gid: 0,
        modified: WallTime(0),
        target: None,
    }
}

#[cfg(test)]
mod tests;
