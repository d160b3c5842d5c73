//! The peers: what else people would use.

use crate::fullsync::FullSync;
use crate::system::{AfterLoad, Place, Running, System, peak_memory, unix_uri};
use anyhow::{Result, anyhow};
use lifeboat_e2e::qmp::Qmp;
use lifeboat_e2e::{Process, wait_for, wait_some};
use lifeboat_sim::clock;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(20);
const SYNC: Duration = Duration::from_secs(600);

/// A server whose socket is all there is to know.
struct Served {
    processes: Vec<(&'static str, Process)>,
    uri: String,
}

impl Running for Served {
    fn uri(&self) -> String {
        self.uri.clone()
    }

    fn after_load(&mut self) -> Result<AfterLoad> {
        let mut after = AfterLoad::default();
        for (name, process) in &self.processes {
            after.memory.push((name, peak_memory(process.pid().as_raw())?));
        }
        Ok(after)
    }
}

fn listening(socket: &Path) {
    wait_for(&format!("somebody on {}", socket.display()), START, || socket.exists());
}

/// `qemu-nbd --cache=writeback`: serves the disk, copies nothing.
pub struct QemuNbd;

fn qemu_nbd(dir: &Path, name: &str, disk: &Path) -> (Process, PathBuf) {
    let socket = dir.join(format!("{name}.sock"));
    let mut command = Command::new("qemu-nbd");
    command.args([
        "--persistent",
        "--shared=16",
        "--format=raw",
        "--cache=writeback",
        "--discard=unmap",
        "--socket",
    ]);
    command.arg(&socket).arg(disk);
    let process = Process::start(name, dir, &mut command);
    listening(&socket);
    (process, socket)
}

impl System for QemuNbd {
    fn name(&self) -> &'static str {
        "qemu-nbd"
    }

    fn start(&self, place: &Place) -> Result<Box<dyn Running>> {
        let (process, socket) = qemu_nbd(&place.dir, "qemu-nbd", &place.disk);
        Ok(Box::new(Served { processes: vec![("qemu-nbd", process)], uri: unix_uri(&socket, "") }))
    }
}

/// nbdkit's file plugin: serves the disk, copies nothing.
pub struct Nbdkit;

impl System for Nbdkit {
    fn name(&self) -> &'static str {
        "nbdkit"
    }

    fn start(&self, place: &Place) -> Result<Box<dyn Running>> {
        let socket = place.dir.join("nbdkit.sock");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--unix"]).arg(&socket).arg("file").arg(&place.disk);
        let process = Process::start("nbdkit", &place.dir, &mut command);
        listening(&socket);
        Ok(Box::new(Served { processes: vec![("nbdkit", process)], uri: unix_uri(&socket, "") }))
    }
}

/// QEMU's mirror in write-blocking mode to a local qemu-nbd: the copy is complete, plain and unjournaled.
pub struct QemuMirror;

/// A storage daemon that serves `disk` as export `src`, writable.
fn storage_daemon(place: &Place) -> Result<(Process, PathBuf, Qmp)> {
    let (qmp, socket) = (place.dir.join("qsd.qmp"), place.dir.join("qsd.sock"));
    let mut command = Command::new("qemu-storage-daemon");
    let node = format!(
        "driver=raw,node-name=src,discard=unmap,file.driver=file,file.discard=unmap,file.filename={}",
        place.disk.display()
    );
    command.args(["--blockdev", &node]);
    command.args(["--chardev", &format!("socket,id=q,path={},server=on,wait=off", qmp.display())]);
    command.args(["--monitor", "chardev=q"]);
    command.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", socket.display())]);
    command.args(["--export", "type=nbd,id=e,node-name=src,name=src,writable=on"]);
    let process = Process::start("qsd", &place.dir, &mut command);
    let connection = wait_some("the storage daemon", START, || Qmp::connect(&qmp));
    Ok((process, socket, connection))
}

/// Mirrors `src` to a qemu-nbd on a new sparse file, until the copy is complete; returns how long that took.
fn mirror(qmp: &mut Qmp, place: &Place, copy_mode: &str) -> Result<(Process, Duration)> {
    let copy = place.dir.join("copy.img");
    File::create(&copy)?.set_len(place.disk.metadata()?.len())?;
    let (target, socket) = qemu_nbd(&place.dir, "target", &copy);
    let start = clock::elapsed();
    let mut call =
        |command: &str, arguments| qmp.call(command, arguments).map_err(|e| anyhow!("{command}: {e}"));
    call(
        "blockdev-add",
        json!({ "driver": "nbd", "node-name": "dst", "server": { "type": "unix", "path": socket } }),
    )?;
    call(
        "blockdev-mirror",
        json!({ "job-id": "m", "device": "src", "target": "dst", "sync": "full", "copy-mode": copy_mode }),
    )?;
    let mut fault = None;
    wait_for("the mirror to be ready", SYNC, || match call("query-block-jobs", json!({})) {
        Ok(jobs) => jobs[0]["ready"] == true,
        Err(e) => {
            fault = Some(e);
            true
        }
    });
    match fault {
        Some(e) => Err(e),
        None => Ok((target, clock::elapsed() - start)),
    }
}

impl System for QemuMirror {
    fn name(&self) -> &'static str {
        "qemu-mirror"
    }

    fn start(&self, place: &Place) -> Result<Box<dyn Running>> {
        let (daemon, socket, mut qmp) = storage_daemon(place)?;
        let (target, _) = mirror(&mut qmp, place, "write-blocking")?;
        Ok(Box::new(Served {
            processes: vec![("qemu", daemon), ("target", target)],
            uri: unix_uri(&socket, "src"),
        }))
    }
}

impl FullSync for QemuMirror {
    fn name(&self) -> &'static str {
        "qemu-mirror"
    }

    fn sync(&self, place: &Place) -> Result<(Duration, u64)> {
        let (_daemon, _, mut qmp) = storage_daemon(place)?;
        let (_target, took) = mirror(&mut qmp, place, "background")?;
        // Nothing need be: it is in the page cache.
        Ok((took, 0))
    }
}
