//! Comparing source and copy: asked for here, carried out by the agent, told by its reports.
//!
//! Invariants: a comparison counts only under the number it was asked under; it is `Equal` or `Different` only when its agent
//! says that everything was compared; `point` is a point that came after that, so that what was compared is in it. Times are
//! this site's.

use crate::Site;
use crate::server::ServerCell;
use crate::watch::replace;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{DifferentRange, ErrorCode, VerifyState, VerifyStatus};
use lifeboat_base::limits::{MAX_DIFFERENCES, MAX_TEXT};
use lifeboat_base::{Seq, ServerId, format_bytes};
use lifeboat_replicate::message::{Verify, VerifyReport, control};
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::Duration;

const FILE: &str = "verify.json";
/// How long an agent's reports may lack a comparison that is under way before it is given up.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// More than the file can be, in bytes.
const LONGEST: u64 = 1 << 20;

/// A comparison and what is known of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Verification {
    id: u64,
    pub status: VerifyStatus,
    /// The newest record when its end was told; its point comes after that.
    ended_at: Option<Seq>,
    /// When a report last named it, or could not have yet. On the monotonic clock of this process.
    #[serde(skip)]
    heard: Duration,
    /// Something could not be compared: it will not end well.
    #[serde(skip)]
    unproven: bool,
}

/// What a report changed.
enum Change {
    Nothing,
    Progress,
    Over,
}

impl Verification {
    /// Some of the copy could not be read: neither equal nor different is the truth.
    pub(crate) fn unproven(&mut self) {
        self.unproven = true;
    }

    fn report(&mut self, report: Option<&VerifyReport>, durable: Seq, now: Duration) -> Change {
        let status = &mut self.status;
        if status.state != VerifyState::Running {
            return Change::Nothing;
        }
        if self.unproven {
            status.state = VerifyState::Failed;
            status.error =
                Some("the vault did not answer, so not all could be compared; try it again".into());
            return Change::Over;
        }
        let Some(r) = report.filter(|r| r.id == self.id) else {
            if now.saturating_sub(self.heard) < FORGOTTEN {
                return Change::Nothing;
            }
            status.state = VerifyState::Failed;
            status.error = Some("the agent knows of it no more, it was restarted; start it again".into());
            return Change::Over;
        };
        self.heard = now;
        (status.total_bytes, status.done_bytes) = (r.total_bytes, r.done_bytes);
        status.different_bytes = r.different_bytes;
        status.different = r
            .different
            .iter()
            .take(MAX_DIFFERENCES)
            .map(|d| DifferentRange {
                disk: u16::try_from(d.disk).unwrap_or(u16::MAX),
                offset: d.offset,
                len: d.len,
            })
            .collect();
        if !r.error.is_empty() {
            status.state = VerifyState::Failed;
            status.error = Some(r.error.chars().take(MAX_TEXT / 4).collect());
        } else if r.over {
            status.state = if r.different_bytes == 0 { VerifyState::Equal } else { VerifyState::Different };
            self.ended_at = Some(durable);
        } else {
            return Change::Progress;
        }
        Change::Over
    }
}

/// The ranges that differed, for the audit log.
fn describe(status: &VerifyStatus) -> String {
    const NAMED: usize = 16;
    let mut text = format!("{} differed and were sent anew", format_bytes(status.different_bytes));
    for (n, d) in status.different.iter().take(NAMED).enumerate() {
        let before = if n == 0 { ':' } else { ',' };
        text.push_str(&format!("{before} disk{} {}+{}", d.disk, d.offset, d.len));
    }
    let more = status.different.len().saturating_sub(NAMED);
    if more > 0 {
        text.push_str(&format!(" and {more} more ranges"));
    }
    text
}

impl Site {
    /// See [`SitePort::verify`](lifeboat_api::port::SitePort::verify).
    pub(crate) fn start_verify(&self, server: ServerId, rate: u64) -> Result<(), PortError> {
        let cell = self.cell_of(server)?;
        let (agent, active) = {
            let spec = cell.spec.read();
            (spec.agent, spec.active)
        };
        if !active {
            return Err(PortError::new(
                ErrorCode::Conflict,
                "this server is not replicating, so there is nothing to compare",
            ));
        }
        // What cannot be read would be called different.
        for d in cell.reader.disks() {
            if let Ok(device) = cell.reader.open_live(d.disk) {
                device.ready().map_err(|e| crate::vault::unreadable(&e))?;
            }
        }
        let away = || {
            PortError::new(ErrorCode::Unavailable, "the agent is not connected")
                .hint("start it on its host: lifeboat-agent run")
        };
        let link = self.sessions.agents.lock().get(&agent).cloned().ok_or_else(away)?;
        let id = self.entropy.next_u64();
        let status = VerifyStatus {
            state: VerifyState::Running,
            started: self.clock.wall(),
            ended: None,
            total_bytes: 0,
            done_bytes: 0,
            different_bytes: 0,
            different: Vec::new(),
            point: None,
            error: None,
        };
        let verification =
            Verification { id, status, ended_at: None, heard: self.clock.monotonic(), unproven: false };
        // Known before it is asked for: its first report may be quick.
        let before = cell.watched.lock().verify.replace(verification);
        let request = Verify { server: server.as_bytes().to_vec(), id, rate, cancel: false };
        if !link.tell(self.sessions.next_id(), control::Body::Verify(request)) {
            cell.watched.lock().verify = before;
            return Err(away());
        }
        self.store_verify(&cell);
        Ok(())
    }

    /// An agent's report on a server: what it says of a comparison.
    pub(crate) fn verify_report(&self, cell: &ServerCell, report: Option<&VerifyReport>) {
        let durable = cell.reader.durable_seq();
        let over = {
            let mut w = cell.watched.lock();
            let Some(v) = &mut w.verify else { return };
            match v.report(report, durable, self.clock.monotonic()) {
                Change::Nothing | Change::Progress => return,
                Change::Over => {
                    v.status.ended = Some(self.clock.wall());
                    v.status.clone()
                }
            }
        };
        let name = cell.spec.read().name.clone();
        match over.state {
            VerifyState::Equal => {
                let text = format!("{} were compared", format_bytes(over.done_bytes));
                self.note("verify.equal", &name, "done", &text);
            }
            VerifyState::Different => self.note("verify.different", &name, "found", &describe(&over)),
            VerifyState::Failed | VerifyState::Running => {
                self.note("verify.failed", &name, "failed", over.error.as_deref().unwrap_or_default());
            }
        }
        self.store_verify(cell);
    }

    /// Finds the point a comparison that is over leads to.
    pub(crate) fn watch_verify(&self, cell: &ServerCell) {
        let found = {
            let mut w = cell.watched.lock();
            let Some(v) = &mut w.verify else { return };
            let wants = v.status.point.is_none();
            let point = v.ended_at.filter(|_| wants).and_then(|seq| cell.reader.point_after(seq));
            v.status.point = v.status.point.or(point.as_ref().map(|p| p.id));
            point.is_some()
        };
        if found {
            self.store_verify(cell);
        }
    }

    fn store_verify(&self, cell: &ServerCell) {
        let dir = self.server_dir(cell.spec.read().id);
        let Some(v) = cell.watched.lock().verify.clone() else { return };
        let stored =
            serde_json::to_vec(&v).map_err(std::io::Error::from).and_then(|b| replace(&dir, FILE, &b));
        if let Err(e) = stored {
            tracing::warn!("how a comparison stands was not stored: {e}");
        }
    }

    pub(crate) fn restore_verify(&self, cell: &ServerCell) {
        let path = self.server_dir(cell.spec.read().id).join(FILE);
        if !fs::metadata(&path).is_ok_and(|m| m.len() <= LONGEST) {
            return;
        }
        let read = fs::read(&path).map_err(|e| e.to_string());
        match read.and_then(|b| serde_json::from_slice::<Verification>(&b).map_err(|e| e.to_string())) {
            Ok(v) => {
                let heard = self.clock.monotonic();
                cell.watched.lock().verify = Some(Verification { heard, ..v });
            }
            Err(e) => tracing::warn!("{} is left aside: {e}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
