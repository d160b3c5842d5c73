//! How much tiering writes for what is written to a disk: a first copy, then hours of random writes with a point each.
//!
//! `cargo run --release -p lifeboat-site --example tier_amplification [MiB of disk]`

use anyhow::{Context, Result};
use bytes::Bytes;
use lifeboat_base::limits::{BLOCK, MIB};
use lifeboat_base::{
    Clock, DiskId, Entropy, Epoch, PointId, Secret, SeededEntropy, Seq, ServerId, SystemClock, SystemEntropy,
};
use lifeboat_block::{BarrierKind, BlockDevice, BlockError, Body, Record, codec::Encoder};
use lifeboat_journal::{Elsewhere, Journal, JournalConfig, JournalKey};
use lifeboat_site::vault::{Made, Tier};
use lifeboat_vault::store::dir::DirStore;
use lifeboat_vault::{Owner, Settings, SnapshotId, Vault, VaultOptions};
use std::sync::Arc;

/// Random writes of 4 KiB between two points, and bytes in a row.
const RANDOM: u64 = 5000;
const ROW: u64 = 100 << 20;
const ROUNDS: u64 = 4;

struct Below(Vault);

impl Elsewhere for Below {
    fn base(&self, id: [u8; 16], disk: DiskId) -> Result<Arc<dyn BlockDevice>, BlockError> {
        let snapshot = self.0.snapshot(&SnapshotId(id)).ok_or(BlockError::Shutdown)?;
        Ok(Arc::new(self.0.device(&snapshot, disk)?))
    }
}

struct Stream {
    journal: Journal,
    clock: Arc<dyn Clock>,
    entropy: SeededEntropy,
    encoder: Encoder,
    seq: Seq,
    written: u64,
}

impl Stream {
    fn emit(&mut self, body: Body) -> Result<()> {
        self.seq = self.seq.next();
        let record = Record { epoch: Epoch(0), seq: self.seq, time: self.clock.wall(), body };
        self.journal.append(&[record])?;
        Ok(())
    }

    /// Half of it compresses to a third, like a disk's content.
    fn write(&mut self, offset: u64, len: usize) -> Result<()> {
        let mut content = vec![0; len];
        self.entropy.fill(&mut content);
        for piece in content.chunks_mut(4096).step_by(2) {
            piece.iter_mut().skip(1000).for_each(|b| *b = 7);
        }
        let content = Bytes::from(content);
        self.written += len as u64;
        let crc = crc32c::crc32c(&content);
        let (codec, payload) = self.encoder.encode(&content);
        self.emit(Body::Data { disk: DiskId(0), offset, len: len as u32, codec, crc, payload })
    }

    fn barrier(&mut self) -> Result<PointId> {
        self.emit(Body::Barrier { kind: BarrierKind::Crash })?;
        self.journal.commit()?;
        Ok(PointId { epoch: Epoch(0), seq: self.seq })
    }
}

fn main() -> Result<()> {
    let size = std::env::args().nth(1).map_or(Ok(1024), |n| n.parse::<u64>())? * MIB as u64;
    let dir = tempfile::tempdir()?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
        (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let key = Secret([1; 32]);
    let store = Arc::new(DirStore::create(dir.path().join("vault"))?);
    Vault::create(&*store, &key, &*clock, &*entropy)?;
    let options = VaultOptions {
        store,
        site_keys: vec![key],
        index: Some(dir.path().join("index.redb")),
        settings: Settings::default(),
    };
    let vault = Vault::open(options, Arc::clone(&clock), Arc::clone(&entropy))?;
    let journal_dir = dir.path().join("journal");
    let config = JournalConfig { segment_bytes: 32 << 20, ..JournalConfig::default() };
    let (journal, _) =
        Journal::open(&journal_dir, &JournalKey([2; 32]), config, Arc::clone(&clock), entropy)?;
    journal.set_elsewhere(Arc::new(Below(vault.clone())));
    let (reader, keeper) = (journal.reader(), journal.keeper());
    let server = ServerId::random(&SeededEntropy::new(3));
    let tier = Tier { vault: &vault, server, reader: &reader, pace: &|_| true };
    let now = || clock.wall();
    let stored = || -> Result<u64> { Ok(vault.index().packs()?.iter().map(|p| p.size).sum()) };
    let (entropy, seq) = (SeededEntropy::new(4), Seq(0));
    let mut s =
        Stream { journal, clock: Arc::clone(&clock), entropy, encoder: Encoder::default(), seq, written: 0 };

    s.emit(Body::Disk { disk: DiskId(0), size })?;
    let begun = clock.monotonic();
    let (mut most, mut moves) = (0, 0);
    for offset in (0..size).step_by(4 * BLOCK) {
        s.write(offset, 4 * BLOCK)?;
        s.journal.commit()?;
        most = most.max(reader.usage().bytes);
        if let Some((seq, bytes)) = reader.finished()
            && bytes >= 128 << 20
        {
            tier.move_base(&keeper, seq, now())?;
            tier.reap(&Default::default(), now())?;
            moves += 1;
        }
    }
    s.barrier()?;
    let took = clock.monotonic().saturating_sub(begun);
    println!(
        "first copy: {} MiB written, journal at most {} MiB, {moves} bases, vault {} MiB, {:.1} s",
        s.written >> 20,
        most >> 20,
        stored()? >> 20,
        took.as_secs_f64()
    );
    for round in 1..=ROUNDS {
        let (before, written) = (stored()?, s.written);
        for _ in 0..RANDOM {
            let offset = s.entropy.next_u64() % (size / 4096) * 4096;
            s.write(offset, 4096)?;
        }
        let from = s.entropy.next_u64() % (size - ROW) / BLOCK as u64 * BLOCK as u64;
        for offset in (from..from + ROW).step_by(4 * BLOCK) {
            s.write(offset, 4 * BLOCK)?;
        }
        let point = s.barrier()?;
        let begun = clock.monotonic();
        let made = Made {
            at: point.seq,
            point: Some(point),
            consistency: 0,
            source_time: now(),
            site_time: now(),
            locked_until: None,
        };
        let snapshot = tier.make(Owner::Server(server), &made).context("the point")?;
        let (points, middle) = (clock.monotonic().saturating_sub(begun), stored()?);
        tier.move_base(&keeper, point.seq, now())?;
        tier.reap(&Default::default(), now())?;
        let written = s.written - written;
        let (read, added) = (snapshot.body.stats.read, stored()? - before);
        println!(
            "round {round}: {} MiB written; point: {} MiB read in {:.2} s, {} MiB added; base after it: {} KiB added; \
             {:.2} bytes stored for a byte written, {:.2} read",
            written >> 20,
            read >> 20,
            points.as_secs_f64(),
            (middle - before) >> 20,
            (stored()? - middle) >> 10,
            added as f64 / written as f64,
            read as f64 / written as f64,
        );
    }
    Ok(())
}
