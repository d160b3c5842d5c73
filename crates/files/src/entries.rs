//! Content as it is read at any place: for dumps and mounts.

use crate::FilesError;
use crate::reader::{Pieces, Tree};
use crate::tree::{Content, Piece};
use bytes::Bytes;

/// A file's content, piece by piece. Holes come as zeros.
pub struct Dump<'a> {
    tree: Tree<'a>,
    pieces: Pieces<'a>,
    hole: u64,
}

/// Zeros given at a time.
const ZEROS: usize = 256 * 1024;

impl<'a> Dump<'a> {
    pub fn new(tree: Tree<'a>, content: &Content) -> Self {
        Self { tree, pieces: tree.pieces(content, 0), hole: 0 }
    }
}

impl Iterator for Dump<'_> {
    type Item = Result<Bytes, FilesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.hole == 0 {
            match self.pieces.next()? {
                Ok((_, Piece { hash: None, len })) => self.hole = len,
                Ok((_, Piece { hash: Some(hash), len })) => return Some(self.tree.content(&hash, len)),
                Err(e) => return Some(Err(e)),
            }
        }
        let len = usize::try_from(self.hole).unwrap_or(ZEROS).min(ZEROS);
        self.hole -= len as u64;
        Some(Ok(Bytes::from_static(&[0; ZEROS]).slice(..len)))
    }
}

/// Reads `len` bytes at `offset`; fewer at the end of the file. `content` gives a piece's bytes.
///
/// # Errors
/// When something of it cannot be had.
pub fn read_at(
    tree: Tree<'_>,
    file: &Content,
    offset: u64,
    len: usize,
    content: &dyn Fn(&Piece) -> Result<Bytes, FilesError>,
) -> Result<Vec<u8>, FilesError> {
    let end = offset.saturating_add(len as u64).min(file.size);
    let mut out = Vec::with_capacity(usize::try_from(end.saturating_sub(offset)).unwrap_or(0));
    if offset >= end {
        return Ok(out);
    }
    for piece in tree.pieces(file, offset) {
        let (begin, piece) = piece?;
        if begin >= end {
            break;
        }
        let from = offset.max(begin) - begin;
        let to = end.min(begin + piece.len) - begin;
        match piece.hash {
            None => out.resize(out.len() + (to - from) as usize, 0),
            Some(_) => out.extend_from_slice(&content(&piece)?[from as usize..to as usize]),
        }
    }
    Ok(out)
}
