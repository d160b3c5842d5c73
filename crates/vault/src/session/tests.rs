use super::*;
use crate::error::StoreError;
use crate::id::ObjectName;
use crate::store::{Part, Store};
use crate::testing::{Rig, chunk};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Entropy, SeededEntropy};

fn noise(seed: u64, len: usize) -> Bytes {
    let mut content = vec![0; len];
    SeededEntropy::new(seed).fill(&mut content);
    content.into()
}

#[test]
fn what_was_put_is_read_back_and_stored_once() {
    let rig = Rig::new();
    let session = rig.begin();
    let contents: Vec<Bytes> = (0..100)
        .map(|n| if n % 2 == 0 { noise(n, 65_536) } else { chunk(n as u8) })
        .chain([noise(500, 1), noise(501, 3 << 20)])
        .collect();
    let ids: Vec<ChunkId> = contents.iter().map(|c| session.put(Kind::Data, c.clone()).unwrap()).collect();
    let again: Vec<ChunkId> = contents.iter().map(|c| session.put(Kind::Data, c.clone()).unwrap()).collect();
    assert_eq!(ids, again);
    let one = rig.commit(session, vec![]);
    let total: u64 = contents.iter().map(|c| c.len() as u64).sum();
    assert_eq!((one.body.stats.read, one.body.stats.new), (2 * total, total));
    for (id, content) in ids.iter().zip(&contents) {
        assert_eq!(rig.vault.read(id).unwrap(), content);
    }
    let session = rig.begin();
    for c in &contents {
        session.put(Kind::Data, c.clone()).unwrap();
    }
    assert_eq!(rig.commit(session, vec![]).body.stats.added, 0, "the vault had all of it");
    assert!(rig.vault.read(&ChunkId([3; 32])).is_err_and(|e| matches!(e, VaultError::Missing(_))));
}

#[test]
fn nothing_in_the_store_tells_what_was_stored() {
    let rig = Rig::new();
    let session = rig.vault.begin(Owner::Set("payroll".into())).unwrap();
    let secret = b"the quick brown fox and the salary list".repeat(100);
    let id = session.put(Kind::Data, secret.clone().into()).unwrap();
    rig.commit(session, vec![]);
    let hash = *blake3::hash(&secret).as_bytes();
    assert_ne!(id.0, hash, "an id is not the plain hash");
    let mut names = Vec::new();
    rig.store
        .list("", &mut |o| {
            names.push(o.name);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    for name in names {
        let bytes = rig.store.get(&name, Part::All).unwrap();
        assert!(!name.as_str().contains("payroll"));
        for needle in [&b"quick"[..], &b"payroll"[..], &hash[..], &id.0[..]] {
            assert!(!bytes.windows(needle.len()).any(|w| w == needle), "{name} shows something");
        }
    }
}

#[test]
fn a_session_leaves_no_announcement_behind() {
    let rig = Rig::new();
    let count = |prefix: &str| {
        let mut n = 0;
        rig.store
            .list(prefix, &mut |_| {
                n += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        n
    };
    let session = rig.begin();
    assert_eq!(count("sessions/"), 1);
    session.put(Kind::Data, chunk(1)).unwrap();
    drop(session);
    assert_eq!((count("sessions/"), count("snapshots/")), (0, 0));
    rig.snapshot(&[(0, 1)]);
    assert_eq!((count("sessions/"), count("snapshots/")), (0, 1));
}

#[test]
fn a_fenced_session_makes_no_snapshot() {
    let rig = Rig::new();
    let session = rig.begin();
    session.put(Kind::Data, chunk(1)).unwrap();
    let slot = Snapshot::object(&Rig::owner(), &session.id(), &rig.vault.keys().id).unwrap();
    rig.vault.put_object(&slot, ObjectType::Tombstone, b"").unwrap();
    assert!(matches!(session.commit(rig.body(vec![])), Err(VaultError::Fenced(_))));
    assert_eq!(rig.vault.snapshots().len(), 0);
    let done = rig.vault.refresh(&|_, _| ()).unwrap();
    assert_eq!((done.snapshots_added, done.damaged), (0, vec![]), "a tombstone is no snapshot and no damage");
}

#[test]
fn what_a_pruner_condemned_is_stored_again() {
    let rig = Rig::new();
    rig.snapshot(&[(0, 1)]);
    let packs: Vec<PackId> = rig.vault.index().packs().unwrap().iter().map(|p| p.id).collect();
    let plan = crate::plan::plan_object(1).unwrap();
    rig.vault.put_object(&plan, ObjectType::Plan, &crate::plan::encode_plan(&packs)).unwrap();
    let again = rig.snapshot(&[(0, 1)]);
    assert!(again.body.stats.added > 0);
    for p in packs {
        rig.store.delete(&pack_object(&p)).unwrap();
    }
    rig.vault.refresh(&|_, _| ()).unwrap();
    let device = rig.vault.device(&again, lifeboat_base::DiskId(0)).unwrap();
    let mut buf = [0; 10];
    lifeboat_block::BlockDevice::read(&device, 0, &mut buf).unwrap();
    assert_eq!(buf, [1; 10]);
}

#[test]
fn an_index_that_is_lost_is_made_again() {
    let rig = Rig::new();
    let s = rig.snapshot(&[(0, 1), (999, 2)]);
    rig.vault
        .set_hold(&s.id, crate::Hold { name: Some("before the migration".into()), ..crate::Hold::default() })
        .unwrap();
    let before = rig.vault.index().chunk_count().unwrap();
    let done = rig.vault.reindex(&|_, _| ()).unwrap();
    assert_eq!((done.snapshots_added, done.damaged.len()), (1, 0));
    assert_eq!(rig.vault.index().chunk_count().unwrap(), before);
    assert_eq!(rig.vault.snapshots(), vec![s.clone()]);
    assert_eq!(rig.vault.hold(&s.id).name.as_deref(), Some("before the migration"));
}

/// Who reads while the index is made anew, or after that broke off at any call, finds everything.
#[test]
fn an_index_that_is_made_anew_is_never_half_an_index() {
    let rig = Rig::new();
    let s = rig.snapshot(&[(0, 1), (999, 2)]);
    let other = rig.snapshot(&[(5, 7)]);
    let reads = || {
        for (snapshot, at, value) in [(&s, 0, 1), (&s, 999, 2), (&other, 5, 7)] {
            rig.vault.drop_caches();
            let device = rig.vault.device(snapshot, lifeboat_base::DiskId(0)).unwrap();
            let mut buf = [0; 10];
            lifeboat_block::BlockDevice::read(&device, at * BLOCK as u64, &mut buf).unwrap();
            assert_eq!(buf, [value; 10]);
            let hash = *blake3::hash(&chunk(value)).as_bytes();
            assert_ne!(
                lifeboat_block::BlockDevice::has_hash(&device, at * BLOCK as u64, &hash).unwrap(),
                Some(false)
            );
        }
    };
    let totals = rig.vault.index().totals().unwrap();
    for nth in 1.. {
        rig.store.fail(rig.store.calls() + nth, crate::store::memory::Fault::CutBefore);
        let done = rig.vault.reindex(&|_, _| {
            rig.store.restore();
            reads();
        });
        rig.store.restore();
        reads();
        if let Ok(done) = done {
            assert_eq!((done.packs_added, done.packs_gone, done.damaged.len()), (4, 0, 0));
            if nth > 40 {
                break;
            }
        }
    }
    assert_eq!(rig.vault.index().totals().unwrap(), totals);
    assert_eq!(rig.vault.snapshots().len(), 2);
    // What the index knew and no pack says goes.
    let info = rig.vault.index().packs().unwrap()[0];
    rig.store.remove(&pack_object(&info.id));
    rig.vault.reindex(&|_, _| ()).unwrap();
    assert_eq!(rig.vault.index().packs().unwrap().len(), 3);
    assert!(rig.vault.index().totals().unwrap().chunks < totals.chunks);
}

#[test]
fn i3_a_damaged_or_missing_pack_is_told_and_the_rest_is_read() {
    let rig = Rig::new();
    let a = rig.snapshot(&[(0, 1)]);
    let b = rig.snapshot(&[(5, 7)]);
    let data: Vec<_> =
        rig.vault.index().packs().unwrap().into_iter().filter(|p| p.kind == Kind::Data).collect();
    assert_eq!(data.len(), 2);
    rig.store.delete(&pack_object(&data[0].id)).unwrap();
    let read = |s: &Snapshot, offset| {
        let device = rig.vault.device(s, lifeboat_base::DiskId(0)).unwrap();
        let mut byte = [9];
        lifeboat_block::BlockDevice::read(&device, offset, &mut byte).map(|()| byte[0])
    };
    assert!(matches!(read(&a, 0), Err(lifeboat_block::BlockError::Corrupt(_))));
    assert_eq!(read(&a, 65_536).unwrap(), 0);
    assert_eq!(read(&b, 5 * 65_536).unwrap(), 7);
    let other = ObjectName::new("packs/00/00000000000000000000000000000000").unwrap();
    rig.store
        .put_new(&other, Bytes::from_static(b"not a pack at all, but long enough to look like one maybe"))
        .unwrap();
    let done = rig.vault.refresh(&|_, _| ()).unwrap();
    assert_eq!(done.damaged.len(), 1);
    assert!(
        rig.vault.index().packs().unwrap().iter().all(|p| p.id != data[0].id),
        "reading has found it gone"
    );
    assert!(matches!(rig.store.size(&pack_object(&data[0].id)), Err(StoreError::NotFound(_))));
}

#[test]
fn a_map_over_a_forgotten_snapshot_is_refused() {
    let rig = Rig::new();
    let s = rig.snapshot(&[(0, 1)]);
    let map = s.body.disks[0].map;
    let session = rig.begin();
    assert!(session.map(Some(map), map.size).is_ok());
    let object = Snapshot::object(&s.owner, &s.id, &rig.vault.keys().id).unwrap();
    rig.store.delete(&object).unwrap();
    assert!(matches!(session.map(Some(map), map.size), Err(VaultError::Fenced(_))));
}

#[test]
fn a_snapshot_whose_answer_was_lost_stays_announced() {
    use crate::store::memory::Fault;
    let rig = Rig::new();
    let session = rig.begin();
    session.put(Kind::Data, chunk(1)).unwrap();
    let announced = session_object(&session.id()).unwrap();
    // Packs, then the snapshot: the put after the next one.
    rig.store.fail(rig.store.calls() + 2, Fault::LostReply);
    assert!(session.commit(rig.body(vec![])).is_err());
    assert!(rig.store.peek(&announced).is_some(), "only a pruner may end it now");
}
