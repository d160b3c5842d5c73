//! One segment: where it is, reading a record of it, scanning it.
//!
//! Invariants: a segment that was replaced is deleted when the last one who may read it lets go; a scan never takes
//! bytes for a record that fail its checksum or stand out of order.

use crate::error::Damage;
use crate::format::{Header, Kind, MAGIC, OVERHEAD, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader, parse};
use crate::index::{Barrier, DiskChange, Entry, Head, Summary};
use crate::seal::SegmentKey;
use bytes::{Bytes, BytesMut};
use lifeboat_base::limits::MIB;
use lifeboat_base::{Seq, WallTime};
use lifeboat_block::storage::{LogFile, Storage, read_most};
use lifeboat_block::{BarrierKind, Codec, codec};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Segment files kept open for reading, per journal.
const OPEN_FILES: usize = 64;

type OpenFile = ([u8; 16], Arc<dyn LogFile>);

/// Keeps the files read last open, the last one at the end.
#[derive(Default)]
pub(crate) struct FileCache(Mutex<Vec<OpenFile>>);

impl FileCache {
    fn get(
        &self,
        id: &[u8; 16],
        open: impl FnOnce() -> io::Result<Arc<dyn LogFile>>,
    ) -> io::Result<Arc<dyn LogFile>> {
        let mut files = self.0.lock();
        let file = match files.iter().rposition(|(have, _)| have == id) {
            Some(at) if at + 1 == files.len() => return Ok(files[at].1.clone()),
            Some(at) => files.remove(at).1,
            None => open()?,
        };
        if files.len() >= OPEN_FILES {
            files.remove(0);
        }
        files.push((*id, file.clone()));
        Ok(file)
    }

    fn forget(&self, id: &[u8; 16]) {
        self.0.lock().retain(|(have, _)| have != id);
    }
}

pub(crate) struct Segment {
    pub id: [u8; 16],
    pub first: Seq,
    pub base: bool,
    pub key: SegmentKey,
    pub storage: Arc<dyn Storage>,
    pub files: Arc<FileCache>,
    /// Delete the files once nobody reads them.
    pub doomed: AtomicBool,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.files.forget(&self.id);
        if self.doomed.load(Ordering::Acquire) {
            for name in [self.name(), self.index_name()] {
                if let Err(e) = self.storage.remove(&name)
                    && e.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!("{name} is not needed any more but was not removed: {e}");
                }
            }
        }
    }
}

/// A record could not be read back.
#[derive(Debug)]
pub(crate) enum ReadError {
    Corrupt(&'static str),
    Io(io::Error),
}

impl Segment {
    fn stem(&self) -> String {
        let id = u128::from_be_bytes(self.id);
        format!("{:016x}-{id:032x}", self.first.0)
    }

    pub(crate) fn name(&self) -> String {
        self.stem() + ".seg"
    }

    pub(crate) fn index_name(&self) -> String {
        self.stem() + ".idx"
    }

    pub(crate) fn file(&self) -> io::Result<Arc<dyn LogFile>> {
        self.files.get(&self.id, || self.storage.open(&self.name()))
    }

    /// The segment's own header, when it is what it should be.
    pub(crate) fn header(&self, journal: &[u8; 16]) -> io::Result<Option<SegmentHeader>> {
        let mut b = [0; SEGMENT_HEADER];
        let n = read_most(&*self.file()?, &mut b, 0)?;
        Ok(SegmentHeader::decode(&b[..n]).filter(|h| {
            h.id == self.id && h.journal == *journal && h.first == self.first && h.base == self.base
        }))
    }

    /// Reads, checks and unseals the record at `pos`. `hint`: a guess at its payload's length.
    pub(crate) fn read(&self, pos: u32, hint: usize) -> Result<(Header, Bytes), ReadError> {
        let file = self.file().map_err(ReadError::Io)?;
        let mut raw = BytesMut::zeroed(OVERHEAD + hint);
        let n = read_most(&*file, &mut raw, u64::from(pos)).map_err(ReadError::Io)?;
        raw.truncate(n);
        let header = Header::decode(&raw).ok_or(ReadError::Corrupt("its header is damaged"))?;
        let stored = header.stored();
        if stored > n {
            raw.resize(stored, 0);
            let more = read_most(&*file, &mut raw[n..], u64::from(pos) + n as u64).map_err(ReadError::Io)?;
            raw.truncate(n + more);
        }
        let (header, plain, sealed) = parse(&raw).ok_or(ReadError::Corrupt("its checksum is wrong"))?;
        let mut payload = BytesMut::zeroed(header.payload as usize);
        self.key
            .open(u64::from(pos), &plain, sealed, &mut payload)
            .map_err(|_| ReadError::Corrupt("its seal is broken"))?;
        Ok((header, payload.freeze()))
    }
}

/// The decoded content of a data record.
pub(crate) fn content(header: &Header, payload: &Bytes) -> Result<Bytes, ReadError> {
    let codec = Codec::from_u8(header.detail).ok_or(ReadError::Corrupt("its codec is unknown"))?;
    codec::decode(codec, payload, header.len as u32, header.content_crc)
        .map_err(|_| ReadError::Corrupt("its content does not decode to what was captured"))
}

/// Adds a record to what is known of its segment. `pos` and `end` are where it begins and ends.
pub(crate) fn note(head: &mut Head, entries: &mut Vec<Entry>, h: &Header, pos: u64, end: u64) {
    let s = &mut head.summary;
    s.len = end;
    // What was supplied stands before a record that may be in another segment.
    let last = if h.kind == Kind::Supplied { Seq(h.seq.0.saturating_sub(1)) } else { h.seq };
    s.last = s.last.max(last);
    s.epoch = s.epoch.max(h.epoch);
    s.records += 1;
    match h.kind {
        Kind::Data | Kind::Supplied => s.tail += h.len,
        Kind::Barrier => {
            s.tail = 0;
            s.clock = s.clock.max(h.clock);
            head.barriers.push(Barrier {
                seq: h.seq,
                source: h.time,
                site: WallTime(h.offset),
                bytes: h.len,
                epoch: h.epoch,
                clock: h.clock,
                kind: BarrierKind::from_u8(h.detail).unwrap_or(BarrierKind::Crash),
            });
        }
        Kind::Disk => head.disks.push(DiskChange { seq: h.seq, size: h.len, disk: h.disk }),
        Kind::Zero | Kind::Epoch => {}
    }
    if h.kind.is_content() || matches!(h.kind, Kind::Zero | Kind::Disk) {
        entries.push(Entry {
            offset: h.offset,
            len: h.len,
            seq: h.seq,
            pos: pos as u32,
            payload: h.payload,
            disk: h.disk,
            kind: h.kind,
        });
    }
}

/// What a scan is told and looks for.
pub(crate) struct ScanOptions {
    /// Bytes the segment must have; 0: not known, a torn tail is possible.
    pub len: u64,
    /// Bytes known to have been on stable storage, where `len` is not known: nothing before is a torn tail.
    pub durable: u64,
    /// Decode everything too.
    pub verify: bool,
}

pub(crate) struct Scan {
    pub head: Head,
    pub entries: Vec<Entry>,
    /// `last` is `Seq(u64::MAX)` where only the next segment can tell.
    pub damage: Vec<Damage>,
    /// Bytes after the last whole record that were never acknowledged, without the zeros at the end: room made for
    /// more.
    pub torn: u64,
}

/// Reads a segment record by record. What its seal does not vouch for is not a record: a checksum anybody can make.
pub(crate) fn scan(segment: &Segment, options: &ScanOptions) -> io::Result<Scan> {
    let file = segment.file()?;
    let file_len = file.len()?;
    let end = if options.len == 0 { file_len } else { file_len.min(options.len) };
    let mut window = Window { segment, file: &*file, buf: Vec::new(), start: 0, end, plain: Vec::new() };
    let before = Seq(segment.first.0.saturating_sub(1));
    let mut out = Scan {
        head: Head {
            summary: Summary {
                len: end.min(SEGMENT_HEADER as u64),
                first: segment.first,
                last: before,
                ..Summary::default()
            },
            ..Head::default()
        },
        entries: Vec::new(),
        damage: Vec::new(),
        torn: 0,
    };
    let damage = |offset, first, last| Damage { segment: segment.name(), offset, first, last };
    let mut pos = SEGMENT_HEADER as u64;
    let mut prev = before;
    while pos < end {
        let follows = |h: &Header| match h.kind {
            Kind::Epoch => h.seq == prev,
            _ if segment.base => h.seq > prev,
            _ => h.seq == prev.next(),
        };
        if let Some(record) = window.record(pos)?.filter(|r| follows(&r.header)) {
            let next = pos + record.header.stored() as u64;
            if options.verify && !record.decodes() {
                out.damage.push(damage(pos, record.header.seq, record.header.seq));
            }
            note(&mut out.head, &mut out.entries, &record.header, pos, next);
            if record.header.kind != Kind::Supplied {
                prev = record.header.seq;
            }
            pos = next;
            continue;
        }
        // What was never acknowledged may be torn; what a later record calls durable was whole once.
        let may_be_torn = options.len == 0 && pos >= options.durable;
        let torn =
            may_be_torn && window.find(pos + 1, |h| h.seq >= prev && u64::from(h.durable) > pos)?.is_none();
        if torn {
            out.torn = window.last_used(pos)?.saturating_sub(pos);
            return Ok(out);
        }
        let Some((at, h)) = window.find(pos + 1, |h| h.seq >= prev)? else {
            out.damage.push(damage(pos, prev.next(), Seq(u64::MAX)));
            return Ok(out);
        };
        let resumes = if h.kind == Kind::Epoch { h.seq } else { Seq(h.seq.0.saturating_sub(1)) };
        // No number is missing: it was one record of an epoch, which is just so long, or content was supplied there.
        let supplied = resumes < prev.next() && at - pos > OVERHEAD as u64;
        out.damage.push(damage(pos, prev.next(), if supplied { prev.next() } else { resumes }));
        prev = resumes;
        pos = at;
    }
    if options.len.max(options.durable) > pos {
        out.damage.push(damage(pos, prev.next(), Seq(u64::MAX)));
    }
    Ok(out)
}

/// A part of a file in memory, moved along as a scan goes.
struct Window<'a> {
    segment: &'a Segment,
    file: &'a dyn LogFile,
    buf: Vec<u8>,
    start: u64,
    end: u64,
    /// The payload of the record read last.
    plain: Vec<u8>,
}

struct Whole<'a> {
    header: Header,
    payload: &'a [u8],
}

impl Whole<'_> {
    fn decodes(&self) -> bool {
        !self.header.kind.is_content() || content(&self.header, &Bytes::copy_from_slice(self.payload)).is_ok()
    }
}

impl Window<'_> {
    /// At least `n` bytes from `pos`, fewer only at the end.
    fn at(&mut self, pos: u64, n: usize) -> io::Result<&[u8]> {
        let have = self.start + self.buf.len() as u64;
        let want = (pos + n as u64).min(self.end);
        if pos < self.start || want > have {
            let size = (self.end.saturating_sub(pos)).min(n.max(2 * MIB) as u64) as usize;
            self.buf.resize(size, 0);
            let got = read_most(self.file, &mut self.buf, pos)?;
            self.buf.truncate(got);
            self.start = pos;
        }
        Ok(self.buf.get((pos - self.start) as usize..).unwrap_or_default())
    }

    /// The record at `pos`, when there is a whole one that was written there.
    fn record(&mut self, pos: u64) -> io::Result<Option<Whole<'_>>> {
        let Some(header) = Header::decode(self.at(pos, RECORD_HEADER)?) else { return Ok(None) };
        self.at(pos, header.stored())?;
        let bytes = self.buf.get((pos - self.start) as usize..).unwrap_or_default();
        let Some((header, head, sealed)) = parse(bytes) else { return Ok(None) };
        self.plain.resize(header.payload as usize, 0);
        let opened = self.segment.key.open(pos, &head, sealed, &mut self.plain);
        Ok(opened.is_ok().then_some(Whole { header, payload: &self.plain }))
    }

    /// Where the zeros begin that reach to the end, or `pos` when there is nothing else after it.
    fn last_used(&mut self, pos: u64) -> io::Result<u64> {
        let (mut at, mut used) = (pos, pos);
        while at < self.end {
            let bytes = self.at(at, 1)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
                used = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(used)
    }

    /// The first whole record at or after `pos` that `fits`.
    fn find(&mut self, mut pos: u64, fits: impl Fn(&Header) -> bool) -> io::Result<Option<(u64, Header)>> {
        while pos < self.end {
            let bytes = self.at(pos, MAGIC.len())?;
            let Some(skip) = bytes.windows(MAGIC.len()).position(|w| w == MAGIC) else {
                // The magic may straddle the end of what is in memory.
                pos += (bytes.len().saturating_sub(MAGIC.len() - 1) as u64).max(1);
                continue;
            };
            pos += skip as u64;
            if let Some(record) = self.record(pos)?
                && fits(&record.header)
            {
                return Ok(Some((pos, record.header)));
            }
            pos += 1;
        }
        Ok(None)
    }
}
