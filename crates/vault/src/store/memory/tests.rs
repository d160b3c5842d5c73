use super::*;
use crate::store::tests::{keeps_its_promises, listing, name};
use lifeboat_base::ManualClock;
use std::time::Duration;

#[test]
fn it_keeps_its_promises() {
    keeps_its_promises(&MemoryStore::new("memory"));
}

#[test]
fn each_fault_does_what_it_says() {
    let a = name("a");
    let body = Bytes::from_static(b"body");
    for (fault, there, then) in [
        (Fault::Before, false, true),
        (Fault::LostReply, true, true),
        (Fault::CutBefore, false, false),
        (Fault::CutAfter, true, false),
        (Fault::NoSpace, false, true),
        (Fault::Denied, false, true),
    ] {
        let store = MemoryStore::new("memory");
        store.fail(2, fault);
        assert!(store.size(&a).is_err_and(|e| matches!(e, StoreError::NotFound(_))));
        assert!(store.put_new(&a, body.clone()).is_err(), "{fault:?}");
        assert_eq!(store.peek(&a).is_some(), there, "{fault:?}");
        assert_eq!(store.put_new(&a, body.clone()).is_ok(), then, "{fault:?}");
        store.restore();
        assert_eq!(store.put_new(&a, body.clone()).unwrap(), Put::Created, "asked again: {fault:?}");
        assert_eq!(store.calls(), 4);
    }
}

#[test]
fn flaky_calls_follow_their_seed() {
    let run = |seed| {
        let store = MemoryStore::new("memory");
        store.flaky(seed, 300);
        (0..200).map(|n| store.put_new(&name(&format!("{n}")), Bytes::new()).is_ok()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let failed = run(1).iter().filter(|ok| !**ok).count();
    assert!((20..120).contains(&failed), "{failed} of 200 failed");
}

#[test]
fn damage_is_done_to_the_bit() {
    let store = MemoryStore::new("memory");
    let (a, b) = (name("a"), name("b"));
    store.put_new(&a, Bytes::from_static(&[0, 0])).unwrap();
    store.put_new(&b, Bytes::from_static(b"bb")).unwrap();
    assert!(store.damage(&a, 9));
    assert!(!store.damage(&a, 16));
    assert_eq!(store.peek(&a).unwrap(), &[0, 2][..]);
    assert!(store.swap(&a, &b));
    assert_eq!(store.peek(&b).unwrap(), &[0, 2][..]);
    assert!(store.truncate(&b, 1));
    assert_eq!(store.used(), 3);
    let fork = store.fork();
    assert!(store.remove(&a));
    assert_eq!(store.used(), 1);
    assert_eq!(listing(&fork, ""), [("a".into(), 2), ("b".into(), 1)]);
}

#[test]
fn a_lock_holds_until_its_time_and_is_never_made_shorter() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::with_locks("memory", clock.clone());
    let a = name("a");
    store.put_new(&a, Bytes::new()).unwrap();
    let day = Duration::from_secs(86_400);
    let until = WallTime(clock.wall().0 + 2 * day.as_nanos() as u64);
    store.lock(&a, until).unwrap();
    store.lock(&a, WallTime(0)).unwrap();
    clock.advance(day);
    assert!(matches!(store.delete(&a), Err(StoreError::Locked { until: Some(t), .. }) if t == until));
    clock.advance(day);
    store.delete(&a).unwrap();
    let without = MemoryStore::new("memory");
    assert!(matches!(without.lock(&a, until), Err(StoreError::Denied { .. })));
}

#[test]
fn room_and_fresh_listings() {
    let store = MemoryStore::new("memory");
    store.set_room(Some(4));
    store.put_new(&name("a"), Bytes::from_static(b"1234")).unwrap();
    assert!(matches!(store.put_new(&name("b"), Bytes::from_static(b"1")), Err(StoreError::NoSpace(_))));
    store.delete(&name("a")).unwrap();
    store.hide_fresh(true);
    store.put_new(&name("b"), Bytes::from_static(b"1")).unwrap();
    assert_eq!(listing(&store, ""), []);
    store.hide_fresh(false);
    assert_eq!(listing(&store, ""), [("b".into(), 1)]);
}

#[test]
fn the_hook_sees_a_call_before_it_happens() {
    let store = Arc::new(MemoryStore::new("memory"));
    store.keep_log();
    let inner = Arc::downgrade(&store);
    store.on_call(move |call| {
        if call.method == Method::Put {
            assert!(inner.upgrade().unwrap().names().is_empty());
        }
    });
    store.put_new(&name("a"), Bytes::new()).unwrap();
    store.no_hook();
    store.delete(&name("a")).unwrap();
    let log: Vec<_> = store.log().into_iter().map(|c| (c.number, c.method, c.name)).collect();
    assert_eq!(log, [(1, Method::Put, "a".to_string()), (2, Method::Delete, "a".to_string())]);
}
