#![allow(clippy::unwrap_used)]
use super::*;
use lifeboat_base::SeededEntropy;

#[test]
fn tokens_round_trip_and_match_only_their_own_hash() {
    let entropy = SeededEntropy::new(1);
    let (a, b) = (Secret::random(&entropy), Secret::random(&entropy));
    let ca = Fingerprint::of(b"ca");
    assert!(Secret::parse_person(&a.person()).unwrap().matches(&a.hash()));
    let join = a.join(ca);
    assert_eq!(join.len(), "lbj_".len() + 16 + 1 + 64 + 1 + 64);
    assert!(Secret::parse_join(&join).unwrap().matches(&a.hash()));
    assert!(!a.matches(&b.hash()));
    assert!(Secret::parse_person(&join).is_none(), "a join token is no person's");
    assert!(Secret::parse_join(&a.person()).is_none());
}

#[test]
fn nonsense_is_no_token() {
    let good = Secret::random(&SeededEntropy::new(2)).person();
    for bad in
        ["", "lb_", "lb__", &good[..good.len() - 1], &format!("{good}0"), &good.to_uppercase(), "lb_é_ü"]
    {
        assert!(Secret::parse_person(bad).is_none(), "{bad}");
    }
}

#[test]
fn a_secret_is_not_printed() {
    let s = Secret::random(&SeededEntropy::new(3));
    assert!(!format!("{s:?}").contains(&*s.secret));
}
