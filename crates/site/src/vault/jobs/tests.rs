#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::{ManualClock, SeededEntropy};
use std::time::Duration;

async fn ended(jobs: &Jobs, id: &str) -> VaultJob {
    let wait = async {
        loop {
            let job = jobs.get(id).unwrap();
            if job.state != VaultJobState::Running {
                break job;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap()
}

fn jobs() -> Jobs {
    Jobs::new(Arc::new(ManualClock::default()), Arc::new(SeededEntropy::new(1)))
}

const DONE: VaultJobResult = VaultJobResult::Reindex { packs: 1, chunks: 2 };

#[tokio::test]
async fn a_job_tells_how_far_it_is_and_how_it_ended() {
    let jobs = jobs();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let job = jobs.start(
        ("check", "all"),
        |j| j.kind == "check",
        move |c| {
            c.step("half");
            c.progress(1, 2, "packs");
            gone.recv().unwrap();
            Ok(DONE)
        },
    );
    let id = job.unwrap().id;
    let second = jobs.start(("check", "all"), |j| j.kind == "check", |_| Ok(DONE)).unwrap_err();
    assert!(second.code == ErrorCode::Conflict && second.message.contains(&id), "{second}");
    jobs.start(("prune", "all"), |j| j.kind == "prune", |_| Ok(DONE)).unwrap();
    go.send(()).unwrap();
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state, job.step.as_str(), job.done, job.total), (VaultJobState::Succeeded, "half", 1, 2));
    assert_eq!(job.result, Some(DONE));
    assert_eq!(jobs.cancel(&id).unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(jobs.cancel("nothing").unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_job_that_dies_or_is_cancelled_does_not_run_for_ever() {
    let jobs = jobs();
    let id = jobs.start(("a", ""), |_| false, |_| panic!("on purpose")).unwrap().id;
    let job = ended(&jobs, &id).await;
    assert!(job.state == VaultJobState::Failed && job.error.unwrap().contains("died"));
    let id = jobs
        .start(
            ("b", ""),
            |_| false,
            |c| {
                while !c.cancelled() {
                    std::thread::yield_now();
                }
                Err(PortError::new(ErrorCode::Conflict, "ended"))
            },
        )
        .unwrap()
        .id;
    jobs.cancel(&id).unwrap();
    assert_eq!(ended(&jobs, &id).await.state, VaultJobState::Cancelled);
}

#[tokio::test]
async fn the_list_is_bounded() {
    let jobs = jobs();
    for _ in 0..MOST + 20 {
        let id = jobs.start(("c", ""), |_| false, |_| Ok(DONE)).unwrap().id;
        ended(&jobs, &id).await;
    }
    assert_eq!(jobs.list().len(), MOST);
}
