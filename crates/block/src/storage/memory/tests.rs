use super::*;
use lifeboat_base::SeededEntropy;
use std::collections::BTreeSet;

fn file(storage: &MemoryStorage, name: &str, content: &[u8]) -> Arc<dyn LogFile> {
    let file = storage.create(name).expect("creates");
    assert_eq!(file.write_at(content, 0).expect("writes"), content.len());
    file
}

#[test]
fn a_power_loss_keeps_what_was_synced_and_any_part_of_the_rest() {
    let storage = MemoryStorage::new();
    let a = file(&storage, "a", &[1; 2000]);
    a.sync().expect("syncs");
    storage.sync_dir().expect("syncs");
    a.write_at(&[2; 1500], 100).expect("writes");
    a.write_at(&[3; 100], 3000).expect("writes");
    file(&storage, "b", b"new");
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let after = storage.after_torn_power_loss(&SeededEntropy::new(seed));
        let bytes = after.bytes("a").expect("it was synced");
        assert!(bytes[..100] == [1; 100] && bytes[1600..2000] == [1; 400], "untouched ranges stay");
        // Sectors are whole: 100..512, 512..1024, 1024..1536, 1536..1600.
        let sectors = [(100, 512), (512, 1024), (1024, 1536), (1536, 1600)];
        for (from, to) in sectors {
            assert!(bytes[from..to].iter().all(|b| *b == bytes[from]), "a torn sector");
        }
        seen.insert((sectors.map(|s| bytes[s.0]), bytes.len(), after.bytes("b").is_some()));
    }
    assert!(seen.contains(&([1; 4], 2000, false)), "all of it lost");
    assert!(seen.contains(&([2; 4], 3100, true)), "all of it kept");
    assert!(seen.iter().any(|(_, len, b)| *len == 3100 && !b), "the file and the directory are apart");
    assert!(seen.contains(&([1; 4], 3100, true)), "a later write without an earlier one");
    assert!(seen.iter().any(|(s, ..)| *s != [1; 4] && *s != [2; 4]), "a torn write");
}

#[test]
fn a_full_disk_takes_what_fits_and_goes_on_when_there_is_room() {
    let storage = MemoryStorage::new();
    let a = file(&storage, "a", &[1; 100]);
    storage.set_capacity(Some(150));
    assert_eq!(a.write_at(&[2; 100], 90).expect("what fits"), 60);
    assert_eq!(a.write_at(&[2; 1], 150).expect_err("full").raw_os_error(), Some(28));
    assert_eq!(a.preallocate(151).expect_err("full").raw_os_error(), Some(28));
    assert_eq!(storage.create("b").err().and_then(|e| e.raw_os_error()), Some(28));
    assert_eq!(a.write_at(&[9; 150], 0).expect("no longer than before"), 150);
    storage.set_capacity(None);
    a.write_at(&[3; 100], 150).expect("there is room");
    assert_eq!(storage.used(), 250);
}

#[test]
fn a_write_whose_sync_failed_is_not_saved_by_another_sync() {
    let storage = MemoryStorage::new();
    let a = file(&storage, "a", &[1; 10]);
    storage.sync_dir().expect("syncs");
    let fault = StorageFault { call: Some(StorageCall::Sync), nth: 1, forever: false, errno: 5, half: false };
    storage.fail(fault);
    a.sync().expect_err("ordered");
    a.sync().expect("the system forgot");
    assert_eq!(storage.bytes("a").expect("file"), [1; 10], "it reads back");
    assert_eq!(storage.after_power_loss().bytes("a").expect("file"), [], "and is not there");
    a.write_at(&[1; 10], 0).expect("writes");
    a.sync().expect("syncs");
    assert_eq!(storage.after_power_loss().bytes("a").expect("file"), [1; 10]);
}
