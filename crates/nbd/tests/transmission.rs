//! The server's transmission phase against a peer that speaks raw bytes, well and badly.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, Reply, Rig, SIZE, TestDevice, eventually, request};
use lifeboat_block::BlockDevice;
use lifeboat_nbd::proto::transmission::{Request, parse_block_status, parse_error};
use lifeboat_nbd::proto::{Errno, chunk, command, command_flags};
use lifeboat_nbd::{ServerSettings, Stuck};
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

const MAX: u32 = u32::MAX;

/// Requests no server should do, with the error each gets. None of them carries data.
fn malformed() -> Vec<(Request, Errno)> {
    use command::{BLOCK_STATUS, CACHE, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};
    let r = |command, flags, offset, len| request(command, flags, 1, offset, len);
    vec![
        (r(READ, 0, 0, 0), Errno::Invalid),
        (r(READ, 0, 0, MAX), Errno::Invalid),
        (r(READ, 0, 0, (32 << 20) + 1), Errno::Invalid),
        (r(READ, 0, SIZE, 1), Errno::Invalid),
        (r(READ, 0, SIZE - 1, 2), Errno::Invalid),
        (r(READ, 0, u64::MAX, 1), Errno::Invalid),
        (r(READ, 0, u64::MAX - 511, 512), Errno::Invalid),
        (r(READ, command_flags::DF, 0, 512), Errno::Invalid),
        (r(READ, 0x8000, 0, 512), Errno::Invalid),
        (r(WRITE, 0, 0, 0), Errno::Invalid),
        (r(FLUSH, 0, 0, 512), Errno::Invalid),
        (r(FLUSH, 0, 512, 0), Errno::Invalid),
        (r(FLUSH, command_flags::NO_HOLE, 0, 0), Errno::Invalid),
        (r(TRIM, 0, 0, 0), Errno::Invalid),
        (r(TRIM, 0, 0, MAX), Errno::Invalid),
        (r(TRIM, 0, u64::MAX, MAX), Errno::Invalid),
        (r(WRITE_ZEROES, 0, 0, MAX), Errno::NoSpace),
        (r(WRITE_ZEROES, 0, u64::MAX, 1), Errno::NoSpace),
        (r(WRITE_ZEROES, command_flags::FAST_ZERO, 0, 512), Errno::NotSupported),
        (r(WRITE_ZEROES, command_flags::DF, 0, 512), Errno::Invalid),
        (r(CACHE, 0, SIZE, 1), Errno::Invalid),
        (r(BLOCK_STATUS, 0, 0, 512), Errno::Invalid),
        (r(8, 0, 0, 512), Errno::Invalid),
        (r(0xffff, 0, 0, 512), Errno::Invalid),
    ]
}

#[test]
fn malformed_requests_get_their_error_and_the_connection_lives() {
    let rig = Rig::new();
    let mut peer = rig.plain();
    for (r, errno) in malformed() {
        peer.request(r);
        assert_eq!(peer.reply(), Reply::Simple(Some(errno), 1), "{r:?}");
        peer.expect_alive();
    }
    assert_eq!(rig.server.counters().errors.load(Ordering::Relaxed), malformed().len() as u64);
}

#[test]
fn a_refused_write_is_taken_off_the_stream() {
    let rig = Rig::new();
    let mut peer = rig.plain();
    for (flags, offset, len, errno) in [
        (0, SIZE, 512, Errno::NoSpace),
        (0, SIZE - 1, 512, Errno::NoSpace),
        (0, u64::MAX - 511, 512, Errno::NoSpace),
        (command_flags::REQ_ONE, 0, 512, Errno::Invalid),
        (0, SIZE - 4096, 1 << 20, Errno::NoSpace),
    ] {
        // Data that would be taken for a request if it were left lying.
        let data: Vec<u8> =
            request(command::DISC, 0, 0, 0, 0).build().into_iter().cycle().take(len).collect();
        peer.write(7, flags, offset, &data);
        peer.expect_error(7, errno);
        assert_eq!(peer.expect_alive(), [0; 512]);
    }
}

#[test]
fn what_cannot_be_repaired_ends_the_connection() {
    let rig = Rig::new();
    let mut wrong_magic = request(command::READ, 0, 1, 0, 512).build();
    wrong_magic[0] ^= 1;
    let too_long = request(command::WRITE, 0, 1, 0, (32 << 20) + 1).build();
    let endless = request(command::WRITE, 0, 1, 0, MAX).build();
    for bytes in [wrong_magic, too_long, endless] {
        let mut peer = rig.plain();
        peer.send(&bytes);
        peer.expect_closed();
    }
    let mut peer = rig.plain();
    peer.request(request(command::DISC, 0, 1, 0, 0));
    peer.expect_closed();
    // The client goes away in the middle of a write.
    let mut peer = rig.plain();
    peer.request(request(command::WRITE, 0, 1, 0, 4096));
    peer.send(&[1; 100]);
    drop(peer);
    assert!(rig.server.wait_idle(PATIENCE));
    assert_eq!(rig.plain().expect_alive(), [0; 512]);
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let mut device = TestDevice::new();
    device.read_only = true;
    let rig = Rig::with(device, ServerSettings::default());
    let mut peer = rig.plain();
    peer.write(1, 0, 0, &[1; 4096]);
    peer.expect_error(1, Errno::Permission);
    for command in [command::TRIM, command::WRITE_ZEROES] {
        peer.request(request(command, 0, 2, 0, 4096));
        peer.expect_error(2, Errno::Permission);
    }
    peer.request(request(command::FLUSH, 0, 3, 0, 0));
    peer.expect_ok(3);
    assert_eq!(peer.expect_alive(), [0; 512]);
}

#[test]
fn requests_may_come_in_any_slices() {
    let rig = Rig::new();
    let mut peer = rig.plain();
    let mut bytes = Vec::new();
    for i in 0..8u64 {
        bytes.extend(request(command::WRITE, 0, i, i * 50, 50).build());
        bytes.extend([i as u8 + 1; 50]);
    }
    for b in &bytes {
        peer.send(&[*b]);
    }
    (0..8).for_each(|i| peer.expect_ok(i));
    // The same, all at once, replies unread until the end.
    peer.send(&bytes);
    (0..8).for_each(|i| peer.expect_ok(i));
    let content = peer.expect_alive();
    assert!((0..400).all(|i| content[i] == (i / 50) as u8 + 1));
}

#[test]
fn large_writes_and_reads_are_exact() {
    let rig = Rig::new();
    let data: Vec<u8> = (0..32u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for structured in [false, true] {
        let mut peer = if structured { rig.structured() } else { rig.plain() };
        peer.write(1, 0, 77, &data);
        peer.expect_ok(1);
        peer.request(request(command::READ, 0, 2, 77, data.len() as u32));
        if structured {
            let (mut at, mut last) = (77, false);
            while !last {
                let Reply::Chunk { done, kind, cookie: 2, data: chunk } = peer.reply() else { panic!() };
                assert_eq!((kind, &chunk[..8]), (chunk::OFFSET_DATA, &u64::to_be_bytes(at)[..]));
                let from = at as usize - 77;
                assert!(chunk[8..] == data[from..from + chunk.len() - 8], "at {at}");
                at += chunk.len() as u64 - 8;
                last = done;
            }
            assert_eq!(at, 77 + data.len() as u64);
        } else {
            peer.expect_ok(2);
            assert!(peer.take(data.len()) == data);
        }
        peer.request(request(command::TRIM, 0, 3, 0, 64 << 20));
        peer.expect_ok(3);
    }
    assert_eq!(rig.server.counters().bytes_written.load(Ordering::Relaxed), 64 << 20);
}

#[test]
fn a_write_that_fails_half_way_is_an_error_and_the_rest_is_passed_over() {
    let rig = Rig::new();
    *rig.device.bad_offset.lock().unwrap() = Some(600 << 10);
    let mut peer = rig.plain();
    peer.write(1, 0, 0, &vec![9; 1 << 20]);
    peer.expect_error(1, Errno::Io);
    assert_eq!(peer.expect_alive(), [9; 512]);
}

#[test]
fn holes_are_told_and_not_sent() {
    let rig = Rig::new();
    let mut peer = rig.structured();
    peer.write(1, 0, 65536, &[5; 4096]);
    peer.expect_ok(1);
    peer.request(request(command::READ, 0, 2, 0, 131_072));
    let hole = |offset: u64, len: u32| [&offset.to_be_bytes()[..], &len.to_be_bytes()[..]].concat();
    let content = [&65536u64.to_be_bytes()[..], &[5; 4096][..]].concat();
    for (done, kind, data) in [
        (false, chunk::OFFSET_HOLE, hole(0, 65536)),
        (false, chunk::OFFSET_DATA, content),
        (true, chunk::OFFSET_HOLE, hole(69632, 61440)),
    ] {
        assert_eq!(peer.reply(), Reply::Chunk { done, kind, cookie: 2, data });
    }
    // DF: one chunk, or a refusal when that would be too large.
    peer.request(request(command::READ, command_flags::DF, 3, 0, 131_072));
    let Reply::Chunk { done: true, kind: chunk::OFFSET_DATA, data, .. } = peer.reply() else { panic!() };
    assert_eq!(data.len(), 131_072 + 8);
    peer.request(request(command::READ, command_flags::DF, 4, 0, 32 << 20));
    let Reply::Chunk { done: true, kind: chunk::ERROR, data, .. } = peer.reply() else { panic!() };
    assert_eq!(parse_error(&data).unwrap().0, Errno::Overflow);
}

#[test]
fn a_structured_read_names_the_place_of_its_error() {
    let rig = Rig::new();
    rig.device.inner.write(0, vec![1; 1 << 20].into()).unwrap();
    *rig.device.bad_offset.lock().unwrap() = Some(300 << 10);
    let mut peer = rig.structured();
    peer.request(request(command::READ, 0, 1, 0, 1 << 20));
    let Reply::Chunk { done: false, kind: chunk::OFFSET_DATA, .. } = peer.reply() else { panic!() };
    let Reply::Chunk { done: true, kind: chunk::ERROR_OFFSET, data, .. } = peer.reply() else { panic!() };
    assert_eq!(parse_error(&data).unwrap().0, Errno::Io);
    assert_eq!(data[data.len() - 8..], (256u64 << 10).to_be_bytes());
    // A simple one tells it before any content.
    let mut peer = rig.plain();
    peer.request(request(command::READ, 0, 1, 0, 1 << 20));
    peer.expect_error(1, Errno::Io);
    peer.expect_alive();
}

#[test]
fn block_status_covers_what_it_may() {
    let rig = Rig::new();
    rig.device.inner.write(8192, vec![1; 4096].into()).unwrap();
    let mut peer = rig.structured();
    for (flags, expected) in
        [(0, vec![(8192, 3), (4096, 0), ((32 << 20) - 12288, 3)]), (command_flags::REQ_ONE, vec![(8192, 3)])]
    {
        peer.request(request(command::BLOCK_STATUS, flags, 1, 0, 32 << 20));
        let Reply::Chunk { done: true, kind: chunk::BLOCK_STATUS, data, .. } = peer.reply() else { panic!() };
        assert_eq!(parse_block_status(&data).unwrap(), (1, expected));
    }
    peer.request(request(command::BLOCK_STATUS, 0, 1, 0, MAX));
    let Reply::Chunk { done: true, kind: chunk::ERROR, data, .. } = peer.reply() else { panic!() };
    assert_eq!(parse_error(&data).unwrap().0, Errno::Invalid);
}

#[test]
fn a_flush_holds_up_nothing_and_is_answered_only_when_done() {
    let rig = Rig::new();
    rig.device.hold_flushes(true);
    let mut peer = rig.plain();
    peer.write(1, 0, 0, &[1; 512]);
    peer.request(request(command::FLUSH, 0, 2, 0, 0));
    peer.write(3, command_flags::FUA, 512, &[1; 512]);
    peer.write(4, 0, 1024, &[1; 512]);
    peer.expect_ok(1);
    peer.expect_ok(4);
    peer.expect_alive();
    eventually("the flush at the device", || rig.device.flushes.load(Ordering::SeqCst) == 1);
    // Five more that came after the first one began share one device flush.
    (5..10).for_each(|i| peer.request(request(command::FLUSH, 0, i, 0, 0)));
    peer.expect_alive();
    rig.device.hold_flushes(false);
    for i in [2, 3, 5, 6, 7, 8, 9] {
        peer.expect_ok(i);
    }
    assert_eq!(rig.device.flushes.load(Ordering::SeqCst), 2);
}

#[test]
fn a_failed_flush_is_told_to_flush_and_fua() {
    let rig = Rig::new();
    rig.device.fail_flush.store(true, Ordering::SeqCst);
    let mut peer = rig.plain();
    peer.request(request(command::FLUSH, 0, 1, 0, 0));
    peer.expect_error(1, Errno::Io);
    peer.write(2, command_flags::FUA, 0, &[1; 512]);
    peer.expect_error(2, Errno::Io);
    peer.request(request(command::WRITE_ZEROES, command_flags::FUA, 3, 0, 512));
    peer.expect_error(3, Errno::Io);
    assert_eq!(rig.device.flushes.load(Ordering::SeqCst), 3);
}

#[test]
fn a_device_that_panics_takes_down_its_connection_only() {
    let rig = Rig::new();
    rig.device.panic_flush.store(true, Ordering::SeqCst);
    let mut peer = rig.plain();
    let mut other = rig.plain();
    peer.request(request(command::FLUSH, 0, 1, 0, 0));
    peer.expect_closed();
    other.expect_alive();
    eventually("one connection", || rig.server.connections() == 1);
}

#[test]
fn a_client_that_takes_no_replies_delays_nobody_else() {
    let rig = Rig::new();
    rig.device.inner.write(0, vec![1; 1 << 20].into()).unwrap();
    let greedy = rig.plain();
    for i in 0..64 {
        (&greedy.0).write_all(&request(command::READ, 0, i, 0, 1 << 20).build()).unwrap();
    }
    let mut other = rig.plain();
    assert_eq!(other.expect_alive(), [1; 512]);
    drop(other);
    // Nor shutdown.
    assert_eq!(rig.server.shutdown(Duration::from_millis(50)), Ok(()));
}

#[test]
fn shutdown_ends_with_a_socket_held_and_requests_under_way_are_answered() {
    let rig = Rig::new();
    let mut idle = rig.plain();
    let mut negotiating = rig.connect();
    let mut busy = rig.plain();
    rig.device.hold_flushes(true);
    busy.write(1, command_flags::FUA, 0, &[1; 512]);
    eventually("the flush at the device", || rig.device.flushes.load(Ordering::SeqCst) == 1);
    std::thread::scope(|s| {
        let server = rig.server;
        let stopping = s.spawn(move || server.shutdown(PATIENCE));
        idle.expect_closed();
        negotiating.expect_closed();
        rig.device.hold_flushes(false);
        busy.expect_ok(1);
        busy.expect_closed();
        assert_eq!(stopping.join().unwrap(), Ok(()));
    });
}

#[test]
fn shutdown_says_which_connections_are_stuck_in_their_device() {
    let rig = Rig::new();
    rig.device.hold_flushes(true);
    let mut peer = rig.plain();
    peer.request(request(command::FLUSH, 0, 1, 0, 0));
    eventually("the flush at the device", || rig.device.flushes.load(Ordering::SeqCst) == 1);
    let device = std::sync::Arc::clone(&rig.device);
    assert_eq!(rig.server.shutdown(Duration::from_millis(10)), Err(Stuck { connections: 1 }));
    device.hold_flushes(false);
    let mut rest = Vec::new();
    let _ = peer.0.read_to_end(&mut rest);
    assert!(rest.is_empty(), "a reply after the cut");
}
