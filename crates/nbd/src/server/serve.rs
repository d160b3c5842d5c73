//! Transmission: requests in, replies out.
//!
//! Invariants:
//! - a request is checked against the export before the device hears of it;
//! - requests run in the order they came; only flushes are answered out of turn;
//! - replies go out before this thread waits for the client, and the data of a refused write is taken off
//!   the stream, so that the next request is found where it begins.

use super::input::{Input, MAX_FILL};
use super::negotiate::{ALLOCATION_ID, Chosen};
use super::output::Output;
use super::sync::{Flusher, Submitted};
use super::{Counters, Peer, Shared};
use crate::proto::transmission::{
    DATA_CHUNK_PREFIX, REQUEST_LEN, Request, SIMPLE_REPLY_LEN, block_status_chunk, data_chunk_prefix,
    error_chunk, hole_chunk, simple_reply,
};
use crate::proto::{Errno, STATE_HOLE, STATE_ZERO, chunk, command, command_flags};
use lifeboat_base::limits::{KIB, MAX_NBD_REQUEST, MAX_RECORD, MIB};
use lifeboat_block::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, device::check_range};
use std::io;
use std::sync::Arc;

/// Content of one chunk of a structured read, at most.
const READ_PIECE: usize = MAX_RECORD;

/// Largest read that is answered in one piece. A longer one with DF is refused; a longer simple one is sent
/// as it is read, so that its late error can only be told by hanging up.
const READ_WHOLE: usize = 2 * MIB;

/// Reads shorter than this are not worth asking the device where its holes are.
const LOOK_FOR_HOLES: u32 = 64 * KIB as u32;

/// A hole shorter than this is sent as zeros.
const LEAST_HOLE: u64 = 4096;

/// Most runs in one block status reply.
const MAX_RUNS: usize = 1024;

pub(super) struct Session<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    device: Arc<dyn BlockDevice>,
    size: u64,
    read_only: bool,
    structured: bool,
    allocation: bool,
    input: Input,
    out: Output,
    flusher: Flusher,
}

/// The NBD error for a device's error.
pub(super) fn errno_of(e: &BlockError, command: u16) -> Errno {
    match e {
        BlockError::OutOfRange { .. } => out_of_range(command),
        BlockError::ReadOnly => Errno::Permission,
        BlockError::NoSpace => Errno::NoSpace,
        BlockError::Shutdown => Errno::Shutdown,
        BlockError::Corrupt(_) | BlockError::Io(_) => Errno::Io,
    }
}

/// The protocol wants ENOSPC for writing past the end and EINVAL for everything else there.
fn out_of_range(command: u16) -> Errno {
    match command {
        command::WRITE | command::WRITE_ZEROES => Errno::NoSpace,
        _ => Errno::Invalid,
    }
}

fn broken(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl<'a> Session<'a> {
    pub fn new(shared: &'a Shared, peer: &'a Arc<Peer>, input: Input, chosen: Chosen) -> Self {
        let device = Arc::clone(&chosen.export.device);
        Self {
            shared,
            peer,
            size: device.size(),
            read_only: device.read_only(),
            structured: chosen.structured,
            allocation: chosen.allocation,
            input,
            out: Output::default(),
            flusher: Flusher::new(Arc::clone(peer), Arc::clone(&device)),
            device,
        }
    }

    /// Serves until the client leaves.
    ///
    /// # Errors
    /// When the socket fails or the client breaks the protocol beyond repair.
    pub fn run(mut self) -> io::Result<()> {
        while self.fill(REQUEST_LEN)? {
            let request = Request::parse(self.input.buffered()).map_err(broken)?;
            self.input.skip(REQUEST_LEN);
            if request.command == command::DISC {
                break;
            }
            if !self.execute(&request)? {
                break;
            }
            if self.out.is_due(0) {
                self.out.send(&self.peer.transport)?;
            }
        }
        if self.out.is_empty() { Ok(()) } else { self.out.send(&self.peer.transport) }
    }

    /// Brings together the next `n` bytes. False when the stream ends before that.
    fn fill(&mut self, n: usize) -> io::Result<bool> {
        while !self.input.has(n) {
            if !self.out.is_empty() {
                self.out.send(&self.peer.transport)?;
            }
            if self.peer.is_stopping() || !self.input.receive(&self.peer.transport, n)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// False when the stream ended in the middle.
    fn execute(&mut self, r: &Request) -> io::Result<bool> {
        if let Err(errno) = self.check(r) {
            if r.command == command::WRITE && !self.drain(r.len)? {
                return Ok(false);
            }
            self.fail(r, errno, None);
            return Ok(true);
        }
        match r.command {
            command::READ => self.read(r)?,
            command::WRITE => return self.write(r),
            command::FLUSH => self.flush(r),
            command::TRIM => {
                let done = self.device.trim(r.offset, r.len.into());
                self.finish(r, done);
            }
            command::WRITE_ZEROES => {
                let keep = r.flags & command_flags::NO_HOLE != 0;
                let mode = if keep { ZeroMode::Allocate } else { ZeroMode::MayPunch };
                let done = self.device.write_zeroes(r.offset, r.len.into(), mode);
                self.finish(r, done);
            }
            command::BLOCK_STATUS => self.block_status(r),
            // CACHE is a hint, and the page cache knows better.
            _ => self.done(r),
        }
        Ok(true)
    }

    /// What can be said about a request without asking the device.
    fn check(&self, r: &Request) -> Result<(), Errno> {
        use command_flags::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
        let flags = match r.command {
            command::READ if self.structured => DF,
            command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
            command::WRITE_ZEROES => NO_HOLE | FAST_ZERO,
            command::BLOCK_STATUS if self.allocation => REQ_ONE,
            _ => return Err(Errno::Invalid),
        };
        // FUA may come with any command; where nothing is written it says nothing.
        if r.flags & !(flags | FUA) != 0 {
            return Err(Errno::Invalid);
        }
        if r.command == command::FLUSH {
            return if r.offset == 0 && r.len == 0 { Ok(()) } else { Err(Errno::Invalid) };
        }
        let writes = matches!(r.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && self.read_only {
            return Err(Errno::Permission);
        }
        let carries = matches!(r.command, command::READ | command::WRITE);
        if r.len == 0 || carries && r.len as usize > MAX_NBD_REQUEST {
            return Err(Errno::Invalid);
        }
        check_range(self.size, r.offset, r.len.into()).map_err(|_| out_of_range(r.command))?;
        if r.flags & FAST_ZERO != 0 {
            return Err(Errno::NotSupported);
        }
        if r.flags & DF != 0 && r.len as usize > READ_WHOLE {
            return Err(Errno::Overflow);
        }
        Ok(())
    }

    /// Takes the data of a refused write off the stream. False when the stream ended first.
    fn drain(&mut self, len: u32) -> io::Result<bool> {
        if len as usize > MAX_NBD_REQUEST {
            return Err(broken(format!("a write of {len} bytes")));
        }
        let mut left = len as usize;
        while left > 0 {
            let n = left.min(MAX_FILL);
            if !self.fill(n)? {
                return Ok(false);
            }
            self.input.skip(n);
            left -= n;
        }
        Ok(true)
    }

    /// A good reply without content.
    fn done(&mut self, r: &Request) {
        self.out.put(&simple_reply(r.cookie, None));
        self.out.end_reply();
    }

    /// A reply that says no. READ and BLOCK_STATUS have structured ones where those were agreed on.
    fn fail(&mut self, r: &Request, errno: Errno, at: Option<u64>) {
        Counters::add(&self.shared.counters.errors, 1);
        let structured = self.structured && matches!(r.command, command::READ | command::BLOCK_STATUS);
        if structured {
            self.out.put(&error_chunk(r.cookie, errno, "", at));
        } else {
            self.out.put(&simple_reply(r.cookie, Some(errno)));
        }
        self.out.end_reply();
    }

    fn fail_device(&mut self, r: &Request, e: &BlockError, at: Option<u64>) {
        tracing::warn!(command = r.command, offset = r.offset, len = r.len, "NBD request failed: {e}");
        self.fail(r, errno_of(e, r.command), at);
    }

    /// Answers a request that changed something, after a flush if it has FUA.
    fn finish(&mut self, r: &Request, done: Result<(), BlockError>) {
        match done {
            Err(e) => self.fail_device(r, &e, None),
            Ok(()) if r.flags & command_flags::FUA != 0 => self.flush(r),
            Ok(()) => self.done(r),
        }
    }

    fn flush(&mut self, r: &Request) {
        Counters::add(&self.shared.counters.flushes, 1);
        match self.flusher.submit(r.cookie) {
            Submitted::Accepted => {}
            Submitted::Inline => match self.device.flush() {
                Ok(()) => self.done(r),
                Err(e) => self.fail_device(r, &e, None),
            },
        }
    }

    /// Hands the data on in pieces, without copying it. After a piece has failed the rest is passed over.
    fn write(&mut self, r: &Request) -> io::Result<bool> {
        let mut left = r.len as usize;
        let mut at = r.offset;
        let mut result = Ok(());
        while left > 0 {
            let n = left.min(MAX_FILL);
            if !self.fill(n)? {
                return Ok(false);
            }
            let piece = self.input.take(n);
            if result.is_ok() {
                result = self.device.write(at, piece);
            }
            at += n as u64;
            left -= n;
        }
        Counters::add(&self.shared.counters.writes, 1);
        Counters::add(&self.shared.counters.bytes_written, r.len.into());
        self.finish(r, result);
        Ok(true)
    }

    fn read(&mut self, r: &Request) -> io::Result<()> {
        Counters::add(&self.shared.counters.reads, 1);
        Counters::add(&self.shared.counters.bytes_read, r.len.into());
        if !self.structured {
            self.read_simple(r)
        } else if r.flags & command_flags::DF != 0 || r.len < LOOK_FOR_HOLES {
            self.read_chunk(r, r.offset, r.len as usize, true).map(drop)
        } else {
            self.read_runs(r)
        }
    }

    /// Sends what has gathered if `more` bytes would make it too much.
    fn make_way(&mut self, more: usize) -> io::Result<()> {
        if self.out.is_due(more) { self.out.send(&self.peer.transport) } else { Ok(()) }
    }

    fn read_simple(&mut self, r: &Request) -> io::Result<()> {
        let len = r.len as usize;
        let mut piece = if len <= READ_WHOLE { len } else { READ_PIECE };
        let mut head = SIMPLE_REPLY_LEN;
        let mut done = 0;
        while done < len {
            piece = piece.min(len - done);
            self.make_way(head + piece)?;
            let at = r.offset + done as u64;
            let room = self.out.room(head + piece);
            if let Err(e) = self.device.read(at, &mut room[head..]) {
                if done > 0 {
                    return Err(io::Error::other(format!("read failed after its reply had begun: {e}")));
                }
                self.fail_device(r, &e, None);
                return Ok(());
            }
            if head > 0 {
                room[..head].copy_from_slice(&simple_reply(r.cookie, None));
            }
            self.out.commit(head + piece);
            head = 0;
            done += piece;
        }
        self.out.end_reply();
        Ok(())
    }

    /// One data chunk. False when the request failed and has been answered.
    fn read_chunk(&mut self, r: &Request, at: u64, len: usize, last: bool) -> io::Result<bool> {
        self.make_way(DATA_CHUNK_PREFIX + len)?;
        let room = self.out.room(DATA_CHUNK_PREFIX + len);
        if let Err(e) = self.device.read(at, &mut room[DATA_CHUNK_PREFIX..]) {
            self.fail_device(r, &e, Some(at));
            return Ok(false);
        }
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        room[..DATA_CHUNK_PREFIX].copy_from_slice(&data_chunk_prefix(flags, r.cookie, at, len as u32));
        self.out.commit(DATA_CHUNK_PREFIX + len);
        if last {
            self.out.end_reply();
        }
        Ok(true)
    }

    /// Chunks of data and chunks of hole, as the device tells them apart.
    fn read_runs(&mut self, r: &Request) -> io::Result<()> {
        let end = r.offset + u64::from(r.len);
        let mut at = r.offset;
        while at < end {
            let runs = match self.device.status(at, end - at) {
                Ok(runs) => join_runs(&runs, end - at),
                Err(e) => {
                    self.fail_device(r, &e, Some(at));
                    return Ok(());
                }
            };
            for (len, hole) in runs {
                let stop = at + len;
                if hole {
                    let last = if stop == end { chunk::FLAG_DONE } else { 0 };
                    self.out.put(&hole_chunk(last, r.cookie, at, len as u32));
                    at = stop;
                    if at == end {
                        self.out.end_reply();
                    }
                }
                while at < stop {
                    let n = (stop - at).min(READ_PIECE as u64);
                    if !self.read_chunk(r, at, n as usize, at + n == end)? {
                        return Ok(());
                    }
                    at += n;
                }
            }
        }
        Ok(())
    }

    fn block_status(&mut self, r: &Request) {
        let most = if r.flags & command_flags::REQ_ONE != 0 { 1 } else { MAX_RUNS };
        let end = r.offset + u64::from(r.len);
        let mut at = r.offset;
        let mut runs: Vec<(u32, u32)> = Vec::new();
        'device: while at < end {
            let found = match self.device.status(at, end - at) {
                Ok(found) => found,
                Err(e) if runs.is_empty() => {
                    self.fail_device(r, &e, Some(at));
                    return;
                }
                // What is known so far is a valid answer; the client will ask again.
                Err(_) => break,
            };
            let before = at;
            for extent in found {
                let state = match extent.kind {
                    ExtentKind::Data => 0,
                    ExtentKind::Zero => STATE_ZERO,
                    ExtentKind::Hole => STATE_HOLE | STATE_ZERO,
                };
                let len = extent.len.min(end - at) as u32;
                let full = runs.len() == most;
                match runs.last_mut() {
                    _ if len == 0 => {}
                    Some(last) if last.1 == state => last.0 += len,
                    _ if full => break 'device,
                    _ => runs.push((len, state)),
                }
                at += u64::from(len);
            }
            if at == before {
                // A device that says nothing is taken to hold data; looking again would not end.
                if runs.is_empty() {
                    runs.push(((end - at) as u32, 0));
                }
                break;
            }
        }
        self.out.put(&block_status_chunk(r.cookie, ALLOCATION_ID, &runs));
        self.out.end_reply();
    }
}

/// Runs as (length, is a hole) that cover at most `len` bytes, at least one: holes too short to be worth a chunk
/// become data, neighbours of one kind one run.
fn join_runs(extents: &[Extent], len: u64) -> Vec<(u64, bool)> {
    let mut left = len;
    let mut runs: Vec<(u64, bool)> = Vec::new();
    for extent in extents {
        let n = extent.len.min(left);
        let hole = extent.kind != ExtentKind::Data && n >= LEAST_HOLE;
        match runs.last_mut() {
            _ if n == 0 => {}
            Some(last) if last.1 == hole => last.0 += n,
            _ => runs.push((n, hole)),
        }
        left -= n;
    }
    if runs.is_empty() {
        runs.push((len, false));
    }
    runs
}

#[cfg(test)]
mod tests;
