//! What is promised beyond points: synchronous flushes, one moment for several servers, comparisons that find what
//! nobody captured, restarts that compare only what may differ.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::judge::judge_mounted;
use lifeboat_e2e::rig::SERVER;
use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{Agent, Place, Plan, Rig, Site, TestDir, judge, run, wait_for, wait_some, work};
use lifeboat_sim::clock;
use lifeboat_sim::oracle::{self, FileSink, Require, Settings, Target};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The newest flush whose reply was heard.
fn newest_flush(ledger: &Path) -> u64 {
    let text = std::fs::read_to_string(ledger).unwrap();
    text.lines().filter_map(|l| l.strip_prefix("flushed ")).filter_map(|n| n.parse().ok()).max().unwrap_or(0)
}

fn flush(rig: &Rig) -> bool {
    let export = format!("nbd+unix:///disk0?socket={}", rig.agent.export(SERVER).display());
    let done = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write -P 9 4k 4k", "-c", "flush", &export])
        .output();
    let done = done.unwrap();
    done.status.success() && !String::from_utf8_lossy(&done.stderr).contains("error")
}

fn sync_state(rig: &Rig) -> String {
    rig.runtime()["sync_mode"]["state"].as_str().unwrap_or_default().to_owned()
}

/// I2 in synchronous mode: link cut and agent killed at any moment, the site has what every completed flush covered.
#[test]
fn i2_a_synchronous_flush_that_completed_is_at_the_site() {
    let mut rig =
        Rig::start("sync-cut", 16, &["--mode", "sync", "--on-loss", "block", "--loss-seconds", "3600"]);
    for round in 0..4u64 {
        wait_for("flushes to wait for the site", SOON, || sync_state(&rig) == "synchronous");
        // Slow enough that an early reply would be seen.
        rig.proxy.set(Plan::Delay(Duration::from_millis(5)));
        let settings = Settings { rate: 500, flush_every: 10, seed: round, ..Settings::default() };
        let load = rig.load(settings);
        let from = newest_flush(&rig.ledger);
        wait_for("flushes to complete", SOON, || newest_flush(&rig.ledger) > from + 5);
        clock::pace(Duration::from_millis(37 * round));
        rig.proxy.set(Plan::Hold);
        // Nothing crosses any more: what completes from now on was acknowledged before, or is a lie.
        rig.agent.process.kill();
        let _ = load.stop();
        let flushed = newest_flush(&rig.ledger);
        judge(&rig.site, SERVER, "latest", &rig.ledger, Require::Flush(flushed));
        rig.proxy.set(Plan::Pass);
        rig.agent.restart();
        rig.agent.wait_connected(&rig.site);
    }
    rig.judge_all(4);
}

#[test]
fn i2_a_site_that_is_away_blocks_flushes_and_is_told() {
    let rig = Rig::start("sync-block", 16, &["--mode", "sync", "--on-loss", "block", "--loss-seconds", "2"]);
    wait_for("flushes to wait for the site", SOON, || sync_state(&rig) == "synchronous");
    assert!(flush(&rig));
    rig.proxy.set(Plan::Hold);
    assert!(!flush(&rig), "an error, never silence");
    rig.proxy.set(Plan::Pass);
    wait_for("flushes to complete again", SOON, || sync_state(&rig) == "synchronous" && flush(&rig));
}

/// One oracle writes over the disks of two servers of two agents; a point of their group is one moment of both.
#[test]
fn i1_a_groups_point_is_one_moment_of_all_its_servers() {
    let dir = TestDir::new("group");
    let site = Site::start(dir.path(), "site", &Place::host());
    let agents: Vec<(Agent, String)> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let agent = site.agent(dir.path(), name, &Place::host());
            let (disk, server) = (dir.join(&format!("{name}.img")), format!("srv-{name}"));
            std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
            site.ok(&["protect", &server, "--agent", name, "--export", disk.to_str().unwrap()]);
            site.wait_ready(&server);
            (agent, server)
        })
        .collect();
    site.ok(&["group", "create", "shop", "srv-a", "srv-b", "--every", "0s"]);
    let targets: Vec<Arc<dyn Target>> = agents
        .iter()
        .map(|(a, s)| oracle::open(&format!("nbd-unix:{}:disk0", a.export(s).display()), None).unwrap())
        .collect();
    let ledger = dir.join("ledger");
    let (sink, _) = FileSink::open(&ledger).unwrap();
    let over = AtomicBool::new(false);
    let settings = Settings { time: Duration::from_secs(600), rate: 500, ..Settings::default() };
    std::thread::scope(|s| {
        let load = s.spawn(|| oracle::write(&targets, &sink, None, &settings, &over).unwrap());
        for _ in 0..5 {
            let made = wait_some("a point of the group", SOON, || {
                let made = site.cli(&["group", "point", "shop", "--json"]);
                (made.code == 0).then(|| serde_json::from_str::<serde_json::Value>(&made.stdout).unwrap())
            });
            let held = made["held_us"].as_u64().unwrap();
            assert!(held <= 500_000, "writes were held for {held} us");
            let mut mounts = Vec::new();
            for (_, server) in &agents {
                let member = made["members"].as_array().unwrap().iter().find(|m| m["server"] == *server);
                let point = member.unwrap()["point"].as_str().unwrap().to_owned();
                mounts.push(site.mount(server, &point));
            }
            let sockets: Vec<String> = mounts.iter().map(|(_, s)| s[0].clone()).collect();
            judge_mounted("the group's point", &sockets, &ledger, Require::Nothing);
            mounts.iter().for_each(|(id, _)| drop(site.ok(&["unmount", id])));
        }
        over.store(true, Ordering::SeqCst);
        assert_eq!(load.join().unwrap().failed, 0, "a hold is a pause, no error");
    });
}

#[test]
fn a_difference_nobody_captured_is_found_named_and_mended() {
    let rig = Rig::start("verify", 32, &[]);
    let settings = Settings { writes: 2_000, time: SOON, ..Settings::default() };
    work(&rig.agent, SERVER, 1, &rig.ledger, &settings, &AtomicBool::new(false));
    rig.site.wait_caught_up(SERVER);
    let same = rig.site.cli(&["verify", SERVER]);
    assert_eq!(same.code, 0, "{}{}", same.stdout, same.stderr);
    // Behind the splitter's back.
    let file = std::fs::File::options().write(true).open(&rig.disk).unwrap();
    let at = 20 * 65_536 + 4096;
    file.write_all_at(b"changed where nobody looks", at).unwrap();
    let load = rig.load(Settings { rate: 200, ..Settings::default() });
    let found = rig.site.cli(&["verify", SERVER]);
    let _ = load.stop();
    assert_eq!(found.code, 6, "{}{}", found.stdout, found.stderr);
    let told = &rig.runtime()["verify"];
    let named = told["different"].as_array().unwrap();
    let hit = |d: &serde_json::Value| {
        let (offset, len) = (d["offset"].as_u64().unwrap(), d["len"].as_u64().unwrap());
        offset <= at && at < offset + len
    };
    assert!(named.iter().any(hit), "{told}");
    assert!(told["different_bytes"].as_u64().unwrap() <= 2 * 65_536, "{told}");
    // It was sent anew: the copy is the source again.
    rig.site.wait_caught_up(SERVER);
    let (id, sockets) = rig.site.mount(SERVER, "latest");
    let uri = format!("nbd+unix:///?socket={}", sockets[0].strip_prefix("nbd-unix:").unwrap());
    run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&rig.disk).arg(uri));
    rig.site.ok(&["unmount", &id]);
}

/// After a kill in the middle of writes only regions that were being written are read and hashed.
#[test]
fn i5_a_killed_agent_compares_only_what_it_was_writing() {
    let mut rig = Rig::start("suspects", 1024, &[]);
    // Content all over the disk that a full comparison would have to read.
    let file = std::fs::File::options().write(true).open(&rig.disk).unwrap();
    rig.agent.process.terminate(SOON);
    let noise: Vec<u8> = (0..1 << 20u32).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for mib in 0..256 {
        file.write_all_at(&noise, mib << 22).unwrap();
    }
    rig.agent.restart();
    rig.agent.wait_connected(&rig.site);
    // Changed while nobody looked: the comparison that finds it out reads everything.
    let verified = rig.site.cli(&["verify", SERVER]);
    assert!(verified.code == 6 || verified.code == 0, "{}{}", verified.stdout, verified.stderr);
    rig.site.wait_caught_up(SERVER);
    wait_for("the log to suspect nothing", SOON, || rig.agent_status()["suspect_bytes"] == 0);
    // Hot: one part of the disk.
    let export = format!("nbd+unix:///disk0?socket={}", rig.agent.export(SERVER).display());
    let write = |n: u32| {
        let line = format!("write -P {} {}k 4k", n % 250 + 1, 4096 + n * 64);
        run(Command::new("qemu-io").args(["-f", "raw", "-c", &line, &export]));
    };
    (0..20).for_each(write);
    rig.kill_agent();
    rig.agent.wait_connected(&rig.site);
    rig.site.wait_caught_up(SERVER);
    let hashed = rig.runtime()["hashed_bytes"].as_u64().unwrap();
    assert!(hashed > 0 && hashed <= 64 << 20, "{hashed} bytes of 256 MiB were compared");
    let (id, sockets) = rig.site.mount(SERVER, "latest");
    let uri = format!("nbd+unix:///?socket={}", sockets[0].strip_prefix("nbd-unix:").unwrap());
    run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&rig.disk).arg(uri));
    rig.site.ok(&["unmount", &id]);
}

#[test]
fn a_site_that_does_not_answer_degrades_where_that_is_declared_and_is_told() {
    let rig =
        Rig::start("sync-degrade", 16, &["--mode", "sync", "--on-loss", "degrade", "--loss-seconds", "2"]);
    wait_for("flushes to wait for the site", SOON, || sync_state(&rig) == "synchronous");
    let settings = Settings { writes: 300, time: SOON, ..Settings::default() };
    work(&rig.agent, SERVER, 1, &rig.ledger, &settings, &AtomicBool::new(false));
    // The stream stands still, and the control session tells of it.
    rig.proxy.hold_busiest();
    assert!(flush(&rig), "the declared policy lets it go on");
    wait_for("it to be told", SOON, || sync_state(&rig) == "degraded");
    wait_for("an alarm", SOON, || rig.site.json(&["status"])["alarms"].to_string().contains("degraded"));
    rig.proxy.set(Plan::Pass);
    wait_for("flushes to wait again", SOON, || sync_state(&rig) == "synchronous");
    wait_for("it to be written down", SOON, || rig.site.json(&["audit"]).to_string().contains("degraded"));
}

#[test]
fn a_site_that_is_away_degrades_where_that_is_declared_and_is_told_later() {
    let rig =
        Rig::start("sync-degrade", 16, &["--mode", "sync", "--on-loss", "degrade", "--loss-seconds", "2"]);
    wait_for("flushes to wait for the site", SOON, || sync_state(&rig) == "synchronous");
    rig.proxy.set(Plan::Hold);
    assert!(flush(&rig), "the declared policy lets it go on");
    rig.proxy.set(Plan::Pass);
    wait_for("flushes to wait again", SOON, || sync_state(&rig) == "synchronous");
    wait_for("it to be written down", SOON, || rig.site.json(&["audit"]).to_string().contains("degraded"));
}
