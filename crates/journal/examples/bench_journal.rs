//! How fast a journal takes records, and how soon and in how much memory a big scattered disk opens.
//!
//! `cargo run --release -p lifeboat-journal --example bench_journal -- DIR [RECORDS]`
//!
//! Prints one line per number: name, value, unit. DIR must not exist; it is removed afterwards.

use lifeboat_base::{
    Clock, DiskId, Entropy, Epoch, SeededEntropy, Seq, SystemClock, SystemEntropy, WallTime,
};
use lifeboat_block::storage::{DirStorage, LogFile, Storage};
use lifeboat_block::{BarrierKind, BlockDevice, Body, Codec, Record};
use lifeboat_journal::{Journal, JournalConfig, JournalKey};
use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const DISK: u64 = 1 << 40;
const BLOCK: usize = 4096;

/// Takes writes and forgets them: what is left is sealing.
struct NoStorage;

impl Storage for NoStorage {
    fn create(&self, _: &str) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(Self))
    }
    fn open(&self, _: &str) -> io::Result<Arc<dyn LogFile>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(Some(Box::new(())))
    }
}

impl LogFile for NoStorage {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn write_at(&self, data: &[u8], _: u64) -> io::Result<usize> {
        Ok(data.len())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn preallocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// A field of `/proc/self/status`, in MB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0u64) / 1024
}

struct Stream {
    seq: Seq,
    random: SeededEntropy,
    content: Vec<(bytes::Bytes, u32)>,
}

impl Stream {
    fn new() -> Self {
        let random = SeededEntropy::new(1);
        let content = (0..64)
            .map(|_| {
                let mut block = vec![0; BLOCK];
                random.fill(&mut block);
                let crc = crc32c::crc32c(&block);
                (block.into(), crc)
            })
            .collect();
        Self { seq: Seq::ZERO, random, content }
    }

    fn record(&mut self, body: Body) -> Record {
        self.seq = self.seq.next();
        Record { epoch: Epoch(0), seq: self.seq, time: WallTime(self.seq.0 * 1000), body }
    }

    fn batch(&mut self, n: usize) -> Vec<Record> {
        (0..n)
            .map(|_| {
                let offset = self.random.next_u64() % (DISK / BLOCK as u64) * BLOCK as u64;
                let (payload, crc) = self.content[self.seq.0 as usize % self.content.len()].clone();
                let (disk, len) = (DiskId(0), BLOCK as u32);
                self.record(Body::Data { disk, offset, len, codec: Codec::Raw, crc, payload })
            })
            .collect()
    }
}

fn fill(journal: &mut Journal, records: usize, batch: usize) -> anyhow_free::Result<(f64, Vec<Duration>)> {
    let clock = SystemClock;
    let mut stream = Stream::new();
    let first = stream.record(Body::Disk { disk: DiskId(0), size: DISK });
    journal.append(&[first])?;
    let (mut spent, mut commits) = (Duration::ZERO, Vec::new());
    for _ in 0..records / batch {
        let records = stream.batch(batch);
        let barrier = stream.record(Body::Barrier { kind: BarrierKind::Crash });
        let start = clock.monotonic();
        journal.append(&records)?;
        journal.append(&[barrier])?;
        journal.commit()?;
        let took = clock.monotonic() - start;
        spent += took;
        commits.push(took);
    }
    commits.sort();
    Ok(((records * BLOCK) as f64 / spent.as_secs_f64() / 1e6, commits))
}

/// Errors as text are enough here.
mod anyhow_free {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
}

fn main() -> anyhow_free::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: bench_journal DIR [RECORDS]")?);
    let records: usize = args.next().map_or(Ok(1_000_000), |n| n.parse())?;
    if dir.exists() {
        return Err(format!("{} exists; name a directory that does not", dir.display()).into());
    }
    let open = |storage: Arc<dyn Storage>| {
        let key = JournalKey([9; 32]);
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        Journal::open_on(storage, &key, JournalConfig::default(), clock, entropy).map(|(journal, _)| journal)
    };
    let rate = fill(&mut open(Arc::new(NoStorage))?, records.min(200_000), 256)?.0;
    println!("journal.seal4k {rate:.0} MB/s");

    let disk: Arc<dyn Storage> = Arc::new(DirStorage::new(&dir)?);
    let mut journal = open(disk.clone())?;
    let (rate, commits) = fill(&mut journal, records, 1024)?;
    println!("journal.append4k {rate:.0} MB/s (4 MiB per commit, fdatasync)");
    println!("journal.commit.p50 {:.2} ms", commits[commits.len() / 2].as_secs_f64() * 1e3);
    println!("journal.commit.p99 {:.2} ms", commits[commits.len() * 99 / 100].as_secs_f64() * 1e3);
    journal.close()?;
    println!("journal.append.rss {} MB", memory("VmHWM"));

    // A fresh peak for what follows.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let clock = SystemClock;
    let start = clock.monotonic();
    let journal = open(disk)?;
    println!("journal.open {:.1} ms", (clock.monotonic() - start).as_secs_f64() * 1e3);
    let reader = journal.reader();
    for n in 0..5 {
        let start = clock.monotonic();
        let point = reader.resolve(&lifeboat_base::PointSpec::Latest)?.id;
        let device = reader.open_point(point, DiskId(0))?;
        device.read(0, &mut [0; BLOCK])?;
        let took = clock.monotonic() - start;
        println!("mount.1tib.{n} {:.0} ms ({} extents)", took.as_secs_f64() * 1e3, device.extents());
    }
    println!("mount.1tib.peak {} MB", memory("VmHWM"));
    println!("mount.1tib.rss {} MB", memory("VmRSS"));
    drop(journal);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
