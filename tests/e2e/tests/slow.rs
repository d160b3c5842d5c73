//! A link slower than the writes, and one that is gone for long: real processes in network namespaces (failures 10, 12, 16).

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{Agent, Net, Site, TestDir, compare, judge_several, wait_for, work};
use lifeboat_sim::oracle::Settings;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const SERVER: &str = "db-1";

struct Far {
    agent: Agent,
    site: Site,
    net: Net,
    disk: PathBuf,
    ledger: PathBuf,
    dir: TestDir,
}

impl Far {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let net = Net::pair();
        assert!(net.is_real(), "this test makes network namespaces; run it as root");
        let dir = TestDir::new(name);
        let site = Site::start(dir.path(), "site", &net.target);
        let agent = site.agent(dir.path(), "source", &net.source);
        let disk = dir.join("disk0.img");
        std::fs::File::create(&disk).unwrap().set_len(96 << 20).unwrap();
        let protect = ["protect", SERVER, "--agent", "source", "--export", disk.to_str().unwrap()];
        site.ok(&[&protect, arguments].concat());
        site.wait_ready(SERVER);
        let ledger = dir.join("ledger");
        Self { agent, site, net, disk, ledger, dir }
    }

    /// `writes` operations of up to 32 KiB, none of which compresses or may fail.
    fn write(&self, writes: u64) {
        let settings = Settings {
            time: Duration::from_secs(300),
            writes,
            max_blocks: 8,
            zero_percent: 0,
            barrier_every: writes / 4,
            ..Settings::default()
        };
        let report = work(&self.agent, SERVER, 1, &self.ledger, &settings, &AtomicBool::new(false));
        assert_eq!((report.failed, report.operations), (0, writes), "the source must not notice");
    }

    fn judged(&self, points: usize) {
        self.site.wait_caught_up(SERVER);
        judge_several(&self.site, SERVER, &self.ledger, points);
        compare(&self.site, SERVER, std::slice::from_ref(&self.disk));
    }
}

#[test]
fn i2_i5_a_link_slower_than_the_writes_costs_points_not_the_source() {
    let far = Far::start("slow", &[]);
    // 1 MB/s; the load writes some 60 MB as fast as it can.
    far.net.shape(Some(8_000));
    far.write(3_500);
    // All of it completed at the source while most of it has yet to cross the link, and that is what is told.
    wait_for(&format!("the lag to be told, {}", far.dir.path().display()), SOON, || {
        let r = &far.site.server(SERVER)["runtime"];
        r["health"] == "lag" && r["lag_bytes"].as_u64().unwrap() > 4 << 20
    });
    far.net.shape(None);
    far.judged(6);
}

#[test]
fn i2_i5_an_outage_longer_than_queue_and_spool_heals_without_a_full_copy() {
    let far = Far::start("outage", &["--spool", "16MiB"]);
    far.net.cut(true);
    // Queue, unacknowledged frames and spool hold 64 MiB; this is more.
    far.write(6_000);
    far.net.cut(false);
    far.judged(4);
}
