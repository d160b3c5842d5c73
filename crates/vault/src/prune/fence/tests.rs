use super::*;
use crate::prune::tests::{Hourly, World, prune, server, values};
use std::cell::RefCell;

/// Whose writers a prune by `vault` finds under way.
fn writers(world: &World, vault: &crate::vault::Vault) -> Vec<Writer> {
    let prune = prune(world, vault, &Hourly);
    let plan = prune.plan().unwrap();
    let seen = RefCell::new(Vec::new());
    prune
        .execute(&plan, &|waiting| {
            seen.borrow_mut().push(waiting.writer);
            Patience::Fence
        })
        .unwrap();
    seen.into_inner()
}

#[test]
fn whose_a_session_is_goes_by_the_index_one_process_has_open() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index.redb");
    let vault = world.open_with(Some(index.clone()));
    let here = vault.begin(server(1)).unwrap();
    let map = world.map(&here, None, &values(1, 3)).unwrap();
    assert_eq!(writers(&world, &vault), [Writer::Here]);
    assert!(matches!(here.commit(world.body(map)), Err(VaultError::Fenced(_))));
    // It dies with one under way.
    std::mem::forget(vault.begin(server(1)).unwrap());
    let other = world.open();
    assert_eq!(writers(&world, &other), [Writer::Other]);
    std::mem::forget(vault.begin(server(1)).unwrap());
    // What is forgotten keeps the index open: a copy stands for it.
    let copy = dir.path().join("copy.redb");
    vault.index().settle().unwrap();
    std::fs::copy(&index, &copy).unwrap();
    let again = world.open_with(Some(copy));
    assert_eq!(writers(&world, &again), [Writer::Gone]);
    assert_eq!(writers(&world, &again), [], "it is ended");
}

/// A prune beside a long backup leaves alone what that has stored so far.
#[test]
fn packs_of_a_session_under_way_are_no_waste() {
    let world = World::new();
    let vault = world.open();
    world.snapshot(&vault, server(1), &values(1, 10));
    let session = vault.begin(server(2)).unwrap();
    let map = world.map(&session, None, &values(100, 40)).unwrap();
    assert!(!vault.being_written().is_empty());
    let prune = prune(&world, &vault, &Hourly);
    let plan = prune.plan().unwrap();
    assert_eq!((plan.packs_deleted, plan.packs_repacked), (0, 0), "{plan:?}");
    session.commit(world.body(map)).unwrap();
    assert!(vault.being_written().is_empty());
    // One that comes to nothing leaves waste.
    let session = vault.begin(server(2)).unwrap();
    world.map(&session, None, &values(500, 40)).unwrap();
    drop(session);
    assert!(prune.plan().unwrap().packs_deleted > 0);
    world.assert_whole("nothing that is needed went");
}
