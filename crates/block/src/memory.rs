//! A sparse device in memory, for tests and simulation.

use crate::device::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, check_range};
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// Pages that were never written read as zeros.
#[derive(Debug)]
pub struct MemoryDevice {
    size: u64,
    pages: RwLock<BTreeMap<u64, Box<[u8; PAGE as usize]>>>,
}

impl MemoryDevice {
    pub fn new(size: u64) -> Self {
        Self { size, pages: RwLock::default() }
    }
}

/// Splits `offset..offset+len` at page borders: (page number, start within the page, length).
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let page = at / PAGE;
        let stop = end.min((page + 1) * PAGE);
        let piece = (page, (at % PAGE) as usize, (stop - at) as usize);
        at = stop;
        Some(piece)
    })
}

impl BlockDevice for MemoryDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        check_range(self.size, offset, buf.len() as u64)?;
        let pages = self.pages.read();
        let mut done = 0;
        for (page, start, n) in pieces(offset, buf.len() as u64) {
            let out = &mut buf[done..done + n];
            match pages.get(&page) {
                Some(p) => out.copy_from_slice(&p[start..start + n]),
                None => out.fill(0),
            }
            done += n;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        check_range(self.size, offset, data.len() as u64)?;
        let mut pages = self.pages.write();
        let mut done = 0;
        for (page, start, n) in pieces(offset, data.len() as u64) {
            let p = pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            p[start..start + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<(), BlockError> {
        check_range(self.size, offset, len)?;
        let mut pages = self.pages.write();
        let touched: Vec<u64> = match len {
            0 => Vec::new(),
            _ => pages.range(offset / PAGE..=(offset + len - 1) / PAGE).map(|(p, _)| *p).collect(),
        };
        for page in touched {
            let from = offset.max(page * PAGE);
            let to = (offset + len).min((page + 1) * PAGE);
            if to - from == PAGE {
                pages.remove(&page);
            } else if let Some(p) = pages.get_mut(&page) {
                p[(from - page * PAGE) as usize..(to - page * PAGE) as usize].fill(0);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        check_range(self.size, offset, len)?;
        let pages = self.pages.read();
        let mut runs: Vec<Extent> = Vec::new();
        let mut push = |len: u64, kind| match runs.last_mut() {
            Some(last) if last.kind == kind => last.len += len,
            _ => runs.push(Extent { len, kind }),
        };
        let end = offset + len;
        let mut at = offset;
        for (page, _) in pages.range(offset / PAGE..) {
            let from = (page * PAGE).max(at);
            if from >= end {
                break;
            }
            if from > at {
                push(from - at, ExtentKind::Hole);
            }
            let to = end.min((page + 1) * PAGE);
            push(to - from, ExtentKind::Data);
            at = to;
        }
        if at < end {
            push(end - at, ExtentKind::Hole);
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests;
