//! Snapshots that somebody opens at the wrong moment.

use super::*;
use crate::store::memory::Method;

/// Somebody opens a snapshot while others of the same plan are being forgotten, or while it is being forgotten itself.
#[test]
fn what_is_opened_while_others_are_forgotten_stays() {
    struct Uses(parking_lot::Mutex<Option<SnapshotId>>);
    impl Keeping for Uses {
        fn policy(&self, owner: &Owner) -> Option<Policy> {
            Hourly.policy(owner)
        }
        fn special(&self, snapshot: &Snapshot) -> Special {
            let used = *self.0.lock() == Some(snapshot.id);
            if used { Special::Keep("it is being read".into()) } else { Special::No }
        }
    }
    for when in ["the other goes", "it is marked", "it goes"] {
        let world = World::new();
        let vault = Arc::new(world.open());
        let expired: Vec<_> = (0..2).map(|n| world.snapshot(&vault, server(1), &values(10 * n, 5))).collect();
        world.pass(86_400);
        world.snapshot(&vault, server(1), &values(100, 3));
        let uses = Arc::new(Uses(parking_lot::Mutex::default()));
        let prune = prune(&world, &vault, &*uses);
        let plan = prune.plan().unwrap();
        let order: Vec<_> = plan.forget.iter().map(|b| b.snapshot.id).collect();
        assert_eq!(order.len(), expired.len());
        let (first, second) = (order[0], order[1]);
        let opened = Arc::new(parking_lot::Mutex::new(None));
        {
            let (uses, vault, opened) = (uses.clone(), Arc::downgrade(&vault), opened.clone());
            world.store.on_call(move |c| {
                let now = match when {
                    "the other goes" => c.method == Method::Delete && c.name.contains(&first.to_string()),
                    "it is marked" => c.method == Method::Put && c.name.contains(&second.to_string()),
                    _ => c.method == Method::Delete && c.name.contains(&second.to_string()),
                };
                if now && uses.0.lock().is_none() {
                    *uses.0.lock() = Some(second);
                    *opened.lock() = Some(!vault.upgrade().unwrap().is_going(&second));
                }
            });
        }
        let report = prune.execute(&plan, &|_| Patience::Fence).unwrap();
        world.store.no_hook();
        let is_open = opened.lock().unwrap();
        assert_eq!(is_open, when != "it goes", "who comes too late is told");
        assert_eq!(vault.snapshot(&second).is_some(), is_open, "{when}: {report:?}");
        if is_open {
            assert_eq!(report.left, [format!("snapshot {second}: it is being read")]);
            assert_eq!(world.assert_whole("while it is read"), 2);
        }
        *uses.0.lock() = None;
        let plan = prune.plan().unwrap();
        prune.execute(&plan, &|_| Patience::Fence).unwrap();
        assert_eq!(world.assert_whole("afterwards"), 1);
    }
}
