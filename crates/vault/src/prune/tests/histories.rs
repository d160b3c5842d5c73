//! Random histories: writers of two processes that begin, put, stall and commit while prunes run, are overtaken, and
//! crash at any call. **Nothing reachable is ever deleted**, and in the end nothing else is left.

use super::{Hourly, World, assert_tidy, prune, server};
use crate::error::VaultError;
use crate::prune::{Patience, Prune, PruneReport};
use crate::session::Session;
use crate::snapshot::{DiskMap, Hold, Owner, Snapshot};
use crate::store::memory::{Fault, Method};
use crate::vault::Vault;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::Arc;
use std::thread::{self, ThreadId};

/// Sessions each process may have at a time.
const SESSIONS: usize = 3;

#[derive(Debug, Clone)]
enum Act {
    Begin {
        process: usize,
        session: usize,
        owner: u64,
    },
    /// Puts a run of values, over the newest snapshot or over nothing.
    Put {
        process: usize,
        session: usize,
        from: u32,
        count: u32,
        base: bool,
    },
    Commit {
        process: usize,
        session: usize,
    },
    Abandon {
        process: usize,
        session: usize,
    },
    Pass(u64),
    Forget {
        process: usize,
        which: usize,
    },
    Name {
        process: usize,
        which: usize,
        name: bool,
    },
    Prune {
        process: usize,
    },
}

/// A prune is done in the middle of these, some at each of its calls.
#[derive(Debug, Clone)]
struct Round {
    before: Vec<Act>,
    process: usize,
    /// What happens at which of its calls.
    during: Vec<(u64, Act)>,
    /// Which call fails, and how.
    fault: Option<(u64, Fault)>,
    patience: u32,
}

fn act() -> impl Strategy<Value = Act> {
    let (process, session) = (0usize..2, 0..SESSIONS);
    let at = (process, session);
    prop_oneof![
        4 => (at.clone(), 0u64..3).prop_map(|((process, session), owner)| Act::Begin { process, session, owner }),
        6 => (at.clone(), 1u32..40, 1u32..14, any::<bool>())
            .prop_map(|((process, session), from, count, base)| Act::Put { process, session, from, count, base }),
        5 => at.clone().prop_map(|(process, session)| Act::Commit { process, session }),
        1 => at.prop_map(|(process, session)| Act::Abandon { process, session }),
        2 => (1u64..9000).prop_map(Act::Pass),
        1 => (0usize..2, 0usize..8).prop_map(|(process, which)| Act::Forget { process, which }),
        1 => (0usize..2, 0usize..8, any::<bool>()).prop_map(|(process, which, name)| Act::Name { process, which, name }),
        1 => (0usize..2).prop_map(|process| Act::Prune { process }),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let fault = prop_oneof![
        Just(Fault::Before),
        Just(Fault::LostReply),
        Just(Fault::CutBefore),
        Just(Fault::CutAfter),
    ];
    (
        proptest::collection::vec(act(), 0..14),
        0usize..2,
        proptest::collection::vec((1u64..50, act()), 0..12),
        proptest::option::weighted(0.5, (1u64..120, fault)),
        0u32..4,
    )
        .prop_map(|(before, process, during, fault, patience)| Round {
            before,
            process,
            during,
            fault,
            patience,
        })
}

#[derive(Default)]
struct Process {
    vault: Option<Vault>,
    sessions: [Option<(Session, Option<DiskMap>)>; SESSIONS],
}

struct Stage {
    world: World,
    processes: [Process; 2],
    /// Snapshots that were committed, whoever made them, while they are not forgotten on purpose.
    log: Vec<String>,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        let mut processes = [Process::default(), Process::default()];
        for p in &mut processes {
            p.vault = Some(world.open());
        }
        Self { world, processes, log: Vec::new() }
    }

    /// Carries one act out. Faults of the store make it fail; that is part of the history.
    fn act(&mut self, act: &Act) {
        let result = self.try_act(act);
        if let Err(e) = result {
            self.log.push(format!("{act:?}: {e}"));
        }
    }

    fn try_act(&mut self, act: &Act) -> Result<(), VaultError> {
        let world = &self.world;
        match *act {
            Act::Pass(seconds) => world.pass(seconds),
            Act::Begin { process, session, owner } => {
                let p = &mut self.processes[process];
                let (Some(vault), None) = (&p.vault, &p.sessions[session]) else { return Ok(()) };
                p.sessions[session] = Some((vault.begin(server(owner))?, None));
            }
            Act::Put { process, session, from, count, base } => {
                let p = &mut self.processes[process];
                let (Some(vault), Some((open, map))) = (&p.vault, &mut p.sessions[session]) else {
                    return Ok(());
                };
                let set: Vec<_> = (0..count).map(|n| (u64::from((from + n) * 3 % 600), from + n)).collect();
                let mut set = set;
                set.sort();
                set.dedup_by_key(|(at, _)| *at);
                let newest = base.then(|| newest_of(vault)).flatten();
                *map = Some(world.map(open, newest.as_deref(), &set)?);
            }
            Act::Commit { process, session } => {
                let slot = &mut self.processes[process].sessions[session];
                match slot.take() {
                    Some((open, Some(map))) => drop(open.commit(world.body(map))?),
                    other => *slot = other,
                }
            }
            Act::Abandon { process, session } => drop(self.processes[process].sessions[session].take()),
            Act::Forget { process, which } => {
                let Some(vault) = &self.processes[process].vault else { return Ok(()) };
                let snapshots = vault.snapshots();
                if let Some(s) = snapshots.get(which % snapshots.len().max(1)) {
                    vault.forget(&s.id, world.now())?;
                }
            }
            Act::Name { process, which, name } => {
                let Some(vault) = &self.processes[process].vault else { return Ok(()) };
                let snapshots = vault.snapshots();
                if let Some(s) = snapshots.get(which % snapshots.len().max(1)) {
                    vault.set_hold(&s.id, Hold { name: name.then(|| "n".into()), ..vault.hold(&s.id) })?;
                }
            }
            Act::Prune { process } => {
                let Some(vault) = &self.processes[process].vault else { return Ok(()) };
                let prune = prune(world, vault, &Hourly);
                let plan = prune.plan()?;
                prune.execute(&plan, &|w| if w.asked > 1 { Patience::Fence } else { Patience::Wait })?;
            }
        }
        Ok(())
    }

    /// The process dies, with all its sessions, and another one takes its place.
    fn restart(&mut self, process: usize) {
        let p = &mut self.processes[process];
        // It says good-bye to nobody: nothing its sessions still do arrives.
        self.world.store.cut();
        p.sessions.iter_mut().for_each(|session| drop(session.take()));
        self.world.store.restore();
        p.vault = Some(self.world.open());
    }
}

fn newest_of(vault: &Vault) -> Option<Arc<Snapshot>> {
    vault.snapshots().into_iter().max_by_key(|s| s.body.point.map(|p| p.seq))
}

/// Runs a prune; at its calls, and only on its own thread, the acts happen.
fn run(stage: &Arc<Mutex<Option<Stage>>>, vault: &Vault, round: &Round) -> Result<PruneReport, VaultError> {
    let (store, world) = {
        let guard = stage.lock();
        let world = &guard.as_ref().expect("a stage").world;
        (world.store.clone(), World::of(world))
    };
    let from = store.calls();
    let me: ThreadId = thread::current().id();
    let (acting, during) = (stage.clone(), Mutex::new(round.during.clone()));
    let own = Mutex::new(0u64);
    store.on_call(move |call| {
        // Calls of other threads, and those an act makes, are not the prune's. While it reads, others would wait for the
        // same read.
        if thread::current().id() != me || call.method == Method::Get {
            return;
        }
        let Some(mut stage) = acting.try_lock() else { return };
        let Some(stage) = stage.as_mut() else { return };
        let call = {
            let mut own = own.lock();
            *own += 1;
            *own
        };
        let due: Vec<Act> = {
            let mut during = during.lock();
            let due = during.iter().filter(|(at, _)| *at <= call).map(|(_, act)| act.clone()).collect();
            during.retain(|(at, _)| *at > call);
            due
        };
        due.iter().for_each(|act| stage.act(act));
    });
    if let Some((at, fault)) = round.fault {
        store.fail(from + at, fault);
    }
    let prune: Prune<'_> = prune(&world, vault, &Hourly);
    let result = prune.plan().and_then(|plan| {
        prune.execute(&plan, &|w| if w.asked >= round.patience { Patience::Fence } else { Patience::Wait })
    });
    store.no_hook();
    store.restore();
    result
}

impl World {
    /// The same world.
    pub fn of(world: &World) -> World {
        World {
            store: world.store.clone(),
            clock: world.clock.clone(),
            entropy: world.entropy.clone(),
            seq: std::sync::atomic::AtomicU64::new(1_000_000),
        }
    }
}

fn history(rounds: &[Round]) {
    let stage = Arc::new(Mutex::new(Some(Stage::new())));
    for (n, round) in rounds.iter().enumerate() {
        let vault = {
            let mut guard = stage.lock();
            let s = guard.as_mut().expect("a stage");
            round.before.iter().for_each(|act| s.act(act));
            s.world.assert_whole(&format!("before prune {n}"));
            s.processes[round.process].vault.clone().expect("a vault")
        };
        let result = run(&stage, &vault, round);
        let mut guard = stage.lock();
        let s = guard.as_mut().expect("a stage");
        s.log.push(format!("prune {n} by {}: {result:?}", round.process));
        s.world.assert_whole(&format!("after prune {n}, {:#?}", s.log));
        if matches!(round.fault, Some((_, Fault::CutBefore | Fault::CutAfter))) {
            s.restart(round.process);
        }
    }
    let mut s = stage.lock().take().expect("a stage");
    // Those who still write may finish; what they make resolves.
    for process in 0..2 {
        for session in 0..SESSIONS {
            s.act(&Act::Commit { process, session });
        }
    }
    s.world.assert_whole(&format!("after all committed, {:#?}", s.log));
    s.restart(0);
    s.restart(1);
    let vault = s.processes[0].vault.clone().expect("a vault");
    super::run(&s.world, &vault).unwrap_or_else(|e| panic!("the last prune: {e}, {:#?}", s.log));
    assert_tidy(&s.world, &vault, "in the end");
    let _: Owner = server(0);
}

/// Few for every change; PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn nothing_reachable_is_ever_deleted(rounds in proptest::collection::vec(round(), 1..5)) {
        history(&rounds);
    }
}
