//! A recovery point as an image file.
//!
//! Invariants: the file appears under its name only when it is whole and on stable storage; whatever
//! ends the copy before that leaves nothing behind; an existing file is replaced only when asked, and
//! only by a whole one; what reads as zeros takes no room.

use crate::failure::{Exit, Failure, Outcome};
use lifeboat_base::format_bytes;
use lifeboat_block::{BlockDevice, BlockError, ExtentKind};
use lifeboat_nbd::Client;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of one read.
const PIECE: usize = 1 << 20;
/// Reads in flight, which bounds the memory of a copy to their sum.
const IN_FLIGHT: usize = 8;
/// Zeros are left out in units of this many bytes.
const GRAIN: usize = 64 << 10;
/// Longest range asked for at once when looking for data.
const LOOK: u64 = 1 << 30;

/// An image under a temporary name. Dropping it removes the file; [`finish`](Self::finish) gives it its name.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Draft {
    /// Checks that `target` may be written and makes an empty file beside it.
    ///
    /// # Errors
    /// When it exists and `force` is not set, is no regular file, or its directory cannot be written.
    pub fn new(target: &Path, force: bool) -> Outcome<Self> {
        match fs::symlink_metadata(target) {
            Ok(m) if !m.is_file() => {
                return Err(Failure::usage(format!("{} exists and is no regular file", target.display()))
                    .hint(
                        "choose another name; to fill a device, mount the point and copy from its NBD URI",
                    ));
            }
            Ok(_) if !force => {
                return Err(Failure::new(Exit::Refused, format!("{} exists already", target.display()))
                    .hint("choose another name, or replace it with --force"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::io(format_args!("look at {}", target.display()), &e)),
        }
        let name = target
            .file_name()
            .ok_or_else(|| Failure::usage(format!("{} names no file", target.display())))?;
        let draft = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
        let path = target.with_file_name(draft);
        // What comes out of a backup or a disk is nobody else's to read.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Failure::io(format_args!("write beside {}", target.display()), &e))?;
        Ok(Self { path, target: target.into(), done: false })
    }

    /// The temporary file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// When the storage fails; nothing is left then.
    pub fn finish(mut self) -> Outcome {
        let publish = || {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, &self.target)?;
            let dir = match self.target.parent() {
                Some(p) if !p.as_os_str().is_empty() => p,
                _ => Path::new("."),
            };
            File::open(dir)?.sync_all()
        };
        let published = publish();
        // After the rename the name is the image's, whole or not known to be stable; there is no draft to remove.
        self.done = !self.path.exists();
        published.map_err(|e| Failure::io(format_args!("finish {}", self.target.display()), &e))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a copy reports while it runs.
pub trait Progress {
    /// Bytes of data to copy; holes are not counted.
    fn total(&self, bytes: u64);
    fn advance(&self, bytes: u64);
}

/// Copies `source` to the file at `path`, leaving holes where it reads as zeros.
///
/// # Errors
/// When there is no room for its data, the source or the file fails, or `cancel` was set.
pub fn copy_raw(source: &Client, path: &Path, progress: &dyn Progress, cancel: &AtomicBool) -> Outcome {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| Failure::io(format_args!("write {}", path.display()), &e))?;
    let size = source.size();
    let mut data = 0;
    each_data(source, cancel, &mut |_, len| {
        data += len;
        Ok(())
    })?;
    let room = room(path)?;
    if data > room {
        return Err(Failure::failed(format!(
            "no room: the point holds {}, free are {}",
            format_bytes(data),
            format_bytes(room)
        ))
        .hint("write to another file system"));
    }
    progress.total(data);
    file.set_len(size).map_err(|e| Failure::io(format_args!("size {}", path.display()), &e))?;
    let mut batch: Vec<(u64, usize)> = Vec::new();
    each_data(source, cancel, &mut |offset, len| {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let n = (end - at).min(PIECE as u64);
            batch.push((at, n as usize));
            at += n;
            if batch.len() == IN_FLIGHT {
                copy_batch(source, &file, &mut batch, progress, cancel)?;
            }
        }
        Ok(())
    })?;
    copy_batch(source, &file, &mut batch, progress, cancel)
}

/// Calls `found` with each run of data, in order.
fn each_data(source: &Client, cancel: &AtomicBool, found: &mut dyn FnMut(u64, u64) -> Outcome) -> Outcome {
    let size = source.size();
    let mut at = 0;
    while at < size {
        cancelled(cancel)?;
        for extent in source.status(at, (size - at).min(LOOK)).map_err(source_failed)? {
            if extent.kind == ExtentKind::Data {
                found(at, extent.len)?;
            }
            at += extent.len;
        }
    }
    Ok(())
}

fn copy_batch(
    source: &Client,
    file: &File,
    batch: &mut Vec<(u64, usize)>,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Outcome {
    cancelled(cancel)?;
    let pieces = source.read_many(batch).map_err(source_failed)?;
    for (&(offset, len), content) in batch.iter().zip(&pieces) {
        let mut at = offset;
        for grain in content.chunks(GRAIN) {
            if grain.iter().any(|b| *b != 0) {
                file.write_all_at(grain, at).map_err(|e| Failure::io("write the image", &e))?;
            }
            at += grain.len() as u64;
        }
        progress.advance(len as u64);
    }
    batch.clear();
    Ok(())
}

fn cancelled(cancel: &AtomicBool) -> Outcome {
    match cancel.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Failure::failed("stopped; nothing was written")),
    }
}

fn source_failed(e: BlockError) -> Failure {
    match e {
        BlockError::Corrupt(why) => Failure::new(Exit::Corrupt, format!("the point is damaged: {why}"))
            .hint("export another point; lifeboat status names what else is affected"),
        other => Failure::new(Exit::Unavailable, format!("cannot read the point: {other}"))
            .hint("see the site's log; EIO from a mount means that stored data may be damaged"),
    }
}

/// Bytes a plain user can still write to the file system of `path`.
fn room(path: &Path) -> Outcome<u64> {
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|e| Failure::io(format_args!("ask for room at {}", path.display()), &e.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests;
