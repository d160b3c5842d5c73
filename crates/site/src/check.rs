//! Checking a journal, as control asks for it.

use crate::{Site, errors};
use lifeboat_api::port::PortError;
use lifeboat_api::types::{CheckFinding, CheckReport};
use lifeboat_base::ServerId;

/// Findings told of one check; more are counted in its last line.
const MOST_FINDINGS: usize = 1000;

impl Site {
    /// See [`SitePort::check_journal`](lifeboat_api::port::SitePort::check_journal). Blocks, with `full` as long as reading
    /// everything takes.
    pub(crate) fn check(&self, server: ServerId, full: bool) -> Result<CheckReport, PortError> {
        let cell = self.cell_of(server)?;
        let name = cell.spec.read().name.clone();
        let known = cell.watched.lock().damage.clone();
        let report = cell.reader.check(full).map_err(|e| errors::journal(&e))?;
        for finding in &report.findings {
            if !known.iter().any(|k| k.damage == finding.damage) && finding.points.is_some() {
                tracing::error!(server = name, "journal: {}", finding.damage);
                self.note("journal.damaged", &name, "found", &finding.damage.to_string());
            }
        }
        self.judge_damage(&cell, self.clock.monotonic());
        let all = report.findings.len();
        let findings = report.findings.into_iter().take(MOST_FINDINGS).map(|f| CheckFinding {
            what: f.damage.to_string(),
            first_point: f.points.map(|(first, _)| first),
            last_point: f.points.map(|(_, last)| last),
        });
        let mut findings: Vec<CheckFinding> = findings.collect();
        if all > MOST_FINDINGS {
            let what = format!("{} more places are damaged", all - MOST_FINDINGS);
            findings.push(CheckFinding { what, first_point: None, last_point: None });
        }
        Ok(CheckReport {
            server: name,
            segments: report.segments as u64,
            records: report.records,
            findings,
            bad_indexes: report.bad_indexes,
        })
    }
}
