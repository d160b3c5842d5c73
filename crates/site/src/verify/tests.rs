use super::*;
use lifeboat_base::WallTime;
use lifeboat_replicate::message::DiskRange;

const S: Duration = Duration::from_secs(1);

fn running() -> Verification {
    let status = VerifyStatus {
        state: VerifyState::Running,
        started: WallTime(5_000_000),
        ended: None,
        total_bytes: 0,
        done_bytes: 0,
        different_bytes: 0,
        different: Vec::new(),
        point: None,
        error: None,
    };
    Verification { id: 7, status, ended_at: None, heard: S, unproven: false }
}

fn report(id: u64, done: u64, over: bool) -> VerifyReport {
    VerifyReport { id, total_bytes: 100, done_bytes: done, over, ..VerifyReport::default() }
}

#[test]
fn a_comparison_is_equal_only_when_its_own_agent_says_that_all_was_compared() {
    let mut v = running();
    assert!(matches!(v.report(Some(&report(8, 100, true)), Seq(9), 2 * S), Change::Nothing), "another one");
    assert!(matches!(v.report(Some(&report(7, 40, false)), Seq(9), 2 * S), Change::Progress));
    assert_eq!((v.status.done_bytes, v.status.state), (40, VerifyState::Running));
    assert!(matches!(v.report(Some(&report(7, 100, true)), Seq(9), 3 * S), Change::Over));
    assert_eq!((v.status.state, v.ended_at), (VerifyState::Equal, Some(Seq(9))));
    let failed = VerifyReport { error: "late".into(), ..report(7, 100, true) };
    assert!(matches!(v.report(Some(&failed), Seq(10), 4 * S), Change::Nothing), "over is over");
}

#[test]
fn differences_are_named_and_bounded() {
    let mut v = running();
    let different = (0..10_000).map(|n| DiskRange { disk: 1, offset: n * 65536, len: 65536 }).collect();
    let r = VerifyReport { different_bytes: 10_000 * 65536, different, ..report(7, 100, true) };
    assert!(matches!(v.report(Some(&r), Seq(9), 3 * S), Change::Over));
    assert_eq!((v.status.state, v.status.different.len()), (VerifyState::Different, MAX_DIFFERENCES));
    let text = describe(&v.status);
    assert!(text.contains(": disk1 0+65536, disk1 65536+65536") && text.len() < 1000, "{text}");
}

#[test]
fn an_agent_that_was_restarted_has_forgotten_it() {
    let mut v = running();
    assert!(matches!(v.report(None, Seq(9), 2 * S), Change::Nothing), "it may not have read the request yet");
    assert!(matches!(v.report(None, Seq(9), S + FORGOTTEN), Change::Over));
    assert_eq!(v.status.state, VerifyState::Failed);
    let text = v.status.error.clone().expect("why");
    assert!(text.contains("start it again"), "{text}");
    let failed = VerifyReport { error: "x".repeat(100_000), ..report(7, 1, false) };
    let mut v = running();
    assert!(matches!(v.report(Some(&failed), Seq(9), 2 * S), Change::Over));
    assert!(v.status.error.expect("why").len() <= MAX_TEXT);
}

#[test]
fn it_outlives_the_process() {
    let mut v = running();
    let _ = v.report(Some(&report(7, 100, true)), Seq(9), 3 * S);
    let text = serde_json::to_vec(&v).expect("json");
    let again: Verification = serde_json::from_slice(&text).expect("json");
    assert_eq!((again.id, again.status, again.ended_at), (v.id, v.status, v.ended_at));
}

#[test]
fn what_could_not_be_compared_is_neither_equal_nor_different() {
    let mut v = running();
    v.unproven();
    let over = VerifyReport { id: 7, over: true, ..VerifyReport::default() };
    assert!(matches!(v.report(Some(&over), Seq(1), S), Change::Over));
    assert_eq!(v.status.state, VerifyState::Failed);
    assert!(v.status.error.unwrap().contains("the vault did not answer"));
}
