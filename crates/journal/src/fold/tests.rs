#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{DISK, Rig, Source};
use lifeboat_base::WallTime;
use lifeboat_block::storage::{StorageCall, StorageFault};
use proptest::prelude::*;
use std::time::Duration;

/// A long story, most of it before the window.
fn story(seed: u64, rounds: usize) -> (Rig, Source, crate::Journal) {
    let rig = Rig::new();
    let mut journal = rig.open();
    let mut source = Source::new(seed);
    for n in 0..rounds {
        source.random(15).barrier().send(&mut journal);
        rig.clock.advance(Duration::from_secs(600));
        if n % 5 == 4 {
            journal.close().unwrap();
            journal = rig.open();
        }
    }
    (rig, source, journal)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn folding_changes_no_point_in_the_window(seed: u64, rounds in 8..25usize) {
        let (rig, mut source, mut journal) = story(seed, rounds);
        for _ in 0..3 {
            let keeper = journal.keeper();
            let plan = keeper.plan_trim().unwrap();
            let before = journal.reader().usage();
            let report = keeper.trim(&plan).unwrap();
            let after = journal.reader().usage();
            prop_assert_eq!(report.damage, Vec::new());
            prop_assert!(after.bytes <= before.bytes);
            prop_assert_eq!(before.bytes - after.bytes, report.bytes_freed);
            prop_assert!(after.points >= 6, "an hour of points every ten minutes stays");
            source.verify(&journal.reader());
            prop_assert!(journal.reader().check(true).unwrap().findings.is_empty());
            let again = keeper.plan_trim().unwrap();
            prop_assert_eq!(again.points_dropped(), 0);
            drop((journal, keeper));
            journal = rig.open();
            source.verify(&journal.reader());
            source.random(30).barrier().send(&mut journal);
            rig.clock.advance(Duration::from_secs(1200));
        }
    }
}

#[test]
fn a_fold_comes_to_rest() {
    let (_rig, _source, journal) = story(3, 20);
    let keeper = journal.keeper();
    assert!(!keeper.plan_trim().unwrap().is_empty());
    for _ in 0..4 {
        keeper.trim(&keeper.plan_trim().unwrap()).unwrap();
    }
    let plan = keeper.plan_trim().unwrap();
    assert!(plan.is_empty(), "{plan}");
    assert_eq!(plan.to_string(), "nothing to trim");
}

#[test]
fn a_fold_that_fails_or_crashes_at_any_step_changes_no_point() {
    for errno in [5, 28] {
        for nth in 1.. {
            let (rig, source, journal) = story(4, 30);
            let keeper = journal.keeper();
            let plan = keeper.plan_trim().unwrap();
            assert!(plan.runs.len() > 1, "the story must be long enough");
            let start = rig.storage.calls();
            rig.storage.fail(StorageFault { call: None, nth, forever: false, errno, half: true });
            let result = keeper.trim(&plan);
            let reached = rig.storage.calls() - start >= nth;
            for left in [rig.storage.after_power_loss(), rig.storage.after_kill()] {
                let (journal, report) = rig.on(left).try_open().unwrap();
                assert_eq!(report.damage, [], "call {nth}");
                assert_eq!(journal.last_seq(), source.seq);
                source.verify(&journal.reader());
            }
            source.verify(&journal.reader());
            if !reached {
                result.unwrap();
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_during_a_fold_can_be_tried_again() {
    let (rig, source, journal) = story(5, 14);
    let keeper = journal.keeper();
    let plan = keeper.plan_trim().unwrap();
    rig.storage.fail(StorageFault {
        call: Some(StorageCall::Write),
        nth: 4,
        forever: true,
        errno: 28,
        half: true,
    });
    assert!(matches!(keeper.trim(&plan), Err(JournalError::NoSpace)));
    source.verify(&journal.reader());
    rig.storage.heal();
    let listed = rig.names(".seg").len();
    assert_eq!(listed, journal.reader().usage().segments, "nothing half-made is left");
    keeper.trim(&keeper.plan_trim().unwrap()).unwrap();
    source.verify(&journal.reader());
}

#[test]
fn no_jump_of_the_time_of_day_drops_a_point() {
    let (rig, mut source, mut journal) = story(6, 3);
    let keeper = journal.keeper();
    let points = journal.reader().usage().points;
    for wall in [WallTime(0), WallTime(u64::MAX / 2), WallTime(1)] {
        rig.clock.set_wall(wall);
        source.random(3).barrier().send(&mut journal);
        assert_eq!(keeper.plan_trim().unwrap().points_dropped(), 0);
    }
    // Nor does time the journal was closed for.
    drop((journal, keeper));
    rig.clock.advance(Duration::from_secs(30 * 24 * 3600));
    let mut journal = rig.open();
    source.barrier().send(&mut journal);
    let keeper = journal.keeper();
    let plan = keeper.plan_trim().unwrap();
    assert_eq!(plan.points_dropped(), 0);
    keeper.trim(&plan).unwrap();
    assert!(journal.reader().usage().points >= points);
    source.verify(&journal.reader());
}

#[test]
fn silence_does_not_empty_the_window() {
    let (rig, source, journal) = story(7, 3);
    rig.clock.advance(Duration::from_secs(90 * 24 * 3600));
    assert_eq!(journal.keeper().plan_trim().unwrap().points_dropped(), 0, "it counts from the newest point");
    source.verify(&journal.reader());
}

#[test]
fn the_window_is_bounded_in_bytes_too() {
    let mut rig = Rig::new();
    rig.config.window_bytes = 20_000;
    let mut journal = rig.open();
    let mut source = Source::new(8);
    for _ in 0..30 {
        source.random(15).barrier().send(&mut journal);
    }
    let before = journal.reader().usage();
    let keeper = journal.keeper();
    let plan = keeper.plan_trim().unwrap();
    assert!(plan.points_dropped() > 0 && plan.to_string().starts_with("drop "), "{plan}");
    keeper.trim(&plan).unwrap();
    let after = journal.reader().usage();
    assert!(after.bytes < before.bytes && after.points > 0);
    assert!(after.bytes < 20_000 + 4096 * 4 + 2 * 2 * DISK, "history and the base: {after:?}");
    source.verify(&journal.reader());
    assert!(matches!(
        journal.reader().open_point(source.points[0].0, DiskId(0)),
        Err(PointError::BeforeWindow { .. })
    ));
}

#[test]
fn a_damaged_source_is_left_alone_and_named() {
    let (rig, source, journal) = story(9, 14);
    let keeper = journal.keeper();
    let plan = keeper.plan_trim().unwrap();
    let victim = rig.names(".seg").remove(0);
    rig.storage.tamper(&victim, |b| {
        for at in (200..b.len()).step_by(90) {
            b[at] ^= 1;
        }
    });
    let report = keeper.trim(&plan).unwrap();
    assert!(report.damage.iter().any(|d| d.segment == victim), "{report:?}");
    assert!(rig.names(".seg").contains(&victim));
    source.never_wrong(&journal.reader());
}

#[test]
fn a_stale_plan_is_refused() {
    let (rig, mut source, mut journal) = story(10, 14);
    let keeper = journal.keeper();
    let old = keeper.plan_trim().unwrap();
    keeper.trim(&old).unwrap();
    assert!(matches!(keeper.trim(&old), Err(JournalError::PlanStale)));
    for _ in 0..10 {
        source.random(10).barrier().send(&mut journal);
        rig.clock.advance(Duration::from_secs(900));
    }
    keeper.trim(&keeper.plan_trim().unwrap()).unwrap();
    assert!(matches!(keeper.trim(&old), Err(JournalError::PlanStale)));
    source.verify(&journal.reader());
}
