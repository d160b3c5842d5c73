use super::*;
use lifeboat_base::SeededEntropy;

fn stream(sessions: &Sessions, server: ServerId, session: u64) -> Listed<'_> {
    let end = watch::channel(None).0;
    let link = StreamLink { agent: AgentId(server.0), instance: 1, rival: Arc::default(), end };
    sessions.streams.lock().insert((server, None), (session, link));
    Listed { sessions, session, key: Key::Stream((server, None)) }
}

/// A session that fails at its first word must not keep its agent out for ever.
#[test]
fn a_session_leaves_the_lists_however_it_ends_and_takes_no_other_along() {
    let sessions = Sessions::default();
    let server = ServerId::random(&SeededEntropy::new(1));
    let first = stream(&sessions, server, 1);
    let second = stream(&sessions, server, 2);
    drop(first);
    assert!(sessions.streams.lock().contains_key(&(server, None)), "the newer session stays");
    drop(second);
    assert!(sessions.streams.lock().is_empty());
}

/// Failure 21: an agent that was restarted is no clone of itself.
#[test]
fn only_two_that_are_alive_are_rivals() {
    let s = Duration::from_secs(1);
    let rival = Rival::default();
    assert_eq!(rival.heard(s), None);
    rival.challenged(2 * s, "10.0.0.9".into());
    assert_eq!(rival.heard(2 * s + s / 2), None, "that may have waited in a buffer");
    assert_eq!(rival.heard(3 * s).as_deref(), Some("10.0.0.9"));
    assert_eq!(rival.heard(4 * s), None, "told once");
}
