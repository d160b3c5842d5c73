use super::*;
use crate::FilesError;
use crate::blob::MemoryBlobs;
use crate::reader::Tree;
use proptest::prelude::*;

fn file(name: &str, pieces: Vec<Piece>) -> Entry {
    let size = pieces.iter().map(|p| p.len).sum();
    Entry {
        name: name.as_bytes().to_vec(),
        kind: EntryKind::File(Content { size, depth: 0, pieces }),
        meta: Meta {
            mode: 0o4755,
            uid: 1,
            gid: 2,
            mtime: Time { secs: -3, nanos: 4 },
            xattrs: vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }],
        },
        origin: Origin { ctime: Time { secs: 5, nanos: 6 }, inode: 7, device: 8, links: 2 },
    }
}

fn every_kind() -> Vec<Entry> {
    let hash = Some(Hash::from_bytes([9; 32]));
    let first = file("a", vec![Piece { hash, len: 100 }, Piece { hash: None, len: 1 << 40 }]);
    let kinds = [
        EntryKind::Directory(Hash::from_bytes([1; 32])),
        EntryKind::Symlink(b"../else where".to_vec()),
        EntryKind::Fifo,
        EntryKind::Socket,
        EntryKind::Block(8, 1),
        EntryKind::Char(1, 3),
    ];
    let others = kinds.into_iter().enumerate().map(|(n, kind)| Entry {
        name: vec![b'b' + n as u8, 0xff],
        kind,
        meta: Meta { mode: 0o600, ..Meta::default() },
        origin: Origin::default(),
    });
    std::iter::once(first).chain(others).collect()
}

/// Version 1, for ever.
#[test]
fn golden() {
    let blobs = MemoryBlobs::default();
    let hash = Directory::store(&every_kind(), &blobs).unwrap();
    let blob = blobs.all().remove(0).1;
    let hex: String = blob.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("directory.v1.hex").trim());
    assert_eq!(blake3::hash(&blob), hash);
    assert_eq!(Directory::decode(&blob).unwrap(), Directory::Entries(every_kind()));
}

#[test]
fn every_bit_is_looked_at_and_none_panics() {
    let blobs = MemoryBlobs::default();
    Directory::store(&every_kind(), &blobs).unwrap();
    let blob = blobs.all().remove(0).1;
    for at in 0..blob.len() {
        let _ = Directory::decode(&blob[..at]);
        for bit in 0..8 {
            let mut broken = blob.to_vec();
            broken[at] ^= 1 << bit;
            let _ = Directory::decode(&broken);
        }
    }
    assert_eq!(Directory::decode(b"LT\x02\x01"), Err(TreeError::Version(2)));
    assert!(Directory::decode(b"LT\x01\x02").is_err(), "a list is no directory");
}

#[test]
fn names_that_lead_elsewhere_do_not_decode() {
    for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b"] {
        let blobs = MemoryBlobs::default();
        Directory::store(&[file(name, Vec::new())], &blobs).unwrap();
        let decoded = Directory::decode(&blobs.all()[0].1);
        assert_eq!(decoded, Err(TreeError::Rule("a name is not one path component")), "{name:?}");
    }
}

/// Two bytes of a blob must not become hundreds in memory, half a million times.
#[test]
fn a_blob_of_nothing_but_entries_is_refused_before_they_are_made() {
    let mut blob = b"LT\x01\x01".to_vec();
    blob.extend([0x0a, 0].repeat(MAX_BLOB_ENTRIES + 1));
    assert_eq!(Directory::decode(&blob), Err(TreeError::Rule("it has too many entries")));
    blob.truncate(blob.len() - 2);
    assert_eq!(Directory::decode(&blob), Err(TreeError::Rule("a name is not one path component")));
    // The smallest entries there are, as many as a page takes.
    let blobs = MemoryBlobs::default();
    let entry = |n: usize| Entry {
        name: (n as u32).to_be_bytes().iter().map(|b| b.max(&1) | 0x80).collect(),
        kind: EntryKind::Fifo,
        meta: Meta::default(),
        origin: Origin::default(),
    };
    let mut entries: Vec<Entry> = (0..200_000).map(entry).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|a, b| a.name == b.name);
    let root = Directory::store(&entries, &blobs).unwrap();
    assert_eq!(Tree::new(&blobs, root).entries(&root).unwrap().count(), entries.len());
}

#[test]
fn lengths_that_do_not_add_up_do_not_decode() {
    let hash = Some(Hash::from_bytes([9; 32]));
    let wrong = [
        Content { size: 5, depth: 0, pieces: vec![Piece { hash, len: 4 }] },
        Content { size: 0, depth: 0, pieces: vec![Piece { hash, len: 0 }] },
        Content { size: 1, depth: 0, pieces: vec![Piece { hash, len: u64::MAX }, Piece { hash, len: 2 }] },
        Content { size: 2 << 20, depth: 0, pieces: vec![Piece { hash, len: 2 << 20 }] },
        Content { size: 5, depth: 9, pieces: vec![Piece { hash, len: 5 }] },
        Content { size: 5, depth: 1, pieces: vec![Piece { hash: None, len: 5 }] },
        Content { size: u64::MAX, depth: 0, pieces: vec![Piece { hash: None, len: u64::MAX }] },
    ];
    for content in wrong {
        let blobs = MemoryBlobs::default();
        let mut entry = file("a", Vec::new());
        entry.kind = EntryKind::File(content.clone());
        Directory::store(&[entry], &blobs).unwrap();
        assert!(Directory::decode(&blobs.all()[0].1).is_err(), "{content:?}");
    }
}

#[test]
fn a_large_directory_has_pages_and_an_insertion_leaves_most_of_them() {
    let blobs = MemoryBlobs::default();
    let mut entries: Vec<Entry> = (0..20_000).map(|n| file(&format!("file-{n:08}"), Vec::new())).collect();
    let root = Directory::store(&entries, &blobs).unwrap();
    let pages = blobs.len();
    assert!(pages > 10, "{pages}");
    let tree = Tree::new(&blobs, root);
    let read: Result<Vec<Entry>, FilesError> = tree.entries(&root).unwrap().collect();
    assert_eq!(read.unwrap(), entries);
    assert_eq!(tree.find(&root, b"file-00012345").unwrap().unwrap(), entries[12_345]);
    assert!(tree.find(&root, b"file-0001234").unwrap().is_none());
    assert!(tree.find(&root, b"").unwrap().is_none());

    entries.insert(7_000, file("file-00006999-more", Vec::new()));
    Directory::store(&entries, &blobs).unwrap();
    let added = blobs.len() - pages;
    assert!(added <= 3, "{added} new blobs for one new entry");
}

#[test]
fn a_file_of_many_pieces_is_read_through_lists() {
    let blobs = MemoryBlobs::default();
    let pieces: Vec<Piece> = (0..30_000u32)
        .map(|n| match n % 10 {
            0 => Piece { hash: None, len: 1 << 30 },
            _ => Piece { hash: Some(blake3::hash(&n.to_le_bytes())), len: 1000 + u64::from(n) },
        })
        .collect();
    let content = Content::store(pieces.clone(), &blobs).unwrap();
    assert!(content.depth > 0 && content.pieces.len() <= MAX_INLINE);
    let tree = Tree::new(&blobs, Hash::from_bytes([0; 32]));
    let read: Vec<Piece> = tree.pieces(&content, 0).map(|p| p.unwrap().1).collect();
    assert_eq!(read, pieces);
    let offset: u64 = pieces[..17_001].iter().map(|p| p.len).sum();
    let (begin, piece) = tree.pieces(&content, offset + 5).next().unwrap().unwrap();
    assert_eq!((begin, piece), (offset, pieces[17_001]));
    assert!(tree.pieces(&content, content.size).next().is_none());

    let lists = blobs.len();
    let mut changed = pieces;
    changed.insert(3, Piece { hash: Some(blake3::hash(b"new")), len: 1 });
    Content::store(changed, &blobs).unwrap();
    assert!(
        blobs.len() - lists <= 3 + content.depth as usize,
        "an insertion moves no more than its own list"
    );
}

proptest! {
    #[test]
    fn any_bytes_decode_to_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Directory::decode(&bytes);
        let mut tree = b"LT\x01\x01".to_vec();
        tree.extend_from_slice(&bytes);
        let _ = Directory::decode(&tree);
        tree[3] = LIST;
        let _ = decode_any_list(&tree);
        let _ = what(&tree);
        let _ = references(&tree, 1, &mut |_| {});
    }
}
