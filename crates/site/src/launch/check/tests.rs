#![allow(clippy::unwrap_used)]

use super::*;

fn parse(s: &str) -> Check {
    s.parse().unwrap()
}

#[test]
fn every_kind_is_read() {
    assert_eq!(parse("tcp:22").ports(), [22]);
    assert!(matches!(parse("http:80").kind, Kind::Http { port: 80, path } if path == "/"));
    assert!(matches!(parse("http:8080/a?b=c").kind, Kind::Http { port: 8080, path } if path == "/a?b=c"));
    assert!(
        matches!(parse("http://10.0.0.7/x").kind, Kind::Url { host, port: 80, path } if host == "10.0.0.7" && path == "/x")
    );
    assert!(
        matches!(parse("http://[fd00::1]:81").kind, Kind::Url { host, port: 81, .. } if host == "[fd00::1]")
    );
    assert!(parse("http://a:81/").ports().is_empty());
    assert!(matches!(parse("serial:^login: a:b$").kind, Kind::Serial(r) if r.as_str() == "^login: a:b$"));
    assert!(matches!(parse("script:/opt/check it").kind, Kind::Script(_)));
    assert_eq!(parse("tcp:22").to_string(), "tcp:22");
}

#[test]
fn what_is_no_check_says_why() {
    let why = |s: &str| s.parse::<Check>().unwrap_err().to_string();
    for s in ["tcp:0", "tcp:65536", "tcp:", "tcp:+1", "http:x/", "http:80 /"] {
        assert!(why(s).contains("is no check: '"), "{s}");
    }
    assert!(why("http:80/a b").contains("percent-encoded"));
    assert!(why("http://a b/").contains("is no host"));
    assert!(why("http://:80/").contains("is no host"));
    assert!(why("serial:").contains("empty"));
    assert!(why("serial:(").contains("unclosed group"));
    assert!(why("serial:(\\w{500}){500}").contains("size"));
    assert!(why("script:check.sh").contains("whole path"));
    assert!(why("ping:1").contains("'ping' is unknown"));
    assert!(why("tcp").contains("no kind"));
    assert!(why("http:80/\r\nX: y").contains("control characters"));
}

#[test]
fn details_are_fit_for_screens() {
    assert_eq!(bounded("a\u{1b}[2Jb"), "a [2Jb");
    assert_eq!(bounded(&"ä".repeat(2000)).len(), MAX_DETAIL + 3);
}
