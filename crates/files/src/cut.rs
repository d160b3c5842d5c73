//! Cuts content into pieces where its content says so (FastCDC), so that an insertion moves no more than one cut.
//!
//! Invariant: the cuts depend on the content and on nothing else: the same bytes give the same pieces everywhere, for
//! ever. The sizes below are part of the format: other ones deduplicate nothing against what is there.

use crate::blob::{BlobError, BlobKind, BlobSink};
use crate::tree::{Content, Piece};
use bytes::Bytes;
use fastcdc::v2020::FastCDC;
use std::io::{self, Read};

/// Smallest piece but the last, in bytes. A smaller file is one piece.
pub const LEAST: usize = 64 * 1024;
/// Length most pieces are about.
pub const USUAL: usize = 256 * 1024;
/// Longest piece.
pub const MOST: usize = 1024 * 1024;
/// Read at a time.
const BUFFER: usize = 4 * MOST;

/// Why content could not be cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// Its source cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Collects the pieces of one file.
pub struct Cutter<'a> {
    sink: &'a dyn BlobSink,
    pieces: Vec<Piece>,
    buffer: Vec<u8>,
}

impl<'a> Cutter<'a> {
    pub fn new(sink: &'a dyn BlobSink) -> Self {
        Self { sink, pieces: Vec::new(), buffer: Vec::new() }
    }

    /// A hole of `len` bytes.
    pub fn hole(&mut self, len: u64) {
        if len > 0 {
            self.pieces.push(Piece { hash: None, len });
        }
    }

    /// Cuts up to `len` bytes of `source`; gives how many there were.
    ///
    /// # Errors
    /// See [`CutError`].
    pub fn cut(&mut self, mut source: impl Read, len: u64) -> Result<u64, CutError> {
        if len <= LEAST as u64 {
            return self.whole(source, len);
        }
        let (mut begin, mut end, mut total) = (0, 0, 0u64);
        let room = usize::try_from(len).unwrap_or(usize::MAX).min(BUFFER);
        self.buffer.resize(room.max(self.buffer.len()), 0);
        loop {
            let mut over = false;
            while end < self.buffer.len() && !over {
                let wanted =
                    (self.buffer.len() - end).min(usize::try_from(len - total).unwrap_or(usize::MAX));
                let read = if wanted == 0 {
                    0
                } else {
                    read_some(&mut source, &mut self.buffer[end..end + wanted])?
                };
                over = read == 0;
                end += read;
                total += read as u64;
            }
            over |= total == len;
            let filled = &self.buffer[begin..end];
            // Before the end is seen only cuts that no byte beyond the buffer can move.
            let cdc = FastCDC::new(filled, LEAST, USUAL, MOST);
            let mut at = 0;
            while at < filled.len() && (over || filled.len() - at >= MOST) {
                let (_, cut) = cdc.cut(at, filled.len() - at);
                self.pieces.push(keep(self.sink, &filled[at..cut])?);
                at = cut;
            }
            begin += at;
            if over {
                return Ok(total);
            }
            self.buffer.copy_within(begin..end, 0);
            end -= begin;
            begin = 0;
        }
    }

    /// A short file or segment: one piece, without a copy.
    fn whole(&mut self, mut source: impl Read, len: u64) -> Result<u64, CutError> {
        let len = usize::try_from(len).unwrap_or(LEAST).min(LEAST);
        let mut content = vec![0; len];
        let mut end = 0;
        while end < len {
            match read_some(&mut source, &mut content[end..])? {
                0 => break,
                read => end += read,
            }
        }
        content.truncate(end);
        if end > 0 {
            let hash = blake3::hash(&content);
            if !self.sink.has(BlobKind::File, &hash)? {
                self.sink.put(BlobKind::File, hash, Bytes::from(content))?;
            }
            self.pieces.push(Piece { hash: Some(hash), len: end as u64 });
        }
        Ok(end as u64)
    }

    /// The file's content.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(self) -> Result<Content, CutError> {
        Ok(Content::store(self.pieces, self.sink)?)
    }
}

fn read_some(source: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(into) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn keep(sink: &dyn BlobSink, content: &[u8]) -> Result<Piece, BlobError> {
    let hash = blake3::hash(content);
    if !sink.has(BlobKind::File, &hash)? {
        sink.put(BlobKind::File, hash, Bytes::copy_from_slice(content))?;
    }
    Ok(Piece { hash: Some(hash), len: content.len() as u64 })
}

#[cfg(test)]
mod tests;
