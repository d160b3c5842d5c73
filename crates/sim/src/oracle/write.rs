//! The workload.
//!
//! - Unless overlap is asked for, no block is in two operations at once: its writes are ordered.
//! - At a barrier nothing is in flight, so the saved sum is the state of the disks exactly.
//! - A block whose state is not known (a failed or overlapped write, an earlier reign) is read before a sum counts it.

use super::block::{BLOCK, Content, Stamp, fingerprint, next};
use super::log::{Event, History, Kind, NEVER, Sink};
use super::{OracleError, Target};
use crate::clock;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What to do to the disks.
#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    pub time: Duration,
    /// Stops after this many operations, if that is sooner.
    pub writes: u64,
    /// Operations in flight.
    pub depth: u32,
    /// A flush after this many operations (while others stay in flight); 0 for none.
    pub flush_every: u64,
    /// A barrier after this many operations; 0 for none but the last.
    pub barrier_every: u64,
    /// Of a hundred operations, how many write zeros or trim.
    pub zero_percent: u64,
    /// Most blocks in one operation.
    pub max_blocks: u64,
    /// Lets operations in flight share blocks.
    pub overlap: bool,
    /// Operations a second; 0 for no limit.
    pub rate: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            time: Duration::from_secs(10),
            writes: u64::MAX,
            depth: 8,
            flush_every: 100,
            barrier_every: 1000,
            zero_percent: 5,
            max_blocks: 4,
            overlap: false,
            rate: 0,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub operations: u64,
    pub failed: u64,
    pub flushes: u64,
    pub barriers: u64,
    pub seconds: f64,
}

struct State {
    random: u64,
    next_seq: u64,
    next_flush: u64,
    /// Newest completed flush.
    epoch: u64,
    flushing: bool,
    draining: bool,
    in_flight: u64,
    /// Blocks in flight, and by how many operations.
    busy: HashMap<(u32, u64), u32>,
    unsure: BTreeSet<(u32, u64)>,
    current: HashMap<(u32, u64), u64>,
    sum: u128,
    report: Report,
    fault: Option<io::Error>,
}

struct Run<'a> {
    targets: &'a [Arc<dyn Target>],
    blocks: Vec<u64>,
    log: &'a dyn Sink,
    settings: &'a Settings,
    stop: &'a AtomicBool,
    id: u64,
    reign: u32,
    start: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy)]
struct Operation {
    seq: u64,
    disk: u32,
    block: u64,
    count: u64,
    kind: Kind,
    epoch: u64,
    ticket: u64,
}

/// Runs the workload over `targets`, which read as zeros unless `history` (of the same ledger) says otherwise. Ends with a
/// barrier, or at the first write or flush that fails or the first thing the ledger cannot keep.
///
/// # Errors
/// When disks and history do not fit, or the ledger fails. A failing disk ends the run and is counted in the report.
pub fn write(
    targets: &[Arc<dyn Target>],
    log: &dyn Sink,
    history: Option<&History>,
    settings: &Settings,
    stop: &AtomicBool,
) -> Result<Report, OracleError> {
    let blocks: Vec<u64> = targets.iter().map(|t| t.size() / BLOCK as u64).collect();
    if blocks.is_empty() || blocks.iter().any(|b| *b < 64) {
        return Err(
            io::Error::new(io::ErrorKind::InvalidInput, "the oracle needs disks of 256 KiB or more").into()
        );
    }
    let mut random = settings.seed;
    let id = history.map_or_else(|| next(&mut random), |h| h.run);
    let reign = history.map_or(1, |h| h.reign + 1);
    let run = Run {
        targets,
        blocks,
        log,
        settings,
        stop,
        id,
        reign,
        start: clock::elapsed(),
        state: Mutex::new(State {
            random: settings.seed ^ u64::from(reign) << 48,
            next_seq: history.map_or(1, |h| h.next_seq),
            next_flush: history.map_or(1, |h| h.next_flush),
            epoch: history.map_or(0, newest_flush),
            flushing: false,
            draining: false,
            in_flight: 0,
            busy: HashMap::new(),
            unsure: BTreeSet::new(),
            current: HashMap::new(),
            sum: 0,
            report: Report::default(),
            fault: None,
        }),
        changed: Condvar::new(),
    };
    run.begin(history)?;
    std::thread::scope(|scope| {
        for _ in 0..settings.depth.max(1) {
            scope.spawn(|| run.work());
        }
    });
    run.finish()
}

fn newest_flush(history: &History) -> u64 {
    history.flushes.iter().filter(|(_, t)| t.done != NEVER).map(|(n, _)| *n).max().unwrap_or(0)
}

impl Run<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, event: Event) -> io::Result<u64> {
        self.log.append(&event.to_string())
    }

    fn begin(&self, history: Option<&History>) -> Result<(), OracleError> {
        let mut state = self.lock();
        if let Some(history) = history {
            if history.disks.len() != self.blocks.len() {
                return Err(OracleError::Disks { have: history.disks.len(), given: self.blocks.len() });
            }
            for ((disk, have), given) in (0..).zip(&history.disks).zip(&self.blocks) {
                if have != given {
                    return Err(OracleError::Size { disk, have: *have, given: *given });
                }
            }
            self.say(Event::Reign(self.reign))?;
            state.unsure = history.blocks.keys().copied().collect();
            self.settle(&mut state)?;
        } else {
            self.log.append(&format!("lifeboat-oracle 1 {:016x}", self.id))?;
            for (disk, blocks) in (0..).zip(&self.blocks) {
                self.say(Event::Disk { disk, blocks: *blocks })?;
            }
            self.say(Event::Reign(self.reign))?;
        }
        Ok(())
    }

    /// Reads every unsure block and writes down what it holds.
    fn settle(&self, state: &mut State) -> io::Result<()> {
        let mut buf = vec![0; BLOCK];
        for (disk, block) in std::mem::take(&mut state.unsure) {
            self.targets[disk as usize].read(block * BLOCK as u64, &mut buf)?;
            let seq = match Content::read(&buf) {
                Content::Zero => 0,
                Content::Ours(s) if (s.run, s.disk, s.block) == (self.id, disk, block) => s.seq,
                _ => {
                    return Err(io::Error::other(format!(
                        "disk {disk} block {block} does not hold what was written"
                    )));
                }
            };
            self.say(Event::Found { disk, block, seq })?;
            state.put(disk, block, seq);
        }
        Ok(())
    }

    fn over(&self, state: &State) -> bool {
        state.fault.is_some()
            || self.stop.load(Ordering::SeqCst)
            || state.report.operations >= self.settings.writes
            || clock::elapsed() - self.start >= self.settings.time
    }

    fn work(&self) {
        let mut buf = Vec::new();
        loop {
            let state = self.lock();
            let mut state =
                self.changed.wait_while(state, |s| s.draining).unwrap_or_else(PoisonError::into_inner);
            if self.over(&state) {
                return;
            }
            let done = state.report.operations;
            let due = |every: u64| every > 0 && done > 0 && done.is_multiple_of(every);
            let result = match self.choose(&mut state) {
                Ok(Some(operation)) => {
                    let barrier = due(self.settings.barrier_every);
                    let flush = due(self.settings.flush_every) && !state.flushing && !barrier;
                    state.flushing |= flush;
                    state.draining |= barrier;
                    drop(state);
                    self.perform(operation, &mut buf)
                        .and_then(|()| if flush { self.flush().map(drop) } else { Ok(()) })
                        .and_then(|()| if barrier { self.barrier() } else { Ok(()) })
                }
                Ok(None) => {
                    drop(self.changed.wait_timeout(state, Duration::from_millis(10)));
                    continue;
                }
                Err(e) => {
                    drop(state);
                    Err(e)
                }
            };
            if let Err(e) = result {
                let mut state = self.lock();
                state.fault.get_or_insert(e);
                state.draining = false;
                self.changed.notify_all();
                return;
            }
            self.keep_pace(done);
        }
    }

    fn keep_pace(&self, done: u64) {
        if self.settings.rate > 0 {
            let due = self.start + Duration::from_secs_f64(done as f64 / self.settings.rate as f64);
            let now = clock::elapsed();
            if due > now {
                clock::pace(due - now);
            }
        }
    }

    /// Picks the next operation and announces it; `None` when too many blocks are busy.
    fn choose(&self, state: &mut State) -> io::Result<Option<Operation>> {
        for _ in 0..64 {
            let pick = |state: &mut State, below: u64| next(&mut state.random) % below.max(1);
            let disk = pick(state, self.blocks.len() as u64) as u32;
            let size = self.blocks[disk as usize];
            let count = 1 + pick(state, self.settings.max_blocks.min(size));
            let block = pick(state, size - count + 1);
            let target = &self.targets[disk as usize];
            let kind = match pick(state, 100) {
                p if p >= self.settings.zero_percent => Kind::Write,
                p if p % 2 == 0 && target.can_trim() => Kind::Trim,
                _ if target.can_zero() => Kind::Zero,
                _ => Kind::Write,
            };
            let shared = (block..block + count).any(|b| state.busy.contains_key(&(disk, b)));
            if shared && !self.settings.overlap {
                continue;
            }
            let seq = state.next_seq;
            let ticket = self.say(Event::Issue { seq, disk, block, count, kind })?;
            state.next_seq += 1;
            state.in_flight += 1;
            state.report.operations += 1;
            for b in block..block + count {
                let users = state.busy.entry((disk, b)).or_insert(0);
                *users += 1;
            }
            if shared {
                let both: Vec<_> = (block..block + count).map(|b| (disk, b)).collect();
                state.unsure.extend(both.iter().filter(|at| state.busy[*at] > 1));
            }
            return Ok(Some(Operation { seq, disk, block, count, kind, epoch: state.epoch, ticket }));
        }
        Ok(None)
    }

    fn perform(&self, op: Operation, buf: &mut Vec<u8>) -> io::Result<()> {
        self.log.wait(op.ticket)?;
        let target = &self.targets[op.disk as usize];
        let (offset, len) = (op.block * BLOCK as u64, op.count * BLOCK as u64);
        let result = match op.kind {
            Kind::Zero => target.zero(offset, len),
            Kind::Trim => target.trim(offset, len),
            Kind::Write => {
                buf.resize(len as usize, 0);
                for (block, out) in (op.block..).zip(buf.chunks_exact_mut(BLOCK)) {
                    let (run, reign) = (self.id, self.reign);
                    Stamp { run, disk: op.disk, reign, block, seq: op.seq, epoch: op.epoch }.fill(out);
                }
                target.write(offset, buf)
            }
        };
        let mut state = self.lock();
        self.say(if result.is_ok() { Event::Done(op.seq) } else { Event::Failed(op.seq) })?;
        state.in_flight -= 1;
        for block in op.block..op.block + op.count {
            let at = (op.disk, block);
            if let Some(users) = state.busy.get_mut(&at) {
                *users -= 1;
                if *users == 0 {
                    state.busy.remove(&at);
                }
            }
            match result {
                Ok(()) => state.put(op.disk, block, if op.kind == Kind::Write { op.seq } else { 0 }),
                Err(_) => {
                    state.unsure.insert(at);
                }
            }
        }
        if result.is_err() {
            state.report.failed += 1;
        }
        self.changed.notify_all();
        result
    }

    /// Flushes all disks; returns the flush's number.
    fn flush(&self) -> io::Result<u64> {
        let mut state = self.lock();
        let number = state.next_flush;
        state.next_flush += 1;
        let ticket = self.say(Event::Flush(number))?;
        drop(state);
        self.log.wait(ticket)?;
        let result = self.targets.iter().try_for_each(|t| t.flush());
        let mut state = self.lock();
        state.flushing = false;
        self.say(if result.is_ok() { Event::Flushed(number) } else { Event::Unflushed(number) })?;
        if result.is_err() {
            state.report.failed += 1;
        }
        result?;
        state.epoch = state.epoch.max(number);
        state.report.flushes += 1;
        Ok(number)
    }

    fn barrier(&self) -> io::Result<()> {
        let state = self.lock();
        let state = self
            .changed
            .wait_while(state, |s| s.in_flight > 0 && s.fault.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let faulty = state.fault.is_some();
        drop(state);
        if !faulty {
            let flush = self.flush()?;
            let mut state = self.lock();
            self.settle(&mut state)?;
            let ticket = self.say(Event::Barrier { flush, sum: state.sum })?;
            state.report.barriers += 1;
            drop(state);
            self.log.wait(ticket)?;
        }
        self.lock().draining = false;
        self.changed.notify_all();
        Ok(())
    }

    fn finish(self) -> Result<Report, OracleError> {
        if self.lock().fault.is_none() {
            let last = self.barrier().and_then(|()| self.say(Event::End)).and_then(|t| self.log.wait(t));
            if let Err(e) = last {
                self.lock().fault = Some(e);
            }
        }
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = state.report;
        report.seconds = (clock::elapsed() - self.start).as_secs_f64();
        match state.fault {
            Some(e) if report.failed == 0 => Err(e.into()),
            _ => Ok(report),
        }
    }
}

impl State {
    fn put(&mut self, disk: u32, block: u64, seq: u64) {
        let old = if seq == 0 {
            self.current.remove(&(disk, block))
        } else {
            self.current.insert((disk, block), seq)
        };
        if let Some(old) = old {
            self.sum = self.sum.wrapping_sub(fingerprint(disk, block, old));
        }
        if seq != 0 {
            self.sum = self.sum.wrapping_add(fingerprint(disk, block, seq));
        }
    }
}
