#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const SPACE: u64 = 200;

#[derive(Debug, Clone)]
enum Op {
    Insert(u64, u64),
    Remove(u64, u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = (0..SPACE, 0..60u64).prop_map(|(at, len)| (at, len.min(SPACE - at)));
    prop::collection::vec(
        (range, prop::bool::weighted(0.7))
            .prop_map(|((at, len), insert)| if insert { Op::Insert(at, len) } else { Op::Remove(at, len) }),
        0..60,
    )
}

/// A value that names its own bytes: insert number and place within it.
fn value(op: usize) -> u64 {
    op as u64 * 1000
}

fn model(ops: &[Op]) -> Vec<Option<u64>> {
    let mut bytes = vec![None; SPACE as usize];
    for (n, op) in ops.iter().enumerate() {
        match op {
            Op::Insert(at, len) => {
                for i in 0..*len {
                    bytes[(at + i) as usize] = Some(value(n) + i);
                }
            }
            Op::Remove(at, len) => bytes[*at as usize..(at + len) as usize].fill(None),
        }
    }
    bytes
}

fn spread(runs: impl Iterator<Item = Run<u64>>, from: u64) -> Vec<Option<u64>> {
    let mut out = Vec::new();
    for run in runs {
        assert_eq!(run.offset, from + out.len() as u64, "runs must touch");
        assert!(run.len > 0);
        out.extend((0..run.len).map(|i| run.value.map(|v| v + i)));
    }
    out
}

proptest! {
    #[test]
    fn map_equals_byte_array(ops in ops(), from in 0..SPACE, len in 0..SPACE) {
        let mut map = ExtentMap::new();
        for (n, op) in ops.iter().enumerate() {
            match op {
                Op::Insert(at, len) => map.insert(*at, *len, value(n)),
                Op::Remove(at, len) => map.remove(*at, *len),
            }
        }
        let want = model(&ops);
        let len = len.min(SPACE - from);
        prop_assert_eq!(spread(map.iter_range(0, SPACE), 0), want.clone());
        prop_assert_eq!(
            spread(map.iter_range(from, len), from),
            want[from as usize..(from + len) as usize].to_vec()
        );
        prop_assert_eq!(map.covered(), want.iter().flatten().count() as u64);
        let extents: Vec<_> = map.iter().collect();
        prop_assert!(extents.iter().zip(extents.iter().skip(1)).all(|(a, b)| a.0 + a.1 <= b.0));
        prop_assert_eq!(extents.len(), map.len());
    }

    #[test]
    fn table_equals_byte_array(ops in ops(), from in 0..SPACE, len in 0..SPACE) {
        // Removes are inserts whose value is not kept.
        let history = ops
            .iter()
            .enumerate()
            .map(|(n, op)| match op {
                Op::Insert(at, len) => HistoryItem { offset: *at, len: *len, value: value(n) },
                Op::Remove(at, len) => HistoryItem { offset: *at, len: *len, value: u64::MAX / 2 },
            })
            .collect::<Vec<_>>();
        let table = ExtentTable::build(&history, |v| *v < u64::MAX / 2);
        let want = model(&ops);
        let len = len.min(SPACE - from);
        prop_assert_eq!(spread(table.iter_range(0, SPACE), 0), want.clone());
        prop_assert_eq!(
            spread(table.iter_range(from, len), from),
            want[from as usize..(from + len) as usize].to_vec()
        );
        let inserts: Vec<_> = ops.iter().filter(|o| matches!(o, Op::Insert(..))).cloned().collect();
        let history: Vec<_> = inserts
            .iter()
            .enumerate()
            .map(|(n, op)| match op {
                Op::Insert(at, len) | Op::Remove(at, len) => HistoryItem { offset: *at, len: *len, value: value(n) },
            })
            .collect();
        prop_assert_eq!(spread(ExtentMap::from_history(&history).iter_range(0, SPACE), 0), model(&inserts));
    }
}

#[test]
fn ranges_at_the_end_of_the_address_space_do_not_overflow() {
    let mut map = ExtentMap::new();
    map.insert(u64::MAX - 10, 100, 0u64);
    map.remove(u64::MAX - 5, u64::MAX);
    assert_eq!(map.iter().map(|(at, len, _)| (at, len)).collect::<Vec<_>>(), [(u64::MAX - 10, 5)]);
    map.insert(5, 0, 7);
    assert_eq!(map.len(), 1);
    assert_eq!(map.iter_range(u64::MAX, 9).count(), 0);
}

#[test]
fn a_long_extent_becomes_several_slots_that_read_as_one() {
    let table = ExtentTable::build(&[HistoryItem { offset: 10, len: 5 << 31, value: 0u64 }], |_| true);
    assert_eq!(table.len(), 5);
    let run = table.iter_range(10 + (3 << 31) + 77, 1).next().unwrap();
    assert_eq!(run.value, Some((3 << 31) + 77));
}

#[test]
fn pieces_advance() {
    let bytes = bytes::Bytes::from_static(b"0123456789");
    assert_eq!(Piece::advance(&bytes, 4), &b"456789"[..]);
    assert!(Piece::advance(&bytes, 99).is_empty());
    let mut map = ExtentMap::new();
    map.insert(100, 10, bytes);
    map.insert(103, 2, bytes::Bytes::from_static(b"xy"));
    let got: Vec<u8> =
        map.iter_range(100, 10).flat_map(|r| r.value.unwrap().slice(..r.len as usize)).collect();
    assert_eq!(got, b"012xy56789");
}
