use super::*;

fn at(offset: u32) -> FrameAt {
    FrameAt { offset, stored: 10, raw: 200_000, codec_zstd: false }
}

#[test]
fn i3_a_file_that_rots_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let frames = Frames::new(0, Some(Spill::new(dir.path(), 4 << 20).unwrap()));
    let raw: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
    frames.get(1, &at(48), true, || Ok(raw.clone())).unwrap();
    let mut out = [0; 100];
    let chunk = (65_536, 65_536);
    let mut read = |proves: bool| {
        let ok = frames.read_part((1, 48), chunk, 5_000, &mut out, &|c| proves && c == &raw[65_536..131_072]);
        ok.then(|| out.to_vec())
    };
    assert_eq!(read(false), None, "nothing unproven");
    assert_eq!(read(true), None, "and what could not be proven is not kept");
    frames.get(1, &at(48), true, || Ok(raw.clone())).unwrap();
    assert_eq!(read(true).unwrap(), raw[70_536..70_636]);
    assert_eq!(read(false).unwrap(), raw[70_536..70_636], "proven once is enough");
    let spill = frames.spill.as_ref().unwrap();
    spill.file.write_all_at(&[raw[70_600] ^ 1], 70_600).unwrap();
    assert_eq!(read(true), None, "a flipped bit");
    assert!(!frames.read_part((2, 48), chunk, 0, &mut [0; 4], &|_| true), "another frame");
}

#[test]
fn the_file_stays_within_its_bound_and_keeps_what_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let frames = Frames::new(0, Some(Spill::new(dir.path(), 4 << 20).unwrap()));
    let has = |n: u32| frames.read_part((n, 48), (0, 10), 0, &mut [0; 4], &|_| true);
    for n in 0..10 {
        frames.get(n, &at(48), true, || Ok(vec![n as u8; 1000])).unwrap();
        assert!(has(0), "used at every step");
    }
    assert_eq!((0..10).filter(|n| has(*n)).count(), 4);
    assert!(frames.spill.as_ref().unwrap().file.metadata().unwrap().len() <= 4 << 20);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file stays");
    frames.clear();
    assert_eq!((0..10).filter(|n| has(*n)).count(), 0);
}

#[test]
fn many_who_ask_at_once_decode_once() {
    let frames = Frames::new(1 << 20, None);
    let decoded = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let got = frames.get(1, &at(48), true, || {
                    decoded.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    Ok(vec![7; 100])
                });
                assert_eq!(got.unwrap().len(), 100);
            });
        }
    });
    assert_eq!(decoded.into_inner(), 1);
    let failed = frames.get(2, &at(48), true, || Err(VaultError::Cancelled));
    assert!(failed.is_err() && frames.get(2, &at(48), true, || Ok(vec![1])).is_ok(), "a failure is not kept");
}

#[test]
fn i3_frames_that_are_put_at_once_never_stand_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    // Two places for twelve frames, whose chunks are at equal offsets.
    let frames = Frames::new(0, Some(Spill::new(dir.path(), 2 << 20).unwrap()));
    std::thread::scope(|scope| {
        for t in 0..4u32 {
            let frames = &frames;
            scope.spawn(move || {
                for round in 0..3_000u32 {
                    let n = (round * 7 + t * 5) % 12;
                    let content = vec![n as u8; 8192];
                    frames.get(n, &at(48), true, || Ok(content.clone())).unwrap();
                    let mut out = [255; 100];
                    if frames.read_part((n, 48), (0, 8192), 4000, &mut out, &|c| c == content) {
                        assert_eq!(out, [n as u8; 100]);
                    }
                    if round % 1000 == 999 {
                        frames.clear();
                    }
                }
            });
        }
    });
}
