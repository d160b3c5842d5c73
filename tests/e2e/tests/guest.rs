//! The stage itself: guests boot, keep their ledger through a kill, and their disks can be judged from outside.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::guest::{fsck, ledger_of};
use lifeboat_e2e::{Guest, GuestImage, Net, Place, TestDir, wait_for};
use lifeboat_sim::ledger;
use lifeboat_sim::oracle::{self, Collector, History, Order, Require};
use lifeboat_sim::witness::Witness;
use std::time::Duration;

#[test]
fn a_killed_guest_loses_nothing_its_witness_saw() {
    let dir = TestDir::new("guest");
    let witness = Witness::start("127.0.0.1:0", &dir.join("witness")).unwrap();
    let disks = GuestImage::new().witness(witness.address().port()).build(dir.path(), "web");
    let mut guest = Guest::start(dir.path(), "web", &Place::host(), &disks);
    guest.wait_ready();
    wait_for("the witness to hear 20 lines", Duration::from_secs(60), || {
        witness.last().is_some_and(|s| s.number >= 20)
    });
    guest.process.kill();
    let seen = witness.last().unwrap().number;
    fsck(&disks[0]);
    // The replay happened on fsck's copy; the image itself is as the kill left it.
    let kept = ledger::verify(&ledger_of(&disks[0])).unwrap();
    assert!(kept.last <= seen + 1);

    let mut again = Guest::start(dir.path(), "web-again", &Place::host(), &disks);
    again.wait_ready();
    let front = again.get("/").unwrap();
    let recovered: u64 = front.lines().find_map(|l| l.strip_prefix("recovered=")).unwrap().parse().unwrap();
    assert!(recovered >= seen, "recovered {recovered}, the witness saw {seen}");
    assert!(again.serial().contains(&format!("ledger: recovered last={recovered} lines ok")));
}

#[test]
fn the_oracle_runs_inside_a_guest_and_judges_its_killed_disk() {
    let dir = TestDir::new("guest-oracle");
    let book = dir.join("ledger");
    let collector = Collector::start("127.0.0.1:0", &book).unwrap();
    let arguments = ["--seconds=600", "--seed=5", "--flush-every=20", "--barrier-every=200"];
    let disks = GuestImage::new().oracle(64, collector.address().port(), &arguments).build(dir.path(), "db");
    let mut guest = Guest::start(dir.path(), "db", &Place::host(), &disks);
    guest.wait_ready();
    wait_for("two barriers", Duration::from_secs(120), || {
        History::open(&book, None).is_ok_and(|h| h.barriers().len() >= 2)
    });
    guest.process.kill();
    let history = History::open(&book, None).unwrap();
    let image = oracle::open(disks[1].to_str().unwrap(), None).unwrap();
    // A killed QEMU loses nothing: the host's page cache has it all.
    let verdict = oracle::check(&[image], &history, Require::All, Order::Prefix).unwrap();
    assert!(verdict.ok() && verdict.written > 100, "{verdict}");
}

#[test]
fn two_places_reach_each_other_until_the_link_is_cut() {
    let net = Net::pair();
    if !net.is_real() {
        eprintln!("not root: there are no namespaces to test");
        return;
    }
    let ping = |address: &str| {
        let mut command = net.source.command("timeout");
        command.args(["2", "bash", "-c", &format!("</dev/tcp/{address}/9")]);
        // A refusal proves the way there; silence that there is none.
        String::from_utf8_lossy(&command.output().unwrap().stderr).contains("refused")
    };
    assert!(ping(net.target.address()));
    net.cut(true);
    assert!(!ping(net.target.address()));
    net.cut(false);
    wait_for("the link", Duration::from_secs(10), || ping(net.target.address()));
}
