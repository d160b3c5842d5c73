use super::*;

#[test]
fn an_id_may_be_cut_short_while_it_is_the_only_one() {
    let all = || vec!["aabb", "aacc", "dd"];
    let find = |text| only_one("run", text, all(), |s| s.to_string());
    assert_eq!(find("aab").unwrap(), "aabb");
    assert_eq!(find("DD").unwrap(), "dd");
    assert_eq!(find("aa").unwrap_err().exit, Exit::Usage);
    assert_eq!(find("x").unwrap_err().exit, Exit::NotFound);
    assert_eq!(find("").unwrap_err().exit, Exit::NotFound);
}
