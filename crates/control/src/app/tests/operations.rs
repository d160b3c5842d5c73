//! Stories of drills, failovers and commits; each step failed, repeated and crashed.

use super::super::work::Job;
use super::{code, text};
use crate::fake::{Stage, Trouble, admin, drill_request, failover_request};
use crate::policy::{Actor, Role};
use lifeboat_api::lifecycle::ServerState;
use lifeboat_api::types::*;
use lifeboat_base::{Epoch, ServerId};
use std::time::Duration;

/// More calls than any operation makes.
const ENOUGH: usize = 12;

fn steps(op: &Operation) -> Vec<(String, StepState)> {
    op.steps.iter().map(|s| (s.name.clone(), s.state)).collect()
}

fn discarding() -> FailoverRequest {
    FailoverRequest { discard_current: true, ..failover_request() }
}

/// The state of `web-1` and what carries it.
async fn now(stage: &Stage) -> (ServerState, Option<lifeboat_base::RunId>, u32) {
    let s = stage.app.server("web-1").await.unwrap();
    (s.state, s.run, s.epoch)
}

async fn failed_over(stage: &Stage) -> Operation {
    let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Succeeded, "{op:#?}");
    op
}

#[tokio::test]
async fn a_drill_runs_is_checked_reported_and_cleans_itself_up() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let held = stage.site.world.lock().held[&id].clone();
    let op = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
    assert_eq!(op.state, OperationState::Running);
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Succeeded, "{op:#?}");
    assert!(op.steps.iter().all(|s| s.state == StepState::Done), "{op:#?}");
    let run = stage.app.run(op.run.unwrap()).await.unwrap();
    assert_eq!(run.state, RunState::Running);
    assert_eq!(run.rpo_ms, Some(500), "by the source's clock");
    assert_eq!(run.checks.iter().map(|c| c.passed).collect::<Vec<_>>(), [true, true]);
    assert!(run.times.mounted_ms.is_some() && run.times.started_ms.is_some() && run.times.ready_ms.is_some());
    let report = std::fs::read(std::path::Path::new(&run.directory).join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!((&report["passed"], &report["run"]["rpo_ms"]), (&true.into(), &500.into()));
    assert_eq!(stage.app.serial(run.id, &SerialQuery { bytes: Some(7) }).await.unwrap(), b"login: ");

    stage.clock.advance(Duration::from_secs(599));
    stage.app.status().await.unwrap();
    assert_eq!(stage.site.live_runs(), [run.id]);
    stage.clock.advance(Duration::from_secs(2));
    stage
        .until("it cleans itself up", || async {
            (stage.app.run(run.id).await.unwrap().state == RunState::CleanedUp).then_some(())
        })
        .await;
    assert!(stage.site.live_runs().is_empty());
    // I1, failures 28: replication never knew.
    assert_eq!(stage.site.world.lock().held[&id], held);
    assert_eq!(now(&stage).await, (ServerState::Replicating, None, 1));
    stage.sound().await;
}

#[tokio::test]
async fn a_drill_whose_checks_fail_says_so_and_stays_to_be_looked_at() {
    let stage = Stage::new().await;
    stage.replicating().await;
    stage.site.world.lock().failing_checks = vec!["tcp:80".into()];
    let op = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::ChecksFailed);
    assert_eq!(op.steps[3].detail, "1 of 2 failed: tcp:80: connection refused");
    let run = stage.app.run(op.run.unwrap()).await.unwrap();
    assert_eq!((run.state, run.times.ready_ms), (RunState::Running, None));

    let cleaning = stage.app.clean_up(&admin(), run.id, false).await.unwrap();
    assert_eq!(stage.ended(cleaning.id).await.state, OperationState::Succeeded);
    assert_eq!(text(stage.app.clean_up(&admin(), run.id, false).await), "the run is cleaned up already");
    stage.sound().await;
}

#[tokio::test]
async fn i6_operators_run_only_scripts_an_admin_has_laid_out() {
    let stage = Stage::new().await;
    stage.replicating().await;
    let operator = Actor { role: Role::Operator, ..admin() };
    // No directory of scripts is set up here, so none is theirs.
    for script in ["/bin/true", "/", "/srv/scripts/../../bin/true"] {
        let post = DrillRequest { post_script: Some(script.into()), ..drill_request() };
        assert_eq!(code(stage.app.drill(&operator, "web-1", &post).await), ErrorCode::Forbidden);
        let check = DrillRequest { checks: vec![format!("script:{script}")], ..drill_request() };
        assert_eq!(code(stage.app.drill(&operator, "web-1", &check).await), ErrorCode::Forbidden);
    }
    assert!(stage.site.live_runs().is_empty());
    let op = stage.app.drill(&operator, "web-1", &drill_request()).await.unwrap();
    assert_eq!(stage.ended(op.id).await.state, OperationState::Succeeded);
    stage.sound().await;
}

#[tokio::test]
async fn one_operation_per_server_and_a_drill_can_be_cancelled() {
    let stage = Stage::new().await;
    stage.replicating().await;
    stage.site.world.lock().endless_checks = true;
    let op = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
    let run = op.run.unwrap();
    let busy = text(stage.app.failover(&admin(), "web-1", &failover_request()).await);
    assert!(busy.starts_with("a drill of 'web-1' is running since "), "{busy}");
    assert!(busy.ends_with(&format!("(wait for it, or end it by cleaning up its run {run})")), "{busy}");
    stage
        .until("the checks run", || async {
            (stage.app.operation(op.id).await.unwrap().steps[3].state == StepState::Running).then_some(())
        })
        .await;
    assert_eq!(stage.app.clean_up(&admin(), run, false).await.unwrap().id, op.id);
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Cancelled);
    assert_eq!(stage.app.run(run).await.unwrap().state, RunState::CleanedUp);
    assert!(stage.site.live_runs().is_empty());
    assert!(stage.audit().await.contains(&"tess (t1) drill.cancel web-1 done".into()));
}

#[tokio::test]
async fn a_failover_stops_raises_the_epoch_and_takes_what_arrived_last() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.site.world.lock().late_point = true;
    let op = failed_over(&stage).await;
    let last = stage.site.world.lock().points[&id].last().unwrap().clone();
    let run = stage.app.run(op.run.unwrap()).await.unwrap();
    assert_eq!(run.point, last, "the point that came while replication was being stopped");
    assert_eq!(last.id.to_string(), "p1.2");
    assert_eq!(now(&stage).await, (ServerState::FailedOver, Some(run.id), 2));
    let held = stage.site.world.lock().held[&id].clone();
    assert_eq!((held.active, held.epoch), (false, Epoch(2)));
    stage
        .until("its disks are copied", || async {
            (stage.app.run(run.id).await.unwrap().hydrated_percent == Some(100)).then_some(())
        })
        .await;
    stage.sound().await;
}

#[tokio::test]
async fn another_point_needs_leave_to_throw_the_first_away() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.site.point(id);
    let first = failed_over(&stage).await.run.unwrap();
    assert_eq!(
        text(stage.app.failover(&admin(), "web-1", &failover_request()).await),
        "'web-1' runs at this site; another point throws away all it wrote since (say so with discard_current, or commit it)"
    );
    let request = FailoverRequest { point: "p1.1".into(), ..discarding() };
    let op = stage.app.failover(&admin(), "web-1", &request).await.unwrap();
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Succeeded, "{op:#?}");
    let second = op.run.unwrap();
    assert_eq!(now(&stage).await, (ServerState::FailedOver, Some(second), 2), "the same epoch");
    assert_eq!(stage.app.run(first).await.unwrap().state, RunState::CleanedUp);
    assert_eq!(stage.site.live_runs(), [second]);
    assert_eq!(code(stage.app.clean_up(&admin(), second, false).await), ErrorCode::Conflict);
    stage.sound().await;
}

#[tokio::test]
async fn commit_waits_for_the_copy_and_is_final() {
    let stage = Stage::new().await;
    stage.replicating().await;
    assert_eq!(
        text(stage.app.commit(&admin(), "web-1").await),
        "'web-1' is replicating; there is nothing to commit (only a server that is failed-over can be committed)"
    );
    let run = failed_over(&stage).await.run.unwrap();
    let op = stage.app.commit(&admin(), "web-1").await.unwrap();
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Succeeded, "{op:#?}");
    assert_eq!(now(&stage).await, (ServerState::Committed, Some(run), 2));
    assert!(stage.site.world.lock().runs[&run].released);
    assert_eq!(
        text(stage.app.failover(&admin(), "web-1", &discarding()).await),
        "'web-1' is committed and cannot fail over (it runs at this site for good; protect it anew)"
    );
    // What runs in production is not taken away by a word meant for a drill.
    assert_eq!(
        text(stage.app.clean_up(&admin(), run, false).await),
        "this is the machine 'web-1' runs on since its failover, not a drill's (to end it and delete its disks for good, \
         say so with confirm_disks)"
    );
    let yes = DeleteServerQuery { confirm_points: true };
    assert_eq!(code(stage.app.delete_server(&admin(), "web-1", &yes).await), ErrorCode::Conflict);
    assert_eq!(stage.site.live_runs(), [run]);
    stage.site.world.lock().may_end.push(run);
    let op = stage.app.clean_up(&admin(), run, true).await.unwrap();
    assert_eq!(stage.ended(op.id).await.state, OperationState::Succeeded);
    stage.app.delete_server(&admin(), "web-1", &yes).await.unwrap();
    stage.sound().await;
}

#[tokio::test]
async fn a_commit_of_a_machine_that_died_fails_and_can_be_mended() {
    let stage = Stage::new().await;
    stage.replicating().await;
    let run = failed_over(&stage).await.run.unwrap();
    {
        let mut world = stage.site.world.lock();
        let r = world.runs.get_mut(&run).unwrap();
        (r.alive, r.hydrated) = (false, 50);
    }
    stage
        .until("it is an alarm", || async {
            let alarms = stage.app.status().await.unwrap().alarms;
            alarms.iter().any(|a| a.starts_with("web-1: the machine that runs here has ended")).then_some(())
        })
        .await;
    let op = stage.app.commit(&admin(), "web-1").await.unwrap();
    let op = stage.ended(op.id).await;
    assert_eq!(
        op.error.unwrap().to_string(),
        "the machine has ended (shutdown) before its disks were copied (fail over again, to the same or another point)"
    );
    assert_eq!(now(&stage).await.0, ServerState::FailedOver);
    let op = stage.app.failover(&admin(), "web-1", &discarding()).await.unwrap();
    assert_eq!(stage.ended(op.id).await.state, OperationState::Succeeded);
    stage.sound().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_begins() {
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    let drill = |f: &dyn Fn(&mut DrillRequest)| {
        let mut r = drill_request();
        f(&mut r);
        r
    };
    for (request, want) in [
        (drill(&|r| r.point = "p1.99".into()), ErrorCode::NotFound),
        (drill(&|r| r.checks = vec!["ping".into()]), ErrorCode::Invalid),
        (drill(&|r| r.checks = vec!["tcp:80".into(); 33]), ErrorCode::Invalid),
        (drill(&|r| r.check_seconds = 0), ErrorCode::Invalid),
        (drill(&|r| r.keep_seconds = u64::MAX), ErrorCode::Invalid),
        (drill(&|r| r.launch.memory_mib = Some(1)), ErrorCode::Invalid),
        (drill(&|r| r.post_script = Some("../evil".into())), ErrorCode::Invalid),
    ] {
        assert_eq!(code(stage.app.drill(&admin(), "web-1", &request).await), want, "{request:?}");
    }
    assert_eq!(code(stage.app.drill(&admin(), "web-9", &drill_request()).await), ErrorCode::NotFound);
    assert!(stage.app.operations(&OperationsQuery::default()).await.unwrap().is_empty());
    assert!(stage.app.runs().await.unwrap().is_empty());
    // Nothing left to fail over to.
    stage.site.world.lock().points.remove(&id).unwrap();
    assert_eq!(code(stage.app.failover(&admin(), "web-1", &failover_request()).await), ErrorCode::NotFound);
    assert_eq!(now(&stage).await, (ServerState::Replicating, None, 1));
}

/// Everything a person could be left with, after an operation failed.
async fn tidy(stage: &Stage, id: ServerId, run: lifeboat_base::RunId) {
    stage
        .until("the failed run is gone", || async {
            // A run that could not be removed at once is removed a minute later.
            stage.clock.advance(Duration::from_secs(61));
            let gone = stage.app.run(run).await.unwrap().state == RunState::CleanedUp;
            (gone && stage.store.running_operation(id).await.unwrap().is_none()).then_some(())
        })
        .await;
    assert!(!stage.site.live_runs().contains(&run));
    stage.sound().await;
}

#[tokio::test]
async fn a_drill_failed_at_any_call_leaves_nothing_and_can_be_repeated() {
    for n in 1..ENOUGH {
        for trouble in [Trouble::FailBefore(n), Trouble::FailAfter(n)] {
            let stage = Stage::new().await;
            let id = stage.replicating().await;
            stage.site.trouble(trouble);
            let op = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
            let op = stage.ended(op.id).await;
            if stage.site.calls() < n {
                assert_eq!(op.state, OperationState::Succeeded);
                assert!(n > 2, "the trouble never came");
                return;
            }
            assert_eq!(op.state, OperationState::Failed, "{trouble:?} {op:#?}");
            assert_eq!(op.error.as_ref().unwrap().message, "told to fail");
            tidy(&stage, id, op.run.unwrap()).await;
            assert_eq!(now(&stage).await, (ServerState::Replicating, None, 1));
            stage.site.trouble(Trouble::None);
            let op = stage.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
            assert_eq!(stage.ended(op.id).await.state, OperationState::Succeeded);
        }
    }
    panic!("a drill makes more calls than thought");
}

#[tokio::test]
async fn a_failover_failed_at_any_call_leaves_a_server_that_can_go_on() {
    let mut failed = 0;
    for n in 1..ENOUGH {
        for trouble in [Trouble::FailBefore(n), Trouble::FailAfter(n)] {
            let stage = Stage::new().await;
            let id = stage.replicating().await;
            stage.site.trouble(trouble);
            let op = stage.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
            let op = stage.ended(op.id).await;
            if op.state == OperationState::Succeeded {
                // Trouble after the machine is in charge, with the copy: tried again in the background.
                let run = op.run.unwrap();
                stage
                    .until("its disks are copied", || async {
                        (stage.app.run(run).await.unwrap().hydrated_percent == Some(100)).then_some(())
                    })
                    .await;
                assert_eq!(now(&stage).await, (ServerState::FailedOver, Some(run), 2));
            } else {
                failed += 1;
                tidy(&stage, id, op.run.unwrap()).await;
                assert_eq!(
                    now(&stage).await,
                    (ServerState::Stopped, None, 2),
                    "{trouble:?}: never back to active"
                );
                stage.site.trouble(Trouble::None);
                failed_over(&stage).await;
                assert_eq!(now(&stage).await.2, 3);
            }
            stage.sound().await;
        }
    }
    assert_eq!(failed, 6, "ensure, prepare and launch, each before and after");
}

#[tokio::test]
async fn a_change_of_point_failed_at_any_call_keeps_the_first_run_while_it_can() {
    let mut kept = 0;
    for n in 1..ENOUGH {
        for trouble in [Trouble::FailBefore(n), Trouble::FailAfter(n)] {
            let stage = Stage::new().await;
            let id = stage.replicating().await;
            let first = failed_over(&stage).await.run.unwrap();
            stage.site.trouble(trouble);
            let op = stage.app.failover(&admin(), "web-1", &discarding()).await.unwrap();
            let op = stage.ended(op.id).await;
            let (state, run, epoch) = now(&stage).await;
            assert_eq!(epoch, 2);
            if op.state == OperationState::Failed {
                tidy(&stage, id, op.run.unwrap()).await;
                let begun =
                    op.steps.iter().any(|s| s.name == "discard-current" && s.state != StepState::Skipped);
                if begun {
                    assert_eq!((state, run), (ServerState::Stopped, None), "{trouble:?}");
                    assert_eq!(stage.site.live_runs(), []);
                } else {
                    assert_eq!((state, run), (ServerState::FailedOver, Some(first)), "{trouble:?}");
                    assert!(stage.site.world.lock().runs[&first].alive);
                    kept += 1;
                }
            } else {
                assert_eq!((state, run), (ServerState::FailedOver, op.run));
            }
            stage.sound().await;
        }
    }
    assert_eq!(kept, 4, "ensure and prepare, each before and after");
}

/// Runs `begin`'s operation, killing the process at the n-th call, and starts again.
async fn crash_at(
    trouble: Trouble,
    prepare: impl AsyncFn(&Stage),
    begin: impl AsyncFn(&Stage) -> Operation,
) -> Option<(Stage, Operation)> {
    let (Trouble::HangBefore(n) | Trouble::HangAfter(n)) = trouble else { panic!("no crash") };
    let mut stage = Stage::new().await;
    stage.replicating().await;
    prepare(&stage).await;
    stage.site.trouble(trouble);
    let op = begin(&stage).await;
    let hangs = stage
        .until("it hangs or ends", || async {
            let over = stage.app.operation(op.id).await.unwrap().state != OperationState::Running;
            (over || stage.site.calls() >= n).then_some(!over)
        })
        .await;
    if !hangs {
        return None;
    }
    stage.app.stop().await;
    assert_eq!(stage.app.operation(op.id).await.unwrap().state, OperationState::Running);
    stage.site.trouble(Trouble::None);
    stage.restart().await;
    let op = stage.ended(op.id).await;
    assert_eq!(op.state, OperationState::Succeeded, "{trouble:?} {op:#?}");
    stage.sound().await;
    Some((stage, op))
}

#[tokio::test]
async fn a_drill_crashed_at_any_call_goes_on_where_it_was() {
    let mut crashes = 0;
    for n in 1..ENOUGH {
        for trouble in [Trouble::HangBefore(n), Trouble::HangAfter(n)] {
            let begin = async |s: &Stage| s.app.drill(&admin(), "web-1", &drill_request()).await.unwrap();
            if let Some((stage, op)) = crash_at(trouble, async |_| {}, begin).await {
                crashes += 1;
                assert_eq!(stage.site.live_runs(), [op.run.unwrap()]);
                assert!(steps(&op).iter().all(|(_, s)| *s == StepState::Done));
            }
        }
    }
    assert_eq!(crashes, 4, "prepare and launch, each before and after");
}

#[tokio::test]
async fn a_failover_crashed_at_any_call_goes_on_where_it_was() {
    let mut crashes = 0;
    for n in 1..ENOUGH {
        for trouble in [Trouble::HangBefore(n), Trouble::HangAfter(n)] {
            let begin =
                async |s: &Stage| s.app.failover(&admin(), "web-1", &failover_request()).await.unwrap();
            if let Some((stage, op)) = crash_at(trouble, async |_| {}, begin).await {
                crashes += 1;
                assert_eq!(now(&stage).await, (ServerState::FailedOver, op.run, 2), "the epoch rose once");
                assert_eq!(stage.site.live_runs(), [op.run.unwrap()]);
            }
        }
    }
    assert_eq!(crashes, 8, "ensure, prepare, launch and hydrate, each before and after");
}

#[tokio::test]
async fn a_change_of_point_and_a_commit_crashed_at_any_call_go_on() {
    let first = async |s: &Stage| drop(failed_over(s).await);
    let mut crashes = 0;
    for n in 1..ENOUGH {
        for trouble in [Trouble::HangBefore(n), Trouble::HangAfter(n)] {
            let change = async |s: &Stage| s.app.failover(&admin(), "web-1", &discarding()).await.unwrap();
            if let Some((stage, op)) = crash_at(trouble, first, change).await {
                crashes += 1;
                assert_eq!(now(&stage).await, (ServerState::FailedOver, op.run, 2));
                assert_eq!(stage.site.live_runs(), [op.run.unwrap()]);
            }
            let commit = async |s: &Stage| s.app.commit(&admin(), "web-1").await.unwrap();
            if let Some((stage, op)) = crash_at(trouble, first, commit).await {
                crashes += 1;
                assert_eq!(now(&stage).await, (ServerState::Committed, op.run, 2));
            }
        }
    }
    assert_eq!(crashes, 14, "ensure, prepare, destroy, launch, hydrate; hydrate, release; before and after");
}

#[tokio::test]
async fn every_step_of_every_operation_may_be_repeated() {
    // As after a crash between doing a step and storing that it was done, and another one.
    let stage = Stage::new().await;
    let id = stage.replicating().await;
    stage.app.stop().await;
    for kind in ["drill", "failover", "change", "commit"] {
        let op = match kind {
            "drill" => stage.app.drill(&admin(), "web-1", &drill_request()).await,
            "failover" => stage.app.failover(&admin(), "web-1", &failover_request()).await,
            "change" => stage.app.failover(&admin(), "web-1", &discarding()).await,
            _ => stage.app.commit(&admin(), "web-1").await,
        };
        let row = stage.store.operation(op.unwrap().id).await.unwrap().unwrap();
        let mut job = Job::load(row).unwrap();
        for at in 0..job.operation.steps.len() {
            let mut after = None;
            for _ in 0..3 {
                if let Err(e) = stage.app.step(&mut job, at).await {
                    panic!("{kind} {}: {e}", job.operation.steps[at].name);
                }
                let seen =
                    (now(&stage).await, stage.site.live_runs(), stage.site.world.lock().held[&id].clone());
                assert_eq!(*after.get_or_insert(seen.clone()), seen, "{kind} step {at}");
            }
            job.operation.steps[at].state = StepState::Done;
        }
        stage.app.finish(&mut job).await.unwrap();
        assert_eq!(job.operation.state, OperationState::Succeeded);
        stage.sound().await;
    }
    assert_eq!(now(&stage).await.0, ServerState::Committed);
}

#[tokio::test]
async fn a_server_whose_machine_runs_here_is_not_deleted_but_one_whose_machine_is_gone_can_be() {
    let stage = Stage::new().await;
    stage.replicating().await;
    let run = failed_over(&stage).await.run.unwrap();
    let yes = DeleteServerQuery { confirm_points: true };
    assert_eq!(
        text(stage.app.delete_server(&admin(), "web-1", &yes).await),
        "'web-1' is failed-over: the machine that runs here needs its points (commit it first)"
    );
    stage.site.world.lock().runs.get_mut(&run).unwrap().alive = false;
    stage
        .until("it is seen", || async {
            (stage.app.run(run).await.unwrap().state == RunState::Exited).then_some(())
        })
        .await;
    stage.app.delete_server(&admin(), "web-1", &yes).await.unwrap();
    let op = stage.app.clean_up(&admin(), run, true).await.unwrap();
    assert_eq!(stage.ended(op.id).await.state, OperationState::Succeeded);
    stage.sound().await;
}
