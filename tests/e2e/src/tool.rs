//! Finding and running programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The repository's root.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap())
}

/// The workspace's own program `name`, built in the profile this test was.
///
/// # Panics
/// When it was not built.
pub fn binary(name: &str) -> PathBuf {
    // This test is target/PROFILE/deps/NAME-HASH.
    let me = std::env::current_exe().unwrap();
    let profile = me.ancestors().find(|p| p.join("deps").is_dir()).map(Path::to_path_buf);
    let path = profile.unwrap_or_else(|| repository().join("target/debug")).join(name);
    assert!(path.exists(), "{} is not built; run: cargo build --bins", path.display());
    path
}

/// `lifeboat-sim` for this machine (guests have a static one).
pub fn sim_binary() -> PathBuf {
    binary("lifeboat-sim")
}

/// Whether `program` can be found.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot start or fails, with all it said.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run scripts/setup.sh test"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A TCP port of the loopback that is free now. Where a program can take port 0 itself, let it.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
