//! One writer: what an old primary and a cloned one may do (failures 21 and 22).

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::judge::{Load, judge_mounted};
use lifeboat_e2e::rig::SERVER;
use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{Plan, Process, Rig, binary, judge, run, wait_for};
use lifeboat_sim::oracle::{Require, Settings};
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::Duration;

fn mounted(rig: &Rig, arguments: &[&str]) -> (String, String) {
    let m = rig.site.json(&[&["mount", SERVER], arguments].concat());
    let socket = format!("nbd-unix:{}", m["disks"][0]["socket"].as_str().unwrap());
    (m["id"].as_str().unwrap().to_owned(), socket)
}

/// Failure 22: the source is frozen, the server fails over, the source thaws and writes on.
#[test]
fn i4_what_a_thawed_primary_writes_is_a_branch_and_never_the_line() {
    let rig = Rig::start("thaw", 16, &[]);
    let load = rig.load(Settings { rate: 300, ..Settings::default() });
    rig.site.wait_new_point(SERVER);
    rig.agent.process.signal(Signal::SIGSTOP);
    wait_for("the site to give the agent up", SOON, || !rig.connected());
    let out = rig.site.cli(&["failover", SERVER, "--yes"]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    let line = |rig: &Rig| rig.site.json(&["points", SERVER, "--limit", "5"]);
    let before = line(&rig);
    judge(&rig.site, SERVER, before[0]["id"].as_str().unwrap(), &rig.ledger, Require::Nothing);

    rig.agent.process.signal(Signal::SIGCONT);
    let branches = |rig: &Rig| rig.site.json(&["branches", SERVER]);
    wait_for("the thawed source's writes to be kept", SOON, || {
        branches(&rig)[0]["records"].as_u64().is_some_and(|n| n > 0)
    });
    // Its export may be taken from it any time now: the server runs elsewhere.
    let _ = load.stop();
    let branch = branches(&rig)[0]["id"].as_str().unwrap().to_owned();
    let ((old, old_socket), (mount, socket)) = (mounted(&rig, &[]), mounted(&rig, &["--branch", &branch]));
    judge_mounted("the branch", std::slice::from_ref(&socket), &rig.ledger, Require::Nothing);
    let uri = |s: &str| format!("nbd+unix:///?socket={}", s.strip_prefix("nbd-unix:").unwrap());
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "raw", &uri(&old_socket), &uri(&socket)]);
    assert_eq!(compare.output().unwrap().status.code(), Some(1), "the branch holds what the line does not");
    for id in [old, mount] {
        rig.site.ok(&["unmount", &id]);
    }
    assert_eq!(line(&rig), before, "nothing was added to the line");
    assert_eq!(rig.site.server(SERVER)["state"], "failed-over");
    assert_eq!(branches(&rig).as_array().unwrap().len(), 1);
    rig.site.ok(&["branches", "delete", SERVER, &branch, "--yes"]);
}

/// Failure 21: a machine is cloned with its agent's identity, and both run.
#[test]
fn i4_i6_a_cloned_agent_is_refused_told_and_does_no_harm() {
    assert!(nix::unistd::geteuid().is_root(), "this test gives the clone a disk of its own; run it as root");
    let rig = Rig::start("clone", 16, &[]);
    let load = rig.load(Settings { rate: 300, ..Settings::default() });
    rig.site.wait_new_point(SERVER);
    // The clone has the same paths and another disk behind them, as on another machine.
    let (home, disk) = (rig.dir.join("clone"), rig.dir.join("clone.img"));
    run(Command::new("cp").arg("-a").arg(&rig.agent.dir).arg(&home));
    run(Command::new("cp").args(["--sparse=always"]).arg(&rig.disk).arg(&disk));
    let script = format!(
        "mount --bind '{}' '{}' && exec '{}' --dir '{}' run",
        disk.display(),
        rig.disk.display(),
        binary("lifeboat-agent").display(),
        home.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).env("RUST_LOG", "info");
    let mut clone = Process::start("clone", rig.dir.path(), &mut command);
    clone.wait_said("another agent with the same identity", SOON);
    // The real one says the next word: then it is known that both live.
    wait_for("the clash to be told", SOON, || {
        rig.runtime()["reason"].as_str().is_some_and(|t| t.contains("two agents with one identity"))
    });
    let alarms = rig.site.json(&["status"])["alarms"].to_string();
    assert!(alarms.contains("two agents with one identity"), "{alarms}");
    assert!(rig.site.json(&["audit"]).to_string().contains("agent.clash"));
    // The real one is not disturbed.
    rig.site.wait_new_point(SERVER);
    clone.kill();
    assert_eq!(load.stop().failed, 0);
    rig.site.wait_new_point(SERVER);
    let points = rig.site.json(&["points", SERVER, "--limit", "5"]);
    for p in points.as_array().unwrap() {
        judge(&rig.site, SERVER, p["id"].as_str().unwrap(), &rig.ledger, Require::Nothing);
    }
    wait_for("the newest point to hold everything", Duration::from_secs(60), || {
        rig.runtime()["lag_bytes"] == 0
    });
    judge(&rig.site, SERVER, "latest", &rig.ledger, Require::All);
}

/// Stopped and resumed again and again while it writes: what still goes out of the capture that was taken away and what the
/// next one sends never mix.
#[test]
fn i1_i4_a_server_that_is_stopped_and_resumed_under_load_stays_exact() {
    let rig = Rig::start("resume", 16, &[]);
    for round in 0..4u64 {
        // Behind a slow link the old stream has something left when the new one begins.
        rig.proxy.set(Plan::Delay(Duration::from_millis(20)));
        let load =
            Load::lasting(&rig.agent, SERVER, &rig.ledger, Settings { seed: round, ..Settings::default() });
        rig.site.wait_new_point(SERVER);
        rig.site.ok(&["stop", SERVER]);
        rig.site.ok(&["resume", SERVER]);
        rig.proxy.set(Plan::Pass);
        rig.site.wait_new_point(SERVER);
        let _ = load.stop();
        rig.judge_all(3);
    }
}
