#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::SystemClock;
use std::net::TcpListener;
use std::thread;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// A server that does `serve` with one connection; returns its port.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    port
}

fn hold(mut stream: TcpStream) {
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink);
}

fn get_from(answer: &'static [u8]) -> Attempt {
    let port = server(move |mut s| {
        let mut request = [0; 1024];
        let n = s.read(&mut request).unwrap();
        assert!(request[..n].starts_with(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:"));
        s.write_all(answer).unwrap();
    });
    http(&format!("127.0.0.1:{port}"), "/health", LONG, &SystemClock)
}

#[test]
fn http_passes_below_500() {
    assert_eq!(get_from(b"HTTP/1.1 204 No\r\n\r\n"), Attempt::Passed("status 204".into()));
    assert_eq!(get_from(b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\nx"), Attempt::Passed("status 404".into()));
    assert_eq!(get_from(b"HTTP/1.1 503 Busy\r\n\r\n"), Attempt::NotYet("status 503".into()));
}

#[test]
fn http_is_not_fooled_by_other_protocols() {
    let not = |why: &str| Attempt::NotYet(why.into());
    assert_eq!(get_from(b"SSH-2.0-x\r\n\r\n"), not("the answer is not HTTP"));
    assert_eq!(get_from(b"HTTP/1.1 999 Odd\r\n\r\n"), not("the answer is not HTTP"));
    assert_eq!(get_from(b"HTTP/1.1 200 OK\r\n"), not("the answer was cut short"));
    assert_eq!(get_from(b""), not("the connection was closed without an answer"));
}

#[test]
fn http_gives_up_on_an_answer_without_end() {
    let port = server(|mut s| while s.write_all(&[b'x'; 4096]).is_ok() {});
    let end = http(&format!("127.0.0.1:{port}"), "/", LONG, &SystemClock);
    assert_eq!(end, Attempt::NotYet("the head of the answer has no end".into()));
}

#[test]
fn http_gives_up_in_time() {
    let port = server(hold);
    let end = http(&format!("127.0.0.1:{port}"), "/", SHORT, &SystemClock);
    assert_eq!(end, Attempt::NotYet("no answer in time".into()));
}

#[test]
fn a_forwarded_connect_alone_proves_nothing() {
    let side = |s: GuestSide| move |_| Ok(s);
    let try_it = |port, s| tcp(&Target::Forwarded(port), SHORT, &SystemClock, &side(s));
    assert_eq!(try_it(server(hold), GuestSide::Waiting), Attempt::NotYet("the guest does not answer".into()));
    assert_eq!(try_it(server(hold), GuestSide::Established), Attempt::Passed("connected".into()));
    let closed = try_it(server(drop), GuestSide::Waiting);
    assert_eq!(closed, Attempt::NotYet("the guest refused the connection".into()));
    let banner = server(|mut s| {
        s.write_all(b"220 ready\r\n").unwrap();
        hold(s);
    });
    assert_eq!(try_it(banner, GuestSide::Waiting), Attempt::Passed("connected, and the guest spoke".into()));
}

#[test]
fn a_direct_connect_is_the_guests_own() {
    let none = |_| Ok(GuestSide::Absent);
    let port = server(hold);
    let up = tcp(&Target::Direct(format!("127.0.0.1:{port}")), SHORT, &SystemClock, &none);
    assert_eq!(up, Attempt::Passed("connected".into()));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = tcp(&Target::Direct(free.to_string()), SHORT, &SystemClock, &none);
    assert_eq!(down, Attempt::NotYet("connection refused".into()));
}

#[test]
fn serial_output_is_followed_across_seams() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial.log");
    let regex = Regex::new("login: $").unwrap();
    let mut scan = SerialScan::new(path.clone());
    assert_eq!(scan.look(&regex).unwrap(), Attempt::NotYet("the guest has printed nothing".into()));
    let mut log = File::create(&path).unwrap();
    log.write_all(&vec![b'.'; 3 * CHUNK]).unwrap();
    log.write_all(b"\r\nweb-1 log").unwrap();
    let so_far = Attempt::NotYet("no match; the last line is: web-1 log".into());
    assert_eq!(scan.look(&regex).unwrap(), so_far);
    assert!(scan.window.len() <= OVERLAP);
    log.write_all(b"in: ").unwrap();
    assert_eq!(scan.look(&regex).unwrap(), Attempt::Passed("login: ".into()));
}
