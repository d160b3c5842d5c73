use super::*;
use lifeboat_block::storage::MemoryStorage;

#[test]
fn what_is_noted_reads_back_and_damage_says_nothing() {
    let storage = MemoryStorage::new();
    let notes = Notes(Arc::new(storage.clone()));
    assert_eq!((notes.writer(), notes.ends()), (None, Vec::new()));
    notes.set_writer(0x2a).expect("stored");
    let end = |epoch, last, writer| EpochEnd { epoch: Epoch(epoch), last: Seq(last), writer };
    let ends = [end(1, 4711, Some(u64::MAX)), end(2, 4711, None), end(7, 5000, Some(1))];
    notes.set_ends(&ends).expect("stored");
    assert_eq!((notes.writer(), notes.ends()), (Some(0x2a), ends.to_vec()));
    let content = storage.bytes(EPOCHS).expect("a file");
    for at in 0..content.len() - 1 {
        let damaged = storage.after_kill();
        damaged.tamper(EPOCHS, |b| b[at] ^= 1);
        assert_eq!(Notes(Arc::new(damaged)).ends(), Vec::new(), "byte {at}");
    }
    storage.tamper(WRITER, |b| b.truncate(10));
    assert_eq!(notes.writer(), None);
}

#[test]
fn only_the_newest_epochs_are_kept() {
    let notes = Notes(Arc::new(MemoryStorage::new()));
    let end = |n: u32| EpochEnd { epoch: Epoch(n), last: Seq(u64::from(n)), writer: None };
    let all: Vec<_> = (1..=200).map(end).collect();
    notes.set_ends(&all).expect("stored");
    let kept = notes.ends();
    assert_eq!(kept, all[200 - MOST_EPOCHS..]);
}
