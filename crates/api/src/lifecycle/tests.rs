use super::*;

const EVENTS: [ServerEvent; 9] = [
    ServerEvent::ScanStarted,
    ServerEvent::SyncStarted,
    ServerEvent::FirstPoint,
    ServerEvent::StopRequested,
    ServerEvent::ResumeRequested,
    ServerEvent::FailoverStarted,
    ServerEvent::FailoverDone,
    ServerEvent::FailoverFailed,
    ServerEvent::Committed,
];

#[test]
fn names_round_trip_in_text_and_json() {
    for s in ServerState::ALL {
        assert_eq!(s.name().parse::<ServerState>(), Ok(s));
        assert_eq!(serde_json::to_string(&s).expect("json"), format!("\"{s}\""));
    }
}

#[test]
fn nothing_leaves_committed_and_everything_else_has_a_way_on() {
    for s in ServerState::ALL {
        let ways = EVENTS.iter().filter(|e| s.next(**e).is_some()).count();
        assert_eq!(ways == 0, s == ServerState::Committed, "{s}");
    }
}

#[test]
fn failover_needs_a_point() {
    for s in
        [ServerState::Initialized, ServerState::Scanning, ServerState::InitialSync, ServerState::Committed]
    {
        assert_eq!(s.next(ServerEvent::FailoverStarted), None, "{s}");
    }
}

#[test]
fn every_state_can_be_reached() {
    let mut seen = vec![ServerState::Initialized];
    let mut at = 0;
    while at < seen.len() {
        for e in EVENTS {
            if let Some(n) = seen[at].next(e)
                && !seen.contains(&n)
            {
                seen.push(n);
            }
        }
        at += 1;
    }
    assert_eq!(seen.len(), ServerState::ALL.len());
}
