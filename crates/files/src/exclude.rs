//! What a walk leaves out: patterns as in `.gitignore`, counted from the root of the file system.

use crate::{FilesError, sys};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Stat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most patterns.
pub const MAX_PATTERNS: usize = 256;

/// See the module's text.
#[derive(Debug)]
pub struct Exclude {
    patterns: Gitignore,
    /// Directories that are left out with everything below, whatever the patterns or the given paths say, by whatever
    /// name they are come upon: device and inode.
    directories: Vec<(u64, u64)>,
}

impl Exclude {
    /// # Errors
    /// A pattern that is not understood, by name.
    pub fn new(patterns: &[String], paths: &[PathBuf]) -> Result<Self, FilesError> {
        if patterns.len() > MAX_PATTERNS {
            return Err(FilesError::Invalid(format!("more than {MAX_PATTERNS} patterns to leave out")));
        }
        let mut builder = GitignoreBuilder::new("/");
        for pattern in patterns {
            builder
                .add_line(None, pattern)
                .map_err(|e| FilesError::Invalid(format!("cannot leave out '{pattern}': {e}")))?;
        }
        let patterns = builder.build().map_err(|e| FilesError::Invalid(format!("cannot leave out: {e}")))?;
        // One that is not there cannot be come upon.
        let id = |p: &PathBuf| rustix::fs::stat(p.as_path()).ok().map(|s| (s.st_dev, s.st_ino));
        Ok(Self { patterns, directories: paths.iter().filter_map(id).collect() })
    }

    /// Whether the entry at an absolute path is left out. Its parents were asked about before.
    pub fn matches(&self, path: &[u8], directory: bool) -> bool {
        self.patterns.matched(Path::new(OsStr::from_bytes(path)), directory).is_ignore()
    }

    /// Whether nothing of this directory may be kept, even where it, or something in it, was asked for.
    pub fn forbids(&self, directory: &OwnedFd, stat: &Stat) -> bool {
        self.directories.contains(&(stat.st_dev, stat.st_ino)) || is_sites(directory)
    }
}

/// Whether a directory is a site's own, which holds the keys to everything. The walk may be an agent's, which knows nothing
/// of a site on its host.
fn is_sites(directory: &OwnedFd) -> bool {
    let is = |name: &[u8], kind| {
        sys::stat(directory, name).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == kind)
    };
    is(b"site.toml", FileType::RegularFile) && is(b"keys", FileType::Directory)
}

#[cfg(test)]
mod tests;
