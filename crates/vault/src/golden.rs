//! A vault written by version 1 of the format, byte for byte, is read by this one.
//!
//! `UPDATE_GOLDEN=1 cargo test -p lifeboat-vault golden` writes it anew; do that for a new version only, beside the old.

use crate::id::{ChunkId, ObjectName};
use crate::object::ObjectType;
use crate::snapshot::{Hold, Owner};
use crate::store::{MemoryStore, Part, Store};
use crate::testing::{Rig, chunk};
use crate::{Kind, Settings, Vault, VaultOptions};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{DiskId, Secret, WallTime};
use lifeboat_block::BlockDevice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// One object of each kind: two points that share a map, a backup, a hold, a rotation, a plan, a catalogue.
fn write() {
    let rig = Rig::new();
    let first = rig.snapshot(&[(0, 1), (300, 2), (999, 3)]);
    rig.vault.rotate_key(&Secret(Rig::SITE_KEY)).unwrap();
    let session = rig.begin();
    let base = first.body.disks[0].map;
    let mut map = session.map(Some(base), base.size).unwrap();
    map.set(0, ChunkId::ZERO).unwrap();
    map.set(300, session.put(Kind::Data, chunk(9)).unwrap()).unwrap();
    let map = map.finish().unwrap();
    let second = rig.commit(session, vec![map]);
    let hold = Hold { name: Some("golden".into()), locked_until: Some(WallTime(1 << 60)), ..Hold::default() };
    rig.vault.set_hold(&second.id, hold).unwrap();
    let session = rig.vault.begin(Owner::Set("etc".into())).unwrap();
    session.put(Kind::Meta, bytes::Bytes::from_static(b"a tree's root")).unwrap();
    let tree = *blake3::hash(b"a tree's root").as_bytes();
    let body = crate::SnapshotBody { tree: Some(tree), point: None, ..rig.body(vec![]) };
    session.commit(body).unwrap();
    let name = |n: &str| ObjectName::new(n).unwrap();
    let plan = crate::plan::encode_plan(&[crate::PackId([7; 16])]);
    rig.vault.put_object(&name("prune/00000001.plan"), ObjectType::Plan, &plan).unwrap();
    rig.vault.put_object(&name("catalogue/00000001"), ObjectType::Catalogue, b"{}").unwrap();
    let _ = std::fs::remove_dir_all(dir());
    for object in rig.store.names() {
        let path = dir().join(object.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, rig.store.get(&object, Part::All).unwrap()).unwrap();
    }
}

fn load(store: &MemoryStore, at: &Path) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            load(store, &path);
        } else {
            let name = path.strip_prefix(dir()).unwrap().to_str().unwrap().to_string();
            store.overwrite(&ObjectName::new(name).unwrap(), std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn a_vault_of_version_1_is_read() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write();
    }
    let store = Arc::new(MemoryStore::new("golden"));
    load(&store, &dir());
    let rig = Rig::new();
    let options = VaultOptions {
        store,
        site_keys: vec![Secret(Rig::SITE_KEY)],
        index: None,
        settings: Settings::default(),
    };
    let vault = Vault::open(options, rig.clock.clone(), rig.entropy.clone()).unwrap();
    let done = vault.refresh(&|_, _| ()).unwrap();
    assert_eq!((done.snapshots_added, done.damaged), (3, vec![]));
    assert_eq!(vault.keys().generation(), 2);
    let points = vault.snapshots_of(&Rig::owner());
    let held: Vec<_> =
        points.iter().filter(|s| vault.hold(&s.id).name.as_deref() == Some("golden")).collect();
    assert_eq!((points.len(), held.len()), (2, 1));
    for point in &points {
        let second = point.id == held[0].id;
        let device = vault.device(point, DiskId(0)).unwrap();
        for (n, value) in
            [(0, if second { 0 } else { 1 }), (1, 0), (300, if second { 9 } else { 2 }), (999, 3)]
        {
            let mut content = vec![255; BLOCK];
            device.read(n * BLOCK as u64, &mut content).unwrap();
            assert!(content.iter().all(|b| *b == value), "chunk {n}");
        }
    }
    let set = vault.snapshots_of(&Owner::Set("etc".into()));
    let tree = blake3::Hash::from_bytes(set[0].body.tree.unwrap());
    assert_eq!(vault.read(&vault.content_id(&tree)).unwrap(), &b"a tree's root"[..]);
    let catalogue = ObjectName::new("catalogue/00000001").unwrap();
    assert_eq!(vault.open_object(&catalogue, ObjectType::Catalogue).unwrap(), b"{}");
}

#[test]
fn plain_formats_are_written_as_ever() {
    let seeds = crate::fuzzing::seeds();
    let hash = |n: usize| blake3::hash(&seeds[n]).to_hex()[..16].to_string();
    // Pack head, directory, whole pack, snapshot, hold, plan, map's node, session, marker.
    let found: Vec<String> = [0, 1, 2, 4, 5, 6, 8, 9, 10].into_iter().map(hash).collect();
    let file = dir().with_file_name("v1.hashes");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, found.join("\n") + "\n").unwrap();
    }
    assert_eq!(found.join("\n") + "\n", std::fs::read_to_string(file).unwrap());
}
