//! A blocking NBD client, and a [`BlockDevice`] at that.
//!
//! Invariants:
//! - nothing a server sends is believed unchecked: lengths are bounded before they are read, content lands only
//!   inside the request it answers, each byte of a read arrives exactly once;
//! - after the connection failed or the server broke the protocol nothing more is sent: every later call says
//!   so. An error the server *reported* harms only its request;
//! - requests in flight are bounded in number and bytes.
//!
//! One call at a time uses the connection; a call with much to do keeps several requests in flight.

mod negotiate;
mod transmit;

use crate::proto::{Errno, ProtoError, command, command_flags, export_flags};
use crate::stream::Transport;
use bytes::Bytes;
use lifeboat_base::limits::{MAX_NBD_REQUEST, MIB};
use lifeboat_block::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, device::check_range};
use parking_lot::Mutex;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use transmit::{Job, Wire};

/// Largest request sent: large enough to be worth its round trip, small enough to keep several in flight.
const PIECE: usize = MIB;

/// Longest range asked for in one block status request: 32 bits allow no more than this in whole pages.
const STATUS_PIECE: u64 = (u32::MAX - 4095) as u64;

/// How a client behaves.
#[derive(Clone)]
pub struct ClientSettings {
    /// Longest wait for a TCP connection.
    pub connect: Duration,
    /// Longest silence of the server while something is asked of it. After it the connection is given up.
    pub silence: Duration,
    /// When given, the connection is TLS or fails.
    pub tls: Option<ClientTls>,
    /// Name of a dirty bitmap of QEMU's to be read instead of the allocation:
    /// [`block_status`](Client::block_status) then says data for what is dirty in it and hole for the rest.
    pub bitmap: Option<String>,
}

#[derive(Clone)]
pub struct ClientTls {
    pub config: Arc<rustls::ClientConfig>,
    /// The name the server's certificate must carry.
    pub server: rustls::pki_types::ServerName<'static>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), silence: Duration::from_secs(60), tls: None, bitmap: None }
    }
}

/// Why a request, or the whole connection, failed.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    #[error("cannot reach an NBD server at {at}: {source}")]
    Connect { at: String, source: io::Error },
    /// The server speaks NBD but will not serve this.
    #[error("the NBD server refuses export {export:?}: {why}")]
    Refused { export: String, why: String },
    /// The connection is of no use any more; connect again.
    #[error("the NBD connection failed: {0}; connect again")]
    Lost(String),
    /// The server answered this one request with an error.
    #[error("the NBD server answered {errno}{message}")]
    Server { errno: Errno, message: String },
}

impl NbdError {
    fn lost(why: impl ToString) -> Self {
        Self::Lost(why.to_string())
    }
}

impl From<io::Error> for NbdError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Self::lost("the server hung up"),
            io::ErrorKind::TimedOut => Self::lost("the server did not answer in time"),
            _ => Self::lost(e),
        }
    }
}

impl From<ProtoError> for NbdError {
    fn from(e: ProtoError) -> Self {
        Self::Lost(format!("the server broke the protocol: {e}"))
    }
}

impl From<NbdError> for BlockError {
    fn from(e: NbdError) -> Self {
        match &e {
            NbdError::Server { errno: Errno::NoSpace, .. } => Self::NoSpace,
            NbdError::Server { errno: Errno::Permission, .. } => Self::ReadOnly,
            NbdError::Server { errno: Errno::Shutdown, .. } => Self::Shutdown,
            _ => Self::Io(io::Error::other(e)),
        }
    }
}

/// What the server told about the export.
#[derive(Debug, Clone, Copy, Default)]
struct Agreed {
    size: u64,
    /// [`export_flags`].
    flags: u16,
    structured: bool,
    /// Id of `base:allocation`, or of the bitmap asked for, where the server has it.
    allocation: Option<u32>,
    /// It is a bitmap.
    bitmap: bool,
    /// Largest request it takes, in bytes.
    largest: usize,
}

enum State {
    Good(Box<Wire>),
    Bad(String),
}

/// A connection to one export.
pub struct Client {
    agreed: Agreed,
    state: Mutex<State>,
}

impl Client {
    /// # Errors
    /// [`NbdError::Connect`], [`NbdError::Refused`], or [`NbdError::Lost`] for a server that speaks no NBD.
    pub fn connect_unix(path: &Path, export: &str, settings: &ClientSettings) -> Result<Self, NbdError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| NbdError::Connect { at: path.display().to_string(), source })?;
        Self::connect_export(stream, export, settings)
    }

    /// # Errors
    /// As [`connect_unix`](Self::connect_unix).
    pub fn connect_tcp(
        address: SocketAddr,
        export: &str,
        settings: &ClientSettings,
    ) -> Result<Self, NbdError> {
        let stream = TcpStream::connect_timeout(&address, settings.connect)
            .map_err(|source| NbdError::Connect { at: address.to_string(), source })?;
        Self::connect_export(stream, export, settings)
    }

    /// Negotiates over a stream that is connected already.
    ///
    /// # Errors
    /// As [`connect_unix`](Self::connect_unix).
    pub fn connect_export(
        stream: impl Into<OwnedFd>,
        export: &str,
        settings: &ClientSettings,
    ) -> Result<Self, NbdError> {
        let transport = Transport::new(stream.into());
        transport.tune_tcp();
        transport.set_timeouts(Some(settings.silence), Some(settings.silence))?;
        let mut wire = Wire::new(transport);
        let agreed = negotiate::run(&mut wire, export, settings)?;
        Ok(Self { agreed, state: Mutex::new(State::Good(Box::new(wire))) })
    }

    fn has(&self, flag: u16) -> bool {
        self.agreed.flags & flag != 0
    }

    /// Whether the server can tell data from holes, or has the bitmap asked for.
    pub fn knows_holes(&self) -> bool {
        self.agreed.allocation.is_some()
    }

    /// Runs the jobs to their end. The first error a server reported for one of them is returned when all are done.
    fn run(&self, jobs: &mut [Job<'_>]) -> Result<(), NbdError> {
        let mut state = self.state.lock();
        let wire = match &mut *state {
            State::Good(wire) => wire,
            State::Bad(why) => return Err(NbdError::Lost(why.clone())),
        };
        if let Err(e) = transmit::run(wire, &self.agreed, jobs) {
            let why = match &e {
                NbdError::Lost(why) => why.clone(),
                other => other.to_string(),
            };
            wire.transport.close();
            *state = State::Bad(why);
            return Err(e);
        }
        jobs.iter_mut().find_map(|j| j.error.take()).map_or(Ok(()), Err)
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        check_range(self.agreed.size, offset, len)
    }

    /// Largest piece of one request.
    fn piece(&self) -> usize {
        self.agreed.largest.min(PIECE)
    }

    /// Reads many ranges with several requests in flight. The caller bounds their sum: all of it is returned at once.
    ///
    /// # Errors
    /// What the server reports for any of them, or a lost connection.
    pub fn read_many(&self, ranges: &[(u64, usize)]) -> Result<Vec<Bytes>, BlockError> {
        for &(offset, len) in ranges {
            self.check(offset, len as u64)?;
        }
        let mut buffers: Vec<Vec<u8>> = ranges.iter().map(|&(_, len)| vec![0; len]).collect();
        let mut jobs = Vec::new();
        for (&(offset, _), buf) in ranges.iter().zip(&mut buffers) {
            self.read_jobs(offset, buf, &mut jobs);
        }
        self.run(&mut jobs)?;
        drop(jobs);
        Ok(buffers.into_iter().map(Bytes::from).collect())
    }

    fn read_jobs<'a>(&self, offset: u64, buf: &'a mut [u8], jobs: &mut Vec<Job<'a>>) {
        let mut at = offset;
        for part in buf.chunks_mut(self.piece()) {
            let len = part.len() as u32;
            jobs.push(Job::read(at, part));
            at += u64::from(len);
        }
    }

    /// Writes many ranges with several requests in flight. Ranges should not overlap: their order is the server's.
    ///
    /// # Errors
    /// What the server reports for any of them, or a lost connection.
    pub fn write_many(&self, writes: &[(u64, Bytes)]) -> Result<(), BlockError> {
        let mut jobs = Vec::new();
        for (offset, data) in writes {
            self.check_write(*offset, data.len() as u64)?;
            let mut at = *offset;
            let mut rest = data.clone();
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(self.piece()));
                let len = part.len() as u64;
                jobs.push(Job::write(at, part));
                at += len;
            }
        }
        Ok(self.run(&mut jobs)?)
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len)?;
        if self.read_only() { Err(BlockError::ReadOnly) } else { Ok(()) }
    }

    /// Runs of data, zeros and holes that cover at least the start of the range; all data where the server cannot tell.
    ///
    /// # Errors
    /// What the server reports, or a lost connection.
    pub fn block_status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        self.check(offset, len)?;
        if len == 0 || !self.knows_holes() {
            return Ok(vec![Extent { len, kind: ExtentKind::Data }]);
        }
        let len = len.min(STATUS_PIECE) as u32;
        let mut jobs = [Job::simple(command::BLOCK_STATUS, 0, offset, len)];
        self.run(&mut jobs)?;
        let [job] = jobs;
        Ok(job.extents)
    }

    /// Tells the server that nothing more comes, so that it need not notice by itself.
    pub fn disconnect(self) {
        if let State::Good(wire) = self.state.into_inner() {
            wire.say_goodbye();
        }
    }

    /// A request without data over any length, in pieces the protocol can say.
    fn run_over(&self, command: u16, flags: u16, offset: u64, len: u64) -> Result<(), BlockError> {
        let step = 1u64 << 30;
        let mut jobs = Vec::new();
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let n = (end - at).min(step);
            jobs.push(Job::simple(command, flags, at, n as u32));
            at += n;
        }
        Ok(self.run(&mut jobs)?)
    }
}

impl BlockDevice for Client {
    fn size(&self) -> u64 {
        self.agreed.size
    }

    fn read_only(&self) -> bool {
        self.has(export_flags::READ_ONLY)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64)?;
        let mut jobs = Vec::new();
        self.read_jobs(offset, buf, &mut jobs);
        Ok(self.run(&mut jobs)?)
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.write_many(&[(offset, data)])
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError> {
        self.check_write(offset, len)?;
        if self.has(export_flags::SEND_WRITE_ZEROES) {
            let flags = if mode == ZeroMode::Allocate { command_flags::NO_HOLE } else { 0 };
            return self.run_over(command::WRITE_ZEROES, flags, offset, len);
        }
        let zeros = Bytes::from(vec![0; (self.piece() as u64).min(len) as usize]);
        let mut at = offset;
        while at < offset + len {
            let n = zeros.len().min((offset + len - at) as usize);
            self.write(at, zeros.slice(..n))?;
            at += n as u64;
        }
        Ok(())
    }

    /// Where the server has no FLUSH it promises that none is needed.
    fn flush(&self) -> Result<(), BlockError> {
        if self.has(export_flags::SEND_FLUSH) {
            self.run(&mut [Job::simple(command::FLUSH, 0, 0, 0)])?;
        }
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        self.block_status(offset, len)
    }
}

/// What a server may say it takes, brought into what this client sends.
fn largest_request(claimed: u32) -> usize {
    (claimed as usize).clamp(4096, MAX_NBD_REQUEST)
}
