//! Which snapshots go.

use super::{Because, Prune, Special};
use crate::retention::{self, Candidate, Verdict};
use crate::snapshot::{Owner, Snapshot};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Prune<'_> {
    /// What goes, what stays without a rule, and all that stays.
    pub(super) fn judge(&self) -> (Vec<Because>, Vec<Because>, Vec<Arc<Snapshot>>) {
        let mut owners: BTreeMap<Owner, Vec<Arc<Snapshot>>> = BTreeMap::new();
        for snapshot in self.vault.snapshots() {
            owners.entry(snapshot.owner.clone()).or_default().push(snapshot);
        }
        let (mut forget, mut kept, mut staying) = (Vec::new(), Vec::new(), Vec::new());
        for (owner, mut snapshots) in owners {
            snapshots.sort_by_key(|s| (s.body.site_time, s.body.point.map(|p| p.seq), s.id));
            let policy = match owner {
                Owner::Base(_) => None,
                _ => self.keeping.policy(&owner),
            };
            let verdicts: Vec<Option<Verdict>> = match &policy {
                None => vec![None; snapshots.len()],
                Some(policy) => {
                    let points: Vec<_> = snapshots.iter().map(|s| self.candidate(s)).collect();
                    retention::decide(policy, &points, self.now).into_iter().map(Some).collect()
                }
            };
            for (snapshot, verdict) in snapshots.into_iter().zip(verdicts) {
                match self.fate(&snapshot, verdict.as_ref()) {
                    Fate::Goes(why) => forget.push(Because { snapshot, why }),
                    Fate::Stays => staying.push(snapshot),
                    Fate::StaysBecause(why) => {
                        kept.push(Because { snapshot: Arc::clone(&snapshot), why });
                        staying.push(snapshot);
                    }
                }
            }
        }
        (forget, kept, staying)
    }

    fn candidate(&self, s: &Snapshot) -> Candidate {
        Candidate {
            id: s.id,
            order: s.body.point.map_or((0, 0), |p| (u64::from(p.epoch.0), p.seq.0)),
            made: s.body.site_time,
            name: self.vault.hold(&s.id).name,
            locked_until: self.vault.locked_until(s),
        }
    }

    fn fate(&self, snapshot: &Snapshot, verdict: Option<&Verdict>) -> Fate {
        let hold = self.vault.hold(&snapshot.id);
        if hold.forgotten {
            return Fate::Goes("its deletion has begun".into());
        }
        if let Some(until) = self.vault.locked_until(snapshot).filter(|&until| until > self.now) {
            return match verdict {
                Some(v) if v.kept_by_rule() => Fate::Stays,
                _ => Fate::StaysBecause(format!("locked until {until}")),
            };
        }
        match (self.keeping.special(snapshot), verdict) {
            (Special::Keep(why), Some(v)) if v.forget() => Fate::StaysBecause(why),
            (Special::Keep(_), Some(_)) => Fate::Stays,
            (Special::Keep(why), None) => Fate::StaysBecause(why),
            (Special::Forget(why), _) if hold.name.is_none() => Fate::Goes(why),
            (Special::Forget(_) | Special::No, None) => match &snapshot.owner {
                Owner::Base(_) => Fate::StaysBecause("a journal stands on it".into()),
                _ => Fate::StaysBecause("no rules are known for its owner".into()),
            },
            (_, Some(v)) if v.forget() => Fate::Goes(v.why()),
            (_, Some(v)) if v.kept_by_rule() => Fate::Stays,
            (_, Some(v)) => Fate::StaysBecause(v.why()),
        }
    }
}

enum Fate {
    Goes(String),
    Stays,
    /// Although no rule asks for it.
    StaysBecause(String),
}
