use super::*;
use crate::blob::{BlobSink, MemoryBlobs};
use crate::tree::wire;
use prost::Message;

#[test]
fn paths_are_absolute_and_stay_within() {
    assert_eq!(components(b"/").unwrap(), Vec::<&[u8]>::new());
    assert_eq!(components(b"//a/./b/").unwrap(), [&b"a"[..], b"b"]);
    for path in [&b"/a/../b"[..], b"..", b"a\0"] {
        let error = components(path).unwrap_err().to_string();
        assert!(error.contains("give it from / on, without '..'"), "{error}");
    }
}

/// Pages that are not what their directory says are damage, not entries.
#[test]
fn pages_have_to_be_what_their_directory_says() {
    let entry = |name: &str| wire::Entry { name: name.into(), kind: 4, ..Default::default() };
    let blob = |d: &wire::Directory| {
        let mut out = b"LT\x01\x01".to_vec();
        d.encode(&mut out).unwrap();
        Bytes::from(out)
    };
    let blobs = MemoryBlobs::default();
    let store = |d: wire::Directory| {
        let blob = blob(&d);
        let hash = blake3::hash(&blob);
        blobs.put(BlobKind::Tree, hash, blob).unwrap();
        hash
    };
    let page = store(wire::Directory { entries: vec![entry("b"), entry("f")], pages: Vec::new() });
    let other = store(wire::Directory { entries: vec![entry("d")], pages: Vec::new() });
    let named = |hash: Hash, first: &str, entries| wire::Page {
        hash: hash.as_bytes().to_vec(),
        first: first.into(),
        entries,
    };
    for pages in [
        vec![named(page, "a", 2)],
        vec![named(page, "b", 3)],
        vec![named(page, "b", 2), named(other, "d", 1)],
    ] {
        let root = store(wire::Directory { entries: Vec::new(), pages });
        let read: Result<Vec<_>, _> = Tree::new(&blobs, root).entries(&root).unwrap().collect();
        assert!(matches!(read, Err(FilesError::Damaged(_))), "{read:?}");
    }
}
