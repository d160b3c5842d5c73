//! Backup programs, as their users call them.

use anyhow::{Context as _, Result, bail};
use lifeboat_sim::clock;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Something that keeps backups.
pub trait Archive {
    fn name(&self) -> &'static str;

    /// Makes a repository.
    ///
    /// # Errors
    /// When it cannot.
    fn init(&mut self) -> Result<()>;

    /// Backs up a disk or a directory; of a disk it may be told which 64 KiB blocks changed since the last time.
    ///
    /// # Errors
    /// When it fails.
    fn back_up(&mut self, path: &Path, changed: Option<&[u64]>) -> Result<Duration>;

    /// Restores the newest backup of `path` below `out`.
    ///
    /// # Errors
    /// When it fails.
    fn restore(&mut self, path: &Path, out: &Path) -> Result<Duration>;

    /// Bytes of the repository.
    ///
    /// # Errors
    /// When it cannot be read.
    fn stored(&self) -> Result<u64>;
}

/// Bytes of all files below a directory.
///
/// # Errors
/// As the system reports.
pub fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Runs a command to its end, and says how long that took.
fn timed(command: &mut Command) -> Result<Duration> {
    let start = clock::elapsed();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}; run scripts/setup.sh bench"))?;
    let took = clock::elapsed() - start;
    // borg ends with 1 when a file changed meanwhile; nothing changes here.
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(took)
}

pub struct Restic(PathBuf);

impl Restic {
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_path_buf())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "bench").env("RESTIC_CACHE_DIR", self.0.join("cache"));
        command.arg("--quiet").arg("--repo").arg(self.0.join("repository"));
        command
    }
}

impl Archive for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn init(&mut self) -> Result<()> {
        // Version 2 is the one that compresses.
        timed(self.command().args(["init", "--repository-version", "2"])).map(drop)
    }

    fn back_up(&mut self, path: &Path, _changed: Option<&[u64]>) -> Result<Duration> {
        timed(self.command().arg("backup").arg(path))
    }

    fn restore(&mut self, _path: &Path, out: &Path) -> Result<Duration> {
        timed(self.command().args(["restore", "latest", "--target"]).arg(out))
    }

    fn stored(&self) -> Result<u64> {
        bytes_below(&self.0.join("repository"))
    }
}

/// Only where it is on the PATH: Debian has none, `cargo install rustic-rs --locked --no-default-features` makes one.
pub struct Rustic(PathBuf);

impl Rustic {
    pub fn new(dir: &Path) -> Option<Self> {
        let there = Command::new("rustic").arg("--version").output().is_ok_and(|o| o.status.success());
        there.then(|| Self(dir.to_path_buf()))
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new("rustic");
        command.env("RUSTIC_PASSWORD", "bench").env("RUSTIC_REPOSITORY", self.0.join("repository"));
        command.env("RUSTIC_CACHE_DIR", self.0.join("cache")).env("RUSTIC_NO_PROGRESS", "true").arg(what);
        command
    }
}

impl Archive for Rustic {
    fn name(&self) -> &'static str {
        "rustic"
    }

    fn init(&mut self) -> Result<()> {
        timed(&mut self.command("init")).map(drop)
    }

    fn back_up(&mut self, path: &Path, _changed: Option<&[u64]>) -> Result<Duration> {
        timed(self.command("backup").arg(path))
    }

    fn restore(&mut self, _path: &Path, out: &Path) -> Result<Duration> {
        timed(self.command("restore").arg("latest").arg(out))
    }

    fn stored(&self) -> Result<u64> {
        bytes_below(&self.0.join("repository"))
    }
}

pub struct Borg {
    dir: PathBuf,
    name: &'static str,
    compression: &'static str,
    made: usize,
}

impl Borg {
    pub fn new(dir: &Path, name: &'static str, compression: &'static str) -> Self {
        Self { dir: dir.to_path_buf(), name, compression, made: 0 }
    }

    fn command(&self, what: &[&str]) -> Command {
        let mut command = Command::new("borg");
        command.env("BORG_PASSPHRASE", "bench").env("BORG_BASE_DIR", &self.dir).args(what);
        command
    }

    fn archive(&self, number: usize) -> String {
        format!("{}::{number}", self.dir.join("repository").display())
    }
}

impl Archive for Borg {
    fn name(&self) -> &'static str {
        self.name
    }

    fn init(&mut self) -> Result<()> {
        // The faster of its ways to authenticate.
        let mut command = self.command(&["init", "--encryption", "repokey-blake2"]);
        timed(command.arg(self.dir.join("repository"))).map(drop)
    }

    fn back_up(&mut self, path: &Path, _changed: Option<&[u64]>) -> Result<Duration> {
        self.made += 1;
        let archive = self.archive(self.made);
        timed(self.command(&["create", "--compression", self.compression]).arg(archive).arg(path))
    }

    fn restore(&mut self, _path: &Path, out: &Path) -> Result<Duration> {
        // Sparse is the faster one for a disk with holes.
        let mut command = self.command(&["extract", "--sparse"]);
        timed(command.arg(self.archive(self.made)).current_dir(out))
    }

    fn stored(&self) -> Result<u64> {
        bytes_below(&self.dir.join("repository"))
    }
}
