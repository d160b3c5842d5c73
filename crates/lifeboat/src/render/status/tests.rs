use super::*;
use crate::render::fixtures::*;
use lifeboat_api::types::{OperationKind, SyncPhase, SyncProgress};

#[test]
fn a_quiet_site_is_a_short_screen() {
    let text = screen(&status(vec![server("web-1", ServerState::Replicating)]), Style::PLAIN);
    assert_eq!(
        text,
        "dr-1  2026-01-01 00:00:00 UTC  lifeboat 0.1.0  800.0 GiB of 2.0 TiB free\n\
         \n\
         No alarms.\n\
         \n\
         SERVERS\n\
         \x20 NAME   STATE        HEALTH     RPO  P99 1H  LAG  LAST POINT                     SYNC\n\
         \x20 web-1  replicating  ready   320 ms   1.2 s  0 B  2025-12-31 23:59:59 (1 s ago)\n"
    );
}

#[test]
fn a_lost_source_shows_the_alarm_first_and_the_failover_last() {
    let mut lost = server("web-1", ServerState::Replicating);
    lost.runtime.connected = false;
    lost.runtime.health = Health::Stalled;
    lost.runtime.reason = Some("agent host-a has been silent for 42 s".into());
    let mut site = status(vec![lost]);
    site.alarms = vec!["web-1: replication is stalled".into()];
    let text = screen(&site, Style::PLAIN);
    let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no '{needle}' in:\n{text}"));
    assert!(at("ALARMS") < at("SERVERS") && at("SERVERS") < at("NEXT"));
    assert!(at("silent for 42 s") < at("lifeboat failover web-1"));
}

#[test]
fn a_sync_has_a_bar() {
    let mut syncing = server("db-1", ServerState::InitialSync);
    syncing.runtime.latest = None;
    syncing.runtime.sync = Some(SyncProgress {
        phase: SyncPhase::Full,
        total_bytes: 8 << 30,
        done_bytes: 4 << 30,
        sent_bytes: 1 << 30,
        rate: 81 << 20,
        eta_seconds: Some(50),
    });
    let text = screen(&status(vec![syncing]), Style::PLAIN);
    assert!(text.contains("initial sync [#####-----]  50 % of 8.0 GiB, 81.0 MiB/s, 50 s left"), "{text}");
}

#[test]
fn a_server_that_runs_here_says_how_to_go_on() {
    let mut over = server("web-1", ServerState::FailedOver);
    let run = run(RunKind::Failover, RunState::Running);
    over.run = Some(run.id);
    let mut site = status(vec![over]);
    site.runs = vec![run];
    let text = screen(&site, Style::PLAIN);
    assert!(text.contains("hydrated 40 %") && text.contains("lifeboat commit web-1"), "{text}");
    assert!(text.contains("127.0.0.1:40080 (port 80)"), "{text}");
}

#[test]
fn a_running_operation_can_be_followed() {
    let mut site = status(vec![server("web-1", ServerState::Replicating)]);
    site.operations = vec![operation(OperationKind::Drill, OperationState::Running)];
    let text = screen(&site, Style::PLAIN);
    assert!(text.contains("checks: http:80") && text.contains("lifeboat op ccccdddd --follow"), "{text}");
}

#[test]
fn an_empty_site_says_how_to_begin() {
    let mut site = status(vec![]);
    assert!(screen(&site, Style::PLAIN).contains("lifeboat protect"));
    site.agents.clear();
    assert!(screen(&site, Style::PLAIN).contains("lifeboat token create --agent"));
}

#[test]
fn colour_does_not_move_columns() {
    let site = status(vec![server("web-1", ServerState::Replicating)]);
    let coloured = screen(&site, Style { color: true });
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((head, tail)) = rest.split_once("\x1b[") {
        stripped.push_str(head);
        rest = tail.split_once('m').map_or("", |(_, t)| t);
    }
    stripped.push_str(rest);
    assert_eq!(stripped, screen(&site, Style::PLAIN));
}
