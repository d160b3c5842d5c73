use super::*;

#[test]
fn columns_line_up_and_numbers_stand_right() {
    let mut table = Table::new(["NAME", ">SIZE", "NOTE"]);
    table.row(["web-1".into(), "9".into(), "".into()]);
    table.row(["a".into(), "1024".into(), Cell::painted("bad", "\x1b[31mbad\x1b[0m".into())]);
    assert_eq!(table.render("  "), "  NAME   SIZE  NOTE\n  web-1     9\n  a      1024  \x1b[31mbad\x1b[0m\n");
}

#[test]
fn what_a_peer_wrote_cannot_move_the_cursor() {
    let mut table = Table::new(["NAME"]);
    table.row(["a\x1b[2Jb\nc".into()]);
    assert_eq!(table.render(""), "NAME\na [2Jb c\n");
}
