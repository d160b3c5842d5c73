use super::*;
use crate::blob::{BlobKind, MemoryBlobs};
use crate::testing::{Hook, at, back_up, bring_back, noise, picture, to, under};
use crate::tree::{Content, Directory, Meta, Origin, Piece, Time};
use proptest::prelude::*;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// A file of one piece, and what it holds.
fn file(name: &str, content: &[u8], blobs: &MemoryBlobs) -> Entry {
    let hash = blobs.add(BlobKind::File, bytes::Bytes::copy_from_slice(content));
    let len = content.len() as u64;
    let pieces = vec![Piece { hash: Some(hash), len }];
    Entry {
        name: name.into(),
        kind: EntryKind::File(Content { size: len, depth: 0, pieces }),
        meta: Meta { mode: 0o640, ..Meta::default() },
        origin: Origin::default(),
    }
}

/// An access control list as setfacl writes it.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |(tag, bits, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// One of everything a Linux file system has.
fn one_of_everything(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("sub/empty")).unwrap();
    fs::write(path("plain"), noise(1, 700_000)).unwrap();
    fs::write(path("nothing"), b"").unwrap();
    fs::hard_link(path("plain"), path("sub/second name")).unwrap();
    fs::hard_link(path("plain"), path("sub/third name")).unwrap();
    symlink("../nowhere/at all", path("sub/link")).unwrap();
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.write_all_at(&noise(2, 100_000), 3 << 20).unwrap();
    sparse.write_all_at(b"end", 9 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not \xff utf-8\n")), "x").unwrap();
    fs::set_permissions(path("plain"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(path("sub/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    let fd = sys::open_root(root).unwrap();
    let set = |name: &[u8], key: &str, value: &[u8]| {
        let xattr = crate::tree::Xattr { name: key.into(), value: value.to_vec() };
        sys::set_xattr(sys::On::Name(fd.as_fd(), name), &xattr).unwrap();
    };
    set(b"nothing", "user.note", b"kept \x00 whole");
    if is_root() {
        let node = |name: &[u8], kind, device| {
            rustix::fs::mknodat(&fd, name, kind, Mode::RUSR, device).unwrap();
        };
        node(b"fifo", FileType::Fifo, 0);
        node(b"socket", FileType::Socket, 0);
        node(b"block", FileType::BlockDevice, rustix::fs::makedev(7, 300));
        node(b"char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        std::os::unix::fs::lchown(path("sub/link"), Some(12), Some(34)).unwrap();
        std::os::unix::fs::chown(path("sub"), Some(1000), Some(1001)).unwrap();
        // cap_net_raw=ep, as setcap writes it.
        set(
            b"nothing",
            "security.capability",
            &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        // user::rw-, user:1:r--, group::r--, mask::r--, other::---
        let acl = acl(&[(1, 6, u32::MAX), (2, 4, 1), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]);
        set(b"sparse", "system.posix_acl_access", &acl);
        set(b"sub", "system.posix_acl_default", &acl);
    }
    for (n, name) in ["plain", "sub/link", "sub/empty", "sub"].iter().enumerate() {
        let t = rustix::fs::Timespec { tv_sec: 1_000_000_000 + n as i64, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: t, last_modification: t };
        rustix::fs::utimensat(rustix::fs::CWD, path(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

#[test]
fn one_of_everything_comes_back_as_it_was() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    one_of_everything(&source);
    let before = picture(&source);
    let blobs = MemoryBlobs::default();
    let walked = back_up(&source, None, &blobs);
    assert_eq!(walked.problems.1, 0, "{:?}", walked.problems);
    let restored = bring_back(walked.root, &blobs, &to(target.path()));
    assert_eq!(restored.problems.1, 0, "{:?}", restored.problems);
    assert_eq!((restored.files, restored.verified), (walked.files, walked.files));
    let back = under(target.path(), &source);
    assert_eq!(picture(&back), before);
    let sparse = fs::metadata(back.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 2 << 20, "holes stay holes: {}", sparse.blocks());
    let again = back_up(&source, Some(walked.root), &blobs);
    assert_eq!(at(again.root, &source, &blobs), at(walked.root, &source, &blobs), "looking changed nothing");
    assert_eq!(again.files_read, 0);
}

#[test]
fn paths_choose_and_what_is_not_there_is_an_error() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    one_of_everything(&source);
    let blobs = MemoryBlobs::default();
    let root = back_up(&source, None, &blobs).root;
    let mut options = to(target.path());
    options.paths = vec![source.join("sub").into_os_string().into_encoded_bytes()];
    bring_back(root, &blobs, &options);
    let back = under(target.path(), &source);
    assert!(back.join("sub/third name").exists() && !back.join("plain").exists());
    options.paths = vec![b"/no/such".to_vec()];
    let error = restore(Tree::new(&blobs, root), &options, &Monitor::default()).unwrap_err().to_string();
    assert_eq!(error, "there is no /no/such in this backup; list what is there with 'lifeboat backup ls'");
    // A place that is not mounted is not made up; a directory in one that is there is.
    options = to(&target.path().join("not/there"));
    let error = restore(Tree::new(&blobs, root), &options, &Monitor::default()).unwrap_err().to_string();
    assert!(error.contains("one to be made in one that is"), "{error}");
    assert!(!target.path().join("not").exists());
    options = to(&target.path().join("new"));
    bring_back(root, &blobs, &options);
    assert!(under(&target.path().join("new"), &source).join("plain").exists());
    assert_eq!(fs::metadata(target.path().join("new")).unwrap().mode() & 0o777, 0o700);
    options = to(&source.join("plain"));
    assert!(restore(Tree::new(&blobs, root), &options, &Monitor::default()).is_err());
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    for name in ["a", "b", "dir"] {
        fs::write(source.join(name), "backup").unwrap();
    }
    symlink("a", source.join("link")).unwrap();
    let blobs = MemoryBlobs::default();
    let root = back_up(&source, None, &blobs).root;
    let back = under(target.path(), &source);
    fs::create_dir_all(back.join("dir/full")).unwrap();
    fs::write(back.join("a"), "mine").unwrap();
    fs::write(back.join("link"), "mine").unwrap();
    let mut options = to(target.path());
    options.verify = false;
    let kept = bring_back(root, &blobs, &options);
    assert_eq!((kept.files, kept.problems.1), (1, 3), "{:?}", kept.problems);
    assert!(kept.problems.0.iter().all(|p| p.contains("is there already; it stays as it is")));
    assert_eq!(fs::read(back.join("a")).unwrap(), b"mine");
    options.overwrite = true;
    let replaced = bring_back(root, &blobs, &options);
    assert_eq!((replaced.files, replaced.problems.1), (3, 1), "{:?}", replaced.problems);
    assert!(replaced.problems.0[0].contains("a directory with content is in its place"));
    assert_eq!(fs::read(back.join("a")).unwrap(), b"backup");
    assert!(fs::symlink_metadata(back.join("link")).unwrap().is_symlink());
    assert!(back.join("dir/full").exists());
    let left = fs::read_dir(&back).unwrap().count();
    assert_eq!(left, 4, "no temporary file is left");
}

/// Row 34: names that lead out of the target are no names.
#[test]
fn hostile_names_write_nothing_outside() {
    for name in ["../escaped", "/escaped", "..", "a/../../escaped", "."] {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        let blobs = MemoryBlobs::default();
        let hash = blobs.add(BlobKind::File, bytes::Bytes::from_static(b"evil"));
        let file = Entry {
            name: name.as_bytes().to_vec(),
            kind: EntryKind::File(Content {
                size: 4,
                depth: 0,
                pieces: vec![Piece { hash: Some(hash), len: 4 }],
            }),
            meta: Meta { mode: 0o644, ..Meta::default() },
            origin: Origin::default(),
        };
        let inner = Directory::store(std::slice::from_ref(&file), &blobs).unwrap();
        let directory = Entry { name: b"in".to_vec(), kind: EntryKind::Directory(inner), ..file.clone() };
        for root in [inner, Directory::store(&[directory], &blobs).unwrap()] {
            let restored = bring_back(root, &blobs, &to(&target));
            assert_eq!((restored.files, restored.problems.1), (0, 1), "{name}");
            assert!(restored.problems.0[0].contains("a name is not one path component"));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name}");
        assert!(!Path::new("/escaped").exists());
    }
}

/// Row 34: a directory that becomes a symbolic link while files are written into it.
#[test]
fn a_symlink_swapped_in_meanwhile_is_not_followed() {
    let (source, target, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    fs::create_dir_all(source.join("d/e")).unwrap();
    for n in 0..40 {
        fs::write(source.join(format!("d/{n}")), noise(n, 2000)).unwrap();
        fs::write(source.join(format!("d/e/{n}")), noise(100 + n, 2000)).unwrap();
        fs::hard_link(source.join(format!("d/{n}")), source.join(format!("d/e/link-{n}"))).unwrap();
    }
    let blobs = MemoryBlobs::default();
    let root = back_up(&source, None, &blobs).root;
    for overwrite in [false, true] {
        let target = target.path().join(if overwrite { "over" } else { "new" });
        fs::create_dir(&target).unwrap();
        let back = under(&target, &source);
        let swaps = AtomicU64::new(0);
        let hooked = Hook {
            blobs: &blobs,
            hook: |_, _: &Hash| {
                for name in ["d/e", "d"] {
                    let n = swaps.fetch_add(1, Ordering::SeqCst);
                    if fs::rename(back.join(name), back.join(format!("moved-{n}"))).is_ok() {
                        let _ = symlink(outside.path(), back.join(name));
                    }
                }
            },
        };
        let mut options = to(&target);
        options.overwrite = overwrite;
        bring_back(root, &hooked, &options);
        assert!(swaps.load(Ordering::SeqCst) > 2);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "written through a link");
    }
}

/// Existing symbolic links at the target are not followed either, whatever is asked for.
#[test]
fn a_link_at_the_target_is_replaced_or_left_never_followed() {
    let (source, target, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/file"), "x").unwrap();
    fs::write(source.join("plain"), "x").unwrap();
    let blobs = MemoryBlobs::default();
    let root = back_up(&source, None, &blobs).root;
    let back = under(target.path(), &source);
    fs::create_dir_all(&back).unwrap();
    symlink(outside.path(), back.join("d")).unwrap();
    symlink(outside.path().join("plain"), back.join("plain")).unwrap();
    let mut options = to(target.path());
    options.verify = false;
    let kept = bring_back(root, &blobs, &options);
    assert_eq!(kept.problems.1, 2, "{:?}", kept.problems);
    options.overwrite = true;
    let replaced = bring_back(root, &blobs, &options);
    assert_eq!(replaced.problems.1, 0, "{:?}", replaced.problems);
    assert!(fs::symlink_metadata(back.join("d")).unwrap().is_dir());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// I3: content that is damaged or gone is named, and no file with other bytes takes its place.
#[test]
fn damaged_content_is_named_and_everything_else_comes_back() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    for n in 0..10 {
        fs::write(source.join(format!("{n}")), noise(n, 5000)).unwrap();
    }
    let blobs = MemoryBlobs::default();
    let root = back_up(&source, None, &blobs).root;
    let hash = |n: u64| blake3::hash(&noise(n, 5000));
    blobs.remove(&hash(3));
    crate::blob::BlobSink::put(&blobs, BlobKind::File, hash(4), noise(5, 5000).into()).unwrap();
    let mut options = to(target.path());
    options.verify = false;
    let restored = bring_back(root, &blobs, &options);
    assert_eq!((restored.files, restored.problems.1), (8, 2), "{:?}", restored.problems);
    let mut problems = restored.problems.0;
    problems.sort();
    assert!(problems[0].contains("/3: content") && problems[0].ends_with("is not there"));
    assert!(problems[1].contains("/4: content") && problems[1].ends_with("is not what was stored"));
    let back = under(target.path(), &source);
    assert_eq!(fs::read_dir(back).unwrap().count(), 8);
}

/// `--verify` sees what the disk really has.
#[test]
fn verify_finds_what_is_not_as_it_should_be() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = source.path().canonicalize().unwrap();
    fs::write(source.join("a"), noise(1, 200_000)).unwrap();
    fs::write(source.join("b"), noise(2, 100)).unwrap();
    let blobs = MemoryBlobs::default();
    let root = back_up(&source, None, &blobs).root;
    let mut options = to(target.path());
    options.verify = false;
    bring_back(root, &blobs, &options);
    let back = under(target.path(), &source);
    let file = fs::OpenOptions::new().write(true).open(back.join("a")).unwrap();
    let modified = fs::metadata(back.join("a")).unwrap().modified().unwrap();
    file.write_all_at(b"rot", 70_000).unwrap();
    file.set_modified(modified).unwrap();
    options.verify = true;
    let again = bring_back(root, &blobs, &options);
    assert_eq!(again.verified, 1, "{:?}", again.problems);
    let rot = again.problems.0.iter().find(|p| p.contains("is not what the backup holds")).unwrap();
    assert!(rot.contains("/a: ") && rot.contains("its content differs at"), "{rot}");
}

/// The file changed while its two names were read, or its number was given to another one: what differs is no link.
#[test]
fn names_of_one_file_with_different_content_are_files_of_their_own() {
    let target = tempfile::tempdir().unwrap();
    let blobs = MemoryBlobs::default();
    let origin = Origin { inode: 7, device: 8, links: 2, ..Origin::default() };
    let of = |name, content: &[u8]| Entry { origin, ..file(name, content, &blobs) };
    let mut other = of("d", b"second");
    other.meta.mode = 0o600;
    let entries = [of("a", b"first"), of("b", b"second"), of("c", b"second"), other];
    let root = Directory::store(&entries, &blobs).unwrap();
    let restored = bring_back(root, &blobs, &RestoreOptions { verify: false, ..to(target.path()) });
    assert_eq!((restored.files, restored.problems.1), (4, 0), "{:?}", restored.problems);
    for (name, content) in [("a", "first"), ("b", "second"), ("c", "second"), ("d", "second")] {
        assert_eq!(fs::read_to_string(target.path().join(name)).unwrap(), content, "{name}");
    }
    let stat = |name: &str| fs::metadata(target.path().join(name)).unwrap();
    assert_eq!(stat("b").ino(), stat("c").ino(), "what is equal is one file");
    assert_eq!(stat("d").mode() & 0o777, 0o600);
}

/// What the target gives to everything made in it is not what the backup holds.
#[test]
fn a_default_acl_of_the_target_does_not_stay_on_what_is_restored() {
    let target = tempfile::tempdir().unwrap();
    let fd = sys::open_root(target.path()).unwrap();
    // user::rwx, user:1:rwx, group::rwx, mask::rwx, other::r-x
    let value = acl(&[(1, 7, u32::MAX), (2, 7, 1), (4, 7, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]);
    let xattr = crate::tree::Xattr { name: b"system.posix_acl_default".to_vec(), value };
    sys::set_xattr(sys::On::File(fd.as_fd()), &xattr).unwrap();
    let blobs = MemoryBlobs::default();
    let fifo = Entry { name: b"fifo".to_vec(), kind: EntryKind::Fifo, ..file("", b"", &blobs) };
    let root = Directory::store(&[fifo, file("file", b"content", &blobs)], &blobs).unwrap();
    let restored = bring_back(root, &blobs, &to(target.path()));
    assert_eq!((restored.verified, restored.problems.1), (2, 0), "{:?}", restored.problems);
    for name in ["fifo", "file"] {
        let (left, _) = sys::xattrs(sys::On::Name(fd.as_fd(), name.as_bytes())).unwrap();
        assert_eq!(left, [], "{name}");
        let mode = fs::metadata(target.path().join(name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640, "{name}");
    }
}

/// Attributes and owners count as much as permissions.
#[test]
fn verify_finds_attributes_and_owners_that_differ() {
    let target = tempfile::tempdir().unwrap();
    let blobs = MemoryBlobs::default();
    let xattr = |value: &[u8]| crate::tree::Xattr { name: b"user.note".to_vec(), value: value.to_vec() };
    let noted = |name, value| {
        let mut entry = file(name, b"x", &blobs);
        entry.meta.xattrs.push(xattr(value));
        entry
    };
    let entries = [noted("changed", b"1"), file("more", b"x", &blobs), file("owner", b"x", &blobs)];
    let root = Directory::store(&entries, &blobs).unwrap();
    let restored = bring_back(root, &blobs, &to(target.path()));
    let all = if is_root() { 3 } else { 2 };
    assert_eq!((restored.verified, restored.problems.1), (3, 0), "{:?}", restored.problems);
    let fd = sys::open_root(target.path()).unwrap();
    for name in [&b"changed"[..], b"more"] {
        sys::set_xattr(sys::On::Name(fd.as_fd(), name), &xattr(b"2")).unwrap();
    }
    if is_root() {
        std::os::unix::fs::chown(target.path().join("owner"), Some(12), None).unwrap();
        fs::set_permissions(target.path().join("owner"), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let again = bring_back(root, &blobs, &to(target.path()));
    let mut found: Vec<_> = again.problems.0.iter().filter(|p| p.contains("is not what")).cloned().collect();
    found.sort();
    assert_eq!(found.len(), all, "{found:?}");
    assert_eq!(found[0], "/changed: is not what the backup holds: its attribute user.note differs");
    assert_eq!(found[1], "/more: is not what the backup holds: it has the attribute user.note");
    if is_root() {
        assert_eq!(found[2], "/owner: is not what the backup holds: its owner differs");
    }
}

/// Content counts most: an attribute that cannot be set is named, and the file is there.
#[test]
fn what_cannot_be_set_is_named_and_the_file_is_there() {
    let target = tempfile::tempdir().unwrap();
    let blobs = MemoryBlobs::default();
    let hash = blobs.add(BlobKind::File, bytes::Bytes::from_static(b"content"));
    let unknown = crate::tree::Xattr { name: b"nobody.knows".to_vec(), value: vec![1] };
    let file = Entry {
        name: b"file".to_vec(),
        kind: EntryKind::File(Content {
            size: 7,
            depth: 0,
            pieces: vec![Piece { hash: Some(hash), len: 7 }],
        }),
        meta: Meta { mode: 0o640, xattrs: vec![unknown], ..Meta::default() },
        origin: Origin::default(),
    };
    let root = Directory::store(&[file], &blobs).unwrap();
    let restored = bring_back(root, &blobs, &to(target.path()));
    assert_eq!(
        (restored.files, restored.verified, restored.problems.1),
        (1, 1, 1),
        "{:?}",
        restored.problems
    );
    assert!(restored.problems.0[0].contains("its attribute nobody.knows cannot be set"));
    let there = target.path().join("file");
    assert_eq!(fs::read(&there).unwrap(), b"content");
    assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn times_before_1970_and_far_ahead_come_back() {
    let target = tempfile::tempdir().unwrap();
    let blobs = MemoryBlobs::default();
    let entry = |name: &str, secs| Entry {
        name: name.into(),
        kind: EntryKind::Symlink(b"x".to_vec()),
        meta: Meta { mode: 0o777, mtime: Time { secs, nanos: 5 }, ..Meta::default() },
        origin: Origin::default(),
    };
    let root = Directory::store(&[entry("a", -1_000), entry("b", 4_102_444_800)], &blobs).unwrap();
    let restored = bring_back(root, &blobs, &to(target.path()));
    assert_eq!((restored.verified, restored.problems.1), (2, 0), "{:?}", restored.problems);
}

#[derive(Debug, Clone)]
enum Make {
    File(u8, Vec<u16>),
    Directory(u8),
    Link(u8, u8),
    Symlink(u8),
    Mode(u8, u16),
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        (any::<u8>(), proptest::collection::vec(any::<u16>(), 0..4)).prop_map(|(n, c)| Make::File(n, c)),
        any::<u8>().prop_map(Make::Directory),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Make::Link(a, b)),
        any::<u8>().prop_map(Make::Symlink),
        (any::<u8>(), any::<u16>()).prop_map(|(n, m)| Make::Mode(n, m & 0o777)),
    ]
}

/// A few names in a few directories, so that what is made meets what was made.
fn place(root: &Path, n: u8) -> PathBuf {
    let mut path = root.to_path_buf();
    for level in 0..n % 4 {
        path.push(format!("d{}", (n >> 2 >> level) % 2));
    }
    path.join(format!("n{}", n % 7))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_tree_comes_back(makes in proptest::collection::vec(make(), 0..40)) {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = source.path().canonicalize().unwrap();
        for m in &makes {
            let n = match m { Make::File(n, _) | Make::Directory(n) | Make::Link(n, _) | Make::Symlink(n) | Make::Mode(n, _) => *n };
            let path = place(&source, n);
            let _ = fs::create_dir_all(path.parent().unwrap());
            let _ = match m {
                Make::File(_, parts) => {
                    let content: Vec<u8> = parts.iter().flat_map(|p| noise(u64::from(*p), usize::from(*p) * 5)).collect();
                    fs::write(&path, content)
                }
                Make::Directory(_) => fs::create_dir(&path),
                Make::Link(_, to) => fs::hard_link(place(&source, *to), &path),
                Make::Symlink(to) => symlink(format!("n{to}"), &path),
                Make::Mode(_, mode) if !path.is_symlink() => fs::set_permissions(&path, fs::Permissions::from_mode(u32::from(*mode) | 0o700)),
                Make::Mode(..) => Ok(()),
            };
        }
        let blobs = MemoryBlobs::default();
        let walked = back_up(&source, None, &blobs);
        prop_assert_eq!(walked.problems.1, 0);
        let restored = bring_back(walked.root, &blobs, &to(target.path()));
        prop_assert_eq!(restored.problems.1, 0, "{:?}", restored.problems);
        prop_assert_eq!(picture(&under(target.path(), &source)), picture(&source));
        let again = back_up(&source, Some(walked.root), &blobs);
        prop_assert_eq!(at(again.root, &source, &blobs), at(walked.root, &source, &blobs));
        prop_assert_eq!(again.files_read, 0);
    }
}
