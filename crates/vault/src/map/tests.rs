use super::*;
use crate::testing::{Rig, chunk};
use std::collections::BTreeMap;

const K: u64 = BLOCK as u64;

/// What the map says chunk by chunk.
fn content(rig: &Rig, map: &DiskMap) -> BTreeMap<u64, ChunkId> {
    let mut found = BTreeMap::new();
    walk(&rig.vault, map, &mut |v| {
        if let Visit::Chunk { number, id } = v {
            found.insert(number, *id);
        }
        Ok(true)
    })
    .unwrap();
    found
}

fn build(rig: &Rig, base: Option<DiskMap>, size: u64, set: &BTreeMap<u64, Option<u8>>) -> DiskMap {
    let session = rig.begin();
    let mut map = session.map(base, size).unwrap();
    for (n, value) in set {
        let id = value.map_or(ChunkId::ZERO, |v| session.put(Kind::Data, chunk(v)).unwrap());
        map.set(*n, id).unwrap();
    }
    let map = map.finish().unwrap();
    rig.commit(session, vec![map]);
    map
}

#[test]
fn i1_maps_over_maps_are_what_a_plain_table_says() {
    let rig = Rig::new();
    let mut seed = 7u64;
    let mut next = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let mut model: BTreeMap<u64, u8> = BTreeMap::new();
    let mut base = None;
    let mut old_size = 0;
    for round in 0..40 {
        // Sizes on both sides of one, two and three levels.
        let size =
            [1, 255, 256, 257, 60_000, 65_535, 65_536, 65_537, 200_000][next(9) as usize] * K - next(2) * 100;
        let count = chunks(size);
        let mut set = BTreeMap::new();
        for _ in 0..next(6) {
            set.insert(next(count), (next(3) > 0).then(|| next(200) as u8 + 1));
        }
        model.retain(|n, _| *n < count);
        for (n, value) in &set {
            match value {
                Some(v) => drop(model.insert(*n, *v)),
                None => drop(model.remove(n)),
            }
        }
        let map = build(&rig, base, size, &set);
        let found = content(&rig, &map);
        let wanted: BTreeMap<u64, ChunkId> =
            model.iter().map(|(n, v)| (*n, rig.vault.content_id(&blake3::hash(&chunk(*v))))).collect();
        assert_eq!(found, wanted, "round {round}: {old_size} -> {size}");
        // However it came to be, the same content has the same root.
        let fresh = model.iter().map(|(n, v)| (*n, Some(*v))).collect();
        assert_eq!(build(&rig, None, size, &fresh).root, map.root, "round {round}: {old_size} -> {size}");
        (base, old_size) = (Some(map), size);
    }
}

#[test]
fn a_change_costs_the_nodes_above_it() {
    let rig = Rig::new();
    let size = 70_000 * K;
    let set = (0..1000).map(|n| (n * 70, Some((n % 250) as u8 + 1))).collect();
    let base = build(&rig, None, size, &set);
    let before = rig.vault.index().chunk_count().unwrap();
    let one = build(&rig, Some(base), size, &BTreeMap::from([(5, Some(251))]));
    assert_eq!(rig.vault.index().chunk_count().unwrap() - before, 1 + 3, "a chunk and three nodes");
    assert_eq!(build(&rig, Some(one), size, &BTreeMap::from([(5, None)])).root, base.root);
    assert_eq!(build(&rig, Some(one), size, &BTreeMap::new()), one);
}

#[test]
fn nodes_from_outside_are_checked() {
    let node = encode(1, &[ChunkId([1; 32]); 3]);
    assert_eq!(decode(&node, 1).unwrap().len(), 3);
    assert!(decode(&node, 0).is_err());
    assert!(decode(&node[..node.len() - 1], 1).is_err());
    let mut many = node.clone();
    many[4..6].copy_from_slice(&300u16.to_le_bytes());
    assert!(decode(&many, 1).is_err());
}
