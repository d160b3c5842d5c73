//! Requests out, replies in, several at a time.
//!
//! Jobs of one call are all reads or all writes or all small, so that never both sides wait for each other
//! to take a large message.

use super::{Agreed, NbdError};
use crate::proto::transmission::{REPLY_PREFIX_LEN, ReplyHeader, Request, parse_block_status, parse_error};
use crate::proto::{Errno, STATE_HOLE, STATE_ZERO, chunk, command};
use crate::stream::Transport;
use bytes::Bytes;
use lifeboat_base::limits::{KIB, MIB};
use lifeboat_block::{Extent, ExtentKind};
use std::io;

/// Most requests in flight.
const IN_FLIGHT: usize = 32;

/// Most content in flight, in bytes. A single request may be larger.
const IN_FLIGHT_BYTES: usize = 4 * MIB;

/// Longest chunk taken that is not content.
const MAX_SMALL_CHUNK: usize = MIB;

/// Most pieces out of order that one read may arrive in.
const MAX_GAPS: usize = 1024;

const BUFFER: usize = 64 * KIB;

/// The socket with what was received too early.
pub(super) struct Wire {
    pub transport: Transport,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    next_cookie: u64,
}

impl Wire {
    pub fn new(transport: Transport) -> Self {
        Self { transport, buf: vec![0; BUFFER], start: 0, end: 0, next_cookie: 1 }
    }

    pub fn has_leftover(&self) -> bool {
        self.start < self.end
    }

    /// Fills `out`; what is large goes there straight from the socket.
    pub fn receive(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            if self.start < self.end {
                let n = out.len().min(self.end - self.start);
                let (now, later) = out.split_at_mut(n);
                now.copy_from_slice(&self.buf[self.start..self.start + n]);
                self.start += n;
                out = later;
                continue;
            }
            let direct = out.len() >= self.buf.len() / 2;
            let n = self.transport.receive_slice(if direct { &mut *out } else { &mut self.buf })?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if direct {
                out = &mut out[n..];
            } else {
                (self.start, self.end) = (0, n);
            }
        }
        Ok(())
    }

    pub fn say_goodbye(&self) {
        let request = Request { flags: 0, command: command::DISC, cookie: 0, offset: 0, len: 0 };
        let _ = self.transport.send(&request.build(), &[]);
        self.transport.say_goodbye();
    }
}

/// One request and what becomes of it.
pub(super) struct Job<'a> {
    command: u16,
    flags: u16,
    offset: u64,
    len: u32,
    data: Bytes,
    into: &'a mut [u8],
    arrived: Arrived,
    pub extents: Vec<Extent>,
    done: bool,
    pub error: Option<NbdError>,
}

impl<'a> Job<'a> {
    pub fn simple(command: u16, flags: u16, offset: u64, len: u32) -> Self {
        Self {
            command,
            flags,
            offset,
            len,
            data: Bytes::new(),
            into: &mut [],
            arrived: Arrived::default(),
            extents: Vec::new(),
            done: false,
            error: None,
        }
    }

    /// `into` is at most 32 bits long.
    pub fn read(offset: u64, into: &'a mut [u8]) -> Self {
        Self { into, ..Self::simple(command::READ, 0, offset, 0) }.sized()
    }

    /// `data` is at most 32 bits long.
    pub fn write(offset: u64, data: Bytes) -> Self {
        Self { data, ..Self::simple(command::WRITE, 0, offset, 0) }.sized()
    }

    fn sized(mut self) -> Self {
        self.len = self.into.len().max(self.data.len()) as u32;
        self
    }

    fn content(&self) -> usize {
        self.into.len().max(self.data.len())
    }

    fn fail(&mut self, errno: Errno, message: &str) {
        let message: String = message.chars().take(200).collect();
        let message = if message.is_empty() { message } else { format!(": {message}") };
        self.error.get_or_insert(NbdError::Server { errno, message });
    }

    /// The part of the target that a chunk covers, marked as arrived.
    fn claim(&mut self, offset: u64, len: usize) -> Result<&mut [u8], NbdError> {
        let outside = || NbdError::lost("the server sends content that was not asked for");
        let from =
            offset.checked_sub(self.offset).and_then(|d| usize::try_from(d).ok()).ok_or_else(outside)?;
        let to = from.checked_add(len).filter(|to| *to <= self.into.len()).ok_or_else(outside)?;
        self.arrived.add(from, to)?;
        Ok(&mut self.into[from..to])
    }
}

/// Which parts of a read have come: ranges in order, none touching another.
#[derive(Default)]
struct Arrived(Vec<(usize, usize)>);

impl Arrived {
    fn add(&mut self, from: usize, to: usize) -> Result<(), NbdError> {
        if from == to {
            return Err(NbdError::lost("the server sends a chunk without content"));
        }
        let i = self.0.partition_point(|r| r.1 <= from);
        if self.0.get(i).is_some_and(|r| r.0 < to) {
            return Err(NbdError::lost("the server sends the same content twice"));
        }
        let left = i > 0 && self.0[i - 1].1 == from;
        let right = self.0.get(i).is_some_and(|r| r.0 == to);
        match (left, right) {
            (true, true) => {
                self.0[i - 1].1 = self.0[i].1;
                self.0.remove(i);
            }
            (true, false) => self.0[i - 1].1 = to,
            (false, true) => self.0[i].0 = from,
            (false, false) if self.0.len() >= MAX_GAPS => {
                return Err(NbdError::lost("the server sends a read in too many pieces"));
            }
            (false, false) => self.0.insert(i, (from, to)),
        }
        Ok(())
    }

    fn is_whole(&self, len: usize) -> bool {
        len == 0 || self.0 == [(0, len)]
    }
}

/// # Errors
/// Only what ends the connection; errors of single jobs are left in them.
pub(super) fn run(wire: &mut Wire, agreed: &Agreed, jobs: &mut [Job<'_>]) -> Result<(), NbdError> {
    let first = wire.next_cookie;
    wire.next_cookie += jobs.len() as u64;
    let (mut sent, mut done) = (0, 0);
    let mut bytes = 0;
    while done < jobs.len() {
        let mut out = Vec::new();
        while sent < jobs.len() && sent - done < IN_FLIGHT {
            let job = &jobs[sent];
            if sent > done && bytes + job.content() > IN_FLIGHT_BYTES {
                break;
            }
            let (flags, command, offset, len) = (job.flags, job.command, job.offset, job.len);
            out.extend_from_slice(
                &Request { flags, command, cookie: first + sent as u64, offset, len }.build(),
            );
            if !job.data.is_empty() {
                wire.transport.send(&out, &job.data)?;
                out.clear();
            }
            bytes += job.content();
            sent += 1;
        }
        if !out.is_empty() {
            wire.transport.send(&out, &[])?;
        }
        if let Some(i) = take_reply(wire, agreed, &mut jobs[..sent], first)? {
            bytes -= jobs[i].content();
            done += 1;
        }
    }
    Ok(())
}

/// Takes one simple reply or one chunk. Returns the index of the job it ended, if it did.
fn take_reply(
    wire: &mut Wire,
    agreed: &Agreed,
    jobs: &mut [Job<'_>],
    first: u64,
) -> Result<Option<usize>, NbdError> {
    let mut header = [0; 20];
    wire.receive(&mut header[..REPLY_PREFIX_LEN])?;
    let len = ReplyHeader::len_of(&header)?;
    wire.receive(&mut header[REPLY_PREFIX_LEN..len])?;
    let header = ReplyHeader::parse(&header[..len])?;
    let (ReplyHeader::Simple { cookie, .. } | ReplyHeader::Chunk { cookie, .. }) = header;
    let index = cookie.checked_sub(first).and_then(|i| usize::try_from(i).ok());
    let (index, job) = index
        .and_then(|i| jobs.get_mut(i).map(|j| (i, j)))
        .filter(|(_, j)| !j.done)
        .ok_or_else(|| NbdError::lost("the server answers a request that is not open"))?;
    match header {
        ReplyHeader::Simple { error: Some(errno), .. } => job.fail(errno, ""),
        ReplyHeader::Simple { error: None, .. } => match job.command {
            command::READ if agreed.structured => {
                return Err(NbdError::lost("the server answers a read without chunks"));
            }
            command::READ => wire.receive(job.into)?,
            command::BLOCK_STATUS => {
                return Err(NbdError::lost("the server answers block status without chunks"));
            }
            _ => {}
        },
        ReplyHeader::Chunk { flags, kind, len, .. } => {
            if !agreed.structured {
                return Err(NbdError::lost("the server sends chunks that were not agreed on"));
            }
            take_chunk(wire, agreed, job, kind, len as usize)?;
            if flags & chunk::FLAG_DONE == 0 {
                return Ok(None);
            }
            check_complete(job)?;
        }
    }
    job.done = true;
    Ok(Some(index))
}

fn take_chunk(
    wire: &mut Wire,
    agreed: &Agreed,
    job: &mut Job<'_>,
    kind: u16,
    len: usize,
) -> Result<(), NbdError> {
    if kind == chunk::OFFSET_DATA && job.command == command::READ && len > 8 {
        let mut offset = [0; 8];
        wire.receive(&mut offset)?;
        let target = job.claim(u64::from_be_bytes(offset), len - 8)?;
        return Ok(wire.receive(target)?);
    }
    if len > MAX_SMALL_CHUNK {
        return Err(NbdError::lost(format!("the server sends a chunk of {len} bytes")));
    }
    let mut data = vec![0; len];
    wire.receive(&mut data)?;
    match kind {
        chunk::NONE if len == 0 => {}
        chunk::OFFSET_HOLE if job.command == command::READ && len == 12 => {
            let (offset, len) = data.split_at(8);
            let offset = offset.iter().fold(0, |v, b| v << 8 | u64::from(*b));
            let len = u32::from_be_bytes([len[0], len[1], len[2], len[3]]);
            job.claim(offset, len as usize)?.fill(0);
        }
        chunk::BLOCK_STATUS if job.command == command::BLOCK_STATUS => {
            let (id, runs) = parse_block_status(&data)?;
            if Some(id) != agreed.allocation || !job.extents.is_empty() {
                return Err(NbdError::lost("the server sends block status that was not asked for"));
            }
            job.extents = extents(&runs, job.len, agreed.bitmap);
        }
        kind if kind & chunk::ERROR_BIT != 0 => {
            let (errno, message) = parse_error(&data)?;
            job.fail(errno, &message);
        }
        kind => {
            return Err(NbdError::lost(format!("the server sends a chunk of kind {kind} and {len} bytes")));
        }
    }
    Ok(())
}

/// A job whose last chunk has come has all it asked for, or an error.
fn check_complete(job: &Job<'_>) -> Result<(), NbdError> {
    let whole = match job.command {
        command::READ => job.arrived.is_whole(job.into.len()),
        command::BLOCK_STATUS => !job.extents.is_empty(),
        _ => true,
    };
    if whole || job.error.is_some() {
        Ok(())
    } else {
        Err(NbdError::lost("the server ends a reply before it is whole"))
    }
}

/// State of a run in a dirty bitmap of QEMU's.
const BITMAP_DIRTY: u32 = 1;

/// The server's runs, cut at `len`: the last one may say more than was asked.
fn extents(runs: &[(u32, u32)], len: u32, bitmap: bool) -> Vec<Extent> {
    let mut left = u64::from(len);
    let mut found: Vec<Extent> = Vec::new();
    for &(run, state) in runs {
        let len = u64::from(run).min(left);
        if len == 0 {
            break;
        }
        let kind = match (state & STATE_ZERO != 0, state & STATE_HOLE != 0) {
            _ if bitmap && state & BITMAP_DIRTY == 0 => ExtentKind::Hole,
            _ if bitmap => ExtentKind::Data,
            (true, true) => ExtentKind::Hole,
            (true, false) => ExtentKind::Zero,
            // A hole that does not say it reads as zeros may read as anything.
            (false, _) => ExtentKind::Data,
        };
        found.push(Extent { len, kind });
        left -= len;
    }
    found
}

#[cfg(test)]
mod tests;
