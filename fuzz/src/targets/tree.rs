//! Blobs of trees of files: from a vault somebody else wrote, or from an agent.
//!
//! Input: what u8, then the blob.

use lifeboat_files::blob::MemoryBlobs;
use lifeboat_files::reader::Tree;
use lifeboat_files::tree::{
    Content, Directory, Entry, EntryKind, Meta, Origin, Piece, Time, Xattr, is_name, references, what,
};
use lifeboat_files::{BlobKind, Hash};

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        kind,
        meta: Meta {
            mode: 0o755,
            uid: 1,
            gid: 2,
            mtime: Time { secs: 1_700_000_000, nanos: 5 },
            xattrs: vec![Xattr { name: b"user.a".to_vec(), value: vec![1, 2, 3] }],
        },
        origin: Origin { inode: 9, device: 8, links: 2, ..Origin::default() },
    }
}

/// A directory of every kind of entry, one with pages, and lists.
pub fn seeds() -> Vec<Vec<u8>> {
    let blobs = MemoryBlobs::default();
    let hash = Hash::from_bytes([7; 32]);
    let pieces = (1..200u64).map(|len| Piece { hash: (len % 5 > 0).then_some(hash), len }).collect();
    let content = Content::store(pieces, &blobs).unwrap();
    let kinds = [
        EntryKind::File(content),
        EntryKind::File(Content { size: 3, depth: 0, pieces: vec![Piece { hash: Some(hash), len: 3 }] }),
        EntryKind::Directory(hash),
        EntryKind::Symlink(b"../x".to_vec()),
        EntryKind::Block(8, 1),
        EntryKind::Fifo,
    ];
    let names = ["a", "b", "c", "d", "e", "f"];
    let entries: Vec<Entry> = names.iter().zip(kinds).map(|(name, kind)| entry(name, kind)).collect();
    Directory::store(&entries, &blobs).unwrap();
    let many: Vec<Entry> = (0..4000).map(|n| entry(&format!("file-{n:06}"), EntryKind::Fifo)).collect();
    let root = Directory::store(&many, &blobs).unwrap();
    let mut all: Vec<Vec<u8>> = Vec::new();
    for (_, blob) in blobs.all() {
        // Pages are large, and say no more than one of them.
        if blob.len() < 16 << 10 || blake3::hash(&blob) == root {
            let kind = what(&blob).unwrap() as u8;
            all.push([&[kind][..], &blob].concat());
        }
    }
    all.sort();
    all
}

/// Whatever decodes has single names, in order, and encodes to what reads back the same.
pub fn blob(data: &[u8]) {
    let Some((kind, blob)) = data.split_first() else { return };
    let _ = what(blob);
    let mut named = 0u64;
    let _ = references(blob, u32::from(*kind), &mut |_| named += 1);
    assert!(named <= blob.len() as u64, "more references than bytes");
    let Ok(directory) = Directory::decode(blob) else { return };
    let blobs = MemoryBlobs::default();
    if let Directory::Entries(entries) = &directory {
        assert!(entries.iter().all(|e| is_name(&e.name)));
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        let root = Directory::store(entries, &blobs).unwrap();
        let again: Vec<Entry> =
            Tree::new(&blobs, root).entries(&root).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(again == *entries, "it reads back as something else");
    }
    // Read as a tree it gives entries or an error, and comes to an end.
    let root = blobs.add(BlobKind::Tree, bytes::Bytes::copy_from_slice(blob));
    let tree = Tree::new(&blobs, root);
    for entry in tree.entries(&root).into_iter().flatten().take(10_000).flatten() {
        if let EntryKind::File(content) = &entry.kind {
            let _ = tree.pieces(content, 0).take(10_000).count();
        }
    }
    let _ = tree.at(b"/a/b");
}
