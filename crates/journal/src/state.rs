//! What writer, readers and keeper of one journal share.
//!
//! Invariants: readers see committed records only; segments are in order and disjoint; barriers before the horizon
//! are not in the list. Locks are taken in the order manifest, state.

use crate::base::{Base, Elsewhere};
use crate::error::{Damage, JournalError, PointError};
use crate::format::Kind;
use crate::index::{self, Barrier, DiskChange, Entry, Head, Summary};
use crate::manifest::{self, Manifest, SaveError};
use crate::seal::{JournalKey, MacKey};
use crate::segment::{FileCache, ScanOptions, Segment, scan};
use lifeboat_base::{Clock, DiskId, Entropy, Epoch, Seq};
use lifeboat_block::storage::Storage;
use parking_lot::{Mutex, RwLock};
use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A disk of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskInfo {
    pub disk: DiskId,
    /// In bytes.
    pub size: u64,
}

#[derive(Clone)]
pub(crate) struct SegmentState {
    pub segment: Arc<Segment>,
    pub summary: Summary,
}

/// Where the committed part of the journal stands.
#[derive(Default)]
pub(crate) struct State {
    pub segments: Vec<SegmentState>,
    /// The last of `segments` is still being written; these are its entries.
    pub open: Option<Vec<Entry>>,
    pub barriers: Vec<Barrier>,
    pub disks: Vec<DiskChange>,
    pub damage: Vec<Damage>,
    /// What checks found besides, where an index still says what was lost.
    pub found: Vec<Damage>,
    pub horizon: Seq,
    pub durable: Seq,
    pub epoch: Epoch,
    /// What lies below the records.
    pub base: Option<Arc<Base>>,
}

/// Where a history begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the first entry stored, also what the base holds already.
    Start,
    /// After the base.
    Base,
    After(Seq),
}

/// What a history is made of.
pub(crate) struct History {
    pub segments: Vec<SegmentState>,
    pub base: Option<Arc<Base>>,
}

impl State {
    /// Damage that lost something the base does not hold.
    pub(crate) fn lost(&self, d: &Damage) -> bool {
        d.first <= d.last && (self.base.is_none() || d.last > self.from())
    }

    /// Sizes of the disks that exist at `seq`.
    pub(crate) fn disks_at(&self, seq: Seq) -> Vec<DiskInfo> {
        let mut disks: Vec<DiskInfo> = Vec::new();
        for change in self.disks.iter().take_while(|c| c.seq <= seq) {
            match disks.iter_mut().find(|d| d.disk == change.disk) {
                Some(d) => d.size = change.size,
                None => disks.push(DiskInfo { disk: change.disk, size: change.size }),
            }
        }
        disks.sort_by_key(|d| d.disk);
        disks
    }
}

pub(crate) struct ManifestStore {
    pub current: Manifest,
    broken: Option<String>,
}

impl ManifestStore {
    pub(crate) fn new(current: Manifest) -> Self {
        Self { current, broken: None }
    }

    /// The file is known to be what `current` says.
    pub(crate) fn is_sure(&self) -> bool {
        self.broken.is_none()
    }
}

pub(crate) struct Shared {
    pub storage: Arc<dyn Storage>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub key: JournalKey,
    pub mac: MacKey,
    pub journal: [u8; 16],
    pub files: Arc<FileCache>,
    pub segment_bytes: u64,
    pub segment_records: u32,
    /// How far back points are kept, in time and in bytes.
    pub window: Mutex<(Duration, u64)>,
    pub manifest: Mutex<ManifestStore>,
    pub state: RwLock<State>,
    /// Where the base is kept.
    pub elsewhere: RwLock<Option<Arc<dyn Elsewhere>>>,
    /// Held by the one trim that may run.
    pub trimming: Mutex<()>,
    /// Time on the window clock when the journal was opened, and the monotonic time then.
    pub opened: (Duration, Duration),
    /// Let go with the last user, mounts included: nobody else may open the journal before.
    pub _lock: Box<dyn Any + Send + Sync>,
}

impl Shared {
    /// Time this journal has been open, over all its openings. The window is measured with it, because no jump of
    /// the time of day can move it and downtime does not make points older.
    pub(crate) fn window_clock(&self) -> Duration {
        self.opened.0 + self.clock.monotonic().saturating_sub(self.opened.1)
    }

    pub(crate) fn segment(&self, id: [u8; 16], first: Seq, base: bool) -> Arc<Segment> {
        Arc::new(Segment {
            id,
            first,
            base,
            key: self.key.segment(&self.journal, &id),
            storage: self.storage.clone(),
            files: self.files.clone(),
            doomed: AtomicBool::new(false),
        })
    }

    /// Replaces the manifest, then lets `apply` bring the state in line while nobody else can.
    pub(crate) fn update_manifest(
        &self,
        change: impl FnOnce(&mut Manifest),
        apply: impl FnOnce(&mut State),
    ) -> Result<(), JournalError> {
        let mut store = self.manifest.lock();
        if let Some(why) = &store.broken {
            return Err(JournalError::Poisoned(why.clone()));
        }
        let mut next = store.current.clone();
        change(&mut next);
        next.generation += 1;
        match manifest::save(&*self.storage, &self.mac, &next) {
            Ok(()) => {
                store.current = next;
                apply(&mut self.state.write());
                Ok(())
            }
            Err(SaveError::Before(e)) => Err(e),
            Err(SaveError::Unknown(e)) => {
                store.broken = Some(e.to_string());
                Err(e)
            }
        }
    }

    /// Gives every entry of a finished segment up to `upto` to `f`, from its index or, without one, by scanning.
    pub(crate) fn each_entry(
        &self,
        of: &SegmentState,
        upto: Seq,
        mut f: impl FnMut(Entry),
    ) -> Result<(), PointError> {
        let segment = &of.segment;
        if of.summary.len == 0 {
            // Lost as a whole, and listed as damage.
            return Ok(());
        }
        let mut take = |e: Entry| {
            if e.seq <= upto {
                f(e);
            }
        };
        let failed = |e| PointError::Journal(JournalError::io(format!("cannot read {}", segment.name()))(e));
        let loaded = match self.storage.open(&segment.index_name()) {
            Ok(file) => index::each_entry(&self.mac, &segment.id, &*file, &mut take).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(failed(e)),
        };
        if !loaded {
            let options = ScanOptions { len: of.summary.len, durable: 0, verify: false };
            let scanned = scan(segment, &options).map_err(failed)?;
            self.refuse_new_damage(scanned.damage, upto)?;
            scanned.entries.into_iter().for_each(take);
        }
        Ok(())
    }

    /// Damage found while reading, which opening did not know of because an index stood in for the segment: from now
    /// on it is known.
    fn refuse_new_damage(&self, found: Vec<Damage>, upto: Seq) -> Result<(), PointError> {
        let mut refused = None;
        for mut d in found {
            let mut state = self.state.write();
            if !state.damage.iter().any(|k| k.segment == d.segment && k.offset == d.offset) {
                let owner = state.segments.iter().find(|s| s.segment.name() == d.segment);
                d.last = d.last.min(owner.map_or(d.last, |s| s.summary.last).max(d.first));
                state.damage.push(d.clone());
                if d.first <= upto {
                    refused = Some(d);
                }
            }
        }
        refused.map_or(Ok(()), |d| Err(PointError::Damaged(d)))
    }

    /// Writes the index of a finished segment. It can be made again, so failing is not an error.
    pub(crate) fn write_index(&self, segment: &Segment, head: &Head, entries: &[Entry]) {
        let name = segment.index_name();
        let bytes = index::encode(&self.mac, &segment.id, head, entries);
        let written = match self.storage.remove(&name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => self
                .storage
                .create(&name)
                .and_then(|file| lifeboat_block::storage::write_all(&*file, &bytes, 0)),
        };
        if let Err(e) = written {
            tracing::warn!("{name} was not written and will be made again when needed: {e}");
            let _ = self.storage.remove(&name);
        }
    }

    /// The entries of `disk` up to `upto`, oldest first, each with the number of its segment in the list returned.
    pub(crate) fn history(
        &self,
        disk: Option<DiskId>,
        from: Begin,
        upto: Seq,
        mut f: impl FnMut(u32, Entry),
    ) -> Result<History, PointError> {
        let (history, open, from) = {
            let state = self.state.read();
            // Looked at together with the segments: a trim moves the horizon before it takes records away. What
            // begins in the middle needs every record after that, also those a fold may drop; not so after the base.
            let base = state.from();
            let (after, middle) = match from {
                Begin::Start => (Seq::ZERO, false),
                Begin::Base => (base, false),
                Begin::After(seq) => (seq, seq != base),
            };
            if upto < state.horizon || after < base && from != Begin::Start || middle && after < state.horizon
            {
                return Err(match state.barriers.first() {
                    Some(oldest) => PointError::BeforeWindow { oldest: oldest.id() },
                    None => PointError::NoPoints,
                });
            }
            let mut segments = state.segments.clone();
            let count = segments.partition_point(|s| s.segment.first <= upto);
            let open = match &state.open {
                Some(entries) if count == segments.len() && count > 0 => {
                    let n = entries.partition_point(|e| e.seq <= upto);
                    Some(entries[..n].to_vec())
                }
                _ => None,
            };
            segments.truncate(count);
            (History { segments, base: state.base.clone() }, open, after)
        };
        let segments = &history.segments;
        let finished = segments.len() - usize::from(open.is_some());
        let wanted = |e: &Entry| e.seq > from && disk.is_none_or(|d| d == e.disk);
        // What was supplied has the number after the last.
        let later = |s: &&SegmentState| from == Seq::ZERO || s.summary.last >= from;
        for (n, s) in segments[..finished].iter().enumerate().filter(|(_, s)| later(s)) {
            self.each_entry(s, upto, |e| {
                if wanted(&e) {
                    f(n as u32, e);
                }
            })?;
        }
        for e in open.into_iter().flatten().filter(wanted) {
            f(finished as u32, e);
        }
        Ok(history)
    }
}

/// Where the bytes under an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the segment in the history's list; [`Place::ZERO`]'s for zeros.
    pub segment: u32,
    pub pos: u32,
    /// Bytes of the content before the extent's first.
    pub skip: u32,
}

impl Place {
    pub(crate) const ZERO: Self = Self { segment: u32::MAX, pos: 0, skip: 0 };

    pub(crate) fn is_zero(&self) -> bool {
        self.segment == u32::MAX
    }
}

impl lifeboat_block::Piece for Place {
    fn advance(&self, by: u64) -> Self {
        if self.is_zero() { *self } else { Self { skip: self.skip + by as u32, ..*self } }
    }
}

/// The range an entry changes, and whether it becomes zero. A disk's size hides what lies beyond it, so that a disk
/// that shrank and grew again is empty there.
pub(crate) fn effect(e: &Entry) -> (u64, u64, bool) {
    match e.kind {
        Kind::Disk => (e.len, lifeboat_base::limits::MAX_DISK - e.len, true),
        kind => (e.offset, e.len, kind == Kind::Zero),
    }
}
