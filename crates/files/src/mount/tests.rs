use super::*;
use crate::blob::{BlobKind, MemoryBlobs};
use crate::testing::{back_up, noise, under};
use crate::tree::{Content, Directory};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};

#[test]
fn a_mounted_tree_shows_what_was_walked_and_ends_with_its_mount() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (source, at) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    fs::create_dir(source.join("many")).unwrap();
    for n in 0..3000 {
        fs::write(source.join(format!("many/{n}")), noise(n, 20)).unwrap();
    }
    fs::write(source.join("large"), noise(7, 5_000_000)).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(b"x", 1 << 30).unwrap();
    symlink("large", source.join("link")).unwrap();
    fs::write(source.join("broken"), noise(8, 9000)).unwrap();
    let blobs = Arc::new(MemoryBlobs::default());
    let root = back_up(&source, None, &blobs).root;
    blobs.remove(&blake3::hash(&noise(8, 9000)));

    let mounted = serve(Arc::<MemoryBlobs>::clone(&blobs), root).unwrap();
    mounted.attach(at.path()).unwrap();
    let seen = under(at.path(), &source);
    assert!(fs::read(seen.join("link")).unwrap() == noise(7, 5_000_000));
    assert_eq!(fs::read_dir(seen.join("many")).unwrap().count(), 3000);
    for n in [0, 1234, 2999] {
        assert_eq!(fs::read(seen.join(format!("many/{n}"))).unwrap(), noise(n, 20));
    }
    let mut end = [9; 2];
    let sparse = fs::File::open(seen.join("sparse")).unwrap();
    sparse.read_exact_at(&mut end, (1 << 30) - 1).unwrap();
    assert_eq!(&end, b"\0x");
    assert_eq!(
        fs::metadata(seen.join("large")).unwrap().mtime(),
        fs::metadata(source.join("large")).unwrap().mtime()
    );
    assert_eq!(fs::read(seen.join("broken")).unwrap_err().raw_os_error(), Some(5), "never other bytes");
    assert!(fs::write(seen.join("new"), "x").is_err());
    assert!(fs::metadata(seen.join("nothing")).is_err());

    let error = crate::fuse::detach(at.path()).unwrap_err().to_string();
    assert!(error.ends_with("somebody uses it; leave the directory and close its files first"), "{error}");
    drop(sparse);
    crate::fuse::detach(at.path()).unwrap();
    assert_eq!(fs::read_dir(at.path()).unwrap().count(), 0);
    assert!(crate::fuse::detach(at.path()).is_err());
}

#[test]
fn a_root_that_cannot_be_read_is_not_mounted() {
    let blobs = Arc::new(MemoryBlobs::default());
    let hash = blobs.add(BlobKind::Tree, Bytes::from_static(b"no tree"));
    assert!(serve(blobs, hash).is_err());
}

/// A tree from somewhere else may say of the same content that it is longer than it is.
#[test]
fn content_that_is_known_already_is_still_as_long_as_its_file_says() {
    let blobs = Arc::new(MemoryBlobs::default());
    let hash = blobs.add(BlobKind::File, Bytes::from_static(b"ten bytes."));
    let file = |name: &str, len| Entry {
        name: name.into(),
        kind: EntryKind::File(Content { size: len, depth: 0, pieces: vec![Piece { hash: Some(hash), len }] }),
        meta: Meta::default(),
        origin: Origin::default(),
    };
    let root = Directory::store(&[file("longer", 20), file("right", 10)], &*blobs).unwrap();
    let mount = TreeMount::new(blobs, root);
    let read = |name: &str| {
        let found = mount.look_up(INodeNo::ROOT, OsStr::new(name)).unwrap();
        mount.read_file(found.ino, 0, 4096)
    };
    assert_eq!(read("right").unwrap(), b"ten bytes.");
    assert_eq!(read("longer").unwrap_err().code(), Errno::EIO.code());
}

#[test]
fn the_cache_is_bounded() {
    let mut cache = Cache::default();
    for n in 0..200u32 {
        cache.keep(blake3::hash(&n.to_le_bytes()), &Bytes::from(vec![0; 1 << 20]));
        assert!(cache.bytes <= CACHE);
    }
    assert_eq!(cache.content.len(), CACHE >> 20);
}
