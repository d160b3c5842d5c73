//! Replies that wait to be sent together.
//!
//! Invariant: nothing lies here while its connection waits for the client.

use crate::stream::Transport;
use lifeboat_base::limits::KIB;
use std::io;

/// Replies are sent when this much has gathered, however many requests are still at hand.
const SEND_AT: usize = 256 * KIB;

/// A buffer that grew past this for one large reply is given back.
const KEEP: usize = 512 * KIB;

/// Most replies gathered: the client should not idle while the server works through a long queue.
const MOST_REPLIES: usize = 32;

#[derive(Default)]
pub(super) struct Output {
    /// Never shrinks while in use, so that it is zeroed once and not per reply.
    buf: Vec<u8>,
    filled: usize,
    replies: usize,
}

impl Output {
    /// Room for `n` more bytes, to be filled and then [`commit`](Self::commit)ted.
    pub fn room(&mut self, n: usize) -> &mut [u8] {
        let end = self.filled + n;
        if self.buf.len() < end {
            self.buf.resize(end.max(8 * KIB).next_multiple_of(4 * KIB), 0);
        }
        &mut self.buf[self.filled..end]
    }

    pub fn commit(&mut self, n: usize) {
        self.filled += n;
    }

    /// Appends a part of a reply.
    pub fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// Counts a reply that is now whole.
    pub fn end_reply(&mut self) {
        self.replies += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether enough has gathered, with `more` bytes about to come.
    pub fn is_due(&self, more: usize) -> bool {
        self.filled > 0 && (self.filled + more > SEND_AT || self.replies >= MOST_REPLIES)
    }

    pub fn send(&mut self, transport: &Transport) -> io::Result<()> {
        let sent = transport.send(&self.buf[..self.filled], &[]);
        self.filled = 0;
        self.replies = 0;
        if self.buf.len() > KEEP {
            self.buf = Vec::new();
        }
        sent
    }
}
