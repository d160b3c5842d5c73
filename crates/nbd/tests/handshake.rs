//! The server's handshake against a peer that speaks raw bytes, well and badly.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, RawPeer, Rig, SIZE, TestDevice, eventually, request};
use lifeboat_base::SystemClock;
use lifeboat_block::MemoryDevice;
use lifeboat_nbd::proto::handshake::{Info, InfoRequest, MetaRequest, meta_context, server_entry};
use lifeboat_nbd::proto::{command, info, option, option_reply};
use lifeboat_nbd::{Export, Exports, ServeError, Server, ServerSettings};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn info_request(name: &str, wanted: &[u16]) -> Vec<u8> {
    InfoRequest { name: name.into(), wanted: wanted.to_vec() }.build()
}

fn meta_request(name: &str, queries: &[&str]) -> Vec<u8> {
    MetaRequest { name: name.into(), queries: queries.iter().map(|q| (*q).to_owned()).collect() }.build()
}

#[test]
fn go_tells_size_flags_and_block_sizes() {
    let rig = Rig::new();
    let mut peer = rig.connect();
    let replies = peer.option(option::GO, &info_request("", &[info::NAME, info::BLOCK_SIZE, 77]));
    let infos: Vec<Info> = replies
        .iter()
        .filter(|(kind, _)| *kind == option_reply::INFO)
        .map(|(_, data)| Info::parse(data).unwrap())
        .collect();
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE; no DF without structured replies.
    assert_eq!(
        infos,
        [
            Info::Export { size: SIZE, flags: 0x056D },
            Info::BlockSize { minimum: 1, preferred: 4096, largest: 32 << 20 },
            Info::Name(String::new()),
        ]
    );
    assert_eq!(replies.last().unwrap(), &(option_reply::ACK, vec![]));
    peer.expect_alive();
}

#[test]
fn options_that_are_wrong_are_refused_and_the_next_is_heard() {
    let rig = Rig::new();
    let mut peer = rig.connect();
    for (option, data, expected) in [
        (99, b"".to_vec(), option_reply::ERR_UNSUP),
        (4, b"x".to_vec(), option_reply::ERR_UNSUP),
        (option::GO, info_request("nothing", &[]), option_reply::ERR_UNKNOWN),
        (option::INFO, info_request("nothing", &[]), option_reply::ERR_UNKNOWN),
        (option::GO, b"".to_vec(), option_reply::ERR_INVALID),
        (option::GO, b"\xff\xff\xff\xff".to_vec(), option_reply::ERR_INVALID),
        (option::GO, b"\0\0\0\0\xff\xff\0\0".to_vec(), option_reply::ERR_INVALID),
        (option::GO, b"\0\0\0\x02\xff\xff\0\0".to_vec(), option_reply::ERR_INVALID),
        (option::LIST, b"x".to_vec(), option_reply::ERR_INVALID),
        (option::STARTTLS, b"".to_vec(), option_reply::ERR_POLICY),
        (option::STRUCTURED_REPLY, b"x".to_vec(), option_reply::ERR_INVALID),
        (option::SET_META_CONTEXT, meta_request("", &["base:allocation"]), option_reply::ERR_INVALID),
        (option::STRUCTURED_REPLY, b"".to_vec(), option_reply::ACK),
        (option::SET_META_CONTEXT, meta_request("nothing", &[]), option_reply::ERR_UNKNOWN),
        (option::SET_META_CONTEXT, b"\0\0\0\0\xff\xff\xff\xff".to_vec(), option_reply::ERR_INVALID),
        (
            option::LIST_META_CONTEXT,
            b"\0\0\0\0\0\0\0\x01\xff\xff\xff\xff".to_vec(),
            option_reply::ERR_INVALID,
        ),
        (99, vec![0; 100_000], option_reply::ERR_TOO_BIG),
    ] {
        assert_eq!(peer.option_ends(option, &data), expected, "option {option} with {} bytes", data.len());
    }
    assert_eq!(peer.option_ends(option::INFO, &info_request("", &[])), option_reply::ACK);
    peer.go("");
}

#[test]
fn contexts_are_listed_and_set() {
    let rig = Rig::new();
    let mut peer = rig.connect();
    peer.option(option::STRUCTURED_REPLY, b"");
    let listed = |id| {
        vec![(option_reply::META_CONTEXT, meta_context(id, "base:allocation")), (option_reply::ACK, vec![])]
    };
    let none = vec![(option_reply::ACK, vec![])];
    assert_eq!(peer.option(option::LIST_META_CONTEXT, &meta_request("", &[])), listed(0));
    assert_eq!(peer.option(option::LIST_META_CONTEXT, &meta_request("", &["base:"])), listed(0));
    assert_eq!(peer.option(option::LIST_META_CONTEXT, &meta_request("", &["qemu:"])), none);
    assert_eq!(peer.option(option::SET_META_CONTEXT, &meta_request("", &["base:"])), none);
    assert_eq!(
        peer.option(option::SET_META_CONTEXT, &meta_request("", &["x", "base:allocation"])),
        listed(1)
    );
}

#[test]
fn a_context_set_for_another_export_does_not_count() {
    let rig = Rig::new();
    rig.server.exports().insert("other", Export::new(Arc::new(MemoryDevice::new(4096))));
    let mut peer = rig.connect();
    peer.option(option::STRUCTURED_REPLY, b"");
    assert_eq!(peer.option(option::SET_META_CONTEXT, &meta_request("other", &["base:allocation"])).len(), 2);
    peer.go("");
    peer.request(request(command::BLOCK_STATUS, 0, 1, 0, 4096));
    let common::Reply::Chunk { kind, data, .. } = peer.reply() else { panic!("a simple reply") };
    assert_eq!((kind, &data[..4]), (0x8001, &22u32.to_be_bytes()[..]));
}

#[test]
fn exports_are_listed_and_may_change_while_running() {
    let rig = Rig::new();
    let mut export = Export::new(Arc::new(MemoryDevice::new(4096)));
    export.description = "a second one".into();
    rig.server.exports().insert("b", export);
    let mut peer = rig.connect();
    assert_eq!(
        peer.option(option::LIST, b""),
        [
            (option_reply::SERVER, server_entry("", "")),
            (option_reply::SERVER, server_entry("b", "a second one")),
            (option_reply::ACK, vec![]),
        ]
    );
    peer.go("b");
    let mut other = rig.plain();
    assert_eq!(rig.server.connections_to("b"), 1);
    assert!(rig.server.exports().remove("b").is_some());
    rig.server.disconnect("b");
    peer.expect_closed();
    other.expect_alive();
    assert_eq!(rig.connect().option_ends(option::GO, &info_request("b", &[])), option_reply::ERR_UNKNOWN);
}

#[test]
fn export_name_serves_and_pads_as_agreed() {
    let rig = Rig::new();
    let mut peer = rig.connect();
    peer.send_option(option::EXPORT_NAME, b"");
    let answer = peer.take(10);
    assert_eq!(answer[..8], SIZE.to_be_bytes());
    peer.expect_alive();

    // A client that did not say NO_ZEROES gets 124 of them.
    let mut stream = UnixStream::connect(rig.path()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&1u32.to_be_bytes()).unwrap();
    let mut peer = RawPeer(stream);
    peer.send_option(option::EXPORT_NAME, b"");
    assert_eq!(peer.take(134)[10..], [0; 124]);
    peer.expect_alive();

    let mut peer = rig.connect();
    peer.send_option(option::EXPORT_NAME, b"nothing");
    peer.expect_closed();
}

#[test]
fn abort_is_acknowledged_and_ends() {
    let rig = Rig::new();
    let mut peer = rig.connect();
    assert_eq!(peer.option(option::ABORT, b""), [(option_reply::ACK, vec![])]);
    peer.expect_closed();
    assert!(rig.server.wait_idle(PATIENCE));
}

#[test]
fn bytes_that_are_not_nbd_end_the_connection() {
    let rig = Rig::new();
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let huge = b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff";
    let early = request(command::READ, 0, 1, 0, 512).build();
    for bytes in [&http[..], &huge[..], &early[..]] {
        let mut peer = rig.connect();
        peer.send(bytes);
        peer.expect_closed();
    }
    let mut stream = UnixStream::connect(rig.path()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&0x8000_0003u32.to_be_bytes()).unwrap();
    RawPeer(stream).expect_closed();
    assert!(rig.server.wait_idle(PATIENCE));
    rig.plain().expect_alive();
}

#[test]
fn a_client_that_drips_its_handshake_is_cut_off() {
    let settings = ServerSettings { handshake: Duration::from_millis(150), ..ServerSettings::default() };
    let rig = Rig::with(TestDevice::new(), settings);
    let mut silent = rig.connect();
    let mut dripping = rig.connect();
    silent.expect_closed();
    // One byte at a time would go on for ever if each byte bought new time.
    eventually("the end of the drip", || {
        (&dripping.0).write_all(b"I").is_err() || rig.server.connections() == 0
    });
    assert!(rig.server.wait_idle(PATIENCE));
    dripping.0.set_nonblocking(false).unwrap();
    let mut end = [0; 1];
    assert!(matches!(dripping.0.read(&mut end), Ok(0) | Err(_)));
}

#[test]
fn one_connection_too_many_is_turned_away() {
    let settings = ServerSettings { max_connections: 2, ..ServerSettings::default() };
    let rig = Rig::with(TestDevice::new(), settings);
    let (first, mut second) = (rig.plain(), rig.plain());
    RawPeer(UnixStream::connect(rig.path()).unwrap()).expect_closed();
    assert_eq!(rig.server.counters().turned_away.load(Ordering::Relaxed), 1);
    assert_eq!(rig.server.connections(), 2);
    drop(first);
    eventually("room for another", || rig.server.connections() == 1);
    rig.plain().expect_alive();
    second.expect_alive();
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let rig = Rig::new();
    let mode = std::fs::metadata(rig.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let path = rig.path();
    rig.server.shutdown(PATIENCE).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_respected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd");
    drop(UnixListener::bind(&path).unwrap());
    let listen = || {
        let exports = Exports::single(Arc::new(MemoryDevice::new(4096)));
        Server::listen_unix(&path, exports, ServerSettings::default(), Arc::new(SystemClock))
    };
    let server = listen().unwrap();
    let refused = listen().err().unwrap();
    assert!(matches!(refused, ServeError::InUse(_)));
    assert!(refused.to_string().ends_with("stop that one or choose another socket path"), "{refused}");
    RawPeer::greet(UnixStream::connect(&path).unwrap()).go("");
    drop(server);
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(listen(), Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
