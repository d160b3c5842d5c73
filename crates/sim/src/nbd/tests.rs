use super::*;
use crate::oracle::{self, FileSink, History, Order, Require, Settings};
use crate::service::wait_until;
use std::process::{Child, Command};
use std::sync::atomic::AtomicBool;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nbdkit(socket: &std::path::Path, args: &[&str]) -> Server {
    let child = Command::new("nbdkit")
        .args(["--foreground", "--exit-with-parent", "--unix"])
        .arg(socket)
        .args(args)
        .spawn()
        .expect("nbdkit is missing; run scripts/setup.sh test");
    let server = Server(child);
    assert!(wait_until(Duration::from_secs(10), || UnixStream::connect(socket).is_ok()));
    server
}

#[test]
fn the_oracle_over_a_foreign_server_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _server = nbdkit(&socket, &["memory", "16M"]);
    let name = format!("nbd-unix:{}", socket.display());
    let target = oracle::open(&name, None).unwrap();
    assert_eq!(target.size(), 16 << 20);
    assert!(target.can_trim() && target.can_zero());
    let ledger = dir.path().join("ledger");
    let (sink, _) = FileSink::open(&ledger).unwrap();
    let settings = Settings { writes: 3000, depth: 16, time: Duration::from_secs(60), ..Settings::default() };
    let targets = [target];
    let report = oracle::write(&targets, &sink, None, &settings, &AtomicBool::new(false)).unwrap();
    assert_eq!((report.operations, report.failed), (3000, 0));
    let history = History::open(&ledger, None).unwrap();
    let last = *history.barriers().last().unwrap();
    let verdict = oracle::check(&targets, &history, Require::Exact(last), Order::Prefix).unwrap();
    assert!(verdict.ok() && verdict.written > 1000, "{verdict}");
}

#[test]
fn errors_come_back_to_the_one_who_asked() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let server = nbdkit(&socket, &["memory", "1M"]);
    let client = NbdClient::connect(&format!("unix:{}", socket.display())).unwrap();
    let fault = client.write(1 << 20, &[0; 512]).unwrap_err();
    assert!(matches!(fault.raw_os_error(), Some(libc::ENOSPC | libc::EINVAL)), "{fault}");
    client.write(0, &[7; 512]).unwrap();
    drop(server);
    assert!(wait_until(Duration::from_secs(10), || client.flush().is_err()));
    assert!(NbdClient::connect(&format!("unix:{}", socket.display())).is_err());
}
