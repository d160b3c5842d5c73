//! Damage of each kind to each kind of object: found, named, touching the right snapshots, everything else readable.

use super::{Check, CheckReport, LostChunk, Mending, Scrub, Source};
use crate::error::VaultError;
use crate::id::{ChunkId, ObjectName, SnapshotId};
use crate::map;
use crate::prune::NoTrees;
use crate::prune::{Patience, Prune, Thrift};
use crate::snapshot::{Hold, Owner, Snapshot};
use crate::testing::{Rig, chunk};
use crate::vault::Vault;
use bytes::Bytes;
use lifeboat_base::Secret;
use std::collections::BTreeSet;
use std::sync::Arc;

static KEYS: [Secret; 1] = [Secret(Rig::SITE_KEY)];

fn check<'a>(vault: &'a Vault, read_percent: u8) -> Check<'a> {
    Check { vault, trees: &NoTrees, site_keys: &KEYS, read_percent, watch: &|_, _, _| true }
}

fn run(vault: &Vault, read_percent: u8) -> CheckReport {
    check(vault, read_percent).run().unwrap()
}

/// Two snapshots that share a chunk each has others; packs of data and of nodes for each.
fn two(rig: &Rig) -> (Arc<Snapshot>, Arc<Snapshot>) {
    (rig.snapshot(&[(1, 1), (300, 2), (301, 3)]), rig.snapshot(&[(1, 1), (400, 5), (401, 6)]))
}

fn names(rig: &Rig, prefix: &str) -> Vec<ObjectName> {
    rig.store.names().into_iter().filter(|n| n.as_str().starts_with(prefix)).collect()
}

fn pack_of(vault: &Vault, id: &ChunkId) -> ObjectName {
    let place = vault.places(id).unwrap()[0];
    crate::snapshot::pack_object(&vault.index().pack(place.pack).unwrap().unwrap().id)
}

fn content(vault: &Vault, value: u8) -> ChunkId {
    vault.content_id(&blake3::hash(&chunk(value)))
}

/// What was found: object and the snapshots it touches.
fn told(report: &CheckReport) -> Vec<(String, BTreeSet<SnapshotId>)> {
    report.findings.iter().map(|f| (f.object.clone(), f.touches.iter().map(|s| s.id).collect())).collect()
}

/// Which snapshots can be read to the last chunk.
fn readable(vault: &Vault) -> BTreeSet<SnapshotId> {
    vault.drop_caches();
    let whole = |s: &Arc<Snapshot>| {
        s.body.disks.iter().all(|d| {
            map::walk(vault, &d.map, &mut |visit| {
                if let map::Visit::Chunk { id, .. } = visit {
                    vault.read(id)?;
                }
                Ok(true)
            })
            .is_ok()
        })
    };
    vault.snapshots().iter().filter(|s| whole(s)).map(|s| s.id).collect()
}

#[test]
fn a_whole_vault_has_no_findings() {
    let rig = Rig::new();
    two(&rig);
    for percent in [0, 50, 100] {
        let report = run(&rig.vault, percent);
        assert!(report.findings.is_empty(), "{report:?}");
        assert_eq!((report.snapshots, report.packs, report.packs_read), (2, 4, 4 * u64::from(percent) / 100));
        assert_eq!(report.bytes_read > 0, percent > 0);
    }
}

#[test]
fn damage_of_each_kind_to_each_kind_of_object_is_found_and_touches_the_right_snapshots() {
    #[derive(Debug, Clone, Copy)]
    enum Harm {
        Flip,
        Truncate,
        Swap,
        Remove,
    }
    for harm in [Harm::Flip, Harm::Truncate, Harm::Swap, Harm::Remove] {
        for kind in
            ["data", "nodes", "snapshot", "hold", "keys", "vault", "session", "epoch", "plan", "catalogue"]
        {
            let rig = Rig::new();
            let (a, b) = two(&rig);
            for s in [&a, &b] {
                rig.vault.set_hold(&s.id, Hold { name: Some("n".into()), ..Hold::default() }).unwrap();
            }
            let session = rig.begin();
            let other = rig.begin();
            let plan = prune(&rig).plan().unwrap();
            prune(&rig).execute(&plan, &|_| Patience::GiveUp).unwrap();
            for n in 1..3 {
                let name = ObjectName::new(format!("catalogue/{n:08}")).unwrap();
                rig.vault.put_object(&name, crate::ObjectType::Catalogue, b"servers").unwrap();
            }
            let object = |s: &Snapshot| {
                names(&rig, "snapshots/")
                    .into_iter()
                    .find(|n| n.as_str().ends_with(&s.id.to_string()))
                    .unwrap()
            };
            // The object that is harmed, one to swap it with, and what that touches.
            let both = BTreeSet::from([a.id, b.id]);
            let (name, twin, touches, twin_touches) = match kind {
                "data" => (
                    pack_of(&rig.vault, &content(&rig.vault, 2)),
                    pack_of(&rig.vault, &content(&rig.vault, 5)),
                    both.clone(),
                    BTreeSet::from([b.id]),
                ),
                "nodes" => (
                    pack_of(&rig.vault, &a.body.disks[0].map.root),
                    pack_of(&rig.vault, &b.body.disks[0].map.root),
                    both.clone(),
                    BTreeSet::from([b.id]),
                ),
                "snapshot" => (object(&a), object(&b), BTreeSet::from([a.id]), BTreeSet::from([b.id])),
                "hold" => {
                    let of = |s: &Snapshot| names(&rig, &format!("holds/{}", s.id)).remove(0);
                    (of(&a), of(&b), BTreeSet::from([a.id]), BTreeSet::from([b.id]))
                }
                "session" => {
                    let of = |id| ObjectName::new(format!("sessions/{id}")).unwrap();
                    (of(session.id()), of(other.id()), BTreeSet::new(), BTreeSet::new())
                }
                "epoch" => ("prune/00000001", "catalogue/00000001").named(),
                "plan" => ("prune/00000001.plan", "catalogue/00000001").named(),
                "catalogue" => ("catalogue/00000002", "catalogue/00000001").named(),
                "keys" => ("keys/00000001", "vault").named(),
                _ => ("vault", "keys/00000001").named(),
            };
            // Leaves are shared by both, the rest of the nodes is their own.
            let touches = match (kind, harm) {
                // Where the root is lost what is below it is not known.
                ("nodes", Harm::Swap) => BTreeSet::from([a.id]),
                ("nodes", _) => touches_of_nodes(&rig, &a, &b, &name),
                _ => touches,
            };
            let when = format!("{harm:?} {kind} {name}");
            let len = rig.store.peek(&name).unwrap().len();
            match harm {
                Harm::Flip => assert!(rig.store.damage(&name, len as u64 * 4)),
                Harm::Truncate => assert!(rig.store.truncate(&name, len - 1)),
                Harm::Swap => assert!(rig.store.swap(&name, &twin)),
                Harm::Remove => assert!(rig.store.remove(&name)),
            }
            let report = run(&rig.vault, 100);
            let told = told(&report);
            // A session, claim, plan or catalogue that is gone is none that is missed: nothing refers to it.
            let missed =
                !(matches!(harm, Harm::Remove) && matches!(kind, "session" | "epoch" | "plan" | "catalogue"));
            let expected = if kind == "keys" && matches!(harm, Harm::Remove) {
                "keys/".to_string()
            } else {
                name.to_string()
            };
            let of = |object: &str| told.iter().find(|(o, _)| o == object).map(|(_, t)| t.clone());
            assert_eq!(of(&expected), missed.then(|| touches.clone()), "{when}: {told:?}");
            if matches!(harm, Harm::Swap) {
                assert_eq!(of(twin.as_str()), Some(twin_touches), "{when}: {told:?}");
            } else {
                assert!(told.len() <= 1, "{when}: {told:?}");
            }
            // Everything else is readable; what cannot be read is told.
            let touched: BTreeSet<SnapshotId> = told.iter().flat_map(|(_, t)| t.clone()).collect();
            for s in [&a, &b].into_iter().filter(|s| !touched.contains(&s.id)) {
                assert!(readable(&rig.vault).contains(&s.id), "{when}");
            }
        }
    }
}

trait Named {
    fn named(self) -> (ObjectName, ObjectName, BTreeSet<SnapshotId>, BTreeSet<SnapshotId>);
}

impl Named for (&str, &str) {
    fn named(self) -> (ObjectName, ObjectName, BTreeSet<SnapshotId>, BTreeSet<SnapshotId>) {
        let name = |n: &str| ObjectName::new(n).unwrap();
        (name(self.0), name(self.1), BTreeSet::new(), BTreeSet::new())
    }
}

/// Which of the two need a node of a pack.
fn touches_of_nodes(rig: &Rig, a: &Snapshot, b: &Snapshot, pack: &ObjectName) -> BTreeSet<SnapshotId> {
    let mut touches = BTreeSet::new();
    for s in [a, b] {
        map::walk(&rig.vault, &s.body.disks[0].map, &mut |visit| {
            if let map::Visit::Node { id, .. } = visit
                && pack_of(&rig.vault, id) == *pack
            {
                touches.insert(s.id);
            }
            Ok(true)
        })
        .unwrap();
    }
    touches
}

struct Keep;

impl crate::prune::Keeping for Keep {
    fn policy(&self, _: &Owner) -> Option<crate::retention::Policy> {
        None
    }
}

fn prune(rig: &Rig) -> Prune<'_> {
    Prune {
        vault: &rig.vault,
        keeping: &Keep,
        trees: &NoTrees,
        now: lifeboat_base::Clock::wall(&*rig.clock),
        thrift: Thrift::default(),
        watch: &|_, _, _| true,
    }
}

#[test]
fn structure_alone_finds_what_is_missing_or_short_without_reading_content() {
    let rig = Rig::new();
    let (a, b) = two(&rig);
    let pack = pack_of(&rig.vault, &content(&rig.vault, 5));
    rig.store.remove(&pack);
    let report = run(&rig.vault, 0);
    assert_eq!(told(&report), [(pack.to_string(), BTreeSet::from([b.id]))]);
    assert_eq!(report.findings[0].what, "the pack is gone");
    assert_eq!(readable(&rig.vault), BTreeSet::from([a.id]));
    // A stranger, whose index never knew the pack, sees that something is gone, and whom it touches.
    let fresh = Rig { vault: rig.reopen(), ..Rig::new() };
    let report = run(&fresh.vault, 0);
    assert_eq!(told(&report), [("packs/".to_string(), BTreeSet::from([b.id]))]);
}

#[test]
fn a_flipped_bit_in_content_is_found_by_reading_only_and_touches_who_needs_that_chunk() {
    let rig = Rig::new();
    let (a, b) = two(&rig);
    let pack = pack_of(&rig.vault, &content(&rig.vault, 2));
    rig.store.damage(&pack, 8 * 60);
    assert!(run(&rig.vault, 0).findings.is_empty());
    let report = run(&rig.vault, 100);
    assert_eq!(told(&report), [(pack.to_string(), BTreeSet::from([a.id, b.id]))]);
    assert_eq!(report.findings[0].what, "frame at 48: its seal is broken; 3 of its 3 chunks are lost");
}

#[test]
fn damaged_content_is_stored_again_by_the_next_session_and_a_prune_clears_the_rest() {
    let rig = Rig::new();
    two(&rig);
    let pack = pack_of(&rig.vault, &content(&rig.vault, 2));
    rig.store.damage(&pack, 8 * 60);
    assert_eq!(run(&rig.vault, 100).findings.len(), 1);
    // The same content comes again.
    let session = rig.begin();
    for value in [1, 2, 3] {
        session.put(crate::Kind::Data, chunk(value)).unwrap();
    }
    rig.commit(session, Vec::new());
    let report = run(&rig.vault, 100);
    assert_eq!(report.findings.len(), 1, "the pack is still damaged");
    assert_eq!(report.findings[0].touched, 0, "and nobody needs it");
    assert_eq!(readable(&rig.vault).len(), 3);
    let prune = prune(&rig);
    let plan = prune.plan().unwrap();
    prune.execute(&plan, &|_| Patience::Fence).unwrap();
    assert!(rig.store.peek(&pack).is_none());
    assert!(run(&rig.vault, 100).findings.is_empty());
}

#[test]
fn a_scrub_goes_on_where_it_was_and_finds_what_is_damaged() {
    let rig = Rig::new();
    let (_, b) = two(&rig);
    let pack = pack_of(&rig.vault, &content(&rig.vault, 5));
    rig.store.damage(&pack, 8 * 60);
    let mut position = None;
    let (mut steps, mut bytes, mut found) = (0, 0, Vec::new());
    // Each step by another process.
    loop {
        let mut scrub = Scrub::begin(&rig.vault, position, 1000).unwrap();
        let Some(step) = scrub.step().unwrap() else { break };
        assert_eq!(step.wait.as_millis(), u128::from(step.bytes));
        steps += 1;
        bytes += step.bytes;
        assert_eq!(step.percent, (steps * 25) as u8);
        position = Some(step.position);
        if step.finding.is_some() {
            found = scrub.findings(&NoTrees, &|_, _, _| true).unwrap().findings;
        }
    }
    assert_eq!(steps, 4);
    assert_eq!(bytes, rig.vault.index().packs().unwrap().iter().map(|p| p.size).sum::<u64>());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].object, pack.to_string());
    assert_eq!(found[0].touches.iter().map(|s| s.id).collect::<Vec<_>>(), [b.id]);
}

/// Has the content of some values, wherever asked.
struct Has(Vec<u8>);

impl Source for Has {
    fn chunk(&self, lost: &LostChunk) -> Option<Bytes> {
        let (_, _, offset) = lost.at.as_ref()?;
        let value = match offset / lifeboat_base::limits::BLOCK as u64 {
            300 => 2,
            301 => 3,
            400 => 5,
            401 => 6,
            _ => 1,
        };
        self.0.contains(&value).then(|| chunk(value))
    }
}

#[test]
fn what_is_lost_comes_back_from_a_source_and_what_does_not_stays_a_finding() {
    let rig = Rig::new();
    let (a, b) = two(&rig);
    for value in [2, 5] {
        rig.store.remove(&pack_of(&rig.vault, &content(&rig.vault, value)));
    }
    let mend = |values: &[u8]| {
        let source = Has(values.to_vec());
        Mending { check: check(&rig.vault, 100), sources: &[&source] }.run().unwrap()
    };
    // Wrong content is not taken: 7 for 5.
    struct Liar;
    impl Source for Liar {
        fn chunk(&self, _: &LostChunk) -> Option<Bytes> {
            Some(chunk(77))
        }
    }
    let report = Mending { check: check(&rig.vault, 0), sources: &[&Liar] }.run().unwrap();
    assert_eq!(report.from_source, 0);
    assert!(!report.left.is_empty());

    let report = mend(&[1, 2, 3]);
    assert_eq!(report.from_source, 3);
    assert_eq!(report.left.len(), 1);
    assert_eq!(report.left[0].touches.iter().map(|s| s.id).collect::<Vec<_>>(), [b.id]);
    assert_eq!(readable(&rig.vault), BTreeSet::from([a.id]));
    let report = mend(&[5, 6]);
    assert_eq!((report.from_source, report.left.len()), (2, 0));
    assert_eq!(readable(&rig.vault).len(), 2);
    assert!(run(&rig.vault, 100).findings.is_empty());
}

#[test]
fn a_damaged_snapshot_or_name_is_written_again_from_what_the_index_remembers() {
    let rig = Rig::new();
    let (a, _) = two(&rig);
    rig.vault.set_hold(&a.id, Hold { name: Some("golden".into()), ..Hold::default() }).unwrap();
    let harmed: Vec<ObjectName> =
        names(&rig, "holds/").into_iter().chain(names(&rig, "snapshots/")).collect();
    for name in &harmed {
        rig.store.truncate(name, 40);
    }
    assert_eq!(run(&rig.vault, 0).findings.len(), 3);
    let report = Mending { check: check(&rig.vault, 0), sources: &[] }.run().unwrap();
    assert_eq!((report.rewritten, report.left.len()), (3, 0), "{report:?}");
    assert!(run(&rig.vault, 0).findings.is_empty());
    let fresh = rig.reopen();
    assert_eq!(fresh.snapshots().len(), 2);
    assert_eq!(fresh.hold(&a.id).name.as_deref(), Some("golden"));
}

#[test]
fn a_check_that_is_cancelled_says_so() {
    let rig = Rig::new();
    two(&rig);
    let check = Check { watch: &|_, _, _| false, ..check(&rig.vault, 0) };
    assert!(matches!(check.run(), Err(VaultError::Cancelled)));
}

/// Three copies: damage in one is told, touches nobody, and is mended from the others; damage in all is lost.
#[test]
fn damage_in_one_copy_is_told_and_mended_from_another() {
    use crate::store::{Copies, MemoryStore, Store};
    use crate::vault::{Settings, VaultOptions};
    use lifeboat_base::{Clock, Entropy};
    let rig = Rig::new();
    let (a, _) = two(&rig);
    let zones: Vec<Arc<MemoryStore>> = (0..3).map(|_| Arc::new(rig.store.fork())).collect();
    let stores = zones.iter().map(|z| z.clone() as Arc<dyn Store>).collect();
    let copies = Arc::new(Copies::new(stores, 2, rig.clock.clone() as Arc<dyn Clock>).unwrap());
    let options = VaultOptions {
        store: copies,
        site_keys: vec![Secret(Rig::SITE_KEY)],
        index: None,
        settings: Settings::default(),
    };
    let vault =
        Vault::open(options, rig.clock.clone() as Arc<dyn Clock>, rig.entropy.clone() as Arc<dyn Entropy>)
            .unwrap();
    vault.refresh(&|_, _| {}).unwrap();
    assert!(run(&vault, 100).findings.is_empty());

    let pack = pack_of(&vault, &content(&vault, 2));
    let manifest = names(&rig, "snapshots/").remove(0);
    zones[1].damage(&pack, 8 * 60);
    zones[2].damage(&manifest, 8 * 40);
    let report = run(&vault, 100);
    let mut told = told(&report);
    told.sort();
    assert_eq!(told, [(pack.to_string(), BTreeSet::new()), (manifest.to_string(), BTreeSet::new())]);
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.what == "copy 2 of 3: frame at 48: its seal is broken; nothing of it is lost"),
        "{:?}",
        report.findings
    );
    assert_eq!(readable(&vault).len(), 2);
    // One copy is lost altogether, too.
    for name in zones[0].names() {
        zones[0].remove(&name);
    }
    let report = Mending { check: check(&vault, 100), sources: &[] }.run().unwrap();
    assert_eq!(report.left.len(), 0, "{report:?}");
    assert!(report.copied >= 2 && report.copied_bytes > 0, "{report:?}");
    for zone in &zones {
        assert_eq!(zone.peek(&pack), zones[2].peek(&pack));
        assert_eq!(zone.names(), zones[2].names());
    }
    // In all three: nothing to mend it from.
    assert!(zones.iter().all(|z| z.damage(&pack, 8 * 60)));
    let report = Mending { check: check(&vault, 100), sources: &[] }.run().unwrap();
    assert_eq!(report.left.len(), 1);
    assert!(report.left[0].touches.iter().any(|s| s.id == a.id));
}

/// A plan that cannot be read keeps nobody from reading; nothing is written or deleted before it is mended.
#[test]
fn a_damaged_plan_stops_writing_and_not_reading_and_repair_takes_it_away() {
    for knows in [false, true] {
        let mut rig = Rig::new();
        let (a, b) = two(&rig);
        let plan = prune(&rig).plan().unwrap();
        prune(&rig).execute(&plan, &|_| Patience::GiveUp).unwrap();
        let name = ObjectName::new("prune/00000001.plan").unwrap();
        rig.store.damage(&name, rig.store.peek(&name).unwrap().len() as u64 * 4);
        if !knows {
            rig.vault = rig.reopen();
            assert_eq!(readable(&rig.vault), BTreeSet::from([a.id, b.id]));
            let refused = rig.vault.begin(Rig::owner()).err().unwrap().to_string();
            assert!(refused.contains("prune/00000001.plan") && refused.contains("vault repair"), "{refused}");
            let refused = prune(&rig).plan().err().unwrap().to_string();
            assert!(refused.contains("prune/00000001.plan"), "{refused}");
        }
        let done = Mending { check: check(&rig.vault, 100), sources: &[] }.run().unwrap();
        assert_eq!((done.rewritten, done.left.len()), (1, 0), "{done:?}");
        assert_eq!(rig.store.peek(&name).is_some(), knows, "what this process knew of it is there again");
        rig.snapshot(&[(7, 7)]);
        let vault = rig.reopen();
        assert_eq!(readable(&vault).len(), 3);
        rig.vault = vault;
        rig.snapshot(&[(8, 8)]);
        let plan = prune(&rig).plan().unwrap();
        prune(&rig).execute(&plan, &|_| Patience::GiveUp).unwrap();
        assert!(run(&rig.vault, 100).findings.is_empty());
    }
}
