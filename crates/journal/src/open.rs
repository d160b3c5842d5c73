//! Opening: find out what is really there.
//!
//! Invariants: a torn tail exists only in the last segment and only in bytes never acknowledged; everything else that
//! is not as it was written is damage and stays in place; no record is ever added to a segment of an earlier opening;
//! what is found is on stable storage before it counts.

use crate::error::{Damage, JournalError};
use crate::format::SEGMENT_HEADER;
use crate::index::{self, Head, Summary};
use crate::manifest::{self, Listed, Manifest, NAMES, SaveError};
use crate::mark::{Mark, MarkFile};
use crate::seal::{JournalKey, MacKey};
use crate::segment::{FileCache, ScanOptions, Segment, scan};
use crate::state::{ManifestStore, SegmentState, Shared, State};
use crate::writer::{Journal, JournalConfig, segment_id};
use lifeboat_base::limits::MIB;
use lifeboat_base::{Clock, Entropy, Epoch, Seq};
use lifeboat_block::codec::Encoder;
use lifeboat_block::storage::{DirStorage, LogFile, Storage, read_most, write_all};
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Unacknowledged bytes that were cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// File name of the segment.
    pub segment: String,
    /// Its length now, in bytes.
    pub length: u64,
    /// Bytes cut off.
    pub cut: u64,
}

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The journal did not exist and was made.
    pub created: bool,
    pub truncated: Option<Truncated>,
    /// Points that need what is lost cannot be opened; all others can.
    pub damage: Vec<Damage>,
    /// One copy of the manifest was damaged and was written again.
    pub manifest_repaired: bool,
    /// Indexes that were missing or damaged and were made again.
    pub indexes_rebuilt: usize,
    /// Files of unfinished work that were removed.
    pub removed: Vec<String>,
}

/// One segment as it was found.
struct Found {
    head: Head,
    damage: Vec<Damage>,
    torn: u64,
}

impl Journal {
    /// Opens the journal in `dir`, or makes one there.
    ///
    /// # Errors
    /// `Locked`, `WrongKey`, `Manifest`, and what the system reports. Damage is not an error here: it is reported,
    /// and the points it touches cannot be opened.
    pub fn open(
        dir: &Path,
        key: &JournalKey,
        config: JournalConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Self, OpenReport), JournalError> {
        let storage =
            DirStorage::new(dir).map_err(JournalError::io(format!("cannot use {}", dir.display())))?;
        Self::open_on(Arc::new(storage), key, config, clock, entropy)
    }

    /// Opens a journal on any storage.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(
        storage: Arc<dyn Storage>,
        key: &JournalKey,
        mut config: JournalConfig,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Self, OpenReport), JournalError> {
        config.segment_bytes = config.segment_bytes.clamp(512, 1 << 30);
        config.segment_records = config.segment_records.max(16);
        let lock = storage.lock().map_err(JournalError::io("cannot lock the journal"))?;
        let lock = lock.ok_or(JournalError::Locked)?;
        let mac = key.mac();
        let mut report = OpenReport::default();
        let manifest = load_manifest(&*storage, &mac, &*clock, &*entropy, &mut report)?;
        let mut shared = Shared {
            key: key.clone(),
            journal: manifest.journal,
            files: Arc::new(FileCache::default()),
            segment_bytes: config.segment_bytes,
            segment_records: config.segment_records,
            window: Mutex::new((config.window, config.window_bytes)),
            state: RwLock::default(),
            elsewhere: RwLock::default(),
            trimming: Mutex::new(()),
            opened: (Duration::ZERO, clock.monotonic()),
            manifest: Mutex::new(ManifestStore::new(manifest.clone())),
            storage,
            clock,
            entropy,
            mac,
            _lock: lock,
        };
        let (state, since_barrier, window_clock) = load_segments(&shared, &manifest, &mut report)?;
        shared.opened.0 = Duration::from_secs(u64::from(window_clock));
        let (last, epoch) = (state.durable, state.epoch);
        let disks = state.disks_at(last);
        *shared.state.get_mut() = state;
        let journal = Self {
            shared: Arc::new(shared),
            config,
            current: None,
            buf: Vec::new(),
            last,
            epoch,
            disks,
            since_barrier,
            poison: None,
            mark: MarkFile::default(),
            encoder: Encoder::default(),
        };
        Ok((journal, report))
    }
}

fn load_manifest(
    storage: &dyn Storage,
    mac: &MacKey,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    report: &mut OpenReport,
) -> Result<Manifest, JournalError> {
    let names = storage.list().map_err(JournalError::io("cannot list the journal's files"))?;
    let is_segment = |n: &String| n.ends_with(".seg");
    let save = |m: &Manifest| {
        manifest::save(storage, mac, m).map_err(|(SaveError::Before(e) | SaveError::Unknown(e))| e)
    };
    let manifest = match Manifest::load(storage, mac)? {
        Some((m, damaged)) => {
            report.manifest_repaired = damaged || !NAMES.iter().all(|n| names.iter().any(|have| have == n));
            if report.manifest_repaired {
                save(&m)?;
            }
            m
        }
        None if names.iter().any(is_segment) => {
            return Err(JournalError::Manifest("it is missing but there are segments".into()));
        }
        None => {
            report.created = true;
            let manifest = Manifest {
                journal: segment_id(entropy),
                generation: 1,
                horizon: Seq::ZERO,
                epoch: Epoch(0),
                created: clock.wall(),
                segments: Vec::new(),
                base: None,
                local: false,
            };
            save(&manifest)?;
            manifest
        }
    };
    // What is not listed was never part of the journal, or is not any more.
    let listed: HashSet<u128> = manifest.segments.iter().map(|s| u128::from_be_bytes(s.id)).collect();
    for name in names {
        let id = name
            .strip_suffix(".seg")
            .or_else(|| name.strip_suffix(".idx"))
            .and_then(|stem| u128::from_str_radix(stem.split_once('-')?.1, 16).ok());
        if name == "manifest.tmp" || id.is_some_and(|id| !listed.contains(&id)) {
            match storage.remove(&name) {
                Ok(()) => report.removed.push(name),
                // Saving the manifest above has used that name up.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(JournalError::io(format!("cannot remove {name}"))(e)),
            }
        }
    }
    Ok(manifest)
}

/// Reads every segment; gives the state, the bytes of data since the last barrier, and the window clock.
fn load_segments(
    shared: &Shared,
    manifest: &Manifest,
    report: &mut OpenReport,
) -> Result<(State, u64, u32), JournalError> {
    let mut state = State { horizon: manifest.horizon, epoch: manifest.epoch, ..State::default() };
    let (mut since, mut window_clock) = (0, 0);
    if let Some(base) = &manifest.base {
        state.durable = base.info.seq;
        state.disks.extend(base.changes());
        state.base = Some(Arc::new(base.clone()));
        window_clock = base.clock;
    }
    let from = state.from();
    let mark = Mark::load(&*shared.storage, &shared.mac);
    for (n, listed) in manifest.segments.iter().enumerate() {
        let next = manifest.segments.get(n + 1);
        let segment = shared.segment(listed.id, listed.first, listed.base);
        let mark = mark.as_ref().filter(|m| m.segment == listed.id && listed.len == 0);
        let found = load_one(shared, &segment, listed, (next.is_none(), mark), report)
            .map_err(JournalError::io(format!("cannot read {}", segment.name())))?;
        let mut damage = found.damage;
        let mut summary = found.head.summary;
        let lost_to = match (listed.len, mark) {
            (0, None) => summary.last,
            (0, Some(mark)) => summary.last.max(mark.last),
            _ => listed.last,
        };
        for d in &mut damage {
            d.last = d.last.min(lost_to.max(d.first));
        }
        if damage.iter().all(|d| d.last < lost_to) && summary.last < lost_to {
            let (name, first) = (segment.name(), summary.last.next());
            damage.push(Damage { segment: name, offset: summary.len, first, last: lost_to });
        }
        if found.torn > 0 {
            report.truncated =
                Some(Truncated { segment: segment.name(), length: summary.len, cut: found.torn });
        }
        // Where the end of a segment is lost, its records still have their place in the order.
        summary.last = summary.last.max(lost_to);
        since = if found.head.barriers.is_empty() { since + summary.tail } else { summary.tail };
        window_clock = window_clock.max(summary.clock);
        state.durable = state.durable.max(summary.last);
        state.epoch = state.epoch.max(summary.epoch);
        state.barriers.extend(found.head.barriers.into_iter().filter(|b| b.seq >= manifest.horizon));
        state.disks.extend(found.head.disks.into_iter().filter(|d| from == Seq::ZERO || d.seq > from));
        report.damage.extend(damage.iter().cloned());
        state.damage.extend(damage);
        state.segments.push(SegmentState { segment, summary });
    }
    Ok((state, since, window_clock))
}

fn load_one(
    shared: &Shared,
    segment: &Arc<Segment>,
    listed: &Listed,
    (is_last, mark): (bool, Option<&Mark>),
    report: &mut OpenReport,
) -> io::Result<Found> {
    let nothing = |why: &str| {
        tracing::error!("{}: {why}", segment.name());
        let before = Seq(segment.first.0.saturating_sub(1));
        let summary = Summary { first: segment.first, last: before, ..Summary::default() };
        let damage = Damage { segment: segment.name(), offset: 0, first: segment.first, last: Seq(u64::MAX) };
        Found { head: Head { summary, ..Head::default() }, damage: vec![damage], torn: 0 }
    };
    match segment.header(&shared.journal) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(nothing("the segment's header is damaged")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(nothing("the segment is missing")),
        Err(e) => return Err(e),
    }
    let file = segment.file()?;
    let len = file.len()?;
    let indexed = match shared.storage.open(&segment.index_name()) {
        Ok(index) => index::load_head(&shared.mac, &segment.id, &*index)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if let Some(head) = indexed
        // It may be longer: room that was made and never used.
        && head.summary.len <= len
        && (listed.len == 0 || listed.len == head.summary.len)
    {
        return Ok(Found { head, damage: Vec::new(), torn: 0 });
    }
    // A length is not known only for the segment that was being written.
    let expected = match listed.len {
        0 if !is_last => len,
        known => known,
    };
    let durable = mark.map_or(0, |m| m.length);
    let scanned = scan(segment, &ScanOptions { len: expected, durable, verify: false })?;
    let end = scanned.head.summary.len.max(SEGMENT_HEADER as u64);
    if listed.len == 0 {
        if end < len && scanned.damage.is_empty() {
            file.set_len(end)?;
        }
        make_stable(&*file, durable, end)?;
    }
    if scanned.damage.is_empty() {
        report.indexes_rebuilt += usize::from(listed.len > 0);
        shared.write_index(segment, &scanned.head, &scanned.entries);
    }
    Ok(Found { head: scanned.head, damage: scanned.damage, torn: scanned.torn })
}

/// Puts what a killed process had written on stable storage, before anybody is told that it is there. It is written again,
/// not only synced: after a sync that failed, the system takes the bytes in its memory for stored.
fn make_stable(file: &dyn LogFile, from: u64, to: u64) -> io::Result<()> {
    let mut buf = vec![0; MIB];
    let mut at = from;
    while at < to {
        let n = buf.len().min((to - at) as usize);
        let n = read_most(file, &mut buf[..n], at)?;
        if n == 0 {
            break;
        }
        write_all(file, &buf[..n], at)?;
        at += n as u64;
    }
    file.sync()
}

#[cfg(test)]
mod tests;
