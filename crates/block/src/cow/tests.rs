#![allow(clippy::unwrap_used)]

use super::*;
use crate::fault::{Call, Failure, Fault, FaultDevice};
use crate::{FileDevice, MemoryDevice};
use proptest::prelude::*;

/// Not a multiple of the unit, so that the last one is short.
const SIZE: u64 = 10 * UNIT + 512;

fn base() -> Arc<dyn BlockDevice> {
    let base = MemoryDevice::new(SIZE);
    let content: Vec<u8> = (0..5 * UNIT).map(|i| (i % 251) as u8).collect();
    base.write(UNIT, content.into()).unwrap();
    base.write(10 * UNIT, vec![9; 512].into()).unwrap();
    Arc::new(base)
}

fn all(d: &dyn BlockDevice) -> Vec<u8> {
    let mut out = vec![0; d.size() as usize];
    d.read(0, &mut out).unwrap();
    out
}

fn check_status(d: &dyn BlockDevice) {
    let content = all(d);
    let mut at = 0u64;
    while at < d.size() {
        let runs = d.status(at, d.size() - at).unwrap();
        assert!(!runs.is_empty());
        for run in runs {
            let bytes = &content[at as usize..(at + run.len) as usize];
            assert!(
                run.kind == ExtentKind::Data || bytes.iter().all(|b| *b == 0),
                "zeros told where data is"
            );
            at += run.len;
        }
    }
    assert_eq!(at, d.size());
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let aligned = (0..11u64, 0..3u64).prop_map(|(at, n)| (at * UNIT, n * UNIT));
    let odd = (0..SIZE, 0..3 * UNIT);
    let range = prop_oneof![aligned, odd].prop_map(|(at, len)| (at, len.min(SIZE.saturating_sub(at))));
    let op = prop_oneof![
        4 => (range.clone(), 1..=255u8).prop_map(|((at, len), fill)| Op::Write(at.min(SIZE), len, fill)),
        2 => range.prop_map(|(at, len)| Op::Zero(at.min(SIZE), len)),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn overlay_equals_a_plain_copy(ops in ops(), on_files: bool) {
        let dir = tempfile::tempdir().unwrap();
        let device = |name: &str, size| -> Arc<dyn BlockDevice> {
            if on_files {
                Arc::new(FileDevice::create(&dir.path().join(name), size).unwrap())
            } else {
                Arc::new(MemoryDevice::new(size))
            }
        };
        let (base, upper, saved) = (base(), device("upper", SIZE), device("marks", CowOverlay::marks_size(SIZE)));
        let mut want = all(&*base);
        let untouched = want.clone();
        let mut overlay = CowOverlay::persistent(base.clone(), upper.clone(), saved.clone()).unwrap();
        for op in ops {
            match op {
                Op::Write(at, len, fill) => {
                    want[at as usize..(at + len) as usize].fill(fill);
                    overlay.write(at, vec![fill; len as usize].into()).unwrap();
                }
                Op::Zero(at, len) => {
                    want[at as usize..(at + len) as usize].fill(0);
                    overlay.trim(at, len).unwrap();
                }
                Op::Reopen => {
                    overlay = CowOverlay::persistent(base.clone(), upper.clone(), saved.clone()).unwrap();
                }
            }
            prop_assert!(all(&overlay) == want);
            check_status(&overlay);
        }
        prop_assert!(all(&*base) == untouched, "the base was written");
        prop_assert!(overlay.written() <= SIZE);
    }
}

#[test]
fn partial_writes_of_one_unit_from_many_threads_all_stay() {
    let overlay = CowOverlay::new(base(), Arc::new(MemoryDevice::new(SIZE))).unwrap();
    let mut want = all(&overlay);
    for (i, b) in want[..8 * UNIT as usize].iter_mut().enumerate() {
        *b = (i / 64 % 8) as u8 + 1;
    }
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            let overlay = &overlay;
            scope.spawn(move || {
                for at in (0..8 * UNIT).step_by(64).filter(|at| at / 64 % 8 == t) {
                    overlay.write(at, vec![t as u8 + 1; 64].into()).unwrap();
                    let mut back = [0; 64];
                    overlay.read(at, &mut back).unwrap();
                    assert!(back.iter().all(|b| *b == t as u8 + 1));
                }
            });
        }
    });
    assert!(all(&overlay) == want);
}

#[test]
fn a_failed_write_leaves_the_old_bytes() {
    let upper = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(SIZE))));
    let overlay = CowOverlay::new(base(), upper.clone()).unwrap();
    let before = all(&overlay);
    upper.fail(Fault { call: Some(Call::Write), nth: 1, forever: true, failure: Failure::NoSpace });
    assert!(matches!(overlay.write(2 * UNIT, vec![1; 4096].into()), Err(BlockError::NoSpace)));
    assert!(matches!(overlay.write(3 * UNIT + 5, vec![1; 5].into()), Err(BlockError::NoSpace)));
    assert!(all(&overlay) == before);
    assert_eq!(overlay.written(), 0);
}

#[test]
fn ranges_and_sizes_are_checked() {
    let overlay = CowOverlay::new(base(), Arc::new(MemoryDevice::new(SIZE))).unwrap();
    assert!(matches!(overlay.write(SIZE, vec![1].into()), Err(BlockError::OutOfRange { .. })));
    assert!(matches!(overlay.trim(u64::MAX, 2), Err(BlockError::OutOfRange { .. })));
    assert!(matches!(overlay.read(SIZE - 1, &mut [0; 2]), Err(BlockError::OutOfRange { .. })));
    overlay.write(SIZE, Bytes::new()).unwrap();
    assert!(CowOverlay::new(base(), Arc::new(MemoryDevice::new(SIZE - 1))).is_err());
}

#[test]
fn a_big_empty_disk_takes_little_memory_until_written() {
    let size = 1 << 40;
    let overlay =
        CowOverlay::new(Arc::new(MemoryDevice::new(size)), Arc::new(MemoryDevice::new(size))).unwrap();
    overlay.write(size - 4096, vec![5; 4096].into()).unwrap();
    assert_eq!(overlay.marks.pages.iter().filter(|p| p.get().is_some()).count(), 1);
    let runs = overlay.status(0, size).unwrap();
    assert_eq!(runs.iter().map(|r| r.len).sum::<u64>(), size);
    assert_eq!(runs.last(), Some(&Extent { len: 4096, kind: ExtentKind::Data }));
}
