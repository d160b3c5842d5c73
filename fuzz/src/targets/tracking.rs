//! The agent's write-intent log after anything at all happened to it.
//!
//! Input: mode u8, then the file. With bit 0 of the mode the checksums of its pages and headers are made right again.
//! As long as they are not, the region that is marked in every seed is among the suspects (I2).

use lifeboat_agent::tracking::{TrackSpec, Tracking};
use lifeboat_base::{DiskId, Epoch, SeededEntropy, Seq, ServerId};
use lifeboat_block::storage::{MemoryStorage, Storage, write_all};
use lifeboat_replicate::sender::{Settle, Suspects};
use std::sync::Arc;

const PAGE: usize = 4096;
const SERVER: [u8; 16] = [7; 16];

fn spec() -> TrackSpec {
    let server = ServerId::from_slice(&SERVER).unwrap();
    TrackSpec { server, epoch: Epoch(1), sizes: vec![1 << 30, 100 << 20], intents: true }
}

fn name() -> String {
    format!("{}.track", ServerId::from_slice(&SERVER).unwrap())
}

/// The log at several moments; a write to the start of the first disk is under way in all of them.
pub fn seeds() -> Vec<Vec<u8>> {
    let storage = MemoryStorage::new();
    let file = |mode| [&[mode][..], &storage.bytes(&name()).unwrap()].concat();
    let (log, _) = Tracking::open(&storage, &spec(), &SeededEntropy::new(1)).unwrap();
    log.settle(7, Settle::SuspectAll).unwrap();
    let intent = log.intend(DiskId(0), 0, 1);
    let mut all = vec![file(0)];
    for seq in 1..6 {
        log.rotate(Seq(seq), seq > 3, |_, _, _| false).unwrap();
    }
    all.extend([file(0), file(1)]);
    drop(log.intend(DiskId(1), 5 << 20, 1 << 20));
    log.arm(true).unwrap();
    all.extend([file(0), file(1)]);
    drop(intent);
    all
}

fn repair(file: &mut [u8]) {
    for (n, page) in file.chunks_exact_mut(PAGE).enumerate() {
        if n >= 2 {
            let crc = crc32c::crc32c(&page[4..]);
            page[..4].copy_from_slice(&crc.to_le_bytes());
            continue;
        }
        let len = u32::from_le_bytes(page[12..16].try_into().unwrap()) as usize;
        if let Some(body) = page.get(16..16 + len) {
            let crc = crc32c::crc32c(body);
            page[8..12].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Opens it, and goes on with it as the next process would.
pub fn log(data: &[u8]) {
    let Some((mode, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    if mode & 1 != 0 {
        repair(&mut file);
    }
    let storage = MemoryStorage::new();
    write_all(&*storage.create(&name()).unwrap(), &file, 0).unwrap();
    let Ok((log, found)) = Tracking::open(&storage, &spec(), &SeededEntropy::new(2)) else { return };
    if let Suspects::Only { ranges, .. } = &found.suspects {
        let inside = |disk: &DiskId, at: u64, len: u64| {
            spec()
                .sizes
                .get(usize::from(disk.0))
                .is_some_and(|size| at.checked_add(len).is_some_and(|e| e <= *size))
        };
        assert!(ranges.iter().all(|(disk, at, len)| inside(disk, *at, *len)), "{ranges:?}");
        let held = ranges.iter().any(|(disk, at, len)| *disk == DiskId(0) && *at == 0 && *len > 0);
        assert!(held || mode & 1 != 0, "a marked region looks clean");
    }
    let what = if found.suspects == Suspects::All { Settle::SuspectAll } else { Settle::Adopt };
    if log.settle(8, what).is_ok() {
        drop(Arc::clone(&log).intend(DiskId(1), 99 << 20, 1 << 20));
        let _ = log.rotate(Seq(9), true, |_, _, _| false);
    }
}
