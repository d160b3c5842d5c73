use super::*;

/// Seeds of every change.
const SEEDS: u64 = 500;

#[test]
fn one_seed_gives_one_trace() {
    for seed in [1, 2, 7] {
        let (a, b) = (run(seed, Mutant::None, false), run(seed, Mutant::None, false));
        assert_eq!((a.trace, a.events), (b.trace, b.events), "seed {seed}");
    }
    assert_ne!(run(1, Mutant::None, false).trace, run(2, Mutant::None, false).trace);
}

#[test]
fn i1_to_i6_hold_in_five_hundred_worlds() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        tally.add(&run(seed, Mutant::None, false));
    }
    println!("{tally}");
    assert!(tally.failed.is_empty(), "{tally}");
    assert_eq!(tally.faults.len(), Fault::ALL.len(), "every fault happened: {tally}");
    assert!(tally.points > 10_000 && tally.compared > 2_000, "the runs were about something: {tally}");
    assert!(tally.unreadable > 0, "no damage was ever met: {tally}");
    assert!(
        tally.spooled > 100 && tally.verified > 500 && tally.named > 0 && tally.planted > 50,
        "spools and comparisons had work: {tally}"
    );
}

/// A seed among the first ones that shows the mutant, and what it says.
fn caught(mutant: Mutant) -> String {
    let found = (0..48).find_map(|seed| run(seed, mutant, false).violation);
    found.unwrap_or_else(|| panic!("{mutant:?} lives"))
}

#[test]
fn an_early_ack_is_caught() {
    assert!(caught(Mutant::EarlyAck).contains("I2"));
}

#[test]
fn a_skipped_fsync_is_caught() {
    caught(Mutant::SkippedFsync);
}

#[test]
fn swapped_writes_are_caught() {
    assert!(caught(Mutant::SwappedWrites).contains("I1"));
}

#[test]
fn a_dropped_discard_is_caught() {
    let said = caught(Mutant::DroppedDiscard);
    // Where flushes are answered it shows as a flush that lacks what completed before.
    assert!(said.contains("I1") || said.contains("lacks what completed"), "{said}");
}

#[test]
fn an_off_by_one_block_is_caught() {
    assert!(caught(Mutant::OffByOneBlock).contains("I1"));
}

#[test]
fn a_stale_epoch_let_in_is_caught() {
    assert!(caught(Mutant::StaleEpoch).contains("I4"));
}
