//! Full disks. At the site: nothing is acknowledged that is not stored, nothing stored is lost, and it goes on by itself.
//! At the source: the guest goes on, whatever the agent has no room for.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::rig::SERVER;
use lifeboat_e2e::{Place, Plan, Rig, Site, SmallDisk, TestDir, run, wait_for};
use lifeboat_sim::oracle::Settings;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn noise(path: &Path, mib: usize) {
    let mut state = 7u64;
    let bytes: Vec<u8> = (0..mib << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn i2_i5_a_full_site_refuses_keeps_its_points_and_goes_on_when_there_is_room() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a file system; run it as root");
    let dir = TestDir::new("room");
    let small = SmallDisk::mount(&dir, 400);
    let site = Site::start(small.path(), "site", &Place::host());
    let agent = site.agent(dir.path(), "source", &Place::host());
    let disk = dir.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(128 * MIB).unwrap();
    site.ok(&["protect", "db-1", "--agent", "source", "--export", disk.to_str().unwrap()]);
    site.wait_ready("db-1");
    let before = site.json(&["points", "db-1", "--limit", "1"])[0]["id"].as_str().unwrap().to_owned();
    // Leave room for less than what comes.
    let filler = small.path().join("filler");
    let free = nix::sys::statvfs::statvfs(small.path()).unwrap();
    let free = (free.blocks_available() * free.fragment_size()) as usize >> 20;
    noise(&filler, free - 40);
    let content = dir.join("content");
    noise(&content, 100);
    let export = format!("nbd+unix:///?socket={}", agent.export("db-1").display());
    run(Command::new("nbdcopy").arg(&content).arg(&export));
    wait_for("the full disk to be told", Duration::from_secs(60), || {
        let s = site.server("db-1");
        s["runtime"]["reason"].as_str().is_some_and(|r| r.contains("full"))
    });
    // What was there can still be read; the source goes on.
    let (id, _) = site.mount("db-1", &before);
    site.ok(&["unmount", &id]);
    run(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 0x33 110M 64k", &export]));
    // Room: it goes on by itself, and catches up exactly.
    std::fs::remove_file(&filler).unwrap();
    site.wait_caught_up("db-1");
    let (id, sockets) = site.mount("db-1", "latest");
    let uri = format!("nbd+unix:///?socket={}", sockets[0].strip_prefix("nbd-unix:").unwrap());
    run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&disk).arg(uri));
    site.ok(&["unmount", &id]);
}

/// Failure 10: the spool fills the agent's disk while the link is away, and the load goes on all the same.
#[test]
fn i5_a_full_disk_at_the_agent_costs_points_and_never_the_guest() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a file system; run it as root");
    let dir = TestDir::new("room-spool");
    let small = SmallDisk::mount(&dir, 48);
    let agents = small.path().to_path_buf();
    let mut rig = Rig::with_agent_in(dir, &agents, 64, &[]);
    rig.proxy.set(Plan::Hold);
    wait_for("the link to be given up", Duration::from_secs(60), || !rig.connected());
    // More than queue, frames and spool can hold, and no faster than frames are made: the spool is to fill.
    let settings = Settings {
        time: Duration::from_secs(300),
        writes: 8_000,
        rate: 1_500,
        max_blocks: 8,
        zero_percent: 0,
        ..Settings::default()
    };
    let over = std::sync::atomic::AtomicBool::new(false);
    let report = lifeboat_e2e::work(&rig.agent, SERVER, 1, &rig.ledger, &settings, &over);
    assert_eq!((report.failed, report.operations), (0, 8_000), "the guest must not notice");
    let free = nix::sys::statvfs::statvfs(small.path()).unwrap();
    assert!(free.blocks_available() > 0, "the spool leaves room for what the agent must write");
    let said = rig.agent_status();
    assert!(said["lag_bytes"].as_u64().unwrap() > 0, "{said}");
    rig.agent.process.wait_said("the dirty map takes over", Duration::from_secs(20));
    rig.proxy.set(Plan::Pass);
    rig.judge_all(4);
    drop((rig, small));
}
