//! Failures of the service: survived, or named; never taken for something else.

use super::*;

/// Every kind of request, and that it did what it is for.
fn each_request(
    store: &S3Store,
    server: &Server,
    prepare: impl Fn(&Server, Method),
    check: impl Fn(&str, Result<(), StoreError>),
) {
    let a = name("a");
    let body = Bytes::from_static(b"content");
    let fresh = || {
        server.forget_faults();
        store.delete(&a).unwrap();
        store.put_new(&a, body.clone()).unwrap();
        server.forget_faults();
    };
    fresh();
    prepare(server, Method::GET);
    check("get", store.get(&a, Part::Tail(4)).map(|b| assert_eq!(b, "tent")));
    fresh();
    prepare(server, Method::HEAD);
    check("size", store.size(&a).map(|size| assert_eq!(size, 7)));
    fresh();
    prepare(server, Method::GET);
    let mut seen = 0;
    let listed = store.list("", &mut |_| {
        seen += 1;
        ControlFlow::Continue(())
    });
    check("list", listed.map(|()| assert_eq!(seen, 1)));
    fresh();
    prepare(server, Method::DELETE);
    check("delete", store.delete(&a));
    server.forget_faults();
    store.delete(&a).unwrap();
    server.forget_faults();
    prepare(server, Method::PUT);
    check("put", store.put_new(&a, body.clone()).map(|put| assert_eq!(put, Put::Created)));
}

fn acts() -> Vec<Act> {
    vec![
        Act::Answer(500, error("InternalError")),
        Act::Answer(503, error("SlowDown")),
        Act::Answer(502, "<html>bad gateway</html>".into()),
        Act::Answer(429, String::new()),
        Act::Answer(409, error("OperationAborted")),
        Act::Cut,
        Act::DoneAndCut,
        Act::DoneBut(500, error("InternalError")),
        Act::Half,
    ]
}

#[test]
fn what_passes_is_survived() {
    let server = Server::start();
    let store = store(&server);
    for act in acts() {
        // Two of three attempts fail.
        each_request(
            &store,
            &server,
            |server, method| server.fault(2, method, "", act.clone()),
            |what, ended| ended.unwrap_or_else(|e| panic!("{what}: {e}")),
        );
    }
}

#[test]
fn what_stays_is_told_after_the_last_attempt() {
    let server = Server::start();
    let store = store(&server);
    for act in [Act::Answer(503, error("SlowDown")), Act::Cut] {
        each_request(
            &store,
            &server,
            |server, method| server.fault(usize::MAX, method, "", act.clone()),
            |what, ended| {
                let e = ended.unwrap_err();
                assert!(matches!(e, StoreError::Unreachable { .. }), "{what}: {e}");
                let asked: usize = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE]
                    .map(|m| server.seen(m, ""))
                    .iter()
                    .sum();
                assert_eq!(asked, 3, "{what}");
            },
        );
    }
}

#[test]
fn no_answer_is_waited_for_so_long_and_no_longer() {
    let server = Server::start();
    let patient = store(&server);
    patient.put_new(&name("a"), Bytes::from_static(b"x")).unwrap();
    let short = open(S3Settings { limits: S3Limits { attempts: 2, ..limits() }, ..settings(&server) });
    server.fault(usize::MAX, Method::GET, "", Act::Stall);
    let e = short.get(&name("a"), Part::All).unwrap_err();
    assert!(e.to_string().ends_with("does not answer: no answer within 1 s"), "{e}");
    assert_eq!(server.seen(Method::GET, ""), 2);
    // The bound of all attempts holds, too, however many there may be.
    let total = S3Limits { attempts: 1_000_000, total: Duration::from_millis(700), ..limits() };
    let short = open(S3Settings { limits: total, ..settings(&server) });
    assert!(matches!(short.get(&name("a"), Part::All), Err(StoreError::Unreachable { .. })));
}

#[test]
fn a_lost_answer_to_a_write_is_resolved_by_what_is_there() {
    let server = Server::start();
    let store = store(&server);
    let (a, mine) = (name("a"), Bytes::from_static(b"mine"));
    for act in [Act::DoneAndCut, Act::DoneBut(503, error("SlowDown"))] {
        server.forget_faults();
        server.fault(1, Method::PUT, "", act);
        assert_eq!(store.put_new(&a, mine.clone()).unwrap(), Put::Created);
        assert_eq!(server.seen(Method::PUT, ""), 2);
        store.delete(&a).unwrap();
    }
    // All answers are lost: it may have happened, and asking again finds out.
    server.forget_faults();
    server.fault(3, Method::PUT, "", Act::DoneAndCut);
    assert!(matches!(store.put_new(&a, mine.clone()), Err(StoreError::Unreachable { .. })));
    assert_eq!(store.put_new(&a, mine.clone()).unwrap(), Put::Created);
    assert_eq!(store.put_new(&a, Bytes::from_static(b"his.")).unwrap(), Put::Exists);
    assert_eq!(store.get(&a, Part::All).unwrap(), mine);
}

#[test]
fn a_refused_write_and_nothing_there_is_no_success() {
    let server = Server::start();
    let store = store(&server);
    server.fault(usize::MAX, Method::PUT, "", Act::Answer(412, error("PreconditionFailed")));
    let e = store.put_new(&name("a"), Bytes::from_static(b"x")).unwrap_err();
    assert!(e.to_string().contains("refused as taken, and is not there"), "{e}");
}

#[test]
fn errors_say_what_to_do() {
    let server = Server::start();
    let store = store(&server);
    let a = name("a");
    let moved = "<Error><Code>PermanentRedirect</Code><Message>m</Message></Error>".to_string();
    for (act, text) in [
        (
            Act::Answer(403, error("AccessDenied")),
            "does not allow it: the access key needs the rights to get",
        ),
        (Act::Answer(403, error("InvalidAccessKeyId")), "it does not know the access key"),
        (Act::Answer(403, error("RequestTimeTooSkewed")), "this machine's clock differs from the service's"),
        (Act::Answer(400, error("ExpiredToken")), "the session's token is no longer valid"),
        (Act::Answer(507, error("XMinioStorageFull")), "no space is left in"),
        (Act::Answer(400, error("QuotaExceeded")), "no space is left in"),
        (Act::Answer(501, error("NotImplemented")), "it does not know a request a vault needs"),
        (Act::Answer(400, error("EntityTooLarge")), "EntityTooLarge, status 400: told so"),
        (
            Act::AnswerWith(301, "x-amz-bucket-region", "eu-west-1".into(), moved),
            "the bucket is elsewhere: set region to eu-west-1",
        ),
    ] {
        server.forget_faults();
        server.fault(1, Method::PUT, "", act);
        let e = store.put_new(&a, Bytes::new()).unwrap_err().to_string();
        assert!(e.contains(text), "{e}");
        assert_eq!(server.seen(Method::PUT, ""), 1, "asked again in vain: {text}");
    }
}

#[test]
fn a_service_that_answers_more_or_other_bytes_is_not_believed() {
    let server = Server::start();
    let store = store(&server);
    let a = name("a");
    store.put_new(&a, Bytes::from_static(b"0123456789")).unwrap();
    let range = Part::Range { offset: 2, len: 3 };
    // It does not know ranges: what was asked for is cut out, as far as it is not too much.
    server.fault(1, Method::GET, "/a", Act::Answer(200, "0123".into()));
    assert!(store.get(&a, range).unwrap_err().to_string().contains("more than the 3 bytes"));
    server.fault(1, Method::GET, "/a", Act::Answer(200, "012".into()));
    assert_eq!(store.get(&a, range).unwrap(), "2");
    let with =
        |range: &str, body: &str| Act::AnswerWith(206, "content-range", range.to_string(), body.to_string());
    for (told, body) in
        [("bytes 1-3/10", "123"), ("bytes 2-4/10", "23"), ("bytes 4-2/10", "2"), ("rubbish", "234")]
    {
        server.fault(1, Method::GET, "/a", with(told, body));
        let e = store.get(&a, range).unwrap_err();
        assert!(matches!(e, StoreError::Broken { .. }), "{told}: {e}");
    }
    assert_eq!(store.get(&a, range).unwrap(), "234");
}

#[test]
fn listings_are_followed_page_by_page_and_not_for_ever() {
    let server = Server::start();
    let store = store(&server);
    let page = |keys: &[&str], next: Option<&str>| {
        let contents: String =
            keys.iter().map(|k| format!("<Contents><Key>{k}</Key><Size>1</Size></Contents>")).collect();
        let next = next.map_or("<IsTruncated>false</IsTruncated>".into(), |n| {
            format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>")
        });
        Act::Answer(200, format!("<ListBucketResult><Name>bucket</Name>{contents}{next}</ListBucketResult>"))
    };
    server.fault(
        1,
        Method::GET,
        "continuation-token=n%2F1",
        page(&["some/prefix/c", "some/prefix/UP"], None),
    );
    server.fault(
        1,
        Method::GET,
        "list-type=2",
        page(&["some/prefix/a", "elsewhere/b", "some/prefix/b"], Some("n/1")),
    );
    let found = [("a".to_string(), 1), ("b".to_string(), 1), ("c".to_string(), 1)];
    assert_eq!(listing(&store, ""), found, "names that are not ours are skipped");
    let list = || store.list("", &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    server.fault(2, Method::GET, "list-type=2", page(&[], Some("same")));
    assert!(list().contains("does not go on where it ended"));
    server.forget_faults();
    server.fault(1, Method::GET, "list-type=2", Act::Answer(200, "<ListBucketResult><Contents>".into()));
    assert!(list().contains("its listing cannot be read"));
    server.fault(1, Method::GET, "list-type=2", Act::Answer(200, "x".repeat(9 * limits::MIB)));
    assert!(list().contains("it answered more than"));
    server.fault(3, Method::GET, "list-type=2", Act::Answer(200, error("InternalError")));
    assert!(list().contains("does not answer: InternalError"), "an error with status 200");
}
