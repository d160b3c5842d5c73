use super::*;

#[test]
fn an_error_says_what_and_what_next() {
    let failure =
        Failure::from(ApiError::new(ErrorCode::Conflict, "web-1 is stopped").hint("resume it first"));
    assert_eq!(failure.exit, Exit::Refused);
    assert_eq!(failure.to_string(), "error: web-1 is stopped\n next: resume it first");
}

#[test]
fn a_refused_token_says_how_to_log_in() {
    let failure = Failure::from(ApiError::new(ErrorCode::Unauthenticated, "the token is not valid"));
    assert!(failure.to_string().contains("lifeboat login"));
}

#[test]
fn a_full_disk_says_to_make_room() {
    let e = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert!(Failure::io("write a.img", &e).to_string().contains("make room"));
}
