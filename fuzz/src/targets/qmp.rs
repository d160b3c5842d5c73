//! QEMU's monitor: a peer that greets, then answers each command with the next line it was given, and hangs up.

use lifeboat_qmp::Qmp;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;
use std::time::Duration;

/// One listener in this process; one client at a time.
static LISTENER: OnceLock<(tempfile::TempDir, UnixListener)> = OnceLock::new();

/// Every typed command against what a monitor may say.
pub fn monitor(data: &[u8]) {
    let (dir, listener) = LISTENER.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("qmp")).unwrap();
        (dir, listener)
    });
    std::thread::scope(|s| {
        s.spawn(|| {
            let Ok((stream, _)) = listener.accept() else { return };
            // Where a line did not answer, the next one comes all the same.
            stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
            let mut commands = BufReader::new(&stream);
            let mut ignored = String::new();
            for line in data.split_inclusive(|b| *b == b'\n') {
                if (&stream).write_all(line).is_err() || !line.ends_with(b"\n") {
                    break;
                }
                ignored.clear();
                if commands.read_line(&mut ignored).is_ok_and(|n| n == 0) {
                    break;
                }
            }
        });
        let Ok(qmp) = Qmp::connect(&dir.path().join("qmp"), Duration::from_secs(20)) else { return };
        let events = qmp.events();
        let _ = (qmp.query_status(), qmp.query_name(), qmp.query_block_jobs(), qmp.query_jobs());
        let _ = (qmp.query_named_block_nodes(), qmp.query_block(), qmp.human("info version"), qmp.cont());
        while events.next(Duration::ZERO).is_some() {}
    });
}
