use super::*;
use crate::render::fixtures::*;
use lifeboat_api::types::RpoStats;

#[test]
fn one_server_is_told_in_full() {
    let text = full(&server("web-1", ServerState::Replicating), NOW, Style::PLAIN);
    for line in [
        "state         replicating, epoch 1",
        "protected     2025-12-31 00:00:00 UTC (24 h ago)",
        "agent         host-a (connected)",
        "capture       mirror by /run/vm/web-1.qmp, every writable disk; attached",
        "disk 0        disk0, 8.0 GiB",
        "rpo           320 ms (lag 0 B)",
        "newest point  p1.4711 at 2025-12-31 23:59:59 (1 s ago)",
        "window        24 h or 64.0 GiB; journal is 3.0 GiB",
        "machine       1 cpu, 1.0 GiB, network isolated, virtio, bios",
    ] {
        assert!(text.contains(line), "no '{line}' in:\n{text}");
    }
}

#[test]
fn a_server_whose_agent_is_gone_is_offline() {
    let mut gone = server("web-1", ServerState::InitialSync);
    gone.runtime.connected = false;
    gone.runtime.health = Health::Unknown;
    assert!(table(&[gone], NOW, Style::PLAIN, "").contains("offline"));
}

fn synchronous(state: SyncModeState) -> Server {
    let mut s = server("db-1", ServerState::Replicating);
    s.replication.mode = ReplicationMode::Sync;
    s.runtime.sync_mode = Some(SyncStatus {
        state,
        since: (state != SyncModeState::Synchronous).then(|| before(60)),
        flushes: 1000,
        source_us: 120,
        encode_us: 30,
        site_us: 1400,
        longest_us: 25_000,
    });
    s
}

#[test]
fn a_synchronous_server_says_whether_it_is() {
    let row = |state| table(&[synchronous(state)], NOW, Style::PLAIN, "");
    assert!(row(SyncModeState::Synchronous).contains("ready, sync"));
    assert!(row(SyncModeState::NotYet).contains(" ready "));
    assert!(row(SyncModeState::Degraded).contains("DEGRADED"));
    assert!(row(SyncModeState::Blocked).contains("BLOCKED"));
    let text = full(&synchronous(SyncModeState::Degraded), NOW, Style::PLAIN);
    for line in [
        "replication   synchronous, flushes fail after 30 s without this site, spool 4.0 GiB",
        "synchronous   DEGRADED since 2025-12-31 23:59:00 UTC: flushes go on without this site",
        "flushes       1000: source 0.12 ms, encoding 0.03 ms, site 1.40 ms; longest 25.00 ms",
    ] {
        assert!(text.contains(line), "no '{line}' in:\n{text}");
    }
}

#[test]
fn a_server_that_lags_says_for_how_long_and_where_its_writes_wait() {
    let mut s = server("web-1", ServerState::Replicating);
    s.runtime.health = Health::Lag;
    s.runtime.ready_in_seconds = Some(40);
    s.runtime.lag_bytes = 3 << 30;
    s.runtime.spool_bytes = 1 << 30;
    s.runtime.branches = 2;
    s.runtime.rpo_day = Some(RpoStats { p50_ms: 200, p99_ms: 61_000, max_ms: 3_700_000, samples: 86_400 });
    assert!(table(std::slice::from_ref(&s), NOW, Style::PLAIN, "").contains("lag, ready in about 40 s"));
    let text = full(&s, NOW, Style::PLAIN);
    for line in [
        "ready in      about 40 s",
        "rpo           320 ms (lag 3.0 GiB, 1.0 GiB of it in the agent's spool)",
        "rpo, 1 h      p50 210 ms, p99 1.2 s, max 2.5 s",
        "rpo, 1 d      p50 200 ms, p99 1 min 1 s, max 1 h 1 min",
        "watch         RPO alarm by the site's limit, compared every 7 d at 64.0 MiB/s",
        "branches      2; see them: lifeboat branches web-1",
    ] {
        assert!(text.contains(line), "no '{line}' in:\n{text}");
    }
}

#[test]
fn a_held_server_says_why_and_what_to_do() {
    let mut s = server("web-1", ServerState::Stopped);
    s.stale = Some("its data is at epoch 2 and the store said 1".into());
    assert!(table(std::slice::from_ref(&s), NOW, Style::PLAIN, "").contains(" held "));
    let text = full(&s, NOW, Style::PLAIN);
    assert!(text.contains("store said 1; then: lifeboat accept web-1"), "{text}");
}

#[test]
fn a_tiny_sync_has_no_rate_and_no_end_worth_telling() {
    let mut sync = SyncProgress {
        phase: SyncPhase::Resync,
        total_bytes: 64 << 20,
        done_bytes: 1 << 20,
        sent_bytes: 0,
        rate: 10,
        eta_seconds: Some(6_000_000),
    };
    assert_eq!(sync_line(&sync), "resync [----------]   1 % of 64.0 MiB, 10 B/s, 69 d left");
    sync.total_bytes = 4 << 20;
    assert_eq!(sync_line(&sync), "resync [##--------]  25 % of 4.0 MiB");
    sync.total_bytes = 0;
    assert_eq!(sync_line(&sync), "resync", "what is not measured yet is not done");
}

#[test]
fn what_set_left_is_told_in_full() {
    let mut s = server("web-1", ServerState::Replicating);
    s.watch.rpo_alarm_seconds = Some(30);
    s.watch.verify_hours = 0;
    s.replication.spool_bytes = 0;
    assert_eq!(
        settings(&s),
        "server       web-1\n\
         window       24 h or 64.0 GiB\n\
         replication  asynchronous, no spool\n\
         watch        RPO alarm past 30 s, compared only when asked\n\
         vault keeps  aws: every 10 min for 1 h, hourly for 24 h, daily for 7 d\n\
         machine      1 cpu, 1.0 GiB, network isolated, virtio, bios\n"
    );
}
