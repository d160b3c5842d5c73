//! Bad networks between a real agent and a real site, under the oracle's load: whatever happens to the link, the
//! source goes on, replication catches up by itself, and every point is what the source was (failure 12).

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::rig::SERVER;
use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{At, End, Load, Plan, Rig, Way, wait_for};
use lifeboat_sim::clock;
use lifeboat_sim::oracle::Settings;
use std::time::Duration;

/// A rig under load.
struct Loaded {
    load: Load,
    rig: Rig,
}

impl Loaded {
    fn start(name: &str, rate: u64) -> Self {
        let rig = Rig::start(name, 64, &[]);
        Self { load: rig.load(Settings { rate, ..Settings::default() }), rig }
    }

    /// The link is good again: the load still runs, and points come again.
    fn healed(&self, what: &str) {
        self.rig.proxy.set(Plan::Pass);
        assert!(self.load.runs(), "{what}: the source noticed; {}", self.rig.dir.path().display());
        self.rig.site.wait_new_point(SERVER);
    }

    /// Ends the load; then the copy must be the source, and the points on the way must be prefixes of it.
    fn judged(self, points: usize) {
        let report = self.load.stop();
        assert!(report.failed == 0 && report.operations > 100, "the source must not notice: {report:?}");
        self.rig.judge_all(points);
    }
}

#[test]
fn i1_i5_links_that_crawl_lose_one_way_or_go_silent_are_survived() {
    let loaded = Loaded::start("faults-links", 400);
    let proxy = &loaded.rig.proxy;
    let passed = |way: Way, more: u64| {
        let from = proxy.passed(way);
        wait_for("bytes to pass", SOON, || proxy.passed(way) >= from + more);
    };
    for plan in [Plan::Slice(1), Plan::Delay(Duration::from_millis(100)), Plan::Throttle(300_000)] {
        proxy.set(plan);
        // One-byte slices go through thousands of packets; enough to cover several frames.
        passed(Way::ToSite, if plan == Plan::Slice(1) { 20_000 } else { 200_000 });
        assert!(loaded.rig.connected(), "{plan:?} is slow, not dead");
        loaded.healed(&format!("{plan:?}"));
    }
    for plan in [Plan::Swallow(Way::ToAgent), Plan::Swallow(Way::ToSite), Plan::Hold] {
        let sessions = proxy.accepted();
        proxy.set(plan);
        if plan == Plan::Hold {
            wait_for("the site to give the session up", SOON, || !loaded.rig.connected());
        } else {
            // Bytes that were lost leave no stream to go on with: somebody has to give up.
            wait_for("a new session to be tried", SOON, || proxy.accepted() > sessions);
            proxy.drop_all(End::Reset);
        }
        loaded.healed(&format!("{plan:?}"));
    }
    // Half a chunk, then silence.
    proxy.strike(Way::ToSite, At::Byte(9_000), End::Stall);
    proxy.drop_all(End::Close);
    wait_for("the chunk to be cut in half", SOON, || proxy.struck() == 1);
    loaded.healed("half a chunk");
    loaded.judged(6);
}

/// Both ways, after each of the first records of a session: handshake, hello, welcome, records, acknowledgements.
#[test]
fn i1_i2_i5_a_session_is_reset_after_every_record_of_its_first_twenty() {
    let loaded = Loaded::start("faults-records", 300);
    let most = std::env::var("FAULT_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    for n in 1..=most {
        for way in [Way::ToSite, Way::ToAgent] {
            let before = loaded.rig.proxy.struck();
            loaded.rig.proxy.strike(way, At::Record(n), if n % 3 == 0 { End::Close } else { End::Reset });
            loaded.rig.proxy.drop_all(End::Reset);
            wait_for(&format!("the strike {way:?} after record {n}"), SOON, || {
                loaded.rig.proxy.struck() > before
            });
        }
        if n % 5 == 0 {
            loaded.healed(&format!("{n} records"));
        }
    }
    loaded.healed("the last");
    loaded.judged(8);
}

/// In the middle of records too.
#[test]
fn i1_i2_i5_a_session_is_cut_after_any_number_of_bytes() {
    let loaded = Loaded::start("faults-bytes", 300);
    let seed = std::env::var("FAULT_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(clock::unix_ms);
    println!("replay with FAULT_SEED={seed}");
    let mut state = seed;
    for _ in 0..12 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let way = if state >> 40 & 1 == 0 { Way::ToSite } else { Way::ToAgent };
        // The site says little: an acknowledgement every commit.
        let at = (state >> 41) % if way == Way::ToSite { 60_000 } else { 3_000 };
        let before = loaded.rig.proxy.struck();
        loaded.rig.proxy.strike(way, At::Byte(at), End::Reset);
        loaded.rig.proxy.drop_all(End::Close);
        wait_for(&format!("the cut {way:?} after {at} bytes"), SOON, || loaded.rig.proxy.struck() > before);
    }
    loaded.healed("cuts");
    loaded.judged(6);
}
