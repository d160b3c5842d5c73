//! The steps that launch a point and look whether it lives, for drills and failovers alike. Each may be repeated.

use super::engine::Done;
use super::operations::rpo_ms;
use super::work::{Job, Launching, Work, step};
use super::{App, PATIENCE, STEP, within};
use lifeboat_api::port::RunRequest;
use lifeboat_api::types::{ApiError, CheckResult, ErrorCode, PointInfo, Run, RunKind, RunState};
use lifeboat_base::WallTime;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

/// `report.json` in the run's directory.
#[derive(Debug, Serialize)]
struct Report<'a> {
    operation: String,
    actor: &'a str,
    passed: bool,
    written: WallTime,
    run: &'a Run,
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or("unknown".into(), |ms| format!("{:.1} s", ms as f64 / 1000.0))
}

impl App {
    /// Does the step at position `at`.
    pub(super) async fn step(&self, job: &mut Job, at: usize) -> Result<Done, ApiError> {
        let name = job.operation.steps[at].name.clone();
        let launching = job.work.launching().cloned();
        if matches!(job.work, Work::Failover { .. } | Work::Commit { .. }) {
            // The store may have been put back to a time when this was under way.
            super::stale::refuse(&self.server_of(job).await?)?;
        }
        match (&job.work, name.as_str(), launching) {
            (Work::Commit { run }, step::HYDRATE, _) => {
                let run = *run;
                self.wait_hydrated(job, at, run).await
            }
            (Work::Commit { run }, step::RELEASE, _) => {
                within(STEP, self.site.release_run(*run)).await?;
                Ok(Done::Done("the machine needs Lifeboat no more".into()))
            }
            (Work::Commit { run }, step::COMMIT, _) => self.committed(job, *run).await,
            (Work::CleanUp { run }, step::DESTROY, _) => {
                let run = *run;
                within(STEP, self.site.destroy_run(run, true)).await?;
                self.cleaned_up(run).await?;
                Ok(Done::Done("disks deleted, logs kept".into()))
            }
            (Work::Failover { .. }, step::STOP, _) => self.stop_replication(job).await,
            (Work::Failover { .. }, step::DISCARD, _) => self.discard_previous(job).await,
            (Work::Failover { .. }, step::COMPLETE, _) => self.failed_over(job).await,
            (Work::Failover { .. }, step::HYDRATE, Some(l)) => Ok(self.start_hydration(l.run).await),
            (_, step::RESOLVE, Some(l)) => self.resolve(job, &l).await,
            (_, step::MOUNT, Some(l)) => self.prepare(job, &l).await,
            (_, step::START, Some(l)) => self.start_guest(job, &l).await,
            (_, step::CHECKS, Some(l)) => self.run_checks(job, at, &l).await,
            (_, step::REPORT, Some(l)) => self.report(job, &l).await,
            _ => Err(ApiError::new(ErrorCode::Internal, format!("a step '{name}' is not known here"))
                .hint("the operation was begun by another version; clean up and start it again")),
        }
    }

    fn request(job: &Job, l: &Launching) -> RunRequest {
        let kind = if matches!(job.work, Work::Failover { .. }) { RunKind::Failover } else { RunKind::Drill };
        RunRequest {
            run: l.run,
            kind,
            server: job.server,
            server_name: job.operation.server.clone(),
            point: job.point().map_or(l.point.id, |p| p.id),
            launch: l.launch.clone(),
            check_ports: l.check_ports.clone(),
        }
    }

    /// Fixes the point. A failover to `latest` looks again now that replication is off.
    async fn resolve(&self, job: &mut Job, l: &Launching) -> Result<Done, ApiError> {
        let spec = match job.work {
            Work::Failover { latest: true, .. } => "latest".to_string(),
            _ => l.point.id.to_string(),
        };
        let point: PointInfo = within(PATIENCE, self.site.resolve_point(job.server, &spec)).await?;
        let rpo = rpo_ms(l, &point, job.operation.started);
        let shown = point.clone();
        self.store
            .update_run(l.run, |run| {
                run.point = shown;
                run.rpo_ms = Some(rpo);
            })
            .await?;
        let detail = format!("{} of {}, {} before the request", point.id, point.time, seconds(Some(rpo)));
        job.memory.point = Some(point);
        Ok(Done::Done(detail))
    }

    async fn prepare(&self, job: &Job, l: &Launching) -> Result<Done, ApiError> {
        within(STEP, self.site.prepare_run(&Self::request(job, l))).await?;
        let took = millis(self.now().since(job.operation.started));
        self.store
            .update_run(l.run, |run| run.times.mounted_ms = run.times.mounted_ms.or(Some(took)))
            .await?;
        Ok(Done::Done(format!("{} after the request", seconds(Some(took)))))
    }

    async fn start_guest(&self, job: &Job, l: &Launching) -> Result<Done, ApiError> {
        let status = within(STEP, self.site.launch(&Self::request(job, l))).await?;
        let took = millis(status.started.since(job.operation.started));
        let detail = format!("{}, {} after the request", status.acceleration, seconds(Some(took)));
        self.store
            .update_run(l.run, |run| {
                run.state = RunState::Running;
                run.acceleration = status.acceleration;
                run.forwards = status.forwards;
                run.directory = status.directory;
                run.times.started_ms = Some(took);
            })
            .await?;
        Ok(Done::Done(detail))
    }

    /// Runs all checks at once against one deadline, then takes a picture and runs the post script.
    async fn run_checks(&self, job: &mut Job, at: usize, l: &Launching) -> Result<Done, ApiError> {
        let deadline = Duration::from_secs(l.check_seconds);
        let mut running = JoinSet::new();
        for (i, check) in l.checks.iter().cloned().enumerate() {
            let (site, run) = (self.site.clone(), l.run);
            running.spawn(async move { (i, site.check(run, &check, deadline).await) });
        }
        let mut results: Vec<Option<CheckResult>> = vec![None; l.checks.len()];
        while let Some(ended) = running.join_next().await {
            let (i, result) =
                ended.map_err(|e| ApiError::new(ErrorCode::Internal, format!("a check broke: {e}")))?;
            results[i] = Some(result);
            let over = results.iter().flatten().count();
            let percent = u8::try_from(over * 100 / l.checks.len().max(1)).unwrap_or(100);
            self.progress(job, at, percent, format!("{over} of {} over", l.checks.len())).await?;
        }
        let mut results: Vec<CheckResult> = results.into_iter().flatten().collect();
        let passed = results.iter().all(|r| r.passed);
        // Without a check nobody knows when the service answered.
        let ready = (passed && !results.is_empty()).then(|| millis(self.now().since(job.operation.started)));
        let picture = match within(PATIENCE, self.site.screenshot(l.run)).await {
            Ok(_) => String::new(),
            Err(e) => format!("; no picture of the screen: {e}"),
        };
        if let Some(script) = &l.post_script {
            results.push(self.site.post_script(l.run, script, deadline).await);
        }
        let failed: Vec<String> =
            results.iter().filter(|r| !r.passed).map(|r| format!("{}: {}", r.check, r.detail)).collect();
        job.memory.checks_failed = !failed.is_empty();
        let total = results.len();
        self.store
            .update_run(l.run, |run| {
                run.checks = results;
                run.times.ready_ms = ready;
            })
            .await?;
        Ok(match (total, failed.is_empty()) {
            (0, _) => Done::Skipped(format!("none were given{picture}")),
            (_, true) => Done::Done(format!("all {total} passed{picture}")),
            (_, false) => {
                Done::Done(format!("{} of {total} failed: {}{picture}", failed.len(), failed.join("; ")))
            }
        })
    }

    /// What was measured, for people, beside the logs. The store has it all too, so a report that cannot be written
    /// fails nothing.
    async fn report(&self, job: &Job, l: &Launching) -> Result<Done, ApiError> {
        let Some(row) = self.store.run(l.run).await? else {
            return Err(ApiError::new(ErrorCode::Corrupt, "the run is not in the store"));
        };
        let report = Report {
            operation: job.operation.id.to_string(),
            actor: &job.operation.actor,
            passed: !job.memory.checks_failed,
            written: self.now(),
            run: &row.run,
        };
        let text = serde_json::to_vec_pretty(&report).map_err(|e| {
            ApiError::new(ErrorCode::Internal, format!("the report cannot be written down: {e}"))
        })?;
        let times = format!("RPO {}, RTO {}", seconds(row.run.rpo_ms), seconds(row.run.times.ready_ms));
        let directory = row.run.directory.clone();
        let written = tokio::task::spawn_blocking(move || write_report(Path::new(&directory), &text)).await;
        Ok(Done::Done(match written {
            Ok(Ok(())) => times,
            Ok(Err(e)) => format!("{times}; report.json could not be written: {e}"),
            Err(e) => format!("{times}; report.json could not be written: {e}"),
        }))
    }
}

/// Complete or not there at all.
fn write_report(directory: &Path, text: &[u8]) -> std::io::Result<()> {
    if !directory.is_absolute() {
        return Err(std::io::Error::other("the run has no directory"));
    }
    let part = directory.join("report.json.part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(part, directory.join("report.json"))
}
