use super::*;
use crate::store::memory::{Fault, Method};
use crate::store::tests::{keeps_its_promises, listing, name};
use crate::store::{DirStore, MemoryStore};
use lifeboat_base::{Entropy as _, ManualClock, SeededEntropy, SystemClock};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

struct Rig {
    zones: Vec<Arc<MemoryStore>>,
    clock: Arc<ManualClock>,
    copies: Arc<Copies>,
}

fn rig(n: usize, quorum: usize) -> Rig {
    let clock = Arc::new(ManualClock::default());
    let zones: Vec<_> = (0..n).map(|z| Arc::new(MemoryStore::new(format!("zone{z}")))).collect();
    let copies = over(&zones, quorum, clock.clone());
    Rig { zones, clock, copies }
}

fn over(zones: &[Arc<MemoryStore>], quorum: usize, clock: Arc<dyn Clock>) -> Arc<Copies> {
    let stores = zones.iter().map(|z| z.clone() as Arc<dyn Store>).collect();
    Arc::new(Copies::new(stores, quorum, clock).unwrap())
}

impl Rig {
    /// Somebody else, who has not found out yet which copies are away.
    fn other(&self) -> Arc<Copies> {
        over(&self.zones, self.copies.quorum, self.clock.clone())
    }

    /// Zones come back, and that is noticed.
    fn back(&self) {
        for zone in &self.zones {
            zone.restore();
        }
        self.clock.advance(Duration::from_secs(10));
        until(|| self.copies.copies.iter().all(|c| !c.is_away()));
    }

    fn holders(&self, object: &str) -> Vec<Option<Bytes>> {
        self.zones.iter().map(|z| z.peek(&name(object))).collect()
    }
}

fn until(done: impl Fn() -> bool) {
    let clock = SystemClock;
    let deadline = clock.monotonic() + Duration::from_secs(20);
    while !done() {
        assert!(clock.monotonic() < deadline, "waited too long");
        std::thread::yield_now();
    }
}

fn any(_: &ObjectName, _: &Bytes) -> bool {
    true
}

fn repair(copies: &Copies) -> Repaired {
    copies.repair(&any, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_string())
}

#[test]
fn it_keeps_its_promises() {
    for (n, quorum) in [(1, 1), (2, 2), (3, 2), (3, 3), (5, 3)] {
        keeps_its_promises(rig(n, quorum).copies.as_ref());
    }
    let dir = tempfile::tempdir().unwrap();
    let zone = |z: &str| Arc::new(DirStore::create(dir.path().join(z)).unwrap()) as Arc<dyn Store>;
    let dirs = Copies::new(vec![zone("a"), zone("b"), zone("c")], 2, Arc::new(SystemClock)).unwrap();
    keeps_its_promises(&dirs);
}

#[test]
fn a_quorum_is_more_than_half() {
    for (n, quorum) in [(2, 1), (3, 1), (4, 2), (3, 4), (0, 0)] {
        let stores = (0..n).map(|_| Arc::new(MemoryStore::default()) as Arc<dyn Store>).collect();
        let refused = Copies::new(stores, quorum, Arc::new(SystemClock)).err().unwrap();
        assert!(refused.to_string().contains("cannot decide anything: more than half"), "{refused}");
    }
}

#[test]
fn every_copy_gets_every_object() {
    let rig = rig(3, 2);
    for (object, size) in [("small", 10), ("packs/aa/large", SMALL)] {
        rig.copies.put_new(&name(object), vec![7; size].into()).unwrap();
        rig.copies.settle();
        assert!(
            rig.holders(object).iter().all(|held| held.as_ref().is_some_and(|b| b.len() == size)),
            "{object}"
        );
    }
    rig.copies.whole().unwrap();
}

#[test]
fn one_of_three_zones_lost_is_not_noticed() {
    let rig = rig(3, 2);
    for lost in 0..3 {
        let object = |n: usize| name(&format!("zone{lost}/{n}"));
        rig.copies.put_new(&object(0), bytes("before")).unwrap();
        rig.copies.settle();
        rig.zones[lost].cut();
        rig.copies.put_new(&object(1), bytes("while")).unwrap();
        rig.copies.put_new(&object(2), vec![1; SMALL].into()).unwrap();
        assert_eq!(rig.copies.put_new(&object(1), bytes("other")).unwrap(), Put::Exists);
        assert_eq!(rig.copies.get(&object(0), Part::All).unwrap(), "before");
        assert_eq!(rig.copies.get(&object(1), Part::Tail(3)).unwrap(), "ile");
        assert_eq!(rig.copies.size(&object(2)).unwrap(), SMALL as u64);
        assert!(matches!(rig.copies.get(&object(9), Part::All), Err(StoreError::NotFound(_))));
        assert_eq!(listing(rig.copies.as_ref(), &format!("zone{lost}/")).len(), 3);
        let health = rig.copies.health();
        let reachable: Vec<bool> = health.iter().map(|h| h.reachable).collect();
        assert_eq!(reachable, (0..3).map(|z| z != lost).collect::<Vec<_>>());
        assert!(health[lost].error.as_ref().unwrap().contains("cut off"));
        // What must reach every copy waits, and says for whom; nothing was deleted.
        let refused = rig.copies.delete(&object(0)).unwrap_err();
        assert!(
            refused.to_string().contains(&format!("zone{lost} does not answer: this copy is away")),
            "{refused}"
        );
        assert!(rig.copies.whole().is_err());
        assert_eq!(rig.holders(object(0).as_str()).iter().flatten().count(), 3);
        rig.back();
        let lacking = rig.copies.whole().unwrap_err();
        assert!(
            lacking.to_string().contains("this copy lacks 2 objects: run `lifeboat vault repair`"),
            "{lacking}"
        );
        assert_eq!(repair(&rig.copies).copied, 2);
        rig.copies.whole().unwrap();
        rig.copies.delete(&object(0)).unwrap();
        assert_eq!(rig.holders(object(0).as_str()).iter().flatten().count(), 0);
    }
}

/// A copy lists what it has while another is still given an object, or has just lost one.
#[test]
fn what_comes_and_goes_between_the_listings_is_not_lacking() {
    let rig = rig(3, 2);
    let (coming, going) = (name("packs/coming"), name("packs/going"));
    for zone in &rig.zones[..2] {
        zone.overwrite(&coming, bytes("x"));
    }
    rig.zones[0].overwrite(&going, bytes("y"));
    let (first, third) = (rig.zones[0].clone(), rig.zones[2].clone());
    rig.zones[2].on_call(move |call| {
        if call.method == Method::Size && call.name == coming.as_str() {
            third.overwrite(&coming, bytes("x"));
        }
    });
    rig.zones[1].on_call(move |call| {
        if call.method == Method::Size && call.name == going.as_str() {
            first.remove(&going);
        }
    });
    rig.copies.whole().unwrap();
    rig.zones[1].remove(&name("packs/coming"));
    assert!(rig.copies.whole().unwrap_err().to_string().contains("lacks 1 objects"));
}

#[test]
fn an_emptied_zone_is_filled_again() {
    let rig = rig(3, 2);
    for n in 0..20 {
        rig.copies.put_new(&name(&format!("o/{n}")), bytes("x")).unwrap();
    }
    rig.copies.settle();
    for object in rig.zones[0].names() {
        rig.zones[0].remove(&object);
    }
    assert_eq!(listing(rig.copies.as_ref(), "o/").len(), 20);
    assert_eq!(rig.copies.get(&name("o/3"), Part::All).unwrap(), "x");
    let mut steps = Vec::new();
    let repaired = rig.copies.repair(&any, &mut |step| {
        steps.push(step.done);
        if step.done < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert_eq!((repaired.unwrap().copied, steps), (5, vec![1, 2, 3, 4, 5]));
    assert_eq!(repair(&rig.copies), Repaired { copied: 15, bytes: 15, left: vec![] });
    assert_eq!(rig.zones[0].names().len(), 20);
}

#[test]
fn too_few_copies_are_an_error_that_says_which_are_away() {
    let rig = rig(3, 2);
    rig.copies.put_new(&name("a"), bytes("a")).unwrap();
    rig.copies.settle();
    rig.zones[0].cut();
    rig.zones[2].cut();
    let refused = rig.copies.put_new(&name("b"), bytes("b")).unwrap_err().to_string();
    assert!(refused.contains("1 of 3 copies answer, 2 must: zone0 does not answer"), "{refused}");
    assert_eq!(rig.copies.get(&name("a"), Part::All).unwrap(), "a", "what one copy has can be read");
    let unknown = rig.copies.get(&name("c"), Part::All).unwrap_err();
    assert!(matches!(unknown, StoreError::Unreachable { .. }), "one copy cannot say that nothing is there");
    assert!(rig.copies.list("", &mut |_| ControlFlow::Continue(())).is_err());
    rig.back();
    // The write that failed may have left something; asked again it succeeds, and another's is refused.
    assert_eq!(rig.copies.put_new(&name("b"), bytes("b")).unwrap(), Put::Created);
    assert_eq!(rig.other().put_new(&name("b"), bytes("B")).unwrap(), Put::Exists);
}

#[test]
fn no_space_is_said_where_it_keeps_from_a_quorum() {
    let rig = rig(3, 2);
    rig.zones[1].set_room(Some(0));
    assert_eq!(rig.copies.put_new(&name("a"), bytes("a")).unwrap(), Put::Created);
    rig.copies.settle();
    rig.zones[0].set_room(Some(0));
    assert!(matches!(rig.copies.put_new(&name("b"), bytes("b")), Err(StoreError::NoSpace(_))));
    rig.zones[0].set_room(None);
    assert_eq!(rig.copies.put_new(&name("b"), bytes("b")).unwrap(), Put::Created);
}

#[test]
fn what_a_stopped_writer_began_is_completed_by_the_next() {
    let rig = rig(3, 2);
    for (held, wins) in [(vec![0], "begun"), (vec![0, 1], "begun"), (vec![1], "next"), (vec![1, 2], "begun")]
    {
        let object = format!("held{held:?}").replace(['[', ']', ',', ' '], "-");
        for zone in held {
            rig.zones[zone].overwrite(&name(&object), "begun");
        }
        let put = rig.copies.put_new(&name(&object), bytes("next")).unwrap();
        rig.copies.settle();
        let expected = if wins == "next" { Put::Created } else { Put::Exists };
        assert_eq!((put, rig.copies.get(&name(&object), Part::All).unwrap()), (expected, bytes(wins)));
        assert_eq!(rig.holders(&object), vec![Some(bytes(wins)); 3], "{object}");
    }
}

#[test]
fn copies_that_all_hold_something_else_are_decided_by_repair_for_the_first() {
    let rig = rig(3, 2);
    for (zone, body) in ["a", "b", "c"].into_iter().enumerate() {
        rig.zones[zone].overwrite(&name("x"), body);
    }
    let refused = rig.copies.put_new(&name("x"), bytes("c")).unwrap_err().to_string();
    assert!(
        refused.contains("the copies hold different objects as x: run `lifeboat vault repair`"),
        "{refused}"
    );
    assert_eq!(rig.copies.get(&name("x"), Part::All).unwrap(), "a");
    assert_eq!(repair(&rig.copies).copied, 2);
    assert_eq!(rig.holders("x"), vec![Some(bytes("a")); 3]);
    assert_eq!(rig.copies.put_new(&name("x"), bytes("c")).unwrap(), Put::Exists);
}

#[test]
fn a_damaged_copy_is_outvoted_found_and_mended() {
    let rig = rig(3, 2);
    let good = |_: &ObjectName, body: &Bytes| body.iter().all(|b| *b == b'g');
    let large = bytes(&"g".repeat(SMALL));
    for (object, body) in [("small", bytes("ggg")), ("packs/large", large)] {
        let object = name(object);
        rig.copies.put_new(&object, body.clone()).unwrap();
        rig.copies.settle();
        for zone in 0..3 {
            rig.zones[zone].damage(&object, 8);
            let sound =
                (0..3).filter(|n| good(&object, &rig.copies.get_copy(*n, &object, Part::All).unwrap()));
            assert_eq!(sound.count(), 2);
            if body.len() < SMALL {
                assert_eq!(rig.copies.get(&object, Part::All).unwrap(), body);
            }
            let mended = rig.copies.mend(&object, &good).unwrap();
            assert_eq!(mended, Mended { good: 2, mended: 1, left: 0, bytes: body.len() as u64 });
            assert_eq!(rig.holders(object.as_str()), vec![Some(body.clone()); 3]);
        }
        // Two damaged alike do not outvote the one that is good.
        rig.zones[0].damage(&object, 8);
        rig.zones[1].damage(&object, 8);
        assert_eq!(rig.copies.mend(&object, &good).unwrap().mended, 2);
        for zone in &rig.zones {
            zone.damage(&object, 8);
        }
        let lost = rig.copies.mend(&object, &good).unwrap();
        assert_eq!(
            (lost.good, lost.mended, lost.left),
            (0, 0, 3),
            "nothing good is left, nothing is taken away"
        );
        assert_eq!(rig.holders(object.as_str()).iter().flatten().count(), 3);
        for zone in &rig.zones {
            zone.damage(&object, 8);
        }
    }
    let only = MemoryStore::default();
    only.put_new(&name("a"), bytes("g")).unwrap();
    assert_eq!(only.mend(&name("a"), &good).unwrap().good, 1);
    assert_eq!(only.mend(&name("b"), &good).unwrap().left, 1);
}

#[test]
fn a_bounded_read_of_all_of_a_small_object_is_agreed_upon() {
    let rig = rig(3, 2);
    for zone in 0..3 {
        let object = name(&format!("slot/{zone}"));
        for (n, other) in rig.zones.iter().enumerate() {
            other.overwrite(&object, if n == zone { "lost" } else { "won" });
        }
        for part in [Part::All, Part::Range { offset: 0, len: 4096 }, Part::Tail(100)] {
            assert_eq!(rig.copies.get(&object, part).unwrap(), "won", "zone {zone}, {part:?}");
        }
    }
}

#[test]
fn a_sound_large_copy_never_gives_way_to_another_without_a_quorum() {
    // Damage in different places, and somebody who looks at one place only.
    let rig = rig(3, 2);
    let pack = name("packs/a");
    rig.copies.put_new(&pack, vec![7; SMALL].into()).unwrap();
    rig.copies.settle();
    rig.zones[0].damage(&pack, 8);
    rig.zones[1].damage(&pack, 16);
    let first_byte = |_: &ObjectName, body: &Bytes| body[0] == 7;
    let before = rig.holders("packs/a");
    for zone in [0, 2] {
        rig.zones[zone].damage(&pack, 24);
        let mended = rig.copies.mend(&pack, &first_byte).unwrap();
        rig.zones[zone].damage(&pack, 24);
        assert_eq!((mended.good, mended.mended), (3, 0));
        assert_eq!(rig.holders("packs/a"), before, "nothing was overwritten");
    }
}

#[test]
fn a_copy_that_hangs_holds_nobody_up_for_long_and_is_away() {
    let mut rig = rig(3, 2);
    Arc::get_mut(&mut rig.copies).unwrap().late = Duration::from_millis(50);
    rig.copies.put_new(&name("a"), bytes("a")).unwrap();
    rig.copies.settle();
    let gate = Arc::new((Mutex::new(true), parking_lot::Condvar::new()));
    let closed = gate.clone();
    rig.zones[1].on_call(move |_| {
        let mut is_closed = closed.0.lock();
        while *is_closed {
            closed.1.wait(&mut is_closed);
        }
    });
    assert_eq!(listing(rig.copies.as_ref(), ""), [("a".into(), 1)]);
    assert_eq!(rig.copies.get(&name("a"), Part::All).unwrap(), "a");
    let health = rig.copies.health();
    assert!(health[0].reachable && !health[1].reachable && health[2].reachable, "{health:?}");
    rig.copies.put_new(&name("b"), vec![1; SMALL].into()).unwrap();
    rig.clock.advance(Duration::from_secs(61));
    assert!(rig.copies.copies[1].is_away(), "it ended nothing for a minute");
    let refused = rig.copies.delete(&name("a")).unwrap_err().to_string();
    assert!(refused.contains("zone1 does not answer: this copy is away: it ends none of"), "{refused}");
    *gate.0.lock() = false;
    gate.1.notify_all();
    rig.zones[1].no_hook();
    rig.back();
    rig.copies.settle();
    rig.copies.delete(&name("a")).unwrap();
}

#[test]
fn a_deletion_that_misses_a_copy_is_none() {
    let rig = rig(3, 2);
    rig.copies.put_new(&name("a"), bytes("a")).unwrap();
    rig.copies.settle();
    rig.zones[1].fail(rig.zones[1].calls() + 1, Fault::Before);
    assert!(matches!(rig.copies.delete(&name("a")), Err(StoreError::Unreachable { .. })));
    assert!(
        rig.copies.whole().is_err(),
        "nobody may conclude from a listing that nothing refers to something"
    );
    rig.back();
    assert!(rig.copies.whole().is_err());
    assert_eq!(rig.copies.get(&name("a"), Part::All).unwrap(), "a");
    rig.copies.delete(&name("a")).unwrap();
    assert_eq!(rig.holders("a"), vec![None; 3]);
}

#[test]
fn a_slow_copy_holds_nobody_up_and_gets_everything() {
    let rig = rig(3, 2);
    let gate = Arc::new((Mutex::new(true), parking_lot::Condvar::new()));
    let closed = gate.clone();
    rig.zones[0].on_call(move |call| {
        let mut is_closed = closed.0.lock();
        while *is_closed && matches!(call.method, Method::Put | Method::Get) {
            closed.1.wait(&mut is_closed);
        }
    });
    // A large object is made by the others, and read from them.
    rig.copies.put_new(&name("packs/a"), vec![1; SMALL].into()).unwrap();
    assert_eq!(rig.copies.get(&name("packs/a"), Part::Tail(1)).unwrap(), vec![1]);
    assert!(rig.zones[0].peek(&name("packs/a")).is_none());
    *gate.0.lock() = false;
    gate.1.notify_all();
    rig.copies.settle();
    assert!(rig.zones[0].peek(&name("packs/a")).is_some());
}

#[test]
fn what_is_locked_is_locked_in_every_copy_that_has_locks() {
    let clock = Arc::new(ManualClock::default());
    let until = clock.wall().saturating_add(Duration::from_secs(60));
    let zones = || ["a", "b"].map(|z| Arc::new(MemoryStore::with_locks(z, clock.clone())));
    let of = |zones: &[Arc<MemoryStore>], more: Vec<Arc<dyn Store>>| {
        let all = zones.iter().map(|z| z.clone() as Arc<dyn Store>).chain(more).collect();
        Copies::new(all, 2, clock.clone()).unwrap()
    };
    let is_locked = |z: &MemoryStore| matches!(z.delete(&name("a")), Err(StoreError::Locked { .. }));

    // One that has none does not keep the others from it.
    let locking = zones();
    let mixed = of(&locking, vec![Arc::new(MemoryStore::new("c"))]);
    mixed.put_new(&name("a"), bytes("a")).unwrap();
    mixed.settle();
    assert!(mixed.has_locks().unwrap());
    assert!(matches!(mixed.lock(&name("a"), until), Ok(Locked::Everywhere)));
    assert!(locking.iter().all(|z| is_locked(z)));
    assert!(mixed.health().iter().all(|h| h.reachable));
    assert!(matches!(mixed.delete(&name("a")), Err(StoreError::Locked { .. })));
    assert_eq!(mixed.get(&name("a"), Part::All).unwrap(), "a");

    // One that does not answer is told, and locked when asked again.
    let locking = zones();
    let all = of(&locking, vec![Arc::new(MemoryStore::with_locks("c", clock.clone()))]);
    all.put_new(&name("a"), bytes("a")).unwrap();
    all.settle();
    locking[0].cut();
    assert!(all.has_locks().unwrap());
    let Ok(Locked::Partly(StoreError::Unreachable { .. })) = all.lock(&name("a"), until) else {
        panic!("one copy does not answer")
    };
    locking[0].restore();
    assert!(!is_locked(&locking[0].fork()) && is_locked(&locking[1]));
    clock.advance(Duration::from_secs(60));
    let until = until.saturating_add(Duration::from_secs(60));
    all.health();
    assert!(matches!(all.lock(&name("a"), until), Ok(Locked::Everywhere)));
    assert!(is_locked(&locking[0]));

    // None has any; or nobody can tell.
    let plain = ["a", "b"].map(|z| Arc::new(MemoryStore::new(z)));
    let none = of(&plain, vec![]);
    none.put_new(&name("a"), bytes("a")).unwrap();
    assert!(!none.has_locks().unwrap());
    assert!(matches!(none.lock(&name("a"), until), Err(StoreError::Denied { .. })));
    plain[1].cut();
    assert!(none.has_locks().is_err());
}

/// Writers of the same names through their own eyes, while zones come and go and calls fail at random: at most one wins
/// each name, a winner's bytes are what is read in the end, and nobody else's.
#[test]
fn writers_of_one_name_never_both_win_whatever_is_away() {
    for (seed, n, quorum) in
        (0..24).map(|s| (s, [2, 3, 3, 4, 5][s as usize % 5], [2, 2, 3, 3, 3][s as usize % 5]))
    {
        let rig = rig(n, quorum);
        let won: Mutex<HashMap<String, Vec<usize>>> = Mutex::default();
        let (end, start) = (AtomicBool::new(false), Barrier::new(3));
        std::thread::scope(|threads| {
            let chaos = threads.spawn(|| {
                let entropy = SeededEntropy::new(seed);
                while !end.load(Ordering::Relaxed) {
                    let zone = &rig.zones[entropy.next_u64() as usize % n];
                    match entropy.next_u64() % 4 {
                        0 => zone.cut(),
                        1 => zone.flaky(entropy.next_u64(), 300),
                        _ => zone.restore(),
                    }
                    rig.clock.advance(Duration::from_secs(6));
                    std::thread::yield_now();
                }
            });
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    let (rig, won, start) = (&rig, &won, &start);
                    threads.spawn(move || {
                        let copies = rig.other();
                        start.wait();
                        for slot in 0..30 {
                            let object = format!("slot/{slot}");
                            for _ in 0..5 {
                                match copies.put_new(&name(&object), bytes(&format!("by {writer}"))) {
                                    Ok(Put::Created) => {
                                        won.lock().entry(object.clone()).or_default().push(writer);
                                        break;
                                    }
                                    Ok(Put::Exists) => break,
                                    Err(_) => {}
                                }
                            }
                        }
                        copies.settle();
                    })
                })
                .collect();
            for writer in writers {
                writer.join().unwrap();
            }
            end.store(true, Ordering::Relaxed);
            chaos.join().unwrap();
        });
        rig.back();
        repair(&rig.copies);
        for (object, winners) in won.lock().iter() {
            assert_eq!(winners.len(), 1, "seed {seed}: {object} was won by {winners:?}");
            let body = bytes(&format!("by {}", winners[0]));
            assert_eq!(rig.copies.get(&name(object), Part::All).unwrap(), body, "seed {seed}: {object}");
            assert_eq!(rig.holders(object), vec![Some(body); n], "seed {seed}: {object}");
        }
        rig.copies.whole().unwrap();
    }
}
