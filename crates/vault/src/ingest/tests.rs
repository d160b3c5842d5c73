use super::*;
use crate::testing::Rig;
use lifeboat_block::{MemoryDevice, ZeroMode};

const K: u64 = BLOCK as u64;

#[test]
fn i1_a_disk_and_what_changed_of_it_are_stored_exactly() {
    let rig = Rig::new();
    let size = 40 * K + 4096;
    let source = MemoryDevice::new(size);
    source.write(0, Bytes::from(vec![1; 3 * BLOCK])).unwrap();
    source.write(40 * K, Bytes::from(vec![2; 4096])).unwrap();
    let store = |old, ranges: &[Range<u64>]| {
        let session = rig.begin();
        let root = disk(&session, DiskId(0), &source, old, ranges.iter().cloned(), &|_| true).unwrap();
        rig.commit(session, vec![root.map]);
        root
    };
    let read = |root: &DiskRoot| {
        let mut content = vec![0; size as usize];
        rig.vault.map_device(root.map).read(0, &mut content).unwrap();
        content
    };
    let now = || {
        let mut content = vec![0; size as usize];
        source.read(0, &mut content).unwrap();
        content
    };
    let all = 0..size;
    let first = store(None, std::slice::from_ref(&all));
    assert_eq!((read(&first), first.used), (now(), 4 * K));
    source.write_zeroes(K, K, ZeroMode::MayPunch).unwrap();
    source.write(20 * K + 5, Bytes::from_static(b"here")).unwrap();
    let second = store(Some(first), &[K..2 * K, 20 * K..21 * K]);
    assert_eq!((read(&second), second.used), (now(), 4 * K));
    assert_eq!(store(None, std::slice::from_ref(&all)).map.root, second.map.root);
}

#[test]
fn one_that_is_told_to_end_ends() {
    let rig = Rig::new();
    let source = MemoryDevice::new(K);
    source.write(0, Bytes::from_static(b"x")).unwrap();
    let session = rig.begin();
    let ended = disk(&session, DiskId(0), &source, None, std::iter::once(0..K), &|_| false);
    assert!(matches!(ended, Err(IngestError::Vault(VaultError::Cancelled))));
}
