//! qcow2 overlays: made by `qemu-img`, and the one field of their header that tells whether they
//! still need what lies below.
//!
//! Start of a qcow2 file, all big-endian (QEMU's `docs/interop/qcow2.txt`):
//! ```text
//! 0..4    "QFI\xfb"                 16..20  length of the backing file's name
//! 4..8    version                   20..24  cluster bits
//! 8..16   offset of the backing     24..32  size of the disk in bytes
//!         file's name; 0: none
//! ```
//! The overlay is made with the mount's URI as its backing file. QEMU is told the backing node
//! explicitly, so the name is only a mark, and QEMU itself clears it when hydration is complete:
//! the truth is in the overlay, whatever crashes.

use super::error::LaunchError;
use super::process::run_tool;
use super::spec::RunDisk;
use lifeboat_base::Clock;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Package of `qemu-img`.
const UTILS_PACKAGE: &str = "qemu-utils";

const DEADLINE: Duration = Duration::from_secs(60);

/// What an overlay's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub size: u64,
    /// It reads what it lacks from the mount.
    pub needs_backing: bool,
}

impl Header {
    /// `None` when there is no overlay yet.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, LaunchError> {
        let mut bytes = [0; 32];
        match File::open(path).and_then(|mut f| f.read_exact(&mut bytes)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LaunchError::io("read", path)(e)),
        }
        Self::parse(&bytes).map(Some).ok_or_else(|| {
            LaunchError::Spec(format!(
                "{} exists and is no qcow2 image; it is not overwritten: choose another file",
                path.display()
            ))
        })
    }

    fn parse(b: &[u8; 32]) -> Option<Self> {
        let field = |at: usize| b[at..at + 8].iter().fold(0, |v, b| v << 8 | u64::from(*b));
        let version = field(0) & 0xffff_ffff;
        (b.starts_with(b"QFI\xfb") && (2..=3).contains(&version))
            .then(|| Self { size: field(24), needs_backing: field(8) != 0 })
    }
}

/// Makes the overlay of a disk unless it is there; true when it was made.
///
/// Whole clusters only: with subclusters (`extended_l2`) a guest's small write would copy nothing from the mount,
/// but QEMU (7.2 seen) aborts on an assertion of its copy-on-read when such an overlay is streamed under a writing guest.
pub(super) fn ensure(qemu_img: &Path, disk: &RunDisk, clock: &dyn Clock) -> Result<bool, LaunchError> {
    let path = &disk.overlay;
    if let Some(header) = Header::read(path)? {
        if header.size == disk.size {
            return Ok(false);
        }
        return Err(LaunchError::Spec(format!(
            "{} exists with {} bytes, the disk has {}: choose another file",
            path.display(),
            header.size,
            disk.size
        )));
    }
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut command = Command::new(qemu_img);
    command
        .args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", &uri(disk)])
        .args(["-o", "cluster_size=64k"])
        .arg(&new)
        .arg(disk.size.to_string());
    let end = run_tool(&mut command, UTILS_PACKAGE, DEADLINE, clock)?;
    if !end.ok() {
        let _ = fs::remove_file(&new);
        let what = format!("making {} ({})", path.display(), end.how());
        return Err(LaunchError::Tool { what, output: end.output });
    }
    File::open(&new)
        .and_then(|f| f.sync_all())
        .and_then(|()| fs::rename(&new, path))
        .map_err(LaunchError::io("write", path))?;
    Ok(true)
}

/// `nbd+unix:///EXPORT?socket=PATH`
fn uri(disk: &RunDisk) -> String {
    let quote = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut s, &b| {
            if b.is_ascii_alphanumeric() || b"/-_.~".contains(&b) {
                s.push(char::from(b));
            } else {
                s.push_str(&format!("%{b:02X}"));
            }
            s
        })
    };
    let socket = quote(disk.nbd_socket.as_os_str().as_bytes());
    format!("nbd+unix:///{}?socket={socket}", quote(disk.export.as_bytes()))
}

/// The mount answers on its socket. Asked before QEMU is started, so that the reason is clear.
pub(super) fn mount_answers(index: usize, disk: &RunDisk) -> Result<(), LaunchError> {
    std::os::unix::net::UnixStream::connect(&disk.nbd_socket).map(drop).map_err(|e| LaunchError::NoMount {
        disk: index,
        socket: disk.nbd_socket.clone(),
        why: e.to_string(),
    })
}

#[cfg(test)]
mod tests;
