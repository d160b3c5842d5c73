use super::*;

const S: Duration = Duration::from_secs(1);

#[test]
fn the_pace_tells_when_a_lag_is_gone_and_says_nothing_when_it_grows() {
    let mut pace = Pace::default();
    assert_eq!(pace.eta(100), None);
    pace.sample(S, 1000, 0);
    assert_eq!(pace.eta(1000), None, "one sample is no pace");
    pace.sample(2 * S, 900, 500);
    assert_eq!(pace.eta(900), Some(9));
    pace.sample(3 * S, 1100, 900);
    assert_eq!(pace.eta(1100), None, "it grows");
    let mut steady = Pace::default();
    for n in 0..100u32 {
        steady.sample(n * S, 5000, u64::from(n) * 250);
        assert!(steady.samples.len() <= PACE);
    }
    assert_eq!(steady.eta(5000), Some(20), "content arrives");
    let mut still = Pace::default();
    still.sample(S, 5000, 7);
    still.sample(2 * S, 5000, 7);
    assert_eq!(still.eta(5000), None);
}

#[test]
fn a_trouble_is_shown_for_an_hour_and_there_are_few() {
    let mut troubles = Troubles::default();
    troubles.add(S, "first".into());
    troubles.add(2 * S, "second".into());
    assert_eq!(troubles.newest(3 * S), Some("second"));
    troubles.add(4 * S, "first".into());
    assert_eq!((troubles.newest(5 * S), troubles.0.len()), (Some("first"), 2));
    assert_eq!(troubles.newest(4 * S + SHOWN), None);
    for n in 0..100 {
        troubles.add(5 * S, n.to_string());
    }
    assert_eq!(troubles.0.len(), MOST_TROUBLES);
}
