//! What every store promises, told once and held against each.

use super::*;
use std::sync::Barrier;

pub(crate) fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

pub(crate) fn listing(store: &dyn Store, prefix: &str) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    store
        .list(prefix, &mut |o| {
            all.push((o.name.to_string(), o.size));
            ControlFlow::Continue(())
        })
        .unwrap();
    all.sort();
    all
}

/// Every promise a store makes when nothing fails.
pub(crate) fn keeps_its_promises(store: &dyn Store) {
    one_object(store);
    listings(store);
    one_winner(store);
}

fn one_object(store: &dyn Store) {
    let a = name("promise/aa/one.object");
    let body = Bytes::from_static(b"0123456789");
    assert!(matches!(store.get(&a, Part::All), Err(StoreError::NotFound(n)) if n == a));
    assert!(matches!(store.size(&a), Err(StoreError::NotFound(n)) if n == a));
    assert_eq!(store.put_new(&a, body.clone()).unwrap(), Put::Created);
    assert_eq!(store.put_new(&a, body.clone()).unwrap(), Put::Created, "the same bytes again");
    for other in [&b"0123456780"[..], b"", b"012345678", b"01234567890"] {
        assert_eq!(store.put_new(&a, Bytes::from_static(other)).unwrap(), Put::Exists);
    }
    assert_eq!(store.size(&a).unwrap(), 10);
    let part = |part| store.get(&a, part).unwrap();
    assert_eq!(part(Part::All), body);
    assert_eq!(part(Part::Range { offset: 2, len: 3 }), "234");
    assert_eq!(part(Part::Range { offset: 8, len: 100 }), "89");
    assert_eq!(part(Part::Range { offset: 0, len: u64::MAX }), body);
    assert_eq!(part(Part::Range { offset: 3, len: 0 }), "");
    assert_eq!(part(Part::Range { offset: 10, len: 5 }), "");
    assert_eq!(part(Part::Range { offset: u64::MAX, len: u64::MAX }), "");
    assert_eq!(part(Part::Tail(3)), "789");
    assert_eq!(part(Part::Tail(0)), "");
    assert_eq!(part(Part::Tail(11)), body);
    let empty = name("promise/empty");
    assert_eq!(store.put_new(&empty, Bytes::new()).unwrap(), Put::Created);
    assert_eq!(store.put_new(&empty, Bytes::from_static(b"x")).unwrap(), Put::Exists);
    assert_eq!(store.get(&empty, Part::All).unwrap(), "");
    assert_eq!(store.get(&empty, Part::Tail(5)).unwrap(), "");
    assert_eq!(store.get(&empty, Part::Range { offset: 0, len: 5 }).unwrap(), "");
    store.delete(&a).unwrap();
    store.delete(&a).unwrap();
    assert!(matches!(store.get(&a, Part::Tail(1)), Err(StoreError::NotFound(_))));
    assert_eq!(store.put_new(&a, Bytes::from_static(b"again")).unwrap(), Put::Created);
    store.delete(&a).unwrap();
    store.delete(&empty).unwrap();
    assert_eq!(listing(store, "promise/"), []);
}

fn listings(store: &dyn Store) {
    let all = ["list/a/1", "list/a/2", "list/ab/1", "list/b", "list2/a/1"];
    for (n, object) in all.iter().enumerate() {
        store.put_new(&name(object), vec![b'x'; n].into()).unwrap();
    }
    let sized = |names: &[usize]| names.iter().map(|&n| (all[n].to_string(), n as u64)).collect::<Vec<_>>();
    assert_eq!(listing(store, "list"), sized(&[0, 1, 2, 3, 4]));
    assert_eq!(listing(store, "list/"), sized(&[0, 1, 2, 3]));
    assert_eq!(listing(store, "list/a"), sized(&[0, 1, 2]));
    assert_eq!(listing(store, "list/a/"), sized(&[0, 1]));
    assert_eq!(listing(store, "list/a/2"), sized(&[1]));
    assert_eq!(listing(store, "list/nothing/here"), []);
    let mut seen = 0;
    let mut first = |_| {
        seen += 1;
        ControlFlow::Break(())
    };
    store.list("list/", &mut first).unwrap();
    assert_eq!(seen, 1);
    for object in all {
        store.delete(&name(object)).unwrap();
    }
}

/// Writers of one name, at once: one wins, and its bytes are there.
fn one_winner(store: &dyn Store) {
    for round in 0..8 {
        let slot = name(&format!("slot/{round}"));
        let start = Barrier::new(4);
        let won: Vec<u8> = std::thread::scope(|threads| {
            let writers: Vec<_> = (0..4_u8)
                .map(|n| {
                    let (slot, start) = (&slot, &start);
                    threads.spawn(move || {
                        start.wait();
                        let put = store.put_new(slot, vec![n; 1000].into()).unwrap();
                        (put == Put::Created).then_some(n)
                    })
                })
                .collect();
            writers.into_iter().filter_map(|w| w.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "winners of one name: {won:?}");
        assert_eq!(store.get(&slot, Part::All).unwrap(), vec![won[0]; 1000]);
        store.delete(&slot).unwrap();
    }
}

#[test]
fn a_part_is_cut_where_the_object_ends() {
    assert_eq!(Part::All.within(7), 0..7);
    assert_eq!(Part::Range { offset: u64::MAX, len: 2 }.within(7), 7..7);
    assert_eq!(Part::Range { offset: 3, len: u64::MAX }.within(7), 3..7);
    assert_eq!(Part::Tail(u64::MAX).within(7), 0..7);
}
