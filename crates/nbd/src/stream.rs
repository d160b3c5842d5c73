//! One connected socket, plain or TLS, that one thread receives from while any thread sends.
//!
//! Invariants:
//! - a `send` is whole: the bytes of two of them never mix;
//! - no lock is held while a receive waits, so that a helper's reply can leave while the connection's own
//!   thread waits for the next request;
//! - `close` ends every call that is blocked in here, at once.

use bytes::{BufMut, BytesMut};
use lifeboat_base::Clock;
use parking_lot::Mutex;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes taken from the socket at a time when TLS stands between: a few records.
const TLS_RECEIVE: usize = 64 * 1024;

/// The shortest receive timeout set: zero would mean none.
const SHORTEST: Duration = Duration::from_millis(1);

pub(crate) struct Transport {
    socket: OwnedFd,
    tls: OnceLock<Tls>,
    sending: Mutex<()>,
    deadline: Mutex<Option<Deadline>>,
}

struct Tls {
    session: Mutex<rustls::Connection>,
    /// Bytes off the socket that the session has not taken yet. Only the receiving thread locks this.
    raw: Mutex<BytesMut>,
}

/// A moment on a clock by which all receiving must be over.
#[derive(Clone)]
pub(crate) struct Deadline {
    pub clock: Arc<dyn Clock>,
    /// On [`Clock::monotonic`].
    pub at: Duration,
}

impl Transport {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, tls: OnceLock::new(), sending: Mutex::new(()), deadline: Mutex::new(None) }
    }

    /// Turns Nagle's delay off and keep-alive on. On a Unix socket this changes nothing.
    pub fn tune_tcp(&self) {
        for (level, name) in [(libc::IPPROTO_TCP, libc::TCP_NODELAY), (libc::SOL_SOCKET, libc::SO_KEEPALIVE)]
        {
            // Only speed and the speed of noticing a dead peer depend on it, so a refusal is no error.
            let _ = self.set_option(level, name, &1i32);
        }
    }

    fn set_option<T>(&self, level: i32, name: i32, value: &T) -> io::Result<()> {
        // SAFETY: the kernel reads `size_of::<T>()` bytes at `value`, which lives through the call.
        let rc = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sets how long one receive and one send may wait; `None` is forever.
    pub fn set_timeouts(&self, receive: Option<Duration>, send: Option<Duration>) -> io::Result<()> {
        for (name, limit) in [(libc::SO_RCVTIMEO, receive), (libc::SO_SNDTIMEO, send)] {
            let limit = limit.map_or(Duration::ZERO, |d| d.max(SHORTEST));
            let value = libc::timeval {
                tv_sec: limit.as_secs().min(1 << 30) as libc::time_t,
                tv_usec: libc::suseconds_t::from(limit.subsec_micros() as i32),
            };
            self.set_option(libc::SOL_SOCKET, name, &value)?;
        }
        Ok(())
    }

    /// From now on every receive must end by `deadline`, however little each of them waits. `None` lifts it,
    /// and all timeouts with it.
    pub fn set_deadline(&self, deadline: Option<Deadline>) -> io::Result<()> {
        if deadline.is_none() {
            self.set_timeouts(None, None)?;
        }
        *self.deadline.lock() = deadline;
        Ok(())
    }

    pub fn is_tls(&self) -> bool {
        self.tls.get().is_some()
    }

    /// Runs a TLS handshake; everything after it is sealed.
    ///
    /// # Errors
    /// When the peer's side of it is not acceptable. The connection is of no use then.
    pub fn start_tls(&self, session: rustls::Connection) -> io::Result<()> {
        let tls = Tls { session: Mutex::new(session), raw: Mutex::new(BytesMut::new()) };
        let result = self.handshake(&tls);
        // An alert tells the peer why; it is on its way even when this side gives up.
        let flushed = self.send_sealed(&mut tls.session.lock());
        result.and(flushed)?;
        self.tls.set(tls).map_err(|_| io::Error::other("TLS was started twice"))
    }

    fn handshake(&self, tls: &Tls) -> io::Result<()> {
        loop {
            {
                let mut session = tls.session.lock();
                self.send_sealed(&mut session)?;
                if !session.is_handshaking() {
                    return Ok(());
                }
            }
            if !self.feed(tls)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Appends what is there, at most the buffer's spare capacity, waiting until something is. Returns how
    /// much; 0 is the end of the stream. The buffer must have room.
    pub fn receive(&self, buf: &mut BytesMut) -> io::Result<usize> {
        debug_assert!(buf.capacity() > buf.len());
        let Some(tls) = self.tls.get() else {
            return self.receive_raw(buf);
        };
        loop {
            {
                let mut session = tls.session.lock();
                let mut reader = session.reader();
                match reader.fill_buf() {
                    Ok([]) => return Ok(0),
                    Ok(plain) => {
                        let n = plain.len().min(buf.capacity() - buf.len());
                        buf.extend_from_slice(&plain[..n]);
                        reader.consume(n);
                        return Ok(n);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    // The peer hung up without TLS's goodbye. NBD's own framing tells whether that is harmless.
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                    Err(e) => return Err(e),
                }
            }
            if !self.feed(tls)? {
                return Ok(0);
            }
        }
    }

    /// Like [`receive`](Self::receive), into a slice.
    pub fn receive_slice(&self, out: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.get() else {
            return self.receive_ptr(out.as_mut_ptr(), out.len());
        };
        loop {
            match tls.session.lock().reader().read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if !self.feed(tls)? {
                return Ok(0);
            }
        }
    }

    /// Gives the session sealed bytes, from the socket when none are left over. False at the end of the stream.
    fn feed(&self, tls: &Tls) -> io::Result<bool> {
        let mut raw = tls.raw.lock();
        if raw.is_empty() {
            raw.reserve(TLS_RECEIVE);
            if self.receive_raw(&mut raw)? == 0 {
                return Ok(false);
            }
        }
        let mut session = tls.session.lock();
        let mut rest = &raw[..];
        let taken = session.read_tls(&mut rest)?;
        let result = session.process_new_packets();
        // Answers of TLS itself, an alert among them.
        let sent = self.send_sealed(&mut session);
        drop(session);
        bytes::Buf::advance(&mut *raw, taken);
        result.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        sent.map(|()| true)
    }

    fn receive_raw(&self, buf: &mut BytesMut) -> io::Result<usize> {
        let spare = buf.spare_capacity_mut();
        let n = self.receive_ptr(spare.as_mut_ptr().cast(), spare.len())?;
        // SAFETY: the kernel has just written `n` bytes at the start of the spare capacity.
        unsafe { buf.advance_mut(n) };
        Ok(n)
    }

    fn receive_ptr(&self, at: *mut u8, len: usize) -> io::Result<usize> {
        loop {
            self.apply_deadline()?;
            // SAFETY: both callers pass memory of `len` bytes that is theirs alone.
            let n = unsafe { libc::recv(self.socket.as_raw_fd(), at.cast(), len, 0) };
            if n >= 0 {
                return Ok(n as usize);
            }
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                e => return Err(e),
            }
        }
    }

    fn apply_deadline(&self) -> io::Result<()> {
        let Some(deadline) = self.deadline.lock().clone() else {
            return Ok(());
        };
        let left = deadline.at.saturating_sub(deadline.clock.monotonic());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.set_timeouts(Some(left), Some(left))
    }

    /// Sends all of both parts, in this order.
    pub fn send(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let Some(tls) = self.tls.get() else {
            let _whole = self.sending.lock();
            return self.send_plain(head, body);
        };
        let mut session = tls.session.lock();
        for mut part in [head, body] {
            while !part.is_empty() {
                // Takes what the session's own bounded buffer has room for.
                let n = session.writer().write(part)?;
                part = &part[n..];
                self.send_sealed(&mut session)?;
            }
        }
        Ok(())
    }

    fn send_plain(&self, mut head: &[u8], mut body: &[u8]) -> io::Result<()> {
        while !head.is_empty() || !body.is_empty() {
            let mut n = self.send_some(&[IoSlice::new(head), IoSlice::new(body)])?;
            let from_head = n.min(head.len());
            head = &head[from_head..];
            n -= from_head;
            body = &body[n..];
        }
        Ok(())
    }

    fn send_sealed(&self, session: &mut rustls::Connection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut Sealed(self))?;
        }
        Ok(())
    }

    fn send_some(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: all zero is a valid msghdr: no name, no control data, no parts.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // IoSlice is ABI-compatible with iovec; sendmsg only reads through it.
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len() as _;
        loop {
            // SAFETY: `message` points at `parts`, which live through the call.
            let n = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
            if n >= 0 {
                return Ok(n as usize);
            }
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                e => return Err(e),
            }
        }
    }

    /// Says TLS's goodbye, where there is TLS, unless the peer takes nothing any more.
    pub fn say_goodbye(&self) {
        if let Some(tls) = self.tls.get() {
            let _ = self.set_timeouts(Some(Duration::from_secs(1)), Some(Duration::from_secs(1)));
            let mut session = tls.session.lock();
            session.send_close_notify();
            let _ = self.send_sealed(&mut session);
        }
    }

    /// Wakes a blocked receive; what has arrived already can still be taken, replies can still be sent.
    pub fn stop_receiving(&self) {
        self.shut(libc::SHUT_RD);
    }

    /// Ends the connection in both directions.
    pub fn close(&self) {
        self.shut(libc::SHUT_RDWR);
    }

    fn shut(&self, how: i32) {
        // SAFETY: plain system call on an open socket. It fails only when the peer is gone already.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), how) };
    }
}

/// Where a TLS session writes its records.
struct Sealed<'a>(&'a Transport);

impl Write for Sealed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send_some(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_some(&parts[..parts.len().min(64)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
