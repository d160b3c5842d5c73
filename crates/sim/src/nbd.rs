//! A plain NBD client: fixed newstyle, `NBD_OPT_GO`, simple replies, many requests at once on one connection.
//!
//! - Each reply finds its request by cookie; an unknown cookie or a wrong magic number ends the connection for all.
//! - Nothing waits longer than [`PATIENCE`].

use crate::oracle::Target;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Longest wait for one reply.
pub const PATIENCE: Duration = Duration::from_secs(120);

const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const MAX_OPTION_REPLY: usize = 65536;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

const HAS_FLUSH: u16 = 1 << 2;
const HAS_TRIM: u16 = 1 << 5;
const HAS_ZEROES: u16 = 1 << 6;

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(s) => Self::Unix(s.try_clone()?),
            Self::Tcp(s) => Self::Tcp(s.try_clone()?),
        })
    }

    fn shutdown(&self) {
        let _ = match self {
            Self::Unix(s) => s.shutdown(Shutdown::Both),
            Self::Tcp(s) => s.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.read(buf),
            Self::Tcp(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.write(buf),
            Self::Tcp(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Answer = Result<Vec<u8>, u32>;

struct Waiting {
    read_len: usize,
    reply: SyncSender<Answer>,
}

#[derive(Default)]
struct Pending {
    waiting: HashMap<u64, Waiting>,
    closed: bool,
}

/// One connection to an export.
pub struct NbdClient {
    size: u64,
    flags: u16,
    cookies: AtomicU64,
    out: Mutex<Stream>,
    pending: Arc<Mutex<Pending>>,
    reader: Option<thread::JoinHandle<()>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn protocol(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD: {}", what.into()))
}

impl NbdClient {
    /// Connects to `unix:PATH[:EXPORT]` or `tcp:HOST:PORT[/EXPORT]`; the export's name may be left out.
    ///
    /// # Errors
    /// When nobody listens, or what listens refuses or is no NBD server.
    pub fn connect(address: &str) -> io::Result<Self> {
        if let Some(rest) = address.strip_prefix("unix:") {
            let (path, export) = rest.split_once(':').unwrap_or((rest, ""));
            return Self::over(Stream::Unix(UnixStream::connect(path)?), export);
        }
        let rest = address
            .strip_prefix("tcp:")
            .ok_or_else(|| protocol(format!("'{address}' is neither unix:PATH nor tcp:HOST:PORT")))?;
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Self::over(Stream::Tcp(stream), export)
    }

    fn over(mut stream: Stream, export: &str) -> io::Result<Self> {
        let (size, flags) = handshake(&mut stream, export)?;
        let input = stream.try_clone()?;
        let pending = Arc::<Mutex<Pending>>::default();
        let theirs = Arc::clone(&pending);
        let reader = thread::spawn(move || {
            let _ = read_replies(input, &theirs);
            let mut pending = lock(&theirs);
            pending.closed = true;
            pending.waiting.clear();
        });
        Ok(Self {
            size,
            flags,
            cookies: AtomicU64::new(1),
            out: Mutex::new(stream),
            pending,
            reader: Some(reader),
        })
    }

    fn call(&self, command: u16, offset: u64, len: usize, data: &[u8]) -> io::Result<Vec<u8>> {
        let cookie = self.cookies.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = sync_channel(1);
        {
            let mut pending = lock(&self.pending);
            if pending.closed {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let read_len = if command == READ { len } else { 0 };
            pending.waiting.insert(cookie, Waiting { read_len, reply });
        }
        let len = u32::try_from(len).map_err(|_| protocol("request over 4 GiB"))?;
        let mut bytes = Vec::with_capacity(28 + data.len());
        bytes.extend_from_slice(&REQUEST.to_be_bytes());
        bytes.extend_from_slice(&0u16.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(data);
        lock(&self.out).write_all(&bytes)?;
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(errno)) => Err(io::Error::from_raw_os_error(errno.cast_signed())),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }
}

fn get<const N: usize>(stream: &mut Stream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Returns the export's size and transmission flags.
fn handshake(stream: &mut Stream, export: &str) -> io::Result<(u64, u16)> {
    if &get::<8>(stream)? != b"NBDMAGIC" || u64::from_be_bytes(get(stream)?) != IHAVEOPT {
        return Err(protocol("this is no newstyle NBD server"));
    }
    let server = u16::from_be_bytes(get(stream)?);
    if server & 1 == 0 {
        return Err(protocol("the server does not speak fixed newstyle"));
    }
    stream.write_all(&u32::from(server & 3).to_be_bytes())?;
    let name_len = u32::try_from(export.len()).map_err(|_| protocol("export name too long"))?;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&IHAVEOPT.to_be_bytes());
    bytes.extend_from_slice(&OPT_GO.to_be_bytes());
    bytes.extend_from_slice(&(4 + name_len + 2).to_be_bytes());
    bytes.extend_from_slice(&name_len.to_be_bytes());
    bytes.extend_from_slice(export.as_bytes());
    bytes.extend_from_slice(&0u16.to_be_bytes());
    stream.write_all(&bytes)?;
    let mut found = None;
    loop {
        if u64::from_be_bytes(get(stream)?) != OPTION_REPLY || u32::from_be_bytes(get(stream)?) != OPT_GO {
            return Err(protocol("wrong option reply"));
        }
        let kind = u32::from_be_bytes(get(stream)?);
        let len = u32::from_be_bytes(get(stream)?) as usize;
        if len > MAX_OPTION_REPLY {
            return Err(protocol("option reply too long"));
        }
        let mut data = vec![0; len];
        stream.read_exact(&mut data)?;
        match kind {
            REP_ACK => return found.ok_or_else(|| protocol("the server told no size")),
            REP_INFO if len == 12 && data[..2] == [0, 0] => {
                let size = data[2..10].try_into().map(u64::from_be_bytes).unwrap_or_default();
                found = Some((size, u16::from_be_bytes([data[10], data[11]])));
            }
            REP_INFO => {}
            _ => {
                let text = String::from_utf8_lossy(&data).into_owned();
                return Err(protocol(format!("the server refused export '{export}': {kind:#x} {text}")));
            }
        }
    }
}

fn read_replies(mut input: Stream, pending: &Mutex<Pending>) -> io::Result<()> {
    loop {
        if u32::from_be_bytes(get(&mut input)?) != SIMPLE_REPLY {
            return Err(protocol("wrong reply magic"));
        }
        let errno = u32::from_be_bytes(get(&mut input)?);
        let cookie = u64::from_be_bytes(get(&mut input)?);
        let asked = lock(pending).waiting.remove(&cookie).ok_or_else(|| protocol("reply to nothing"))?;
        let answer = if errno == 0 {
            let mut data = vec![0; asked.read_len];
            input.read_exact(&mut data)?;
            Ok(data)
        } else {
            Err(errno)
        };
        let _ = asked.reply.send(answer);
    }
}

impl Target for NbdClient {
    fn size(&self) -> u64 {
        self.size
    }

    fn can_zero(&self) -> bool {
        self.flags & HAS_ZEROES != 0
    }

    fn can_trim(&self) -> bool {
        self.flags & HAS_TRIM != 0
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(&self.call(READ, offset, buf.len(), &[])?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(WRITE, offset, data.len(), data).map(drop)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(WRITE_ZEROES, offset, usize::try_from(len).map_err(io::Error::other)?, &[]).map(drop)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(TRIM, offset, usize::try_from(len).map_err(io::Error::other)?, &[]).map(drop)
    }

    fn flush(&self) -> io::Result<()> {
        if self.flags & HAS_FLUSH == 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the export has no flush"));
        }
        self.call(FLUSH, 0, 0, &[]).map(drop)
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&REQUEST.to_be_bytes());
        bytes[6..8].copy_from_slice(&DISCONNECT.to_be_bytes());
        let mut out = lock(&self.out);
        let _ = out.write_all(&bytes);
        out.shutdown();
        drop(out);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests;
