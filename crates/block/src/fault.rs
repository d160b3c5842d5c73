//! A device that fails on command and forgets what was not flushed. For tests.
//!
//! Invariants:
//! - calls are counted from 1 in the order they arrive; the same order of calls gives the same faults;
//! - with [`hold_unflushed`](FaultDevice::hold_unflushed) the inner device sees a write only once a flush after it
//!   succeeded, or when [`power_loss`](FaultDevice::power_loss) lets it through.

use crate::device::{BlockDevice, BlockError, Extent, ExtentKind, ZeroMode, check_range};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// Kinds of call. [`BlockDevice::trim`] counts as `Zero`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Zero,
    Flush,
    Status,
}

/// What a failing call reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Eio,
    NoSpace,
    Corrupt,
    Shutdown,
}

impl Failure {
    fn error(self) -> BlockError {
        match self {
            Self::Eio => io::Error::from_raw_os_error(libc::EIO).into(),
            Self::NoSpace => BlockError::NoSpace,
            Self::Corrupt => BlockError::Corrupt("as ordered by the test".into()),
            Self::Shutdown => BlockError::Shutdown,
        }
    }
}

/// An order to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Only calls of this kind count; `None` counts all.
    pub call: Option<Call>,
    /// Which of them fails, counted from 1 from when the order is given.
    pub nth: u64,
    /// Whether all after it fail too.
    pub forever: bool,
    pub failure: Failure,
}

/// A write the inner device has not seen.
#[derive(Debug, Clone)]
struct Unflushed {
    offset: u64,
    len: u64,
    /// `None` for zeros.
    data: Option<Bytes>,
}

impl Unflushed {
    fn apply(&self, to: &dyn BlockDevice, keep: u64) -> Result<(), BlockError> {
        let n = keep.min(self.len);
        match &self.data {
            _ if n == 0 => Ok(()),
            Some(data) => to.write(self.offset, data.slice(..n as usize)),
            None => to.write_zeroes(self.offset, n, ZeroMode::MayPunch),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    faults: Vec<Fault>,
    /// `Some` while writes are held back.
    unflushed: Option<Vec<Unflushed>>,
}

/// Passes calls to another device, unless told otherwise.
pub struct FaultDevice {
    inner: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

impl FaultDevice {
    pub fn new(inner: Arc<dyn BlockDevice>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Gives an order. Several may stand at once; the first that applies decides.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Takes back all orders.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Calls seen so far, failed ones included.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// From now on writes reach the inner device only when flushed.
    pub fn hold_unflushed(&self) {
        self.state.lock().unflushed.get_or_insert_default();
    }

    /// The power goes: of each write that was not flushed, oldest first, the first `keep(number, length)` bytes
    /// survive. `|_, _| 0` drops all; other choices reorder and tear.
    ///
    /// # Errors
    /// What the inner device reports.
    pub fn power_loss(&self, mut keep: impl FnMut(usize, u64) -> u64) -> Result<(), BlockError> {
        let lost = self.state.lock().unflushed.as_mut().map(std::mem::take).unwrap_or_default();
        for (n, write) in lost.iter().enumerate() {
            write.apply(&*self.inner, keep(n, write.len))?;
        }
        Ok(())
    }

    fn count(state: &mut State, call: Call) -> Result<(), BlockError> {
        state.calls += 1;
        let mut hit = None;
        state.faults.retain_mut(|f| {
            if f.call.is_some_and(|c| c != call) {
                return true;
            }
            f.nth = f.nth.saturating_sub(1);
            if f.nth == 0 {
                hit.get_or_insert(f.failure);
            }
            f.nth > 0 || f.forever
        });
        hit.map_or(Ok(()), |f| Err(f.error()))
    }

    fn change(&self, call: Call, write: Unflushed) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        Self::count(&mut state, call)?;
        check_range(self.size(), write.offset, write.len)?;
        if self.inner.read_only() {
            return Err(BlockError::ReadOnly);
        }
        match &mut state.unflushed {
            Some(held) => held.push(write),
            None => write.apply(&*self.inner, write.len)?,
        }
        Ok(())
    }
}

impl BlockDevice for FaultDevice {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        Self::count(&mut state, Call::Read)?;
        self.inner.read(offset, buf)?;
        let end = offset + buf.len() as u64;
        for held in state.unflushed.iter().flatten() {
            let (from, to) = (held.offset.max(offset), (held.offset + held.len).min(end));
            if from >= to {
                continue;
            }
            let out = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match &held.data {
                Some(data) => {
                    out.copy_from_slice(&data[(from - held.offset) as usize..(to - held.offset) as usize]);
                }
                None => out.fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.change(Call::Write, Unflushed { offset, len: data.len() as u64, data: Some(data) })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _mode: ZeroMode) -> Result<(), BlockError> {
        self.change(Call::Zero, Unflushed { offset, len, data: None })
    }

    fn flush(&self) -> Result<(), BlockError> {
        let mut state = self.state.lock();
        Self::count(&mut state, Call::Flush)?;
        for held in state.unflushed.as_mut().map(std::mem::take).unwrap_or_default() {
            held.apply(&*self.inner, held.len)?;
        }
        self.inner.flush()
    }

    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        let mut state = self.state.lock();
        Self::count(&mut state, Call::Status)?;
        check_range(self.size(), offset, len)?;
        if state.unflushed.as_ref().is_some_and(|held| !held.is_empty()) {
            return Ok(vec![Extent { len, kind: ExtentKind::Data }]);
        }
        self.inner.status(offset, len)
    }
}

#[cfg(test)]
mod tests;
