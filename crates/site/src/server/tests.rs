//! The worker against a session that says what the test's story needs.

use super::*;
use bytes::Bytes;
use lifeboat_api::types::{CaptureSpec, ReplicationSpec};
use lifeboat_base::limits::BLOCK;
use lifeboat_base::point::PointSpec;
use lifeboat_base::{AgentId, DiskId, ManualClock, SeededEntropy, Seq, ServerId, WallTime};
use lifeboat_block::storage::{MemoryStorage, StorageCall, StorageFault};
use lifeboat_block::{BarrierKind, BlockDevice, Body, Codec};
use lifeboat_replicate::wire::{ZERO_HASH, hash_block};
use std::sync::Arc;
use tokio::runtime::Runtime;

const SIZE: u64 = 4 * BLOCK as u64 + 512;
const DISK: DiskId = DiskId(0);
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    runtime: Runtime,
    storage: MemoryStorage,
    own: MemoryStorage,
    clock: Arc<ManualClock>,
    cell: Arc<ServerCell>,
    sessions: u64,
}

/// One session as its peer sees it.
struct Peer {
    id: u64,
    epoch: Epoch,
    next: Seq,
    acks: watch::Receiver<Ack>,
    answers: mpsc::Receiver<Answer>,
    end: watch::Receiver<Option<No>>,
}

fn open_cell(journal: &MemoryStorage, own: &MemoryStorage, clock: &Arc<ManualClock>) -> Arc<ServerCell> {
    let entropy = Arc::new(SeededEntropy::new(7));
    let spec = ServerSpec {
        id: ServerId::random(&*entropy),
        name: "web-1".into(),
        agent: AgentId::random(&*entropy),
        epoch: Epoch(1),
        capture: CaptureSpec::Splitter { paths: vec!["/disk".into()], listen: None },
        disks: Vec::new(),
        replication: ReplicationSpec::default(),
        retention: lifeboat_api::types::RetentionSpec::default(),
        window: WindowSpec { seconds: 3600, bytes: 1 << 30 },
        active: true,
    };
    let o = OpenServer {
        beyond: None,
        storage: ServerStorage { journal: Arc::new(journal.clone()), own: Arc::new(own.clone()) },
        key: JournalKey([3; 32]),
        spec: &spec,
        config: journal_config(&spec.window),
        clock: clock.clone(),
        entropy,
    };
    ServerCell::open(&o).expect("cell")
}

impl World {
    fn new() -> Self {
        let (storage, own) = (MemoryStorage::new(), MemoryStorage::new());
        let clock = Arc::new(ManualClock::default());
        let cell = open_cell(&storage, &own, &clock);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        Self { runtime, storage, own, clock, cell, sessions: 0 }
    }

    fn send(&self, job: Job) {
        self.cell.jobs.blocking_send(job).expect("a worker");
    }

    fn wait<T>(&self, what: &str, f: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, f).await })
            .unwrap_or_else(|_| panic!("{what}"))
    }

    /// Says hello; the site's welcome, and a session that goes on where it says.
    fn hello(&mut self, instance: u64, epoch: u32, answers: usize) -> Result<(Welcome, Peer), No> {
        self.sessions += 1;
        let (acks_in, acks) = watch::channel(Ack::default());
        let (answers_in, answers) = mpsc::channel(answers);
        let (end_in, end) = watch::channel(None);
        let (reply, answer) = oneshot::channel();
        self.send(Job::Open {
            session: self.sessions,
            instance,
            lineage: Vec::new(),
            epoch: Epoch(epoch),
            disks: vec![Disk { index: 0, name: "disk".into(), size: SIZE }],
            out: SessionOut { acks: acks_in, answers: answers_in, end: end_in },
            reply,
        });
        let (welcome, _) = self.wait("no welcome", answer).expect("worker")?;
        let next = Seq(welcome.durable + 1);
        Ok((welcome, Peer { id: self.sessions, epoch: Epoch(epoch), next, acks, answers, end }))
    }

    fn records(&self, peer: &mut Peer, bodies: Vec<Body>) -> Seq {
        let mut records = Vec::new();
        for body in bodies {
            records.push(Record { epoch: peer.epoch, seq: peer.next, time: self.clock.wall(), body });
            peer.next = peer.next.next();
        }
        let last = records.last().expect("a record").seq;
        self.resend(peer, records);
        last
    }

    fn resend(&self, peer: &Peer, records: Vec<Record>) {
        self.send(Job::Records { session: peer.id, records, room: None });
    }

    fn acked(&self, peer: &mut Peer, seq: Seq) {
        self.wait("no acknowledgement", async { peer.acks.wait_for(|a| a.durable >= seq).await.map(drop) })
            .expect("session");
    }

    fn ended(&self, peer: &mut Peer) -> No {
        self.wait("the session goes on", async {
            peer.end.wait_for(Option::is_some).await.map(|n| n.clone())
        })
        .expect("session")
        .expect("a reason")
    }

    /// Waits until the worker has done everything sent so far.
    fn settled(&self, peer: &mut Peer) {
        self.send(Job::Offer { session: peer.id, offer: offer(0, &[ZERO_HASH]) });
        self.wait("no answer", peer.answers.recv()).expect("answer");
    }

    /// The newest point's content.
    fn latest(&self) -> Vec<u8> {
        let point = self.cell.reader.resolve(&PointSpec::Latest).expect("a point").id;
        let device = self.cell.reader.open_point(point, DISK).expect("opens");
        let mut content = vec![0; SIZE as usize];
        device.read(0, &mut content).expect("reads");
        content
    }

    fn full(&self, call: StorageCall, errno: i32) {
        self.storage.fail(StorageFault { call: Some(call), nth: 1, forever: true, errno, half: true });
    }
}

fn announce() -> Body {
    Body::Disk { disk: DISK, size: SIZE }
}

fn barrier() -> Body {
    Body::Barrier { kind: BarrierKind::Crash }
}

fn data(offset: u64, byte: u8, len: usize) -> Body {
    let payload = Bytes::from(vec![byte; len]);
    let crc = crc32c::crc32c(&payload);
    Body::Data { disk: DISK, offset, len: len as u32, codec: Codec::Raw, crc, payload }
}

fn offer(offset: u64, hashes: &[[u8; 32]]) -> Offer {
    Offer { id: 1, disk: DISK, offset, exact: false, hashes: hashes.to_vec() }
}

#[test]
fn a_stream_begins_goes_on_and_is_acknowledged_when_durable() {
    let mut w = World::new();
    let (welcome, mut p) = w.hello(1, 1, 8).expect("welcome");
    assert_eq!((welcome.durable, welcome.has_content, welcome.same_writer), (0, false, false));
    let last = w.records(&mut p, vec![announce(), data(512, 5, 1024), barrier()]);
    w.acked(&mut p, last);
    assert_eq!(p.acks.borrow().barrier, last);
    assert_eq!(w.latest()[512..1536], [5; 1024]);
    let (welcome, _) = w.hello(1, 1, 8).expect("welcome");
    assert_eq!((welcome.durable, welcome.has_content, welcome.same_writer), (3, true, true));
}

/// Failure 8.
#[test]
fn a_failed_sync_is_never_acknowledged_and_stops_the_writer() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    let last = w.records(&mut p, vec![announce(), barrier()]);
    w.acked(&mut p, last);
    w.full(StorageCall::Sync, 5);
    w.records(&mut p, vec![data(0, 1, 512), barrier()]);
    assert_eq!(w.ended(&mut p).code, RefuseCode::Storage);
    w.storage.heal();
    let no = w.hello(1, 1, 8).err().expect("refused");
    assert_eq!(no.code, RefuseCode::Storage);
    assert!(no.message.contains("restart"), "{}", no.message);
    assert_eq!(p.acks.borrow().durable, last, "nothing after the failure was acknowledged");
}

/// Failure 9, then an agent that was restarted meanwhile: it must not be told to give new records the numbers of
/// those that wait for room.
#[test]
fn after_a_full_disk_no_number_is_given_twice() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    let last = w.records(&mut p, vec![announce(), barrier()]);
    w.acked(&mut p, last);
    w.full(StorageCall::Write, 28);
    w.records(&mut p, vec![data(0, 1, 512), barrier()]);
    let no = w.ended(&mut p);
    assert_eq!(no.code, RefuseCode::Storage);
    assert!(no.message.contains("make room"), "{}", no.message);
    assert_eq!(w.hello(2, 1, 8).err().expect("refused").code, RefuseCode::Storage);
    assert_eq!(p.acks.borrow().durable, last);
    assert_eq!(w.latest(), vec![0; SIZE as usize], "points stay readable");

    w.storage.heal();
    let (welcome, mut other) = w.hello(2, 1, 8).expect("goes on when there is room");
    assert!(!welcome.same_writer);
    let last = w.records(&mut other, vec![announce(), data(0, 2, 512), barrier()]);
    w.acked(&mut other, last);
    assert_eq!(w.latest()[..512], [2; 512]);
}

#[test]
fn a_full_disk_heals_for_the_same_agent() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    w.full(StorageCall::Write, 28);
    let kept = vec![
        Record { epoch: Epoch(1), seq: Seq(1), time: WallTime(1), body: announce() },
        Record { epoch: Epoch(1), seq: Seq(2), time: WallTime(1), body: data(0, 9, 512) },
        Record { epoch: Epoch(1), seq: Seq(3), time: WallTime(1), body: barrier() },
    ];
    w.resend(&p, kept.clone());
    w.ended(&mut p);
    w.storage.heal();
    let (welcome, mut p) = w.hello(1, 1, 8).expect("welcome");
    assert!(welcome.same_writer && welcome.durable <= 3);
    w.resend(&p, kept.into_iter().filter(|r| r.seq.0 > welcome.durable).collect::<Vec<_>>());
    p.next = Seq(4);
    let last = w.records(&mut p, vec![data(512, 8, 512), barrier()]);
    w.acked(&mut p, last);
    assert_eq!((w.latest()[0], w.latest()[512]), (9, 8));
}

/// Failure 13 and 21.
#[test]
fn the_writer_is_known_by_its_process_also_after_a_restart() {
    let mut w = World::new();
    let same = |w: &mut World, instance| {
        let (welcome, mut p) = w.hello(instance, 1, 8).expect("welcome");
        let last = w.records(&mut p, vec![announce(), barrier()]);
        w.acked(&mut p, last);
        welcome.same_writer
    };
    assert!(!same(&mut w, 1));
    let (welcome, _) = w.hello(9, 1, 8).expect("welcome");
    assert!(!welcome.same_writer, "and who only says hello has written nothing");
    assert!(same(&mut w, 1));
    w.wait("the worker goes on", w.cell.stop());
    w.cell = open_cell(&w.storage.after_kill(), &w.own.after_power_loss(), &w.clock);
    assert!(same(&mut w, 1), "its records go on after the site's restart");
    assert!(!same(&mut w, 2));
    assert!(!same(&mut w, 1), "another wrote meanwhile");
}

/// Failure 6: rot took the announcement of the disk, so that the journal does not know of it.
#[test]
fn an_agent_whose_disk_the_journal_has_forgotten_sends_everything_again() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    let last = w.records(&mut p, vec![announce(), data(0, 1, 512), barrier()]);
    w.acked(&mut p, last);
    w.wait("the worker goes on", w.cell.stop());
    let rotten = w.storage.after_kill();
    let name = lifeboat_block::storage::Storage::list(&rotten).expect("names");
    let name = name.into_iter().find(|n| n.ends_with(".seg")).expect("a segment");
    // The epoch's record and it.
    rotten.tamper(&name, |b| [37, 80 + 37].into_iter().for_each(|at| b[128 + at] ^= 1));
    let index = name.replace(".seg", ".idx");
    let _ = lifeboat_block::storage::Storage::remove(&rotten, &index);
    w.storage = rotten;
    w.cell = open_cell(&w.storage, &w.own, &w.clock);
    assert!(w.cell.reader.disks().is_empty(), "the story is about a lost announcement");
    let (welcome, mut p) = w.hello(1, 1, 8).expect("welcome");
    assert!(!welcome.same_writer && !welcome.follows, "what it believes safe is not");
    let rest = SIZE as usize - 512;
    let last = w.records(&mut p, vec![announce(), data(0, 2, 512), data(512, 3, rest), barrier()]);
    w.acked(&mut p, last);
    assert_eq!((w.latest()[0], w.latest()[512]), (2, 3));
}

/// Failure 13.
#[test]
fn an_old_session_and_repeated_records_change_nothing() {
    let mut w = World::new();
    let (_, mut old) = w.hello(1, 1, 8).expect("welcome");
    let last = w.records(&mut old, vec![announce(), data(0, 1, 512), barrier()]);
    w.acked(&mut old, last);
    let (_, mut new) = w.hello(1, 1, 8).expect("welcome");
    assert_eq!(w.ended(&mut old).code, RefuseCode::Busy);
    w.records(&mut old, vec![data(0, 66, 512), barrier()]);
    w.send(Job::Close { session: old.id });
    // Again what is there already, and then something new.
    let again = |seq, body| Record { epoch: Epoch(1), seq: Seq(seq), time: WallTime(1), body };
    w.resend(
        &new,
        vec![
            again(2, data(0, 77, 512)),
            again(3, barrier()),
            again(4, data(512, 4, 512)),
            again(5, barrier()),
        ],
    );
    w.acked(&mut new, Seq(5));
    let content = w.latest();
    assert_eq!((content[0], content[512]), (1, 4));
}

/// I4, failure 22.
#[test]
fn a_new_epoch_cuts_the_old_writer_and_keeps_it_out() {
    let mut w = World::new();
    let (_, mut old) = w.hello(1, 1, 8).expect("welcome");
    let last = w.records(&mut old, vec![announce(), data(0, 1, 512), barrier()]);
    w.acked(&mut old, last);
    let (reply, done) = oneshot::channel();
    w.send(Job::SetEpoch { epoch: Epoch(2), reply });
    w.wait("no new epoch", done).expect("worker").expect("journal");
    assert_eq!(w.ended(&mut old).code, RefuseCode::StaleEpoch);
    w.records(&mut old, vec![data(0, 66, 512), barrier()]);
    assert_eq!(w.hello(1, 1, 8).err().expect("refused").code, RefuseCode::StaleEpoch);
    let (welcome, mut new) = w.hello(1, 2, 8).expect("welcome");
    assert_eq!(welcome.durable, last.0);
    // Records of the old epoch in a session of the new one: the journal looks again.
    new.epoch = Epoch(1);
    w.records(&mut new, vec![data(0, 67, 512)]);
    assert_eq!(w.ended(&mut new).code, RefuseCode::StaleEpoch);
    assert_eq!(w.latest()[0], 1);
}

#[test]
fn an_offer_is_answered_by_what_is_there_at_its_place() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    let block = vec![7; BLOCK];
    let b = BLOCK as u64;
    w.records(&mut p, vec![announce(), data(b, 7, BLOCK), data(4 * b, 9, 512)]);
    let there = [ZERO_HASH, hash_block(&block), ZERO_HASH, hash_block(&block), hash_block(&[9; 512])];
    let ask = |w: &World, p: &mut Peer| {
        w.send(Job::Offer { session: p.id, offer: offer(0, &there) });
        w.wait("no answer", p.answers.recv()).expect("answer").needed
    };
    assert_eq!(ask(&w, &mut p), [false, false, false, true, false]);
    // Written since the first comparison, in part and back again: never said to be there.
    w.records(&mut p, vec![data(b + 512, 8, 512), Body::Zero { disk: DISK, offset: 4 * b, len: 512 }]);
    assert_eq!(ask(&w, &mut p), [false, true, false, true, true]);
    // A disk that was never announced: everything is needed.
    w.send(Job::Offer { session: p.id, offer: Offer { disk: DiskId(3), ..offer(0, &there) } });
    assert_eq!(w.wait("no answer", p.answers.recv()).expect("answer").needed, [true; 5]);
}

/// Failure 31 and 32: the journal's one thread waits for nobody.
#[test]
fn a_peer_that_takes_no_answers_holds_up_nothing() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 1).expect("welcome");
    w.records(&mut p, vec![announce(), barrier()]);
    for _ in 0..3 {
        w.send(Job::Offer { session: p.id, offer: offer(0, &[ZERO_HASH]) });
    }
    assert_eq!(w.ended(&mut p).code, RefuseCode::Protocol);
    let (reply, done) = oneshot::channel();
    w.send(Job::SetEpoch { epoch: Epoch(2), reply });
    w.wait("the worker hangs", done).expect("worker").expect("journal");
}

#[test]
fn heartbeats_and_barriers_measure_what_would_be_lost() {
    let mut w = World::new();
    let age = |w: &World| w.cell.measured.lock().coverage.age(w.clock.monotonic());
    let ping = |w: &World, p: &Peer, live| {
        let ping = Ping { seq: Seq(p.next.0 - 1), time: w.clock.wall(), lag_bytes: 0, live };
        w.send(Job::Ping { session: p.id, ping });
    };
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    ping(&w, &p, true);
    w.settled(&mut p);
    assert_eq!(age(&w), None, "no point yet");
    let last = w.records(&mut p, vec![announce(), barrier()]);
    w.acked(&mut p, last);
    assert_eq!(age(&w), Some(Duration::ZERO));
    w.clock.advance(Duration::from_secs(5));
    ping(&w, &p, false);
    w.settled(&mut p);
    assert_eq!(age(&w), Some(Duration::from_secs(5)), "an agent that is behind promises nothing");
    ping(&w, &p, true);
    w.settled(&mut p);
    assert_eq!(age(&w), Some(Duration::ZERO), "nothing was written");
    w.clock.advance(Duration::from_secs(3));
    w.clock.set_wall(WallTime(0));
    assert_eq!(age(&w), Some(Duration::from_secs(3)), "the site's clock may jump");
}

/// I2, failure 16: what was long on its way is not young because it arrived just before a restart.
#[test]
fn a_restart_does_not_make_a_late_point_young() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    let cut = w.clock.wall();
    w.clock.advance(Duration::from_secs(40));
    let late = |seq, body| Record { epoch: Epoch(1), seq: Seq(seq), time: cut, body };
    w.resend(&p, vec![late(1, announce()), late(2, barrier())]);
    w.acked(&mut p, Seq(2));
    w.wait("the worker goes on", w.cell.stop());
    w.clock.advance(Duration::from_secs(2));
    w.cell = open_cell(&w.storage.after_kill(), &w.own.after_kill(), &w.clock);
    let age = w.cell.measured.lock().coverage.age(w.clock.monotonic());
    assert_eq!(age, Some(Duration::from_secs(42)));
}

/// Failures 1, 8: a journal that stopped says so, whatever it was doing.
#[test]
fn an_epoch_that_cannot_be_stored_is_a_fault_that_is_told() {
    let mut w = World::new();
    let (_, mut p) = w.hello(1, 1, 8).expect("welcome");
    let last = w.records(&mut p, vec![announce(), barrier()]);
    w.acked(&mut p, last);
    w.full(StorageCall::Rename, 5);
    let (reply, done) = oneshot::channel();
    w.send(Job::SetEpoch { epoch: Epoch(2), reply });
    w.wait("no answer", done).expect("worker").expect_err("it cannot be stored");
    w.storage.heal();
    let no = w.hello(1, 1, 8).err().expect("refused");
    assert_eq!(no.code, RefuseCode::Storage);
    assert!(no.message.contains("restart"), "{}", no.message);
    assert!(w.cell.measured.lock().fault.is_some());
}
