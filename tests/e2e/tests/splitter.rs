//! Capture by the NBD splitter, with real processes, judged by the oracle and by real NBD tools.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::{Agent, Place, Site, TestDir, compare, judge, run, wait_for};
use lifeboat_sim::oracle::{Report, Require, Settings};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A site, an agent, and a sparse disk protected as `name`.
fn protected(dir: &TestDir, name: &str, disks: &[u64]) -> (Site, Agent, Vec<PathBuf>) {
    let site = Site::start(dir.path(), "site", &Place::host());
    let agent = site.agent(dir.path(), "source", &Place::host());
    let mut arguments = vec!["protect".to_owned(), name.into(), "--agent".into(), "source".into()];
    let paths: Vec<PathBuf> = disks
        .iter()
        .enumerate()
        .map(|(i, size)| {
            let path = dir.join(&format!("disk{i}.img"));
            std::fs::File::create(&path).unwrap().set_len(*size).unwrap();
            arguments.extend(["--export".into(), path.display().to_string()]);
            path
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    site.ok(&arguments);
    site.wait_ready(name);
    (site, agent, paths)
}

/// The oracle's work on a splitter's exports, kept in `ledger`.
fn work(agent: &Agent, name: &str, disks: usize, ledger: &Path, settings: &Settings) -> Report {
    lifeboat_e2e::work(agent, name, disks, ledger, settings, &AtomicBool::new(false))
}

#[test]
fn i1_every_point_is_a_prefix_and_the_last_is_the_source() {
    let dir = TestDir::new("splitter-i1");
    let (site, agent, paths) = protected(&dir, "db-1", &[64 * MIB, 32 * MIB]);
    let ledger = dir.join("ledger");
    let settings = Settings { time: Duration::from_secs(6), depth: 16, ..Settings::default() };
    let report = work(&agent, "db-1", 2, &ledger, &settings);
    assert!(report.operations > 1000 && report.failed == 0, "{report:?}");
    site.wait_caught_up("db-1");
    judge(&site, "db-1", "latest", &ledger, Require::All);
    compare(&site, "db-1", &paths);
    let points = site.json(&["points", "db-1", "--limit", "8"]);
    let points = points.as_array().unwrap();
    assert!(points.len() >= 4, "{points:?}");
    for p in points {
        judge(&site, "db-1", p["id"].as_str().unwrap(), &ledger, Require::Nothing);
    }
}

#[test]
fn i2_i5_killed_sites_and_agents_lose_nothing_and_catch_up() {
    let dir = TestDir::new("splitter-kill");
    let (mut site, mut agent, paths) = protected(&dir, "db-1", &[64 * MIB]);
    let ledger = dir.join("ledger");
    for round in 0..4u64 {
        let settings = Settings {
            time: Duration::from_secs(3),
            seed: round,
            depth: 8,
            rate: 2000,
            ..Settings::default()
        };
        let killed = round % 2 == 0;
        std::thread::scope(|s| {
            let load = s.spawn(|| work(&agent, "db-1", 1, &ledger, &settings));
            if killed {
                // In the middle of the load: the agent keeps taking writes while the site is away.
                let seen = site.server("db-1")["runtime"]["content_bytes"].as_u64().unwrap();
                wait_for("writes to arrive", Duration::from_secs(30), || {
                    site.server("db-1")["runtime"]["content_bytes"].as_u64().unwrap() > seen
                });
                site.process.kill();
                site.restart();
            }
            assert_eq!(load.join().unwrap().failed, 0, "the source must not notice");
        });
        if !killed {
            agent.process.kill();
            agent.restart();
            agent.wait_connected(&site);
        }
        site.wait_caught_up("db-1");
        judge(&site, "db-1", "latest", &ledger, Require::All);
    }
    compare(&site, "db-1", &paths);
}

#[test]
fn a_restarted_agent_compares_and_sends_only_what_differs() {
    let dir = TestDir::new("splitter-resync");
    let (site, mut agent, paths) = protected(&dir, "db-1", &[256 * MIB]);
    let ledger = dir.join("ledger");
    let settings = Settings { writes: 4000, zero_percent: 0, ..Settings::default() };
    work(&agent, "db-1", 1, &ledger, &settings);
    site.wait_caught_up("db-1");
    agent.process.terminate(Duration::from_secs(30));
    // One block changes while nobody looks.
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&paths[0]).unwrap();
        file.write_all_at(b"changed behind the agent's back", 100 * MIB).unwrap();
    }
    let before = site.server("db-1")["runtime"]["content_bytes"].as_u64().unwrap();
    agent.restart();
    agent.wait_connected(&site);
    site.wait_caught_up("db-1");
    let sent = site.server("db-1")["runtime"]["content_bytes"].as_u64().unwrap() - before;
    assert!(sent <= 2 * 65536, "{sent} bytes were sent for one changed block");
    compare(&site, "db-1", &paths);
}

#[test]
fn stop_and_resume_keep_the_points() {
    let dir = TestDir::new("splitter-stop");
    let (site, agent, paths) = protected(&dir, "db-1", &[16 * MIB]);
    let ledger = dir.join("ledger");
    work(&agent, "db-1", 1, &ledger, &Settings { writes: 500, ..Settings::default() });
    site.wait_caught_up("db-1");
    site.ok(&["stop", "db-1"]);
    assert_eq!(site.server("db-1")["state"], "stopped");
    wait_for("the export to end", Duration::from_secs(20), || !agent.export("db-1").exists());
    judge(&site, "db-1", "latest", &ledger, Require::All);
    site.ok(&["resume", "db-1"]);
    site.wait_ready("db-1");
    work(&agent, "db-1", 1, &ledger, &Settings { writes: 500, ..Settings::default() });
    site.wait_caught_up("db-1");
    judge(&site, "db-1", "latest", &ledger, Require::All);
    compare(&site, "db-1", &paths);
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let dir = TestDir::new("splitter-bad");
    let (site, agent, paths) = protected(&dir, "db-1", &[16 * MIB]);
    let disk = paths[0].to_str().unwrap();
    let nothing = dir.join("nothing.img");
    let nothing = nothing.to_str().unwrap();
    let empty = dir.join("empty.img");
    std::fs::File::create(&empty).unwrap();
    let protect = |name: &'static str, rest: &[&str], code: i32, text: &str| {
        site.refuses(code, text, &[&["protect", name, "--agent", "source"], rest].concat());
    };
    protect("db-1", &["--export", nothing], 4, "db-1");
    protect("db-2", &["--export", disk], 4, "db-1");
    protect("db-2", &["--export", nothing], 2, "cannot open");
    protect("db-2", &["--export", empty.to_str().unwrap()], 2, "empty");
    protect("db-2", &["--qmp", nothing], 2, "QMP socket");
    site.refuses(3, "nobody", &["protect", "db-2", "--agent", "nobody", "--export", disk]);
    site.refuses(3, "db-9", &["points", "db-9"]);
    site.refuses(2, "names no point", &["mount", "db-1", "--point", "yesterday"]);
    site.refuses(3, "oldest", &["mount", "db-1", "--point", "2001-01-01 00:00:00"]);
    site.refuses(3, "p1.999999", &["mount", "db-1", "--point", "p1.999999"]);
    site.refuses(3, "no mount", &["unmount", "deadbeef"]);
    // A second agent cannot take the same disk.
    let second = site.agent(dir.path(), "second", &Place::host());
    site.refuses(5, "in use", &["protect", "db-2", "--agent", "second", "--export", disk]);
    drop(second);
    let servers = site.json(&["servers"]);
    assert_eq!(servers.as_array().unwrap().len(), 1, "nothing half-made is left");
    // A disk that shrank while the agent was away is a stall that says so.
    let mut agent = agent;
    agent.process.terminate(Duration::from_secs(30));
    std::fs::File::options().write(true).open(disk).unwrap().set_len(8 * MIB).unwrap();
    agent.restart();
    wait_for("the shrunken disk to be told", Duration::from_secs(60), || {
        let s = site.server("db-1");
        s["runtime"]["health"] == "stalled"
            && s["runtime"]["reason"].as_str().is_some_and(|r| r.contains("when it was protected"))
    });
    // What was protected is still there.
    let (id, _) = site.mount("db-1", "latest");
    site.ok(&["unmount", &id]);
}

#[test]
fn points_are_served_to_real_nbd_tools_and_written_out() {
    let dir = TestDir::new("splitter-tools");
    let (site, agent, paths) = protected(&dir, "db-1", &[64 * MIB]);
    let export = format!("nbd+unix:///?socket={}", agent.export("db-1").display());
    // A real file system, made through the splitter.
    let image = dir.join("fs.img");
    run(Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-d", "/etc/apt"]).arg(&image).arg("64M"));
    run(Command::new("nbdcopy").arg(&image).arg(&export));
    site.wait_caught_up("db-1");
    let m = site.json(&["mount", "db-1"]);
    let uri = m["disks"][0]["uri"].as_str().unwrap();
    let info = run(Command::new("nbdinfo").args(["--json", uri]));
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["exports"][0]["is_read_only"], true);
    let copy = dir.join("copy.img");
    run(Command::new("nbdcopy").arg(uri).arg(&copy));
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&copy));
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&paths[0]).unwrap());
    for format in ["raw", "qcow2"] {
        let out = dir.join(&format!("out.{format}"));
        site.ok(&["export", "db-1", "--format", format, "-o", out.to_str().unwrap()]);
        run(Command::new("qemu-img").args(["compare", "-f", format, "-F", "raw"]).arg(&out).arg(&paths[0]));
        site.refuses(4, "exists", &["export", "db-1", "--format", format, "-o", out.to_str().unwrap()]);
    }
    // A writable mount: writes stay in it and go with it.
    let w = site.json(&["mount", "db-1", "--writable"]);
    let w_uri = w["disks"][0]["uri"].as_str().unwrap();
    run(Command::new("qemu-io").args([
        "-f",
        "raw",
        "-c",
        "write -P 0x5a 0 1M",
        "-c",
        "read -P 0x5a 0 1M",
        w_uri,
    ]));
    site.ok(&["unmount", w["id"].as_str().unwrap()]);
    run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&paths[0]).arg(uri));
}

#[test]
fn over_tcp_an_export_is_tls_with_certificates_of_the_site() {
    let dir = TestDir::new("splitter-tls");
    let site = Site::start(dir.path(), "site", &Place::host());
    let agent = site.agent(dir.path(), "source", &Place::host());
    let disk = dir.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(16 * MIB).unwrap();
    let port = lifeboat_e2e::free_port();
    let listen = format!("tcp:127.0.0.1:{port}");
    site.ok(&[
        "protect",
        "db-1",
        "--agent",
        "source",
        "--export",
        disk.to_str().unwrap(),
        "--listen",
        &listen,
    ]);
    site.wait_ready("db-1");
    // In the clear, nothing is told.
    let plain = Command::new("nbdinfo").arg(format!("nbd://127.0.0.1:{port}/")).output().unwrap();
    assert!(!plain.status.success());
    // QEMU with a certificate of this site, as another agent's host would have it.
    let pki = dir.make("pki");
    for (from, to) in
        [("ca.pem", "ca-cert.pem"), ("agent.pem", "client-cert.pem"), ("agent.key", "client-key.pem")]
    {
        std::fs::copy(agent.dir.join(from), pki.join(to)).unwrap();
    }
    let text = std::fs::read_to_string(agent.dir.join("agent.toml")).unwrap();
    let id = text.lines().find_map(|l| l.strip_prefix("id = ")).unwrap().trim_matches('"').to_owned();
    let secret = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", pki.display());
    let image =
        format!("driver=nbd,host=127.0.0.1,port={port},tls-creds=tls,tls-hostname={id}.agent.lifeboat");
    run(Command::new("qemu-io").args([
        "--object",
        &secret,
        "--image-opts",
        &image,
        "-c",
        "write -P 0x21 0 1M",
        "-c",
        "flush",
        "-c",
        "read -P 0x21 0 1M",
    ]));
    site.wait_caught_up("db-1");
    compare(&site, "db-1", &[disk]);
}
