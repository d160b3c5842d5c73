use super::usage;
use crate::prune::NoTrees;
use crate::snapshot::{Owner, Snapshot, SnapshotBody};
use crate::testing::{Rig, chunk};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{SeededEntropy, ServerId};
use std::sync::Arc;

const CHUNK: u64 = BLOCK as u64;

fn owner(n: u64) -> Owner {
    Owner::Server(ServerId::random(&SeededEntropy::new(n)))
}

/// A snapshot of a disk of 1000 chunks, of which these are set.
fn snapshot(rig: &Rig, owner: Owner, set: &[(u64, u8)]) -> Arc<Snapshot> {
    let session = rig.vault.begin(owner).unwrap();
    let mut map = session.map(None, 1000 * CHUNK).unwrap();
    for (n, value) in set {
        map.set(*n, session.put(crate::Kind::Data, chunk(*value)).unwrap()).unwrap();
    }
    let map = map.finish().unwrap();
    let mut body = rig.body(vec![map]);
    body.disks[0].used = set.len() as u64 * CHUNK;
    session.commit(SnapshotBody { ..body }).unwrap()
}

#[test]
fn what_is_shared_is_nobodys_own() {
    let rig = Rig::new();
    // Ten chunks of the first, five of them the second's too, in other places; the third is a clone of the second.
    let first: Vec<_> = (0..10).map(|n| (n, n as u8 + 1)).collect();
    let second: Vec<_> = (0..10).map(|n| (n + 300, n as u8 + 6)).collect();
    snapshot(&rig, owner(1), &first);
    snapshot(&rig, owner(2), &second);
    let usage_now = usage(&rig.vault, &NoTrees, false, &|_, _, _| true).unwrap();
    assert_eq!((usage_now.total.logical, usage_now.total.unique), (20 * CHUNK, 15 * CHUNK));
    let row = |n: u64| usage_now.owners.iter().find(|r| r.owner == Some(owner(n))).unwrap().clone();
    assert_eq!((row(1).unique, row(2).unique), (10 * CHUNK, 10 * CHUNK));
    assert!(row(1).own > 0 && row(1).own < row(1).stored);
    assert!(row(2).own > 0 && row(2).own < row(2).stored);
    assert_eq!(usage_now.unreferenced, 0);
    assert!((usage_now.dedup_ratio() - 20.0 / 15.0).abs() < 1e-9);
    assert!(usage_now.compression_ratio() > 1.0, "chunks of one byte compress");
    assert!(usage_now.packs_bytes > usage_now.total.stored, "packs have directories");

    snapshot(&rig, owner(3), &second);
    let clone = usage(&rig.vault, &NoTrees, true, &|_, _, _| true).unwrap();
    assert_eq!(clone.total.stored, usage_now.total.stored, "a clone costs nothing");
    assert_eq!(clone.total.logical, 30 * CHUNK);
    for row in &clone.owners {
        let mine = row.owner == Some(owner(1));
        assert_eq!(row.own > 0, mine, "{row:?}");
        assert_eq!(row.by_snapshot.len(), 1);
        assert_eq!(row.by_snapshot[0].own, row.own);
    }
}

#[test]
fn points_of_one_owner_share_what_did_not_change() {
    let rig = Rig::new();
    let base: Vec<_> = (0..100).map(|n| (n, n as u8 + 1)).collect();
    snapshot(&rig, owner(1), &base);
    let mut changed = base.clone();
    changed[5].1 = 200;
    snapshot(&rig, owner(1), &changed);
    let usage = usage(&rig.vault, &NoTrees, true, &|_, _, _| true).unwrap();
    let row = &usage.owners[0];
    assert_eq!((row.snapshots, row.unique), (2, 101 * CHUNK));
    assert_eq!(row.own, row.stored);
    let own: u64 = row.by_snapshot.iter().map(|s| s.own).sum();
    assert!(
        own > 0 && own < row.stored,
        "each has a chunk and two nodes of its own: {own} of {}",
        row.stored
    );
}

#[test]
fn what_was_forgotten_is_referred_to_by_nothing() {
    let rig = Rig::new();
    let snapshot = snapshot(&rig, owner(1), &[(1, 1), (2, 2)]);
    rig.vault.forget(&snapshot.id, lifeboat_base::WallTime(0)).unwrap();
    let usage = usage(&rig.vault, &NoTrees, true, &|_, _, _| true).unwrap();
    assert_eq!((usage.total.stored, usage.total.snapshots, usage.owners.len()), (0, 0, 0));
    assert!(usage.unreferenced > 0);
    assert!((usage.dedup_ratio() - 1.0).abs() < 1e-9);
}
