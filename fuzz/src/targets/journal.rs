//! A journal's directory after anything at all happened to its files.
//!
//! ```text
//! input: mode u8 | then per file: name length u8 | name | length u32 | content
//! mode:  bit 0  checksums of segments are made right again, as a forger without the key would
//!        bit 1  those of the manifest too, with the key
//!        bit 2  those of the indexes too, with the key
//! ```
//! As long as nothing is forged with the key, what opens as a point is what that point was (I3).

use lifeboat_base::{DiskId, Entropy, Epoch, ManualClock, PointId, PointSpec, SeededEntropy, Seq, WallTime};
use lifeboat_block::codec::Encoder;
use lifeboat_block::storage::{MemoryStorage, Storage, write_all};
use lifeboat_block::{BarrierKind, BlockDevice, Body, Record};
use lifeboat_journal::{Journal, JournalConfig, JournalKey, JournalReader, PointQuery};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const DISK: u64 = 16 << 10;
/// Bytes of a segment's header, and where its checksum is.
const SEGMENT_HEADER: usize = 128;
const SEGMENT_CRC: usize = 12;
/// The same of a record; its payload's length is at 12, the tag after it has 16 bytes.
const RECORD_HEADER: usize = 64;
const RECORD_CRC: usize = 8;
const TAG: usize = 16;

type Images = BTreeMap<PointId, Vec<u8>>;

/// The files of a journal, as an input.
pub struct Files(pub Vec<(String, Vec<u8>)>);

impl Files {
    fn parse(mut data: &[u8]) -> Self {
        let mut files = Vec::new();
        while let Some((len, rest)) = data.split_first() {
            let Some((name, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
            let Some((len, rest)) = rest.split_at_checked(4) else { break };
            let len = (u32::from_le_bytes(len.try_into().unwrap()) as usize).min(rest.len());
            files.push((String::from_utf8_lossy(name).into_owned(), rest[..len].to_vec()));
            data = &rest[len..];
        }
        Self(files)
    }

    fn of(storage: &MemoryStorage) -> Self {
        Self(storage.list().unwrap().into_iter().map(|n| (n.clone(), storage.bytes(&n).unwrap())).collect())
    }

    pub fn build(&self, mode: u8) -> Vec<u8> {
        let mut out = vec![mode];
        for (name, content) in &self.0 {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&(content.len() as u32).to_le_bytes());
            out.extend_from_slice(content);
        }
        out
    }

    fn repair(&mut self, mode: u8) {
        let key = blake3::derive_key("lifeboat journal 1 manifest and index", &KEY);
        for (name, content) in &mut self.0 {
            if name.ends_with(".seg") && mode & 1 != 0 {
                repair_segment(content);
            } else if name.starts_with("manifest") && mode & 2 != 0 {
                if let Some(at) = content.len().checked_sub(36) {
                    let mac = blake3::keyed_hash(&key, &content[..at]);
                    content[at..at + 32].copy_from_slice(mac.as_bytes());
                    let crc = crc32c::crc32c(&content[..at + 32]);
                    content[at + 32..].copy_from_slice(&crc.to_le_bytes());
                }
            } else if name.ends_with(".idx") && mode & 4 != 0 {
                repair_index(&key, content);
            }
        }
    }
}

fn number(b: &[u8], at: usize) -> usize {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap()) as usize
}

fn repair_segment(b: &mut [u8]) {
    if b.len() < SEGMENT_HEADER {
        return;
    }
    b[SEGMENT_CRC..SEGMENT_CRC + 4].fill(0);
    let crc = crc32c::crc32c(&b[..SEGMENT_HEADER]);
    b[SEGMENT_CRC..SEGMENT_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    let mut at = SEGMENT_HEADER;
    while at + RECORD_HEADER <= b.len() {
        let end = at + RECORD_HEADER + TAG + number(b, at + 12);
        let Some(record) = b.get_mut(at..end) else { break };
        record[RECORD_CRC..RECORD_CRC + 4].fill(0);
        let crc = crc32c::crc32c(record);
        record[RECORD_CRC..RECORD_CRC + 4].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}

fn repair_index(key: &[u8; 32], b: &mut [u8]) {
    if b.len() < 80 {
        return;
    }
    let head = 80usize.saturating_add(number(b, 60) * 48).saturating_add(number(b, 64) * 24);
    let Some(end) = b.len().checked_sub(32).filter(|end| head + 32 <= *end) else { return };
    let first = *blake3::keyed_hash(key, &b[..head]).as_bytes();
    b[head..head + 32].copy_from_slice(&first);
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&first).update(&b[head + 32..end]);
    b[end..].copy_from_slice(hasher.finalize().as_bytes());
}

const KEY: [u8; 32] = [7; 32];

/// `seed` keeps the names of new segments apart, as real randomness does.
fn open_on(storage: &MemoryStorage, seed: u64) -> Option<Journal> {
    let config = JournalConfig {
        segment_bytes: 4096,
        segment_records: 1000,
        window: Duration::from_secs(3600),
        window_bytes: 1 << 40,
    };
    let (clock, entropy) = (Arc::<ManualClock>::default(), Arc::new(SeededEntropy::new(seed)));
    Journal::open_on(Arc::new(storage.clone()), &JournalKey(KEY), config, clock, entropy).ok().map(|(j, _)| j)
}

/// One journal at several moments of its life, and what each point must read as.
pub fn story() -> &'static (Vec<Files>, Images) {
    static STORY: OnceLock<(Vec<Files>, Images)> = OnceLock::new();
    STORY.get_or_init(|| {
        let storage = MemoryStorage::new();
        let mut journal = open_on(&storage, 1).unwrap();
        journal.set_epoch(Epoch(1)).unwrap();
        let random = SeededEntropy::new(3);
        let (mut files, mut images, mut now) = (Vec::new(), Images::new(), vec![0; DISK as usize]);
        let (mut encoder, mut seq) = (Encoder::default(), Seq::ZERO);
        let mut send = |journal: &mut Journal, body: Body| {
            seq = seq.next();
            let time = WallTime(1_000_000_000 * seq.0);
            journal.append(&[Record { epoch: Epoch(1), seq, time, body }]).unwrap();
            seq
        };
        send(&mut journal, Body::Disk { disk: DiskId(0), size: DISK });
        for round in 0..5 {
            for _ in 0..3 {
                let offset = random.next_u64() % (DISK - 1024);
                let mut content = vec![random.next_u64() as u8; 1 + (random.next_u64() % 1000) as usize];
                if random.next_u64().is_multiple_of(2) {
                    random.fill(&mut content);
                }
                now[offset as usize..offset as usize + content.len()].copy_from_slice(&content);
                let content = bytes::Bytes::from(content);
                let (codec, payload) = encoder.encode(&content);
                let (len, crc) = (content.len() as u32, crc32c::crc32c(&content));
                send(&mut journal, Body::Data { disk: DiskId(0), offset, len, codec, crc, payload });
            }
            send(&mut journal, Body::Zero { disk: DiskId(0), offset: 512 * round, len: 700 });
            now[512 * round as usize..512 * round as usize + 700].fill(0);
            let at = send(&mut journal, Body::Barrier { kind: BarrierKind::Crash });
            images.insert(PointId { epoch: Epoch(1), seq: at }, now.clone());
            journal.commit().unwrap();
            files.push(Files::of(&storage));
        }
        (files, images)
    })
}

/// Opens whatever is there, reads all of it, checks it, writes on.
pub fn open(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut files = Files::parse(rest);
    files.repair(*mode);
    let storage = MemoryStorage::new();
    for (name, content) in &files.0 {
        if let Ok(file) = storage.create(name) {
            write_all(&*file, content, 0).unwrap();
        }
    }
    let Some(mut journal) = open_on(&storage, 2) else { return };
    let reader = journal.reader();
    let images = (mode & 6 == 0).then(|| &story().1);
    look(&reader, images);
    for full in [false, true] {
        let _ = reader.check(full);
    }
    let _ = journal.keeper().plan_trim();
    // It is written on where it can be, and what is acknowledged then is there at the next opening.
    let next = Record {
        epoch: journal.epoch(),
        seq: journal.last_seq().next(),
        time: WallTime(1),
        body: Body::Barrier { kind: BarrierKind::Crash },
    };
    if journal.last_seq().0 < u64::MAX / 2 && journal.append(&[next]).is_ok() && journal.commit().is_ok() {
        let durable = journal.durable_seq();
        drop((journal, reader));
        let again = open_on(&storage.after_power_loss(), 3).expect("what was written on opens");
        assert!(again.durable_seq() >= durable, "acknowledged and gone");
    }
}

fn look(reader: &JournalReader, images: Option<&Images>) {
    let _ = (reader.usage(), reader.disks(), reader.resolve(&PointSpec::Latest));
    let points = reader.points(&PointQuery { limit: 8, ..PointQuery::default() });
    for id in points.iter().map(|p| p.id) {
        for disk in reader.disks_at(id).into_iter().flatten().take(2) {
            let Ok(device) = reader.open_point(id, disk.disk) else { continue };
            let mut content = vec![0; device.size().min(DISK) as usize];
            if device.read(0, &mut content).is_err() {
                continue;
            }
            if let Some(images) = images {
                assert!(
                    images.get(&id).is_some_and(|image| *image == content),
                    "wrong bytes at {id} of {}",
                    disk.disk
                );
            }
        }
    }
}
