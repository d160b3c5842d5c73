//! Client and server together against a plain array, under random operations.
#![allow(clippy::unwrap_used)]

use lifeboat_base::SystemClock;
use lifeboat_block::{BlockDevice, ExtentKind, MemoryDevice, ZeroMode};
use lifeboat_nbd::{Client, ClientSettings, Exports, Server, ServerSettings};
use proptest::prelude::*;
use std::sync::Arc;

const SIZE: usize = 3 << 20;

#[derive(Debug, Clone)]
enum Op {
    Write(usize, usize, u8),
    WriteMany(Vec<(usize, usize, u8)>),
    Zero(usize, usize, bool),
    Read(usize, usize),
    ReadMany(Vec<(usize, usize)>),
    Status(usize, usize),
    Flush,
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    let len =
        prop_oneof![1usize..2000, Just(4096), 60_000usize..70_000, 200_000usize..300_000, Just(1_500_000)];
    (0..SIZE, len, any::<bool>()).prop_map(|(at, len, aligned)| {
        let at = if aligned { at & !4095 } else { at };
        (at, len.min(SIZE - at))
    })
}

fn op() -> impl Strategy<Value = Op> {
    let write = || (range(), 1u8..).prop_map(|((at, len), seed)| (at, len, seed));
    prop_oneof![
        4 => write().prop_map(|(at, len, seed)| Op::Write(at, len, seed)),
        // Its writes must not overlap: one slot each.
        1 => prop::collection::vec((0usize..30, 1usize..100_000, 1u8..), 1..30).prop_map(|v| {
            let mut slots = v;
            slots.sort_unstable();
            slots.dedup_by_key(|s| s.0);
            Op::WriteMany(slots.into_iter().map(|(slot, len, seed)| (slot * 100_000, len, seed)).collect())
        }),
        2 => (range(), any::<bool>()).prop_map(|((at, len), keep)| Op::Zero(at, len, keep)),
        3 => range().prop_map(|(at, len)| Op::Read(at, len)),
        1 => prop::collection::vec(range(), 0..40).prop_map(Op::ReadMany),
        1 => range().prop_map(|(at, len)| Op::Status(at, len)),
        1 => Just(Op::Flush),
    ]
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

fn apply(op: Op, client: &Client, model: &mut [u8]) {
    match op {
        Op::Write(at, len, seed) => {
            let data = content(len, seed);
            model[at..at + len].copy_from_slice(&data);
            client.write(at as u64, data.into()).unwrap();
        }
        Op::WriteMany(writes) => {
            let mut all = Vec::new();
            for (at, len, seed) in writes {
                let data = content(len, seed);
                model[at..at + len].copy_from_slice(&data);
                all.push((at as u64, data.into()));
            }
            client.write_many(&all).unwrap();
        }
        Op::Zero(at, len, keep) => {
            model[at..at + len].fill(0);
            let mode = if keep { ZeroMode::Allocate } else { ZeroMode::MayPunch };
            client.write_zeroes(at as u64, len as u64, mode).unwrap();
        }
        Op::Read(at, len) => {
            let mut buf = vec![0xEE; len];
            client.read(at as u64, &mut buf).unwrap();
            assert!(buf == model[at..at + len]);
        }
        Op::ReadMany(ranges) => {
            let asked: Vec<_> = ranges.iter().map(|&(at, len)| (at as u64, len)).collect();
            for (part, (at, len)) in client.read_many(&asked).unwrap().iter().zip(ranges) {
                assert!(part[..] == model[at..at + len]);
            }
        }
        Op::Status(at, len) => {
            let mut from = at;
            for run in client.block_status(at as u64, len as u64).unwrap() {
                let to = from + run.len as usize;
                assert!(run.kind == ExtentKind::Data || model[from..to].iter().all(|b| *b == 0));
                from = to;
            }
            assert!(len == 0 || from > at && from <= at + len);
        }
        Op::Flush => client.flush().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_remote_disk_is_an_array_of_bytes(ops in prop::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nbd");
        let device = Arc::new(MemoryDevice::new(SIZE as u64));
        let exports = Exports::single(Arc::clone(&device) as Arc<dyn BlockDevice>);
        let server = Server::listen_unix(&path, exports, ServerSettings::default(), Arc::new(SystemClock)).unwrap();
        let client = Client::connect_unix(&path, "", &ClientSettings::default()).unwrap();
        let mut model = vec![0; SIZE];
        for op in ops {
            apply(op, &client, &mut model);
        }
        let mut all = vec![0; SIZE];
        device.read(0, &mut all).unwrap();
        assert!(all == model, "the device differs from the array");
        client.disconnect();
        drop(server);
    }
}
