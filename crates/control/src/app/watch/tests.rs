#![allow(clippy::unwrap_used)]
use super::*;
use lifeboat_api::types::{PointInfo, VerifyStatus, WatchSpec};
use lifeboat_base::SeededEntropy;

fn server(id: ServerId) -> ServerRow {
    ServerRow {
        id,
        name: "web-1".into(),
        agent: AgentId(uuid::Uuid::from_u128(1)),
        capture: lifeboat_api::types::CaptureSpec::Mirror { qmp: "/q".into(), disks: vec![] },
        window: Default::default(),
        launch: Default::default(),
        replication: Default::default(),
        watch: WatchSpec { verify_hours: 24, ..WatchSpec::default() },
        retention: Default::default(),
        state: ServerState::Replicating,
        epoch: lifeboat_base::Epoch(1),
        created: at(0),
        disks: vec![],
        run: None,
        fault: None,
        stale: None,
        deleting: false,
    }
}

fn at(hours: u64) -> WallTime {
    WallTime(1_767_225_600_000_000_000).saturating_add(HOUR * u32::try_from(hours).unwrap())
}

fn runtime(state: Option<(VerifyState, u64)>) -> ServerRuntime {
    let verify = state.map(|(state, ended)| VerifyStatus {
        state,
        started: at(0),
        ended: (state != VerifyState::Running).then(|| at(ended)),
        total_bytes: 1,
        done_bytes: 1,
        different_bytes: 0,
        different: vec![],
        point: None,
        error: None,
    });
    ServerRuntime {
        connected: true,
        health: Health::Ready,
        latest: None::<PointInfo>,
        verify,
        ..ServerRuntime::default()
    }
}

#[test]
fn a_comparison_is_due_an_interval_after_the_last_ended() {
    let row = server(ServerId(uuid::Uuid::from_u128(7)));
    let due = |r: &ServerRuntime, hours| verify_due(&row, r, at(hours));
    assert!(due(&runtime(None), 24), "the first comes within the first interval");
    assert!(!due(&runtime(Some((VerifyState::Equal, 100))), 123));
    assert!(due(&runtime(Some((VerifyState::Equal, 100))), 127));
    assert!(!due(&runtime(Some((VerifyState::Failed, 100))), 100));
    assert!(due(&runtime(Some((VerifyState::Failed, 100))), 101), "what failed is not left for a day");
    assert!(!due(&runtime(Some((VerifyState::Running, 0))), 1000));
    assert!(due(&runtime(Some((VerifyState::Equal, 9999))), 100), "ended in the future: the clock was wrong");
    for unable in [
        ServerRuntime { connected: false, ..runtime(None) },
        ServerRuntime { health: Health::Lag, ..runtime(None) },
    ] {
        assert!(!due(&unable, 1000));
    }
    let never = ServerRow { watch: WatchSpec { verify_hours: 0, ..WatchSpec::default() }, ..row.clone() };
    assert!(!verify_due(&never, &runtime(None), at(10_000)));
    let stopped = ServerRow { state: ServerState::Stopped, ..row.clone() };
    assert!(!verify_due(&stopped, &runtime(None), at(10_000)));
}

#[test]
fn servers_protected_together_are_not_compared_together() {
    let entropy = SeededEntropy::new(3);
    let mut first = Vec::new();
    for _ in 0..64 {
        let row = server(ServerId::random(&entropy));
        let hour = (0..=24).find(|h| verify_due(&row, &runtime(None), at(*h))).unwrap();
        first.push(hour);
    }
    first.sort_unstable();
    first.dedup();
    assert!(first.len() > 12, "{first:?}");
}
