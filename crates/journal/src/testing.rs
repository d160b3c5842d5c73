//! A source, a journal and a model to compare them by.
#![allow(clippy::unwrap_used)]

use crate::{
    Elsewhere, Journal, JournalConfig, JournalError, JournalKey, JournalReader, OpenReport, PointDevice,
};
use lifeboat_base::{DiskId, Entropy, Epoch, ManualClock, PointId, SeededEntropy, Seq, WallTime};
use lifeboat_block::codec::Encoder;
use lifeboat_block::storage::MemoryStorage;
use lifeboat_block::{BarrierKind, BlockDevice, BlockError, Body, MemoryDevice, Record};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const DISK: u64 = 16 * 1024;

pub(crate) fn key() -> JournalKey {
    JournalKey([7; 32])
}

/// Small segments, so that a short story fills several.
pub(crate) fn small() -> JournalConfig {
    JournalConfig {
        segment_bytes: 4096,
        segment_records: 1000,
        window: Duration::from_secs(3600),
        window_bytes: 1 << 40,
    }
}

pub(crate) struct Rig {
    pub storage: MemoryStorage,
    pub clock: Arc<ManualClock>,
    pub entropy: Arc<SeededEntropy>,
    pub config: JournalConfig,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            storage: MemoryStorage::new(),
            clock: Arc::default(),
            entropy: Arc::new(SeededEntropy::new(1)),
            config: small(),
        }
    }

    pub(crate) fn on(&self, storage: MemoryStorage) -> Self {
        Self {
            storage,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            config: self.config.clone(),
        }
    }

    pub(crate) fn try_open(&self) -> Result<(Journal, OpenReport), JournalError> {
        Journal::open_on(
            Arc::new(self.storage.clone()),
            &key(),
            self.config.clone(),
            self.clock.clone(),
            self.entropy.clone(),
        )
    }

    pub(crate) fn open(&self) -> Journal {
        self.try_open().unwrap().0
    }

    pub(crate) fn names(&self, ending: &str) -> Vec<String> {
        use lifeboat_block::storage::Storage;
        self.storage.list().unwrap().into_iter().filter(|n| n.ends_with(ending)).collect()
    }
}

/// A base's name, and one of its disks.
type Kept = ([u8; 16], DiskId);

/// Keeps bases in memory.
#[derive(Default)]
pub(crate) struct Bases {
    kept: Mutex<BTreeMap<Kept, Vec<u8>>>,
    pub away: AtomicBool,
}

impl Bases {
    /// Copies the disks as they are after record `seq`.
    pub(crate) fn keep(&self, id: u8, reader: &JournalReader, seq: Seq) {
        for d in reader.disks_after(seq) {
            let content = read_all(&reader.open_at(d.disk, seq).unwrap()).unwrap();
            self.kept.lock().insert(([id; 16], d.disk), content);
        }
    }

    pub(crate) fn forget(&self, id: u8) {
        self.kept.lock().retain(|(kept, _), _| *kept != [id; 16]);
    }
}

impl Elsewhere for Bases {
    fn base(&self, id: [u8; 16], disk: DiskId) -> Result<Arc<dyn BlockDevice>, BlockError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(BlockError::Io(std::io::Error::other("the vault is away")));
        }
        let content = self.kept.lock().get(&(id, disk)).cloned();
        let content = content.ok_or_else(|| BlockError::Corrupt("there is no such base".into()))?;
        let device = MemoryDevice::new(content.len() as u64);
        device.write(0, content.into())?;
        Ok(Arc::new(device))
    }
}

pub(crate) type Image = BTreeMap<DiskId, Vec<u8>>;

/// Makes a stream and remembers what every barrier must read as.
pub(crate) struct Source {
    pub epoch: Epoch,
    pub seq: Seq,
    pub time: WallTime,
    pub now: Image,
    pub points: Vec<(PointId, Image)>,
    pub out: Vec<Record>,
    encoder: Encoder,
    random: SeededEntropy,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            epoch: Epoch(0),
            seq: Seq(0),
            time: WallTime(1_000_000_000),
            now: Image::new(),
            points: Vec::new(),
            out: Vec::new(),
            encoder: Encoder::default(),
            random: SeededEntropy::new(seed),
        }
    }

    pub(crate) fn below(&self, n: u64) -> u64 {
        self.random.next_u64() % n.max(1)
    }

    pub(crate) fn emit(&mut self, body: Body) -> &mut Self {
        self.seq = self.seq.next();
        self.time = self.time.saturating_add(Duration::from_millis(100));
        self.out.push(Record { epoch: self.epoch, seq: self.seq, time: self.time, body });
        self
    }

    pub(crate) fn disk(&mut self, disk: u16, size: u64) -> &mut Self {
        let disk = DiskId(disk);
        self.now.entry(disk).or_default().resize(size as usize, 0);
        self.emit(Body::Disk { disk, size })
    }

    pub(crate) fn write(&mut self, disk: u16, offset: u64, content: &[u8]) -> &mut Self {
        let disk = DiskId(disk);
        let at = offset as usize;
        self.now.get_mut(&disk).unwrap()[at..at + content.len()].copy_from_slice(content);
        let content = bytes::Bytes::copy_from_slice(content);
        let (codec, payload) = self.encoder.encode(&content);
        let (len, crc) = (content.len() as u32, crc32c::crc32c(&content));
        self.emit(Body::Data { disk, offset, len, codec, crc, payload })
    }

    pub(crate) fn zero(&mut self, disk: u16, offset: u64, len: u64) -> &mut Self {
        let disk = DiskId(disk);
        self.now.get_mut(&disk).unwrap()[offset as usize..(offset + len) as usize].fill(0);
        self.emit(Body::Zero { disk, offset, len })
    }

    pub(crate) fn barrier(&mut self) -> &mut Self {
        self.emit(Body::Barrier { kind: BarrierKind::Crash });
        self.points.push((PointId { epoch: self.epoch, seq: self.seq }, self.now.clone()));
        self
    }

    /// `n` random operations on disks 0 and 1.
    pub(crate) fn random(&mut self, n: usize) -> &mut Self {
        if self.now.is_empty() {
            self.disk(0, DISK).disk(1, DISK / 2);
        }
        for _ in 0..n {
            let disk = self.below(2) as u16;
            let size = self.now[&DiskId(disk)].len() as u64;
            let offset = self.below(size);
            let len = (1 + self.below(1500)).min(size - offset);
            match self.below(20) {
                0..=11 => {
                    let mut content = vec![self.below(256) as u8; len as usize];
                    if self.below(2) == 0 {
                        self.random.fill(&mut content);
                    }
                    self.write(disk, offset, &content);
                }
                12..=13 => {
                    self.zero(disk, offset, len);
                }
                14 => {
                    self.zero(disk, 0, size);
                }
                15 if disk == 1 => {
                    let size = DISK / 4 + self.below(DISK / 2);
                    self.disk(1, size);
                }
                _ => {
                    self.barrier();
                }
            }
        }
        self
    }

    pub(crate) fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.out)
    }

    /// Appends what was made and commits it.
    pub(crate) fn send(&mut self, journal: &mut Journal) {
        journal.append(&self.take()).unwrap();
        assert_eq!(journal.commit().unwrap().seq, self.seq);
    }

    /// Every point from the oldest the journal has must read as the model says.
    pub(crate) fn verify(&self, reader: &JournalReader) {
        let listed = reader.points(&crate::PointQuery { limit: usize::MAX, ..Default::default() });
        let oldest = listed.last().map_or(Seq(u64::MAX), |p| p.id.seq);
        let wanted: Vec<_> = self.points.iter().filter(|(id, _)| id.seq >= oldest).collect();
        assert_eq!(
            wanted.iter().rev().map(|(id, _)| *id).collect::<Vec<_>>(),
            listed.iter().map(|p| p.id).collect::<Vec<_>>()
        );
        for (id, image) in wanted {
            for (disk, content) in image {
                let device = reader.open_point(*id, *disk).unwrap();
                assert!(read_all(&device).unwrap() == *content, "{disk} at {id}");
            }
        }
    }

    /// Points that read at all must read right; tells how many did not read.
    pub(crate) fn never_wrong(&self, reader: &JournalReader) -> usize {
        let mut errors = 0;
        for (id, image) in &self.points {
            for (disk, content) in image {
                match reader.open_point(*id, *disk) {
                    Ok(device) => match read_all(&device) {
                        Ok(got) => assert!(got == *content, "wrong bytes: {disk} at {id}"),
                        Err(_) => errors += 1,
                    },
                    Err(_) => errors += 1,
                }
            }
        }
        errors
    }
}

pub(crate) fn read_all(device: &PointDevice) -> Result<Vec<u8>, lifeboat_block::BlockError> {
    let mut content = vec![0xee; device.size() as usize];
    device.read(0, &mut content)?;
    Ok(content)
}
