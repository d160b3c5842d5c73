//! The one writer of a journal.
//!
//! Invariants:
//! - bytes reach the file only behind all earlier ones, and `commit` says `Ok` only after a sync that began after
//!   they were written;
//! - after a write or sync that failed for another reason than a full disk nothing is accepted any more;
//! - on a full disk the file is cut back to its last whole batch and the batch kept, so that the same commit can be
//!   tried again: the same bytes at the same place, hence no nonce for two contents.

use crate::base::Elsewhere;
use crate::error::{JournalError, no_space};
use crate::format::{Header, Kind, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader, record_crc, set_crc};
use crate::index::{DiskChange, Entry, Head, Summary};
use crate::manifest::Listed;
use crate::mark::{Mark, MarkFile};
use crate::points::JournalReader;
use crate::seal::TAG;
use crate::segment::{Segment, note};
use crate::state::{DiskInfo, SegmentState, Shared};
use bytes::Bytes;
use lifeboat_base::limits::{MAX_DISK, MAX_DISKS, MAX_RECORD, MIB};
use lifeboat_base::{DiskId, Entropy, Epoch, PointId, Seq};
use lifeboat_block::codec::Encoder;
use lifeboat_block::storage::{LogFile, write_all};
use lifeboat_block::{Body, Codec, Record};
use std::sync::Arc;
use std::time::Duration;

/// Sealed bytes held before they are written, even without a commit: the disk works while the next are sealed.
const BATCH: usize = MIB;
/// Sealed bytes held at most, when the disk is full.
const MOST_HELD: usize = 16 * MIB;

/// Room made in a segment ahead of what is written.
const AHEAD: u64 = 32 << 20;

/// Settings of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// A segment is finished when it is this long, in bytes. At most 1 GiB.
    pub segment_bytes: u64,
    /// A segment is finished when it holds this many records.
    pub segment_records: u32,
    /// How far back points are kept, measured from the newest one in time the journal was open.
    pub window: Duration,
    /// How many bytes of history are kept at most; the newest point always is.
    pub window_bytes: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 128 << 20,
            segment_records: 1 << 18,
            window: Duration::from_secs(24 * 3600),
            window_bytes: 256 << 30,
        }
    }
}

/// What is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Every record up to here.
    pub seq: Seq,
    /// The newest recovery point among them.
    pub barrier: Option<PointId>,
}

/// The segment being written.
pub(crate) struct Current {
    segment: Arc<Segment>,
    file: Arc<dyn LogFile>,
    /// Bytes in the file.
    written: u64,
    /// Bytes known to be on stable storage.
    durable: u64,
    /// Bytes there is room for; `u64::MAX` when the file system cannot make any.
    allocated: u64,
    /// What was appended and is not committed yet. Its summary is the whole segment's.
    head: Head,
    entries: Vec<Entry>,
    committed_records: u32,
}

/// The writer. There is one per journal; it is not shared between threads.
pub struct Journal {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: JournalConfig,
    pub(crate) current: Option<Current>,
    /// Sealed records that are not in the file yet.
    pub(crate) buf: Vec<u8>,
    pub(crate) last: Seq,
    pub(crate) epoch: Epoch,
    pub(crate) disks: Vec<DiskInfo>,
    /// Bytes of data since the last barrier.
    pub(crate) since_barrier: u64,
    pub(crate) poison: Option<String>,
    pub(crate) mark: MarkFile,
    /// For what is supplied.
    pub(crate) encoder: Encoder,
}

impl Journal {
    /// Sequence number of the last record appended, committed or not.
    pub fn last_seq(&self) -> Seq {
        self.last
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Sequence number of the last record on stable storage.
    pub fn durable_seq(&self) -> Seq {
        self.shared.state.read().durable
    }

    /// Something was taken that is not on stable storage, be it without a number of its own.
    pub fn is_pending(&self) -> bool {
        !self.buf.is_empty() || self.current.as_ref().is_some_and(|c| c.durable < c.written)
    }

    /// The newest point on stable storage.
    pub fn latest_point(&self) -> Option<PointId> {
        self.shared.state.read().barriers.last().map(|b| b.id())
    }

    /// The disks as of the last record appended.
    pub fn disks(&self) -> Vec<DiskInfo> {
        self.disks.clone()
    }

    /// A handle for reading while this one writes.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// A handle for trimming while this one writes.
    pub fn keeper(&self) -> crate::JournalKeeper {
        crate::JournalKeeper::new(self.shared.clone())
    }

    /// For a journal that holds only what follows record `after` of another: numbers go on from there, on the disks
    /// as they were. To be said after each opening, always the same.
    ///
    /// # Errors
    /// `Invalid` when the journal begins elsewhere.
    pub fn begin_after(&mut self, after: Seq, disks: &[DiskInfo]) -> Result<(), JournalError> {
        let mut state = self.shared.state.write();
        let elsewhere = match state.segments.first() {
            Some(first) => first.segment.first != after.next(),
            None => self.last != Seq::ZERO && self.last != after,
        };
        if elsewhere {
            return Err(JournalError::Invalid {
                seq: after.next(),
                why: "the journal does not begin with it",
            });
        }
        self.last = self.last.max(after);
        state.durable = state.durable.max(after);
        if state.disks.first().is_none_or(|d| d.seq > after) {
            let known = disks.iter().map(|d| DiskChange { seq: after, size: d.size, disk: d.disk });
            state.disks.splice(0..0, known);
        }
        self.disks = state.disks_at(self.last);
        Ok(())
    }

    /// Takes records of the current epoch that follow the last one. Records already taken are skipped, so that a
    /// stream may be sent again after a reconnect. Nothing is on stable storage before [`commit`](Self::commit).
    ///
    /// # Errors
    /// `StaleEpoch`, `Gap`, `Invalid`: the records before the refused one were taken, the journal goes on.
    /// `NoSpace`: commit again when there is room. Else the journal is poisoned.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.check_poison()?;
        for record in records {
            if record.epoch != self.epoch {
                return Err(JournalError::StaleEpoch { current: self.epoch, got: record.epoch });
            }
            if record.seq <= self.last {
                continue;
            }
            if record.seq != self.last.next() {
                return Err(JournalError::Gap { last: self.last, got: record.seq });
            }
            self.validate(record)?;
            self.make_room()?;
            self.take(record)?;
        }
        Ok(())
    }

    fn validate(&self, record: &Record) -> Result<(), JournalError> {
        let invalid = |why| Err(JournalError::Invalid { seq: record.seq, why });
        let within = |disk: DiskId, offset: u64, len: u64| {
            let size = self.disks.iter().find(|d| d.disk == disk).map(|d| d.size);
            match (size, offset.checked_add(len)) {
                (None, _) => Some("its disk was never announced"),
                (Some(size), Some(end)) if end <= size => None,
                _ => Some("it lies outside of its disk"),
            }
        };
        match &record.body {
            Body::Data { disk, offset, len, codec, crc, payload } => {
                if let Some(why) = within(*disk, *offset, u64::from(*len)) {
                    return invalid(why);
                }
                if *len == 0 || *len as usize > MAX_RECORD || payload.len() > MAX_RECORD {
                    return invalid("its length is out of bounds");
                }
                // Raw content is cheap to check, so damage on the way here is found before it is acknowledged.
                if *codec == Codec::Raw && (payload.len() != *len as usize || crc32c::crc32c(payload) != *crc)
                {
                    return invalid("its content does not match its checksum");
                }
                Ok(())
            }
            Body::Zero { disk, offset, len } => match within(*disk, *offset, *len) {
                Some(why) => invalid(why),
                None => Ok(()),
            },
            Body::Disk { disk, size } => {
                if usize::from(disk.0) >= MAX_DISKS || *size > MAX_DISK {
                    return invalid("its disk's number or size is out of bounds");
                }
                Ok(())
            }
            Body::Barrier { .. } => Ok(()),
        }
    }

    /// Where the base is kept, for this and every later reading.
    pub fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        *self.shared.elsewhere.write() = Some(elsewhere);
    }

    /// Takes content of a disk that the stream names here and that was found at this site, so that it need not be sent. It
    /// counts from the next record on: points before that are without it. Safe, like a record, once committed.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn supply(&mut self, disk: DiskId, offset: u64, content: &Bytes) -> Result<(), JournalError> {
        self.check_poison()?;
        let (codec, payload) = self.encoder.encode(content);
        let (len, crc) = (content.len() as u32, crc32c::crc32c(content));
        let body = Body::Data { disk, offset, len, codec, crc, payload: payload.clone() };
        let time = self.shared.clock.wall();
        self.validate(&Record { epoch: self.epoch, seq: self.last.next(), time, body })?;
        if !self.shared.manifest.lock().current.local {
            // Before the first: who does not know such records must not take them for a torn tail.
            match self.shared.update_manifest(|m| m.local = true, |_| {}) {
                Ok(()) => {}
                Err(JournalError::NoSpace) => return Err(JournalError::NoSpace),
                Err(e) => return Err(self.poisoned(e)),
            }
        }
        self.make_room()?;
        let header = Header {
            kind: Kind::Supplied,
            detail: codec as u8,
            disk,
            payload: payload.len() as u32,
            len: u64::from(len),
            offset,
            seq: self.last.next(),
            time,
            epoch: self.epoch,
            content_crc: crc,
            clock: 0,
            durable: 0,
        };
        self.push(header, &payload)?;
        self.since_barrier += u64::from(len);
        Ok(())
    }

    /// Finishes a full segment, starts one when there is none, writes out a full buffer.
    fn make_room(&mut self) -> Result<(), JournalError> {
        if let Some(current) = &self.current
            && (current.written + self.buf.len() as u64 >= self.config.segment_bytes
                || current.head.summary.records >= self.config.segment_records)
        {
            self.commit()?;
            self.finish_segment();
        }
        if self.current.is_none() {
            self.start_segment()?;
        }
        if self.buf.len() >= BATCH
            && let Err(e) = self.write_out()
            && (self.poison.is_some() || self.buf.len() >= MOST_HELD)
        {
            return Err(e);
        }
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), JournalError> {
        let mut h = Header {
            kind: Kind::Barrier,
            detail: 0,
            disk: DiskId(0),
            payload: 0,
            len: 0,
            offset: 0,
            seq: record.seq,
            time: record.time,
            epoch: record.epoch,
            content_crc: 0,
            clock: 0,
            durable: 0,
        };
        let mut content: &[u8] = &[];
        match &record.body {
            Body::Data { disk, offset, len, codec, crc, payload } => {
                (h.kind, h.detail, h.disk) = (Kind::Data, *codec as u8, *disk);
                (h.payload, h.len, h.offset) = (payload.len() as u32, u64::from(*len), *offset);
                h.content_crc = *crc;
                content = payload;
            }
            Body::Zero { disk, offset, len } => {
                (h.kind, h.disk, h.offset, h.len) = (Kind::Zero, *disk, *offset, *len);
            }
            Body::Disk { disk, size } => (h.kind, h.disk, h.len) = (Kind::Disk, *disk, *size),
            Body::Barrier { kind } => {
                h.detail = *kind as u8;
                h.len = self.since_barrier;
                h.offset = self.shared.clock.wall().0;
                h.clock = u32::try_from(self.shared.window_clock().as_secs()).unwrap_or(u32::MAX);
            }
        }
        self.push(h, content)?;
        match &record.body {
            Body::Data { len, .. } => self.since_barrier += u64::from(*len),
            Body::Barrier { .. } => self.since_barrier = 0,
            Body::Disk { disk, size } => match self.disks.iter_mut().find(|d| d.disk == *disk) {
                Some(d) => d.size = *size,
                None => self.disks.push(DiskInfo { disk: *disk, size: *size }),
            },
            Body::Zero { .. } => {}
        }
        self.last = record.seq;
        Ok(())
    }

    /// Seals a record into the buffer.
    fn push(&mut self, mut header: Header, payload: &[u8]) -> Result<(), JournalError> {
        let Some(current) = &mut self.current else {
            return Err(JournalError::Poisoned("there is no segment to write to".into()));
        };
        header.durable = current.durable as u32;
        let pos = current.written + self.buf.len() as u64;
        seal_record(&current.segment, &header, pos, payload, &mut self.buf);
        let end = current.written + self.buf.len() as u64;
        note(&mut current.head, &mut current.entries, &header, pos, end);
        Ok(())
    }

    /// Puts everything appended on stable storage and shows it to readers.
    ///
    /// # Errors
    /// `NoSpace`: nothing was acknowledged; the same call can be made again. Else the journal is poisoned and must be
    /// opened again, which finds what really reached the disk.
    pub fn commit(&mut self) -> Result<Durable, JournalError> {
        self.check_poison()?;
        self.write_out()?;
        if let Some(current) = &mut self.current
            && current.durable < current.written
        {
            if let Err(source) = current.file.sync() {
                // Never through the NoSpace path: a failed sync says nothing about which bytes are safe.
                let what = format!("cannot sync {}", current.segment.name());
                return Err(self.poisoned(JournalError::Io { what, source }));
            }
            current.durable = current.written;
            let mark = Mark { segment: current.segment.id, length: current.durable, last: self.last };
            self.publish();
            self.mark.put(&*self.shared.storage, &self.shared.mac, &mark);
        }
        let state = self.shared.state.read();
        Ok(Durable { seq: state.durable, barrier: state.barriers.last().map(|b| b.id()) })
    }

    fn write_out(&mut self) -> Result<(), JournalError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if self.buf.is_empty() {
            return Ok(());
        }
        let end = current.written + self.buf.len() as u64;
        if end > current.allocated {
            let upto = (end + AHEAD).min(self.config.segment_bytes.max(end));
            // Only speed is lost when it fails; a full disk shows itself in the write.
            current.allocated = current.file.preallocate(upto).map_or(u64::MAX, |()| upto);
        }
        let Err(source) = write_all(&*current.file, &self.buf, current.written) else {
            current.file.begin_sync(current.written, end - current.written);
            current.written = end;
            self.buf.clear();
            return Ok(());
        };
        current.allocated = current.written;
        let full = no_space(&source);
        let what = format!("cannot write {}", current.segment.name());
        if full && current.file.set_len(current.written).is_ok() {
            return Err(JournalError::NoSpace);
        }
        Err(self.poisoned(JournalError::Io { what, source }))
    }

    /// Shows what was committed to readers.
    fn publish(&mut self) {
        let Some(current) = &mut self.current else { return };
        let mut guard = self.shared.state.write();
        let state = &mut *guard;
        state.durable = self.last;
        state.epoch = self.epoch;
        state.barriers.append(&mut current.head.barriers);
        state.disks.append(&mut current.head.disks);
        if let Some(last) = state.segments.last_mut() {
            last.summary = current.head.summary.clone();
        }
        if let Some(open) = &mut state.open {
            open.append(&mut current.entries);
        }
        current.committed_records = current.head.summary.records;
    }

    /// Writes the index of the segment, everything of which is committed, and lets go of it.
    fn finish_segment(&mut self) {
        let Some(current) = self.current.take() else { return };
        let (head, entries) = {
            let state = self.shared.state.read();
            let first = current.segment.first;
            let head = Head {
                summary: current.head.summary.clone(),
                barriers: state.barriers.iter().filter(|b| b.seq >= first).cloned().collect(),
                disks: state.disks.iter().filter(|d| d.seq >= first).cloned().collect(),
            };
            (head, state.open.clone().unwrap_or_default())
        };
        // Gives back the room not used. A longer file does no harm: the index knows where its records end.
        if let Err(e) = current.file.set_len(current.written) {
            tracing::warn!("{} keeps room it does not need: {e}", current.segment.name());
        }
        // Written while readers still use the copy in memory.
        self.shared.write_index(&current.segment, &head, &entries);
        self.shared.state.write().open = None;
    }

    fn start_segment(&mut self) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        let first = self.last.next();
        let id = segment_id(&*shared.entropy);
        let segment = shared.segment(id, first, false);
        let name = segment.name();
        let created = create_segment(&shared, &segment, self.epoch);
        let file = created.map_err(|e| {
            let _ = shared.storage.remove(&name);
            JournalError::io(format!("cannot create {name}"))(e)
        })?;
        let len = SEGMENT_HEADER as u64;
        let summary = Summary { len, first, last: self.last, epoch: self.epoch, ..Summary::default() };
        let ends: Vec<_> = {
            let state = shared.state.read();
            state.segments.iter().map(|s| (s.segment.id, s.summary.len, s.summary.last)).collect()
        };
        let added = shared.update_manifest(
            |m| {
                for listed in m.segments.iter_mut().filter(|l| l.len == 0) {
                    if let Some((_, len, last)) = ends.iter().find(|(id, ..)| *id == listed.id) {
                        (listed.len, listed.last) = (*len, *last);
                    }
                }
                m.epoch = m.epoch.max(self.epoch);
                m.segments.push(Listed { id, first, len: 0, last: Seq::ZERO, base: false });
            },
            |state| {
                state.segments.push(SegmentState { segment: segment.clone(), summary: summary.clone() });
                state.open = Some(Vec::new());
            },
        );
        match added {
            Ok(()) => {}
            Err(JournalError::NoSpace) => {
                let _ = shared.storage.remove(&name);
                return Err(JournalError::NoSpace);
            }
            Err(e) => return Err(self.poisoned(e)),
        }
        self.current = Some(Current {
            segment,
            file,
            written: len,
            durable: len,
            allocated: len,
            head: Head { summary, ..Head::default() },
            entries: Vec::new(),
            committed_records: 0,
        });
        Ok(())
    }

    /// Begins the reign of another writer. Durable when it returns.
    ///
    /// # Errors
    /// `StaleEpoch` when `epoch` is lower than the journal's. Else as [`commit`](Self::commit).
    pub fn set_epoch(&mut self, epoch: Epoch) -> Result<(), JournalError> {
        self.check_poison()?;
        if epoch < self.epoch {
            return Err(JournalError::StaleEpoch { current: self.epoch, got: epoch });
        }
        if epoch == self.epoch {
            return Ok(());
        }
        // The manifest decides; the record says where in the stream it happened.
        let saved = self.shared.update_manifest(|m| m.epoch = epoch, |state| state.epoch = epoch);
        match saved {
            Ok(()) => self.epoch = epoch,
            Err(JournalError::NoSpace) => return Err(JournalError::NoSpace),
            Err(e) => return Err(self.poisoned(e)),
        }
        if self.current.is_none() {
            // The next segment's header carries it.
            return Ok(());
        }
        let header = Header {
            kind: Kind::Epoch,
            detail: 0,
            disk: DiskId(0),
            payload: 0,
            len: 0,
            offset: 0,
            seq: self.last,
            time: self.shared.clock.wall(),
            epoch,
            content_crc: 0,
            clock: 0,
            durable: 0,
        };
        self.push(header, &[])?;
        self.commit().map(drop)
    }

    /// Commits and finishes the segment, so that the next opening has nothing to scan.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn close(mut self) -> Result<(), JournalError> {
        self.commit()?;
        if self.current.as_ref().is_some_and(|c| c.committed_records > 0) {
            self.finish_segment();
        }
        Ok(())
    }

    fn check_poison(&self) -> Result<(), JournalError> {
        match &self.poison {
            Some(why) => Err(JournalError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn poisoned(&mut self, e: JournalError) -> JournalError {
        tracing::error!("the journal stops: {e}");
        self.poison = Some(e.to_string());
        e
    }
}

/// Seals a record at `pos` of `segment` to the end of `out`.
pub(crate) fn seal_record(segment: &Segment, header: &Header, pos: u64, payload: &[u8], out: &mut Vec<u8>) {
    let mut plain = header.encode();
    let start = out.len();
    out.reserve(RECORD_HEADER + payload.len() + TAG);
    out.extend_from_slice(&plain);
    out.extend_from_slice(payload);
    let tag = segment
        .key
        .seal(pos, &plain, &mut out[start + RECORD_HEADER..])
        .expect("AES-GCM seals any payload far shorter than 64 GiB");
    out.extend_from_slice(&tag);
    let crc = record_crc(&plain, &out[start + RECORD_HEADER..]);
    set_crc(&mut plain, crc);
    out[start..start + RECORD_HEADER].copy_from_slice(&plain);
}

/// Makes the file of a segment with its header on stable storage.
pub(crate) fn create_segment(
    shared: &Shared,
    segment: &Segment,
    epoch: Epoch,
) -> std::io::Result<Arc<dyn LogFile>> {
    let file = shared.storage.create(&segment.name())?;
    let header = SegmentHeader {
        journal: shared.journal,
        id: segment.id,
        base: segment.base,
        first: segment.first,
        epoch,
        created: shared.clock.wall(),
    };
    write_all(&*file, &header.encode(), 0)?;
    file.sync()?;
    shared.storage.sync_dir()?;
    Ok(file)
}

/// A fresh segment id.
pub(crate) fn segment_id(entropy: &dyn Entropy) -> [u8; 16] {
    let mut id = [0; 16];
    entropy.fill(&mut id);
    id
}

#[cfg(test)]
mod tests;
