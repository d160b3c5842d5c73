use super::*;

#[test]
fn the_percentile_is_the_nearest_rank() {
    assert_eq!(percentile((1..=100).collect(), 99), 99);
    assert_eq!(percentile((1..=200).rev().collect(), 99), 198);
    assert_eq!(percentile(vec![7], 99), 7);
    assert!(percentile(vec![], 99) > 1_000_000, "no samples are no good news");
}
