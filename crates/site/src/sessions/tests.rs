use super::*;
use lifeboat_base::SeededEntropy;

fn stream(sessions: &Sessions, server: ServerId, session: u64) -> Listed<'_> {
    let link = StreamLink { agent: AgentId(server.0), instance: 1, end: watch::channel(None).0 };
    sessions.streams.lock().insert(server, (session, link));
    Listed { sessions, session, key: Key::Stream(server) }
}

/// A session that fails at its first word must not keep its agent out for ever.
#[test]
fn a_session_leaves_the_lists_however_it_ends_and_takes_no_other_along() {
    let sessions = Sessions::default();
    let server = ServerId::random(&SeededEntropy::new(1));
    let first = stream(&sessions, server, 1);
    let second = stream(&sessions, server, 2);
    drop(first);
    assert!(sessions.streams.lock().contains_key(&server), "the newer session stays");
    drop(second);
    assert!(sessions.streams.lock().is_empty());
}
