use super::*;

#[test]
fn rows_name_tests_or_say_why_they_are_open() {
    let (rows, wrong) = rows(
        "| # | inject | where | tests |\n| --- | --- | --- | --- |\n\
         | 1 | kill | unit | `journal::writer::tests::a`, `e2e::kill::b` |\n\
         | 2 | power | unit | `journal::open::c`; open: half of it |\n\
         | 3 | nothing | - | nothing at all |",
    );
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].tests, ["journal::writer::tests::a", "e2e::kill::b"]);
    assert_eq!((rows[1].tests.len(), rows[1].open.as_deref()), (1, Some("half of it")));
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].contains("row 3") && wrong[1].contains("1 to"));
}

#[test]
fn a_test_is_found_by_crate_modules_and_name() {
    let have = BTreeSet::from([
        "crates/journal/src/open/tests::a_torn_tail".to_owned(),
        "tests/e2e/tests/kill::killed".to_owned(),
    ]);
    assert!(exists("journal::open::tests::a_torn_tail", &have));
    assert!(exists("e2e::kill::killed", &have));
    assert!(!exists("journal::open::tests::another", &have));
    assert!(!exists("site::open::tests::a_torn_tail", &have));
    assert!(!exists("journal::writer::tests::a_torn_tail", &have));
}
