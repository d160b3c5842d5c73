use super::*;

#[test]
fn the_median_is_the_middle() {
    assert_eq!(median(&[]), 0.0);
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
}

#[test]
fn one_missed_goal_is_remembered() {
    let mut report = Report::default();
    report.line("a", 2.0, "", Goal::AtLeast(1.0));
    report.line("b", 2.0, "", Goal::None);
    assert!(report.ok());
    report.line("c", 2.0, "", Goal::AtMost(1.0));
    report.line("d", 0.5, "", Goal::AtMost(1.0));
    assert!(!report.ok());
}
