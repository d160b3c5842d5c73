use super::*;
use crate::blob::MemoryBlobs;
use crate::entries::{Dump, read_at};
use crate::reader::Tree;
use crate::testing::noise;
use crate::tree::EntryKind;

fn cut(content: &[u8], blobs: &MemoryBlobs) -> Content {
    let mut cutter = Cutter::new(blobs);
    assert_eq!(cutter.cut(content, content.len() as u64).unwrap(), content.len() as u64);
    cutter.finish().unwrap()
}

/// Gives no more than a few bytes at a time.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = into.len().min(self.0.len()).min(7919);
        into[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

#[test]
fn content_of_every_length_comes_back_and_the_cuts_do_not_depend_on_how_it_was_read() {
    for len in [
        0,
        1,
        LEAST - 1,
        LEAST,
        LEAST + 1,
        USUAL,
        300_000,
        MOST,
        MOST + 1,
        BUFFER - 1,
        BUFFER,
        BUFFER + 1,
        13_000_001,
    ] {
        let blobs = MemoryBlobs::default();
        let content = noise(len as u64, len);
        let whole = cut(&content, &blobs);
        let mut cutter = Cutter::new(&blobs);
        cutter.cut(Dribble(&content), len as u64).unwrap();
        assert_eq!(cutter.finish().unwrap(), whole, "{len}");
        assert_eq!(whole.size, len as u64);
        let tree = Tree::new(&blobs, Hash::from_bytes([0; 32]));
        let back: Vec<u8> = Dump::new(tree, &whole).flat_map(|b| b.unwrap().to_vec()).collect();
        assert!(back == content, "{len}");
        for (at, want) in [(0, 100), (len as u64 / 2, 70_000), (len as u64, 5)] {
            let end = (at as usize + want).min(len);
            let read = read_at(tree, &whole, at, want, &|p| tree.content(&p.hash.unwrap(), p.len)).unwrap();
            assert!(read == content[(at as usize).min(end)..end], "{len} {at}");
        }
    }
}

use crate::blob::Hash;

/// These cuts are part of the format: other ones would store everything anew.
#[test]
fn golden_cuts() {
    let blobs = MemoryBlobs::default();
    let content = cut(&noise(1, 5_000_000), &blobs);
    let lengths: Vec<u64> = content.pieces.iter().map(|p| p.len).collect();
    assert_eq!(lengths, GOLDEN);
    assert!(matches!(EntryKind::File(content), EntryKind::File(_)));
}

const GOLDEN: &[u64] =
    &[491952, 274245, 519854, 255535, 134248, 517331, 532654, 383019, 398386, 553806, 724494, 214476];

#[test]
fn an_insertion_costs_a_few_pieces() {
    let blobs = MemoryBlobs::default();
    let mut content = noise(2, 20_000_000);
    cut(&content, &blobs);
    let before = blobs.bytes();
    content.splice(1_000_000..1_000_000, noise(3, 1000));
    cut(&content, &blobs);
    let added = blobs.bytes() - before;
    assert!(added < 3 * MOST as u64, "{added}");
}

#[test]
fn a_source_that_ends_early_is_cut_as_far_as_it_goes() {
    let blobs = MemoryBlobs::default();
    let content = noise(4, 900_000);
    let mut cutter = Cutter::new(&blobs);
    assert_eq!(cutter.cut(&content[..], 5_000_000).unwrap(), 900_000);
    assert_eq!(cutter.finish().unwrap(), cut(&content, &blobs));
}
