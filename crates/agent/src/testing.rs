//! A far end for tests: takes a stream's frames, applies them, answers and acknowledges.

use crate::stream::{Stream, StreamSettings};
use lifeboat_base::limits::{BLOCK, MAX_FRAME};
use lifeboat_base::{Clock, DiskId, Epoch, Seq, SystemClock};
use lifeboat_block::{BlockDevice, Body, Record};
use lifeboat_replicate::message::Disk;
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::sender::{FrameBytes, Welcomed};
use lifeboat_replicate::wire::{
    Ack, Answer, FRAME_HEADER, FrameType, Offer, decode_records, hash_block, parse_header,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Content of every disk.
pub type Images = Vec<Vec<u8>>;

/// What the site holds; outlives sessions.
pub struct FakeSite {
    sizes: Vec<u64>,
    held: Mutex<Held>,
}

struct Held {
    /// Nothing is acknowledged while this is set.
    mute: bool,
    disks: Images,
    announced: bool,
    writer: Option<u64>,
    last: Seq,
    points: Vec<Images>,
}

/// A session; ends when dropped.
pub struct Session {
    stream: Arc<Stream>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeSite {
    pub fn new(sizes: &[u64]) -> Arc<Self> {
        let disks = sizes.iter().map(|s| vec![0; *s as usize]).collect();
        let held =
            Held { mute: false, disks, announced: false, writer: None, last: Seq::ZERO, points: Vec::new() };
        Arc::new(Self { sizes: sizes.to_vec(), held: Mutex::new(held) })
    }

    /// Whether it acknowledges what it takes.
    pub fn set_mute(&self, mute: bool) {
        self.held.lock().mute = mute;
    }

    /// Welcomes the stream and takes what it sends.
    pub fn welcome(self: &Arc<Self>, stream: &Arc<Stream>) -> Session {
        let stop = Arc::new(AtomicBool::new(false));
        let (site, theirs, over) = (Arc::clone(self), Arc::clone(stream), Arc::clone(&stop));
        let thread = std::thread::spawn(move || site.serve(&theirs, &over));
        Session { stream: Arc::clone(stream), stop, thread: Some(thread) }
    }

    pub fn images(&self) -> Images {
        self.held.lock().disks.clone()
    }

    pub fn points(&self) -> usize {
        self.held.lock().points.len()
    }

    pub fn all_points(&self) -> Vec<Images> {
        self.held.lock().points.clone()
    }

    pub fn latest(&self) -> Images {
        self.held.lock().points.last().expect("a point").clone()
    }

    fn serve(&self, stream: &Stream, stop: &AtomicBool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let disks: Vec<Disk> = self
            .sizes
            .iter()
            .enumerate()
            .map(|(i, size)| Disk { index: i as u32, name: format!("disk{i}"), size: *size })
            .collect();
        let (last, known) = {
            let held = self.held.lock();
            (held.last, if held.announced { self.sizes.clone() } else { Vec::new() })
        };
        let mut receiver = Receiver::new(Epoch(1), last, &disks, &known).expect("session");
        let has_content = last.0 > self.sizes.len() as u64;
        let (name, lineage) = stream.names();
        let writer = self.held.lock().writer;
        let same_writer = writer == Some(name);
        let follows = writer.is_some_and(|w| lineage.contains(&w));
        let welcomed = Welcomed { durable: last, has_content, same_writer, follows };
        stream.with_sender(|s| s.connected(SystemClock.wall(), &welcomed));
        stream.welcomed(name);
        while !stop.load(Ordering::SeqCst) && !stream.stopped() {
            while let Some(frame) = stream.next_frame() {
                self.held.lock().writer = Some(name);
                let frame = match frame {
                    FrameBytes::Memory(bytes) => bytes,
                    FrameBytes::Spooled(slot) => stream.read_spooled(slot).expect("a spooled frame"),
                };
                let answer = self.take(&mut receiver, &frame);
                let (mute, durable) = {
                    let held = self.held.lock();
                    (held.mute, held.last)
                };
                stream.with_sender(|s| {
                    if !mute {
                        s.ack(Ack { durable, barrier: Seq::ZERO }).expect("an ack of what was sent");
                    }
                    if let Some(answer) = answer {
                        s.answered(SystemClock.wall(), &answer).expect("an answer that fits");
                    }
                });
            }
            let (mute, durable) = {
                let held = self.held.lock();
                (held.mute, held.last)
            };
            if !mute {
                let ack = Ack { durable, barrier: Seq::ZERO };
                stream.with_sender(|s| s.ack(ack).expect("an ack of what was sent"));
            }
            let wait = async {
                tokio::time::timeout(Duration::from_millis(20), stream.writer_wake.notified()).await
            };
            let _ = runtime.block_on(wait);
        }
        stream.with_sender(lifeboat_replicate::sender::Sender::disconnected);
    }

    fn take(&self, receiver: &mut Receiver, frame: &bytes::Bytes) -> Option<Answer> {
        let header = frame[..FRAME_HEADER].try_into().expect("a header");
        let (kind, _) = parse_header(header, MAX_FRAME).expect("a frame");
        let body = frame.slice(FRAME_HEADER..);
        let mut held = self.held.lock();
        match kind {
            FrameType::Records => {
                let records =
                    receiver.records(decode_records(body).expect("records")).expect("records that fit");
                records.iter().for_each(|r| held.apply(r));
                None
            }
            FrameType::Offer => {
                let offer = Offer::decode(body).expect("an offer");
                let disk = &held.disks[usize::from(offer.disk.0)];
                let needed = offer.hashes.iter().enumerate().map(|(i, hash)| {
                    let at = offer.offset as usize + i * BLOCK;
                    hash_block(&disk[at..(at + BLOCK).min(disk.len())]) != *hash
                });
                Some(Answer { id: offer.id, needed: needed.collect() })
            }
            other => panic!("{other:?} in a stream"),
        }
    }
}

impl Held {
    fn apply(&mut self, r: &Record) {
        assert_eq!(r.seq, self.last.next());
        self.last = r.seq;
        let at = |DiskId(i): DiskId| usize::from(i);
        match &r.body {
            Body::Data { disk, offset, .. } => {
                let (content, from) = (r.content().expect("content"), *offset as usize);
                self.disks[at(*disk)][from..from + content.len()].copy_from_slice(&content);
            }
            Body::Zero { disk, offset, len } => {
                self.disks[at(*disk)][*offset as usize..(*offset + *len) as usize].fill(0);
            }
            Body::Barrier { .. } => self.points.push(self.disks.clone()),
            Body::Disk { .. } => self.announced = true,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.stream.writer_wake.notify_one();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the fake site died");
        }
    }
}

/// A stream with its threads; they end when dropped.
pub struct Running {
    pub stream: Arc<Stream>,
    threads: Vec<JoinHandle<()>>,
}

pub fn start(sizes: &[u64]) -> Running {
    start_with(StreamSettings::plain(Epoch(1), sizes))
}

pub fn start_with(settings: StreamSettings) -> Running {
    let stream = Stream::new(Arc::new(SystemClock), settings);
    let threads = stream.start().expect("threads");
    Running { stream, threads }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stream.stop();
        for t in self.threads.drain(..) {
            assert!(t.join().is_ok() || std::thread::panicking(), "a stream's thread died");
        }
    }
}

/// Waits for a condition, not for a time.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = SystemClock.monotonic();
    while !condition() {
        assert!(SystemClock.monotonic() - start < PATIENCE, "{what} did not happen");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A device's whole content.
pub fn content(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    device.read(0, &mut bytes).expect("reads");
    bytes
}
