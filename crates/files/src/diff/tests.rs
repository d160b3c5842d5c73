use super::*;
use crate::blob::MemoryBlobs;
use crate::testing::back_up;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn every_kind_of_change_is_found_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("same/deep")).unwrap();
    fs::create_dir(path("gone")).unwrap();
    for name in ["same/deep/x", "content", "mode", "type", "gone/y"] {
        fs::write(path(name), name).unwrap();
    }
    let blobs = MemoryBlobs::default();
    let older = back_up(&root, None, &blobs).root;
    fs::write(path("content"), "other").unwrap();
    fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(path("type")).unwrap();
    symlink("content", path("type")).unwrap();
    fs::remove_dir_all(path("gone")).unwrap();
    fs::create_dir(path("new")).unwrap();
    fs::write(path("new/z"), "zz").unwrap();
    let newer = back_up(&root, Some(older), &blobs).root;

    let mut found = Vec::new();
    let (older, newer) = (Tree::new(&blobs, older), Tree::new(&blobs, newer));
    diff(older, newer, &mut |c| {
        let path = crate::show(&c.path).replace(&root.display().to_string(), "");
        found.push((path, c.kind, c.before, c.after));
        true
    })
    .unwrap();
    use ChangeKind::{Added, Content, Metadata, Removed, Type};
    let expected = [
        ("", Metadata, 0, 0),
        ("/content", Content, 7, 5),
        ("/gone", Removed, 0, 0),
        ("/gone/y", Removed, 6, 0),
        ("/mode", Metadata, 4, 4),
        ("/new", Added, 0, 0),
        ("/new/z", Added, 0, 2),
        ("/type", Type, 4, 7),
    ];
    // What is above changes its own times while tests run beside this one.
    let found: Vec<_> = found.into_iter().filter(|f| f.0.is_empty() || !root.starts_with(&f.0)).collect();
    let found: Vec<_> = found.iter().map(|f| (f.0.as_str(), f.1, f.2, f.3)).collect();
    assert_eq!(found, expected);

    let mut first = 0;
    diff(older, newer, &mut |_| {
        first += 1;
        false
    })
    .unwrap();
    assert_eq!(first, 1, "it ends when it is told to");
}
