use super::*;
use lifeboat_base::{Entropy, SeededEntropy};

const S: Duration = Duration::from_secs(1);

fn wall(now: Duration) -> WallTime {
    WallTime(1_767_225_600_000_000_000).saturating_add(now)
}

#[test]
fn every_value_has_a_bucket_that_ends_at_most_an_eighth_above_it() {
    let mut values: Vec<u64> = (0..5000).collect();
    values.extend((4..39).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + 1]));
    let random = SeededEntropy::new(1);
    values.extend((0..1000).map(|_| random.next_u64() >> 25));
    for v in values {
        let top = top(bucket(v));
        assert!(top >= v && top - v <= v / 8, "{v}: {top}");
    }
    assert_eq!(bucket(u64::MAX), LAST);
    let tops: Vec<u64> = (0..LAST).map(top).collect();
    assert!(tops.is_sorted() && tops.windows(2).all(|w| w[0] < w[1]));
}

#[test]
fn quantiles_are_never_below_the_truth_and_the_largest_is_exact() {
    let random = SeededEntropy::new(2);
    let mut history = RpoHistory::default();
    let mut all = Vec::new();
    for second in 0..3600u64 {
        let ms = random.next_u64() % 700 + if second % 100 == 0 { 90_000 } else { 0 };
        all.push(ms);
        history.sample(Duration::from_millis(ms), Duration::from_secs(second), wall(S));
    }
    all.sort_unstable();
    let stats = history.hour(Duration::from_secs(3599)).expect("samples");
    assert_eq!((stats.samples, stats.max_ms), (3600, all[3599]));
    for (shown, rank) in [(stats.p50_ms, 1800), (stats.p99_ms, 3564)] {
        let truth = all[rank - 1];
        assert!(shown >= truth && shown <= truth + truth / 8 + 1, "{shown} for {truth}");
    }
    assert_eq!(history.minutes(usize::MAX).len(), 60);
    assert_eq!(history.minutes(3).len(), 3);
}

#[test]
fn an_hour_is_an_hour_and_a_day_is_all_there_is() {
    let mut history = RpoHistory::default();
    for second in (0..90_000).step_by(10) {
        let age = if second < 86_400 { Duration::from_secs(50) } else { S };
        let now = Duration::from_secs(second);
        let begins = history.sample(age, now, wall(now));
        assert_eq!(begins, second % 60 == 0);
    }
    assert_eq!(history.minutes.len(), MINUTES, "bounded");
    let now = Duration::from_secs(89_999);
    assert_eq!(history.hour(now).expect("samples").max_ms, 1000);
    assert_eq!(history.day(now).expect("samples").max_ms, 50_000);
    assert_eq!(history.hour(now + 2 * 3600 * S), None, "nothing was measured in that hour");
    let newest = &history.minutes(2);
    assert!(newest[0].start > newest[1].start);
}

#[test]
fn history_outlives_its_process_and_damage_makes_it_begin_anew() {
    let mut history = RpoHistory::default();
    for second in 0..600 {
        let now = Duration::from_secs(second);
        history.sample(Duration::from_millis(second), now, wall(now));
    }
    let bytes = history.encode();
    assert!((bytes.len() as u64) < LONGEST);
    // Another process, whose clock begins at zero, five minutes later.
    let at = wall(Duration::from_secs(900));
    let again = RpoHistory::decode(&bytes, Duration::ZERO, at).expect("whole");
    assert_eq!(
        again.minutes(99).iter().map(|m| m.stats).collect::<Vec<_>>(),
        history.minutes(99).iter().map(|m| m.stats).collect::<Vec<_>>()
    );
    assert_eq!(again.hour(Duration::ZERO), history.day(Duration::from_secs(600)));
    assert_eq!(again.hour(Duration::from_secs(3600)), None);
    // The time of day went back by years: nothing is lost, only misplaced.
    assert!(RpoHistory::decode(&bytes, Duration::ZERO, WallTime(0)).expect("whole").day(S).is_some());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(RpoHistory::decode(&damaged, Duration::ZERO, WallTime(0)).is_none(), "byte {at}");
        assert!(RpoHistory::decode(&bytes[..at], Duration::ZERO, WallTime(0)).is_none(), "length {at}");
    }
}
