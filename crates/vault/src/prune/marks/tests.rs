use super::{ENTERED, LIVE, Marks, each_with_places};
use crate::id::ChunkId;
use crate::testing::Rig;

#[test]
fn every_chunk_has_one_slot_and_is_found_by_its_id() {
    let rig = Rig::new();
    let set: Vec<(u64, u8)> = (0..200).map(|n| (n, n as u8 + 1)).collect();
    rig.snapshot(&set);
    let mut marks = Marks::build(rig.vault.index()).unwrap();
    // 200 chunks (of 200 values), four leaves of which one is not zero, the root.
    assert_eq!(marks.len(), 202);
    let id = rig.vault.content_id(&blake3::hash(&crate::testing::chunk(7)));
    let slot = marks.slot(&id).unwrap();
    assert!(marks.set(slot, LIVE));
    assert!(!marks.set(slot, LIVE), "the second time it is set already");
    assert!(marks.has(slot, LIVE) && !marks.has(slot, ENTERED));
    assert_eq!(marks.slot(&ChunkId([9; 32])), None);

    let mut seen = 0;
    each_with_places(rig.vault.index(), &marks, |at, places| {
        assert_eq!(places.len(), 1);
        assert_eq!(at, seen);
        if at == slot {
            assert_eq!(places[0].short, id.short());
        }
        seen += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 202);
    marks.clear(LIVE);
    assert!(!marks.has(slot, LIVE));
}
