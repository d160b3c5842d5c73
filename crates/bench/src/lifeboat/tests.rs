use super::*;

#[test]
fn lag_that_wobbles_is_not_lag_that_grows() {
    assert!(!growing(&[]));
    assert!(!growing(&[100, 400, 200, 90, 300, 100, 200, 390]));
    assert!(growing(&[100, 100, 500, 900, 1500, 2100, 2600, 3300]));
    assert!(!growing(&[9000, 9000, 5000, 4000, 900, 800, 200, 100]), "catching up is the opposite");
}

#[test]
fn times_are_read_as_the_api_writes_them() {
    assert_eq!(unix_ms(&"2026-01-01T00:00:00.250Z".into()).unwrap(), 1_767_225_600_250);
    assert!(unix_ms(&Value::Null).is_err());
}
