//! The oracle is itself on trial here: every mutant must be caught, and the honest disk never accused.

use super::block::next;
use super::*;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SIZE: u64 = 2 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    Honest,
    /// Replies to a write before it is anywhere.
    EarlyAck,
    /// Every third flush does nothing.
    SkippedFsync,
    /// Now and then a write overtakes the one before it.
    SwappedWrites,
    DroppedDiscard,
    OffByOne,
    /// Damages one byte now and then.
    BitFlip,
}

#[derive(Clone)]
struct Op {
    offset: usize,
    data: Vec<u8>,
}

#[derive(Default)]
struct Inner {
    stream: Vec<Op>,
    /// Acknowledged, but not in the stream.
    held: Vec<Op>,
    /// What a reader sees now: the stream and what is held.
    now: Vec<u8>,
    /// Length of the stream that survives a power cut.
    stable: usize,
    writes: u64,
    flushes: u64,
    /// The write with this number fails and is kept aside.
    fail_at: Option<u64>,
    stolen: Option<Op>,
}

/// A disk that remembers its stream, so that it can be looked at as of any moment.
struct Disk {
    mutant: Mutant,
    inner: Mutex<Inner>,
}

fn image(ops: &[Op]) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    for op in ops {
        bytes[op.offset..op.offset + op.data.len()].copy_from_slice(&op.data);
    }
    bytes
}

impl Disk {
    fn new(mutant: Mutant) -> Arc<Self> {
        Arc::new(Self { mutant, inner: Mutex::new(Inner { now: image(&[]), ..Inner::default() }) })
    }

    fn put(&self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap();
        inner.writes += 1;
        let n = inner.writes;
        let mut op = Op { offset: offset as usize, data };
        if inner.fail_at == Some(n) {
            inner.stolen = Some(op);
            return Err(io::Error::other("injected"));
        }
        match self.mutant {
            Mutant::EarlyAck => {
                inner.held.push(op);
                if inner.held.len() > 3 {
                    let first = inner.held.remove(0);
                    inner.stream.push(first);
                }
                return Ok(());
            }
            Mutant::OffByOne
                if n.is_multiple_of(50) && op.offset + op.data.len() + BLOCK <= SIZE as usize =>
            {
                op.offset += BLOCK;
            }
            Mutant::BitFlip if n.is_multiple_of(50) => op.data[100] ^= 4,
            Mutant::SwappedWrites if n.is_multiple_of(50) => {
                let last = inner.stream.len() - 1;
                inner.stream.insert(last, op);
                return Ok(());
            }
            _ => {}
        }
        inner.now[op.offset..op.offset + op.data.len()].copy_from_slice(&op.data);
        inner.stream.push(op);
        Ok(())
    }

    fn len(&self) -> usize {
        self.inner.lock().unwrap().stream.len()
    }

    /// The disk as it was after `cut` operations.
    fn prefix(&self, cut: usize) -> Arc<dyn Target> {
        Arc::new(Image(image(&self.inner.lock().unwrap().stream[..cut])))
    }

    /// What a power cut leaves: everything stable, and some of the rest.
    fn power_cut(&self, seed: u64) -> Arc<dyn Target> {
        let inner = self.inner.lock().unwrap();
        let mut state = seed;
        let mut ops = inner.stream[..inner.stable].to_vec();
        ops.extend(
            inner.stream[inner.stable..].iter().filter(|_| next(&mut state).is_multiple_of(2)).cloned(),
        );
        Arc::new(Image(image(&ops)))
    }

    /// Puts the disk back to where it was after `cut` operations; returns the others.
    fn rewind(&self, cut: usize) -> Vec<Op> {
        let mut inner = self.inner.lock().unwrap();
        let lost = inner.stream.split_off(cut);
        inner.now = image(&inner.stream);
        lost
    }

    fn release_stolen(&self) {
        let mut inner = self.inner.lock().unwrap();
        let op = inner.stolen.take().unwrap();
        inner.stream.push(op);
    }
}

impl Target for Disk {
    fn size(&self) -> u64 {
        SIZE
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inner = self.inner.lock().unwrap();
        buf.copy_from_slice(&inner.now[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.put(offset, data.to_vec())
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.put(offset, vec![0; len as usize])
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.mutant == Mutant::DroppedDiscard { Ok(()) } else { self.zero(offset, len) }
    }
    fn flush(&self) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap();
        inner.flushes += 1;
        if self.mutant != Mutant::SkippedFsync || !inner.flushes.is_multiple_of(3) {
            inner.stable = inner.stream.len();
        }
        Ok(())
    }
}

struct Image(Vec<u8>);

impl Target for Image {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn zero(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn trim(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    disk: Arc<Disk>,
}

impl Bench {
    fn new(mutant: Mutant) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), disk: Disk::new(mutant) }
    }

    fn ledger(&self) -> std::path::PathBuf {
        self.dir.path().join("ledger")
    }

    fn settings(writes: u64, depth: u32) -> Settings {
        Settings {
            writes,
            depth,
            time: Duration::from_secs(60),
            flush_every: 20,
            barrier_every: 100,
            zero_percent: 20,
            ..Settings::default()
        }
    }

    fn run(&self, settings: &Settings) -> Report {
        let (sink, history) = FileSink::open(&self.ledger()).unwrap();
        let targets: Vec<Arc<dyn Target>> = vec![self.disk.clone()];
        write(&targets, &sink, history.as_ref(), settings, &AtomicBool::new(false)).unwrap()
    }

    fn check(&self, image: Arc<dyn Target>, require: Require, order: Order) -> Verdict {
        let until = match require {
            Require::Exact(n) => Some(n),
            _ => None,
        };
        check(&[image], &self.history(until), require, order).unwrap()
    }

    fn history(&self, until: Option<u64>) -> History {
        History::open(&self.ledger(), until).unwrap()
    }

    fn last_barrier(&self) -> Require {
        Require::Exact(*self.history(None).barriers().last().unwrap())
    }

    fn whole(&self) -> Arc<dyn Target> {
        self.disk.prefix(self.disk.len())
    }
}

#[test]
fn an_honest_disk_is_never_accused() {
    let bench = Bench::new(Mutant::Honest);
    let report = bench.run(&Bench::settings(600, 4));
    assert_eq!((report.operations, report.failed), (600, 0));
    assert!(report.flushes > 10 && report.barriers > 3, "{report:?}");
    let exact = bench.check(bench.whole(), bench.last_barrier(), Order::Prefix);
    assert!(exact.ok() && exact.written > 100, "{exact}");
    for cut in (0..bench.disk.len()).step_by(7) {
        let verdict = bench.check(bench.disk.prefix(cut), Require::Nothing, Order::Prefix);
        assert!(verdict.ok(), "cut at {cut}: {verdict}");
    }
    assert!(bench.check(bench.whole(), Require::All, Order::Prefix).ok());
}

#[test]
fn a_power_cut_of_an_honest_disk_is_forgiven_what_was_not_flushed() {
    let bench = Bench::new(Mutant::Honest);
    let settings = Settings { barrier_every: 0, ..Bench::settings(75, 1) };
    bench.run(&settings);
    bench.disk.inner.lock().unwrap().stable = bench.disk.len() - 5;
    let flushes = bench.history(None).flushes();
    let earlier = flushes[flushes.len() - 2];
    for seed in 0..20 {
        let verdict = bench.check(bench.disk.power_cut(seed), Require::Flush(earlier), Order::Flush);
        assert!(verdict.ok(), "{verdict}");
    }
}

#[test]
fn every_barrier_is_exact_for_its_own_moment_only() {
    let bench = Bench::new(Mutant::Honest);
    bench.run(&Bench::settings(300, 1));
    let barriers = bench.history(None).barriers();
    // Barriers come after operations 101, 201 and at the end; the disk counts operations too.
    let first = Require::Exact(barriers[0]);
    assert!(bench.check(bench.disk.prefix(101), first, Order::Prefix).ok());
    let late = bench.check(bench.disk.prefix(102), first, Order::Prefix);
    let early = bench.check(bench.disk.prefix(100), first, Order::Prefix);
    assert!(!late.ok() && !early.ok(), "{late}\n{early}");
}

#[test]
fn early_ack_is_caught() {
    let bench = Bench::new(Mutant::EarlyAck);
    bench.run(&Bench::settings(200, 1));
    let verdict = bench.check(bench.whole(), Require::All, Order::Prefix);
    assert!(verdict.violations.iter().any(|v| matches!(v, Violation::Lost { .. })), "{verdict}");
}

#[test]
fn skipped_fsync_is_caught() {
    let bench = Bench::new(Mutant::SkippedFsync);
    let mut settings = Bench::settings(1000, 1);
    // The last flush is the one a barrier makes at the end; stop where it is one of the skipped.
    settings.writes = 100;
    settings.barrier_every = 0;
    settings.flush_every = 20;
    let report = bench.run(&settings);
    let skipped = report.flushes / 3 * 3;
    let inner_stable = bench.disk.inner.lock().unwrap().stable;
    assert!(inner_stable > 0);
    // A power cut right after the skipped flush: nothing later was stable yet.
    let (before, at_flush) = stream_length_at(&bench, skipped);
    bench.disk.inner.lock().unwrap().stable = before;
    bench.disk.inner.lock().unwrap().stream.truncate(at_flush);
    let caught = (0..10).filter(|seed| {
        let verdict = bench.check(bench.disk.power_cut(*seed), Require::Flush(skipped), Order::Flush);
        verdict.violations.iter().any(|v| matches!(v, Violation::Lost { .. }))
    });
    assert!(caught.count() >= 9);
}

/// Operations completed when flush `n - 1` and when flush `n` was issued (one in flight at a time).
fn stream_length_at(bench: &Bench, n: u64) -> (usize, usize) {
    let text = std::fs::read_to_string(bench.ledger()).unwrap();
    let done_before = |n: u64| {
        let mark = format!("flush {n}");
        text.lines().take_while(|l| *l != mark).filter(|l| l.starts_with("done ")).count()
    };
    (done_before(n - 1), done_before(n))
}

#[test]
fn swapped_writes_are_caught() {
    let bench = Bench::new(Mutant::SwappedWrites);
    bench.run(&Settings { zero_percent: 0, ..Bench::settings(210, 1) });
    for swapped in [50, 100, 150, 200] {
        // The overtaker is in, the overtaken is not.
        let verdict = bench.check(bench.disk.prefix(swapped - 1), Require::Nothing, Order::Prefix);
        assert!(
            verdict.violations.iter().any(|v| matches!(v, Violation::Reordered { .. })),
            "swap at {swapped}: {verdict}"
        );
        assert!(bench.check(bench.disk.prefix(swapped - 2), Require::Nothing, Order::Prefix).ok());
    }
}

#[test]
fn dropped_discard_is_caught() {
    let bench = Bench::new(Mutant::DroppedDiscard);
    // Small and much rewritten, so that discards hit what was written.
    bench.run(&Settings { zero_percent: 40, ..Bench::settings(1500, 2) });
    let verdict = bench.check(bench.whole(), bench.last_barrier(), Order::Prefix);
    assert!(verdict.violations.iter().any(|v| matches!(v, Violation::Lost { .. })), "{verdict}");
    assert!(verdict.violations.iter().any(|v| matches!(v, Violation::Sum { .. })) || verdict.count > 50);
}

#[test]
fn off_by_one_block_is_caught() {
    let bench = Bench::new(Mutant::OffByOne);
    bench.run(&Bench::settings(210, 1));
    let verdict = bench.check(bench.whole(), Require::Nothing, Order::Flush);
    assert!(verdict.violations.iter().any(|v| matches!(v, Violation::Misplaced { .. })), "{verdict}");
}

#[test]
fn damage_is_caught() {
    let bench = Bench::new(Mutant::BitFlip);
    bench.run(&Settings { zero_percent: 0, ..Bench::settings(60, 1) });
    let verdict = bench.check(bench.whole(), Require::Nothing, Order::Flush);
    assert!(verdict.violations.iter().any(|v| matches!(v, Violation::Damaged { .. })), "{verdict}");
}

#[test]
fn a_stale_reigns_write_is_caught_and_a_settled_one_is_not_missed() {
    for late in [false, true] {
        let bench = Bench::new(Mutant::Honest);
        bench.disk.inner.lock().unwrap().fail_at = Some(150);
        let first = bench.run(&Settings { zero_percent: 0, ..Bench::settings(400, 1) });
        assert_eq!(first.failed, 1);
        // A second reign settles what the first left open, and goes on.
        let second = bench.run(&Settings { writes: 20, zero_percent: 0, ..Bench::settings(20, 1) });
        assert_eq!((second.operations, second.failed), (20, 0));
        if late {
            bench.disk.release_stolen();
        }
        let verdict = bench.check(bench.whole(), bench.last_barrier(), Order::Prefix);
        assert_eq!(verdict.ok(), !late, "{verdict}");
    }
}

#[test]
fn failing_over_to_an_older_point_starts_a_line_of_its_own() {
    let bench = Bench::new(Mutant::Honest);
    bench.run(&Bench::settings(300, 1));
    // The recovered disk lacks the newest 40 operations; they are gone for good.
    let lost = bench.disk.rewind(260);
    bench.run(&Bench::settings(50, 2));
    assert!(bench.check(bench.whole(), bench.last_barrier(), Order::Prefix).ok());
    bench.disk.inner.lock().unwrap().stream.extend(lost);
    assert!(!bench.check(bench.whole(), bench.last_barrier(), Order::Prefix).ok());
}

#[test]
fn overlapping_writes_may_land_either_way_but_not_vanish() {
    let bench = Bench::new(Mutant::Honest);
    let settings = Settings { overlap: true, max_blocks: 60, zero_percent: 10, ..Bench::settings(500, 8) };
    bench.run(&settings);
    let verdict = bench.check(bench.whole(), bench.last_barrier(), Order::Prefix);
    assert!(verdict.ok(), "{verdict}");
    let earlier = bench.check(bench.disk.prefix(250), Require::All, Order::Prefix);
    assert!(!earlier.ok());
}

#[test]
fn a_group_of_disks_is_judged_together() {
    let dir = tempfile::tempdir().unwrap();
    let disks = [Disk::new(Mutant::Honest), Disk::new(Mutant::Honest)];
    let targets: Vec<Arc<dyn Target>> = disks.iter().map(|d| d.clone() as Arc<dyn Target>).collect();
    let path = dir.path().join("ledger");
    let (sink, _) = FileSink::open(&path).unwrap();
    write(&targets, &sink, None, &Bench::settings(200, 1), &AtomicBool::new(false)).unwrap();
    let history = History::open(&path, None).unwrap();
    let whole: Vec<_> = disks.iter().map(|d| d.prefix(d.len())).collect();
    assert!(check(&whole, &history, Require::All, Order::Prefix).unwrap().ok());
    // One disk older than the other: each is fine alone, together they never were.
    let torn = [disks[0].prefix(disks[0].len() / 2), whole[1].clone()];
    let verdict = check(&torn, &history, Require::Nothing, Order::Prefix).unwrap();
    assert!(
        verdict.violations.iter().any(|v| matches!(v, Violation::Reordered { disk: 0, .. })),
        "{verdict}"
    );
}

#[test]
fn a_collector_keeps_the_ledger_of_a_writer_elsewhere() {
    let bench = Bench::new(Mutant::Honest);
    let collector = Collector::start("127.0.0.1:0", &bench.ledger()).unwrap();
    for reign in 1..=2 {
        let (sink, history) = TcpSink::connect(&collector.address().to_string()).unwrap();
        assert_eq!(history.as_ref().map_or(0, |h| h.reign), reign - 1);
        let targets: Vec<Arc<dyn Target>> = vec![bench.disk.clone()];
        let settings = Bench::settings(100, 4);
        write(&targets, &sink, history.as_ref(), &settings, &AtomicBool::new(false)).unwrap();
    }
    assert!(bench.check(bench.whole(), bench.last_barrier(), Order::Prefix).ok());
}

#[test]
fn a_ledger_without_its_last_newline_is_read_up_to_there_and_nonsense_is_named() {
    let text = "lifeboat-oracle 1 00000000000000aa\ndisk 0 512\nreign 1\nissue 1 0 5 2 w\ndone 1\nissue 2 0";
    let history = History::read(text.as_bytes(), None).unwrap();
    assert_eq!((history.next_seq, history.open.len()), (2, 0));
    let fault =
        History::read(&b"lifeboat-oracle 1 aa\ndisk 0 512\nissue 1 0 511 2 w\n"[..], None).unwrap_err();
    assert_eq!(fault.to_string(), "ledger line 3: write outside of the disk: \"issue 1 0 511 2 w\"");
    assert!(History::read(&b"rubbish\n"[..], None).is_err());
}

#[test]
fn a_blocks_layout_is_fixed() {
    let stamp = Stamp { run: 1, disk: 2, reign: 3, block: 4, seq: 5, epoch: 6 };
    let mut bytes = vec![0xff; BLOCK];
    stamp.fill(&mut bytes);
    assert_eq!(Content::read(&bytes), Content::Ours(stamp));
    assert_eq!(bytes[BLOCK - 4..], [83, 152, 21, 180]);
    bytes[4000] = 1;
    assert_eq!(Content::read(&bytes), Content::Damaged);
}
