//! The client against a server that speaks raw bytes, well and badly.
#![allow(clippy::unwrap_used)]

use lifeboat_block::{BlockDevice, BlockError, ExtentKind};
use lifeboat_nbd::proto::handshake::{Info, OptionHeader, greeting, meta_context, put_option_reply};
use lifeboat_nbd::proto::transmission::{
    Request, block_status_chunk, chunk_header, data_chunk_prefix, error_chunk, hole_chunk, simple_reply,
};
use lifeboat_nbd::proto::{Errno, chunk, command, option, option_reply};
use lifeboat_nbd::{Client, ClientSettings, NbdError};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

struct FakeServer(UnixStream);

impl FakeServer {
    fn send(&mut self, bytes: &[u8]) {
        // The client may have hung up on what came before.
        let _ = self.0.write_all(bytes);
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let mut buf = vec![0; n];
        self.0.read_exact(&mut buf).unwrap();
        buf
    }

    fn greet(&mut self) {
        self.send(&greeting(3));
        assert_eq!(self.take(4), 3u32.to_be_bytes());
    }

    fn option(&mut self) -> (u32, Vec<u8>) {
        let header = OptionHeader::parse(&self.take(16)).unwrap();
        (header.option, self.take(header.len as usize))
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let mut out = Vec::new();
        put_option_reply(&mut out, option, kind, data);
        self.send(&out);
    }

    fn expect_option(&mut self, expected: u32) {
        assert_eq!(self.option().0, expected);
    }

    /// Everything a modern server agrees to.
    fn negotiate(&mut self) {
        self.greet();
        self.expect_option(option::STRUCTURED_REPLY);
        self.reply(option::STRUCTURED_REPLY, option_reply::ACK, b"");
        self.expect_option(option::SET_META_CONTEXT);
        let context = meta_context(9, "base:allocation");
        self.reply(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &context);
        self.reply(option::SET_META_CONTEXT, option_reply::ACK, b"");
        self.finish_go(SIZE);
    }

    fn finish_go(&mut self, size: u64) {
        self.expect_option(option::GO);
        self.reply(option::GO, option_reply::INFO, &Info::Export { size, flags: 0x6D }.build());
        self.reply(option::GO, option_reply::INFO, &Info::Other(77).build());
        self.reply(option::GO, option_reply::ACK, b"");
    }

    fn request(&mut self) -> Request {
        let r = Request::parse(&self.take(28)).unwrap();
        if r.command == command::WRITE {
            self.take(r.len as usize);
        }
        r
    }
}

/// Runs a client against a script.
fn against<T>(
    script: impl FnOnce(&mut FakeServer) + Send,
    client: impl FnOnce(Result<Client, NbdError>) -> T,
) -> T {
    let (near, far) = UnixStream::pair().unwrap();
    std::thread::scope(|s| {
        s.spawn(move || script(&mut FakeServer(far)));
        let settings = ClientSettings { silence: Duration::from_secs(20), ..ClientSettings::default() };
        client(Client::connect_export(near, "disk", &settings))
    })
}

/// The error of reading 4096 bytes at 0 from a server that answers with `reply`.
fn read_error(reply: impl FnOnce(u64) -> Vec<u8> + Send) -> String {
    let script = |s: &mut FakeServer| {
        s.negotiate();
        let r = s.request();
        s.send(&reply(r.cookie));
        // Held open, so that only the bytes can be what the client objects to.
        let _ = s.0.read(&mut [0]);
    };
    against(script, |client| {
        let client = client.unwrap();
        let first = client.read(0, &mut [0; 4096]).unwrap_err().to_string();
        if first.contains("connect again") {
            // And it stays that way, without anything more being sent.
            assert_eq!(client.flush().unwrap_err().to_string(), first);
        }
        first
    })
}

#[test]
fn negotiates_reads_and_asks_for_holes() {
    let script = |s: &mut FakeServer| {
        s.negotiate();
        let r = s.request();
        assert_eq!((r.command, r.offset, r.len), (command::READ, 100, 4096));
        // Out of order, with a hole, and an end of its own.
        s.send(&data_chunk_prefix(0, r.cookie, 2100, 2096));
        s.send(&[7; 2096]);
        s.send(&hole_chunk(0, r.cookie, 100, 2000));
        s.send(&chunk_header(chunk::FLAG_DONE, chunk::NONE, r.cookie, 0));
        let r = s.request();
        assert_eq!((r.command, r.flags), (command::BLOCK_STATUS, 0));
        s.send(&block_status_chunk(r.cookie, 9, &[(512, 3), (1 << 20, 0)]));
        assert_eq!(s.request().command, command::DISC);
    };
    against(script, |client| {
        let client = client.unwrap();
        assert_eq!((client.size(), client.read_only()), (SIZE, false));
        let mut buf = [1; 4096];
        client.read(100, &mut buf).unwrap();
        assert!(buf[..2000] == [0; 2000] && buf[2000..] == [7; 2096]);
        let runs = client.block_status(0, 4096).unwrap();
        assert_eq!(
            runs.iter().map(|e| (e.len, e.kind)).collect::<Vec<_>>(),
            [(512, ExtentKind::Hole), (3584, ExtentKind::Data)]
        );
        client.disconnect();
    });
}

#[test]
fn an_old_server_is_good_enough() {
    let script = |s: &mut FakeServer| {
        s.greet();
        s.expect_option(option::STRUCTURED_REPLY);
        s.reply(option::STRUCTURED_REPLY, option_reply::ERR_UNSUP, b"");
        s.expect_option(option::GO);
        s.reply(option::GO, option_reply::ERR_UNSUP, b"");
        assert_eq!(s.option(), (option::EXPORT_NAME, b"disk".to_vec()));
        s.send(&SIZE.to_be_bytes());
        s.send(&3u16.to_be_bytes());
        let r = s.request();
        s.send(&simple_reply(r.cookie, None));
        s.send(&[8; 512]);
    };
    against(script, |client| {
        let client = client.unwrap();
        assert!(client.read_only() && !client.knows_holes());
        let mut buf = [0; 512];
        client.read(0, &mut buf).unwrap();
        assert_eq!(buf, [8; 512]);
        assert!(matches!(client.write(0, vec![1; 512].into()), Err(BlockError::ReadOnly)));
        assert!(matches!(client.read(SIZE, &mut buf), Err(BlockError::OutOfRange { .. })));
    });
}

#[test]
fn many_reads_are_in_flight_and_may_be_answered_in_any_order() {
    let script = |s: &mut FakeServer| {
        s.negotiate();
        let mut all: Vec<Request> = (0..20).map(|_| s.request()).collect();
        all.reverse();
        for r in all {
            s.send(&data_chunk_prefix(chunk::FLAG_DONE, r.cookie, r.offset, r.len));
            s.send(&vec![(r.offset / 512) as u8; r.len as usize]);
        }
    };
    against(script, |client| {
        let ranges: Vec<(u64, usize)> = (0..20).map(|i| (i * 512, 512)).collect();
        let parts = client.unwrap().read_many(&ranges).unwrap();
        assert!(parts.iter().enumerate().all(|(i, p)| p.len() == 512 && p.iter().all(|b| *b == i as u8)));
    });
}

#[test]
fn errors_that_are_reported_harm_only_their_request() {
    let script = |s: &mut FakeServer| {
        s.negotiate();
        let r = s.request();
        s.send(&error_chunk(r.cookie, Errno::Io, "rotten", Some(0)));
        for errno in [Errno::NoSpace, Errno::Permission, Errno::Shutdown] {
            let r = s.request();
            s.send(&simple_reply(r.cookie, Some(errno)));
        }
        let r = s.request();
        s.send(&simple_reply(r.cookie, None));
    };
    against(script, |client| {
        let client = client.unwrap();
        let e = client.read(0, &mut [0; 512]).unwrap_err();
        assert_eq!(e.to_string(), "the NBD server answered EIO (input/output error): rotten");
        let write = || client.write(0, vec![1; 512].into());
        assert!(matches!(write(), Err(BlockError::NoSpace)));
        assert!(matches!(write(), Err(BlockError::ReadOnly)));
        assert!(matches!(write(), Err(BlockError::Shutdown)));
        write().unwrap();
    });
}

#[test]
fn replies_that_are_wrong_end_the_connection_and_say_why() {
    let wrong = |why: &str| format!("the NBD connection failed: {why}; connect again");
    let data = |flags, cookie, offset: u64, len: u32| {
        [&data_chunk_prefix(flags, cookie, offset, len)[..], &vec![1; len as usize]].concat()
    };
    let outside = wrong("the server sends content that was not asked for");
    let done = chunk::FLAG_DONE;
    assert_eq!(read_error(|c| data(done, c, 4096, 512)), outside);
    assert_eq!(read_error(|c| data(done, c, 0, 8192)), outside);
    assert_eq!(read_error(|c| data(done, c, u64::MAX, 512)), outside);
    assert_eq!(read_error(|c| hole_chunk(done, c, 1, 4096).to_vec()), outside);
    assert_eq!(
        read_error(|c| [data(0, c, 0, 512), data(done, c, 511, 512)].concat()),
        wrong("the server sends the same content twice")
    );
    assert_eq!(
        read_error(|c| hole_chunk(done, c, 0, 0).to_vec()),
        wrong("the server sends a chunk without content")
    );
    assert_eq!(read_error(|c| data(done, c, 0, 512)), wrong("the server ends a reply before it is whole"));
    assert_eq!(
        read_error(|c| simple_reply(c + 1, None).to_vec()),
        wrong("the server answers a request that is not open")
    );
    assert_eq!(
        read_error(|c| simple_reply(c, None).to_vec()),
        wrong("the server answers a read without chunks")
    );
    assert_eq!(
        read_error(|c| chunk_header(done, chunk::ERROR, c, u32::MAX).to_vec()),
        wrong("the server sends a chunk of 4294967295 bytes")
    );
    assert_eq!(read_error(|c| data_chunk_prefix(done, c, 0, u32::MAX - 8).to_vec()), outside);
    assert_eq!(
        read_error(|c| [&chunk_header(done, 77, c, 2)[..], b"xx"].concat()),
        wrong("the server sends a chunk of kind 77 and 2 bytes")
    );
    assert_eq!(
        read_error(|_| b"HTTP/1.1 400 Bad Request".to_vec()),
        wrong("the server broke the protocol: wrong magic 0x48545450 where 0x67446698 belongs")
    );
}

#[test]
fn handshakes_that_are_wrong_say_why() {
    let error = |script: fn(&mut FakeServer)| against(script, |c| c.err().unwrap().to_string());
    assert_eq!(
        error(|s| s.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")),
        "the NBD connection failed: the server broke the protocol: wrong magic 0x5353482d322e302d where \
         0x4e42444d41474943 belongs; connect again"
    );
    assert_eq!(
        error(|s| {
            s.greet();
            s.expect_option(option::STRUCTURED_REPLY);
            s.reply(option::STRUCTURED_REPLY, option_reply::ERR_UNSUP, b"");
            s.expect_option(option::GO);
            s.reply(option::GO, option_reply::ERR_UNKNOWN, b"gone");
        }),
        r#"the NBD server refuses export "disk": there is no such export (gone)"#
    );
    assert_eq!(
        error(|s| {
            s.greet();
            s.expect_option(option::STRUCTURED_REPLY);
            s.send(b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x03\xff\xff\xff\xff");
        }),
        "the NBD connection failed: the server sends an option reply of 4294967295 bytes; connect again"
    );
    assert_eq!(
        error(|s| {
            s.greet();
            s.expect_option(option::STRUCTURED_REPLY);
            (0..100).for_each(|_| s.reply(option::STRUCTURED_REPLY, option_reply::INFO, b"\0\x4d"));
        }),
        "the NBD connection failed: the server does not end its replies to an option; connect again"
    );
    assert_eq!(
        error(|s| {
            s.greet();
            s.expect_option(option::STRUCTURED_REPLY);
            s.reply(option::STRUCTURED_REPLY, option_reply::ERR_UNSUP, b"");
            s.finish_go(u64::MAX);
        }),
        "the NBD connection failed: the export claims 18446744073709551615 bytes, more than any disk has; connect again"
    );
    assert_eq!(error(|s| s.send(b"NBD")), "the NBD connection failed: the server hung up; connect again");
}

#[test]
fn silence_is_not_waited_out() {
    let (near, far) = UnixStream::pair().unwrap();
    let settings = ClientSettings { silence: Duration::from_millis(50), ..ClientSettings::default() };
    let error = Client::connect_export(near, "", &settings).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the NBD connection failed: the server did not answer in time; connect again"
    );
    drop(far);
}
