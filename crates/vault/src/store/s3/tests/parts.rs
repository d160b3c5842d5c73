//! Objects that go up in parts.

use super::*;

fn large() -> Bytes {
    (0..12 * limits::MIB as u32 / 4).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into()
}

/// The request that ends an upload: it has the upload's id and no part number.
const END: &str = "big?uploadId=";

#[test]
fn a_large_object_goes_up_in_parts_and_its_name_is_decided_once() {
    let server = Server::start();
    let store = store(&server);
    let (big, body) = (name("big"), large());
    assert_eq!(store.put_new(&big, body.clone()).unwrap(), Put::Created);
    assert_eq!(server.seen(Method::PUT, "partNumber="), 3);
    assert_eq!(store.get(&big, Part::All).unwrap(), body);
    assert_eq!(store.put_new(&big, body.clone()).unwrap(), Put::Created, "the same bytes again");
    let mut other = body.to_vec();
    other[11 * limits::MIB] ^= 1;
    assert_eq!(store.put_new(&big, other.into()).unwrap(), Put::Exists);
    assert_eq!(store.get(&big, Part::All).unwrap(), body);
    assert_eq!(server.seen(Method::DELETE, "uploadId="), 1, "the upload that lost is ended");
}

#[test]
fn an_end_that_says_200_and_carries_an_error_is_a_failure() {
    let server = Server::start();
    let store = store(&server);
    let (big, body) = (name("big"), large());
    let padded = format!("\n   {}", error("InternalError"));
    server.fault(3, Method::POST, END, Act::Answer(200, padded.clone()));
    let e = store.put_new(&big, body.clone()).unwrap_err();
    assert!(e.to_string().contains("does not answer: InternalError, status 200"), "{e}");
    assert_eq!(server.seen(Method::DELETE, "uploadId="), 1, "its parts are taken away");
    assert!(matches!(store.size(&big), Err(StoreError::NotFound(_))));
    // Where it passes, the object is there.
    server.forget_faults();
    server.fault(2, Method::POST, END, Act::Answer(200, padded));
    assert_eq!(store.put_new(&big, body.clone()).unwrap(), Put::Created);
    store.delete(&big).unwrap();
    // An error nobody knows is no success either.
    server.forget_faults();
    server.fault(1, Method::POST, END, Act::Answer(200, error("Strange")));
    assert!(store.put_new(&big, body).is_err());
    assert!(matches!(store.size(&big), Err(StoreError::NotFound(_))));
}

#[test]
fn a_lost_answer_to_an_end_is_resolved_by_what_is_there() {
    let server = Server::start();
    let store = store(&server);
    let (big, body) = (name("big"), large());
    for act in [Act::DoneAndCut, Act::DoneBut(200, error("InternalError"))] {
        server.forget_faults();
        server.fault(1, Method::POST, END, act);
        // Asked again the service knows no such upload, or that the name is taken.
        assert_eq!(store.put_new(&big, body.clone()).unwrap(), Put::Created);
        assert_eq!(store.get(&big, Part::All).unwrap(), body);
        store.delete(&big).unwrap();
    }
    server.forget_faults();
    server.fault(1, Method::POST, END, Act::Answer(404, error("NoSuchUpload")));
    let e = store.put_new(&big, body).unwrap_err();
    assert!(e.to_string().contains("ended by somebody else; try again"), "{e}");
}

#[test]
fn a_part_that_does_not_arrive_ends_the_upload() {
    let server = Server::start();
    let store = store(&server);
    server.fault(2, Method::PUT, "partNumber=2", Act::Cut);
    assert_eq!(store.put_new(&name("big"), large()).unwrap(), Put::Created);
    server.fault(3, Method::PUT, "partNumber=3", Act::Answer(503, error("SlowDown")));
    let e = store.put_new(&name("big2"), large()).unwrap_err();
    assert!(matches!(e, StoreError::Unreachable { .. }), "{e}");
    assert_eq!(server.seen(Method::DELETE, "uploadId="), 1);
}

#[test]
fn orphaned_parts_are_taken_away_after_a_day() {
    let server = Server::start();
    let store = store(&server);
    let upload = |key: &str, begun: &str| {
        format!("<Upload><Key>{key}</Key><UploadId>u&amp;1</UploadId><Initiated>{begun}</Initiated></Upload>")
    };
    let page = |uploads: &[String], more: bool| {
        let next = "<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>m</NextUploadIdMarker>";
        let uploads = uploads.concat();
        format!(
            "<ListMultipartUploadsResult>{uploads}<IsTruncated>{more}</IsTruncated>{next}</ListMultipartUploadsResult>"
        )
    };
    let first = page(
        &[
            upload("some/prefix/packs/aa/old", "2020-01-01T00:00:00.000Z"),
            upload("some/prefix/packs/aa/new", "2999-01-01T00:00:00.000Z"),
            upload("some/prefix/packs/aa/strange", "long ago"),
            upload("elsewhere/old", "2020-01-01T00:00:00.000Z"),
        ],
        true,
    );
    let second = page(&[upload("some/prefix/old2", "2020-01-01T00:00:00Z")], false);
    server.fault(1, Method::GET, "key-marker=k&upload-id-marker=m", Act::Answer(200, second));
    server.fault(1, Method::GET, "uploads=&prefix=some%2Fprefix%2F", Act::Answer(200, first));
    server.fault(1, Method::DELETE, "aa/old?uploadId=u%261", Act::Answer(204, String::new()));
    server.fault(1, Method::DELETE, "old2?uploadId=u%261", Act::Answer(404, error("NoSuchUpload")));
    assert_eq!(store.reap().unwrap(), 1);
    assert_eq!(server.seen(Method::DELETE, ""), 2);
}
