//! A site whose disk is full: nothing is acknowledged that is not stored, nothing stored is lost, and it goes on by itself.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::{Place, Site, TestDir, run, wait_for};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &TestDir, mib: u64) -> Self {
        let image = dir.join("small.img");
        std::fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        run(Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        let at = dir.make("small");
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the site may still be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

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
    let site = Site::start(&small.0, "site", &Place::host());
    let agent = site.agent(dir.path(), "source", &Place::host());
    let disk = dir.join("disk.img");
    std::fs::File::create(&disk).unwrap().set_len(128 * MIB).unwrap();
    site.ok(&["protect", "db-1", "--agent", "source", "--export", disk.to_str().unwrap()]);
    site.wait_ready("db-1");
    let before = site.json(&["points", "db-1", "--limit", "1"])[0]["id"].as_str().unwrap().to_owned();
    // Leave room for less than what comes.
    let filler = small.0.join("filler");
    let free = nix::sys::statvfs::statvfs(&small.0).unwrap();
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
