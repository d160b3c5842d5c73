#![allow(clippy::unwrap_used)]
//! Against a real QEMU without a guest.

use super::*;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

struct Machine {
    qemu: Child,
    dir: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Machine {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.img", "b.img"] {
            std::fs::File::create(dir.path().join(name)).unwrap().set_len(1 << 20).unwrap();
        }
        let node = |n: &str| {
            format!(
                "driver=raw,node-name={n},file.driver=file,file.filename={}/{n}.img",
                dir.path().display()
            )
        };
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", "none", "-S", "-display", "none", "-nodefaults", "-name", "quiet"])
            .args(["-blockdev", &node("a"), "-blockdev", &node("b")])
            .args(["-qmp", &format!("unix:{}/q.sock,server=on,wait=off", dir.path().display())])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("needs qemu-system-x86");
        // Without a condition to wait for: the socket is there when connecting works.
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        for _ in 0..400 {
            if Qmp::connect(&dir.path().join("q.sock"), LONG).is_ok() {
                break;
            }
            assert!(qemu.try_wait().unwrap().is_none(), "QEMU ended");
            let _ = rx.recv_timeout(Duration::from_millis(25));
        }
        drop(tx);
        Self { qemu, dir }
    }

    fn qmp(&self) -> Qmp {
        Qmp::connect(&self.dir.path().join("q.sock"), LONG).unwrap()
    }
}

#[test]
fn a_real_qemu_answers_every_query() {
    let m = Machine::start();
    let q = m.qmp();
    assert!(q.version().major >= 7);
    let status = q.query_status().unwrap();
    assert!(!status.running && status.status == "prelaunch", "{status:?}");
    assert_eq!(q.query_name().unwrap(), "quiet");
    assert!(q.query_block_jobs().unwrap().is_empty());
    assert!(q.query_jobs().unwrap().is_empty());
    q.query_block().unwrap();
    let nodes = q.query_named_block_nodes().unwrap();
    let a = nodes.iter().find(|n| n.node_name == "a").unwrap();
    assert_eq!((a.image.virtual_size, a.read_only, a.drv.as_str()), (1 << 20, false, "raw"));
    assert!(q.human("info version").unwrap().starts_with(&q.version().to_string()));
}

#[test]
fn a_mirror_becomes_ready_and_is_cancelled() {
    let m = Machine::start();
    let q = m.qmp();
    let events = q.events();
    q.blockdev_mirror(&Mirror::blocking("job", "a", "b", MirrorSync::Full)).unwrap();
    while events.next(LONG).expect("no BLOCK_JOB_READY").name != "BLOCK_JOB_READY" {}
    let jobs = q.query_block_jobs().unwrap();
    assert!(
        jobs.len() == 1 && jobs[0].device == "job" && jobs[0].kind == "mirror" && jobs[0].ready,
        "{jobs:?}"
    );
    q.set_job_speed("job", 1 << 20).unwrap();
    q.job_cancel("job").unwrap();
    while events.next(LONG).expect("no BLOCK_JOB_CANCELLED").name != "BLOCK_JOB_CANCELLED" {}
    assert!(q.job_cancel("job").unwrap_err().is_not_found());
}

#[test]
fn nodes_and_exports_come_and_go() {
    // Two machines: blockdev-add connects with QEMU's main loop held, so a machine never reaches itself.
    let (m, other) = (Machine::start(), Machine::start());
    let (q, client) = (m.qmp(), other.qmp());
    q.nbd_server_start(&m.dir.path().join("nbd.sock")).unwrap();
    q.block_export_add(&NbdExport { id: "e", node: "a", name: "disk", writable: false, bitmaps: &[] })
        .unwrap();
    client
        .blockdev_add(json!({"driver": "nbd", "node-name": "c", "read-only": true, "export": "disk",
        "server": {"type": "unix", "path": m.dir.path().join("nbd.sock")}}))
        .unwrap();
    assert!(client.query_named_block_nodes().unwrap().iter().any(|n| n.node_name == "c" && n.read_only));
    client.blockdev_del("c").unwrap();
    assert!(client.blockdev_del("c").unwrap_err().is_not_found());
    q.block_export_del("e", true).unwrap();
    q.nbd_server_stop().unwrap();
}

#[test]
fn a_second_client_is_told_the_monitor_is_busy_and_gets_in_later() {
    let m = Machine::start();
    let first = m.qmp();
    let path = m.dir.path().join("q.sock");
    let e = Qmp::connect(&path, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(e, QmpError::Busy { .. }), "{e}");
    drop(first);
    Qmp::connect(&path, LONG).unwrap().query_status().unwrap();
}

#[test]
fn quit_ends_the_machine_and_the_connection() {
    let mut m = Machine::start();
    let q = m.qmp();
    q.quit().unwrap();
    assert!(m.qemu.wait().unwrap().success());
    assert!(matches!(q.query_status(), Err(QmpError::Closed)));
    let e = Qmp::connect(&m.dir.path().join("q.sock"), LONG).unwrap_err();
    assert!(e.is_gone(), "{e}");
}
