#![allow(clippy::unwrap_used)]

use super::*;
use std::os::unix::net::UnixListener;
use std::thread;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;
const SOON: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(20);

/// A machine's monitor, as a test's story tells it.
struct FakeMonitor {
    stream: BufReader<UnixStream>,
}

impl FakeMonitor {
    fn greet(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let mut it = Self { stream: BufReader::new(stream) };
        it.say(GREETING);
        let hello = it.hear();
        assert_eq!(hello["execute"], "qmp_capabilities");
        it.answer(&hello, json!({}));
        it
    }

    fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    fn answer(&mut self, command: &Value, value: Value) {
        self.say(&json!({"return": value, "id": command["id"]}).to_string());
    }

    fn event(&mut self, name: &str, data: Value) {
        self.say(
            &json!({"event": name, "data": data, "timestamp": {"seconds": 2, "microseconds": 7}}).to_string(),
        );
    }
}

/// Runs `monitor` as the machine and `client` as its only client.
fn with_fake<T>(
    monitor: impl FnOnce(FakeMonitor) + Send,
    timeout: Duration,
    client: impl FnOnce(Qmp) -> T,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|s| {
        let t = s.spawn(move || monitor(FakeMonitor::greet(&listener)));
        let out = client(Qmp::connect(&path, timeout).unwrap());
        t.join().unwrap();
        out
    })
}

#[test]
fn greeting_gives_the_version() {
    with_fake(|_| {}, LONG, |q| assert_eq!(q.version().to_string(), "7.2.22"));
}

#[test]
fn replies_are_matched_by_id_even_out_of_order() {
    with_fake(
        |mut m| {
            let (a, b) = (m.hear(), m.hear());
            for c in [b, a] {
                let echo = c["arguments"].clone();
                m.answer(&c, echo);
            }
        },
        LONG,
        |q| {
            thread::scope(|s| {
                for n in [1, 2] {
                    let q = &q;
                    s.spawn(move || assert_eq!(q.execute("echo", json!({"n": n})).unwrap()["n"], n));
                }
            });
        },
    );
}

#[test]
fn a_late_reply_is_not_taken_for_anothers() {
    with_fake(
        |mut m| {
            let slow = m.hear();
            let next = m.hear();
            m.answer(&slow, json!("late"));
            m.answer(&next, json!("mine"));
        },
        LONG,
        |q| {
            let e = q.execute_within("slow", Value::Null, SOON).unwrap_err();
            assert!(matches!(&e, QmpError::Timeout { command, .. } if command == "slow"), "{e}");
            assert_eq!(q.execute("next", Value::Null).unwrap(), "mine");
        },
    );
}

#[test]
fn a_refused_command_keeps_class_and_reason() {
    with_fake(
        |mut m| {
            let c = m.hear();
            m.say(
                &json!({"error": {"class": "DeviceNotFound", "desc": "no such node"}, "id": c["id"]})
                    .to_string(),
            );
        },
        LONG,
        |q| {
            let e = q.execute("blockdev-del", Value::Null).unwrap_err();
            assert_eq!(e.to_string(), "QEMU refused 'blockdev-del': no such node");
            assert!(e.is_not_found());
        },
    );
}

#[test]
fn a_machine_that_dies_fails_waiting_and_later_commands() {
    with_fake(
        |mut m| {
            m.hear();
        },
        LONG,
        |q| {
            let events = q.events();
            assert!(matches!(q.execute("x", Value::Null), Err(QmpError::Closed)));
            assert!(matches!(q.execute("y", Value::Null), Err(QmpError::Closed)));
            assert!(events.next(LONG).is_none());
            assert!(events.closed() && q.closed() && q.events().closed());
        },
    );
}

#[test]
fn events_reach_each_listener_and_the_oldest_give_way() {
    use lifeboat_base::limits::QMP_EVENTS;
    with_fake(
        |mut m| {
            let go = m.hear();
            for n in 0..QMP_EVENTS + 3 {
                m.event("TICK", json!({"n": n}));
            }
            m.answer(&go, json!({}));
        },
        LONG,
        |q| {
            let (a, b) = (q.events(), q.events());
            q.execute("go", Value::Null).unwrap();
            for events in [a, b] {
                assert_eq!(events.dropped(), 3);
                let first = events.next(LONG).unwrap();
                assert_eq!(
                    (first.name.as_str(), &first.data["n"], first.micros),
                    ("TICK", &json!(3), 2_000_007)
                );
            }
        },
    );
}

#[test]
fn an_endless_message_ends_the_connection_not_the_memory() {
    with_fake(
        |mut m| {
            m.hear();
            let junk = vec![b' '; 1 << 20];
            for _ in 0..=MAX_QMP_MESSAGE >> 20 {
                if m.stream.get_mut().write_all(&junk).is_err() {
                    return;
                }
            }
        },
        LONG,
        |q| assert!(matches!(q.execute("x", Value::Null), Err(QmpError::Closed))),
    );
}

fn connect_error(serve: impl FnOnce(UnixListener, &Path) + Send) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|s| {
        let p = path.clone();
        s.spawn(move || serve(listener, &p));
        Qmp::connect(&path, SOON).unwrap_err().to_string().replace(dir.path().to_str().unwrap(), "DIR")
    })
}

#[test]
fn every_connect_error_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Qmp::connect(&dir.path().join("q"), SOON).unwrap_err();
    assert!(matches!(gone, QmpError::NoSocket { .. }) && gone.is_gone());
    assert!(gone.to_string().contains("check the path and that the machine runs with '-qmp unix:"), "{gone}");

    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let e = Qmp::connect(&stale, SOON).unwrap_err();
    assert!(matches!(e, QmpError::Refused { .. }) && e.to_string().contains("start it again"), "{e}");

    let long = Qmp::connect(&dir.path().join("x".repeat(120)), SOON).unwrap_err();
    assert!(long.to_string().contains("under 108 bytes"), "{long}");

    let other = connect_error(|l, _| l.accept().unwrap().0.write_all(b"SSH-2.0-x\r\n").unwrap());
    assert!(other.starts_with("what answered is not a QEMU monitor: it sent no JSON"), "{other}");
    let json = connect_error(|l, _| l.accept().unwrap().0.write_all(b"{\"hello\": 1}\n").unwrap());
    assert!(json.contains("no QMP greeting"), "{json}");
}

#[test]
fn a_monitor_held_by_another_client_is_busy() {
    let (tx, rx) = std::sync::mpsc::channel::<()>();
    let text = connect_error(move |l, _| {
        let _held = l.accept().unwrap();
        let _ = rx.recv_timeout(SOON * 4);
    });
    drop(tx);
    assert_eq!(
        text,
        "the QMP socket DIR/q.sock is held by another client: QMP serves one client at a time. Close the \
         other client, or give this machine a second '-qmp' socket and use that one"
    );
}
