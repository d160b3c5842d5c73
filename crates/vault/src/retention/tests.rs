use super::{Candidate, DAY, HOUR, MINUTE, Policy, Reason, Rule, decide};
use crate::id::SnapshotId;
use lifeboat_base::WallTime;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// 2026-01-01T00:00:00Z, in seconds.
const START: u64 = 1_767_225_600;

fn at(seconds: u64) -> WallTime {
    WallTime((START + seconds) * 1_000_000_000)
}

fn id(n: u64) -> SnapshotId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    SnapshotId(id)
}

fn point(n: u64, seconds: u64) -> Candidate {
    Candidate { id: id(n), order: (1, n), made: at(seconds), name: None, locked_until: None }
}

fn kept(policy: &Policy, points: &[Candidate], now: u64) -> Vec<u64> {
    decide(policy, points, at(now))
        .iter()
        .zip(points)
        .filter(|(verdict, _)| !verdict.forget())
        .map(|(_, point)| point.order.1)
        .collect()
}

#[test]
fn the_first_of_each_period_stays_for_its_time_and_the_newest_for_ever() {
    let policy = Policy::own(&[Rule { every: HOUR, keep: 3 * HOUR }]).unwrap();
    let points: Vec<_> = (0..12).map(|n| point(n, n * 30 * MINUTE + 5)).collect();
    // Points of even number are the first of their hour; after six hours those of the last three stay, and the newest.
    assert_eq!(kept(&policy, &points, 6 * HOUR), [6, 8, 10, 11]);
    assert_eq!(kept(&policy, &points, 100 * DAY), [11]);
    let verdicts = decide(&policy, &points, at(6 * HOUR));
    assert_eq!(verdicts[0].why(), "one each hour for 3 hours: over since 2026-01-01T03:00:05.000Z");
    assert_eq!(verdicts[1].why(), "no rule asks for it");
    assert_eq!(verdicts[10].why(), "one each hour for 3 hours, until 2026-01-01T08:00:05.000Z");
    assert_eq!(verdicts[11].why(), "the newest of its owner");
    assert_eq!(verdicts[10].until(), Some(at(8 * HOUR + 5)));
    assert_eq!(verdicts[11].until(), None);
}

#[test]
fn a_named_point_stays_and_a_locked_one_until_its_date() {
    let mut points: Vec<_> = (0..4).map(|n| point(n, n)).collect();
    points[1].name = Some("before-upgrade".into());
    points[2].locked_until = Some(at(DAY));
    assert_eq!(kept(&Policy::none(), &points, HOUR), [1, 2, 3]);
    assert_eq!(kept(&Policy::none(), &points, DAY - 1), [1, 2, 3]);
    assert_eq!(kept(&Policy::none(), &points, DAY), [1, 3], "a lock ends at its date");
    let verdicts = decide(&Policy::none(), &points, at(HOUR));
    assert_eq!(verdicts[1].why(), "named 'before-upgrade'");
    assert_eq!(verdicts[2].stays, [Reason::Locked(at(DAY))]);
}

#[test]
fn the_newest_is_so_by_its_order_not_by_a_clock() {
    let mut points = vec![point(5, 100), point(6, 50)];
    assert_eq!(kept(&Policy::none(), &points, 200), [6]);
    points.reverse();
    assert_eq!(kept(&Policy::none(), &points, 200), [6]);
}

#[test]
fn presets_keep_what_they_say() {
    let count = |policy: &Policy, every: u64, days: u64| {
        let points: Vec<_> = (0..days * DAY / every).map(|n| point(n, n * every)).collect();
        kept(policy, &points, days * DAY).len()
    };
    // Six of ten minutes, 23 more hours, six more days, and the newest, which is one of the first six or beside them.
    assert_eq!(count(&Policy::aws(), 10 * MINUTE, 10), 5 + 23 + 6);
    assert_eq!(count(&Policy::hbr24(), 10 * MINUTE, 10), 24);
    let gfs = count(&Policy::gfs(), HOUR, 1000);
    assert!((23 + 6 + 4 + 11..=24 + 7 + 5 + 13 + 3).contains(&gfs), "{gfs}");
    assert_eq!(count(&Policy::none(), 10 * MINUTE, 1), 1);
}

#[test]
fn a_policy_out_of_bounds_names_the_rule() {
    let refused = |rules: &[Rule]| Policy::own(rules).unwrap_err().to_string();
    assert_eq!(refused(&[]), "invalid: a policy of one's own has 1 to 16 rules, not 0");
    assert_eq!(
        refused(&[Rule { every: 60, keep: 60 }, Rule { every: 59, keep: 60 }]),
        "invalid: rule 2: 'every' is 60 to 31622400 seconds, not 59"
    );
    assert_eq!(
        refused(&[Rule { every: 3600, keep: 60 }]),
        "invalid: rule 1: 'keep' is at least 'every' (3600 seconds) and at most 3155760000, not 60"
    );
    assert!(Policy::own(&[Rule { every: 60, keep: u64::MAX }]).is_err());
    assert!(Policy::own(&[Rule { every: 60, keep: 60 }; 17]).is_err());
}

#[test]
fn points_are_due_at_the_beginning_of_a_period_and_at_once_where_it_has_none() {
    let policy = Policy::aws();
    assert_eq!(policy.next_due(&[], at(125)), Some(at(125)));
    assert_eq!(policy.next_due(&[at(125)], at(130)), Some(at(600)));
    // The ten minutes have one; the hour that began meanwhile has none.
    assert_eq!(policy.next_due(&[at(HOUR - 1)], at(HOUR + 1)), Some(at(HOUR + 1)));
    // One from the future does not count.
    assert_eq!(policy.next_due(&[at(500)], at(130)), Some(at(130)));
    assert_eq!(Policy::none().next_due(&[], at(1)), None);
}

#[test]
fn of_a_backlog_the_first_of_each_open_period_is_chosen() {
    let policy = Policy::own(&[Rule { every: HOUR, keep: DAY }]).unwrap();
    let candidates: Vec<_> = (0..30 * 4).map(|n| at(n * 15 * MINUTE + 1)).collect();
    let now = at(30 * HOUR);
    let chosen = policy.choose(&[at(29 * HOUR)], &candidates, now);
    // Hours 6 to 28: older ones would have expired, hour 29 has its point.
    assert_eq!(chosen, (6..29).map(|h| h * 4).collect::<Vec<_>>());
}

#[test]
fn times_at_the_ends_of_what_can_be_said_do_no_harm() {
    let policy = Policy::own(&[Rule { every: 366 * DAY, keep: super::MAX_KEEP }]).unwrap();
    let mut first = point(0, 0);
    first.made = WallTime(0);
    let mut last = point(1, 0);
    last.made = WallTime(u64::MAX);
    let verdicts = decide(&policy, &[first, last], WallTime(u64::MAX));
    assert!(verdicts[0].forget());
    assert!(!verdicts[1].forget());
    assert_eq!(policy.next_due(&[], WallTime(u64::MAX)), Some(WallTime(u64::MAX)));
    assert!(policy.next_due(&[WallTime(u64::MAX)], WallTime(u64::MAX)).is_some());
}

/// What happens to an owner: time passes, points are made, retention is carried out.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Make,
    /// Makes one as soon as one is due.
    MakeDue,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..5000).prop_map(Step::Wait),
        1 => (5000u64..400_000).prop_map(Step::Wait),
        3 => Just(Step::Make),
        3 => Just(Step::MakeDue),
        4 => Just(Step::Forget),
    ];
    proptest::collection::vec(step, 1..120)
}

fn policies() -> impl Strategy<Value = Policy> {
    let rule = (60u64..100_000, 1u64..20).prop_map(|(every, times)| Rule { every, keep: every * times });
    prop_oneof![
        Just(Policy::aws()),
        Just(Policy::hbr24()),
        Just(Policy::gfs()),
        proptest::collection::vec(rule, 1..4).prop_map(|rules| Policy::own(&rules).unwrap()),
    ]
}

proptest! {
    /// Against a model that remembers every point ever made: at each moment, for each rule and each of its periods, the
    /// first point that was made in it is there until its time is over. However irregular points come, and however
    /// often retention is carried out, no period a rule still asks for is without its point.
    #[test]
    fn never_keeps_less_than_the_rules_say(policy in policies(), steps in steps()) {
        let mut now = 0;
        let mut ever: Vec<Candidate> = Vec::new();
        let mut there: BTreeMap<SnapshotId, Candidate> = BTreeMap::new();
        for step in steps {
            let times: Vec<_> = there.values().map(|p| p.made).collect();
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::MakeDue if policy.next_due(&times, at(now)).is_none_or(|t| t > at(now)) => {}
                Step::Make | Step::MakeDue => {
                    let made = point(ever.len() as u64, now);
                    there.insert(made.id, made.clone());
                    ever.push(made);
                }
                Step::Forget => {
                    let points: Vec<_> = there.values().cloned().collect();
                    for verdict in decide(&policy, &points, at(now)) {
                        if verdict.forget() {
                            there.remove(&verdict.id);
                        }
                    }
                }
            }
            for rule in policy.rules() {
                let mut periods = BTreeSet::new();
                for point in &ever {
                    let first = periods.insert(rule.period(point.made));
                    if first && rule.until(point.made) > at(now) {
                        prop_assert!(there.contains_key(&point.id), "{rule} lost {point:?} at {now}");
                    }
                }
            }
            if let Some(newest) = ever.last() {
                prop_assert!(there.contains_key(&newest.id));
            }
        }
        // And nothing stays without a reason.
        let points: Vec<_> = there.values().cloned().collect();
        for verdict in decide(&policy, &points, at(now + 8 * 366 * DAY)) {
            let newest = verdict.id == points.last().unwrap().id;
            prop_assert_eq!(verdict.forget(), !newest);
        }
    }

    /// When points are made whenever they are due, every period that has begun since has one.
    #[test]
    fn due_points_leave_no_period_empty(policy in policies(), waits in proptest::collection::vec(1u64..3000, 1..200)) {
        let mut now = 0;
        let mut made: Vec<WallTime> = Vec::new();
        for wait in waits {
            let target = now + wait;
            while let Some(due) = policy.next_due(&made, at(now)) {
                if due > at(target) {
                    break;
                }
                now = (due.0 / 1_000_000_000 - START).max(now);
                made.push(at(now));
            }
            now = target;
        }
        for rule in policy.rules() {
            let has: BTreeSet<_> = made.iter().map(|&t| rule.period(t)).collect();
            for period in rule.period(at(0))..=rule.period(at(now)) {
                prop_assert!(has.contains(&period), "{rule} has no point in period {period}");
            }
        }
    }

    /// What is chosen of a backlog leads to the same points staying as if all of them had been made.
    #[test]
    fn a_backlog_is_as_good_as_having_been_there(policy in policies(), gaps in proptest::collection::vec(1u64..4000, 1..80)) {
        let mut seconds = 0;
        let all: Vec<_> = gaps.iter().enumerate().map(|(n, gap)| { seconds += gap; point(n as u64, seconds) }).collect();
        let now = at(seconds + 10);
        let times: Vec<_> = all.iter().map(|p| p.made).collect();
        let chosen = policy.choose(&[], &times, now);
        let some: Vec<_> = chosen.iter().map(|&n| all[n].clone()).collect();
        let stay = |points: &[Candidate]| -> Vec<_> {
            decide(&policy, points, now).into_iter().filter(super::Verdict::kept_by_rule).map(|v| v.id).collect()
        };
        prop_assert_eq!(stay(&all), stay(&some));
    }
}
