use super::*;

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn alike_refusals_are_told_once_per_window_and_counted() {
    let limit = RefusalLimit::default();
    assert_eq!(limit.judge("a", at(0)), Verdict { tell: true, untold: 0 });
    for _ in 0..100 {
        assert!(!limit.judge("a", at(59)).tell);
    }
    assert_eq!(limit.judge("b", at(59)), Verdict { tell: true, untold: 0 });
    assert_eq!(limit.judge("a", at(60)), Verdict { tell: true, untold: 100 });
    assert_eq!(limit.judge("c", at(61)), Verdict { tell: true, untold: 0 });
}

#[test]
fn a_flood_of_different_refusals_is_bounded() {
    let limit = RefusalLimit::default();
    let told = (0..10_000).filter(|i| limit.judge(&i.to_string(), at(1)).tell).count();
    assert_eq!(told, MOST);
    assert_eq!(limit.judge("x", at(100)).untold, 10_000 - MOST as u64);
}
