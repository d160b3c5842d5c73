//! Single tries of a check.

use super::super::error::LaunchError;
use super::super::network::GuestSide;
use super::reason;
use lifeboat_base::Clock;
use regex::bytes::Regex;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// What one try found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    Passed(String),
    NotYet(String),
    /// No later try can be different.
    Never(String),
}

/// Where a guest port is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Through QEMU, at this port of 127.0.0.1.
    Forwarded(u16),
    /// `host:port`
    Direct(String),
}

impl Target {
    pub(super) fn address(&self) -> String {
        match self {
            Self::Forwarded(port) => format!("127.0.0.1:{port}"),
            Self::Direct(address) => address.clone(),
        }
    }
}

/// Most bytes of an HTTP answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// How long to listen between two looks at QEMU's connection table.
const LISTEN: Duration = Duration::from_millis(50);

fn connect(address: &str, time: Duration) -> Result<TcpStream, String> {
    let mut last = "the name has no address".to_string();
    for socket in address.to_socket_addrs().map_err(|e| format!("{address}: {e}"))?.take(4) {
        match TcpStream::connect_timeout(&socket, time.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = reason(&e),
        }
    }
    Err(last)
}

/// Whether the guest accepts a connection. QEMU accepts forwarded ones before it asks the guest, so
/// there the proof is a byte from the guest or an established connection on the guest's side.
pub(super) fn tcp(
    target: &Target,
    time: Duration,
    clock: &dyn Clock,
    guest_side: &dyn Fn(u16) -> Result<GuestSide, LaunchError>,
) -> Attempt {
    let until = clock.monotonic() + time;
    let mut stream = match connect(&target.address(), time) {
        Ok(stream) => stream,
        Err(why) => return Attempt::NotYet(why),
    };
    let Target::Forwarded(host_port) = *target else {
        return Attempt::Passed("connected".into());
    };
    if let Err(e) = stream.set_read_timeout(Some(LISTEN)) {
        return Attempt::NotYet(reason(&e));
    }
    let mut banner = [0; 64];
    loop {
        match stream.read(&mut banner) {
            Ok(0) => return Attempt::NotYet("the guest refused the connection".into()),
            Ok(_) => return Attempt::Passed("connected, and the guest spoke".into()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) => return Attempt::NotYet(format!("the guest refused the connection ({})", reason(&e))),
        }
        match guest_side(host_port) {
            Ok(GuestSide::Established) => return Attempt::Passed("connected".into()),
            Ok(GuestSide::Waiting | GuestSide::Absent) => {}
            Err(e) => return Attempt::NotYet(e.to_string()),
        }
        if clock.monotonic() >= until {
            return Attempt::NotYet("the guest does not answer".into());
        }
    }
}

/// `GET path` answers with a status below 500.
pub(super) fn http(address: &str, path: &str, time: Duration, clock: &dyn Clock) -> Attempt {
    let until = clock.monotonic() + time;
    let stream = match connect(address, time) {
        Ok(stream) => stream,
        Err(why) => return Attempt::NotYet(why),
    };
    match get(stream, address, path, until, clock) {
        Ok(status) if status < 500 => Attempt::Passed(format!("status {status}")),
        Ok(status) => Attempt::NotYet(format!("status {status}")),
        Err(e) => Attempt::NotYet(reason(&e)),
    }
}

/// The status of the answer. Reads its head only, and only until `until`, however slowly it drips.
fn get(mut stream: TcpStream, host: &str, path: &str, until: Duration, clock: &dyn Clock) -> io::Result<u16> {
    let odd = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
    let left = || match until.saturating_sub(clock.monotonic()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(Some(left)),
    };
    stream.set_write_timeout(left()?)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lifeboat\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut buf = [0; 4096];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Err(odd("the head of the answer has no end"));
        }
        stream.set_read_timeout(left()?)?;
        match stream.read(&mut buf)? {
            0 if head.is_empty() => return Err(odd("the connection was closed without an answer")),
            0 => return Err(odd("the answer was cut short")),
            n => head.extend_from_slice(&buf[..n]),
        }
    }
    // "HTTP/1.1 200 OK"
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| odd("the answer is not HTTP"))?;
    let mut words = line.split(' ');
    match (words.next(), words.next().and_then(|s| s.parse().ok())) {
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") && (100..=599).contains(&status) => {
            Ok(status)
        }
        _ => Err(odd("the answer is not HTTP")),
    }
}

/// Bytes of the serial log read at a time.
const CHUNK: usize = 64 * 1024;

/// Bytes kept from one look to the next, so that a match across the seam is found.
const OVERLAP: usize = 16 * 1024;

/// Follows the serial log.
#[derive(Debug)]
pub(super) struct SerialScan {
    path: PathBuf,
    offset: u64,
    window: Vec<u8>,
}

impl SerialScan {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, window: Vec::new() }
    }

    /// Reads what is new, in bounded pieces, and looks for a match.
    pub(super) fn look(&mut self, regex: &Regex) -> Result<Attempt, LaunchError> {
        let mut file = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Attempt::NotYet("the guest has printed nothing".into()));
            }
            other => other.map_err(LaunchError::io("read", &self.path))?,
        };
        file.seek(SeekFrom::Start(self.offset)).map_err(LaunchError::io("read", &self.path))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = file.read(&mut chunk).map_err(LaunchError::io("read", &self.path))?;
            if n == 0 {
                return Ok(Attempt::NotYet(self.last_line()));
            }
            self.offset += n as u64;
            self.window.extend_from_slice(&chunk[..n]);
            if let Some(found) = regex.find(&self.window) {
                return Ok(Attempt::Passed(String::from_utf8_lossy(found.as_bytes()).into_owned()));
            }
            let over = self.window.len().saturating_sub(OVERLAP);
            if over > 0 {
                // At the start of a line, so that `^` still means one.
                let line = self.window[over..].iter().position(|b| *b == b'\n');
                self.window.drain(..over + line.map_or(0, |at| at + 1));
            }
        }
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.window);
        match text.lines().rev().find(|l| !l.trim().is_empty()) {
            Some(line) => format!("no match; the last line is: {}", line.trim()),
            None => "the guest has printed nothing".into(),
        }
    }
}

#[cfg(test)]
mod tests;
