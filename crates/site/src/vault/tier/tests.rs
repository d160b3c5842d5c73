//! Random histories against a model that knows every byte of every point.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::vault::bases::Uses;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Clock, Entropy, Epoch, ManualClock, Secret, SeededEntropy};
use lifeboat_block::storage::{MemoryStorage, StorageFault};
use lifeboat_block::{BarrierKind, Body, Codec, Record, is_zero};
use lifeboat_journal::{Elsewhere, Journal, JournalConfig, JournalKey, PointQuery};
use lifeboat_vault::store::memory::{Fault, MemoryStore};
use lifeboat_vault::{Settings, VaultOptions};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

const B: u64 = BLOCK as u64;
const KEY: [u8; 32] = [8; 32];

type Image = BTreeMap<DiskId, Vec<u8>>;

/// Serves bases from whatever vault is open now.
struct Below(Mutex<Option<Vault>>, Uses);

impl Elsewhere for Below {
    fn base(&self, id: [u8; 16], disk: DiskId) -> Result<Arc<dyn BlockDevice>, BlockError> {
        let vault = self.0.lock().clone().ok_or_else(|| BlockError::Corrupt("away".into()))?;
        let snapshot =
            vault.snapshot(&SnapshotId(id)).ok_or_else(|| BlockError::Corrupt("no base".into()))?;
        let device = Arc::new(vault.device(&snapshot, disk)?);
        self.1.note(snapshot.id, &device);
        Ok(device)
    }
}

struct World {
    clock: Arc<ManualClock>,
    entropy: Arc<SeededEntropy>,
    store: Arc<MemoryStore>,
    storage: MemoryStorage,
    below: Arc<Below>,
    server: ServerId,
    vault: Vault,
    journal: Option<Journal>,
    seq: Seq,
    now: Image,
    points: Vec<(PointId, Image)>,
    records: Vec<Record>,
    written: u64,
}

fn open_vault(store: &Arc<MemoryStore>, clock: &Arc<ManualClock>, entropy: &Arc<SeededEntropy>) -> Vault {
    let settings = Settings { workers: 1, pack_bytes: 1 << 20, ..Settings::default() };
    let options = VaultOptions { store: store.clone(), site_keys: vec![Secret(KEY)], index: None, settings };
    let vault = Vault::open(options, clock.clone(), entropy.clone()).unwrap();
    vault.refresh(&|_, _| {}).unwrap();
    vault
}

fn open_journal(
    storage: &MemoryStorage,
    w: (&Arc<ManualClock>, &Arc<SeededEntropy>),
    below: &Arc<Below>,
) -> Journal {
    let config = JournalConfig { segment_bytes: 96 << 10, ..JournalConfig::default() };
    let storage = Arc::new(storage.clone());
    let (journal, _) =
        Journal::open_on(storage, &JournalKey([1; 32]), config, w.0.clone(), w.1.clone()).unwrap();
    journal.set_elsewhere(below.clone());
    journal
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::default());
        let entropy = Arc::new(SeededEntropy::new(seed));
        let store = Arc::new(MemoryStore::new("memory"));
        Vault::create(&*store, &Secret(KEY), &*clock, &*entropy).unwrap();
        let vault = open_vault(&store, &clock, &entropy);
        let below = Arc::new(Below(Mutex::new(Some(vault.clone())), Uses::default()));
        let storage = MemoryStorage::new();
        let journal = open_journal(&storage, (&clock, &entropy), &below);
        let server = ServerId::random(&*entropy);
        let (seq, now, points, records) = Default::default();
        Self {
            clock,
            entropy,
            store,
            storage,
            below,
            server,
            vault,
            journal: Some(journal),
            seq,
            now,
            points,
            records,
            written: 0,
        }
    }

    fn below(&self, n: u64) -> u64 {
        self.entropy.next_u64() % n.max(1)
    }

    fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().unwrap()
    }

    fn emit(&mut self, body: Body) {
        self.seq = self.seq.next();
        let time = self.clock.wall();
        self.records.push(Record { epoch: Epoch(0), seq: self.seq, time, body });
    }

    fn disk(&mut self, disk: u16, size: u64) {
        self.now.entry(DiskId(disk)).or_default().resize(size as usize, 0);
        self.emit(Body::Disk { disk: DiskId(disk), size });
    }

    fn write(&mut self, disk: u16, offset: u64, content: Vec<u8>) {
        let at = offset as usize;
        self.now.get_mut(&DiskId(disk)).unwrap()[at..at + content.len()].copy_from_slice(&content);
        let (len, crc) = (content.len() as u32, crc32c::crc32c(&content));
        self.written += content.len() as u64;
        self.emit(Body::Data {
            disk: DiskId(disk),
            offset,
            len,
            codec: Codec::Raw,
            crc,
            payload: content.into(),
        });
    }

    fn barrier(&mut self) -> PointId {
        self.clock.advance(Duration::from_secs(1));
        self.emit(Body::Barrier { kind: BarrierKind::Crash });
        let id = PointId { epoch: Epoch(0), seq: self.seq };
        self.points.push((id, self.now.clone()));
        id
    }

    fn send(&mut self) {
        let records = std::mem::take(&mut self.records);
        self.journal().append(&records).unwrap();
        self.journal().commit().unwrap();
    }

    fn random(&mut self, n: usize) {
        for _ in 0..n {
            let disk = self.below(2) as u16;
            let size = self.now[&DiskId(disk)].len() as u64;
            let offset = self.below(size) / 512 * 512;
            let len = (512 + self.below(30_000)).min(size - offset);
            match self.below(12) {
                0 => {
                    self.now.get_mut(&DiskId(disk)).unwrap()[offset as usize..(offset + len) as usize]
                        .fill(0);
                    self.emit(Body::Zero { disk: DiskId(disk), offset, len });
                }
                1 if disk == 1 => {
                    let size = B + self.below(3 * B);
                    self.disk(1, size);
                }
                2..=3 => drop(self.barrier()),
                _ => {
                    let mut content = vec![self.below(4) as u8; len as usize];
                    if self.below(2) == 0 {
                        self.entropy.fill(&mut content);
                    }
                    self.write(disk, offset, content);
                }
            }
        }
        self.barrier();
        self.send();
    }

    fn tier<T>(&self, f: impl FnOnce(&Tier<'_>) -> T) -> T {
        let reader = self.journal.as_ref().unwrap().reader();
        f(&Tier { vault: &self.vault, server: self.server, reader: &reader, pace: &|_| true })
    }

    fn make(&self, id: PointId) -> Result<Arc<Snapshot>, TierError> {
        let now = self.clock.wall();
        let made = Made {
            at: id.seq,
            point: Some(id),
            consistency: 0,
            source_time: now,
            site_time: now,
            locked_until: None,
        };
        self.tier(|t| t.make(Owner::Server(self.server), &made))
    }

    fn move_base(&self, seq: Seq) -> Result<AdvanceReport, TierError> {
        let keeper = self.journal.as_ref().unwrap().keeper();
        let (uses, now) = (self.below.1.all(), self.clock.wall());
        let moved = self.tier(|t| t.move_base(&keeper, seq, now));
        self.tier(|t| t.reap(&uses, now)).and(moved)
    }

    /// The process ends, or its machine loses power; both vault and journal are opened anew.
    fn restart(&mut self, power: bool) {
        self.store.restore();
        self.storage.heal();
        *self.below.0.lock() = None;
        self.journal = None;
        self.storage = if power { self.storage.after_power_loss() } else { self.storage.after_kill() };
        self.vault = open_vault(&self.store, &self.clock, &self.entropy);
        *self.below.0.lock() = Some(self.vault.clone());
        self.journal = Some(open_journal(&self.storage, (&self.clock, &self.entropy), &self.below));
    }

    /// Every point of the journal, and every one of the vault, equals the model. At most one base is left.
    fn verify(&self) {
        let reader = self.journal.as_ref().unwrap().reader();
        let listed = reader.points(&PointQuery { limit: usize::MAX, ..PointQuery::default() });
        for (id, image) in &self.points {
            if listed.iter().any(|p| p.id == *id) {
                for (disk, content) in image {
                    let device = reader.open_point(*id, *disk).unwrap();
                    device.ready().unwrap();
                    same(&device, content, &format!("journal {disk} at {id}"));
                }
            }
        }
        let oldest = listed.last().map(|p| p.id.seq);
        assert_eq!(
            listed.len(),
            self.points.iter().filter(|(id, _)| oldest.is_some_and(|o| id.seq >= o)).count()
        );
        for s in self.vault.snapshots_of(&Owner::Server(self.server)) {
            let image = &self.points.iter().find(|(id, _)| Some(*id) == s.body.point).unwrap().1;
            assert_eq!(s.body.disks.len(), image.len());
            for (disk, content) in image {
                same(
                    &self.vault.device(&s, *disk).unwrap(),
                    content,
                    &format!("vault {disk} of {:?}", s.body.point),
                );
                let used: usize = content.chunks(BLOCK).filter(|c| !is_zero(c)).count() * BLOCK;
                assert_eq!(s.disk(*disk).unwrap().used, used as u64, "{disk} of {:?}", s.body.point);
            }
        }
    }

    fn bases(&self) -> usize {
        self.vault.snapshots_of(&Owner::Base(self.server)).len()
    }
}

fn same(device: &dyn BlockDevice, content: &[u8], what: &str) {
    assert_eq!(device.size(), content.len() as u64, "{what}");
    let mut got = vec![0xee; content.len()];
    device.read(0, &mut got).unwrap();
    assert!(got == content, "{what} differs");
}

/// I1: whatever goes into the vault, and wherever the journal's base is moved to, at any time, over restarts.
#[test]
fn i1_every_point_is_exact_wherever_it_is() {
    for seed in 0..25 {
        let mut w = World::new(seed);
        w.disk(0, 5 * B + 512);
        w.disk(1, B / 2);
        for _ in 0..12 {
            w.random(12);
            for _ in 0..w.below(3) {
                let reach: Vec<_> = w.points.iter().map(|(id, _)| *id).collect();
                let id = reach[w.below(reach.len() as u64) as usize];
                let known =
                    w.vault.snapshots_of(&Owner::Server(w.server)).iter().any(|s| s.body.point == Some(id));
                let reader = w.journal().reader();
                let gone = reader.resolve(&lifeboat_base::PointSpec::Id(id)).is_err();
                if !known {
                    assert_eq!(w.make(id).is_err(), gone, "{id}");
                }
            }
            if w.below(2) == 0 {
                // Any record will do, not barriers only.
                let from = w.journal().reader().base().map_or(1, |b| b.seq.0);
                let seq = Seq(from + w.below(w.seq.0 - from + 1));
                w.move_base(seq).unwrap();
                assert_eq!(w.bases(), 1, "the one it stands on");
            }
            if w.below(4) == 0 {
                let power = w.below(2) == 0;
                w.restart(power);
            }
        }
        w.verify();
    }
}

/// Failures 1, 2, 9, 18: each call to the vault's store, and each to the journal's disk, fails, is lost or is the last
/// before the power goes. No point is lost or wrong, and what was left over goes in the end.
#[test]
fn i1_a_move_that_ends_anywhere_loses_nothing() {
    let faults = [Fault::Before, Fault::LostReply, Fault::CutBefore, Fault::CutAfter, Fault::NoSpace];
    for (n, fault) in faults.into_iter().enumerate() {
        for call in 1.. {
            let mut w = story(n as u64);
            let before = w.store.calls();
            w.store.fail(before + call, fault);
            let moved = w.move_base(w.points[9].0.seq);
            let clean = w.store.calls() < before + call;
            assert!(!clean || moved.is_ok(), "{moved:?}");
            recover(&mut w, call % 2 == 0);
            if clean {
                break;
            }
        }
    }
    for errno in [5, 28] {
        for nth in 1..60 {
            let mut w = story(nth);
            w.storage.fail(StorageFault { call: None, nth, forever: false, errno, half: true });
            let moved = w.move_base(w.points[9].0.seq);
            recover(&mut w, nth % 2 == 0);
            if moved.is_ok() && nth > 20 {
                break;
            }
        }
    }
}

/// Two points in the vault, a base below the journal, and more since.
fn story(seed: u64) -> World {
    let mut w = World::new(seed);
    w.disk(0, 3 * B);
    w.disk(1, B / 2);
    for _ in 0..4 {
        w.random(6);
    }
    let id = w.points[2].0;
    w.make(id).unwrap();
    w.move_base(w.points[3].0.seq).unwrap();
    while w.points.len() < 14 {
        w.random(4);
    }
    w
}

fn recover(w: &mut World, power: bool) {
    w.restart(power);
    w.verify();
    let newest = w.points.last().unwrap().0;
    w.random(5);
    w.make(newest).unwrap();
    let seq = w.points.last().unwrap().0.seq;
    w.move_base(seq).unwrap();
    w.verify();
    assert_eq!(w.bases(), 1, "what was left over went");
}

/// A base somebody reads stays while it is read, whatever the journal stands on meanwhile.
#[test]
fn a_base_that_is_read_is_not_deleted() {
    let mut w = World::new(3);
    w.disk(0, 4 * B);
    w.disk(1, B);
    w.random(20);
    w.move_base(w.points[0].0.seq).unwrap();
    let (id, image) = w.points.last().cloned().unwrap();
    let device = w.journal().reader().open_point(id, DiskId(0)).unwrap();
    device.ready().unwrap();
    w.random(20);
    let seq = w.points.last().unwrap().0.seq;
    w.move_base(seq).unwrap();
    assert_eq!(w.bases(), 2);
    w.vault.drop_caches();
    same(&device, &image[&DiskId(0)], "the point that is open");
    drop(device);
    w.move_base(seq).unwrap();
    assert_eq!(w.bases(), 1);
    w.verify();
}

/// The cost of tiering: content written to the vault by content written to the disk, and the journal's size.
#[test]
fn a_first_copy_needs_little_room_and_what_is_the_same_costs_once() {
    let mut w = World::new(4);
    let size = 64 * B;
    w.disk(0, size);
    let mut most = 0;
    for n in 0..64 {
        let mut content = vec![0; BLOCK];
        w.entropy.fill(&mut content);
        w.write(0, n * B, content);
        w.send();
        most = most.max(w.journal().reader().usage().bytes);
        if let Some((seq, bytes)) = w.journal().reader().finished()
            && bytes >= 4 * B
        {
            w.move_base(seq).unwrap();
        }
    }
    let last = w.barrier();
    w.send();
    assert!(most < 9 * B, "{most}");
    w.make(last).unwrap();
    w.verify();
    let used = w.store.used();
    // Ten clones: each sends everything anew, and the vault takes nothing but maps.
    for n in 0..10 {
        let mut clone = World::new(100 + n);
        clone.store = w.store.clone();
        clone.vault = w.vault.clone();
        *clone.below.0.lock() = Some(w.vault.clone());
        clone.disk(0, size);
        let image = w.now[&DiskId(0)].clone();
        for (n, block) in image.chunks(BLOCK).enumerate() {
            clone.write(0, n as u64 * B, block.to_vec());
        }
        let id = clone.barrier();
        clone.send();
        clone.make(id).unwrap();
        clone.verify();
    }
    let added = w.store.used() - used;
    assert!(added < 10 * 8192, "ten clones cost {added} bytes");
    println!(
        "written {} to the disk, {used} in the vault, {added} for ten clones, journal at most {most}",
        w.written
    );
}

/// Of a disk of which little changed, little is read.
#[test]
fn only_what_changed_is_read() {
    let mut w = World::new(5);
    w.disk(0, 64 * B);
    for n in 0..64 {
        w.write(0, n * B, vec![n as u8 + 1; BLOCK]);
    }
    let first = w.barrier();
    w.send();
    assert_eq!(w.make(first).unwrap().body.stats.read / B, 64);
    w.write(0, 5 * B + 700, vec![99; 512]);
    w.write(0, 9 * B, vec![0; BLOCK]);
    let second = w.barrier();
    w.send();
    let s = w.make(second).unwrap().body.stats;
    assert!(s.read < 3 * B && s.new < 2 * B + 20_000, "{s:?}");
    // Going back in time costs what differs, too.
    w.move_base(second.seq).unwrap();
    w.write(0, 0, vec![7; 512]);
    let third = w.barrier();
    w.send();
    let s = w.make(third).unwrap().body.stats;
    assert!(s.read < 2 * B + 20_000, "{s:?}");
    w.verify();
}

/// Failure 5: damage makes no snapshot, and takes nothing from those that are there.
#[test]
fn i3_damage_in_the_journal_is_no_snapshot() {
    let mut w = World::new(6);
    w.disk(0, 4 * B);
    w.write(0, 0, vec![1; BLOCK]);
    let first = w.barrier();
    w.send();
    w.make(first).unwrap();
    w.write(0, B, vec![2; BLOCK]);
    let second = w.barrier();
    w.send();
    let mut names = lifeboat_block::storage::Storage::list(&w.storage).unwrap();
    names.retain(|n| n.ends_with(".seg"));
    names.sort();
    // The segment's header, a disk, a write, a barrier: 80 bytes each besides the content; then the second write.
    let second_write = 128 + 80 + (80 + BLOCK) + 80;
    w.storage.tamper(&names[0], |b| b[second_write + 64 + 100] ^= 1);
    let failed = w.make(second).unwrap_err();
    assert!(failed.to_string().contains("segment"), "{failed}");
    assert!(w.move_base(second.seq).is_err());
    let snapshots = w.vault.snapshots_of(&Owner::Server(w.server));
    assert_eq!(snapshots.len(), 1);
    same(&w.vault.device(&snapshots[0], DiskId(0)).unwrap(), &w.points[0].1[&DiskId(0)], "the point before");
    assert_eq!(w.bases(), 0, "nothing half made is left");
}
