//! The oracle's ledger: one event a line, and what a ledger adds up to.
//!
//! - A line is in the operating system's hands (a file) or acknowledged by the other machine (TCP) before the event it
//!   announces is let loose on the disk.
//! - A last line without its newline was cut off by a crash and is no event.
//!
//! ```text
//! lifeboat-oracle 1 RUN            first line; RUN is 16 hex digits
//! disk D BLOCKS                    disk D exists
//! reign R                          a writer begins; what earlier ones had in flight is settled by the `found` lines after it
//! found D BLOCK SEQ                the block was read and held this write (0: zeros)
//! issue SEQ D BLOCK COUNT w|z|t    a write, write-zeroes or trim is about to be sent
//! done SEQ | failed SEQ            its reply was heard
//! flush N | flushed N | unflushed N
//! barrier N SUM                    nothing is in flight, flush N covered everything; SUM is 32 hex digits
//! end                              the writer stopped with nothing in flight
//! ```

use super::OracleError;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What an issued operation does to its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Write,
    Zero,
    Trim,
}

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Disk { disk: u32, blocks: u64 },
    Reign(u32),
    Found { disk: u32, block: u64, seq: u64 },
    Issue { seq: u64, disk: u32, block: u64, count: u64, kind: Kind },
    Done(u64),
    Failed(u64),
    Flush(u64),
    Flushed(u64),
    Unflushed(u64),
    Barrier { flush: u64, sum: u128 },
    End,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { disk, blocks } => write!(f, "disk {disk} {blocks}"),
            Self::Reign(n) => write!(f, "reign {n}"),
            Self::Found { disk, block, seq } => write!(f, "found {disk} {block} {seq}"),
            Self::Issue { seq, disk, block, count, kind } => {
                let kind = match kind {
                    Kind::Write => 'w',
                    Kind::Zero => 'z',
                    Kind::Trim => 't',
                };
                write!(f, "issue {seq} {disk} {block} {count} {kind}")
            }
            Self::Done(n) => write!(f, "done {n}"),
            Self::Failed(n) => write!(f, "failed {n}"),
            Self::Flush(n) => write!(f, "flush {n}"),
            Self::Flushed(n) => write!(f, "flushed {n}"),
            Self::Unflushed(n) => write!(f, "unflushed {n}"),
            Self::Barrier { flush, sum } => write!(f, "barrier {flush} {sum:032x}"),
            Self::End => write!(f, "end"),
        }
    }
}

impl FromStr for Event {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = line.split(' ').collect();
        let num = |at: usize| words[at].parse::<u64>().map_err(|_| "not a number");
        let disk = |at: usize| words[at].parse::<u32>().map_err(|_| "not a disk");
        Ok(match (words[0], words.len()) {
            ("disk", 3) => Self::Disk { disk: disk(1)?, blocks: num(2)? },
            ("reign", 2) => Self::Reign(disk(1)?),
            ("found", 4) => Self::Found { disk: disk(1)?, block: num(2)?, seq: num(3)? },
            ("issue", 6) => {
                let kind = match words[5] {
                    "w" => Kind::Write,
                    "z" => Kind::Zero,
                    "t" => Kind::Trim,
                    _ => return Err("unknown kind of write"),
                };
                Self::Issue { seq: num(1)?, disk: disk(2)?, block: num(3)?, count: num(4)?, kind }
            }
            ("done", 2) => Self::Done(num(1)?),
            ("failed", 2) => Self::Failed(num(1)?),
            ("flush", 2) => Self::Flush(num(1)?),
            ("flushed", 2) => Self::Flushed(num(1)?),
            ("unflushed", 2) => Self::Unflushed(num(1)?),
            ("barrier", 3) => {
                let sum = u128::from_str_radix(words[2], 16).map_err(|_| "not a sum")?;
                Self::Barrier { flush: num(1)?, sum }
            }
            ("end", 1) => Self::End,
            _ => return Err("unknown event"),
        })
    }
}

// ---- writing it --------------------------------------------------------------------------------------------------

/// Where a ledger is written.
pub trait Sink: Send + Sync {
    /// Appends a line; returns its ticket. Lines are in the order of the calls.
    ///
    /// # Errors
    /// As the medium reports; the workload must stop then.
    fn append(&self, line: &str) -> io::Result<u64>;
    /// Returns when the line of that ticket is safe from this machine's death.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    fn wait(&self, ticket: u64) -> io::Result<()>;
}

/// A file, safe from the death of the writing process (not of its machine).
#[derive(Debug)]
pub struct FileSink(Mutex<File>);

impl FileSink {
    /// Opens or creates `path`; returns what it already holds too. A cut-off last line is removed.
    ///
    /// # Errors
    /// As opening and reading report.
    pub fn open(path: &Path) -> Result<(Self, Option<History>), OracleError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        let history = if whole == 0 { None } else { Some(History::read(&bytes[..whole], None)?) };
        Ok((Self(Mutex::new(file)), history))
    }
}

impl Sink for FileSink {
    fn append(&self, line: &str) -> io::Result<u64> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(format!("{line}\n").as_bytes())?;
        Ok(0)
    }

    fn wait(&self, _ticket: u64) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Acked {
    lines: u64,
    gone: bool,
}

/// Another machine's [`Collector`].
#[derive(Debug)]
pub struct TcpSink {
    out: Mutex<(TcpStream, u64)>,
    acked: Arc<(Mutex<Acked>, Condvar)>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl TcpSink {
    /// Connects, and learns what the collector already holds.
    ///
    /// # Errors
    /// As connecting and reading report.
    pub fn connect(address: &str) -> Result<(Self, Option<History>), OracleError> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut len = [0; 8];
        stream.read_exact(&mut len)?;
        let mut earlier = Vec::new();
        let len = u64::from_be_bytes(len);
        if (&mut stream).take(len).read_to_end(&mut earlier)? as u64 != len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let history = if len == 0 { None } else { Some(History::read(&earlier[..], None)?) };
        let acked = Arc::<(Mutex<Acked>, Condvar)>::default();
        let (theirs, mut input) = (Arc::clone(&acked), stream.try_clone()?);
        thread::spawn(move || {
            let mut count = [0; 8];
            let (state, changed) = &*theirs;
            loop {
                let read = input.read_exact(&mut count);
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                match read {
                    Ok(()) => state.lines = u64::from_be_bytes(count),
                    Err(_) => state.gone = true,
                }
                changed.notify_all();
                if state.gone {
                    return;
                }
            }
        });
        Ok((Self { out: Mutex::new((stream, 0)), acked }, history))
    }
}

impl Sink for TcpSink {
    fn append(&self, line: &str) -> io::Result<u64> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.0.write_all(format!("{line}\n").as_bytes())?;
        out.1 += 1;
        Ok(out.1)
    }

    fn wait(&self, ticket: u64) -> io::Result<()> {
        let (state, changed) = &*self.acked;
        let state: MutexGuard<'_, Acked> = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = changed
            .wait_timeout_while(state, PATIENCE, |s| s.lines < ticket && !s.gone)
            .unwrap_or_else(PoisonError::into_inner);
        if state.lines >= ticket { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}

impl Drop for TcpSink {
    fn drop(&mut self) {
        // The thread that hears acknowledgements has the connection open too.
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.0.shutdown(std::net::Shutdown::Both);
    }
}

/// Keeps the ledger of a writer on another machine, one writer at a time.
#[derive(Debug)]
pub struct Collector(SocketAddr);

impl Collector {
    /// Listens on `listen` and appends to `out` until the process ends.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(listen: &str, out: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let out: PathBuf = out.to_path_buf();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(e) = collect(stream, &out) {
                    eprintln!("oracle: collecting ended: {e}");
                }
            }
        });
        Ok(Self(address))
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

fn collect(mut stream: TcpStream, out: &Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(out)?;
    let mut earlier = Vec::new();
    file.read_to_end(&mut earlier)?;
    let whole = earlier.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    file.set_len(whole as u64)?;
    stream.write_all(&(whole as u64).to_be_bytes())?;
    stream.write_all(&earlier[..whole])?;
    drop(earlier);
    let mut lines = 0u64;
    let mut part = vec![0; 1 << 16];
    loop {
        let n = stream.read(&mut part)?;
        if n == 0 {
            return Ok(());
        }
        file.write_all(&part[..n])?;
        lines += part[..n].iter().filter(|b| **b == b'\n').count() as u64;
        stream.write_all(&lines.to_be_bytes())?;
    }
}

// ---- reading it ----------------------------------------------------------------------------------------------------

/// "Not yet", as a place in the ledger.
pub(super) const NEVER: u64 = u64::MAX;

/// One thing a block may hold, with the lines of the ledger that say so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    /// 0 for the zeros a disk begins with.
    pub seq: u64,
    pub zero: bool,
    pub issued: u64,
    pub done: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FlushTimes {
    pub issued: u64,
    pub done: u64,
}

/// A whole ledger, added up.
#[derive(Debug, Default)]
pub struct History {
    pub(super) run: u64,
    pub(super) disks: Vec<u64>,
    pub(super) reign: u32,
    pub(super) next_seq: u64,
    pub(super) next_flush: u64,
    pub(super) blocks: HashMap<(u32, u64), Vec<Version>>,
    pub(super) flushes: BTreeMap<u64, FlushTimes>,
    pub(super) barriers: BTreeMap<u64, u128>,
    pub(super) failed: u64,
    /// Where the operations in flight lie: disk, first block, count.
    pub(super) open: HashMap<u64, (u32, u64, u64)>,
    line: u64,
}

impl History {
    /// Reads a ledger file up to its end, or up to and with barrier `until`.
    ///
    /// # Errors
    /// Unreadable, damaged, or without that barrier.
    pub fn open(path: &Path, until: Option<u64>) -> Result<Self, OracleError> {
        Self::read(BufReader::new(File::open(path)?), until)
    }

    /// The numbers of the barriers, in order.
    pub fn barriers(&self) -> Vec<u64> {
        self.barriers.keys().copied().collect()
    }

    /// The numbers of the completed flushes, in order.
    pub fn flushes(&self) -> Vec<u64> {
        self.flushes.iter().filter(|(_, t)| t.done != NEVER).map(|(n, _)| *n).collect()
    }

    /// # Errors
    /// See [`open`](Self::open).
    pub fn read(mut input: impl BufRead, until: Option<u64>) -> Result<Self, OracleError> {
        let mut history = Self { next_seq: 1, next_flush: 1, ..Self::default() };
        let mut text = String::new();
        loop {
            text.clear();
            input.read_line(&mut text)?;
            let Some(line) = text.strip_suffix('\n') else { break };
            history.line += 1;
            let fault = |what| OracleError::Ledger { line: history.line, what, text: line.into() };
            if history.line == 1 {
                let run =
                    line.strip_prefix("lifeboat-oracle 1 ").and_then(|r| u64::from_str_radix(r, 16).ok());
                history.run = run.ok_or_else(|| fault("not a ledger of the oracle"))?;
                continue;
            }
            let event: Event = line.parse().map_err(fault)?;
            history.apply(event).map_err(|what| OracleError::Ledger {
                line: history.line,
                what,
                text: line.into(),
            })?;
            if let Event::Barrier { flush, .. } = event
                && until == Some(flush)
            {
                return Ok(history);
            }
        }
        match until {
            Some(n) => Err(OracleError::NotThere(format!("barrier {n}"))),
            None if history.line == 0 => Err(OracleError::NotThere("first line".into())),
            None => Ok(history),
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), &'static str> {
        let now = self.line;
        match event {
            Event::Disk { disk, blocks } => {
                if disk as usize != self.disks.len() {
                    return Err("disks are not in order");
                }
                self.disks.push(blocks);
            }
            Event::Reign(n) => {
                if n != self.reign + 1 {
                    return Err("reigns are not in order");
                }
                self.reign = n;
                self.open.clear();
            }
            Event::Found { disk, block, seq } => self.settle(disk, block, seq)?,
            Event::Issue { seq, disk, block, count, kind } => {
                if seq < self.next_seq {
                    return Err("a write's number is used twice");
                }
                let blocks = self.disks.get(disk as usize).ok_or("unknown disk")?;
                if block.checked_add(count).is_none_or(|end| end > *blocks) {
                    return Err("write outside of the disk");
                }
                self.next_seq = seq + 1;
                self.open.insert(seq, (disk, block, count));
                let version = Version { seq, zero: kind != Kind::Write, issued: now, done: NEVER };
                for b in block..block + count {
                    self.blocks.entry((disk, b)).or_default().push(version);
                }
            }
            Event::Done(seq) => {
                let (disk, block, count) = self.open.remove(&seq).ok_or("completed, but not issued")?;
                for b in block..block + count {
                    let versions = self.blocks.entry((disk, b)).or_default();
                    if let Some(v) = versions.iter_mut().rev().find(|v| v.seq == seq) {
                        v.done = now;
                    }
                }
            }
            Event::Failed(seq) => {
                self.open.remove(&seq).ok_or("failed, but not issued")?;
                self.failed += 1;
            }
            Event::Flush(n) => {
                self.next_flush = self.next_flush.max(n + 1);
                self.flushes.insert(n, FlushTimes { issued: now, done: NEVER });
            }
            Event::Flushed(n) => self.flushes.get_mut(&n).ok_or("flushed, but not issued")?.done = now,
            Event::Unflushed(_) | Event::End => {}
            Event::Barrier { flush, sum } => {
                self.barriers.insert(flush, sum);
            }
        }
        Ok(())
    }

    /// A block was read: from here on everything else it held is as good as overwritten.
    fn settle(&mut self, disk: u32, block: u64, seq: u64) -> Result<(), &'static str> {
        let now = self.line;
        let versions = self.blocks.entry((disk, block)).or_default();
        if seq != 0 && !versions.iter().any(|v| v.seq == seq) {
            return Err("found a write nobody issued");
        }
        // Whatever was still open has happened by now, or never will.
        for v in versions.iter_mut().filter(|v| v.done == NEVER) {
            v.done = now - 1;
        }
        versions.push(Version { seq, zero: seq == 0, issued: now, done: now });
        Ok(())
    }
}
