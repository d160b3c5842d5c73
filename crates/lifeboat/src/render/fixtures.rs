//! A site's answers for tests of the rendering.

use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::*;
use lifeboat_base::{AgentId, Epoch, OperationId, PointId, RunId, Seq, ServerId, WallTime};
use std::time::Duration;
use uuid::Uuid;

/// 2026-01-01T00:00:00Z
pub const NOW: WallTime = WallTime(1_767_225_600_000_000_000);

pub fn before(seconds: u64) -> WallTime {
    NOW.saturating_sub(Duration::from_secs(seconds))
}

pub fn point(seq: u64, age: u64) -> PointInfo {
    PointInfo {
        id: PointId { epoch: Epoch(1), seq: Seq(seq) },
        time: before(age),
        received: before(age),
        kind: PointKind::Crash,
        bytes_since: 1 << 20,
        journal: true,
        vault: None,
    }
}

pub fn server(name: &str, state: ServerState) -> Server {
    Server {
        id: ServerId(Uuid::from_u128(1)),
        name: name.into(),
        agent: AgentId(Uuid::from_u128(2)),
        agent_name: "host-a".into(),
        capture: CaptureSpec::Mirror { qmp: "/run/vm/web-1.qmp".into(), disks: vec![] },
        window: WindowSpec::default(),
        launch: LaunchSettings::default(),
        replication: ReplicationSpec::default(),
        watch: WatchSpec::default(),
        retention: RetentionSpec::default(),
        state,
        epoch: 1,
        stale: None,
        created: before(86_400),
        disks: vec![DiskInfo { index: 0, name: "disk0".into(), size: 8 << 30 }],
        runtime: ServerRuntime {
            connected: true,
            health: Health::Ready,
            capture: "attached".into(),
            rpo_ms: Some(320),
            rpo_hour: Some(RpoStats { p50_ms: 210, p99_ms: 1200, max_ms: 2500, samples: 3600 }),
            journal_bytes: 3 << 30,
            received_bytes: 1 << 30,
            content_bytes: 2 << 30,
            latest: Some(point(4711, 1)),
            oldest: Some(point(12, 7200)),
            ..ServerRuntime::default()
        },
        run: None,
    }
}

pub fn run(kind: RunKind, state: RunState) -> Run {
    Run {
        id: RunId(Uuid::from_u128(0xaaaa_bbbb << 96)),
        kind,
        server: "web-1".into(),
        point: point(4711, 61),
        launch: LaunchSettings::default(),
        state,
        started: before(60),
        expires: (kind == RunKind::Drill).then(|| NOW.saturating_add(Duration::from_secs(1740))),
        acceleration: "tcg".into(),
        forwards: vec![ForwardInfo { guest_port: 80, address: "127.0.0.1:40080".into() }],
        checks: vec![CheckResult {
            check: "http:80".into(),
            passed: true,
            detail: "200 OK".into(),
            took_ms: 7300,
        }],
        times: RunTimes { mounted_ms: Some(120), started_ms: Some(640), ready_ms: Some(8200) },
        directory: "/srv/lifeboat/runs/aaaabbbb".into(),
        hydrated_percent: (kind == RunKind::Failover).then_some(40),
        rpo_ms: Some(410),
    }
}

pub fn operation(kind: OperationKind, state: OperationState) -> Operation {
    let step = |name: &str, state, detail: &str| Step {
        name: name.into(),
        state,
        detail: detail.into(),
        started: Some(before(5)),
        ended: (state == StepState::Done).then(|| before(4)),
        percent: None,
    };
    Operation {
        id: OperationId(Uuid::from_u128(0xcccc_dddd << 96)),
        kind,
        server: "web-1".into(),
        state,
        steps: vec![
            step("resolve", StepState::Done, "p1.4711"),
            step("checks", StepState::Running, "http:80"),
            step("report", StepState::Pending, ""),
        ],
        started: before(5),
        ended: (state != OperationState::Running).then_some(NOW),
        error: None,
        run: None,
        actor: "anna".into(),
    }
}

pub fn status(servers: Vec<Server>) -> SiteStatus {
    SiteStatus {
        site: "dr-1".into(),
        version: "0.1.0".into(),
        now: NOW,
        servers,
        agents: vec![Agent {
            id: AgentId(Uuid::from_u128(2)),
            name: "host-a".into(),
            joined: before(86_400),
            certificate_expires: NOW.saturating_add(Duration::from_secs(6 * 86_400)),
            revoked: false,
            connected: true,
            address: Some("192.0.2.7:40112".into()),
            version: Some("0.1.0".into()),
            servers: vec!["web-1".into()],
        }],
        runs: vec![],
        operations: vec![],
        disk_free: 800 << 30,
        disk_total: 2 << 40,
        vault: None,
        backup_sets: vec![],
        alarms: vec![],
    }
}
