//! Long work on the vault: check, scrub, repair, prune, a new index; by hand, and on schedule.
//!
//! Invariants: a plan is carried out only as it was shown, once, and soon; what somebody reads is not forgotten; where a
//! scrub is is kept over restarts.

use super::jobs::JobControl;
use super::{SiteVault, policy, vault_error};
use crate::Site;
use crate::backup::Trees;
use crate::server::No;
use crate::watch::replace;
use lifeboat_api::port::PortError;
use lifeboat_api::types::{
    ErrorCode, PrunePlan, PruneReport, VaultCheckReport, VaultFinding, VaultJob, VaultJobResult,
    VaultRepairReport,
};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{ServerId, WallTime};
use lifeboat_block::BlockDevice;
use lifeboat_replicate::message::RefuseCode;
use lifeboat_vault::check::{Check, CheckReport, Finding, LostChunk, Mending, Scrub, Source};
use lifeboat_vault::prune::{self, Keeping, Patience, Prune, Special, Thrift, Waiting, Writer};
use lifeboat_vault::retention::Policy;
use lifeboat_vault::{Owner, PackId, Snapshot, SnapshotId, Vault, VaultError};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Findings, lines of a plan and of a report that are told at most.
const MOST_FINDINGS: usize = 100;
const MOST_LINES: usize = 1000;
/// Plans that can be carried out.
const MOST_PLANS: usize = 8;
/// How long a prune waits for a writer of this process before it goes on another day.
const OWN: Duration = Duration::from_secs(12 * 3600);
/// How long another site's writer is waited for before it has to begin anew.
const OTHERS: Duration = Duration::from_secs(6 * 3600);
const ASK: Duration = Duration::from_millis(500);
/// How often a prune runs by itself, and how long after a round of the scrub the next begins.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 3600);
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long after a try by schedule the next one is.
const AGAIN: Duration = Duration::from_secs(1800);
const SCRUB_FILE: &str = "vault-scrub.json";
const FINDINGS_FILE: &str = "vault-findings.json";

/// Where the scrub is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ScrubState {
    /// The last pack read in the round under way, 32 hexadecimal digits.
    pub position: Option<String>,
    pub percent: u8,
    /// When the last round ended.
    pub last: Option<WallTime>,
    /// When the last prune by schedule ended.
    pub pruned: Option<WallTime>,
}

/// What is kept by what.
struct Rules<'a> {
    site: &'a Site,
    vault: &'a Vault,
    used: HashSet<SnapshotId>,
}

impl Keeping for Rules<'_> {
    fn policy(&self, owner: &Owner) -> Option<Policy> {
        match owner {
            // Of a server that is not known here nobody says that anything may go.
            Owner::Server(id) => self.site.specs.read().get(id).and_then(|s| policy(&s.retention).ok()),
            Owner::Set(name) => Some(self.site.backups.policy(self.vault, name)),
            Owner::Base(_) => None,
        }
    }

    fn special(&self, snapshot: &Snapshot) -> Special {
        // Asked now: it may have been opened since the plan was made.
        let read = self.used.contains(&snapshot.id)
            || self.site.vault.uses.all().contains(&snapshot.id)
            || self.site.backups.in_use().contains(&snapshot.id);
        match &snapshot.owner {
            Owner::Base(server) if !read && self.is_left_over(*server, snapshot) => {
                Special::Forget("the journal that stood on it is lost, and its server has another".into())
            }
            Owner::Base(_) => Special::Keep("a journal stands on it".into()),
            _ if read => Special::Keep("it is being read".into()),
            _ => Special::No,
        }
    }
}

impl Rules<'_> {
    /// Whether a base is of a journal before this site's own, which has come so far that it stands on one itself: the
    /// journal's directory was lost, or the site that had it.
    fn is_left_over(&self, server: ServerId, base: &Snapshot) -> bool {
        self.site.cell(server).is_some_and(|cell| {
            let reader = &cell.reader;
            reader.is_sure() && reader.base().is_some() && base.body.details != reader.id()
        })
    }
}

/// Content the journals have.
struct Journals<'a>(&'a Site);

impl Source for Journals<'_> {
    fn chunk(&self, lost: &LostChunk) -> Option<bytes::Bytes> {
        let (Owner::Server(server) | Owner::Base(server), disk, offset) = lost.at.as_ref()? else {
            return None;
        };
        let device = self.0.cell(*server)?.reader.open_live(*disk).ok()?;
        let len = (BLOCK as u64).min(device.size().checked_sub(*offset)?) as usize;
        let mut content = vec![0; BLOCK];
        device.read(*offset, &mut content[..len]).ok()?;
        Some(content.into())
    }
}

impl Site {
    /// A snapshot, as people know it.
    fn label(&self, snapshot: &Snapshot) -> String {
        let name =
            |id: &ServerId| self.specs.read().get(id).map_or_else(|| id.to_string(), |s| s.name.clone());
        match (&snapshot.owner, snapshot.body.point) {
            (Owner::Server(id), Some(point)) => format!("{} {point}", name(id)),
            (Owner::Server(id), None) => format!("{} {}", name(id), snapshot.id),
            (Owner::Base(id), _) => format!("{} journal", name(id)),
            (Owner::Set(set), _) => format!("{set} {}", &snapshot.id.to_string()[..8]),
        }
    }

    fn finding(&self, f: &Finding) -> VaultFinding {
        let mut touches: Vec<String> = f.touches.iter().map(|s| self.label(s)).collect();
        touches.truncate(MOST_FINDINGS);
        VaultFinding { object: f.object.clone(), what: f.what.clone(), touches, repaired: f.repaired }
    }

    fn findings(&self, found: &[Finding], more: u64) -> (Vec<VaultFinding>, u64) {
        let listed: Vec<VaultFinding> = found.iter().take(MOST_FINDINGS).map(|f| self.finding(f)).collect();
        let more = more + (found.len() - listed.len()) as u64;
        for f in &listed {
            tracing::error!("the vault: {}: {}; it touches {}", f.object, f.what, f.touches.join(", "));
            self.note_often("vault.damaged", &f.object, "found", &f.what);
        }
        (listed, more)
    }

    fn check_report(&self, r: &CheckReport) -> VaultCheckReport {
        let (findings, more) = self.findings(&r.findings, r.more);
        VaultCheckReport {
            snapshots: r.snapshots,
            packs: r.packs,
            chunks: r.chunks,
            packs_read: r.packs_read,
            bytes_read: r.bytes_read,
            findings,
            more,
        }
    }

    fn plan_info(&self, plan: &prune::PrunePlan) -> PrunePlan {
        let lines = |list: &[prune::Because]| {
            let line = |b: &prune::Because| format!("{} ({})", self.label(&b.snapshot), b.why);
            list.iter().take(MOST_LINES).map(line).collect()
        };
        PrunePlan {
            forget: lines(&plan.forget),
            forget_count: plan.forget.len() as u64,
            kept: lines(&plan.kept),
            packs_deleted: plan.packs_deleted,
            packs_repacked: plan.packs_repacked,
            freed_bytes: plan.freed,
            copied_bytes: plan.copied,
        }
    }

    fn with_prune<T>(
        &self,
        vault: &Vault,
        control: &JobControl,
        work: impl FnOnce(&Prune<'_>) -> Result<T, VaultError>,
    ) -> Result<T, PortError> {
        // Runs of before a restart need their points, too.
        let waiting =
            self.interrupted.lock().iter().map(|r| (r.server, r.mount.point.id)).collect::<Vec<_>>();
        let waiting = waiting.into_iter().filter_map(|(s, p)| Some(self.vault.snapshot_of(vault, s, p)?.id));
        let used = self.vault.uses.all().into_iter().chain(self.backups.in_use()).chain(waiting).collect();
        let rules = Rules { site: self, vault, used };
        let watch = watcher(control);
        let prune = Prune {
            vault,
            keeping: &rules,
            trees: &Trees,
            now: self.vault.now(),
            thrift: Thrift::default(),
            watch: &watch,
        };
        work(&prune).map_err(|e| vault_error(&e))
    }

    /// Starts a look at the vault's structure, and at the content of so many percent of its packs.
    pub(crate) fn start_check(self: &Arc<Self>, read_percent: u8) -> Result<VaultJob, PortError> {
        if read_percent > 100 {
            return Err(PortError::new(ErrorCode::Invalid, "0 to 100 percent can be read"));
        }
        let site = Arc::clone(self);
        let vault = self.vault.open()?;
        let subject = format!("structure, {read_percent} % of the content");
        self.vault.jobs.start(("check", &subject), apart("check"), move |control| {
            let report = site.with_check(&vault, control, read_percent, |c| c.run())?;
            let report = site.check_report(&report);
            site.vault.set_findings(report.findings.clone());
            Ok(VaultJobResult::Check(report))
        })
    }

    fn with_check<T>(
        &self,
        vault: &Vault,
        control: &JobControl,
        read_percent: u8,
        work: impl FnOnce(&Check<'_>) -> Result<T, VaultError>,
    ) -> Result<T, PortError> {
        let watch = watcher(control);
        let site_keys = self.vault.settings().map(|s| s.site_keys.clone()).unwrap_or_default();
        let check = Check { vault, trees: &Trees, site_keys: &site_keys, read_percent, watch: &watch };
        work(&check).map_err(|e| vault_error(&e))
    }

    pub(crate) fn start_repair(self: &Arc<Self>) -> Result<VaultJob, PortError> {
        let site = Arc::clone(self);
        let vault = self.vault.open()?;
        self.vault.jobs.start(("repair", "copies and sources"), apart("repair"), move |control| {
            let watch = watcher(control);
            let site_keys = site.vault.settings().map(|s| s.site_keys.clone()).unwrap_or_default();
            let check = Check {
                vault: &vault,
                trees: &Trees,
                site_keys: &site_keys,
                read_percent: 100,
                watch: &watch,
            };
            let journals = Journals(&site);
            let mending = Mending { check, sources: &[&journals] };
            let report = mending.run().map_err(|e| vault_error(&e))?;
            site.ask_sources(&report.left);
            let (left, _) = site.findings(&report.left, report.more);
            site.vault.set_findings(left.clone());
            Ok(VaultJobResult::Repair(VaultRepairReport {
                copied: report.copied + report.rewritten,
                copied_bytes: report.copied_bytes,
                from_source: report.from_source,
                left,
            }))
        })
    }

    /// Lost content a journal stands on may still be at its source: the agent compares everything, and sends what is lacking.
    fn ask_sources(&self, left: &[Finding]) {
        let bases = left.iter().flat_map(|f| &f.touches).filter_map(|s| match &s.owner {
            Owner::Base(server) => Some((*server, s.id)),
            _ => None,
        });
        for (server, id) in bases.collect::<HashSet<_>>() {
            let Some(cell) = self.cell(server) else { continue };
            if cell.reader.base().is_some_and(|b| b.id == id.0) {
                tracing::warn!(
                    server = cell.spec.read().name,
                    "its agent compares everything: content is lost here"
                );
                cell.compare_all.store(true, Ordering::Release);
                let no = No::new(RefuseCode::Busy, "content is lost at the site: everything is compared");
                self.sessions.cut_stream(&(server, None), &no);
            }
        }
    }

    pub(crate) fn start_plan(self: &Arc<Self>) -> Result<VaultJob, PortError> {
        let site = Arc::clone(self);
        let vault = self.vault.open()?;
        self.vault.jobs.start(("prune-plan", "what would go"), apart("prune"), move |control| {
            let plan = site.with_prune(&vault, control, |p| p.plan())?;
            let info = site.plan_info(&plan);
            let mut plans = site.vault.plans.lock();
            if plans.len() >= MOST_PLANS {
                plans.remove(0);
            }
            plans.push((control.id().to_owned(), plan));
            Ok(VaultJobResult::PrunePlan(info))
        })
    }

    pub(crate) fn start_prune(self: &Arc<Self>, plan: &str) -> Result<VaultJob, PortError> {
        let site = Arc::clone(self);
        let vault = self.vault.open()?;
        let (id, wanted) = (plan.to_owned(), plan.to_owned());
        let known = self.vault.plans.lock().iter().any(|(p, _)| *p == id);
        if !known {
            return Err(PortError::new(
                ErrorCode::NotFound,
                format!("there is no plan '{id}' that is not carried out"),
            )
            .hint("make one: lifeboat vault prune --plan"));
        }
        self.vault.jobs.start(("prune", &id), apart("prune"), move |control| {
            let plan = {
                let mut plans = site.vault.plans.lock();
                let at = plans.iter().position(|(p, _)| *p == wanted);
                at.map(|at| plans.remove(at).1)
            };
            let plan = plan.ok_or_else(|| PortError::new(ErrorCode::Conflict, "the plan was carried out"))?;
            site.prune(&vault, control, &plan)
        })
    }

    fn prune(
        &self,
        vault: &Vault,
        control: &JobControl,
        plan: &prune::PrunePlan,
    ) -> Result<VaultJobResult, PortError> {
        let patience = Self::patience(control);
        let report = self.with_prune(vault, control, |p| p.execute(plan, &patience))?;
        let mut left = report.left;
        left.truncate(MOST_LINES);
        let text = format!(
            "{} points forgotten, {} packs deleted, {} bytes freed",
            report.forgotten, report.packs_deleted, report.freed
        );
        self.note("vault.pruned", "vault", "done", &text);
        Ok(VaultJobResult::Prune(PruneReport {
            forgotten: report.forgotten,
            packs_deleted: report.packs_deleted,
            packs_repacked: report.packs_repacked,
            freed_bytes: report.freed,
            left,
        }))
    }

    /// Waits for writers: those of this process end, those of an earlier one have, and of others nobody knows.
    fn patience(control: &JobControl) -> impl Fn(&Waiting) -> Patience + use<> {
        let (runtime, control) = (tokio::runtime::Handle::try_current().ok(), control.clone());
        move |waiting| {
            let (limit, then) = match waiting.writer {
                Writer::Gone => return Patience::Fence,
                Writer::Here => (OWN, Patience::GiveUp),
                Writer::Other => (OTHERS, Patience::Fence),
            };
            if control.cancelled() {
                return Patience::GiveUp;
            }
            match &runtime {
                Some(runtime) if ASK * waiting.asked < limit => {
                    runtime.block_on(tokio::time::sleep(ASK));
                    Patience::Wait
                }
                _ => then,
            }
        }
    }

    pub(crate) fn start_reindex(self: &Arc<Self>) -> Result<VaultJob, PortError> {
        let vault = self.vault.open()?;
        self.vault.jobs.start(("reindex", "the local index"), apart("reindex"), move |control| {
            control.step("reading what every pack holds");
            let done = vault.reindex(&|done, total| control.progress(done, total, "packs"));
            let done = done.map_err(|e| vault_error(&e))?;
            for (object, why) in &done.damaged {
                tracing::error!("the vault's {object} cannot be read: {why}");
            }
            let all = vault.index().totals().map_err(|e| vault_error(&e))?;
            Ok(VaultJobResult::Reindex { packs: all.packs, chunks: all.chunks })
        })
    }

    pub(crate) fn start_scrub(self: &Arc<Self>) -> Result<VaultJob, PortError> {
        let site = Arc::clone(self);
        let vault = self.vault.open()?;
        let runtime = tokio::runtime::Handle::try_current().ok();
        self.vault.jobs.start(("scrub", "all packs"), apart("scrub"), move |control| {
            let side = &site.vault;
            let rate = side.settings().map_or(0, |s| s.scrub_rate);
            let position = side.scrub.lock().position.as_deref().and_then(PackId::parse);
            let mut scrub = Scrub::begin(&vault, position, rate).map_err(|e| vault_error(&e))?;
            let (mut packs, mut bytes, mut found, mut last) = (0, 0, false, None);
            control.step("reading packs back");
            let read = loop {
                let step = match scrub.step() {
                    Ok(Some(step)) => step,
                    Ok(None) => break Ok(()),
                    Err(e) => break Err(vault_error(&e)),
                };
                (packs, bytes) = (packs + 1, bytes + step.bytes);
                found |= step.finding.is_some();
                last = Some((Some(step.position.to_string()), step.percent));
                // What is found is told at the end: a process that dies before that begins before it again.
                if !found {
                    side.scrub_is_at(last.clone());
                }
                control.progress(u64::from(step.percent), 100, "%");
                if control.cancelled() {
                    break Err(PortError::new(
                        ErrorCode::Conflict,
                        "the scrub was ended; the next goes on from here",
                    ));
                }
                if let Some(runtime) = &runtime {
                    runtime.block_on(tokio::time::sleep(step.wait));
                }
            };
            let watch = watcher(control);
            let report = scrub.findings(&Trees, &watch).map_err(|e| vault_error(&e))?;
            let mut report = site.check_report(&report);
            (report.packs_read, report.bytes_read) = (packs, bytes);
            side.add_findings(&report.findings);
            if read.is_err() {
                side.scrub_is_at(last);
            }
            read?;
            {
                let mut state = side.scrub.lock();
                *state =
                    ScrubState { position: None, percent: 0, last: Some(side.now()), pruned: state.pruned };
            }
            side.save_scrub();
            Ok(VaultJobResult::Check(report))
        })
    }

    /// Starts what is due by schedule. What failed is tried again after a while.
    pub(crate) fn start_due(self: &Arc<Self>) {
        let (state, now) = (self.vault.scrub.lock().clone(), self.vault.now());
        // What was done in the future was done by a clock that was wrong.
        let over = |last: Option<WallTime>, every| last.is_none_or(|l| l > now || now.since(l) >= every);
        let at = self.clock.monotonic();
        let mut tried = self.vault.tried.lock();
        let rested = |kind: &str, tried: &HashMap<&str, Duration>| {
            tried.get(kind).is_none_or(|t| at.saturating_sub(*t) >= AGAIN) && !self.vault.jobs.runs(kind)
        };
        if over(state.pruned, PRUNE_EVERY) && rested("prune", &tried) {
            tried.insert("prune", at);
            told(self.start_scheduled_prune());
        }
        if (state.position.is_some() || over(state.last, SCRUB_EVERY)) && rested("scrub", &tried) {
            tried.insert("scrub", at);
            told(self.start_scrub());
        }
    }

    fn start_scheduled_prune(self: &Arc<Self>) -> Result<VaultJob, PortError> {
        let site = Arc::clone(self);
        let vault = self.vault.open()?;
        self.vault.jobs.start(("prune", "daily"), apart("prune"), move |control| {
            let plan = site.with_prune(&vault, control, |p| p.plan())?;
            let result = site.prune(&vault, control, &plan)?;
            site.vault.scrub.lock().pruned = Some(site.vault.now());
            site.vault.save_scrub();
            Ok(result)
        })
    }
}

/// Whether a job may not begin while another runs: an index that is made anew pulls the ground from under all the others.
fn apart(kind: &str) -> impl Fn(&VaultJob) -> bool + use<'_> {
    let family = |k: &str| match k {
        "prune-plan" | "prune" => 1,
        "check" | "repair" => 2,
        "scrub" => 3,
        "reindex" => 4,
        _ => 0,
    };
    move |job| {
        let (new, other) = (family(kind), family(&job.kind));
        let whole = |f| f == 4;
        other > 0 && (new == other || whole(new) || whole(other) || kind == "repair" || job.kind == "repair")
    }
}

fn told(started: Result<VaultJob, PortError>) {
    if let Err(e) = started {
        tracing::warn!("the vault's scheduled work: {e}");
    }
}

fn watcher(control: &JobControl) -> impl Fn(&str, u64, u64) -> bool + Sync + use<> {
    let control = control.clone();
    move |step, done, total| {
        control.step(step);
        control.progress(done, total, "");
        !control.cancelled()
    }
}

impl SiteVault {
    pub(crate) fn load_scrub(dir: &std::path::Path) -> ScrubState {
        let text = std::fs::read(dir.join(SCRUB_FILE)).ok();
        text.and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default()
    }

    /// The pack read last, and the percentage.
    fn scrub_is_at(&self, at: Option<(Option<String>, u8)>) {
        if let Some((position, percent)) = at {
            let mut state = self.scrub.lock();
            (state.position, state.percent) = (position, percent);
        }
        self.save_scrub();
    }

    /// Losing it only reads something again.
    fn save_scrub(&self) {
        let state = self.scrub.lock().clone();
        let text = serde_json::to_vec(&state).map_err(std::io::Error::from);
        if let Err(e) = text.and_then(|text| replace(&self.dir, SCRUB_FILE, &text)) {
            tracing::warn!("{}: {e}", self.dir.join(SCRUB_FILE).display());
        }
    }

    fn add_findings(&self, new: &[VaultFinding]) {
        let mut findings = self.findings.lock();
        findings.retain(|f| !new.iter().any(|n| n.object == f.object));
        findings.extend_from_slice(new);
        findings.truncate(MOST_FINDINGS);
        self.save_findings(&findings);
    }

    fn set_findings(&self, new: Vec<VaultFinding>) {
        let mut findings = self.findings.lock();
        *findings = new;
        self.save_findings(&findings);
    }

    pub(crate) fn load_findings(dir: &std::path::Path) -> Vec<VaultFinding> {
        let text = std::fs::read(dir.join(FINDINGS_FILE)).ok();
        text.and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default()
    }

    /// What is lost with it is found again by the next round that reads it.
    fn save_findings(&self, findings: &[VaultFinding]) {
        let text = serde_json::to_vec(findings).map_err(std::io::Error::from);
        if let Err(e) = text.and_then(|text| replace(&self.dir, FINDINGS_FILE, &text)) {
            tracing::warn!("{}: {e}", self.dir.join(FINDINGS_FILE).display());
        }
    }
}
