#![allow(clippy::unwrap_used)]

use super::*;
use crate::listen::tests::Agent;
use crate::testing::{PATIENCE, Wire, World, announce, barrier, data};
use lifeboat_api::port::{ServerSpec, SitePort};
use lifeboat_base::{AgentId, Entropy, SeededEntropy};
use lifeboat_replicate::message::{Control, HoldResult};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

// ---- any schedule ---------------------------------------------------------------------------

/// What an agent of the schedule does wrong, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    HoldLost,
    HoldRefused,
    CutLost,
    CutRefused,
    /// The answer to the cut comes, but the cut itself is not carried out in time.
    Late,
}

/// When a member was held and cut, by one clock that nobody else sees.
#[derive(Debug, Default, Clone, Copy)]
struct Happened {
    held: Option<Instant>,
    /// The hold ends by itself then.
    limit: Option<Instant>,
    cut: Option<Instant>,
}

/// An agent as the protocol wants it, slow and faulty as told.
async fn agent(
    mut inbox: mpsc::Receiver<Control>,
    link: Arc<AgentLink>,
    delays: [Duration; 4],
    fault: Fault,
    happened: Arc<Mutex<Happened>>,
) {
    let mut servers = Vec::new();
    while let Some(message) = inbox.recv().await {
        match message.body.unwrap() {
            control::Body::Hold(hold) => {
                tokio::time::sleep(delays[0]).await;
                if fault == Fault::HoldRefused {
                    let refused = HoldResult { error: "busy".into() };
                    link.answered(message.id, control::Body::HoldResult(refused));
                    continue;
                }
                servers = hold.servers;
                let now = Instant::now();
                *happened.lock() = Happened {
                    held: Some(now),
                    limit: Some(now + Duration::from_millis(u64::from(hold.limit_ms))),
                    cut: None,
                };
                tokio::time::sleep(delays[1]).await;
                if fault != Fault::HoldLost {
                    link.answered(message.id, control::Body::HoldResult(HoldResult::default()));
                }
            }
            control::Body::Cut(cut) => {
                tokio::time::sleep(delays[2]).await;
                let late = if fault == Fault::Late { Duration::from_secs(3) } else { Duration::ZERO };
                tokio::time::sleep(late).await;
                let mut result = CutResult::default();
                let held = {
                    let mut h = happened.lock();
                    let still = h.limit.is_some_and(|limit| Instant::now() < limit) && !cut.abandon;
                    if still && fault != Fault::CutRefused {
                        h.cut = Some(Instant::now());
                    }
                    h.cut.is_some()
                };
                if held {
                    let cuts =
                        servers.iter().map(|s| ServerCut { server: s.clone(), seq: 1, time: 1, held_us: 1 });
                    result.cuts = cuts.collect();
                } else {
                    result.error = "the hold was over".into();
                }
                tokio::time::sleep(delays[3]).await;
                if fault != Fault::CutLost {
                    link.answered(message.id, control::Body::CutResult(result));
                }
            }
            _ => {}
        }
    }
}

/// One attempt with agents of its own; whether it made a point.
async fn attempt(seed: u64) -> bool {
    let random = SeededEntropy::new(seed);
    let below = |n: u64| random.next_u64() % n;
    let hold = Duration::from_millis(50 + below(1000));
    let count = 1 + below(5);
    let mut parties = Vec::new();
    let mut stories = Vec::new();
    for n in 0..count {
        let (outgoing, inbox) = mpsc::channel(8);
        let end = watch::channel(None).0;
        let about = (format!("10.0.0.{n}:1"), "1".into(), WallTime(0));
        let link = Arc::new(AgentLink::new(n, about, n, outgoing, end));
        let fault = match below(25) {
            0 => Fault::HoldLost,
            1 => Fault::HoldRefused,
            2 => Fault::CutLost,
            3 => Fault::CutRefused,
            4 => Fault::Late,
            _ => Fault::None,
        };
        // Mostly quick, sometimes as slow as the hold is long.
        let delay = |_| Duration::from_micros(below(if below(6) == 0 { 700_000 } else { 10_000 }));
        let happened = Arc::new(Mutex::new(Happened::default()));
        tokio::spawn(agent(inbox, link.clone(), std::array::from_fn(delay), fault, happened.clone()));
        let server = ServerId::random(&random);
        let member = Member { server, name: format!("s{n}"), epoch: Epoch(1) };
        parties.push(Party { link, members: vec![member] });
        stories.push((fault, happened));
    }
    let ids = std::sync::atomic::AtomicU64::new(1);
    let fresh = || ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let result = cut_together(parties, hold, 7, fresh).await;
    let told: Vec<Happened> = stories.iter().map(|(_, h)| *h.lock()).collect();
    let Ok(cuts) = result else { return false };
    assert_eq!(cuts.len() as u64, count);
    let last_held = told.iter().map(|h| h.held.unwrap()).max().unwrap();
    for h in &told {
        let cut = h.cut.unwrap_or_else(|| panic!("seed {seed}: not cut {told:?}"));
        assert!(cut >= last_held, "seed {seed}: cut before all were held {told:?}");
        assert!(cut < h.limit.unwrap(), "seed {seed}: cut after its hold {told:?}");
    }
    assert!(stories.iter().all(|(f, _)| *f == Fault::None), "seed {seed}");
    true
}

/// Whatever is late, lost or refused: a group point means that each was held from before the first cut to its own.
#[tokio::test]
async fn no_schedule_gives_a_group_point_whose_members_were_not_all_held() {
    let mut attempts = JoinSet::new();
    (0..1000).for_each(|seed| drop(attempts.spawn(attempt(seed))));
    let mut points = 0;
    while let Some(made) = attempts.join_next().await {
        points += u32::from(made.unwrap());
    }
    assert!(points > 0 && points < 1000, "{points} points");
}

// ---- through the site -----------------------------------------------------------------------

struct Pair {
    w: World,
    specs: Vec<ServerSpec>,
    agents: Vec<Agent>,
    lines: Vec<Wire>,
}

impl Pair {
    /// Two servers of two agents, both live.
    async fn new() -> Self {
        let w = World::new();
        let ids: Vec<AgentId> = (0..2).map(|_| w.agent()).collect();
        let (mut specs, mut agents, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for (n, id) in ids.into_iter().enumerate() {
            let spec = w.spec(&format!("web-{n}"), id, 1);
            w.site.ensure_server(&spec).await.unwrap();
            agents.push(Agent::connect(&w.site, id, 1).await.unwrap());
            let mut line = Wire::hello(&w.site, id, spec.id, (1, 1), &[]).await.unwrap();
            let last = line.send(5, &[announce(), barrier()]).await;
            line.acked(last).await;
            specs.push(spec);
            lines.push(line);
        }
        Self { w, specs, agents, lines }
    }

    fn servers(&self) -> Vec<ServerId> {
        self.specs.iter().map(|s| s.id).collect()
    }

    /// Every agent holds; then each says to its cut what `cut` says for it.
    async fn serve(&mut self, cut: impl Fn(usize) -> (u64, u64)) {
        for a in &mut self.agents {
            let hold = a.next(|b| matches!(b, control::Body::Hold(_))).await;
            a.say(hold.id, control::Body::HoldResult(HoldResult::default())).await;
        }
        for (n, a) in self.agents.iter_mut().enumerate() {
            let asked = a.next(|b| matches!(b, control::Body::Cut(_))).await;
            let (seq, time) = cut(n);
            let server = self.specs[n].id.as_bytes().to_vec();
            let cuts = vec![ServerCut { server, seq, time, held_us: 100 * (n as u64 + 1) }];
            a.say(asked.id, control::Body::CutResult(CutResult { cuts, error: String::new() })).await;
        }
    }
}

const HOLD: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_group_point_is_told_once_every_barrier_is_durable() {
    let mut p = Pair::new().await;
    let (site, servers) = (p.w.site.clone(), p.servers());
    let barrier_at = p.lines[0].next.next();
    let asked = tokio::spawn(async move { site.group_barrier(&servers, HOLD).await });
    p.serve(|_| (barrier_at.0, 77)).await;
    for line in &mut p.lines {
        let last = line.send(77, &[data(0, 1, 512), barrier()]).await;
        line.acked(last).await;
    }
    let cut = asked.await.unwrap().unwrap();
    let wanted = PointId { epoch: Epoch(1), seq: barrier_at };
    assert_eq!(cut.points, p.servers().into_iter().map(|s| (s, wanted)).collect::<Vec<_>>());
    assert_eq!(cut.held, Duration::from_micros(200));
}

#[tokio::test]
async fn a_barrier_that_the_queue_lost_is_no_group_point() {
    for (seq, time) in [(4, 78), (3, 77)] {
        let mut p = Pair::new().await;
        let (site, servers) = (p.w.site.clone(), p.servers());
        let asked = tokio::spawn(async move { site.group_barrier(&servers, HOLD).await });
        // Another record stands there, or a barrier of another time.
        p.serve(|_| (seq, time)).await;
        for line in &mut p.lines {
            let last = line.send(77, &[data(0, 1, 512), barrier()]).await;
            line.acked(last).await;
        }
        let e = asked.await.unwrap().err().unwrap();
        assert!(e.message.contains("could not keep its barrier"), "{e}");
    }
}

#[tokio::test]
async fn a_member_that_cannot_be_held_lets_all_others_go() {
    let mut p = Pair::new().await;
    let (site, servers) = (p.w.site.clone(), p.servers());
    let asked = tokio::spawn(async move { site.group_barrier(&servers, HOLD).await });
    for (n, a) in p.agents.iter_mut().enumerate() {
        let hold = a.next(|b| matches!(b, control::Body::Hold(_))).await;
        let error = if n == 1 { "a write hangs" } else { "" }.into();
        a.say(hold.id, control::Body::HoldResult(HoldResult { error })).await;
    }
    let e = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().err().unwrap();
    assert_eq!(e.message, "web-1 cannot be held: a write hangs");
    for a in &mut p.agents {
        let cut = a.next(|b| matches!(b, control::Body::Cut(_))).await;
        assert!(matches!(cut.body, Some(control::Body::Cut(Cut { abandon: true, .. }))));
    }
}

#[tokio::test]
async fn a_member_that_is_not_there_is_named_before_anybody_is_held() {
    let mut p = Pair::new().await;
    let servers = p.servers();
    let late = p.w.spec("late", p.specs[0].agent, 1);
    p.w.site.ensure_server(&late).await.unwrap();
    let e = p.w.site.group_barrier(&[servers[0], late.id], HOLD).await.err().unwrap();
    assert!(e.message.contains("late is not live"), "{e}");
    let gone = p.w.spec("gone", p.w.agent(), 1);
    p.w.site.ensure_server(&gone).await.unwrap();
    let e = p.w.site.group_barrier(&[servers[0], gone.id], HOLD).await.err().unwrap();
    assert!(e.message.contains("the agent of gone is not connected"), "{e}");
    for bad in [vec![], vec![servers[0]; 2]] {
        assert_eq!(p.w.site.group_barrier(&bad, HOLD).await.err().unwrap().code, ErrorCode::Invalid);
    }
    assert!(p.w.site.group_barrier(&servers, Duration::from_secs(3)).await.is_err(), "too long a hold");
    // Nobody was asked anything: the next thing an agent hears is what comes next.
    for (a, spec) in p.agents.iter_mut().zip(&p.specs) {
        p.w.site.verify(spec.id, 1).await.unwrap();
        let next = a.next(|b| !matches!(b, control::Body::Ping(_) | control::Body::Assignments(_))).await;
        assert!(matches!(next.body, Some(control::Body::Verify(_))), "{next:?}");
    }
}
