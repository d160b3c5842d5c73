//! Disks to run on.

use anyhow::{Context as _, Result, bail};
use lifeboat_base::{Entropy as _, SeededEntropy};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Makes a raw disk of `mib`, every byte allocated and the same each time.
///
/// # Errors
/// As writing reports.
pub fn filled(path: &Path, mib: u64) -> Result<()> {
    let entropy = SeededEntropy::new(1);
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut part = vec![0; 1 << 20];
    for _ in 0..mib {
        entropy.fill(&mut part);
        file.write_all(&part)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Makes the 4 GiB disk of the full-sync benchmark, and reads it once so that every run finds it in memory.
///
/// # Errors
/// When its script fails.
pub fn debian(path: &Path) -> Result<()> {
    let script = lifeboat_e2e::repository().join("scripts/debian-disk.sh");
    let output = Command::new(&script).arg(path).output().with_context(|| script.display().to_string())?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    std::io::copy(&mut File::open(path)?, &mut std::io::sink())?;
    Ok(())
}
