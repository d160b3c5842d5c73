//! Disks of the sources: content in pages that share memory, and a write cache that a power loss empties.
//!
//! Invariants: what was flushed outlives a power loss; of each later write any sectors do, in any order.

use super::chance::Rng;
use lifeboat_block::BlockDevice;
use std::sync::Arc;

/// Bytes that share memory between images.
const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// A disk's content at a moment. Cloning costs no copy of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// `None` reads as zeros.
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
    size: u64,
}

impl Image {
    pub fn new(size: u64) -> Self {
        Self { pages: vec![None; (size as usize).div_ceil(PAGE)], size }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let (page, at) = place(offset + done as u64);
            let n = (PAGE - at).min(buf.len() - done);
            match &self.pages[page] {
                Some(p) => buf[done..done + n].copy_from_slice(&p[at..at + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (page, at) = place(offset + done as u64);
            let n = (PAGE - at).min(data.len() - done);
            let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[at..at + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
    }

    pub fn zero(&mut self, offset: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let (page, at) = place(offset + done);
            let n = ((PAGE - at) as u64).min(len - done);
            if n as usize == PAGE {
                self.pages[page] = None;
            } else if let Some(p) = &mut self.pages[page] {
                Arc::make_mut(p)[at..at + n as usize].fill(0);
            }
            done += n;
        }
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::Zero(offset, len) => self.zero(*offset, *len),
        }
    }

    /// The range as it is in another image.
    pub fn copy(&mut self, from: &Self, offset: u64, len: u64) {
        let mut content = vec![0; len as usize];
        from.read(offset, &mut content);
        self.write(offset, &content);
    }

    /// Runs without pages within the range, as a file system's holes.
    pub fn holes(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (page, within) = place(at);
            let n = ((PAGE - within) as u64).min(end - at);
            if self.pages[page].is_none() {
                match found.last_mut() {
                    Some(last) if last.0 + last.1 == at => last.1 += n,
                    _ => found.push((at, n)),
                }
            }
            at += n;
        }
        found
    }

    /// The first sector of a device that is neither as here nor as in `other`.
    ///
    /// # Errors
    /// What reading the device says.
    pub fn differs(
        &self,
        other: &Self,
        device: &dyn BlockDevice,
    ) -> Result<Option<u64>, lifeboat_block::BlockError> {
        if device.size() != self.size {
            return Ok(Some(self.size.min(device.size())));
        }
        const STEP: usize = 64 * 1024;
        let (mut got, mut want) = (vec![0; STEP], vec![0; STEP]);
        let mut at = 0;
        while at < self.size {
            let n = (self.size - at).min(STEP as u64) as usize;
            device.read(at, &mut got[..n])?;
            self.read(at, &mut want[..n]);
            if got[..n] != want[..n] {
                let mut alternative = vec![0; n];
                other.read(at, &mut alternative);
                for from in (0..n).step_by(SECTOR) {
                    let sector = from..(from + SECTOR).min(n);
                    if got[sector.clone()] != want[sector.clone()]
                        && got[sector.clone()] != alternative[sector]
                    {
                        return Ok(Some(at + from as u64));
                    }
                }
            }
            at += n as u64;
        }
        Ok(None)
    }
}

fn place(offset: u64) -> (usize, usize) {
    (offset as usize / PAGE, offset as usize % PAGE)
}

/// A change of a disk.
#[derive(Debug, Clone)]
pub enum Change {
    Write(u64, bytes::Bytes),
    Zero(u64, u64),
}

impl Change {
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Write(offset, data) => (*offset, data.len() as u64),
            Self::Zero(offset, len) => (*offset, *len),
        }
    }
}

/// A source's disk.
pub struct Disk {
    /// What a read returns.
    pub now: Image,
    stable: Image,
    cached: Vec<Change>,
    /// A range that cannot be read or written.
    pub bad: Option<(u64, u64)>,
}

impl Disk {
    pub fn new(content: Image) -> Self {
        Self { stable: content.clone(), now: content, cached: Vec::new(), bad: None }
    }

    pub fn is_bad(&self, offset: u64, len: u64) -> bool {
        self.bad.is_some_and(|(at, n)| offset < at + n && at < offset + len)
    }

    pub fn apply(&mut self, change: &Change) {
        self.now.apply(change);
        self.cached.push(change.clone());
    }

    /// A write that fails half way: any of its sectors are written.
    pub fn apply_torn(&mut self, change: &Change, rng: &mut Rng) {
        for piece in torn(change, rng) {
            self.apply(&piece);
        }
    }

    pub fn flush(&mut self) {
        for change in self.cached.drain(..) {
            self.stable.apply(&change);
        }
    }

    /// The power goes and comes back.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        let kept = rng.below(self.cached.len() as u64 + 1) as usize;
        let mode = rng.below(4);
        for (i, change) in std::mem::take(&mut self.cached).into_iter().enumerate() {
            let whole = match mode {
                0 => continue,
                1 => true,
                2 if i > kept => continue,
                2 => i < kept,
                _ if rng.percent(33) => continue,
                _ => rng.percent(50),
            };
            if whole {
                self.stable.apply(&change);
            } else {
                for piece in torn(&change, rng) {
                    self.stable.apply(&piece);
                }
            }
        }
        self.now = self.stable.clone();
    }
}

fn torn(change: &Change, rng: &mut Rng) -> Vec<Change> {
    let (offset, len) = change.range();
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < len {
        // Long changes are torn in longer pieces.
        let n = (SECTOR as u64 * rng.between(1, 1 + len / 8192)).min(len - at);
        if rng.percent(50) {
            pieces.push(match change {
                Change::Write(_, data) => {
                    Change::Write(offset + at, data.slice(at as usize..(at + n) as usize))
                }
                Change::Zero(..) => Change::Zero(offset + at, n),
            });
        }
        at += n;
    }
    pieces
}
