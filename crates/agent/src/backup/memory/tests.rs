use super::*;
use lifeboat_base::{ManualClock, WallTime};
use lifeboat_files::exclude::Exclude;
use lifeboat_files::reader::Tree;
use lifeboat_files::tree::{Content, Directory, Entry, EntryKind, Piece};
use lifeboat_files::walk::{WalkOptions, Walked, walk};
use lifeboat_files::{BlobSink, BlobSource, Monitor};

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

/// Puts other content at a path below a directory; gives the directory.
fn replaced(at: Hash, path: &[&str], content: &Content, blobs: &MemoryBlobs) -> Hash {
    let entries = Tree::new(blobs, at).entries(&at).unwrap();
    let mut entries: Vec<Entry> = entries.map(Result::unwrap).collect();
    let entry = entries.iter_mut().find(|e| e.name == path[0].as_bytes()).unwrap();
    entry.kind = match entry.kind {
        EntryKind::Directory(hash) => EntryKind::Directory(replaced(hash, &path[1..], content, blobs)),
        _ => EntryKind::File(content.clone()),
    };
    Directory::store(&entries, blobs).unwrap()
}

/// What a large file's lists lead to is remembered from backup to backup, however many lists are upon one another.
#[tokio::test]
async fn a_file_of_lists_upon_lists_is_not_read_again() {
    const PIECES: u64 = 40_000;
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().canonicalize().unwrap().join("large");
    fs::File::create(&path).unwrap().set_len(PIECES).unwrap();
    let options = WalkOptions {
        paths: vec![path.clone()],
        exclude: Exclude::new(&[], &[]).unwrap(),
        one_file_system: false,
        readers: 1,
    };
    let clock = ManualClock::default();
    clock.set_wall(WallTime(4_000_000_000_000_000_000));
    let walked = |previous: Option<Tree<'_>>, sink: &dyn BlobSink| -> Walked {
        walk(&options, previous, sink, &Monitor::default(), &clock).unwrap()
    };
    let blobs = MemoryBlobs::default();
    let root = walked(None, &blobs).root;
    let piece = |n: u64| Piece { hash: Some(blake3::hash(&n.to_le_bytes())), len: 1 };
    let content = Content::store((0..PIECES).map(piece).collect(), &blobs).unwrap();
    assert_eq!(content.depth, 2);
    let parts: Vec<&str> = path.to_str().unwrap().split('/').skip(1).collect();
    let root = replaced(root, &parts, &content, &blobs);
    let memory = Memory::of(state.path(), "set");
    let mut remembered = Some((root, blobs));
    for backup in 2..5 {
        let (sink, _offers) = Sink::new(remembered.take());
        let made = walked(sink.previous().map(|(root, blobs)| Tree::new(blobs, *root)), &sink);
        assert_eq!((made.files, made.files_read), (1, 0), "backup {backup}");
        sink.set_root(made.root);
        memory.save(&sink);
        remembered = memory.load();
        assert!(remembered.is_some());
    }
}
