//! What is backed up, and how it changes.

use crate::disk;
use anyhow::{Context as _, Result, bail};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Entropy as _, SeededEntropy};
use lifeboat_e2e::TestDir;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Small writes at random places.
const WRITES: usize = 5000;
const WRITE: usize = 4096;
/// New content in one piece.
const NEW: usize = 100_000_000;
/// The Debian is in the first half of the disk.
const LIVELY: u64 = 2 << 30;

/// The file of that name below a directory: systems restore whole paths.
///
/// # Errors
/// When there is none.
pub fn find(dir: &Path, name: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|n| n == name) {
            return Ok(path);
        }
        if path.is_dir()
            && let Ok(found) = find(&path, name)
        {
            return Ok(found);
        }
    }
    bail!("{} has no {name}", dir.display())
}

/// 4 GiB with the 0.8 GB of Debian, and nothing else: what other rows copy has random content, too.
///
/// # Errors
/// What the system reports.
pub fn debian(image: &Path) -> Result<()> {
    disk::debian(image)?;
    let hole = ["--punch-hole", "--offset", "2GiB", "--length", "1GiB"];
    let done = Command::new("fallocate").args(hole).arg(image).status().context("fallocate")?;
    if !done.success() {
        bail!("fallocate cannot punch a hole into {}", image.display());
    }
    Ok(())
}

/// Changes a disk, the same each time, and says which 64 KiB blocks that were: text of the Debian moves into the
/// large piece, and the small ones are new.
///
/// # Errors
/// As the system reports.
pub fn change(image: &Path) -> Result<Vec<u64>> {
    let file = File::options().read(true).write(true).open(image)?;
    let random = SeededEntropy::new(3);
    let mut changed = BTreeSet::new();
    let mut block = vec![0; WRITE];
    for _ in 0..WRITES {
        let at = random.next_u64() % (LIVELY / WRITE as u64) * WRITE as u64;
        random.fill(&mut block);
        file.write_all_at(&block, at)?;
        changed.insert(at / BLOCK as u64);
    }
    let mut new = vec![0; NEW];
    compressed(&random, &mut new);
    let at = 3 << 30;
    file.write_all_at(&new, at)?;
    changed.extend(at / BLOCK as u64..(at + NEW as u64).div_ceil(BLOCK as u64));
    file.sync_all()?;
    Ok(changed.into_iter().collect())
}

/// Content of which half is random, in pieces of 2 KiB: as fio and vdbench make what compresses two to one.
fn compressed(random: &SeededEntropy, out: &mut [u8]) {
    for piece in out.chunks_mut(WRITE) {
        let half = piece.len() / 2;
        random.fill(&mut piece[..half]);
    }
}

/// A disk full of it.
///
/// # Errors
/// As the system reports.
pub fn compressible(path: &Path, bytes: u64) -> Result<()> {
    let random = SeededEntropy::new(4);
    let mut file = File::create(path)?;
    let mut part = vec![0; 4 << 20];
    for _ in 0..bytes / part.len() as u64 {
        compressed(&random, &mut part);
        file.write_all(&part)?;
    }
    file.sync_all()?;
    Ok(())
}

/// The files of the Debian on the disk, in a directory.
///
/// # Errors
/// When the disk cannot be mounted (root is needed) or copied.
pub fn tree(home: &TestDir) -> Result<PathBuf> {
    let (image, at, tree) = (home.join("disk.img"), home.make("mnt"), home.join("tree"));
    disk::debian(&image)?;
    let ran = |command: &mut Command| -> Result<()> {
        let output = command.output().with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    };
    ran(Command::new("mount").args(["-o", "loop,ro,noload"]).arg(&image).arg(&at))?;
    let copied = ran(Command::new("cp").arg("-a").arg(&at).arg(&tree));
    ran(Command::new("umount").arg(&at))?;
    copied?;
    fs::remove_file(&image)?;
    Ok(tree)
}

fn regular(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            regular(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Appends a line to one file of a hundred; which, the seed says.
///
/// # Errors
/// As the system reports.
pub fn touch_files(tree: &Path, seed: u64) -> Result<()> {
    let mut all = Vec::new();
    regular(tree, &mut all)?;
    for path in all.iter().skip(seed as usize % 100).step_by(100) {
        let mut file = File::options().append(true).open(path)?;
        writeln!(file, "changed by a benchmark")?;
    }
    eprintln!("  vault.files: {} of {} files changed", all.len() / 100, all.len());
    Ok(())
}
