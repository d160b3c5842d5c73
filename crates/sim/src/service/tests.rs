use super::*;
use crate::ledger;
use crate::witness::Witness;
use std::sync::mpsc;

fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn numbers_reach_the_witness_only_after_the_file_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let witness = Witness::start("127.0.0.1:0", &dir.path().join("seen")).unwrap();
    let settings = Settings {
        dir: dir.path().to_path_buf(),
        witness: Some(witness.address().to_string()),
        http: "127.0.0.1:0".into(),
        hz: 500,
    };
    let mut before = 0;
    for _ in 0..2 {
        let (tx, rx) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let runner = {
            let (settings, stop) = (settings.clone(), Arc::clone(&stop));
            thread::spawn(move || run(&settings, &stop, |a| tx.send(a).unwrap()))
        };
        let address = rx.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(ask(address, "GET /").contains(&format!("recovered={before}\n")));
        assert!(wait_until(Duration::from_secs(10), || {
            witness.last().is_some_and(|s| s.number >= before + 20)
        }));
        let seen = witness.last().unwrap().number;
        let text = ask(address, "GET /ledger");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert!(ledger::verify(body.as_bytes()).unwrap().last >= seen);
        assert_eq!(ask(address, "GET /tail").split_once("\r\n\r\n").unwrap().1.lines().count(), TAIL_LINES);
        assert!(ask(address, "GET /nothing").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /poweroff").starts_with("HTTP/1.1 200"));
        runner.join().unwrap().unwrap();
        before = ledger::verify(&std::fs::read(dir.path().join("ledger.log")).unwrap()).unwrap().last;
        assert!(before >= 20);
    }
}

#[test]
fn a_damaged_ledger_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ledger.log"), "rubbish\nmore rubbish\n").unwrap();
    let settings =
        Settings { dir: dir.path().to_path_buf(), witness: None, http: "127.0.0.1:0".into(), hz: 10 };
    let fault = run(&settings, &Arc::default(), |_| panic!("must not be ready")).unwrap_err();
    assert_eq!(fault.to_string(), "line 1 at byte 0 is damaged: \"rubbish\"");
}
