//! What must hold, and how it is looked at: every point against the source at its barrier, every promise after every crash.

use super::agent::Completion;
use super::chance::{MS, SEC};
use super::disk::{Disk, Image};
use super::site::Server;
use super::{Event, World};
use lifeboat_base::limits::HEARTBEAT_EVERY;
use lifeboat_base::{DiskId, Epoch, PointId, Seq, WallTime};
use lifeboat_block::BlockDevice;
use lifeboat_journal::{PointDevice, PointError, PointInfo, PointQuery};
use lifeboat_replicate::message::RefuseCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A source at a moment.
pub struct Snapshot {
    /// As the stream had been told.
    captured: Vec<Image>,
    /// As the disks were: writes under way reach them before the stream.
    actual: Vec<Image>,
}

/// The moment a barrier may have been cut.
pub struct Moment {
    agent: usize,
    epoch: Epoch,
    at: u64,
    source: Arc<Snapshot>,
}

/// A point that was offered.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: PointId,
    stamp: WallTime,
    arrived: u64,
}

/// A point that somebody reads.
struct Mount {
    device: PointDevice,
    disk: usize,
    stamp: WallTime,
}

/// What a site has said of a server.
#[derive(Default)]
pub struct Line {
    /// Everything up to here was acknowledged.
    pub promised: Seq,
    points: BTreeMap<Seq, Known>,
    mounts: Vec<Mount>,
    /// Whether the last hello changed anything.
    pub hello_changed: bool,
}

impl Line {
    pub fn promise(&mut self, seq: Seq) {
        self.promised = self.promised.max(seq);
    }

    pub fn forget_mounts(&mut self) {
        self.mounts.clear();
    }
}

const ALL: PointQuery = PointQuery { from: None, to: None, limit: usize::MAX, sampled: false };

impl World {
    /// Keeps how the source of an agent is now.
    pub(super) fn remember(&mut self, agent: usize, stamp: WallTime) {
        let a = &mut self.agents[agent];
        let source = a.known.get_or_insert_with(|| {
            let now = |d: &Disk| d.now.clone();
            Arc::new(Snapshot { captured: a.captured.clone(), actual: a.disks.iter().map(now).collect() })
        });
        let moment = Moment { agent, epoch: a.epoch, at: self.now, source: source.clone() };
        self.moments.insert(stamp, moment);
    }

    /// Looks at what is new at a site.
    pub(super) fn look(&mut self, server: usize) {
        let Some(core) = &self.servers[server].core else { return };
        let query = PointQuery { limit: 64, ..ALL };
        let last = self.servers[server].line.points.last_key_value().map_or(Seq::ZERO, |(seq, _)| *seq);
        let mut new = core.cell().reader.points(&query);
        new.retain(|p| p.id.seq > last);
        for info in new.into_iter().rev() {
            let known = Known { id: info.id, stamp: info.source_time, arrived: self.now };
            self.servers[server].line.points.insert(info.id.seq, known);
            self.say(|| format!("server {server} offers {}", info.id));
            self.offered += 1;
            self.judge_origin(server, &info);
            if self.rng.percent(10) {
                self.judge_content(server, known);
            }
        }
        if self.rng.percent(2) {
            self.mount(server);
        }
    }

    /// Somebody cut this barrier, and had the right to.
    fn judge_origin(&mut self, server: usize, point: &PointInfo) {
        let Some(moment) = self.moments.get(&point.source_time) else {
            return self.violate(format!("I1: point {} of server {server} was never cut", point.id));
        };
        if self.agents[moment.agent].server != server {
            return self.violate(format!("I1: point {} of server {server} is another server's", point.id));
        }
        if moment.epoch != point.id.epoch {
            let (id, epoch) = (point.id, moment.epoch);
            self.violate(format!("I4: point {id} of server {server} was cut by a writer of epoch {epoch}"));
        }
    }

    /// The point reads as the source was, byte for byte.
    fn judge_content(&mut self, server: usize, point: Known) {
        let (Some(moment), Some(core)) = (self.moments.get(&point.stamp), &self.servers[server].core) else {
            return;
        };
        let reader = core.cell().reader.clone();
        let rotten = !self.servers[server].rotten.is_empty();
        let source = moment.source.clone();
        self.compared += 1;
        for (i, captured) in source.captured.iter().enumerate() {
            let disk = DiskId(i as u16);
            let outcome = reader
                .open_point(point.id, disk)
                .map_err(|e| e.to_string())
                .and_then(|d| captured.differs(&source.actual[i], &d).map_err(|e| e.to_string()));
            match outcome {
                Ok(None) => {}
                Ok(Some(at)) => {
                    let (id, which) = (point.id, if rotten { "I3" } else { "I1" });
                    return self.violate(format!(
                        "{which}: point {id} of server {server} differs from its source at byte {at} of {disk}"
                    ));
                }
                // Damage says so instead of giving bytes.
                Err(_) if rotten => self.unreadable += 1,
                Err(e) => {
                    let id = point.id;
                    return self.violate(format!("I1: point {id} of server {server} cannot be read: {e}"));
                }
            }
        }
    }

    /// Holds a point open, and looks at those held already.
    fn mount(&mut self, server: usize) {
        let s = &mut self.servers[server];
        for m in std::mem::take(&mut s.line.mounts) {
            let Some(moment) = self.moments.get(&m.stamp) else { continue };
            let source = moment.source.clone();
            match source.captured[m.disk].differs(&source.actual[m.disk], &m.device) {
                Ok(None) => {}
                Ok(Some(at)) => {
                    let stamp = m.stamp;
                    return self.violate(format!("I1: a mounted point ({stamp}) changed at byte {at}"));
                }
                Err(_) if !self.servers[server].rotten.is_empty() => {}
                Err(e) => return self.violate(format!("I1: a mounted point cannot be read any more: {e}")),
            }
        }
        let points: Vec<Known> = self.servers[server].line.points.values().copied().collect();
        let Some(point) = self.rng.pick(&points).copied() else { return };
        let s = &mut self.servers[server];
        let Ok(device) = core_reader(s, point.id) else { return };
        s.line.mounts.push(Mount { device, disk: 0, stamp: point.stamp });
    }

    /// The journal was opened again: nothing that was promised may be missing.
    pub(super) fn opened(&mut self, server: usize) {
        let s = &mut self.servers[server];
        let Some(core) = &s.core else { return };
        let reader = core.cell().reader.clone();
        let (durable, promised) = (reader.durable_seq(), s.line.promised);
        let rotten = !s.rotten.is_empty();
        self.say(|| format!("server {server} opens at {durable}"));
        if durable < promised && !rotten {
            return self.violate(format!(
                "I2: server {server} acknowledged {promised} and has {durable} after a crash"
            ));
        }
        let s = &mut self.servers[server];
        if rotten {
            s.line.promised = s.line.promised.min(durable);
            s.line.points.retain(|seq, _| *seq <= durable);
        }
        let listed: BTreeMap<Seq, PointId> = reader.points(&ALL).iter().map(|p| (p.id.seq, p.id)).collect();
        let oldest = listed.keys().next().copied().unwrap_or(Seq(u64::MAX));
        let lost =
            |k: &&Known| listed.get(&k.id.seq) != Some(&k.id) && (k.id.seq >= oldest || listed.is_empty());
        let lost = s.line.points.values().find(lost).copied();
        if let Some(lost) = lost
            && !rotten
        {
            return self.violate(format!("I2: point {} of server {server} is gone after a crash", lost.id));
        }
        self.dropped(server, oldest);
        let newest = self.servers[server].line.points.values().next_back().copied();
        if let Some(newest) = newest {
            self.judge_content(server, newest);
        }
        self.look(server);
    }

    pub(super) fn trimmed(&mut self, server: usize) {
        let Some(core) = &self.servers[server].core else { return };
        let oldest = core.cell().reader.usage().oldest.map_or(Seq::ZERO, |p| p.id.seq);
        self.dropped(server, oldest);
        let points: Vec<Known> = self.servers[server].line.points.values().copied().take(1).collect();
        for point in points {
            self.judge_content(server, point);
        }
    }

    /// Points before `oldest` have left the window, whatever any clock says.
    fn dropped(&mut self, server: usize, oldest: Seq) {
        let s = &mut self.servers[server];
        let newest = s.line.points.values().next_back().map_or(0, |p| p.arrived);
        let stay = s.line.points.split_off(&oldest);
        let gone = std::mem::replace(&mut s.line.points, stay);
        let by_bytes = self.plan.journal.window_bytes < 1 << 40;
        let window = self.plan.journal.window.as_nanos() as u64;
        let early = gone.values().find(|p| newest.saturating_sub(p.arrived) + 2 * SEC < window);
        if let Some(p) = early
            && !by_bytes
            && s.rotten.is_empty()
        {
            let (id, age) = (p.id, newest.saturating_sub(p.arrived) / MS);
            self.violate(format!("I6: point {id} of server {server} was deleted {age} ms after it came"));
        }
    }

    /// What the site says would be lost is no less than what would be (I2).
    pub(super) fn judge_lag(&mut self, server: usize) {
        use lifeboat_base::Clock as _;
        self.after(700 * MS, Event::Look { server });
        self.set_site_clock(server);
        let s = &self.servers[server];
        let site = &self.sites[s.site];
        let Some(core) = &s.core else { return };
        let quiet = self.now.saturating_sub(self.last_jump) > 90 * SEC || self.last_jump == 0;
        // The first heartbeat of a session may have waited while the site was frozen; the next one sets it right.
        let thawed = site.frozen + 2 * HEARTBEAT_EVERY.as_nanos() as u64;
        if !s.rotten.is_empty() || self.claims > 0 || !quiet || thawed > self.now {
            return;
        }
        let m = core.cell().measured.lock();
        let (Some(_), Some(age)) = (m.session, m.coverage.age(self.hosts[site.host].clock.monotonic()))
        else {
            return;
        };
        drop(m);
        let Some(newest) = core.cell().reader.usage().newest else {
            return self.violate(format!("I2: server {server} has no point and says it lags {age:?}"));
        };
        let Some(moment) = self.moments.get(&newest.source_time) else { return };
        let a = &self.agents[s.primary];
        if moment.agent != s.primary {
            return;
        }
        let lost = a.done.iter().filter(|c| c.captured > moment.at).map(|c| c.completed).min();
        let truth = Duration::from_nanos(lost.map_or(0, |at| self.now.saturating_sub(at)));
        let latency = self.plan.servers[server].latency;
        let tolerance = Duration::from_nanos(400 * MS + 3 * latency) + age / 500;
        if truth > age + tolerance {
            self.violate(format!("I2: server {server} says it lags {age:?} and lags {truth:?}"));
        }
    }

    /// A flush was answered in synchronous mode: what it covers is in a point that is on stable storage (I2).
    pub(super) fn judge_flush(&mut self, server: usize, agent: usize, issued: u64) {
        self.flushes += 1;
        let s = &self.servers[server];
        if !s.rotten.is_empty() || self.claims > 0 {
            return;
        }
        // A site that is down has it on its disk; what is there is looked at when it opens.
        let Some(core) = &s.core else { return };
        let newest = core.cell().reader.usage().newest;
        let moment = newest.as_ref().and_then(|p| self.moments.get(&p.source_time));
        let held = match moment {
            // Another reigns: this writer's line has ended.
            Some(m) if m.agent != agent => return,
            Some(m) => m.at,
            None => 0,
        };
        let lost = |c: &&Completion| c.completed <= issued && c.captured > held;
        if let Some(lost) = self.agents[agent].done.iter().find(lost) {
            let (text, at) = (newest.map_or_else(|| "no point".into(), |p| p.id.to_string()), lost.completed);
            self.violate(format!(
                "I2: server {server} answered a flush of {issued}; {text} lacks what completed at {at}"
            ));
        }
    }

    /// A refusal changes nothing (I6).
    pub(super) fn judge_refusal(&mut self, server: usize, code: RefuseCode) {
        let settled = matches!(code, RefuseCode::StaleEpoch | RefuseCode::Disks);
        if settled && self.servers[server].line.hello_changed {
            self.violate(format!("I6: a refused hello ({code:?}) changed what server {server} has stored"));
        }
    }

    /// Everything that is offered reads right, at the end.
    pub(super) fn judge_all(&mut self, server: usize) {
        const MOST: usize = 24;
        let points: Vec<Known> = self.servers[server].line.points.values().copied().collect();
        let step = points.len().div_ceil(MOST).max(1);
        for point in points.iter().rev().step_by(step) {
            self.judge_content(server, *point);
            if self.violation.is_some() {
                return;
            }
        }
        self.judge_damage(server);
    }

    /// What cannot be read is named by a check.
    fn judge_damage(&mut self, server: usize) {
        let s = &self.servers[server];
        let Some(core) = &s.core else { return };
        let report = match core.cell().reader.check(true) {
            Ok(report) => report,
            Err(e) => return self.violate(format!("the journal of server {server} cannot be checked: {e}")),
        };
        if s.rotten.is_empty() {
            if !report.findings.is_empty() {
                self.violate(format!("I3: a check finds damage nobody made: {:?}", report.findings));
            }
            return;
        }
        let bad = s.line.points.values().find(|p| {
            let damaged = matches!(core_reader(s, p.id), Err(PointError::Damaged(_)));
            let seq = p.id.seq;
            let covers = |(a, b): (PointId, PointId)| a.seq <= seq && seq <= b.seq;
            damaged && !report.findings.iter().any(|f| f.points.is_some_and(covers))
        });
        if let Some(bad) = bad {
            let id = bad.id;
            self.violate(format!("I3: point {id} of server {server} is damaged and no check says so"));
        }
    }

    /// The recovering site has what the source has, at the end of a run that got well.
    pub(super) fn judge_equal(&mut self, server: usize) {
        let s = &self.servers[server];
        let Some(core) = &s.core else { return };
        let Some(newest) = core.cell().reader.usage().newest else {
            return self.violate(format!("I5: server {server} has no point at the end"));
        };
        let agent = s.primary;
        for (i, disk) in self.agents[agent].disks.iter().enumerate() {
            let device = core.cell().reader.open_point(newest.id, DiskId(i as u16));
            let outcome = device.map_err(|e| e.to_string());
            let outcome = outcome.and_then(|d| disk.now.differs(&disk.now, &d).map_err(|e| e.to_string()));
            if outcome != Ok(None) {
                return self.violate(format!("I5: server {server} is not equal at the end: {outcome:?}"));
            }
        }
    }

    /// What a failover would start from.
    pub(super) fn newest_content(&self, server: usize) -> Option<Vec<Image>> {
        let s = &self.servers[server];
        let core = s.core.as_ref()?;
        let newest = core.cell().reader.usage().newest?;
        let read = |disk: u16| {
            let device = core.cell().reader.open_point(newest.id, DiskId(disk)).ok()?;
            let mut image = Image::new(device.size());
            let mut buf = vec![0; device.size() as usize];
            device.read(0, &mut buf).ok()?;
            image.write(0, &buf);
            Some(image)
        };
        (0..self.agents[s.primary].disks.len() as u16).map(read).collect()
    }
}

fn core_reader(s: &Server, id: PointId) -> Result<PointDevice, PointError> {
    match &s.core {
        Some(core) => core.cell().reader.open_point(id, DiskId(0)),
        None => Err(PointError::NoPoints),
    }
}
