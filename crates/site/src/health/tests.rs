use super::*;
use lifeboat_base::{Epoch, PointId, Seq};
use lifeboat_journal::Damage;
use lifeboat_replicate::message::Flushes;

const S: Duration = Duration::from_secs(1);

fn measured() -> Measured {
    let report = ServerReport { capture: "attached".into(), ..ServerReport::default() };
    Measured { report: Some(report), session: Some(1), live: true, ..Measured::default() }
}

fn facts(measured: &Measured) -> Facts<'_> {
    Facts {
        name: "web-1",
        mode: ReplicationMode::Async,
        on_loss: OnLoss::Block,
        measured,
        agent_here: true,
        rpo: Some(S),
        eta: None,
        lag_bytes: 0,
        damage: &[],
        newest_damaged: false,
        trouble: None,
    }
}

fn reason(j: &Judgement) -> &str {
    j.reason.as_deref().expect("a reason")
}

#[test]
fn a_lag_says_how_much_is_left_and_how_long_that_takes() {
    let m = Measured { live: false, ..measured() };
    assert_eq!(facts(&measured()).judge().health, Health::Ready);
    let j = Facts { eta: Some(40), lag_bytes: 1_288_490_189, ..facts(&m) }.judge();
    assert_eq!((j.health, j.ready_in_seconds), (Health::Lag, Some(40)));
    assert_eq!(reason(&j), "catching up: 1.2 GiB to go, about 40 s; this heals itself");
    assert_eq!(reason(&facts(&m).judge()), "catching up; this heals itself");
    let far = Facts { eta: Some(7201), lag_bytes: 1, ..facts(&m) }.judge();
    assert_eq!(reason(&far), "catching up: 1 B to go, about 3 h; this heals itself");
    let late = Facts { rpo: Some(16 * S), ..facts(&m) }.judge();
    assert_eq!(late.health, Health::Lag);
}

#[test]
fn stalled_says_what_a_person_must_do() {
    let fault = Measured { fault: Some("no disk; restart".into()), ..measured() };
    assert_eq!(facts(&fault).judge(), Judgement::new(Health::Stalled, "no disk; restart"));
    let m = measured();
    let gone = Facts { agent_here: false, rpo: Some(121 * S), ..facts(&m) }.judge();
    assert!(gone.health == Health::Stalled && reason(&gone).contains("lifeboat-agent status"));
    let short = Facts { agent_here: false, ..facts(&m) }.judge();
    assert_eq!(short.health, Health::Lag);
}

#[test]
fn a_broken_promise_of_synchronous_mode_is_never_ready() {
    let with = |state: SyncState| {
        let mut m = measured();
        m.report.as_mut().expect("report").sync_state = state as i32;
        m
    };
    let judge = |state, on_loss| {
        let m = with(state);
        Facts { mode: ReplicationMode::Sync, on_loss, ..facts(&m) }.judge()
    };
    assert_eq!(judge(SyncState::Synchronous, OnLoss::Block).health, Health::Ready);
    let blocked = judge(SyncState::Blocked, OnLoss::Block);
    assert!(blocked.health == Health::Stalled && reason(&blocked).contains("they fail"), "{blocked:?}");
    assert!(reason(&judge(SyncState::Blocked, OnLoss::Degrade)).contains("go on without the site"));
    let degraded = judge(SyncState::Degraded, OnLoss::Degrade);
    assert!(degraded.health == Health::Lag && reason(&degraded).starts_with("degraded"), "{degraded:?}");
    assert_eq!(judge(SyncState::NotYet, OnLoss::Block).health, Health::Lag);
    assert_eq!(judge(SyncState::Asynchronous, OnLoss::Block).health, Health::Lag);
    let m = with(SyncState::Degraded);
    assert_eq!(facts(&m).judge().health, Health::Ready, "of an asynchronous server it means nothing");
}

/// Failure 6: a journal with known damage is not silently ready.
#[test]
fn damage_is_named_with_its_points() {
    let m = measured();
    let point = |seq| PointId { epoch: Epoch(1), seq: Seq(seq) };
    let damage = Damage { segment: "x.seg".into(), offset: 5, first: Seq(3), last: Seq(3) };
    let damage = [Finding { damage, points: Some((point(4), point(9))) }];
    let old = Facts { damage: &damage, ..facts(&m) }.judge();
    assert_eq!(old.health, Health::Lag);
    assert_eq!(
        reason(&old),
        "the journal is damaged: points from p1.4 to p1.9 need what is lost; newer points are whole; \
         see 'lifeboat check web-1 --full'"
    );
    let new = Facts { damage: &damage, newest_damaged: true, ..facts(&m) }.judge();
    assert_eq!(new.health, Health::Stalled);
    assert!(reason(&new).contains("'lifeboat verify web-1' sends it anew"), "{new:?}");
}

/// Failure 21: an alarm, not only a note.
#[test]
fn a_quarrel_is_seen_though_replication_goes_on() {
    let m = measured();
    let j = Facts { trouble: Some("two agents claim it"), ..facts(&m) }.judge();
    assert_eq!(j, Judgement::new(Health::Lag, "two agents claim it"));
}

#[test]
fn flushes_are_averaged() {
    let flushes =
        Flushes { count: 4, source: 8_000_000, encode: 40_000, site: 4_000_000, longest: 9_000_000 };
    let sync_state = SyncState::Degraded as i32;
    let r = ServerReport { sync_state, sync_since: 77, flushes: Some(flushes), ..ServerReport::default() };
    let s = sync_status(Some(&r));
    assert_eq!((s.source_us, s.encode_us, s.site_us, s.longest_us), (2000, 10, 1000, 9000));
    assert_eq!((s.state, s.since), (SyncModeState::Degraded, Some(WallTime(77))));
    let none = sync_status(None);
    assert_eq!((none.state, none.flushes, none.site_us), (SyncModeState::Unknown, 0, 0));
}
