//! The connection: greeting, commands matched by id, and the thread that reads.

use crate::error::QmpError;
use crate::events::{Event, Events, Hub};
use lifeboat_base::limits::MAX_QMP_MESSAGE;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The version QEMU greets with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub micro: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

type Reply = Result<Value, (String, String)>;

/// Commands on their way; `None` once the connection has ended.
type Pending = Mutex<Option<HashMap<u64, SyncSender<Reply>>>>;

/// A connection to one machine's monitor. Any number of threads may use it at once; dropping it
/// lets the next client in.
pub struct Qmp {
    path: PathBuf,
    timeout: Duration,
    version: Version,
    next_id: AtomicU64,
    writer: Mutex<UnixStream>,
    pending: Arc<Pending>,
    hub: Arc<Hub>,
    reader: Option<JoinHandle<()>>,
}

impl fmt::Debug for Qmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qmp")
            .field("path", &self.path)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Qmp {
    /// Connects, takes the greeting and enters command mode. `timeout` holds for each of the steps
    /// here and is what [`execute`](Self::execute) allows.
    ///
    /// # Errors
    /// [`QmpError::NoSocket`], [`QmpError::Refused`], [`QmpError::Busy`] when no greeting came in
    /// time, [`QmpError::Protocol`] when something else listens there.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let stream = open(path, timeout)?;
        let lost = |e: io::Error| QmpError::Protocol(format!("the socket cannot be set up ({e})"));
        let mut lines = Lines::new(stream.try_clone().map_err(lost)?);
        stream.set_read_timeout(Some(timeout)).map_err(lost)?;
        stream.set_write_timeout(Some(timeout)).map_err(lost)?;
        let version = match lines.next() {
            Ok(Some(greeting)) => parse_greeting(&greeting)?,
            Ok(None) => return Err(QmpError::Closed),
            Err(LineError::Io(e)) if is_timeout(&e) => return Err(QmpError::Busy { path: path.into() }),
            Err(LineError::Io(_)) => return Err(QmpError::Closed),
            Err(LineError::Bad(why)) => return Err(QmpError::Protocol(why)),
        };
        stream.set_read_timeout(None).map_err(lost)?;
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let hub = Arc::new(Hub::default());
        let reader = {
            let (pending, hub) = (pending.clone(), hub.clone());
            std::thread::Builder::new()
                .name("qmp-reader".into())
                .spawn(move || read_loop(lines, &pending, &hub))
                .map_err(lost)?
        };
        let qmp = Self {
            path: path.into(),
            timeout,
            version,
            next_id: AtomicU64::new(1),
            writer: Mutex::new(stream),
            pending,
            hub,
            reader: Some(reader),
        };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The socket this is connected to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Events from now on. Each call makes a listener of its own.
    pub fn events(&self) -> Events {
        self.hub.listen()
    }

    /// True once the connection has ended; every further command fails.
    pub fn closed(&self) -> bool {
        self.pending.lock().is_none()
    }

    /// Runs one command; `args` is a JSON object, or `Value::Null` for none.
    ///
    /// # Errors
    /// [`QmpError::Command`] when QEMU refused, [`QmpError::Closed`], [`QmpError::Timeout`].
    pub fn execute(&self, command: &str, args: Value) -> Result<Value, QmpError> {
        self.execute_within(command, args, self.timeout)
    }

    /// As [`execute`](Self::execute) with a deadline of its own.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn execute_within(&self, command: &str, args: Value, timeout: Duration) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"execute": command, "id": id});
        if !args.is_null() {
            message["arguments"] = args;
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(b'\n');
        let (tx, rx) = sync_channel(1);
        match self.pending.lock().as_mut() {
            Some(pending) => pending.insert(id, tx),
            None => return Err(QmpError::Closed),
        };
        let sent = self.writer.lock().write_all(&bytes);
        if let Err(e) = sent {
            self.forget(id);
            // A line cut short would swallow the next command: the connection is of no more use.
            let _ = self.writer.lock().shutdown(Shutdown::Both);
            return Err(if is_timeout(&e) { timed_out(command, timeout) } else { QmpError::Closed });
        }
        match rx.recv_timeout(timeout) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err((class, desc))) => Err(QmpError::Command { command: command.into(), class, desc }),
            Err(RecvTimeoutError::Disconnected) => Err(QmpError::Closed),
            Err(RecvTimeoutError::Timeout) => {
                self.forget(id);
                Err(timed_out(command, timeout))
            }
        }
    }

    fn forget(&self, id: u64) {
        if let Some(pending) = self.pending.lock().as_mut() {
            pending.remove(&id);
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        let _ = self.writer.lock().shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Connects with a deadline. The backlog of a QMP socket is short: when others wait already,
/// connecting itself blocks.
fn open(path: &Path, timeout: Duration) -> Result<UnixStream, QmpError> {
    let refused = |why: String, hint: &'static str| QmpError::Refused { path: path.to_path_buf(), why, hint };
    let address = SocketAddrUnix::new(path)
        .map_err(|_| refused("the path is too long for a socket".into(), "use a path under 108 bytes"))?;
    let from_os = |e: Errno| match e {
        Errno::NOENT | Errno::NOTDIR => QmpError::NoSocket { path: path.to_path_buf() },
        Errno::AGAIN | Errno::INPROGRESS | Errno::TIMEDOUT => QmpError::Busy { path: path.to_path_buf() },
        Errno::ACCESS | Errno::PERM => {
            refused(e.to_string(), "run as root or as the user that runs QEMU, or change the socket's owner")
        }
        _ => refused(e.to_string(), "the machine has probably ended; start it again"),
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(from_os)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeout)).map_err(from_os)?;
    rustix::net::connect(&socket, &address).map_err(from_os)?;
    Ok(UnixStream::from(socket))
}

fn timed_out(command: &str, after: Duration) -> QmpError {
    QmpError::Timeout { command: command.into(), after }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn parse_greeting(greeting: &Value) -> Result<Version, QmpError> {
    let version = &greeting["QMP"]["version"]["qemu"];
    match (version["major"].as_u64(), version["minor"].as_u64(), version["micro"].as_u64()) {
        (Some(major), Some(minor), Some(micro)) => Ok(Version { major, minor, micro }),
        _ => Err(QmpError::Protocol("it sent no QMP greeting; is this the path of a QMP socket?".into())),
    }
}

fn read_loop(mut lines: Lines, pending: &Pending, hub: &Hub) {
    loop {
        match lines.next() {
            Ok(Some(message)) => dispatch(message, pending, hub),
            Ok(None) => break,
            Err(LineError::Io(e)) => {
                tracing::debug!(error = %e, "monitor connection lost");
                break;
            }
            Err(LineError::Bad(why)) => {
                tracing::warn!(%why, "monitor connection given up");
                let _ = lines.stream.get_ref().shutdown(Shutdown::Both);
                break;
            }
        }
    }
    // Dropping the senders wakes every waiting command with `Closed`.
    pending.lock().take();
    hub.close();
}

fn dispatch(mut message: Value, pending: &Pending, hub: &Hub) {
    if let Some(name) = message["event"].as_str() {
        let stamp = &message["timestamp"];
        let seconds = stamp["seconds"].as_u64().unwrap_or(0);
        let micros =
            seconds.saturating_mul(1_000_000).saturating_add(stamp["microseconds"].as_u64().unwrap_or(0));
        let name = name.to_string();
        hub.send(&Event { name, data: message["data"].take(), micros });
        return;
    }
    let Some(id) = message["id"].as_u64() else {
        tracing::warn!("the monitor sent a reply without an id; ignored");
        return;
    };
    let Some(waiter) = pending.lock().as_mut().and_then(|p| p.remove(&id)) else {
        return;
    };
    let reply = match message.get_mut("error") {
        Some(error) => {
            let text = |v: &Value| v.as_str().unwrap_or("no reason given").to_string();
            Err((text(&error["class"]), text(&error["desc"])))
        }
        None => Ok(message["return"].take()),
    };
    // The waiter may have given up in this very moment.
    let _ = waiter.try_send(reply);
}

enum LineError {
    Io(io::Error),
    Bad(String),
}

/// JSON messages, one per line, each at most [`MAX_QMP_MESSAGE`] bytes.
struct Lines {
    stream: BufReader<UnixStream>,
    buf: Vec<u8>,
}

impl Lines {
    fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::with_capacity(64 * 1024, stream), buf: Vec::new() }
    }

    /// `None` at the end of the connection.
    fn next(&mut self) -> Result<Option<Value>, LineError> {
        loop {
            self.buf.clear();
            let limit = MAX_QMP_MESSAGE as u64 + 1;
            let n = (&mut self.stream).take(limit).read_until(b'\n', &mut self.buf).map_err(LineError::Io)?;
            if n == 0 {
                return Ok(None);
            }
            if self.buf.last() != Some(&b'\n') {
                return if n > MAX_QMP_MESSAGE {
                    Err(LineError::Bad(format!("it sent a message of more than {MAX_QMP_MESSAGE} bytes")))
                } else {
                    Ok(None)
                };
            }
            if self.buf.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let parsed = serde_json::from_slice(&self.buf);
            if self.buf.capacity() > 256 * 1024 {
                self.buf = Vec::new();
            }
            return parsed.map(Some).map_err(|e| LineError::Bad(format!("it sent no JSON ({e})")));
        }
    }
}

#[cfg(test)]
mod tests;
