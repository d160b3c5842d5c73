//! Who the service tells its numbers: outside of the protected machine, so that a loss can be measured.
//!
//! - A number is in the file, on stable storage, before it counts as seen.
//! - The teller never waits for the witness.
//!
//! On the wire each number is its decimal digits and a newline. In the file: `number milliseconds-since-1970`.

use crate::clock;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const LONGEST_LINE: u64 = 32;
const WAITING: usize = 4096;

/// One number the witness has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub number: u64,
    /// The witness's clock, milliseconds since 1970.
    pub time_ms: u64,
}

/// A listening witness. Serves until the process ends.
#[derive(Debug, Clone)]
pub struct Witness {
    address: SocketAddr,
    last: Arc<Mutex<Option<Sighting>>>,
}

impl Witness {
    /// Listens on `listen` (port 0 for any) and appends to `out`.
    ///
    /// # Errors
    /// When the address is taken or the file cannot be opened.
    pub fn start(listen: &str, out: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let file = Arc::new(Mutex::new(OpenOptions::new().append(true).create(true).open(out)?));
        let witness = Self { address: listener.local_addr()?, last: Arc::default() };
        let last = Arc::clone(&witness.last);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (file, last) = (Arc::clone(&file), Arc::clone(&last));
                thread::spawn(move || listen_to(stream, &file, &last));
            }
        });
        Ok(witness)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The newest number, by the order of arrival.
    pub fn last(&self) -> Option<Sighting> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen_to(stream: TcpStream, file: &Mutex<File>, last: &Mutex<Option<Sighting>>) {
    let mut lines = BufReader::new(stream);
    let mut text = String::new();
    loop {
        text.clear();
        match (&mut lines).take(LONGEST_LINE).read_line(&mut text) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        let Some(number) = text.strip_suffix('\n').and_then(|t| t.parse().ok()) else { return };
        let seen = Sighting { number, time_ms: clock::unix_ms() };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if writeln!(file, "{} {}", seen.number, seen.time_ms).and_then(|()| file.sync_data()).is_err() {
            return;
        }
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

/// Reads a witness's file back.
///
/// # Errors
/// When the file cannot be read or a whole line is not one of ours.
pub fn read(path: &Path) -> io::Result<Vec<Sighting>> {
    let text = std::fs::read_to_string(path)?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let parts = line.split_once(' ').and_then(|(n, t)| Some((n.parse().ok()?, t.parse().ok()?)));
            parts.map(|(number, time_ms)| Sighting { number, time_ms }).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("not a sighting: {line:?}"))
            })
        })
        .collect()
}

/// Tells numbers to a witness, reconnecting as often as it takes.
#[derive(Debug)]
pub struct Teller(SyncSender<u64>);

impl Teller {
    pub fn start(address: String) -> Self {
        let (tx, rx) = sync_channel(WAITING);
        thread::spawn(move || tell_all(&address, &rx));
        Self(tx)
    }

    /// Hands `number` over. With too many waiting, it is dropped: the service goes on.
    pub fn tell(&self, number: u64) {
        let _ = self.0.try_send(number);
    }
}

fn tell_all(address: &str, numbers: &Receiver<u64>) {
    let mut stream: Option<TcpStream> = None;
    while let Ok(number) = numbers.recv() {
        loop {
            let open = match stream.take() {
                Some(s) => Ok(s),
                None => connect(address),
            };
            if let Ok(mut s) = open
                && s.write_all(format!("{number}\n").as_bytes()).is_ok()
            {
                stream = Some(s);
                break;
            }
            clock::pace(Duration::from_millis(200));
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let first = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let stream = TcpStream::connect_timeout(&first, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
