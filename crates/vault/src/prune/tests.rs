//! Prunes against a world of writers, other pruners and crashes.

mod histories;
mod opened;

use super::{Keeping, NoTrees, Patience, Prune, PrunePlan, PruneReport, Special, Thrift};
use crate::error::VaultError;
use crate::id::{ChunkId, ObjectName, SnapshotId};
use crate::map;
use crate::pack::Kind;
use crate::retention::{Policy, Rule};
use crate::session::Session;
use crate::snapshot::{DiskMap, DiskRoot, Hold, Owner, Snapshot, SnapshotBody, Stats};
use crate::store::MemoryStore;
use crate::vault::{Settings, Vault, VaultOptions};
use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{
    Clock, DiskId, Entropy, Epoch, ManualClock, PointId, Secret, SeededEntropy, Seq, ServerId, WallTime,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SITE_KEY: [u8; 32] = [7; 32];
/// Chunks of every disk: two levels of nodes.
const CHUNKS: u64 = 600;

/// A store, and what time it is.
pub(crate) struct World {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<ManualClock>,
    pub entropy: Arc<SeededEntropy>,
    seq: AtomicU64,
}

/// Content that compresses badly and is told by a number.
fn content(value: u32) -> Bytes {
    let mut bytes = vec![0; 300];
    SeededEntropy::new(u64::from(value)).fill(&mut bytes);
    bytes.into()
}

pub(crate) fn server(n: u64) -> Owner {
    Owner::Server(ServerId::random(&SeededEntropy::new(1000 + n)))
}

impl World {
    pub fn new() -> Self {
        let store = Arc::new(MemoryStore::new("memory"));
        let (clock, entropy) = (Arc::new(ManualClock::default()), Arc::new(SeededEntropy::new(3)));
        Vault::create(&*store, &Secret(SITE_KEY), &*clock, &*entropy).unwrap();
        Self { store, clock, entropy, seq: AtomicU64::new(1) }
    }

    /// A process opens the vault, with an index of its own.
    pub fn open(&self) -> Vault {
        self.open_with(None)
    }

    pub fn open_with(&self, index: Option<std::path::PathBuf>) -> Vault {
        let vault = self.open_on(self.store.clone(), index).unwrap();
        vault.refresh(&|_, _| {}).unwrap();
        vault
    }

    fn open_at(&self, store: Arc<MemoryStore>) -> Result<Vault, VaultError> {
        self.open_on(store, None)
    }

    fn open_on(
        &self,
        store: Arc<MemoryStore>,
        index: Option<std::path::PathBuf>,
    ) -> Result<Vault, VaultError> {
        let settings = Settings {
            workers: 1,
            frame_chunks: 2,
            frame_bytes: 1 << 20,
            pack_bytes: 1500,
            cache_bytes: 1 << 20,
            ..Settings::default()
        };
        let options = VaultOptions { store, site_keys: vec![Secret(SITE_KEY)], index, settings };
        Vault::open(options, self.clock.clone() as Arc<dyn Clock>, self.entropy.clone() as Arc<dyn Entropy>)
    }

    /// Writes a disk with these values at these places, over a snapshot from before.
    pub fn map(
        &self,
        session: &Session,
        base: Option<&Snapshot>,
        set: &[(u64, u32)],
    ) -> Result<DiskMap, VaultError> {
        let base = base.map(|b| b.body.disks[0].map);
        let mut writer = session.map(base, CHUNKS * BLOCK as u64)?;
        for (n, value) in set {
            let id = match value {
                0 => ChunkId::ZERO,
                v => session.put(Kind::Data, content(*v))?,
            };
            writer.set(*n, id)?;
        }
        writer.finish()
    }

    pub fn body(&self, map: DiskMap) -> SnapshotBody {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst);
        SnapshotBody {
            point: Some(PointId { epoch: Epoch(1), seq: Seq(seq) }),
            consistency: 0,
            source_time: self.clock.wall(),
            site_time: self.clock.wall(),
            disks: vec![DiskRoot { disk: DiskId(0), map, used: 0 }],
            tree: None,
            details: Vec::new(),
            stats: Stats::default(),
            locked_until: None,
        }
    }

    pub fn snapshot(&self, vault: &Vault, owner: Owner, set: &[(u64, u32)]) -> Arc<Snapshot> {
        let session = vault.begin(owner).unwrap();
        let map = self.map(&session, None, set).unwrap();
        session.commit(self.body(map)).unwrap()
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub fn now(&self) -> WallTime {
        self.clock.wall()
    }

    pub fn objects(&self, prefix: &str) -> Vec<String> {
        let names = self.store.names();
        names.iter().map(|n| n.to_string()).filter(|n| n.starts_with(prefix)).collect()
    }

    /// Opens the vault as a stranger would, and reads all of it: every snapshot resolves to proven content.
    pub fn assert_whole(&self, when: &str) -> usize {
        let vault = self.open_at(Arc::new(self.store.fork())).unwrap();
        let refreshed = vault.refresh(&|_, _| {}).unwrap();
        assert_eq!(refreshed.damaged, [], "{when}");
        let snapshots = vault.snapshots();
        for snapshot in &snapshots {
            for disk in &snapshot.body.disks {
                map::walk(&vault, &disk.map, &mut |visit| {
                    if let map::Visit::Chunk { id, .. } = visit {
                        vault.read(id)?;
                    }
                    Ok(true)
                })
                .unwrap_or_else(|e| panic!("{when}: snapshot {} is not whole: {e}", snapshot.id));
            }
        }
        snapshots.len()
    }
}

/// One point each hour for two hours.
pub(crate) struct Hourly;

impl Keeping for Hourly {
    fn policy(&self, _: &Owner) -> Option<Policy> {
        Policy::own(&[Rule { every: 3600, keep: 7200 }]).ok()
    }
}

pub(crate) fn prune<'a>(world: &World, vault: &'a Vault, keeping: &'a dyn Keeping) -> Prune<'a> {
    Prune {
        vault,
        keeping,
        trees: &NoTrees,
        now: world.now(),
        thrift: Thrift { unused_percent: 40, small: 1000, many: 4, copy: 1 << 30 },
        watch: &|_, _, _| true,
    }
}

pub(crate) fn run(world: &World, vault: &Vault) -> Result<(PrunePlan, PruneReport), VaultError> {
    let prune = prune(world, vault, &Hourly);
    let plan = prune.plan()?;
    let report = prune.execute(&plan, &|_| Patience::Fence)?;
    Ok((plan, report))
}

pub(crate) fn values(from: u32, count: u32) -> Vec<(u64, u32)> {
    (0..count).map(|n| (u64::from(n) * 7, from + n)).collect()
}

#[test]
fn what_no_rule_keeps_goes_and_takes_its_own_content_along() {
    let world = World::new();
    let vault = world.open();
    let old = world.snapshot(&vault, server(1), &values(1, 20));
    world.pass(3600);
    // Shares ten chunks with the first.
    let kept = world.snapshot(&vault, server(1), &values(11, 20));
    world.pass(6000);
    let before = world.store.used();

    let prune = prune(&world, &vault, &Hourly);
    let plan = prune.plan().unwrap();
    assert_eq!(plan.forget.len(), 1);
    assert_eq!(plan.forget[0].snapshot.id, old.id);
    assert_eq!(plan.forget[0].why, "one each hour for 2 hours: over since 2026-01-01T02:00:00.000Z");
    assert_eq!((plan.kept.len(), plan.staying), (0, 1));
    assert_eq!(world.store.used(), before, "a plan changes nothing");

    let report = prune.execute(&plan, &|_| Patience::GiveUp).unwrap();
    assert_eq!(report.left, [] as [String; 0]);
    assert_eq!((report.forgotten, report.packs_deleted), (1, plan.packs_deleted + plan.packs_repacked));
    assert!(report.packs_deleted > 0 && report.freed > 0);
    assert!(world.store.used() < before);
    assert_eq!(world.assert_whole("after the prune"), 1);
    assert_eq!(vault.snapshots().iter().map(|s| s.id).collect::<Vec<_>>(), [kept.id]);
    assert_eq!(world.objects("sessions/").len() + world.objects("holds/").len(), 0);

    // Another one finds nothing to do.
    let (plan, report) = run(&world, &vault).unwrap();
    assert_eq!((plan.packs_deleted, plan.packs_repacked, plan.forget.len()), (0, 0, 0), "{plan}");
    assert_eq!(report, PruneReport::default());
    assert_eq!(world.objects("prune/").len(), 2, "only the newest claim and plan stay");
}

#[test]
fn what_is_named_locked_in_use_or_newest_stays_and_the_plan_says_why() {
    struct Busy(SnapshotId);
    impl Keeping for Busy {
        fn policy(&self, owner: &Owner) -> Option<Policy> {
            Hourly.policy(owner)
        }
        fn special(&self, snapshot: &Snapshot) -> Special {
            if snapshot.id == self.0 { Special::Keep("mounted".into()) } else { Special::No }
        }
    }
    let world = World::new();
    let vault = world.open();
    let named = world.snapshot(&vault, server(1), &values(1, 3));
    let locked = world.snapshot(&vault, server(1), &values(10, 3));
    let used = world.snapshot(&vault, server(1), &values(20, 3));
    let gone = world.snapshot(&vault, server(1), &values(30, 3));
    let base = world.snapshot(&vault, Owner::Base(ServerId::random(&SeededEntropy::new(5))), &values(40, 3));
    let newest = world.snapshot(&vault, server(1), &values(50, 3));
    vault.set_hold(&named.id, Hold { name: Some("golden".into()), ..Hold::default() }).unwrap();
    let until = world.now().saturating_add(Duration::from_secs(30 * 86_400));
    vault.set_hold(&locked.id, Hold { locked_until: Some(until), ..Hold::default() }).unwrap();
    world.pass(86_400);

    let busy = Busy(used.id);
    let prune = prune(&world, &vault, &busy);
    let plan = prune.plan().unwrap();
    let why = |id| plan.kept.iter().find(|b| b.snapshot.id == id).map(|b| b.why.as_str());
    assert_eq!(why(named.id), Some("named 'golden'"));
    assert_eq!(why(locked.id), Some("locked until 2026-01-31T00:00:00.000Z"));
    assert_eq!(why(used.id), Some("mounted"));
    assert_eq!(why(base.id), Some("a journal stands on it"));
    assert_eq!(why(newest.id), Some("the newest of its owner"));
    assert_eq!(plan.forget.iter().map(|b| b.snapshot.id).collect::<Vec<_>>(), [gone.id]);
    let report = prune.execute(&plan, &|_| Patience::GiveUp).unwrap();
    assert_eq!(report.forgotten, 1);
    assert_eq!(world.assert_whole("after the prune"), 5);
}

#[test]
fn a_lock_or_a_name_that_comes_after_the_plan_counts() {
    let world = World::new();
    let (vault, other) = (world.open(), world.open());
    let first = world.snapshot(&vault, server(1), &values(1, 3));
    let second = world.snapshot(&vault, server(1), &values(10, 3));
    world.snapshot(&vault, server(1), &values(20, 3));
    world.pass(86_400);
    let prune = prune(&world, &vault, &Hourly);
    let plan = prune.plan().unwrap();
    assert_eq!(plan.forget.len(), 2);
    // Another process of the same vault.
    other.refresh(&|_, _| {}).unwrap();
    let until = world.now().saturating_add(Duration::from_secs(60));
    other.set_hold(&first.id, Hold { locked_until: Some(until), ..Hold::default() }).unwrap();
    other.set_hold(&second.id, Hold { name: Some("keep".into()), ..Hold::default() }).unwrap();
    let report = prune.execute(&plan, &|_| Patience::GiveUp).unwrap();
    assert_eq!(report.forgotten, 0);
    assert_eq!(world.assert_whole("after the prune"), 3);
}

#[test]
fn a_locked_or_named_snapshot_is_not_deleted_and_the_date_is_told() {
    let world = World::new();
    let vault = world.open();
    let session = vault.begin(server(1)).unwrap();
    let map = world.map(&session, None, &values(1, 3)).unwrap();
    let until = world.now().saturating_add(Duration::from_secs(3600));
    let body = SnapshotBody { locked_until: Some(until), ..world.body(map) };
    let snapshot = session.commit(body).unwrap();
    let refused = vault.forget(&snapshot.id, world.now()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "refused: it is locked until 2026-01-01T01:00:00.000Z; nobody can delete it before"
    );
    assert!(matches!(refused, VaultError::Refused { until: Some(date), .. } if date == until));
    // Locks only grow.
    let shorter = Hold { locked_until: Some(world.now()), ..Hold::default() };
    let longer = Hold { locked_until: Some(until.saturating_add(Duration::from_secs(1))), ..Hold::default() };
    vault.set_hold(&snapshot.id, longer.clone()).unwrap();
    vault.set_hold(&snapshot.id, shorter).unwrap_err();
    world.pass(3600);
    vault.forget(&snapshot.id, world.now()).unwrap_err();
    world.pass(1);
    vault.set_hold(&snapshot.id, Hold { name: Some("x".into()), ..longer.clone() }).unwrap();
    let refused = vault.forget(&snapshot.id, world.now()).unwrap_err();
    assert_eq!(refused.to_string(), "refused: it is named 'x'; release the name first");
    vault.set_hold(&snapshot.id, longer).unwrap();
    vault.forget(&snapshot.id, world.now()).unwrap();
    assert_eq!(vault.snapshots(), []);
    assert_eq!(world.objects("snapshots/").len() + world.objects("holds/").len(), 0);
    vault.forget(&snapshot.id, world.now()).unwrap();
}

#[test]
fn who_deletes_and_who_locks_at_one_moment_cannot_both_win() {
    let world = World::new();
    let vault = world.open();
    let snapshot = world.snapshot(&vault, server(1), &values(1, 3));
    let other = world.open();
    let until = world.now().saturating_add(Duration::from_secs(3600));
    let lock = Hold { locked_until: Some(until), ..Hold::default() };
    // At each call of the deletion somebody else locks.
    for step in 1.. {
        let fork = Arc::new(world.store.fork());
        let (deleting, locking) =
            (world.open_at(fork.clone()).unwrap(), world.open_at(fork.clone()).unwrap());
        for v in [&deleting, &locking] {
            v.refresh(&|_, _| {}).unwrap();
        }
        let at = fork.calls() + step;
        let locked = Arc::new(parking_lot::Mutex::new(None));
        let (result, id, lock) = (locked.clone(), snapshot.id, lock.clone());
        fork.on_call(move |call| {
            if call.number == at {
                *result.lock() = Some(locking.set_hold(&id, lock.clone()));
            }
        });
        let deleted = deleting.forget(&snapshot.id, world.now());
        fork.no_hook();
        let there = fork.names().iter().any(|n| n.as_str().starts_with("snapshots/"));
        let Some(locked) = locked.lock().take() else { break };
        assert_eq!(deleted.is_ok(), !there, "step {step}");
        assert_eq!(locked.is_ok(), there, "step {step}: {locked:?}, {deleted:?}");
    }
    drop(other);
}

#[test]
fn a_stalled_writer_is_waited_for_and_its_snapshot_resolves() {
    let world = World::new();
    let (vault, writer) = (world.open(), world.open());
    let old = world.snapshot(&vault, server(1), &values(1, 10));
    world.pass(1);
    world.snapshot(&vault, server(1), &values(100, 3));
    writer.refresh(&|_, _| {}).unwrap();
    // It relies on content that is about to go.
    let session = writer.begin(server(2)).unwrap();
    let map = world.map(&session, None, &values(1, 10)).unwrap();
    world.pass(86_400);
    let prune = prune(&world, &vault, &Hourly);
    let plan = prune.plan().unwrap();
    assert_eq!(plan.forget[0].snapshot.id, old.id);
    let session = parking_lot::Mutex::new(Some((session, world.body(map))));
    let report = prune
        .execute(&plan, &|waiting| {
            assert_eq!(waiting.owner, server(2));
            if waiting.asked == 3 {
                let (session, body) = session.lock().take().unwrap();
                session.commit(body).unwrap();
            }
            Patience::Wait
        })
        .unwrap();
    assert_eq!(report.forgotten, 1);
    assert_eq!(world.assert_whole("the late writer's snapshot is there"), 2);
}

#[test]
fn a_writer_that_is_not_waited_for_is_told_and_begins_anew() {
    let world = World::new();
    let (vault, writer) = (world.open(), world.open());
    world.snapshot(&vault, server(1), &values(1, 10));
    world.pass(1);
    world.snapshot(&vault, server(1), &values(100, 3));
    writer.refresh(&|_, _| {}).unwrap();
    let session = writer.begin(server(2)).unwrap();
    let map = world.map(&session, None, &values(1, 10)).unwrap();
    world.pass(86_400);
    let (_, report) = run(&world, &vault).unwrap();
    assert!(report.packs_deleted > 0);
    let fenced = session.commit(world.body(map)).unwrap_err();
    assert!(matches!(fenced, VaultError::Fenced(_)), "{fenced}");
    assert_eq!(world.assert_whole("it made no snapshot"), 1);
    // Begun anew it sees what is gone, and stores it again.
    let session = writer.begin(server(2)).unwrap();
    let map = world.map(&session, None, &values(1, 10)).unwrap();
    session.commit(world.body(map)).unwrap();
    assert_eq!(world.assert_whole("the second time it did"), 2);
}

#[test]
fn without_patience_nothing_is_deleted() {
    let world = World::new();
    let vault = world.open();
    world.snapshot(&vault, server(1), &values(1, 10));
    world.snapshot(&vault, server(1), &values(100, 3));
    let session = vault.begin(server(2)).unwrap();
    world.pass(86_400);
    let prune = prune(&world, &vault, &Hourly);
    let packs = world.objects("packs/");
    let report = prune.execute(&prune.plan().unwrap(), &|_| Patience::GiveUp).unwrap();
    assert_eq!(
        report.left,
        [
            "a session that began at 2026-01-01T00:00:00.000Z goes on; what may be deleted after it stays for the next prune"
        ]
    );
    assert!(packs.iter().all(|p| world.objects("packs/").contains(p)));
    drop(session);
    run(&world, &vault).unwrap();
    assert!(!packs.iter().all(|p| world.objects("packs/").contains(p)));
    assert_eq!(world.assert_whole("after the second"), 1);
}

#[test]
fn nothing_is_deleted_where_it_is_not_clear_what_is_needed() {
    let world = World::new();
    let vault = world.open();
    let snapshot = world.snapshot(&vault, server(1), &values(1, 10));
    let name = world.objects("snapshots/").remove(0);
    world.store.damage(&ObjectName::new(name).unwrap(), 400);
    let fresh = world.open_at(world.store.clone()).unwrap();
    let prune = prune(&world, &fresh, &Hourly);
    let refused = prune.plan().unwrap_err().to_string();
    assert!(refused.contains("it is not clear what is still needed: snapshots/"), "{refused}");
    // The process that had read it before it was damaged knows what it needs.
    let _ = snapshot;
}

#[test]
fn the_root_of_a_map_that_is_gone_stops_a_prune() {
    let world = World::new();
    let vault = world.open();
    let snapshot = world.snapshot(&vault, server(1), &values(1, 3));
    let place = vault.places(&snapshot.body.disks[0].map.root).unwrap()[0];
    let pack = vault.index().pack(place.pack).unwrap().unwrap();
    world.store.remove(&crate::snapshot::pack_object(&pack.id));
    let fresh = world.open();
    let refused = prune(&world, &fresh, &Hourly).plan().unwrap_err().to_string();
    assert!(refused.contains("is in no pack"), "{refused}");
}

/// Fails each call of a prune in turn, before and after it took effect, and goes on with another process.
#[test]
fn a_crash_at_any_call_leaves_every_snapshot_whole_and_the_next_prune_ends_it() {
    use crate::store::memory::Fault;
    let world = World::new();
    let vault = world.open();
    for n in 0..6 {
        world.snapshot(&vault, server(n % 2), &values(1 + n as u32 * 6, 12));
        world.pass(1800);
    }
    let stalled = vault.begin(server(3)).unwrap();
    std::mem::forget(stalled);
    world.pass(5000);
    drop(vault);
    let mut clean_runs = 0;
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Before, Fault::LostReply] {
        for step in 1.. {
            let fork = World {
                store: Arc::new(world.store.fork()),
                clock: world.clock.clone(),
                entropy: Arc::new(SeededEntropy::new(step)),
                seq: AtomicU64::new(100),
            };
            let vault = fork.open();
            fork.store.fail(fork.store.calls() + step, fault);
            let result = run(&fork, &vault);
            let failed = result.is_err();
            fork.store.restore();
            let when = format!("{fault:?} at call {step}");
            let snapshots = fork.assert_whole(&when);
            assert!((2..=6).contains(&snapshots), "{when}");
            // The same process, or another one, goes on.
            let other = if step % 2 == 0 { vault } else { fork.open() };
            run(&fork, &other).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_tidy(&fork, &other, &when);
            if !failed {
                clean_runs += 1;
                break;
            }
        }
    }
    assert_eq!(clean_runs, 4);
}

/// After a prune that ran through: nothing is left that nobody needs.
pub(crate) fn assert_tidy(world: &World, vault: &Vault, when: &str) {
    world.assert_whole(when);
    let plan = prune(world, vault, &Hourly).plan().unwrap();
    // What was small before may have been merged into something that is small again.
    assert_eq!((plan.packs_deleted, plan.forget.len()), (0, 0), "{when}: {plan}");
    assert_eq!(world.objects("sessions/"), [] as [String; 0], "{when}");
    assert!(world.objects("prune/").len() <= 2, "{when}: {:?}", world.objects("prune/"));
}

#[test]
fn a_second_pruner_takes_over_and_the_first_one_stops() {
    let world = World::new();
    let (vault, other) = (world.open(), world.open());
    world.snapshot(&vault, server(1), &values(1, 10));
    world.snapshot(&vault, server(1), &values(100, 3));
    let session = vault.begin(server(2)).unwrap();
    world.pass(86_400);
    let prune = prune(&world, &vault, &Hourly);
    let plan = prune.plan().unwrap();
    let session = parking_lot::Mutex::new(Some(session));
    let overtaken = prune.execute(&plan, &|_| {
        session.lock().take();
        run(&world, &other).unwrap();
        Patience::Wait
    });
    assert_eq!(
        overtaken.unwrap_err().to_string(),
        "the session was ended: another prune (epoch 2) began after this one (epoch 1) and goes on in its place"
    );
    assert_eq!(world.assert_whole("after both"), 1);
}

/// At each call of a prune another process begins to write, relying on content that is about to go, and commits when the
/// prune is over, or some calls later. It is told to begin anew, or what it made is whole.
#[test]
fn a_writer_that_begins_at_any_call_makes_a_whole_snapshot_or_none() {
    let world = World::new();
    let vault = world.open();
    world.snapshot(&vault, server(1), &values(1, 10));
    world.pass(1);
    world.snapshot(&vault, server(1), &values(8, 10));
    world.pass(86_400);
    drop(vault);
    let (mut made, mut fenced) = (0, 0);
    for patience in [Patience::Fence, Patience::Wait] {
        for later in [0, 7, 1000] {
            for step in 1.. {
                let fork = World {
                    store: Arc::new(world.store.fork()),
                    clock: world.clock.clone(),
                    entropy: Arc::new(SeededEntropy::new(step)),
                    seq: AtomicU64::new(100),
                };
                let (vault, writer) = (fork.open(), fork.open());
                let from = fork.store.calls();
                let open = Arc::new(parking_lot::Mutex::new(None));
                let commit = |open: &parking_lot::Mutex<Option<(Session, SnapshotBody)>>| {
                    // Not held meanwhile: committing calls the store, and that comes back here.
                    let taken = open.lock().take();
                    taken.map(|(session, body)| session.commit(body).map(drop))
                };
                let (slot, other, me) = (open.clone(), World::of(&fork), std::thread::current().id());
                let busy = parking_lot::Mutex::new(0u64);
                let outcome = Arc::new(parking_lot::Mutex::new(None));
                let told = outcome.clone();
                fork.store.on_call(move |_| {
                    let Some(mut own) = busy.try_lock() else { return };
                    if std::thread::current().id() != me {
                        return;
                    }
                    *own += 1;
                    if *own == step {
                        let session = writer.begin(server(2)).unwrap();
                        let map = other.map(&session, None, &values(1, 10)).unwrap();
                        *slot.lock() = Some((session, other.body(map)));
                    } else if *own == step + later
                        && let Some(result) = commit(&slot)
                    {
                        *told.lock() = Some(result);
                    }
                });
                let prune = prune(&fork, &vault, &Hourly);
                let plan = prune.plan().unwrap();
                let result = prune.execute(&plan, &|_| {
                    if patience == Patience::Wait
                        && let Some(result) = commit(&open)
                    {
                        *outcome.lock() = Some(result);
                    }
                    patience
                });
                let calls = fork.store.calls() - from;
                fork.store.no_hook();
                result.unwrap();
                let when = format!("begun at call {step}, committed {later} later, {patience:?}");
                fork.assert_whole(&when);
                let result = outcome.lock().take().or_else(|| commit(&open));
                match result {
                    Some(Ok(())) => made += 1,
                    Some(Err(VaultError::Fenced(_))) => fenced += 1,
                    Some(Err(e)) => panic!("{when}: {e}"),
                    None => {}
                }
                fork.assert_whole(&format!("{when}, in the end"));
                if step > calls {
                    break;
                }
            }
        }
    }
    assert!(made > 50 && fenced > 20, "{made} made, {fenced} fenced");
}

/// One site's prune ends while another site's plan is out: what that one condemned stays condemned here, for sessions it
/// has not seen.
#[test]
fn the_end_of_a_prune_does_not_undo_a_later_plan() {
    let world = World::new();
    let (first, second) = (world.open(), world.open());
    world.snapshot(&first, server(1), &values(1, 10));
    world.pass(1);
    world.snapshot(&first, server(1), &values(100, 3));
    world.pass(86_400);
    let decoy = first.begin(server(3)).unwrap();
    let open = parking_lot::Mutex::new((Some(decoy), None));
    let prune = prune(&world, &second, &Hourly);
    let plan = prune.plan().unwrap();
    prune
        .execute(&plan, &|_| {
            // The second site has listed the sessions; one begins at the first and sees its plan, ...
            let session = first.begin(server(2)).unwrap();
            // ... where a prune of an earlier epoch ends.
            first.plan_is_done(0, Vec::new());
            let map = world.map(&session, None, &values(1, 10)).unwrap();
            *open.lock() = (None, Some((session, world.body(map))));
            Patience::Wait
        })
        .unwrap();
    let taken = open.lock().1.take();
    let (session, body) = taken.unwrap();
    session.commit(body).unwrap();
    assert_eq!(world.assert_whole("after both"), 2);
}

/// The index is made anew in the middle: nothing is decided by half of it.
#[test]
fn a_prune_ends_when_the_index_is_made_anew_under_it() {
    let world = World::new();
    let vault = world.open();
    world.snapshot(&vault, server(1), &values(1, 10));
    world.snapshot(&vault, server(1), &values(100, 3));
    let decoy = parking_lot::Mutex::new(Some(vault.begin(server(2)).unwrap()));
    world.pass(86_400);
    let prune = prune(&world, &vault, &Hourly);
    let plan = prune.plan().unwrap();
    let packs = world.objects("packs/");
    let ended = prune.execute(&plan, &|_| {
        decoy.lock().take();
        vault.reindex(&|_, _| {}).unwrap();
        Patience::Wait
    });
    assert!(matches!(ended, Err(VaultError::Fenced(_))), "{ended:?}");
    assert!(packs.iter().all(|p| world.objects("packs/").contains(p)));
    run(&world, &vault).unwrap();
    assert_tidy(&world, &vault, "afterwards");
}

/// Where the store has locks, whoever has its credentials cannot delete what a locked snapshot needs (row 36).
#[test]
fn what_is_locked_in_the_store_outlasts_who_deletes_everything() {
    use crate::store::Store;
    let mut world = World::new();
    let locking = Arc::new(MemoryStore::with_locks("locking", world.clock.clone() as Arc<dyn Clock>));
    Vault::create(&*locking, &Secret(SITE_KEY), &*world.clock, &*world.entropy).unwrap();
    world.store = locking;
    let vault = world.open();
    let locked = world.snapshot(&vault, server(1), &values(1, 10));
    let other = world.snapshot(&vault, server(1), &values(5, 20));
    let until = world.now().saturating_add(Duration::from_secs(10 * 86_400));
    vault.set_hold(&locked.id, Hold { locked_until: Some(until), ..Hold::default() }).unwrap();
    let lock = || {
        let done = vault.lock_in_store(&locked, until, &NoTrees, &|_, _, _| true).unwrap();
        assert!(done.lacks.is_none(), "{done:?}");
        done.objects
    };
    let count = lock();
    assert!(count > 5);
    // Asking again changes nothing.
    assert_eq!(lock(), count);

    for name in world.store.names() {
        let _ = world.store.delete(&name);
    }
    assert_eq!(world.assert_whole("after everything was deleted"), 1);
    assert_eq!(vault.hold(&locked.id).locked_until, Some(until));
    assert!(world.objects("snapshots/").iter().all(|n| !n.ends_with(&other.id.to_string())));

    // When its time is over it goes as any other.
    world.pass(11 * 86_400);
    let vault = world.open();
    world.snapshot(&vault, server(1), &values(100, 3));
    run(&world, &vault).unwrap();
    assert_tidy(&world, &vault, "after the lock");
    assert_eq!(world.assert_whole("after the lock"), 1);
}

/// A store keeps packs longer than the rules do: what cannot be deleted is told, and goes later.
#[test]
fn a_pack_the_store_keeps_locked_is_left_for_later() {
    use crate::store::Store;
    let mut world = World::new();
    let locking = Arc::new(MemoryStore::with_locks("locking", world.clock.clone() as Arc<dyn Clock>));
    Vault::create(&*locking, &Secret(SITE_KEY), &*world.clock, &*world.entropy).unwrap();
    world.store = locking;
    let vault = world.open();
    let first = world.snapshot(&vault, server(1), &values(1, 10));
    let packs = world.objects("packs/");
    let second = world.snapshot(&vault, server(1), &values(50, 10));
    world.snapshot(&vault, server(1), &values(100, 10));
    let until = world.now().saturating_add(Duration::from_secs(2 * 86_400));
    // Of one snapshot a pack, of the other itself.
    world.store.lock(&ObjectName::new(packs[0].clone()).unwrap(), until).unwrap();
    let manifest = world.objects("snapshots/").into_iter().find(|n| n.ends_with(&second.id.to_string()));
    world.store.lock(&ObjectName::new(manifest.unwrap()).unwrap(), until).unwrap();
    world.pass(86_400);
    let (_, report) = run(&world, &vault).unwrap();
    assert_eq!(
        report.left,
        [
            format!("snapshot {}: locking keeps it locked until 2026-01-03T00:00:00.000Z", second.id),
            format!("{} is locked until 2026-01-03T00:00:00.000Z", packs[0]),
        ]
    );
    assert_eq!((report.forgotten, vault.snapshot(&first.id)), (1, None));
    assert!(report.packs_deleted > 0, "what is not locked goes");
    world.assert_whole("while some is locked");
    world.pass(2 * 86_400);
    run(&world, &vault).unwrap();
    assert_tidy(&world, &vault, "after the lock");
}

/// Of a snapshot that is damaged what can be found is locked, and what is missing is told.
#[test]
fn a_damaged_snapshot_is_locked_as_far_as_it_goes() {
    let mut world = World::new();
    let locking = Arc::new(MemoryStore::with_locks("locking", world.clock.clone() as Arc<dyn Clock>));
    Vault::create(&*locking, &Secret(SITE_KEY), &*world.clock, &*world.entropy).unwrap();
    world.store = locking;
    let vault = world.open();
    let locked = world.snapshot(&vault, server(1), &values(1, 10));
    let until = world.now().saturating_add(Duration::from_secs(86_400));
    vault.set_hold(&locked.id, Hold { locked_until: Some(until), ..Hold::default() }).unwrap();
    let lost = vault.index().packs().unwrap().into_iter().find(|p| p.kind == Kind::Data).unwrap();
    let lost_name = crate::snapshot::pack_object(&lost.id);
    world.store.remove(&lost_name);
    vault.refresh(&|_, _| {}).unwrap();
    let there = world.objects("packs/");
    let done = vault.lock_in_store(&locked, until, &NoTrees, &|_, _, _| true).unwrap();
    assert!(matches!(done.lacks, Some(VaultError::Missing(_))), "{done:?}");
    for name in world.store.names() {
        let _ = crate::store::Store::delete(&*world.store, &name);
    }
    assert_eq!(world.objects("packs/"), there);
    assert_eq!(world.objects("snapshots/").len(), 1);
}
