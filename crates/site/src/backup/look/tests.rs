//! How much one answer holds.

use super::*;

/// Takes changes with paths of so many bytes until there is no room; how many there are then.
fn taken(len: usize) -> FileChanges {
    let mut found = Found::default();
    let path = vec![b'x'; len];
    let change = Change { path, kind: ChangeKind::Added, before: 0, after: 1 };
    while found.take(&change) {}
    found.all
}

#[test]
fn a_comparison_that_has_no_room_says_so() {
    let many = taken(10);
    assert!(many.truncated && many.changes.len() == MAX_API_ROWS as usize);
    let long = taken(4096);
    assert!(long.truncated && long.changes.len() == MAX_DIFF / 4096);
    let mut few = Found::default();
    for _ in 0..MAX_API_ROWS {
        let change = Change { path: b"/x".to_vec(), kind: ChangeKind::Type, before: 1, after: 1 };
        assert!(few.take(&change));
    }
    assert!(!few.all.truncated, "all there is");
}
