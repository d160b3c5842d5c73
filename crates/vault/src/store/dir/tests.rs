use super::*;
use crate::store::tests::{keeps_its_promises, listing, name};
use std::os::unix::fs::MetadataExt as _;

#[test]
fn it_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    keeps_its_promises(&DirStore::create(dir.path().join("a/b")).unwrap());
}

#[test]
fn what_was_put_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("vault");
    assert!(matches!(DirStore::open(&root), Err(StoreError::Unreachable { .. })));
    let store = DirStore::create(&root).unwrap();
    store.put_new(&name("packs/aa/1"), Bytes::from_static(b"pack")).unwrap();
    store.put_new(&name("vault"), Bytes::from_static(b"v")).unwrap();
    let again = DirStore::open(&root).unwrap();
    assert_eq!(listing(&again, ""), [("packs/aa/1".into(), 4), ("vault".into(), 1)]);
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode(""), mode("packs/aa"), mode("vault")), (0o700, 0o700, 0o400));
}

#[test]
fn leftovers_of_a_crash_go_and_files_being_written_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    fs::write(dir.path().join(".tmp/1-7"), b"half").unwrap();
    let (busy, _lock) = store.tmp_file().unwrap();
    assert_eq!(store.reap().unwrap(), 1);
    assert!(busy.exists());
    assert_eq!(listing(&store, ""), [], "files being written are no objects");
    assert!(!dir.path().join(".tmp/1-7").exists());
}

#[test]
fn a_put_whose_file_was_taken_for_a_leftover_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    // The name of its next file is taken away at once, as somebody who holds it for a leftover would.
    let (tmp, _file) = store.tmp_file().unwrap();
    fs::remove_file(&tmp).unwrap();
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                store.reap().unwrap_or_default();
            }
        });
        for n in 0..50 {
            store.put_new(&name(&format!("o/{n}")), vec![7; 10_000].into()).unwrap();
        }
        end.store(true, Ordering::Relaxed);
    });
    assert_eq!(listing(&store, "o/").len(), 50);
}

#[test]
fn a_directory_that_went_away_is_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mnt");
    let store = DirStore::create(&root).unwrap();
    let a = name("packs/aa/1");
    store.put_new(&a, Bytes::from_static(b"x")).unwrap();
    // As after an unmount: the mount point is there and empty.
    fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    fs::create_dir(&root).unwrap();
    let away = |e: StoreError| matches!(&e, StoreError::Unreachable { why, .. } if why.contains("mounted"));
    assert!(away(store.get(&a, Part::All).unwrap_err()));
    assert!(away(store.size(&a).unwrap_err()));
    assert!(away(store.delete(&a).unwrap_err()));
    assert!(away(store.put_new(&name("packs/bb/2"), Bytes::new()).unwrap_err()));
    assert!(away(store.list("", &mut |_| ControlFlow::Continue(())).unwrap_err()));
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing was written below the mount point");
    fs::remove_dir(&root).unwrap();
    fs::rename(dir.path().join("elsewhere"), &root).unwrap();
    assert_eq!(store.get(&a, Part::All).unwrap(), "x");
}

#[test]
fn what_the_store_did_not_make_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("lost+found/x"), b"").unwrap();
    fs::write(dir.path().join("UPPER"), b"").unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("packs")).unwrap();
    assert_eq!(listing(&store, ""), []);
    for prefix in ["../", "packs/../../", "/etc/", ".tmp/", "UPPER/"] {
        let mut none = |o: ObjectInfo| panic!("{prefix} lists {}", o.name);
        let _ = store.list(prefix, &mut none);
    }
    assert!(matches!(store.put_new(&name(".tmp/x"), Bytes::new()), Err(StoreError::Broken { .. })));
}

#[test]
fn a_file_in_the_way_of_a_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    store.put_new(&name("a"), Bytes::new()).unwrap();
    assert!(matches!(store.get(&name("a/b"), Part::All), Err(StoreError::NotFound(_))));
    assert!(matches!(store.put_new(&name("a/b"), Bytes::new()), Err(StoreError::Broken { .. })));
    store.put_new(&name("d/e"), Bytes::new()).unwrap();
    assert!(matches!(store.get(&name("d"), Part::All), Err(StoreError::NotFound(_))));
    assert!(matches!(store.size(&name("d")), Err(StoreError::NotFound(_))));
}

#[test]
fn an_object_larger_than_any_is_not_read_into_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(dir.path()).unwrap();
    let big = File::create(dir.path().join("big")).unwrap();
    big.set_len(limits::MAX_OBJECT + 1).unwrap();
    assert!(matches!(store.get(&name("big"), Part::All), Err(StoreError::Broken { .. })));
    assert_eq!(store.get(&name("big"), Part::Tail(3)).unwrap(), &[0, 0, 0][..]);
}
