use super::*;
use crate::blob::{BlobError, MemoryBlobs};
use crate::fuse::Detached;
use crate::testing::{Hook, at, back_up, later, noise, options};
use fuser::{FileAttr, FileHandle, Filesystem, INodeNo, ReplyAttr, ReplyDirectory, Request};
use lifeboat_base::ManualClock;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

/// Directories above a test's own: their times change while other tests run.
const ABOVE: usize = 3;

fn tree() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("data");
    fs::create_dir_all(root.join("a/b")).unwrap();
    for n in 0..50 {
        fs::write(root.join(format!("a/{n}")), noise(n, 1000 + n as usize)).unwrap();
    }
    fs::write(root.join("a/b/large"), noise(99, 3_000_000)).unwrap();
    (dir, root)
}

#[test]
fn what_did_not_change_is_not_read_and_costs_nothing() {
    let (_dir, root) = tree();
    let blobs = MemoryBlobs::default();
    let first = back_up(&root, None, &blobs);
    assert_eq!((first.files, first.files_read, first.problems.1), (51, 51, 0));
    let (stored, path) = (blobs.len(), root.clone());
    let second = back_up(&root, Some(first.root), &blobs);
    assert_eq!((second.files, second.files_read), (51, 0));
    assert_eq!((second.bytes, second.bytes_read), (first.bytes, 0));
    let there = |root: Hash| at(root, &path, &blobs);
    assert_eq!(there(second.root), there(first.root));
    assert!(blobs.len() <= stored + ABOVE, "{} new blobs", blobs.len() - stored);

    fs::write(root.join("a/b/large"), noise(98, 10)).unwrap();
    let third = back_up(&root, Some(second.root), &blobs);
    assert_eq!(third.files_read, 1);
    assert_ne!(there(third.root), there(first.root));
}

/// A file system's clock ticks: what changed just now may change again and keep its times.
#[test]
fn what_had_just_changed_is_read_again_the_next_time() {
    let (_dir, root) = tree();
    fs::hard_link(root.join("a/1"), root.join("b")).unwrap();
    let blobs = MemoryBlobs::default();
    let of = |previous: Option<Hash>, clock: &ManualClock| {
        let previous = previous.map(|root| Tree::new(&blobs, root));
        walk(&options(&root), previous, &blobs, &Monitor::default(), clock).unwrap()
    };
    let newest = rustix::fs::stat(root.join("b")).unwrap();
    let clock = ManualClock::default();
    let at = |secs: i64| clock.set_wall(WallTime((newest.st_ctime + secs) as u64 * 1_000_000_000));
    at(1);
    let first = of(None, &clock);
    assert_eq!((first.files, first.files_read), (52, 51));
    at(4);
    let second = of(Some(first.root), &clock);
    assert_eq!((second.files_read, second.problems.1), (51, 0), "as if everything could have changed");
    let third = of(Some(second.root), &clock);
    assert_eq!(third.files_read, 0, "older than any tick");
    at(-3600);
    let fourth = of(None, &clock);
    assert_eq!(of(Some(fourth.root), &clock).files_read, 51, "a clock that was put back proves nothing");
}

#[test]
fn what_the_store_lost_is_read_again() {
    let (_dir, root) = tree();
    let blobs = MemoryBlobs::default();
    let first = back_up(&root, None, &blobs);
    let lost = blake3::hash(&fs::read(root.join("a/7")).unwrap());
    blobs.remove(&lost);
    let second = back_up(&root, Some(first.root), &blobs);
    assert_eq!(second.files_read, 1);
    assert!(blobs.has(BlobKind::File, &lost).unwrap());
}

#[test]
fn patterns_links_and_paths() {
    let (_dir, root) = tree();
    symlink("/etc", root.join("a/etc")).unwrap();
    let blobs = MemoryBlobs::default();
    let mut options = options(&root);
    options.paths = vec![root.join("a/b"), root.join("a/etc"), root.join("a/1"), root.join("missing")];
    options.exclude = Exclude::new(&["large".into()], &[]).unwrap();
    let walked = walk(&options, None, &blobs, &Monitor::default(), &later()).unwrap();
    let tree = Tree::new(&blobs, walked.root);
    let at = |p: &str| tree.at(root.join(p).as_os_str().as_encoded_bytes());
    assert!(matches!(at("a/etc").unwrap().kind, EntryKind::Symlink(t) if t == b"/etc"));
    assert!(at("a/1").is_ok() && at("a/2").is_err() && at("a/b/large").is_err());
    assert_eq!(walked.problems.1, 2);
    assert!(walked.problems.0[0].contains("missing: No such file or directory"), "{:?}", walked.problems);
    assert!(
        walked.problems.0[1]
            .ends_with("a/etc: only this symbolic link is kept; give /etc for what it leads to"),
        "{:?}",
        walked.problems
    );
}

#[test]
fn a_link_that_was_given_is_named_unless_it_leads_to_what_is_kept() {
    let (_dir, root) = tree();
    symlink("b", root.join("a/link")).unwrap();
    symlink("nothing", root.join("a/lost")).unwrap();
    let problems = |paths: &[&str]| {
        let mut options = options(&root);
        options.paths = paths.iter().map(|p| root.join(p)).collect();
        walk(&options, None, &MemoryBlobs::default(), &Monitor::default(), &later()).unwrap().problems.0
    };
    assert!(problems(&["a/link"])[0].ends_with("/a/b for what it leads to"));
    assert!(problems(&["a/link", "a/b"]).is_empty());
    assert!(problems(&["a"]).is_empty(), "below a path that is kept a link is a link");
    let lost = problems(&["a/lost"]);
    assert!(lost[0].ends_with("only this symbolic link is kept; what it leads to is not there"), "{lost:?}");
}

/// What nobody could bring back is not a backup of nothing that looks like one.
#[test]
fn a_path_of_the_kernels_own_is_named() {
    let blobs = MemoryBlobs::default();
    for path in ["/proc", "/proc/sys/kernel"] {
        let walked = back_up(Path::new(path), None, &blobs);
        assert_eq!(
            walked.problems,
            (
                vec![
                    "/proc: is left out: what is there is the kernel's own and cannot be brought back".into()
                ],
                1
            ),
            "{path}"
        );
    }
}

/// A directory with one name that is longer than Linux's own file systems have any.
struct LongNames(Vec<String>);

impl Filesystem for LongNames {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let epoch = std::time::UNIX_EPOCH;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let attributes = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: fuser::FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&std::time::Duration::ZERO, &attributes);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (n, name) in self.0.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(n as u64 + 2), n as u64 + 1, fuser::FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[test]
fn names_that_are_too_long_are_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let at = tempfile::tempdir().unwrap();
    let names = ["n".repeat(300), "m".repeat(400) + ".tmp"];
    let mounted = Detached::serve(LongNames(names.to_vec()), "long", 1, false).unwrap();
    mounted.attach(at.path()).unwrap();
    let mut options = options(at.path());
    options.exclude = Exclude::new(&["*.tmp".into()], &[]).unwrap();
    let walked = walk(&options, None, &MemoryBlobs::default(), &Monitor::default(), &later());
    crate::fuse::detach(at.path()).unwrap();
    let (problems, count) = walked.unwrap().problems;
    assert_eq!(count, 1, "{problems:?}");
    assert!(problems[0].ends_with("nnn: is left out: its name is longer than 255 bytes"), "{problems:?}");
}

#[test]
fn nothing_to_back_up_is_an_error() {
    let blobs = MemoryBlobs::default();
    let mut options = options(Path::new("/nowhere"));
    let error = walk(&options, None, &blobs, &Monitor::default(), &later()).unwrap_err().to_string();
    assert_eq!(error, "nothing to back up: /nowhere: No such file or directory (os error 2)");
    // Also where what is above it is there.
    options.paths = vec!["/tmp/nowhere".into()];
    assert!(walk(&options, None, &blobs, &Monitor::default(), &later()).is_err());
    options.paths = vec!["relative".into()];
    assert!(walk(&options, None, &blobs, &Monitor::default(), &later()).is_err());
    options.paths.clear();
    assert!(walk(&options, None, &blobs, &Monitor::default(), &later()).is_err());
}

/// A path that vanishes while the rest is read is named, and the rest goes on.
#[test]
fn what_vanishes_is_named_and_the_rest_goes_on() {
    let (_dir, root) = tree();
    let blobs = MemoryBlobs::default();
    let once = AtomicBool::new(false);
    let gone = root.join("a/b");
    let sink = Hook {
        blobs: &blobs,
        hook: |_, _| {
            if !once.swap(true, Ordering::SeqCst) {
                fs::remove_dir_all(&gone).unwrap();
            }
        },
    };
    // The first blob is stored before the walker comes to the files that wait behind it.
    let mut options = options(&root);
    options.readers = 1;
    for n in 0..500 {
        fs::write(gone.join(format!("small-{n}")), noise(1000 + n, 10)).unwrap();
    }
    let walked = walk(&options, None, &sink, &Monitor::default(), &later()).unwrap();
    assert!(walked.problems.1 > 0);
    assert!(
        walked.problems.0.iter().all(|p| p.contains("vanished while") || p.contains("No such file")),
        "{:?}",
        walked.problems
    );
    let tree = Tree::new(&blobs, walked.root);
    assert!(tree.at(root.join("a/49").as_os_str().as_encoded_bytes()).is_ok());
}

/// A file that is written while it is read is kept as it was read, named, and read again the next time.
#[test]
fn what_changes_while_it_is_read_is_named_and_never_taken_as_unchanged() {
    let (_dir, root) = tree();
    let blobs = MemoryBlobs::default();
    let large = root.join("a/b/large");
    let sink = Hook {
        blobs: &blobs,
        hook: |kind, _| {
            if kind == BlobKind::File {
                use std::io::Write;
                fs::OpenOptions::new().append(true).open(&large).unwrap().write_all(b"more").unwrap();
            }
        },
    };
    let mut options = options(&large);
    options.readers = 1;
    let walked = walk(&options, None, &sink, &Monitor::default(), &later()).unwrap();
    assert_eq!(walked.problems.1, 1);
    assert!(walked.problems.0[0].ends_with("changed while it was read; kept as it was read"));
    let again = back_up(&large, Some(walked.root), &blobs);
    assert_eq!((again.files_read, again.problems.1), (1, 0));
    assert_eq!(again.bytes, fs::metadata(&large).unwrap().len());
}

/// Two names of a file that changed between them, its size the same: neither gets the other's content.
#[test]
fn a_second_name_is_read_again_when_the_file_changed_since_the_first() {
    let (_dir, root) = tree();
    let links = root.join("links");
    fs::create_dir(&links).unwrap();
    fs::write(links.join("a"), noise(1, 5000)).unwrap();
    fs::hard_link(links.join("a"), links.join("b")).unwrap();
    let blobs = MemoryBlobs::default();
    let once = AtomicBool::new(false);
    let sink = Hook {
        blobs: &blobs,
        hook: |kind, _| {
            if kind == BlobKind::File && !once.swap(true, Ordering::SeqCst) {
                use std::os::unix::fs::FileExt;
                let file = fs::OpenOptions::new().write(true).open(links.join("a")).unwrap();
                file.write_all_at(b"changed", 0).unwrap();
            }
        },
    };
    let mut options = options(&links);
    options.readers = 1;
    let walked = walk(&options, None, &sink, &Monitor::default(), &later()).unwrap();
    let now = blake3::hash(&fs::read(links.join("a")).unwrap());
    let tree = Tree::new(&blobs, walked.root);
    let entry = tree.at(links.join("b").as_os_str().as_encoded_bytes()).unwrap();
    let EntryKind::File(content) = entry.kind else { panic!() };
    assert_eq!(content.pieces[0].hash, Some(now));
}

/// What must never be kept is not, by whatever name it is asked for.
#[test]
fn a_directory_that_is_forbidden_is_left_out_by_any_name() {
    let (_dir, root) = tree();
    let (own, link) = (root.join("own"), root.join("link"));
    fs::create_dir(&own).unwrap();
    fs::write(own.join("key"), "secret").unwrap();
    symlink(&own, &link).unwrap();
    for path in [root.clone(), own.clone(), own.join("key"), link.join("key")] {
        let blobs = MemoryBlobs::default();
        let mut options = options(&path);
        options.paths.push(root.join("a"));
        options.exclude = Exclude::new(&[], std::slice::from_ref(&link)).unwrap();
        let walked = walk(&options, None, &blobs, &Monitor::default(), &later()).unwrap();
        let key = own.join("key");
        assert!(Tree::new(&blobs, walked.root).at(key.as_os_str().as_encoded_bytes()).is_err(), "{path:?}");
        assert!(!blobs.has(BlobKind::File, &blake3::hash(b"secret")).unwrap(), "{path:?}");
        assert!(walked.problems.0.iter().any(|p| p.contains("is left out: Lifeboat keeps")), "{path:?}");
    }
}

/// A site's own directory is nobody's to read, also through an agent that happens to be on its host.
#[test]
fn a_sites_own_directory_is_left_out() {
    let (_dir, root) = tree();
    let site = root.join("site");
    fs::create_dir_all(site.join("keys")).unwrap();
    fs::write(site.join("site.toml"), "").unwrap();
    fs::write(site.join("keys/vault.key"), "secret").unwrap();
    // One of the two alone may be anybody's.
    fs::create_dir_all(root.join("other/keys")).unwrap();
    fs::write(root.join("other/keys/mine"), "mine").unwrap();
    for path in [root.clone(), site.clone(), site.join("keys"), site.join("keys/vault.key")] {
        let blobs = MemoryBlobs::default();
        let mut options = options(&path);
        options.paths.push(root.join("other"));
        let walked = walk(&options, None, &blobs, &Monitor::default(), &later()).unwrap();
        assert!(!blobs.has(BlobKind::File, &blake3::hash(b"secret")).unwrap(), "{path:?}");
        assert!(blobs.has(BlobKind::File, &blake3::hash(b"mine")).unwrap(), "{path:?}");
        assert_eq!(walked.problems.1, 1, "{:?}", walked.problems);
        assert!(walked.problems.0[0].contains("site: is left out: Lifeboat keeps"), "{:?}", walked.problems);
    }
}

struct Full;

impl BlobSink for Full {
    fn has(&self, _: BlobKind, _: &Hash) -> Result<bool, BlobError> {
        Ok(false)
    }

    fn put(&self, _: BlobKind, _: Hash, _: bytes::Bytes) -> Result<(), BlobError> {
        Err(BlobError::Store("no room".into()))
    }
}

#[test]
fn a_store_that_fails_ends_the_walk_without_a_tree() {
    let (_dir, root) = tree();
    let error = walk(&options(&root), None, &Full, &Monitor::default(), &later()).unwrap_err();
    assert_eq!(error.to_string(), "no room");
}

#[test]
fn a_walk_can_be_cancelled() {
    let (_dir, root) = tree();
    let monitor = Monitor::default();
    monitor.cancel();
    let error = walk(&options(&root), None, &MemoryBlobs::default(), &monitor, &later()).unwrap_err();
    assert!(matches!(error, FilesError::Cancelled));
}

/// A sink that finds the first directory it is given to be more than a tree can say.
struct Narrow(MemoryBlobs, AtomicBool);

impl BlobSink for Narrow {
    fn has(&self, kind: BlobKind, hash: &Hash) -> Result<bool, BlobError> {
        self.0.has(kind, hash)
    }

    fn put(&self, kind: BlobKind, hash: Hash, blob: bytes::Bytes) -> Result<(), BlobError> {
        match kind == BlobKind::Tree && !self.1.swap(true, Ordering::Relaxed) {
            true => Err(BlobError::TooLarge("has too many entries with long names".into())),
            false => self.0.put(kind, hash, blob),
        }
    }
}

#[test]
fn a_directory_nobody_can_keep_is_named_and_the_rest_goes_on() {
    let (_dir, root) = tree();
    let sink = Narrow(MemoryBlobs::default(), false.into());
    let walked = walk(&options(&root), None, &sink, &Monitor::default(), &later()).unwrap();
    let (problems, count) = walked.problems;
    assert_eq!(count, 1, "{problems:?}");
    assert!(
        problems[0].contains("too many entries with long names: all below it is left out"),
        "{problems:?}"
    );
    let tree = Tree::new(&sink.0, walked.root);
    assert!(tree.at(root.join("a").as_os_str().as_bytes()).is_ok());
}
