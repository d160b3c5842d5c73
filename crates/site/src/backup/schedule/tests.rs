#![allow(clippy::unwrap_used)]

use super::*;
use crate::backup::tests::Rig;

const HOUR: Duration = Duration::from_secs(3600);

fn nightly(rig: &Rig) -> BackupSet {
    BackupSet { schedule: Some("0 3 * * *".into()), ..rig.set("night") }
}

/// Runs what is due; how many backups there are then.
async fn tick(rig: &Rig) -> usize {
    rig.site().start_due_backups();
    let jobs = rig.site().vault.jobs.list();
    for job in jobs {
        rig.ended(&job.id).await;
    }
    rig.site().backups.list(None).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_runs_when_it_is_due_and_a_missed_run_is_made_once() {
    let mut rig = Rig::new();
    std::fs::write(rig.root().join("x"), "x").unwrap();
    rig.define(nightly(&rig));
    assert_eq!(tick(&rig).await, 0, "it counts from when it was given");
    rig.w.clock.advance(24 * HOUR);
    assert_eq!(tick(&rig).await, 1);
    assert_eq!(tick(&rig).await, 1, "once");
    rig.w.clock.advance(30 * 24 * HOUR);
    assert_eq!(tick(&rig).await, 2, "thirty missed runs are one");
    assert_eq!(tick(&rig).await, 2);
    // A site that was down does not forget what it was told.
    rig.w.clock.advance(48 * HOUR);
    rig.restart();
    rig.define(nightly(&rig));
    assert_eq!(tick(&rig).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_run_that_was_missed_while_the_site_was_down_is_made() {
    let mut rig = Rig::new();
    std::fs::write(rig.root().join("x"), "x").unwrap();
    rig.define(nightly(&rig));
    rig.w.clock.advance(24 * HOUR);
    rig.restart();
    rig.define(nightly(&rig));
    assert_eq!(tick(&rig).await, 1);
}

/// A failure is tried again, ever more rarely; success is back to the schedule.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_is_tried_again() {
    let rig = Rig::new();
    let path = rig.root().join("later");
    rig.define(BackupSet { paths: vec![path.display().to_string()], ..nightly(&rig) });
    rig.w.clock.advance(24 * HOUR);
    let mut tries = 0;
    for _ in 0..120 {
        let before = rig.site().vault.jobs.list().len();
        assert_eq!(tick(&rig).await, 0);
        tries += rig.site().vault.jobs.list().len() - before;
        rig.w.clock.advance(Duration::from_secs(60));
    }
    assert!((4..=8).contains(&tries), "{tries} tries in two hours");
    std::fs::write(&path, "x").unwrap();
    rig.w.clock.advance(HOUR);
    assert_eq!(tick(&rig).await, 1);
    assert_eq!(tick(&rig).await, 1);
}

/// A clock that was wrong for one backup does not stop the others for years.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_the_future_does_not_stop_the_schedule() {
    let rig = Rig::new();
    std::fs::write(rig.root().join("x"), "x").unwrap();
    rig.define(nightly(&rig));
    let now = lifeboat_base::Clock::wall(&*rig.w.clock);
    rig.w.clock.set_wall(WallTime(now.0 + 10 * 365 * 86_400_000_000_000));
    assert_eq!(tick(&rig).await, 1);
    rig.w.clock.set_wall(now);
    rig.w.clock.advance(24 * HOUR);
    assert_eq!(tick(&rig).await, 2);
}

/// Nor does a schedule that was given meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_was_given_in_the_future_counts_from_now() {
    let rig = Rig::new();
    std::fs::write(rig.root().join("x"), "x").unwrap();
    let now = lifeboat_base::Clock::wall(&*rig.w.clock);
    rig.w.clock.set_wall(WallTime(now.0 + 10 * 365 * 86_400_000_000_000));
    rig.define(nightly(&rig));
    rig.w.clock.set_wall(now);
    assert_eq!(tick(&rig).await, 0);
    rig.w.clock.advance(24 * HOUR);
    assert_eq!(tick(&rig).await, 1);
}

#[test]
fn what_is_no_schedule_is_said() {
    let rig = Rig::new();
    let error =
        parse(&BackupSet { schedule: Some("nightly".into()), ..rig.set("a") }).unwrap_err().to_string();
    assert!(error.starts_with("'nightly' is no schedule: "), "{error}");
    assert!(
        error.ends_with("(minute hour day month weekday, for example '0 3 * * *' for every night at three)")
    );
}
