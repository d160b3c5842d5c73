use super::*;
use lifeboat_files::BlobSource;

fn blobs() -> (Hash, MemoryBlobs) {
    let blobs = MemoryBlobs::default();
    blobs.add(BlobKind::Tree, Bytes::from_static(b"one"));
    (blobs.add(BlobKind::Tree, Bytes::from_static(b"root")), blobs)
}

#[test]
fn what_was_written_is_read_again() {
    let (root, held) = blobs();
    let text = Bytes::from(encode(&root, &held));
    let (found, read) = decode(&text).unwrap();
    assert_eq!((found, read.len()), (root, 2));
    assert_eq!(&read.get(BlobKind::Tree, &root).unwrap()[..], b"root");
}

/// Damage costs time, never a wrong tree: no blob is found under a hash it does not have.
#[test]
fn damage_is_not_believed() {
    let (root, held) = blobs();
    let text = encode(&root, &held);
    for at in 0..text.len() {
        assert!(decode(&Bytes::copy_from_slice(&text[..at])).is_none_or(|(_, b)| b.len() < 2), "{at}");
        let mut broken = text.clone();
        broken[at] ^= 1;
        if let Some((_, read)) = decode(&Bytes::from(broken)) {
            for (_, blob) in read.all() {
                assert_eq!(read.get(BlobKind::Tree, &blake3::hash(&blob)).unwrap(), blob);
            }
        }
    }
}

#[test]
fn only_so_many_sets_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<Memory> = (0..MOST + 5).map(|n| Memory::of(dir.path(), &format!("set-{n}"))).collect();
    for memory in &all {
        memory.room().unwrap();
        fs::write(&memory.0, b"LBTREE01").unwrap();
    }
    assert_eq!(fs::read_dir(dir.path().join("backup")).unwrap().count(), MOST);
    assert!(all[MOST + 4].0.exists());
}
