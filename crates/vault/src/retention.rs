//! Which points are made, which stay, until when, and why. Pure: times come in, decisions go out.
//!
//! Invariants:
//! - a rule keeps the *first* point made in each of its periods, so that what it keeps never changes while points come
//!   and go, and what is kept is known when a point is made;
//! - time is the site's own (see [`crate::guard`]), at the moment the point was made here; what a source says about
//!   its clock counts nothing;
//! - the newest point of an owner is never forgotten by rule; a named one stays until released, a locked one until its
//!   date;
//! - a point from the future (of a clock that was wrong) neither is forgotten nor keeps another from being made.
//!
//! Periods are counted from 1970-01-01T00:00:00Z, so every rule's periods begin at the same moments on every site.

use crate::error::VaultError;
use crate::id::SnapshotId;
use lifeboat_base::WallTime;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Most rules one policy has.
pub const MAX_RULES: usize = 16;
/// Shortest period of a rule, in seconds.
pub const MIN_EVERY: u64 = MINUTE;
/// Longest period of a rule, in seconds.
pub const MAX_EVERY: u64 = 366 * DAY;
/// Longest time a rule keeps, in seconds: 100 years.
pub const MAX_KEEP: u64 = 36_525 * DAY;

/// One point out of each period of `every` seconds is kept for `keep` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// In seconds.
    pub every: u64,
    /// In seconds.
    pub keep: u64,
}

impl Rule {
    fn period(&self, t: WallTime) -> u64 {
        t.0 / 1_000_000_000 / self.every.max(1)
    }

    fn until(&self, made: WallTime) -> WallTime {
        made.saturating_add(Duration::from_secs(self.keep))
    }

    /// When the period that holds `t` ends.
    fn period_end(&self, t: WallTime) -> WallTime {
        let end = (self.period(t) + 1).saturating_mul(self.every.max(1));
        WallTime(end.saturating_mul(1_000_000_000))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one each {} for {}", span(self.every), span(self.keep))
    }
}

/// Seconds, as people say them: the largest unit that divides them.
fn span(seconds: u64) -> String {
    let units = [(DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (1, "second")];
    for (unit, name) in units {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            let n = seconds / unit;
            return if n == 1 { name.to_string() } else { format!("{n} {name}s") };
        }
    }
    "no time".into()
}

/// Which points of an owner stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Nothing but what a person names, and the newest.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every 10 minutes for an hour, hourly for 24 hours, daily for 7 days.
    pub fn aws() -> Self {
        Self::preset(&[(10 * MINUTE, HOUR), (HOUR, DAY), (DAY, 7 * DAY)])
    }

    /// 24 hourly points.
    pub fn hbr24() -> Self {
        Self::preset(&[(HOUR, DAY)])
    }

    /// Hourly for a day, daily for a week, weekly for 5 weeks, monthly (30 days) for a year, yearly (365 days) for 7 years.
    pub fn gfs() -> Self {
        Self::preset(&[
            (HOUR, DAY),
            (DAY, 7 * DAY),
            (7 * DAY, 35 * DAY),
            (30 * DAY, 366 * DAY),
            (365 * DAY, 7 * 366 * DAY),
        ])
    }

    fn preset(rules: &[(u64, u64)]) -> Self {
        Self { rules: rules.iter().map(|&(every, keep)| Rule { every, keep }).collect() }
    }

    /// A policy of one's own.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] says which rule is out of which bounds.
    pub fn own(rules: &[Rule]) -> Result<Self, VaultError> {
        if rules.is_empty() || rules.len() > MAX_RULES {
            return Err(VaultError::Invalid(format!(
                "a policy of one's own has 1 to {MAX_RULES} rules, not {}",
                rules.len()
            )));
        }
        for (n, rule) in rules.iter().enumerate() {
            if !(MIN_EVERY..=MAX_EVERY).contains(&rule.every) {
                return Err(VaultError::Invalid(format!(
                    "rule {}: 'every' is {MIN_EVERY} to {MAX_EVERY} seconds, not {}",
                    n + 1,
                    rule.every
                )));
            }
            if !(rule.every..=MAX_KEEP).contains(&rule.keep) {
                return Err(VaultError::Invalid(format!(
                    "rule {}: 'keep' is at least 'every' ({} seconds) and at most {MAX_KEEP}, not {}",
                    n + 1,
                    rule.every,
                    rule.keep
                )));
            }
        }
        Ok(Self { rules: rules.to_vec() })
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// When the next point is due: `now` or earlier where a rule's present period has none yet; `None` without rules.
    /// `made` are the times of the owner's points, in any order.
    pub fn next_due(&self, made: &[WallTime], now: WallTime) -> Option<WallTime> {
        self.rules
            .iter()
            .map(|rule| {
                let present = rule.period(now);
                let has = made.iter().any(|&t| t <= now && rule.period(t) == present);
                if has { rule.period_end(now) } else { now }
            })
            .min()
    }

    /// Out of `candidates` (moments one could still make a point of, ascending) the ones the rules ask for, given the
    /// points that are `made`: for each period without a point its first candidate, unless that would have expired.
    /// Gives positions in `candidates`, ascending.
    pub fn choose(&self, made: &[WallTime], candidates: &[WallTime], now: WallTime) -> Vec<usize> {
        let mut wanted = vec![false; candidates.len()];
        for rule in &self.rules {
            let mut taken: HashMap<u64, ()> =
                made.iter().filter(|&&t| t <= now).map(|&t| (rule.period(t), ())).collect();
            for (n, &t) in candidates.iter().enumerate() {
                if t <= now && taken.insert(rule.period(t), ()).is_none() && rule.until(t) > now {
                    wanted[n] = true;
                }
            }
        }
        wanted.iter().enumerate().filter_map(|(n, &w)| w.then_some(n)).collect()
    }
}

/// A point, as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: SnapshotId,
    /// Its place in the owner's history: epoch and seq, or zeros where time is all there is.
    pub order: (u64, u64),
    /// The site's time when it was made here.
    pub made: WallTime,
    /// The name a person gave.
    pub name: Option<String>,
    pub locked_until: Option<WallTime>,
}

/// Why a point stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Rule {
        rule: Rule,
        until: WallTime,
    },
    Named(String),
    Locked(WallTime),
    /// The newest of its owner.
    Newest,
    /// Made at a time that has not come yet: a clock was wrong, and rules wait.
    Future(WallTime),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { rule, until } => write!(f, "{rule}, until {until}"),
            Self::Named(name) => write!(f, "named '{name}'"),
            Self::Locked(until) => write!(f, "locked until {until}"),
            Self::Newest => f.write_str("the newest of its owner"),
            Self::Future(made) => write!(f, "made at {made}, which has not come yet"),
        }
    }
}

/// What becomes of one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub id: SnapshotId,
    /// Why it stays; empty where it is forgotten.
    pub stays: Vec<Reason>,
    /// The latest date a rule keeps it to, also where that is over; `None` where no rule ever asked for it.
    pub by_rule: Option<WallTime>,
    /// The rule that date is of.
    pub rule: Option<Rule>,
}

impl Verdict {
    pub fn forget(&self) -> bool {
        self.stays.is_empty()
    }

    /// Whether a rule that is not over asks for it.
    pub fn kept_by_rule(&self) -> bool {
        self.stays.iter().any(|r| matches!(r, Reason::Rule { .. }))
    }

    /// When it can go: `None` while something keeps it that has no date.
    pub fn until(&self) -> Option<WallTime> {
        let mut until = self.by_rule;
        for reason in &self.stays {
            match reason {
                Reason::Rule { until: date, .. } | Reason::Locked(date) => until = until.max(Some(*date)),
                Reason::Named(_) | Reason::Newest | Reason::Future(_) => return None,
            }
        }
        until
    }

    /// Why it stays or goes, for people.
    pub fn why(&self) -> String {
        if !self.stays.is_empty() {
            return self.stays.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        }
        match (self.rule, self.by_rule) {
            (Some(rule), Some(date)) => format!("{rule}: over since {date}"),
            _ => "no rule asks for it".into(),
        }
    }
}

/// Decides about all points of one owner; in their order.
pub fn decide(policy: &Policy, points: &[Candidate], now: WallTime) -> Vec<Verdict> {
    let newest = points.iter().max_by_key(|p| (p.order, p.made, p.id)).map(|p| p.id);
    let mut firsts: Vec<HashMap<u64, &Candidate>> = Vec::new();
    for rule in policy.rules() {
        let mut first: HashMap<u64, &Candidate> = HashMap::new();
        for point in points {
            let best = first.entry(rule.period(point.made)).or_insert(point);
            if (point.made, point.order, point.id) < (best.made, best.order, best.id) {
                *best = point;
            }
        }
        firsts.push(first);
    }
    points
        .iter()
        .map(|point| {
            let mut stays = Vec::new();
            let mut by_rule: Option<(WallTime, Rule)> = None;
            for (rule, first) in policy.rules().iter().zip(&firsts) {
                if first.get(&rule.period(point.made)).is_none_or(|f| f.id != point.id) {
                    continue;
                }
                let until = rule.until(point.made);
                if until > now {
                    stays.push(Reason::Rule { rule: *rule, until });
                }
                if by_rule.is_none_or(|(date, _)| until > date) {
                    by_rule = Some((until, *rule));
                }
            }
            if let Some(name) = &point.name {
                stays.push(Reason::Named(name.clone()));
            }
            if let Some(until) = point.locked_until.filter(|&until| until > now) {
                stays.push(Reason::Locked(until));
            }
            if newest == Some(point.id) {
                stays.push(Reason::Newest);
            }
            if stays.is_empty() && point.made > now {
                stays.push(Reason::Future(point.made));
            }
            Verdict {
                id: point.id,
                stays,
                by_rule: by_rule.map(|(date, _)| date),
                rule: by_rule.map(|(_, rule)| rule),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
