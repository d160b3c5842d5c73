//! A source, a sender, a link and a site in one thread, driven by random choices.

use super::*;
use crate::encode::{BATCH, StreamEncoder};
use crate::message::Disk;
use crate::receiver::Receiver;
use crate::wire::{Answer, FRAME_HEADER, FrameType, decode_records, hash_block, parse_header};
use lifeboat_base::limits::MAX_FRAME;
use lifeboat_block::{Body, Record};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

mod resume;

const SIZE: u64 = 10 * BLOCK as u64 + 4096;
const DISK: DiskId = DiskId(0);

fn now() -> WallTime {
    WallTime(1)
}

/// The far end: applies what arrives, keeps what it would have on stable storage.
struct FarSite {
    disk: Vec<u8>,
    last: Seq,
    durable: Seq,
    records: usize,
    /// Content at each barrier, by number.
    barriers: BTreeMap<u64, Vec<u8>>,
    receiver: Option<Receiver>,
}

impl FarSite {
    fn new() -> Self {
        Self {
            disk: vec![0; SIZE as usize],
            last: Seq::ZERO,
            durable: Seq::ZERO,
            records: 0,
            barriers: BTreeMap::new(),
            receiver: None,
        }
    }

    fn hello(&mut self) {
        let disk = Disk { index: 0, name: "d".into(), size: SIZE };
        let known: &[u64] = if self.records > 0 { &[SIZE] } else { &[] };
        self.receiver = Some(Receiver::new(Epoch(1), self.last, &[disk], known).expect("session"));
    }

    fn apply(&mut self, r: &Record) {
        assert_eq!(r.seq, self.last.next());
        self.last = r.seq;
        self.records += 1;
        match &r.body {
            Body::Data { offset, len, .. } => {
                let at = *offset as usize;
                self.disk[at..at + *len as usize].copy_from_slice(&r.content().expect("content"));
            }
            Body::Zero { offset, len, .. } => self.disk[*offset as usize..(*offset + *len) as usize].fill(0),
            Body::Barrier { .. } => drop(self.barriers.insert(r.seq.0, self.disk.clone())),
            Body::Disk { .. } => {}
        }
    }

    /// Takes a frame; an offer is answered.
    fn frame(&mut self, frame: &Bytes) -> Option<Answer> {
        let (kind, _) =
            parse_header(frame[..FRAME_HEADER].try_into().expect("8"), MAX_FRAME).expect("header");
        let body = frame.slice(FRAME_HEADER..);
        match kind {
            FrameType::Records => {
                let receiver = self.receiver.as_mut().expect("a session");
                let records = receiver.records(decode_records(body).expect("records")).expect("fits");
                records.iter().for_each(|r| self.apply(r));
                None
            }
            FrameType::Offer => {
                let offer = Offer::decode(body).expect("offer");
                let needed = offer.hashes.iter().enumerate().map(|(i, h)| {
                    let at = offer.offset as usize + i * BLOCK;
                    hash_block(&self.disk[at..(at + BLOCK).min(SIZE as usize)]) != *h
                });
                Some(Answer { id: offer.id, needed: needed.collect() })
            }
            other => panic!("{other:?}"),
        }
    }
}

struct World {
    source: Vec<u8>,
    sender: Sender,
    encoder: StreamEncoder,
    site: FarSite,
    connected: bool,
    /// What the source held when each barrier was cut, in order.
    cut: Vec<Vec<u8>>,
    /// A sync task whose read is under way: task, and what was read at its start.
    reading: Vec<(SyncTask, Vec<u8>)>,
    answers: Vec<Answer>,
    in_encoder: Option<Batch>,
    spool: BTreeMap<u64, Bytes>,
    slots: u64,
    tracking: Tracking,
    /// This process has not been welcomed yet.
    restarted: bool,
}

/// What an agent's tracking keeps on disk, block by block: everything that may differ should it die now.
#[derive(Default)]
struct Tracking {
    persisted: BTreeSet<u64>,
    /// Touched since the mark, and in the generation before it.
    current: BTreeSet<u64>,
    previous: BTreeSet<u64>,
    floor: Seq,
}

impl World {
    fn new(limit: usize) -> Self {
        let mut source = vec![0; SIZE as usize];
        for (i, b) in source.iter_mut().enumerate().skip(3 * BLOCK).take(3 * BLOCK) {
            *b = (i / 100) as u8;
        }
        let mut sender = Sender::new(Epoch(1), &[SIZE]);
        sender.set_queue_limit(limit);
        sender.attached(Suspects::All);
        Self {
            source,
            sender,
            encoder: StreamEncoder::default(),
            site: FarSite::new(),
            connected: false,
            cut: Vec::new(),
            reading: Vec::new(),
            answers: Vec::new(),
            in_encoder: None,
            spool: BTreeMap::new(),
            slots: 0,
            tracking: Tracking {
                persisted: (0..SIZE.div_ceil(BLOCK as u64)).collect(),
                ..Tracking::default()
            },
            restarted: false,
        }
    }

    fn intend(&mut self, offset: u64, len: u64) {
        let b = BLOCK as u64;
        let blocks = offset / b..(offset + len).div_ceil(b);
        self.tracking.persisted.extend(blocks.clone());
        self.tracking.current.extend(blocks);
    }

    fn settle_tracking(&mut self) {
        if let Some(what) = self.sender.settle_due() {
            if what == Settle::SuspectAll {
                self.tracking.persisted = (0..SIZE.div_ceil(BLOCK as u64)).collect();
                self.tracking.current = self.tracking.persisted.clone();
                self.tracking.floor = Seq::ZERO;
            }
            self.sender.settled(what);
        }
    }

    /// What is surely at the site leaves the log.
    fn rotate(&mut self) {
        let b = BLOCK as u64;
        if let Some(floor) = self.sender.mark_passed() {
            let t = &mut self.tracking;
            t.floor = floor;
            let sender = &self.sender;
            t.persisted.retain(|n| {
                t.current.contains(n) || t.previous.contains(n) || sender.is_suspect(DISK, n * b, b)
            });
            // What is suspect now will be sent after this mark.
            let suspects =
                t.persisted.iter().copied().filter(|n| sender.is_suspect(DISK, n * b, b)).collect();
            t.previous = std::mem::replace(&mut t.current, suspects);
            self.sender.set_mark();
        } else if self.sender.mark.is_none() {
            self.sender.set_mark();
        }
    }

    /// The agent dies and comes back with what its tracking kept.
    fn restart_agent(&mut self, limit: usize, spool: u64) {
        self.disconnect();
        self.in_encoder = None;
        self.reading.clear();
        self.spool.clear();
        self.slots = 0;
        self.sender = Sender::new(Epoch(1), &[SIZE]);
        self.sender.set_queue_limit(limit);
        self.sender.set_spool_limit(spool);
        let b = BLOCK as u64;
        let ranges = self.tracking.persisted.iter().map(|n| (DISK, n * b, b)).collect();
        self.sender.attached(Suspects::Only { ranges, floor: self.tracking.floor });
        self.tracking.current = self.tracking.persisted.clone();
        self.restarted = true;
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.intend(offset, data.len() as u64);
        self.source[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        self.sender.write(now(), DISK, offset, Bytes::copy_from_slice(data));
    }

    fn zero(&mut self, offset: u64, len: u64) {
        self.intend(offset, len);
        self.source[offset as usize..(offset + len) as usize].fill(0);
        self.sender.zero(now(), DISK, offset, len);
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.site.hello();
            assert!(self.site.durable <= self.site.last);
            let same_writer = !std::mem::take(&mut self.restarted);
            let welcome = Welcomed {
                durable: self.site.last,
                has_content: self.site.records > 1,
                same_writer,
                follows: !same_writer,
            };
            self.sender.connected(now(), &welcome);
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.answers.clear();
        self.sender.disconnected();
    }

    fn tick(&mut self) {
        let before = self.sender.queue.iter().filter(|q| matches!(q.item, Item::Barrier(_))).count();
        self.sender.tick(now());
        let after = self.sender.queue.iter().filter(|q| matches!(q.item, Item::Barrier(_))).count();
        if after > before {
            self.cut.push(self.source.clone());
        }
    }

    fn encode(&mut self) {
        self.settle_tracking();
        match self.in_encoder.take() {
            None => self.in_encoder = self.sender.take_batch(BATCH / 4),
            Some(batch) => {
                let e = self.encoder.encode(&batch, 0);
                let bytes = if self.sender.spools() && !e.offer {
                    let slot = Slot { id: self.slots, len: e.frame.len() };
                    self.slots += 1;
                    self.spool.insert(slot.id, e.frame);
                    FrameBytes::Spooled(slot)
                } else {
                    FrameBytes::Memory(e.frame)
                };
                self.sender.encoded(e.last, e.offer, bytes);
                let released = self.sender.spool_released();
                self.spool.retain(|id, _| *id >= released);
            }
        }
    }

    fn transmit(&mut self) {
        let frame = match self.sender.next_frame() {
            Some(FrameBytes::Memory(bytes)) => bytes,
            Some(FrameBytes::Spooled(slot)) => self.spool[&slot.id].clone(),
            None => return,
        };
        self.answers.extend(self.site.frame(&frame));
    }

    fn ack(&mut self) {
        if self.connected {
            self.site.durable = self.site.last;
            self.sender.ack(Ack { durable: self.site.last, barrier: Seq::ZERO }).expect("ack");
        }
    }

    fn answer(&mut self) {
        if !self.answers.is_empty() {
            let a = self.answers.remove(0);
            self.sender.answered(now(), &a).expect("answer");
        }
    }

    fn begin_read(&mut self) {
        if let Some(task) = self.sender.next_task().or_else(|| self.sender.next_verify()) {
            let content = self.source[task.offset as usize..(task.offset + task.len) as usize].to_vec();
            self.reading.push((task, content));
        }
    }

    /// `torn`: each byte of the read is from its beginning or its end, as of a real read under writes.
    fn end_read(&mut self, torn: bool) {
        if self.reading.is_empty() {
            return;
        }
        let (task, mut content) = self.reading.remove(0);
        if torn {
            let later = &self.source[task.offset as usize..(task.offset + task.len) as usize];
            let half = content.len() / 2;
            content[half..].copy_from_slice(&later[half..]);
        }
        match task.kind {
            TaskKind::Scan => {
                let mut holes: Vec<(u64, u64)> = Vec::new();
                for (i, block) in content.chunks(4096).enumerate() {
                    // As old as it may be: what was written since is for the sender to cut out.
                    let at = task.offset + i as u64 * 4096;
                    if block.iter().all(|b| *b == 0) {
                        match holes.last_mut() {
                            Some((from, len)) if *from + *len == at => *len += block.len() as u64,
                            _ => holes.push((at, block.len() as u64)),
                        }
                    }
                }
                self.sender.scanned(now(), task.id, &holes);
            }
            TaskKind::Compare => {
                let hashes = content.chunks(BLOCK).map(hash_block).collect();
                self.sender.hashed(now(), task.id, content.into(), hashes);
            }
            TaskKind::Verify => {
                let hashes = content.chunks(BLOCK).map(hash_block).collect();
                self.sender.verified(now(), task.id, hashes);
            }
        }
    }

    /// Lets everything run until nothing is left to do.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..10_000 {
            self.begin_read();
            self.end_read(false);
            self.encode();
            self.transmit();
            self.answer();
            self.ack();
            self.tick();
            if self.sender.status().drained && self.in_encoder.is_none() {
                return;
            }
        }
        panic!("does not converge: {:?}", self.sender.status());
    }

    /// I1: what the site holds at each barrier is what the source held when it was cut.
    fn check(&self) {
        assert_eq!(self.site.disk, self.source, "the copy differs from the source");
        self.check_barriers();
    }

    fn check_barriers(&self) {
        let mut cut = self.cut.iter();
        for (seq, content) in &self.site.barriers {
            assert!(cut.any(|c| c == content), "barrier {seq} shows what the source never held");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Connect,
    Disconnect,
    Tick,
    Encode,
    Transmit,
    Ack,
    Answer,
    BeginRead,
    EndRead(bool),
    ReadFails,
    Suspect(u64, u64),
    SuspectAll,
    Rotate,
    RestartAgent,
    SpoolLost,
    SpoolFails,
    Verify,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SIZE - 70_000, 1usize..70_000, any::<u8>()).prop_map(|(o, l, b)| Step::Write(o, l, b)),
        1 => (0..SIZE - 200_000, 1u64..200_000).prop_map(|(o, l)| Step::Zero(o, l)),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        4 => Just(Step::Tick),
        8 => Just(Step::Encode),
        6 => Just(Step::Transmit),
        3 => Just(Step::Ack),
        4 => Just(Step::Answer),
        5 => Just(Step::BeginRead),
        5 => any::<bool>().prop_map(Step::EndRead),
        1 => Just(Step::ReadFails),
        1 => (0..SIZE - 70_000, 1u64..70_000).prop_map(|(o, l)| Step::Suspect(o, l)),
        1 => Just(Step::SuspectAll),
        3 => Just(Step::Rotate),
        1 => Just(Step::RestartAgent),
        1 => Just(Step::SpoolLost),
        1 => Just(Step::SpoolFails),
        1 => Just(Step::Verify),
    ]
}

fn run(limit: usize, spool: u64, steps: Vec<Step>) -> World {
    let mut w = World::new(limit);
    w.sender.set_spool_limit(spool);
    for s in steps {
        match s {
            Step::Write(offset, len, byte) => w.write(offset, &vec![byte; len]),
            Step::Zero(offset, len) => w.zero(offset, len),
            Step::Connect => w.connect(),
            Step::Disconnect => w.disconnect(),
            Step::Tick => w.tick(),
            Step::Encode => w.encode(),
            Step::Transmit => w.transmit(),
            Step::Ack => w.ack(),
            Step::Answer => w.answer(),
            Step::BeginRead => w.begin_read(),
            Step::EndRead(torn) => w.end_read(torn),
            Step::ReadFails => {
                if !w.reading.is_empty() {
                    let (task, _) = w.reading.remove(0);
                    w.sender.task_failed(task.id);
                }
            }
            Step::Suspect(offset, len) => w.sender.suspect(DISK, offset, len),
            Step::SuspectAll => w.sender.attached(Suspects::All),
            Step::Rotate => w.rotate(),
            Step::RestartAgent => w.restart_agent(limit, spool),
            Step::SpoolLost => {
                w.sender.spool_lost();
                w.spool.clear();
                w.disconnect();
            }
            Step::SpoolFails => w.sender.spool_failed(),
            Step::Verify => w.sender.verify(7),
        }
    }
    w
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// I1 and I5 under every interleaving of writes, reads, cuts, reconnects and overflows.
    #[test]
    fn i1_exactness_i5_convergence(limit in prop_oneof![Just(100_000usize), Just(1 << 20), Just(1 << 30)],
                                   spool in prop_oneof![Just(0u64), Just(200_000), Just(1 << 30)],
                                   steps in proptest::collection::vec(step(), 0..250)) {
        let mut w = run(limit, spool, steps);
        w.settle();
        w.check();
        let found = w.sender.verify_report().map_or(0, |v| v.different_bytes);
        prop_assert_eq!(found, 0, "no difference was planted");
    }
}

#[test]
fn a_first_sync_sends_data_and_no_holes() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.check();
    let s = w.sender.status();
    assert_eq!(s.phase, Phase::Live);
    assert_eq!(s.sent_bytes, 3 * BLOCK as u64, "only the blocks that hold data");
}

#[test]
fn a_restarted_agent_sends_only_what_differs() {
    let mut w = World::new(1 << 30);
    w.settle();
    // A new process knows nothing; meanwhile one block changed unseen.
    w.source[4 * BLOCK + 5] ^= 1;
    w.disconnect();
    w.sender = Sender::new(Epoch(1), &[SIZE]);
    w.sender.attached(Suspects::All);
    w.settle();
    w.check();
    assert_eq!(w.sender.status().sent_bytes, BLOCK as u64);
}

#[test]
fn a_full_queue_becomes_dirty_blocks_and_memory_stays_bounded() {
    let mut w = World::new(300_000);
    w.settle();
    for i in 0..200u64 {
        w.write((i * 7919) % (SIZE - 5000), &[i as u8; 5000]);
        assert!(w.sender.queue_bytes() <= 300_000 + 5000 + ENTRY_COST);
    }
    assert!(!w.sender.status().drained);
    w.settle();
    w.check();
}

#[test]
fn while_blocks_are_dirty_no_barrier_is_cut() {
    let mut w = World::new(1 << 30);
    w.settle();
    let cut = w.cut.len();
    w.sender.suspect(DISK, 0, 1);
    w.write(5 * BLOCK as u64, b"after");
    for _ in 0..5 {
        w.tick();
    }
    assert_eq!(w.cut.len(), cut);
    assert_eq!(w.sender.barrier(now(), BarrierKind::Crash), None);
    w.settle();
    assert!(w.cut.len() > cut);
    w.check();
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let mut w = World::new(1 << 30);
    w.settle();
    let far = Seq(w.site.last.0 + 1);
    assert_eq!(w.sender.ack(Ack { durable: far, barrier: Seq::ZERO }), Err(SenderError::AckOfUnsent(far)));
    w.write(0, b"queued, not sent");
    assert_eq!(w.sender.ack(Ack { durable: far, barrier: Seq::ZERO }), Err(SenderError::AckOfUnsent(far)));
}

#[test]
fn an_answer_that_does_not_fit_ends_the_session() {
    let mut w = World::new(1 << 30);
    w.connect();
    w.begin_read();
    w.end_read(false);
    w.begin_read();
    let id = w.reading[0].0.id;
    assert_eq!(
        w.sender.answered(now(), &Answer { id, needed: vec![true] }),
        Err(SenderError::BadAnswer),
        "not offered"
    );
    w.end_read(false);
    assert_eq!(
        w.sender.answered(now(), &Answer { id, needed: vec![true] }),
        Err(SenderError::BadAnswer),
        "too short"
    );
    assert_eq!(
        w.sender.answered(now(), &Answer { id: 999, needed: vec![true] }),
        Ok(()),
        "given up long ago"
    );
}

#[test]
fn a_site_that_lost_records_gets_everything_compared_again() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.write(0, b"new");
    w.settle();
    w.disconnect();
    // The site comes back from an old copy of its disk.
    let old = w.site.barriers.values().next().expect("a barrier").clone();
    w.site.disk = old;
    w.site.last = Seq(3);
    w.site.durable = Seq(3);
    w.site.barriers.clear();
    w.cut.clear();
    w.settle();
    w.check();
}

#[test]
fn zeros_that_leave_a_full_queue_are_not_forgotten() {
    let mut w = World::new(100_000);
    w.settle();
    w.zero(3 * BLOCK as u64, BLOCK as u64);
    w.write(8 * BLOCK as u64, &[9; 90_000]);
    w.write(8 * BLOCK as u64, &[8; 90_000]);
    w.settle();
    w.check();
}

#[test]
fn a_hole_that_appeared_unseen_is_found() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.source[3 * BLOCK..4 * BLOCK].fill(0);
    w.sender.attached(Suspects::All);
    w.settle();
    w.check();
}

/// Failure 13 and 21: two processes under one identity, one after the other.
#[test]
fn numbers_another_process_used_are_not_taken_for_ours() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.write(0, b"captured here, never acknowledged");
    w.encode();
    w.encode();
    w.disconnect();
    // Meanwhile another process wrote a record under the number ours has.
    let content = vec![7; 512];
    let theirs = Record {
        epoch: Epoch(1),
        seq: w.site.last.next(),
        time: now(),
        body: Body::Data {
            disk: DISK,
            offset: 8 * BLOCK as u64,
            len: 512,
            codec: lifeboat_block::Codec::Raw,
            crc: crc32c::crc32c(&content),
            payload: content.into(),
        },
    };
    w.site.apply(&theirs);
    w.connected = true;
    w.site.hello();
    let welcome = Welcomed { durable: w.site.last, has_content: true, same_writer: false, follows: false };
    w.sender.connected(now(), &welcome);
    w.settle();
    w.check();
}

/// A source that goes on unseen must leave no trace in any point.
#[test]
fn after_a_seal_the_last_writes_go_out_and_nothing_is_read() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.write(3, b"last words");
    w.sender.seal(now());
    w.cut.push(w.source.clone());
    // The machine runs on; nobody sees this.
    w.source[4 * BLOCK..5 * BLOCK].fill(0xEE);
    for _ in 0..20 {
        assert_eq!(w.sender.next_task(), None);
        w.tick();
        w.encode();
        w.transmit();
        w.ack();
    }
    assert!(w.sender.status().drained);
    assert!(!w.sender.ping(now()).live, "a lost source promises nothing");
    w.check_barriers();
    // Attached again.
    w.sender.attached(Suspects::All);
    w.settle();
    w.check();
}

#[test]
fn a_sync_cut_short_by_a_seal_cuts_no_point() {
    let mut w = World::new(1 << 30);
    w.connect();
    w.begin_read();
    w.end_read(false);
    w.begin_read();
    w.sender.seal(now());
    w.source[4 * BLOCK..5 * BLOCK].fill(0xEE);
    w.end_read(false);
    for _ in 0..20 {
        w.tick();
        w.encode();
        w.transmit();
        w.answer();
        w.ack();
    }
    assert!(w.cut.is_empty() && w.site.barriers.is_empty());
    // A reconnect to a site that lost everything does not wake it up either.
    w.disconnect();
    w.connected = true;
    let welcome = Welcomed { durable: Seq(0), has_content: false, same_writer: false, follows: false };
    w.sender.connected(now(), &welcome);
    assert_eq!(w.sender.next_task(), None);
}
