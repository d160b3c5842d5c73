//! The accepting side: sockets, stale and live, and the thread that accepts.

use super::{ServeError, Shared, connection};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const BACKLOG: i32 = 64;

/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Socket {
    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(l) => l.accept().map(|(s, _)| s.into()),
            Self::Tcp(l) => l.accept().map(|(s, _)| s.into()),
        }
    }

    fn raw(&self) -> i32 {
        match self {
            Self::Unix(l) => l.as_raw_fd(),
            Self::Tcp(l) => l.as_raw_fd(),
        }
    }
}

/// The file of a Unix socket, known by its inode so that a successor's file is left alone.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

pub(super) struct Listener {
    socket: Arc<Socket>,
    address: Option<SocketAddr>,
    file: Option<SocketFile>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub fn tcp(address: SocketAddr, shared: Arc<Shared>) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Listen { at: address.to_string(), source };
        let listener = TcpListener::bind(address).map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        Self::start(Socket::Tcp(listener), Some(bound), None, shared).map_err(fail)
    }

    pub fn unix(path: &Path, shared: Arc<Shared>) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Listen { at: path.display().to_string(), source };
        clear_stale(path)?;
        let listener = bind_private(path).map_err(fail)?;
        let meta = fs::symlink_metadata(path).map_err(fail)?;
        let file = SocketFile { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
        Self::start(Socket::Unix(listener), None, Some(file), shared).map_err(fail)
    }

    fn start(
        socket: Socket,
        address: Option<SocketAddr>,
        file: Option<SocketFile>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let accepting = Arc::clone(&socket);
        let thread = std::thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || accept_all(&accepting, &shared))?;
        Ok(Self { socket, address, file, thread: Some(thread) })
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Ends the accepting thread; the registry must say that the server is closed. Removes the socket's file.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // SAFETY: plain system call on an open socket. On Linux it wakes a blocked accept.
            unsafe { libc::shutdown(self.socket.raw(), libc::SHUT_RDWR) };
            let _ = thread.join();
        }
        if let Some(file) = self.file.take() {
            let ours = fs::symlink_metadata(&file.path)
                .is_ok_and(|m| m.dev() == file.device && m.ino() == file.inode);
            if ours {
                let _ = fs::remove_file(&file.path);
            }
        }
    }
}

fn accept_all(socket: &Socket, shared: &Arc<Shared>) {
    loop {
        let accepted = socket.accept();
        if shared.is_closed() {
            return;
        }
        match accepted {
            Ok(stream) => connection::start(shared, stream),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                tracing::warn!("cannot accept an NBD connection: {e}");
                shared.pause(ACCEPT_RETRY);
            }
        }
    }
}

/// Removes what a dead server left at `path`.
fn clear_stale(path: &Path) -> Result<(), ServeError> {
    let fail = |source| ServeError::Listen { at: path.display().to_string(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(fail),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Answered, or too busy to: somebody holds it.
        Ok(_) => Err(ServeError::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(ServeError::InUse(path.to_owned())),
        Err(e) => Err(fail(e)),
    }
}

/// Binds with mode 0600 from the first moment: on Linux the file takes the mode of the unbound socket.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: plain system call on an open socket.
    if unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(fd))
}
