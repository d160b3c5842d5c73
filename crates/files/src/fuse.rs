//! FUSE mounts without a mount point and without libfuse.
//!
//! Invariant: a mount that was never attached ends with the last descriptor on it: when its process dies, nothing of it
//! is left anywhere. One that was attached shows errors then, until it is unmounted.

use crate::FilesError;
use fuser::{Config, Filesystem, Session, SessionACL};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// A file system that is served, and attached nowhere yet.
#[derive(Debug)]
pub struct Detached(OwnedFd);

fn failed(what: &str, e: impl std::fmt::Display) -> FilesError {
    FilesError::Invalid(format!("{what}: {e}; mounting needs root, /dev/fuse and Linux 5.2 or later"))
}

impl Detached {
    /// Serves `files` with so many threads, which end with the mount. Nobody can write unless it is `writable`.
    ///
    /// # Errors
    /// Without root's rights or FUSE.
    pub fn serve(
        files: impl Filesystem,
        name: &str,
        threads: usize,
        writable: bool,
    ) -> Result<Self, FilesError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())
            .map_err(|e| failed("cannot open /dev/fuse", e))?;
        let mount = Self::mount(&device, name, writable).map_err(|e| failed("cannot mount", e))?;
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        let session = Session::from_fd(files, device, SessionACL::All, config)
            .map_err(|e| failed("cannot serve the mount", e))?;
        let served = std::thread::Builder::new().name("fuse".into()).spawn(move || {
            if let Err(e) = session.run() {
                tracing::debug!("a mount ended: {e}");
            }
        });
        served.map_err(|e| failed("cannot start a thread", e))?;
        Ok(Self(mount))
    }

    fn mount(device: &OwnedFd, name: &str, writable: bool) -> Result<OwnedFd, Errno> {
        let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let id = |id: u32| id.to_string();
        fsconfig_set_string(&fs, "source", name)?;
        fsconfig_set_string(&fs, "fd", id(device.as_raw_fd().unsigned_abs()))?;
        fsconfig_set_string(&fs, "rootmode", "40000")?;
        fsconfig_set_string(&fs, "user_id", id(rustix::process::geteuid().as_raw()))?;
        fsconfig_set_string(&fs, "group_id", id(rustix::process::getegid().as_raw()))?;
        fsconfig_set_flag(&fs, "default_permissions")?;
        fsconfig_set_flag(&fs, "allow_other")?;
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        if !writable {
            fsconfig_set_flag(&fs, "ro")?;
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    /// Its root directory.
    pub fn root(&self) -> &OwnedFd {
        &self.0
    }

    /// Shows it at an existing directory, for everybody.
    ///
    /// # Errors
    /// When that is no directory to mount on.
    pub fn attach(self, directory: &Path) -> Result<(), FilesError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.0, "", rustix::fs::CWD, directory, flags)
            .map_err(|e| failed(&format!("cannot mount on {}", directory.display()), e))
    }
}

/// Ends a mount's connection when this process dies while one of its own threads waits for the mount: such a thread cannot
/// be killed, and what would answer it is gone.
#[derive(Debug)]
pub struct Watchdog {
    stdin: Option<ChildStdin>,
    thread: Option<JoinHandle<()>>,
}

/// Waits for the end of its input, which is the mount's end; or for the death of who started it.
const WATCH: &str = "trap 'echo 1; exit' USR1; read end";

impl Detached {
    /// A process of its own that watches over this one: for mounts that this process itself reads.
    ///
    /// # Errors
    /// Without `sh`, or a kernel that can end connections.
    pub fn watch(&self) -> Result<Watchdog, FilesError> {
        let abort = File::from(self.abort().map_err(|e| failed("cannot watch over the mount", e))?);
        let (told, started) = sync_channel(1);
        // The signal comes when this thread ends, so it lives as long as the process, or the mount.
        let thread = std::thread::Builder::new().name("fuse-watch".into()).spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", WATCH]).stdin(Stdio::piped()).stdout(abort).stderr(Stdio::null());
            // SAFETY: one system call, which may be made between fork and exec.
            unsafe {
                command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::USR1))?));
            }
            match command.spawn() {
                Ok(mut child) => {
                    let _ = told.send(Ok(child.stdin.take()));
                    let _ = child.wait();
                }
                Err(e) => drop(told.send(Err(e))),
            }
        });
        let thread = thread.map_err(|e| failed("cannot start a thread", e))?;
        let stdin = started.recv().map_err(|e| failed("cannot start sh", e))?;
        let stdin = stdin.map_err(|e| failed("cannot start sh", e))?;
        Ok(Watchdog { stdin, thread: Some(thread) })
    }

    /// The file that ends the connection when it is written to.
    fn abort(&self) -> Result<OwnedFd, Errno> {
        let device = rustix::fs::fstat(&self.0)?.st_dev;
        // As the kernel writes a device's number in 32 bits; the major one is 0.
        let minor = rustix::fs::minor(device);
        let connection = (minor & 0xff) | ((minor & !0xff) << 12);
        let control = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&control)?;
        let control = fsmount(&control, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&control, format!("{connection}/abort"), flags, Mode::empty())
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes what is mounted at a directory away.
///
/// # Errors
/// When somebody uses it.
pub fn detach(directory: &Path) -> Result<(), FilesError> {
    unmount(directory, UnmountFlags::NOFOLLOW).map_err(|e| {
        let why = match e {
            Errno::BUSY => "somebody uses it; leave the directory and close its files first".into(),
            e => format!("cannot be unmounted: {e}"),
        };
        FilesError::Path { path: directory.display().to_string(), why }
    })
}

/// Takes away what a process that is no more left there: a mount that answers with errors only.
pub fn reap(directory: &Path) -> bool {
    // Attributes may still be in the system's cache; this asks whoever is there. The second is for who asks in the moment in
    // which it dies.
    let asked = rustix::fs::statfs(directory);
    let dead = asked.is_err_and(|e| matches!(e, Errno::NOTCONN | Errno::CONNABORTED));
    dead && unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok()
}

/// Takes it out of sight at once; it ends when nobody uses it any more.
pub fn let_go(directory: &Path) {
    if let Err(e) = unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        tracing::debug!("{}: {e}", directory.display());
    }
}
