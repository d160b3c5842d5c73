//! The main job on a real machine: protected live, drilled, lost, failed over, committed.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::guest::{fsck, ledger_of};
use lifeboat_e2e::{Guest, GuestImage, Net, Site, TestDir, run, wait_for, wait_some};
use lifeboat_sim::ledger;
use lifeboat_sim::oracle::{self, Collector, History, Order, Require};
use lifeboat_sim::witness::Witness;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const BOOT: &str = "2m";

/// The number a recovered guest found in its ledger when it started.
fn recovered(place: &lifeboat_e2e::Place, run: &Value) -> u64 {
    let address = run["forwards"][0]["address"].as_str().unwrap();
    let front = wait_some("the recovered service", Duration::from_secs(60), || {
        place.http_get(&format!("http://{address}/"))
    });
    front.lines().find_map(|l| l.strip_prefix("recovered=")).unwrap().parse().unwrap()
}

#[test]
fn a_running_machine_is_protected_drilled_lost_and_recovered() {
    let dir = TestDir::new("machine");
    let net = Net::pair();
    let disks = GuestImage::new().build(dir.path(), "web");
    let mut guest = Guest::start(dir.path(), "web", &net.source, &disks);
    guest.wait_ready();
    let mut site = Site::start(dir.path(), "dr", &net.target);
    let agent = site.agent(dir.path(), "host-1", &net.source);

    // Protected while it runs; the guest does not stop writing.
    let before = guest.number().unwrap();
    let qmp = guest.qmp_socket().to_str().unwrap().to_owned();
    site.ok(&["protect", "web-1", "--agent", "host-1", "--qmp", &qmp, "--memory", "256MiB", "--wait"]);
    site.wait_ready("web-1");
    guest.wait_number(before + 10);
    site.refuses(4, "web-1", &["protect", "web-2", "--agent", "host-1", "--qmp", &qmp]);

    // A drill of now: what the guest had fsynced before the drill was asked for is there.
    let safe = guest.number().unwrap();
    guest.wait_number(safe + 10);
    let out = site.cli(&[
        "drill",
        "web-1",
        "--check",
        "http:80",
        "--check",
        r"serial:ledger: recovered last=\d+ lines ok",
        "--check-timeout",
        BOOT,
    ]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let drill = site.newest_run("web-1");
    assert!(recovered(&site.place, &drill) > safe, "{drill}");
    assert_eq!(drill["checks"].as_array().unwrap().len(), 2);
    assert!(drill["times"]["ready_ms"].as_u64().is_some());
    // Replication went on untouched, and the drill's own writes stay in the drill.
    let number = guest.number().unwrap();
    guest.wait_number(number + 10);
    assert_eq!(site.server("web-1")["runtime"]["health"], "ready");
    let png = dir.join("screen.png");
    site.ok(&["screen", drill["id"].as_str().unwrap(), "-o", png.to_str().unwrap()]);
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    site.ok(&["cleanup", drill["id"].as_str().unwrap()]);
    wait_for("the drill to be cleaned up", Duration::from_secs(60), || {
        site.newest_run("web-1")["state"] == "cleaned-up"
    });

    // A failing check fails the drill, says so, and leaves nothing running.
    let out = site.cli(&["drill", "web-1", "--check", "http:81", "--check-timeout", "20s", "--keep", "0s"]);
    assert_eq!(out.code, 6, "{}{}", out.stdout, out.stderr);

    // The source dies.
    let last = guest.number().unwrap();
    guest.process.kill();
    wait_for("the loss to be told", Duration::from_secs(60), || {
        site.server("web-1")["runtime"]["capture"].as_str().is_some_and(|c| c.contains("machine"))
    });
    site.refuses(2, "--yes", &["failover", "web-1"]);
    let out = site.cli(&[
        "failover",
        "web-1",
        "--yes",
        "--network",
        "user",
        "--check",
        "http:80",
        "--check-timeout",
        BOOT,
    ]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let mut failover = site.newest_run("web-1");
    let found = recovered(&site.place, &failover);
    assert!(found + 5 >= last, "the guest was at {last} when it was killed, {found} were recovered");
    assert_eq!(site.server("web-1")["state"], "failed-over");
    assert_eq!(site.server("web-1")["epoch"], 2);

    // serve is killed under the running guest, which goes on.
    site.process.kill();
    site.restart();
    let http = |run: &Value, path: &str| {
        let address = run["forwards"][0]["address"].as_str().unwrap().to_owned();
        site.place.http_get(&format!("http://{address}{path}"))
    };
    let number = wait_some("the guest to answer", Duration::from_secs(60), || {
        http(&failover, "/number").and_then(|n| n.trim().parse::<u64>().ok())
    });
    wait_for("the guest to go on writing", Duration::from_secs(60), || {
        http(&failover, "/number").and_then(|n| n.trim().parse::<u64>().ok()).is_some_and(|n| n > number + 10)
    });

    // Hydrated under a writing guest, then committed: it needs Lifeboat no more.
    site.ok(&["commit", "web-1", "--yes"]);
    assert_eq!(site.server("web-1")["state"], "committed");
    failover = site.newest_run("web-1");
    assert_eq!(failover["hydrated_percent"], 100);
    site.process.terminate(Duration::from_secs(40));
    let number: u64 = http(&failover, "/number").unwrap().trim().parse().unwrap();
    wait_for("the guest to go on without the site", Duration::from_secs(60), || {
        http(&failover, "/number").and_then(|n| n.trim().parse::<u64>().ok()).is_some_and(|n| n > number + 5)
    });
    site.restart();

    // Its disk, and the last point, are sound.
    let directory = failover["directory"].as_str().unwrap();
    end_run(directory);
    let raw = dir.join("recovered.img");
    let overlay = format!("{directory}/disk0.qcow2");
    run(Command::new("qemu-img").args(["convert", "-O", "raw", &overlay]).arg(&raw));
    fsck(&raw);
    assert!(ledger::verify(&ledger_of(&raw)).unwrap().last >= number);
    let audit = site.ok(&["audit", "verify"]);
    assert!(audit.contains("whole"), "{audit}");
    drop(agent);
}

/// Ends the QEMU of a run by the pid in its directory.
fn end_run(directory: &str) {
    let pid = std::fs::read_to_string(format!("{directory}/qemu.pid")).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    wait_for("QEMU to end", Duration::from_secs(20), || nix::sys::signal::kill(pid, None).is_err());
}

#[test]
fn i1_points_of_a_writing_guest_hold_what_its_oracle_says() {
    let dir = TestDir::new("machine-oracle");
    let book = dir.join("ledger");
    let collector = Collector::start("127.0.0.1:0", &book).unwrap();
    let place = lifeboat_e2e::Place::host();
    let arguments = ["--seconds=600", "--seed=7", "--flush-every=20", "--barrier-every=200"];
    let disks = GuestImage::new().oracle(64, collector.address().port(), &arguments).build(dir.path(), "db");
    let mut guest = Guest::start(dir.path(), "db", &place, &disks);
    guest.wait_ready();
    let site = Site::start(dir.path(), "dr", &place);
    let mut agent = site.agent(dir.path(), "host-1", &place);
    let qmp = guest.qmp_socket().to_str().unwrap().to_owned();
    site.ok(&["protect", "db-1", "--agent", "host-1", "--qmp", &qmp, "--wait"]);
    site.wait_ready("db-1");
    let barriers = || History::open(&book, None).map_or(0, |h| h.barriers().len());
    let start = barriers();
    wait_for("the oracle's barriers", Duration::from_secs(120), || barriers() >= start + 2);
    // The agent dies and comes back: the machine runs on, and is attached again.
    agent.process.kill();
    let start = barriers();
    wait_for("the guest to go on without the agent", Duration::from_secs(120), || barriers() > start);
    agent.restart();
    agent.wait_connected(&site);
    site.wait_ready("db-1");
    let start = barriers();
    wait_for("more barriers", Duration::from_secs(120), || barriers() >= start + 2);
    guest.process.kill();
    wait_for("the loss to be told", Duration::from_secs(60), || {
        site.server("db-1")["runtime"]["capture"].as_str().is_some_and(|c| c.contains("machine"))
    });
    let history = History::open(&book, None).unwrap();
    let points = site.json(&["points", "db-1", "--limit", "6"]);
    for (i, p) in points.as_array().unwrap().iter().enumerate() {
        let (id, sockets) = site.mount("db-1", p["id"].as_str().unwrap());
        let image = oracle::open(&sockets[1], None).unwrap();
        // Write-blocking: the newest point holds everything the guest saw completed.
        let require = if i == 0 { Require::All } else { Require::Nothing };
        let verdict = oracle::check(&[image], &history, require, Order::Prefix).unwrap();
        assert!(verdict.ok(), "{}: {verdict}", p["id"]);
        site.ok(&["unmount", &id]);
    }
}

#[test]
fn stopping_protection_leaves_the_machine_as_it_was() {
    let dir = TestDir::new("machine-stop");
    let place = lifeboat_e2e::Place::host();
    let witness = Witness::start("127.0.0.1:0", &dir.join("witness")).unwrap();
    let disks = GuestImage::new().witness(witness.address().port()).build(dir.path(), "web");
    let mut guest = Guest::start(dir.path(), "web", &place, &disks);
    guest.wait_ready();
    let nodes = |guest: &Guest| {
        let mut qmp = guest.qmp();
        let nodes = qmp.call("query-named-block-nodes", serde_json::json!({})).unwrap();
        let mut names: Vec<String> =
            nodes.as_array().unwrap().iter().map(|n| n["node-name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        let jobs = qmp.call("query-jobs", serde_json::json!({})).unwrap();
        assert_eq!(jobs.as_array().unwrap().len(), 0);
        names
    };
    let before = nodes(&guest);
    let site = Site::start(dir.path(), "dr", &place);
    let _agent = site.agent(dir.path(), "host-1", &place);
    let qmp = guest.qmp_socket().to_str().unwrap().to_owned();
    site.ok(&["protect", "web-1", "--agent", "host-1", "--qmp", &qmp, "--wait"]);
    site.wait_ready("web-1");
    site.ok(&["stop", "web-1"]);
    let number = witness.last().unwrap().number;
    wait_for("the machine to go on", Duration::from_secs(60), || {
        witness.last().unwrap().number > number + 10
    });
    assert_eq!(nodes(&guest), before, "nothing of Lifeboat's is left in QEMU");
    assert!(guest.process.running());
    // Gone for good needs to be said twice.
    site.refuses(2, "--delete-points", &["delete", "web-1", "--yes"]);
    site.ok(&["delete", "web-1", "--delete-points", "--yes"]);
    assert_eq!(site.json(&["servers"]).as_array().unwrap().len(), 0);
}

#[test]
fn a_machine_that_cannot_be_protected_says_why() {
    let dir = TestDir::new("machine-bad");
    let place = lifeboat_e2e::Place::host();
    let site = Site::start(dir.path(), "dr", &place);
    let _agent = site.agent(dir.path(), "host-1", &place);
    let start = |name: &str, disk: &[&str]| {
        let socket = dir.join(&format!("{name}.qmp"));
        let mut command = place.command("qemu-system-x86_64");
        command.args(["-S", "-nodefaults", "-M", "q35,accel=tcg", "-m", "64", "-display", "none"]).args(disk);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        let process = lifeboat_e2e::Process::start(name, dir.path(), &mut command);
        wait_for("QEMU's monitor", Duration::from_secs(30), || socket.exists());
        (process, socket)
    };
    let protect = |name: &str, socket: &std::path::Path, rest: &[&str], code: i32, text: &str| {
        let socket = socket.to_str().unwrap();
        site.refuses(code, text, &[&["protect", name, "--agent", "host-1", "--qmp", socket], rest].concat());
    };
    let (_none, socket) = start("none", &[]);
    protect("bare", &socket, &[], 2, "no writable disk");
    let image = dir.join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let drive = format!("driver=raw,node-name=root,file.driver=file,file.filename={}", image.display());
    let (mut one, socket) =
        start("one", &["-blockdev", &drive, "-device", "virtio-blk-pci,drive=root,id=vda"]);
    protect("one", &socket, &["--disk", "other"], 2, "its writable disks are: root");
    {
        // Somebody else holds the monitor.
        let _held = lifeboat_e2e::qmp::Qmp::connect(&socket).unwrap();
        protect("one", &socket, &[], 5, "one client at a time");
    }
    one.kill();
    protect("one", &socket, &[], 5, "the machine");
    // Nothing speaks QMP there.
    let nothing = dir.join("nothing.qmp");
    let _listener = std::os::unix::net::UnixListener::bind(&nothing).unwrap();
    protect("one", &nothing, &[], 5, "one client at a time");
    assert_eq!(site.json(&["servers"]).as_array().unwrap().len(), 0);
}
