//! Little room.

use crate::dir::TestDir;
use crate::tool::run;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own, unmounted when dropped. For root.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// An ext4 of `mib` in a file, mounted inside `dir`.
    ///
    /// # Panics
    /// When it cannot be made or mounted.
    pub fn mount(dir: &TestDir, mib: u64) -> Self {
        let image = dir.join("small.img");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        let at = dir.make("small");
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Self(at)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: who uses it may still be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
