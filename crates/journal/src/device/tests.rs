#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{DISK, Rig, Source, read_all};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn status_tells_holes_from_data_and_writes_are_refused() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    source.disk(0, DISK).write(0, 4096, &[1; 1000]).write(0, 5096, &[2; 100]).zero(0, 4200, 50).barrier();
    source.send(&mut journal);
    let d = journal.reader().open_point(source.points[0].0, DiskId(0)).unwrap();
    let kinds: Vec<_> =
        d.status(0, DISK).unwrap().iter().map(|e| (e.len, e.kind == ExtentKind::Data)).collect();
    assert_eq!(kinds, [(4096, false), (104, true), (50, false), (946, true), (DISK - 5196, false)]);
    assert!(d.has_data(4000, 97) && !d.has_data(0, 4096) && !d.has_data(4200, 50));
    assert!(d.read_only());
    assert!(matches!(d.write(0, Bytes::from_static(b"x")), Err(BlockError::ReadOnly)));
    assert!(matches!(d.trim(0, 1), Err(BlockError::ReadOnly)));
    assert!(matches!(d.read(DISK, &mut [0]), Err(BlockError::OutOfRange { .. })));
    d.flush().unwrap();
    assert!(matches!(
        journal.reader().open_point(source.points[0].0, DiskId(5)),
        Err(PointError::UnknownDisk { disk: DiskId(5) })
    ));
}

#[test]
fn a_disk_that_shrank_and_grew_is_empty_at_its_end() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    source.disk(0, DISK).write(0, 0, &[3; 16384]).barrier().disk(0, 100).barrier().disk(0, DISK).barrier();
    source.send(&mut journal);
    source.verify(&journal.reader());
}

#[test]
fn a_damaged_record_is_named() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(1);
    source.disk(0, DISK).write(0, 512, b"precious").barrier().send(&mut journal);
    let name = rig.names(".seg").remove(0);
    let d = journal.reader().open_point(source.points[0].0, DiskId(0)).unwrap();
    rig.storage.tamper(&name, |b| b[128 + 80 + 64] ^= 1);
    let e = d.read(0, &mut [0; 1024]).unwrap_err();
    assert!(matches!(e, BlockError::Corrupt(_)));
    let text = e.to_string();
    assert!(text.contains(&name) && text.contains("disk0 offset 512"), "{text}");
    d.read(0, &mut [0; 512]).unwrap();
}

#[test]
fn the_cache_stays_within_its_bound() {
    let mut cache = Cache::default();
    let half = Bytes::from(vec![0; CACHE / 2]);
    cache.put((0, 0), half.clone());
    cache.put((0, 1), half.clone());
    assert!(cache.get((0, 0)).is_some());
    cache.put((0, 2), half.clone());
    assert!(cache.get((0, 1)).is_none(), "the one not used for longest goes");
    assert!(cache.get((0, 0)).is_some() && cache.get((0, 2)).is_some());
    cache.put((0, 2), half);
    assert!(cache.bytes <= CACHE && cache.map.len() == cache.order.len());
}

#[test]
fn readers_see_whole_points_while_the_writer_writes() {
    let rig = Rig::new();
    let mut journal = rig.open();
    // Every point has all bytes alike.
    let mut source = Source::new(1);
    source.disk(0, DISK).barrier().send(&mut journal);
    let reader = journal.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (reader, done) = (reader.clone(), &done);
            scope.spawn(move || {
                let mut newest = Seq::ZERO;
                while !done.load(Ordering::Acquire) {
                    let point = reader.resolve(&lifeboat_base::PointSpec::Latest).unwrap().id;
                    assert!(point.seq >= newest);
                    newest = point.seq;
                    match reader.open_point(point, DiskId(0)) {
                        Ok(d) => {
                            let content = read_all(&d).unwrap();
                            assert!(content.iter().all(|b| *b == content[0]), "a torn point");
                        }
                        Err(PointError::BeforeWindow { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
        let keeper = journal.keeper();
        for n in 0..150u64 {
            for part in 0..4 {
                source.write(0, part * DISK / 4, &[n as u8; DISK as usize / 4]);
            }
            source.barrier().send(&mut journal);
            rig.clock.advance(std::time::Duration::from_secs(300));
            if n % 10 == 9 {
                keeper.trim(&keeper.plan_trim().unwrap()).unwrap();
            }
        }
        done.store(true, Ordering::Release);
    });
    source.verify(&reader);
    assert!(reader.usage().points < 20, "the window is an hour");
}

#[test]
fn a_mount_outlives_the_trimming_of_its_point() {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(9);
    source.random(40).barrier().send(&mut journal);
    let (id, image) = source.points.last().unwrap().clone();
    let mounted = journal.reader().open_point(id, DiskId(0)).unwrap();
    let before = rig.names(".seg").len();
    for _ in 0..30 {
        rig.clock.advance(std::time::Duration::from_secs(600));
        source.random(20).barrier().send(&mut journal);
    }
    let keeper = journal.keeper();
    let report = keeper.trim(&keeper.plan_trim().unwrap()).unwrap();
    assert!(report.segments_folded >= before, "{report:?}");
    assert!(matches!(journal.reader().open_point(id, DiskId(0)), Err(PointError::BeforeWindow { .. })));
    assert!(read_all(&mounted).unwrap() == image[&DiskId(0)]);
    let pinned = rig.names(".seg").len();
    drop(mounted);
    assert!(rig.names(".seg").len() < pinned, "the files go with their last reader");
    source.verify(&journal.reader());
}
