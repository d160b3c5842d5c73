//! A peer that speaks NBD in raw bytes, and a device that can be told how to behave.
#![allow(dead_code, reason = "each test file uses its own part")]

use bytes::Bytes;
use lifeboat_base::SystemClock;
use lifeboat_block::{BlockDevice, BlockError, Extent, MemoryDevice, ZeroMode};
use lifeboat_nbd::proto::handshake::{InfoRequest, MetaRequest, OptionReplyHeader, put_option};
use lifeboat_nbd::proto::transmission::{ReplyHeader, Request};
use lifeboat_nbd::proto::{Errno, command, option, option_reply};
use lifeboat_nbd::{Exports, Server, ServerSettings};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub const SIZE: u64 = 64 << 20;
/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Memory, with flushes that can be held up and calls that can fail.
pub struct TestDevice {
    pub inner: MemoryDevice,
    pub read_only: bool,
    pub flushes: AtomicUsize,
    flush_held: Mutex<bool>,
    changed: Condvar,
    pub fail_flush: AtomicBool,
    pub panic_flush: AtomicBool,
    /// Calls that touch this offset fail.
    pub bad_offset: Mutex<Option<u64>>,
}

impl TestDevice {
    pub fn new() -> Self {
        Self {
            inner: MemoryDevice::new(SIZE),
            read_only: false,
            flushes: AtomicUsize::new(0),
            flush_held: Mutex::new(false),
            changed: Condvar::new(),
            fail_flush: AtomicBool::new(false),
            panic_flush: AtomicBool::new(false),
            bad_offset: Mutex::new(None),
        }
    }

    pub fn hold_flushes(&self, hold: bool) {
        *self.flush_held.lock().unwrap() = hold;
        self.changed.notify_all();
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        match *self.bad_offset.lock().unwrap() {
            Some(bad) if (offset..offset + len).contains(&bad) => {
                Err(BlockError::Corrupt("told to be".into()))
            }
            _ => Ok(()),
        }
    }
}

impl BlockDevice for TestDevice {
    fn size(&self) -> u64 {
        SIZE
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64)?;
        self.inner.read(offset, buf)
    }
    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.check(offset, data.len() as u64)?;
        self.inner.write(offset, data)
    }
    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), BlockError> {
        self.check(offset, len)?;
        self.inner.write_zeroes(offset, len, mode)
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panic_flush.load(Ordering::SeqCst), "told to panic");
        let mut held = self.flush_held.lock().unwrap();
        while *held {
            held = self.changed.wait(held).unwrap();
        }
        if self.fail_flush.load(Ordering::SeqCst) {
            return Err(BlockError::Io(std::io::Error::other("told to fail")));
        }
        Ok(())
    }
    fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>, BlockError> {
        self.inner.status(offset, len)
    }
}

/// A server with a directory of its own.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub device: Arc<TestDevice>,
    pub server: Server,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(TestDevice::new(), ServerSettings::default())
    }

    pub fn with(device: TestDevice, settings: ServerSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = Arc::new(device);
        let exports = Exports::single(Arc::clone(&device) as Arc<dyn BlockDevice>);
        let path = dir.path().join("nbd");
        let server = Server::listen_unix(&path, exports, settings, Arc::new(SystemClock)).unwrap();
        Self { dir, device, server }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("nbd")
    }

    pub fn connect(&self) -> RawPeer {
        RawPeer::greet(UnixStream::connect(self.path()).unwrap())
    }

    /// A peer in transmission, with simple replies.
    pub fn plain(&self) -> RawPeer {
        let mut peer = self.connect();
        peer.go("");
        peer
    }

    /// A peer in transmission, with structured replies and block status.
    pub fn structured(&self) -> RawPeer {
        let mut peer = self.connect();
        assert_eq!(peer.option(option::STRUCTURED_REPLY, b""), [(option_reply::ACK, vec![])]);
        let meta = MetaRequest { name: String::new(), queries: vec!["base:allocation".into()] };
        assert_eq!(peer.option(option::SET_META_CONTEXT, &meta.build()).len(), 2);
        peer.go("");
        peer
    }
}

/// One reply, whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Simple(Option<Errno>, u64),
    Chunk { done: bool, kind: u16, cookie: u64, data: Vec<u8> },
}

pub struct RawPeer(pub UnixStream);

pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Request {
    Request { flags, command, cookie, offset, len }
}

impl RawPeer {
    pub fn greet(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Self(stream);
        assert_eq!(peer.take(18), b"NBDMAGICIHAVEOPT\0\x03");
        peer.send(&3u32.to_be_bytes());
        peer
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn take(&mut self, n: usize) -> Vec<u8> {
        let mut buf = vec![0; n];
        self.0.read_exact(&mut buf).unwrap();
        buf
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut out = Vec::new();
        put_option(&mut out, option, data);
        self.send(&out);
    }

    pub fn option_reply(&mut self) -> (u32, u32, Vec<u8>) {
        let header = OptionReplyHeader::parse(&self.take(20)).unwrap();
        let data = self.take(header.len as usize);
        (header.option, header.kind, data)
    }

    /// Sends an option and takes its replies up to the last.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            let (of, kind, data) = self.option_reply();
            assert_eq!(of, option);
            replies.push((kind, data));
            if kind == option_reply::ACK || kind & option_reply::ERROR != 0 {
                return replies;
            }
        }
    }

    /// The kind of the last reply to an option.
    pub fn option_ends(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data).last().unwrap().0
    }

    pub fn go(&mut self, name: &str) {
        let data = InfoRequest { name: name.into(), wanted: vec![] }.build();
        assert_eq!(self.option_ends(option::GO, &data), option_reply::ACK);
    }

    pub fn request(&mut self, r: Request) {
        self.send(&r.build());
    }

    pub fn write(&mut self, cookie: u64, flags: u16, offset: u64, data: &[u8]) {
        self.request(request(command::WRITE, flags, cookie, offset, data.len() as u32));
        self.send(data);
    }

    /// The next reply, without the content of a simple read.
    pub fn reply(&mut self) -> Reply {
        let mut head = self.take(16);
        let len = ReplyHeader::len_of(&head).unwrap();
        head.extend(self.take(len - 16));
        match ReplyHeader::parse(&head).unwrap() {
            ReplyHeader::Simple { error, cookie } => Reply::Simple(error, cookie),
            ReplyHeader::Chunk { flags, kind, cookie, len } => {
                Reply::Chunk { done: flags & 1 != 0, kind, cookie, data: self.take(len as usize) }
            }
        }
    }

    pub fn expect_ok(&mut self, cookie: u64) {
        assert_eq!(self.reply(), Reply::Simple(None, cookie));
    }

    pub fn expect_error(&mut self, cookie: u64, errno: Errno) {
        assert_eq!(self.reply(), Reply::Simple(Some(errno), cookie));
    }

    /// The connection still works: reads 512 bytes with simple replies.
    pub fn expect_alive(&mut self) -> Vec<u8> {
        self.request(request(command::READ, 0, 0xA11, 0, 512));
        self.expect_ok(0xA11);
        self.take(512)
    }

    /// Nothing more comes but the end.
    pub fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{rest:?} before the end"),
            // The server closed while bytes it did not want were still on their way.
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
        }
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let (never, quiet) = (Mutex::new(()), Condvar::new());
    let mut guard = never.lock().unwrap();
    for _ in 0..2000 {
        if condition() {
            return;
        }
        guard = quiet.wait_timeout(guard, Duration::from_millis(10)).unwrap().0;
    }
    panic!("{what} did not come true");
}
