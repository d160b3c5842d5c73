use super::*;
use crate::store::{MemoryStore, ObjectInfo, memory::Fault};
use lifeboat_base::{ManualClock, SeededEntropy};
use std::sync::Arc;

/// A store that breaks one promise.
struct Liar {
    store: MemoryStore,
    lie: Lie,
}

#[derive(Clone, Copy, PartialEq)]
enum Lie {
    Overwrites,
    RefusesAndOverwrites,
    IgnoresRanges,
    ListsLate,
    KeepsDeleted,
}

impl Store for Liar {
    fn describe(&self) -> String {
        "s3://liar".into()
    }

    fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Put, StoreError> {
        match self.lie {
            Lie::Overwrites => {
                self.store.overwrite(name, body);
                Ok(Put::Created)
            }
            Lie::RefusesAndOverwrites => {
                let put = self.store.put_new(name, body.clone());
                self.store.overwrite(name, body);
                put
            }
            _ => self.store.put_new(name, body),
        }
    }

    fn get(&self, name: &ObjectName, part: Part) -> Result<Bytes, StoreError> {
        self.store.get(name, if self.lie == Lie::IgnoresRanges { Part::All } else { part })
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.store.size(name)
    }

    fn list(
        &self,
        prefix: &str,
        found: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if self.lie == Lie::ListsLate { Ok(()) } else { self.store.list(prefix, found) }
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        if self.lie == Lie::KeepsDeleted { Ok(()) } else { self.store.delete(name) }
    }
}

#[test]
fn a_good_store_is_usable_and_nothing_stays() {
    let store = MemoryStore::new("memory");
    let verdict = probe(&store, &SeededEntropy::new(1));
    assert!(verdict.usable && !verdict.locks, "{verdict:?}");
    assert_eq!(verdict.text, "memory can hold a vault; it has no locks of its own");
    assert_eq!(verdict.steps.len(), 7);
    assert_eq!(store.names(), []);
    let locking = MemoryStore::with_locks("memory", Arc::new(ManualClock::default()));
    assert!(probe(&locking, &SeededEntropy::new(1)).locks);
}

#[test]
fn each_broken_promise_is_named() {
    for (lie, text) in [
        (Lie::Overwrites, "it accepts a second write of one name"),
        (Lie::RefusesAndOverwrites, "does it all the same"),
        (Lie::IgnoresRanges, "it gives other bytes"),
        (Lie::ListsLate, "it does not list what was just written"),
        (Lie::KeepsDeleted, "it still gives what was deleted"),
    ] {
        let store = Liar { store: MemoryStore::new("s3://liar"), lie };
        let verdict = probe(&store, &SeededEntropy::new(1));
        assert!(!verdict.usable && verdict.text.contains(text), "{}", verdict.text);
        assert!(verdict.text.starts_with("s3://liar cannot hold a vault: it must let Lifeboat "));
    }
}

#[test]
fn a_fault_at_any_call_is_told_and_what_was_written_goes() {
    for (fault, text) in [(Fault::Denied, "does not allow it"), (Fault::Before, "does not answer")] {
        let calls = {
            let store = MemoryStore::new("memory");
            probe(&store, &SeededEntropy::new(1));
            store.calls()
        };
        for call in 1..=calls {
            let store = MemoryStore::new("memory");
            store.fail(call, fault);
            let verdict = probe(&store, &SeededEntropy::new(1));
            assert!(!verdict.usable && verdict.text.contains(text), "{}", verdict.text);
            assert_eq!(store.names(), [], "call {call}");
        }
    }
}
