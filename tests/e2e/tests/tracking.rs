//! After a kill of the agent only what may differ is compared, and the copy is exact.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::site::Agent;
use lifeboat_e2e::tool::binary;
use lifeboat_e2e::{Guest, GuestImage, Place, Site, TestDir, run, wait_for};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

/// What the agent says of its only server.
fn told(agent: &Agent, key: &str) -> Option<u64> {
    let out = Command::new(binary("lifeboat-agent"))
        .arg("--dir")
        .arg(&agent.dir)
        .args(["status", "--json"])
        .output();
    let status: Value = serde_json::from_slice(&out.unwrap().stdout).ok()?;
    status["servers"][0][key].as_u64()
}

fn compare(socket: &str, image: &Path) {
    let uri = format!("nbd+unix:///?socket={}", socket.strip_prefix("nbd-unix:").unwrap());
    run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", &uri]).arg(image));
}

/// QEMU's dirty bitmaps note what the machine writes while no agent is there.
#[test]
fn a_machine_that_ran_on_without_its_agent_is_not_compared_as_a_whole() {
    let dir = TestDir::new("bitmaps");
    let disks = GuestImage::new().size_mib(512).build(dir.path(), "web");
    // Something to compare, if it came to that.
    let filler = vec![0xA5; (200 * MIB) as usize];
    let image = std::fs::OpenOptions::new().write(true).open(&disks[0]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &filler, 300 * MIB).unwrap();
    let mut guest = Guest::start(dir.path(), "web", &Place::host(), &disks);
    guest.wait_ready();
    let site = Site::start(dir.path(), "dr", &Place::host());
    let mut agent = site.agent(dir.path(), "host-1", &Place::host());
    let qmp = guest.qmp_socket().to_str().unwrap().to_owned();
    site.ok(&["protect", "web-1", "--agent", "host-1", "--qmp", &qmp, "--wait"]);
    site.wait_ready("web-1");
    wait_for("the bitmaps to be relied upon", PATIENCE, || told(&agent, "suspect_bytes") == Some(0));

    agent.process.kill();
    let number = guest.number().unwrap();
    guest.wait_number(number + 20);
    agent.restart();
    agent.wait_connected(&site);
    site.wait_caught_up("web-1");
    let hashed = told(&agent, "hashed_bytes").unwrap();
    assert!(hashed > 0 && hashed < 100 * MIB, "{} MiB were compared", hashed / MIB);

    // The machine stands still: the newest point is its disk, byte for byte.
    agent.process.terminate(PATIENCE);
    guest.qmp().call("stop", serde_json::json!({})).unwrap();
    agent.restart();
    agent.wait_connected(&site);
    site.wait_caught_up("web-1");
    let (_, sockets) = site.mount("web-1", "latest");
    guest.process.kill();
    compare(&sockets[0], &disks[0]);
}
