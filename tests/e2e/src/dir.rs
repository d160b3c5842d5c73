//! A test's own directory.

use std::path::{Path, PathBuf};

/// Removed when the test passes, kept when it panics or with `KEEP=1`.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// # Panics
    /// When no directory can be made.
    pub fn new(name: &str) -> Self {
        Self::within(&std::env::temp_dir(), name)
    }

    /// Inside `parent`, for what needs a file system of its own choice.
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn within(parent: &Path, name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("lifeboat-{name}-")).tempdir_in(parent);
        Self { path: dir.expect("no room for a temporary directory").keep() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new directory inside.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
