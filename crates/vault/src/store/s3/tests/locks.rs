//! Object Lock, against a service that says it has it.

use super::*;

const LOCKING: &str =
    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";

fn retention(date: &str) -> Act {
    Act::AnswerWith(200, "x-amz-object-lock-retain-until-date", date.into(), String::new())
}

fn until(date: &str) -> WallTime {
    WallTime::from_jiff(date.parse().unwrap())
}

fn locking(server: &Server) -> S3Store {
    server.fault(1, Method::GET, "object-lock=", Act::Answer(200, LOCKING.into()));
    let store = store(server);
    assert!(store.has_locks().unwrap() && store.has_locks().unwrap());
    assert_eq!(server.seen(Method::GET, "object-lock="), 1, "asked once");
    store
}

#[test]
fn a_bucket_without_locks_says_so() {
    let server = Server::start();
    let store = store(&server);
    for answer in [error("ObjectLockConfigurationNotFoundError"), String::new()] {
        server.fault(1, Method::GET, "object-lock=", Act::Answer(404, answer));
    }
    assert!(!store.has_locks().unwrap());
    let e = store.lock(&name("a"), until("2030-01-01T00:00:00Z")).unwrap_err();
    assert!(e.to_string().contains("the bucket has no Object Lock"), "{e}");
    // Nobody answering is not remembered as "none".
    server.forget_faults();
    let unsure = super::store(&server);
    server.fault(3, Method::GET, "object-lock=", Act::Cut);
    assert!(unsure.has_locks().is_err());
    server.fault(1, Method::GET, "object-lock=", Act::Answer(403, error("AccessDenied")));
    assert!(unsure.has_locks().is_err(), "who may not ask does not know");
    server.fault(1, Method::GET, "object-lock=", Act::Answer(200, LOCKING.into()));
    assert!(unsure.has_locks().unwrap());
}

#[test]
fn a_lock_is_put_and_never_made_shorter() {
    let server = Server::start();
    let store = locking(&server);
    let a = name("a");
    server.fault(1, Method::HEAD, "/a", Act::Answer(200, String::new()));
    server.fault(1, Method::PUT, "a?retention", Act::Answer(200, String::new()));
    store.lock(&a, until("2030-01-01T00:00:00.5Z")).unwrap();
    let bodies = server.bodies(Method::PUT, "a?retention");
    let body = String::from_utf8(bodies[0].to_vec()).unwrap();
    assert!(
        body.contains("<Mode>COMPLIANCE</Mode><RetainUntilDate>2030-01-01T00:00:01Z</RetainUntilDate>"),
        "{body}"
    );
    server.fault(1, Method::HEAD, "/a", retention("2031-01-01T00:00:00Z"));
    store.lock(&a, until("2030-01-01T00:00:00Z")).unwrap();
    assert_eq!(server.seen(Method::PUT, "a?retention"), 1, "a longer lock stays");
    server.fault(1, Method::HEAD, "/a", Act::Answer(404, String::new()));
    assert!(matches!(store.lock(&a, until("2030-01-01T00:00:00Z")), Err(StoreError::NotFound(_))));
}

#[test]
fn a_locked_object_is_not_deleted_and_is_when_its_time_is_over() {
    let server = Server::start();
    let store = locking(&server);
    let a = name("a");
    store.put_new(&a, Bytes::from_static(b"x")).unwrap();
    server.fault(1, Method::HEAD, "/a", retention("2500-01-01T00:00:00Z"));
    let e = store.delete(&a).unwrap_err();
    assert_eq!(e.to_string(), "a is locked until 2500-01-01T00:00:00.000Z");
    assert_eq!(store.size(&a).unwrap(), 1);
    server.fault(1, Method::HEAD, "/a", retention("tomorrow"));
    assert!(matches!(store.delete(&a), Err(StoreError::Broken { .. })), "an unknown date is no leave");
    server.fault(1, Method::HEAD, "/a", retention("2020-01-01T00:00:00Z"));
    store.delete(&a).unwrap();
    assert!(matches!(store.size(&a), Err(StoreError::NotFound(_))));
}
