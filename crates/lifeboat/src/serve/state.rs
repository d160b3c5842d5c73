//! The state directory: one site, one process.
//!
//! ```text
//! DIR/site.toml     configuration
//! DIR/lock          held by the running `serve`, with its process id
//! DIR/keys/         the journals' key (0600)
//! DIR/...           control's and the data side's own, named in their crates
//! ```
//!
//! Invariants: at most one process holds a directory; `init` leaves either a whole site or what was
//! there before.

use crate::failure::{Exit, Failure, Outcome};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "site.toml";
const LOCK: &str = "lock";

/// A state directory that this process alone may use, until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The system releases the lock with it, whatever way the process ends. Children do not inherit it.
    _lock: File,
}

impl StateDir {
    /// # Errors
    /// When another process holds it.
    pub fn lock(dir: &Path) -> Outcome<Self> {
        let path =
            fs::canonicalize(dir).map_err(|e| Failure::io(format_args!("open {}", dir.display()), &e))?;
        let at = path.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&at)
            .map_err(|e| Failure::io(format_args!("open {}", at.display()), &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = (&mut file).take(32).read_to_string(&mut pid);
                let by =
                    if pid.trim().is_empty() { String::new() } else { format!(" by pid {}", pid.trim()) };
                return Err(Failure::new(Exit::Refused, format!("{} is already served{by}", path.display()))
                    .hint("use the one that runs, or end it first"));
            }
            Err(TryLockError::Error(e)) => {
                return Err(Failure::io(format_args!("lock {}", at.display()), &e));
            }
        }
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(|e| Failure::io(format_args!("write {}", at.display()), &e))?;
        Ok(Self { path, _lock: file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory being made into a site. Dropping it takes everything back.
#[derive(Debug)]
pub struct Fresh {
    path: PathBuf,
    /// The topmost directory that did not exist before.
    created: Option<PathBuf>,
    kept: bool,
}

impl Fresh {
    /// Makes `dir` (0700), or takes it when it is empty.
    ///
    /// # Errors
    /// When there is a site, or anything else, in it.
    pub fn claim(dir: &Path) -> Outcome<Self> {
        let dir =
            std::path::absolute(dir).map_err(|e| Failure::io(format_args!("find {}", dir.display()), &e))?;
        let created = dir.ancestors().take_while(|p| !p.exists()).last().map(Path::to_path_buf);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|e| Failure::io(format_args!("make {}", dir.display()), &e))?;
        let fresh = Self { path: dir, created, kept: false };
        match fresh.others()?.first() {
            None => Ok(fresh),
            Some(found) => {
                let dir = fresh.path.display().to_string();
                let failure = if fresh.path.join(CONFIG).exists() {
                    Failure::new(Exit::Refused, format!("there is a site in {dir} already"))
                        .hint(format!("run it: lifeboat serve --dir {dir}; or choose another directory"))
                } else {
                    Failure::new(Exit::Refused, format!("{dir} is not empty: it holds {found}"))
                        .hint("choose an empty directory, or one that does not exist yet")
                };
                fresh.keep();
                Err(failure)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The site is whole.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Names in it, but for what a file system puts into its root itself.
    fn others(&self) -> Outcome<Vec<String>> {
        let list = || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.retain(|n| n != "lost+found");
            names.sort();
            Ok(names)
        };
        list().map_err(|e| Failure::io(format_args!("list {}", self.path.display()), &e))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // It was empty when it was claimed, so everything in it is ours.
        for name in self.others().unwrap_or_default() {
            let path = self.path.join(name);
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if let Some(top) = &self.created {
            let mut dir = self.path.as_path();
            while fs::remove_dir(dir).is_ok() && dir != top {
                let Some(parent) = dir.parent() else { break };
                dir = parent;
            }
        }
    }
}

/// Writes a file that must not exist yet, and syncs it.
///
/// # Errors
/// When it exists or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Outcome {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => Failure::new(Exit::Refused, format!("{} exists already", path.display())),
        _ => Failure::io(format_args!("write {}", path.display()), &e),
    })
}

#[cfg(test)]
mod tests;
