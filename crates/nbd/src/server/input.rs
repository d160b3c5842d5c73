//! What has been received and not taken yet.
//!
//! Invariants:
//! - bytes handed out stay as they are: a buffer is written again only when nobody holds a part of it;
//! - one connection holds at most [`KEPT`] buffers of [`SIZE`] bytes besides those somebody else keeps parts of.
//!
//! A part that is kept pins its whole buffer, so the buffers are small.

use crate::stream::Transport;
use bytes::{Buf, Bytes, BytesMut};
use lifeboat_base::limits::{KIB, MAX_RECORD};
use std::collections::VecDeque;
use std::io;

/// A piece of the largest kind with its request fits, so that a stream of them is never copied but for its seams.
const SIZE: usize = MAX_RECORD + 4 * KIB;

/// Longest run of bytes that [`Input::fill`] can bring together.
pub(super) const MAX_FILL: usize = MAX_RECORD;

/// Receiving into less than this is not worth a system call.
const LEAST_ROOM: usize = 64 * KIB;

/// Copying less than this costs less than the system calls it saves.
const CHEAP_TO_MOVE: usize = 8 * KIB;

/// Full buffers remembered, to be used again once nobody holds a part of them.
const KEPT: usize = 8;

pub(super) struct Input {
    buf: BytesMut,
    full: VecDeque<BytesMut>,
}

impl Default for Input {
    fn default() -> Self {
        Self { buf: BytesMut::with_capacity(SIZE), full: VecDeque::new() }
    }
}

impl Input {
    pub fn buffered(&self) -> &[u8] {
        &self.buf
    }

    pub fn has(&self, n: usize) -> bool {
        self.buf.len() >= n
    }

    /// Receives once, with room for at least `need` bytes in all. False at the end of the stream.
    pub fn receive(&mut self, transport: &Transport, need: usize) -> io::Result<bool> {
        debug_assert!(need <= MAX_FILL);
        let len = self.buf.len();
        // With little left over a fresh start is cheap; with much, only what must be moved is.
        let cramped = self.buf.capacity() - len < LEAST_ROOM && len < CHEAP_TO_MOVE;
        if cramped || self.buf.capacity() < need.max(len + 1) {
            self.make_room();
        }
        Ok(transport.receive(&mut self.buf)? > 0)
    }

    /// Takes the next `n` bytes, which must be there, without copying them.
    pub fn take(&mut self, n: usize) -> Bytes {
        self.buf.split_to(n).freeze()
    }

    pub fn skip(&mut self, n: usize) {
        self.buf.advance(n);
    }

    /// Makes the buffer `SIZE` bytes again: this one if nobody holds a part of it, an earlier one, or a new one.
    fn make_room(&mut self) {
        if self.buf.try_reclaim(SIZE - self.buf.len()) {
            return;
        }
        let mut fresh = self
            .full
            .iter_mut()
            .position(|old| old.try_reclaim(SIZE))
            .and_then(|i| self.full.remove(i))
            .unwrap_or_else(|| BytesMut::with_capacity(SIZE));
        fresh.extend_from_slice(&self.buf);
        let mut old = std::mem::replace(&mut self.buf, fresh);
        old.clear();
        if self.full.len() == KEPT {
            self.full.pop_front();
        }
        self.full.push_back(old);
    }
}

#[cfg(test)]
mod tests;
