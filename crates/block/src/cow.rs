//! Copy on write: a device whose writes go elsewhere.
//!
//! Invariants:
//! - the base is never written;
//! - a unit (4 KiB) is read wholly from the upper device once it was written, wholly from the base before;
//! - a unit's mark is set only after the upper device holds all of it, so a failed write leaves the old bytes
//!   or the new ones, never a hole.
//!
//! Marks live in memory, 128 MiB of disk to a page that is made when first needed. With a mark device they are
//! also written there before a write returns, so the overlay outlives its process. It does not outlive a power
//! cut: the mark may reach the medium before the data does.

use crate::device::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, check_range};
use bytes::Bytes;
use lifeboat_base::limits::MIB;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes that are copied up together.
pub const UNIT: u64 = 4096;

const WORDS: usize = 512;
const UNITS_PER_PAGE: u64 = WORDS as u64 * 64;
const MAX_RUNS: usize = 1024;

/// One bit per unit; pages are made when a bit in them is first set.
struct Marks {
    pages: Vec<OnceLock<Box<[AtomicU64; WORDS]>>>,
}

impl Marks {
    fn new(units: u64) -> Self {
        let pages = units.div_ceil(UNITS_PER_PAGE) as usize;
        Self { pages: std::iter::repeat_with(OnceLock::new).take(pages).collect() }
    }

    fn word(&self, unit: u64) -> Option<&AtomicU64> {
        let page = self.pages.get((unit / UNITS_PER_PAGE) as usize)?.get()?;
        page.get((unit % UNITS_PER_PAGE / 64) as usize)
    }

    fn get(&self, unit: u64) -> bool {
        self.word(unit).is_some_and(|w| w.load(Ordering::Acquire) >> (unit % 64) & 1 == 1)
    }

    /// First unit in `from..end` whose mark is not `value`, or `end`.
    fn run_end(&self, from: u64, end: u64, value: bool) -> u64 {
        let mut unit = from;
        while unit < end {
            let in_word = unit % 64;
            let bits = match self.word(unit) {
                Some(w) => w.load(Ordering::Acquire),
                None if value => return unit,
                None => {
                    unit = (unit / UNITS_PER_PAGE + 1) * UNITS_PER_PAGE;
                    continue;
                }
            };
            let differ = if value { !bits } else { bits } >> in_word;
            if differ != 0 {
                return (unit + u64::from(differ.trailing_zeros())).min(end);
            }
            unit += 64 - in_word;
        }
        end
    }

    /// Sets the marks of `from..to`.
    fn set(&self, from: u64, to: u64) {
        let mut unit = from;
        while unit < to {
            let Some(slot) = self.pages.get((unit / UNITS_PER_PAGE) as usize) else { break };
            let page = slot.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
            let in_word = unit % 64;
            let n = (64 - in_word).min(to - unit);
            let bits = (u64::MAX >> (64 - n)) << in_word;
            page[(unit % UNITS_PER_PAGE / 64) as usize].fetch_or(bits, Ordering::AcqRel);
            unit += n;
        }
    }

    /// The bytes that hold the marks of `from..to` as they are once all of those are set, and their place.
    fn bytes(&self, from: u64, to: u64) -> (u64, Vec<u8>) {
        let (first, last) = (from / 64, to.div_ceil(64));
        let word = |w: u64| {
            let now = self.word(w * 64).map_or(0, |w| w.load(Ordering::Acquire));
            let (start, end) = (from.max(w * 64) - w * 64, to.min(w * 64 + 64) - w * 64);
            now | (u64::MAX >> (64 - (end - start))) << start
        };
        (first * 8, (first..last).flat_map(|w| word(w).to_le_bytes()).collect())
    }
}

/// `base` with every write kept in `upper`.
///
/// Aligned writes and all reads run side by side; only the first partial write of a unit, which copies it up, runs
/// alone.
pub struct CowOverlay {
    base: Arc<dyn BlockDevice>,
    upper: Arc<dyn BlockDevice>,
    marks: Marks,
    saved: Option<Mutex<Arc<dyn BlockDevice>>>,
    /// Held exclusively while a unit is copied up, shared by everything else.
    copying: RwLock<()>,
}

impl CowOverlay {
    /// An overlay that starts empty and is gone with the process.
    ///
    /// # Errors
    /// `OutOfRange` when `upper` is smaller than `base`.
    pub fn new(base: Arc<dyn BlockDevice>, upper: Arc<dyn BlockDevice>) -> Result<Self, BlockError> {
        check_range(upper.size(), 0, base.size())?;
        let marks = Marks::new(base.size().div_ceil(UNIT));
        Ok(Self { base, upper, marks, saved: None, copying: RwLock::new(()) })
    }

    /// Bytes the mark device of a disk of `size` bytes needs.
    pub fn marks_size(size: u64) -> u64 {
        size.div_ceil(UNIT).div_ceil(64) * 8
    }

    /// An overlay whose marks are kept in `saved` (all zero for a new one) and that goes on where an earlier
    /// process left it.
    ///
    /// # Errors
    /// `OutOfRange` when `upper` or `saved` is too small; what reading `saved` reports.
    pub fn persistent(
        base: Arc<dyn BlockDevice>,
        upper: Arc<dyn BlockDevice>,
        saved: Arc<dyn BlockDevice>,
    ) -> Result<Self, BlockError> {
        let mut overlay = Self::new(base, upper)?;
        let size = Self::marks_size(overlay.base.size());
        check_range(saved.size(), 0, size)?;
        let mut at = 0;
        while at < size {
            for run in saved.status(at, size - at)? {
                if run.kind == ExtentKind::Data {
                    overlay.load(&*saved, at, run.len)?;
                }
                at += run.len;
            }
        }
        overlay.saved = Some(Mutex::new(saved));
        Ok(overlay)
    }

    fn load(&self, saved: &dyn BlockDevice, from: u64, len: u64) -> Result<(), BlockError> {
        let end = from + len;
        let mut at = from / 8 * 8;
        let mut buf = vec![0; MIB];
        while at < end {
            let n = (end.next_multiple_of(8) - at).min(buf.len() as u64) as usize;
            saved.read(at, &mut buf[..n])?;
            for (i, byte) in buf[..n].iter().enumerate() {
                for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                    let unit = (at + i as u64) * 8 + bit;
                    self.marks.set(unit, unit + 1);
                }
            }
            at += n as u64;
        }
        Ok(())
    }

    /// Bytes that are read from the upper device.
    pub fn written(&self) -> u64 {
        let units = self.size().div_ceil(UNIT);
        let (mut at, mut bytes) = (0, 0);
        while at < units {
            at = self.marks.run_end(at, units, false);
            let end = self.marks.run_end(at, units, true);
            bytes += self.unit_end(end).saturating_sub(at * UNIT);
            at = end;
        }
        bytes
    }

    /// Where the units below `unit` end, in bytes.
    fn unit_end(&self, unit: u64) -> u64 {
        (unit * UNIT).min(self.base.size())
    }

    fn mark(&self, from: u64, to: u64) -> Result<(), BlockError> {
        if self.marks.run_end(from, to, true) == to {
            return Ok(());
        }
        // Held until the marks in memory are set too: a later state of a word is never overwritten by an earlier
        // one, and who finds a mark set may rely on it having been saved.
        let device = self.saved.as_ref().map(Mutex::lock);
        if let Some(device) = &device {
            let (mut at, bytes) = self.marks.bytes(from, to);
            let bytes = Bytes::from(bytes);
            for start in (0..bytes.len()).step_by(MIB) {
                let part = bytes.slice(start..bytes.len().min(start + MIB));
                let n = part.len() as u64;
                device.write(at, part)?;
                at += n;
            }
        }
        self.marks.set(from, to);
        Ok(())
    }

    /// Units at the edges of a range that are covered only in part and still read from the base.
    fn edges(&self, offset: u64, len: u64) -> impl Iterator<Item = u64> {
        let end = offset + len;
        let (first, last) = (offset / UNIT, (end - 1) / UNIT);
        let head = (!offset.is_multiple_of(UNIT)).then_some(first);
        let tail = (end < self.unit_end(last + 1)).then_some(last);
        // One unit may be both.
        let tail = if head == tail { None } else { tail };
        head.into_iter().chain(tail).filter(|unit| !self.marks.get(*unit))
    }

    /// Runs `change` on the upper device with the edge units copied up, then marks the range.
    fn change(
        &self,
        offset: u64,
        len: u64,
        change: impl FnOnce(&dyn BlockDevice) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        check_range(self.base.size(), offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut shared = self.copying.read();
        if self.edges(offset, len).next().is_some() {
            drop(shared);
            let alone = self.copying.write();
            // Looked at again: another thread may have copied it up in between.
            for unit in self.edges(offset, len).collect::<Vec<_>>() {
                let start = unit * UNIT;
                let mut content = vec![0; (self.unit_end(unit + 1) - start) as usize];
                self.base.read(start, &mut content)?;
                self.upper.write(start, Bytes::from(content))?;
                self.mark(unit, unit + 1)?;
            }
            shared = RwLockWriteGuard::downgrade(alone);
        }
        change(&*self.upper)?;
        self.mark(offset / UNIT, (offset + len).div_ceil(UNIT))?;
        drop(shared);
        Ok(())
    }

    /// Splits `offset..offset+len` into runs of one side: (offset, length, from the upper device).
    fn sides(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, bool)> + '_ {
        let end = offset + len;
        let mut at = offset;
        std::iter::from_fn(move || {
            while at < end {
                let upper = self.marks.get(at / UNIT);
                let stop = (self.marks.run_end(at / UNIT, end.div_ceil(UNIT), upper) * UNIT).min(end);
                // A mark set between the two looks gives an empty run; marks are never taken back, so look again.
                if stop > at {
                    let run = (at, stop - at, upper);
                    at = stop;
                    return Some(run);
                }
            }
            None
        })
    }

    fn side(&self, upper: bool) -> &dyn BlockDevice {
        if upper { &*self.upper } else { &*self.base }
    }
}

impl BlockDevice for CowOverlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(self.base.size(), offset, buf.len() as u64)?;
        let _shared = self.copying.read();
        for (at, len, upper) in self.sides(offset, buf.len() as u64) {
            let from = (at - offset) as usize;
            self.side(upper).read(at, &mut buf[from..from + len as usize])?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.change(offset, data.len() as u64, |upper| upper.write(offset, data))
    }

    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError> {
        self.change(offset, len, |upper| upper.write_zeroes(offset, len, mode))
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.upper.flush()?;
        match &self.saved {
            Some(saved) => saved.lock().flush(),
            None => Ok(()),
        }
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.base.size(), offset, len)?;
        let _shared = self.copying.read();
        let mut runs: Vec<Extent> = Vec::new();
        for (at, len, upper) in self.sides(offset, len) {
            let mut told = 0;
            for run in self.side(upper).status(at, len)? {
                told += run.len;
                match runs.last_mut() {
                    Some(last) if last.kind == run.kind => last.len += run.len,
                    _ => runs.push(run),
                }
            }
            if told < len || runs.len() >= MAX_RUNS {
                break;
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests;
