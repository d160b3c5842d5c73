//! Real processes killed and stopped at any moment, under the oracle's load (failures 1, 3 and 17).

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::rig::SERVER;
use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{Load, Rig, judge, wait_for};
use lifeboat_sim::clock;
use lifeboat_sim::oracle::{Require, Settings};
use nix::sys::signal::Signal;
use std::time::Duration;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// KILL_ROUNDS rounds, 10 without it; KILL_SEED repeats the choices of an earlier run.
#[test]
fn i1_i2_i5_agent_and_site_are_killed_at_any_moment_under_load() {
    let rounds = setting("KILL_ROUNDS").unwrap_or(10);
    let seed = setting("KILL_SEED").unwrap_or_else(clock::unix_ms);
    println!("{rounds} rounds; replay with KILL_SEED={seed}");
    let mut random = Random(seed);
    let mut rig = Rig::start("kill", 16, &[]);
    let settings = Settings { rate: 400, seed, ..Settings::default() };
    let load = Load::lasting(&rig.agent, SERVER, &rig.ledger, settings);
    for round in 0..rounds {
        // The moment is the fault: it must not depend on what the processes do.
        clock::pace(Duration::from_millis(random.below(700)));
        let (agent, site) = [(true, false), (false, true), (true, true)][random.below(3) as usize];
        if agent {
            rig.agent.process.kill();
        }
        if site {
            rig.site.process.kill();
        }
        // Sometimes a second time while it recovers.
        let again = random.below(3) == 0;
        if agent {
            rig.agent.restart();
            if again {
                clock::pace(Duration::from_millis(random.below(300)));
                rig.kill_agent();
            }
        }
        if site {
            rig.site.restart();
            if again {
                rig.site.process.kill();
                rig.site.restart();
            }
        }
        rig.site.wait_new_point(SERVER);
        let points = rig.site.json(&["points", SERVER, "--limit", "3"]);
        for p in points.as_array().unwrap() {
            judge(&rig.site, SERVER, p["id"].as_str().unwrap(), &rig.ledger, Require::Nothing);
        }
        println!(
            "round {round}: agent {agent}, site {site}, again {again}: {} points hold",
            points.as_array().unwrap().len()
        );
    }
    let report = load.stop();
    assert!(report.operations > rounds * 50, "{report:?}");
    rig.judge_all(8);
}

/// Failures 17 and 22: frozen past the silence that ends a session, then thawed.
#[test]
fn i1_i4_i5_a_frozen_agent_or_site_goes_on_where_it_was() {
    let rig = Rig::start("freeze", 32, &[]);
    let load = rig.load(Settings { rate: 400, ..Settings::default() });
    rig.site.wait_new_point(SERVER);
    rig.agent.process.signal(Signal::SIGSTOP);
    wait_for("the site to give the agent up", SOON, || !rig.connected());
    rig.agent.process.signal(Signal::SIGCONT);
    rig.site.wait_new_point(SERVER);
    let sessions = rig.proxy.accepted();
    rig.site.process.signal(Signal::SIGSTOP);
    wait_for("the agent to give the site up", SOON, || rig.proxy.accepted() > sessions);
    rig.site.process.signal(Signal::SIGCONT);
    rig.site.wait_new_point(SERVER);
    let report = load.stop();
    assert_eq!(report.failed, 0, "the source waits while its splitter is frozen, and sees no error");
    rig.judge_all(6);
}
