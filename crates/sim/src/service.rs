//! The service a test guest runs: a ledger that grows at a fixed rate and answers HTTP.
//!
//! - A number is told to the witness, and shown over HTTP, only after its line is on stable storage.
//! - After a failed write or fsync the service ends; it never goes on as if nothing had been.

use crate::clock;
use crate::ledger::Ledger;
use crate::witness::Teller;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const MAX_REQUEST: usize = 8192;
const TAIL_LINES: usize = 10;

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where `ledger.log` is.
    pub dir: PathBuf,
    pub witness: Option<String>,
    /// Address to answer HTTP on.
    pub http: String,
    /// Lines a second.
    pub hz: u32,
}

struct Shared {
    path: PathBuf,
    last: AtomicU64,
    last_time: Mutex<String>,
    recovered: u64,
    stop: Arc<AtomicBool>,
}

/// Runs until `stop` is set or somebody posts to `/poweroff`. `ready` hears the address HTTP is answered on.
///
/// # Errors
/// A damaged ledger, a taken port, a failed write.
pub fn run(
    settings: &Settings,
    stop: &Arc<AtomicBool>,
    ready: impl FnOnce(std::net::SocketAddr),
) -> io::Result<()> {
    let path = settings.dir.join("ledger.log");
    let mut ledger = Ledger::open(&path)?;
    let found = ledger.contents();
    println!("ledger: recovered last={} lines ok, torn tail of {} bytes cut", found.last, found.tail);
    let shared = Arc::new(Shared {
        path,
        last: AtomicU64::new(found.last),
        last_time: Mutex::default(),
        recovered: found.last,
        stop: Arc::clone(stop),
    });
    let listener = TcpListener::bind(&settings.http)?;
    let address = listener.local_addr()?;
    let served = Arc::clone(&shared);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&served);
            thread::spawn(move || answer(stream, &shared));
        }
    });
    println!("ledger: ready, http on {address}");
    ready(address);
    let teller = settings.witness.clone().map(Teller::start);
    let every = Duration::from_secs(1) / settings.hz.max(1);
    let mut next = clock::elapsed();
    while !stop.load(Ordering::SeqCst) {
        let time = clock::rfc3339(clock::unix_ms());
        let number = ledger.append(&time)?;
        *shared.last_time.lock().unwrap_or_else(PoisonError::into_inner) = time;
        shared.last.store(number, Ordering::SeqCst);
        if let Some(teller) = &teller {
            teller.tell(number);
        }
        next += every;
        let now = clock::elapsed();
        if next > now {
            clock::pace(next - now);
        } else {
            next = now;
        }
    }
    println!("ledger: stopped at {}", ledger.contents().last);
    Ok(())
}

fn answer(mut stream: TcpStream, shared: &Shared) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
    let Some(request) = read_request(&mut stream) else { return };
    let (status, body) = match request.as_str() {
        "GET /" => ("200 OK", front(shared).into_bytes()),
        "GET /number" => ("200 OK", format!("{}\n", shared.last.load(Ordering::SeqCst)).into_bytes()),
        "GET /ledger" => whole(&shared.path),
        "GET /tail" => {
            let (status, bytes) = whole(&shared.path);
            (status, tail(&bytes))
        }
        "POST /poweroff" => {
            shared.stop.store(true, Ordering::SeqCst);
            ("200 OK", b"stopping\n".to_vec())
        }
        _ => ("404 Not Found", b"try / /number /tail /ledger\n".to_vec()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Method and path of a request; `None` when it is too long, too slow or not HTTP.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut part).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&part[..n]);
        if bytes.len() > MAX_REQUEST {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.lines().next()?.split(' ');
    Some(format!("{} {}", words.next()?, words.next()?))
}

fn front(shared: &Shared) -> String {
    let time = shared.last_time.lock().unwrap_or_else(PoisonError::into_inner).clone();
    format!(
        "lifeboat ledger\nlast={}\ntime={time}\nrecovered={}\nuptime={:.1}\n",
        shared.last.load(Ordering::SeqCst),
        shared.recovered,
        clock::elapsed().as_secs_f64()
    )
}

fn whole(path: &Path) -> (&'static str, Vec<u8>) {
    match std::fs::read(path) {
        Ok(bytes) => ("200 OK", bytes),
        Err(e) => ("500 Internal Server Error", format!("{e}\n").into_bytes()),
    }
}

fn tail(bytes: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].concat()
}

/// Asks again and again until `condition` holds; false when `deadline` passed first.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = clock::elapsed() + deadline;
    loop {
        if condition() {
            return true;
        }
        if clock::elapsed() >= end {
            return false;
        }
        clock::pace(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests;
