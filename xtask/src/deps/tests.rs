use super::*;

fn imports(list: &[(&str, &[&str])]) -> Imports {
    list.iter().map(|(n, u)| (n.to_string(), u.iter().map(|s| s.to_string()).collect())).collect()
}

#[test]
fn the_table_has_no_circle() {
    // Each crate imports only crates that stand before it.
    for (i, (name, used)) in ARROWS.iter().enumerate() {
        for u in *used {
            let at = ARROWS.iter().position(|(n, _)| n == u).unwrap_or_else(|| panic!("{u} is not listed"));
            assert!(at < i, "{name} imports {u}, which stands after it");
        }
    }
}

#[test]
fn an_arrow_the_table_lacks_is_named() {
    let none = Imports::new();
    assert!(check(&imports(&[("block", &["base"])]), &none).is_empty());
    assert_eq!(check(&imports(&[("journal", &["nbd"])]), &none), ["journal must not import nbd"]);
    assert_eq!(check(&imports(&[("base", &["sim"])]), &none), ["base must not import sim"]);
    assert_eq!(check(&imports(&[("attic", &[])]), &none), ["attic is not in the table"]);
    assert!(check(&imports(&[("bench", &["sim", "site"])]), &none).is_empty());
    assert!(check(&none, &imports(&[("nbd", &["sim"])])).is_empty());
    assert_eq!(check(&none, &imports(&[("nbd", &["e2e"])])), ["the tests of nbd must not import e2e"]);
}
