//! What of a server's disks may differ from the site's copy, should this process die now: on disk, so that the next
//! process compares that and no more.
//!
//! Invariants:
//! - A write is let through to the source only when its region is marked on stable storage.
//! - A mark is taken back only when all that was captured for the region is on stable storage at the site, the
//!   source has been flushed since, nothing of it is dirty, and no write is under way in it.
//! - A source that was changed after the last sign of life of the process before was changed by somebody else.
//! - Every doubt suspects: a page that does not check out suspects all its regions, a log that does not fit the server
//!   suspects everything. A log that cannot be written is erased. Where even that fails, the stream takes another name, and until
//!   the site knows that name nothing is written to the source.
//!
//! ```text
//! file    | header, two slots of 4096 | pages of 4096, disk after disk |
//! header  | 0      8       12     16                  |
//!         | LBTRACK1 | crc u32 | len u32 | protocol buffer `Header` |   the valid one with the higher count holds
//! page    | 0     4       8       16                                |
//!         | crc   | page  | log   | one bit for each region, 32,640 |   crc of all that follows it
//! ```
//! A page is rewritten in place: torn, it does not check out. Numbers are little-endian. The captures of running machines
//! use the header only: there QEMU's dirty bitmaps do the work of the pages.

mod format;
mod regions;

use format::{Header, PAGE, PAGE_REGIONS};
use lifeboat_base::limits::MAX_LINEAGE;
use lifeboat_base::{DiskId, Entropy, Epoch, Seq, ServerId, WallTime};
use lifeboat_block::storage::{LogFile, Storage, write_all};
use lifeboat_replicate::sender::{Settle, Suspects};
use parking_lot::{Condvar, Mutex, MutexGuard};
use regions::Regions;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What a log is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackSpec {
    pub server: ServerId,
    pub epoch: Epoch,
    pub sizes: Vec<u64>,
    /// Writes are announced with [`Tracking::intend`]. Else something outside keeps the regions.
    pub intents: bool,
}

/// What an earlier process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// For a log without intents: `Only` with no ranges when there was a log that fits.
    pub suspects: Suspects,
    /// Processes whose unacknowledged writes are among the suspects, newest first.
    pub lineage: Vec<u64>,
    /// The server was in synchronous mode and had been synchronous.
    pub armed: bool,
    /// As given to [`Tracking::keep_base`].
    pub base: u64,
    /// The last sign of life of that process; zero where there is none.
    pub alive: WallTime,
    /// What changes the source after this was not seen by that process.
    pub until: WallTime,
}

impl Found {
    /// There was nothing that can be used.
    pub fn nothing() -> Self {
        let none = WallTime(0);
        Self { suspects: Suspects::All, lineage: Vec::new(), armed: false, base: 0, alive: none, until: none }
    }
}

struct State {
    header: Header,
    /// Which of the two slots holds the newest header.
    slot: usize,
    disks: Vec<Regions>,
    /// Regions of writes under way: disk, first, last.
    under_way: Vec<(u16, u64, u64)>,
    /// Pages that hold marks not yet on stable storage.
    pages: BTreeSet<u32>,
    /// Somebody is writing the file.
    writing: bool,
    broken: Option<String>,
    /// No later process will believe it.
    void: bool,
    /// How often everything was suspected: what was found out before does not count after.
    restarts: u64,
    /// This process is named in the log.
    settled: bool,
}

/// See the module's text.
pub struct Tracking {
    file: Arc<dyn LogFile>,
    state: Mutex<State>,
    written: Condvar,
}

/// A write under way; ends when dropped.
pub struct Intent {
    tracking: Arc<Tracking>,
    range: (u16, u64, u64),
}

/// How much later than a beat a process may still have written, and how exactly a file's time of change is kept.
const BEAT: Duration = Duration::from_secs(30);
const MTIME: Duration = Duration::from_secs(2);

/// Regions marked ahead of writes that go along the disk.
const AHEAD: u64 = 15;

fn file_name(server: ServerId) -> String {
    format!("{server}.track")
}

impl Tracking {
    /// Opens a server's log, or makes one that suspects everything. It names this process only once
    /// [`settle`](Self::settle) was called.
    ///
    /// # Errors
    /// What the system reports.
    pub fn open(
        storage: &dyn Storage,
        spec: &TrackSpec,
        entropy: &dyn Entropy,
    ) -> io::Result<(Arc<Self>, Found)> {
        let name = file_name(spec.server);
        if let Ok(file) = storage.open(&name) {
            match format::load(&*file, spec) {
                Ok(Some(loaded)) => return Ok(Self::take_over(file, loaded, spec)),
                Ok(None) => {
                    tracing::info!(server = %spec.server, "the tracking log does not fit; all is compared")
                }
                Err(e) => tracing::warn!(server = %spec.server, "the tracking log cannot be read: {e}"),
            }
        }
        let header = Header::new(spec, entropy.next_u64());
        let mut disks = Vec::new();
        let mut page = 0;
        for size in &spec.sizes {
            let regions = Regions::new(*size, page, true);
            page += regions.pages();
            disks.push(regions);
        }
        let temp = format!("{name}.new");
        let _ = storage.remove(&temp);
        let file = storage.create(&temp)?;
        let pages = if spec.intents { page } else { 0 };
        file.preallocate((2 + u64::from(pages)) * PAGE as u64)?;
        write_all(&*file, &header.encode(), 0)?;
        for n in 0..pages {
            write_all(&*file, &page_bytes(&disks, n, header.log), page_offset(n))?;
        }
        file.sync()?;
        storage.rename(&temp, &name)?;
        storage.sync_dir()?;
        Ok((Self::start(file, header, 0, disks), Found::nothing()))
    }

    fn take_over(file: Arc<dyn LogFile>, loaded: format::Loaded, spec: &TrackSpec) -> (Arc<Self>, Found) {
        let format::Loaded { header, slot, disks } = loaded;
        let mut ranges = Vec::new();
        if spec.intents {
            for (i, d) in disks.iter().enumerate() {
                ranges.extend(d.marked().map(|(offset, len)| (DiskId(i as u16), offset, len)));
            }
        }
        let found = Found {
            suspects: Suspects::Only { ranges, floor: Seq(header.floor) },
            lineage: header.lineage.clone(),
            armed: header.armed,
            base: header.base,
            alive: WallTime(header.alive),
            until: WallTime(
                header.alive.saturating_add(if header.stopped { MTIME } else { BEAT }.as_nanos() as u64),
            ),
        };
        (Self::start(file, header, slot, disks), found)
    }

    fn start(file: Arc<dyn LogFile>, header: Header, slot: usize, disks: Vec<Regions>) -> Arc<Self> {
        let state = State {
            header,
            slot,
            disks,
            under_way: Vec::new(),
            pages: BTreeSet::new(),
            writing: false,
            broken: None,
            void: false,
            restarts: 0,
            settled: false,
        };
        Arc::new(Self { file, state: Mutex::new(state), written: Condvar::new() })
    }

    /// Removes a server's log: nothing is known of its disks any more.
    ///
    /// # Errors
    /// What the system reports; no error when there is none.
    pub fn remove(storage: &dyn Storage, server: ServerId) -> io::Result<()> {
        match storage.remove(&file_name(server)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => storage.sync_dir(),
        }
    }

    /// Announces a write. When this returns its regions are marked on stable storage, or the log is
    /// [`broken`](Self::broken). The write counts as under way until the answer is dropped.
    pub fn intend(self: &Arc<Self>, disk: DiskId, offset: u64, len: u64) -> Intent {
        let mut state = self.state.lock();
        let range = state.disks.get(usize::from(disk.0)).map_or((0, 0), |d| d.range(offset, len));
        let range = (disk.0, range.0, range.1);
        self.mark(&mut state, range);
        state.under_way.push(range);
        drop(state);
        Intent { tracking: Arc::clone(self), range }
    }

    /// Has the regions marked on stable storage, unless the log breaks.
    fn mark(&self, state: &mut MutexGuard<'_, State>, range: (u16, u64, u64)) {
        state.touch(range);
        while state.broken.is_none() && !state.is_persisted(range) {
            state.want_ahead(range);
            if state.writing {
                self.written.wait(state);
            } else {
                self.write_pages(state);
            }
        }
    }

    /// Writes the pages that have new marks and waits for them to be stable. The lock is free meanwhile; whoever needs
    /// the same waits, so that many marks cost one sync.
    fn write_pages(&self, state: &mut MutexGuard<'_, State>) {
        let pages = std::mem::take(&mut state.pages);
        let log = state.header.log;
        let images: Vec<_> = pages.iter().map(|n| (*n, page_bytes(&state.disks, *n, log))).collect();
        let snapshots: Vec<_> = state.disks.iter().map(|d| d.snapshot(&pages)).collect();
        state.writing = true;
        let done = MutexGuard::unlocked(state, || {
            images.iter().try_for_each(|(n, bytes)| write_all(&*self.file, bytes, page_offset(*n)))?;
            self.file.sync()
        });
        state.writing = false;
        match done {
            Ok(()) => {
                for (disk, snapshot) in state.disks.iter_mut().zip(snapshots) {
                    disk.persisted(snapshot);
                }
            }
            Err(e) => self.break_off(state, &e),
        }
        self.written.notify_all();
    }

    /// Names this process in the log, before the site hears of it as the writer. With `Adopt` beside those it takes over
    /// from, with `SuspectAll` alone and with every region marked.
    ///
    /// # Errors
    /// What the system reports; the log is broken then.
    pub fn settle(&self, instance: u64, what: Settle) -> io::Result<()> {
        let mut state = self.lock_for_writing()?;
        let mut lineage = vec![instance];
        match what {
            Settle::Adopt => {
                lineage.extend(state.header.lineage.iter().filter(|i| **i != instance));
                lineage.truncate(MAX_LINEAGE);
            }
            Settle::SuspectAll => {
                state.restarts += 1;
                if state.header.intents {
                    for i in 0..state.disks.len() {
                        let pages = state.disks[i].mark_all();
                        state.pages.extend(pages);
                    }
                    // The marks first: with the name and without them the log would promise too much.
                    self.write_pages(&mut state);
                }
                state.header.floor = 0;
                state.header.base = 0;
            }
        }
        if let Some(why) = &state.broken {
            return Err(io::Error::other(why.clone()));
        }
        state.header.lineage = lineage;
        state.settled = true;
        self.write_header(&mut state)
    }

    /// Takes back the marks of regions that are surely equal. `floor`: the site has everything up to it, which includes
    /// all that was captured before the last call of this; `suspect` tells what is dirty. The source was flushed
    /// since the site said so. `written`: the site has acknowledged records of this process, so that earlier ones need
    /// not be named any more.
    ///
    /// # Errors
    /// What the system reports; the log is broken then.
    pub fn rotate(
        &self,
        floor: Seq,
        written: bool,
        suspect: impl Fn(DiskId, u64, u64) -> bool,
    ) -> io::Result<()> {
        let mut state = self.lock_for_writing()?;
        for i in 0..state.disks.len() {
            let under_way: Vec<_> =
                state.under_way.iter().filter(|u| usize::from(u.0) == i).map(|u| (u.1, u.2)).collect();
            let disk = DiskId(i as u16);
            let changed = state.disks[i].rotate(&under_way, |offset, len| suspect(disk, offset, len));
            state.pages.extend(changed);
        }
        state.header.floor = state.header.floor.max(floor.0);
        if written {
            state.header.lineage.truncate(1);
        }
        // The floor first: without the marks it would promise too much, the marks without it too little.
        self.write_header(&mut state)?;
        if !state.pages.is_empty() {
            self.write_pages(&mut state);
        }
        match &state.broken {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }

    /// Remembers a number for the capture, and that the site has everything up to `floor`, this process's
    /// records among it. Found out when [`restarts`](Self::restarts) was as given.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate), and when everything has become suspect since.
    pub fn keep_base(&self, base: u64, floor: Seq, restarts: u64) -> io::Result<()> {
        let mut state = self.lock_for_writing()?;
        if state.restarts != restarts {
            return Err(io::Error::other("everything has become suspect meanwhile"));
        }
        state.header.base = base;
        state.header.floor = state.header.floor.max(floor.0);
        state.header.lineage.truncate(1);
        self.write_header(&mut state)
    }

    /// Remembers that the server has been synchronous, or is not wanted so any more.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn arm(&self, armed: bool) -> io::Result<()> {
        let mut state = self.lock_for_writing()?;
        if state.header.armed == armed {
            return Ok(());
        }
        state.header.armed = armed;
        self.write_header(&mut state)
    }

    /// Bytes that would be compared if this process ended now, and the site and the machine are as they were.
    pub fn suspect_bytes(&self) -> u64 {
        let state = self.state.lock();
        let all = || state.header.sizes.iter().sum();
        if state.broken.is_some() || state.header.lineage.is_empty() {
            return all();
        }
        match (state.header.intents, state.header.base) {
            (true, _) => state.disks.iter().flat_map(Regions::marked).map(|(_, len)| len).sum(),
            (false, 0) => all(),
            (false, _) => 0,
        }
    }

    /// This process lives; call it every few seconds, and with `stopped` when it ends properly. Not written before this
    /// process is named: until then the log tells of the one before it.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn beat(&self, now: WallTime, stopped: bool) -> io::Result<()> {
        let mut state = self.lock_for_writing()?;
        if !state.header.intents || !state.settled {
            return Ok(());
        }
        (state.header.alive, state.header.stopped) = (now.0, stopped);
        self.write_header(&mut state)
    }

    /// The number given to [`keep_base`](Self::keep_base) last.
    pub fn base(&self) -> u64 {
        self.state.lock().header.base
    }

    /// Whether writes are announced here.
    pub fn has_intents(&self) -> bool {
        self.state.lock().header.intents
    }

    /// Why the log is of no use any more, once it is.
    pub fn broken(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    fn lock_for_writing(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        while state.writing {
            self.written.wait(&mut state);
        }
        match &state.broken {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(state),
        }
    }

    /// The log is of no use any more, and a later process must not believe it. The lock is free meanwhile.
    fn break_off(&self, state: &mut MutexGuard<'_, State>, e: &io::Error) {
        tracing::error!("the tracking log cannot be written: {e}; after a restart all will be compared");
        state.writing = true;
        let void = MutexGuard::unlocked(state, || {
            write_all(&*self.file, &[0; 2 * PAGE], 0).and_then(|()| self.file.sync()).is_ok()
        });
        state.writing = false;
        state.void = void;
        state.broken = Some(e.to_string());
        if !void {
            tracing::error!("nor can it be erased: the source is not written to before the site knows of it");
        }
    }

    /// Whether a write may go to the source: its mark is on stable storage, or no later process believes the log.
    pub fn may_write(&self) -> bool {
        let state = self.state.lock();
        state.broken.is_none() || state.void
    }

    /// The site knows this process by a name the log does not have: it is void.
    pub fn make_void(&self) {
        self.state.lock().void = true;
    }

    /// Changes whenever everything becomes suspect.
    pub fn restarts(&self) -> u64 {
        self.state.lock().restarts
    }

    /// The range may differ, whoever changed it: it is compared again by the next process too.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn suspect(&self, disk: DiskId, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.lock_for_writing()?;
        if state.header.intents {
            let range = state.disks.get(usize::from(disk.0)).map_or((0, 0), |d| d.range(offset, len));
            self.mark(&mut state, (disk.0, range.0, range.1));
            return Ok(());
        }
        state.restarts += 1;
        state.header.base = 0;
        self.write_header(&mut state)
    }

    fn write_header(&self, state: &mut MutexGuard<'_, State>) -> io::Result<()> {
        state.header.count += 1;
        let slot = 1 - state.slot;
        let bytes = state.header.encode();
        state.writing = true;
        let done = MutexGuard::unlocked(state, || {
            write_all(&*self.file, &bytes, (slot * PAGE) as u64)?;
            self.file.sync()
        });
        state.writing = false;
        self.written.notify_all();
        match done {
            Ok(()) => state.slot = slot,
            Err(ref e) => self.break_off(state, e),
        }
        done
    }
}

impl State {
    fn touch(&mut self, (disk, first, last): (u16, u64, u64)) {
        if let Some(d) = self.disks.get_mut(usize::from(disk)) {
            d.touch(first, last);
        }
    }

    fn is_persisted(&self, (disk, first, last): (u16, u64, u64)) -> bool {
        !self.header.intents || self.disks.get(usize::from(disk)).is_none_or(|d| d.is_persisted(first, last))
    }

    /// Wants the regions marked; for writes that go along the disk those ahead too, so that not each pays for a sync.
    fn want_ahead(&mut self, (disk, first, last): (u16, u64, u64)) {
        if let Some(d) = self.disks.get_mut(usize::from(disk)) {
            let along = first.checked_sub(1).is_some_and(|before| d.is_current(before));
            let pages = d.want(first, if along { last + AHEAD } else { last });
            self.pages.extend(pages);
        }
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let mut state = self.tracking.state.lock();
        // What was captured at the end of the write belongs to this generation.
        state.touch(self.range);
        if let Some(at) = state.under_way.iter().position(|u| *u == self.range) {
            state.under_way.swap_remove(at);
        }
    }
}

fn page_offset(page: u32) -> u64 {
    (2 + u64::from(page)) * PAGE as u64
}

fn page_bytes(disks: &[Regions], page: u32, log: u64) -> Vec<u8> {
    let disk = disks.iter().rev().find(|d| d.first_page() <= page);
    let words = disk.map_or_else(Vec::new, |d| d.page_words(page));
    format::encode_page(page, log, &words)
}

const _: () = assert!(PAGE_REGIONS.is_multiple_of(64));

#[cfg(test)]
mod tests;
