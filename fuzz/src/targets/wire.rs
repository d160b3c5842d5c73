//! The replication wire: what an agent's or a site's peer sends.

use bytes::Bytes;
use lifeboat_base::limits::{MAX_DISK, MAX_FRAME, MAX_RECORD};
use lifeboat_base::{Epoch, Seq};
use lifeboat_block::{Body, Record};
use lifeboat_replicate::message::restore::RestoreFrame;
use lifeboat_replicate::message::{Assignments, BackupFrame, Control, Disk, Hello, Refuse, Welcome, hello};
use lifeboat_replicate::receiver::Receiver;
use lifeboat_replicate::shell::read_frame;
use lifeboat_replicate::wire::{
    Ack, Answer, FRAME_HEADER, FrameType, Offer, Ping, RecordsFrame, decode_message, decode_records,
    message_frame,
};
use prost::Message;
use std::time::Duration;

/// Frames as they come in, from the hello on; records pass the receiver of the disks that the hello told.
pub fn session(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    }
    let mut stream = data;
    let mut receiver = None;
    let mut last = Seq::ZERO;
    let silence = Duration::from_secs(5);
    while let Ok((kind, body)) = RUNTIME.with(|r| r.block_on(read_frame(&mut stream, MAX_FRAME, silence))) {
        match kind {
            FrameType::Hello => receiver = hello(&body),
            FrameType::Records => {
                let (Ok(records), Some(receiver)) = (decode_records(body), receiver.as_mut()) else {
                    continue;
                };
                if let Ok(taken) = receiver.records(records) {
                    last = follows(receiver, last, &taken);
                }
            }
            FrameType::Offer => {
                if let (Ok(offer), Some(r)) = (Offer::decode(body), receiver.as_ref()) {
                    let _ = r.range(offer.disk, offer.offset, 1);
                }
            }
            _ => drop(decode_message::<Control>(&body)),
        }
    }
}

fn hello(body: &[u8]) -> Option<Receiver> {
    let hello: Hello = decode_message(body).ok()?;
    let Some(hello::Session::Stream(stream)) = hello.session else { return None };
    let known: Vec<u64> = stream.disks.iter().map(|d| d.size / 2).collect();
    Receiver::new(Epoch(stream.epoch), Seq::ZERO, &stream.disks, &known).ok()
}

/// What a receiver lets through is in order, without a gap, and inside its disks.
fn follows(receiver: &Receiver, mut last: Seq, taken: &[Record]) -> Seq {
    for r in taken {
        assert!(last == Seq::ZERO || r.seq == last.next(), "{} after {last}", r.seq);
        last = r.seq;
        let (disk, end) = match r.body {
            Body::Data { disk, offset, len, .. } => (disk, offset + u64::from(len)),
            Body::Zero { disk, offset, len } => (disk, offset + len),
            Body::Disk { disk, size } => (disk, size),
            Body::Barrier { .. } => continue,
        };
        assert!(end <= receiver.sizes()[usize::from(disk.0)], "{r:?}");
    }
    last
}

/// The body of one frame of records: bounds, contents, and back.
pub fn records(data: &[u8]) {
    let Ok(records) = decode_records(Bytes::copy_from_slice(data)) else { return };
    let Some(first) = records.first() else { return };
    let mut again = RecordsFrame::new(first.epoch, first.seq, data.len());
    for r in &records {
        match &r.body {
            Body::Data { offset, len, .. } => {
                assert!(*len as usize <= MAX_RECORD && offset + u64::from(*len) <= MAX_DISK);
            }
            Body::Zero { offset, len, .. } => {
                assert!(offset.checked_add(*len).is_some_and(|e| e <= MAX_DISK))
            }
            _ => {}
        }
        if let Ok(content) = r.content() {
            assert!(content.len() <= MAX_RECORD);
        }
        again.push(r.time, &r.body);
    }
    let frame = again.finish();
    assert_eq!(decode_records(frame.slice(FRAME_HEADER..)).unwrap(), records);
}

/// The small fixed bodies; the first byte says which.
pub fn bodies(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    match which % 4 {
        0 => {
            if let Ok(x) = Offer::decode(body) {
                assert_eq!(Offer::decode(x.frame().slice(FRAME_HEADER..)), Ok(x));
            }
        }
        1 => {
            if let Ok(x) = Answer::decode(body) {
                assert_eq!(Answer::decode(x.frame().slice(FRAME_HEADER..)), Ok(x));
            }
        }
        2 => {
            if let Ok(x) = Ack::decode(body) {
                assert_eq!(Ack::decode(x.frame().slice(FRAME_HEADER..)), Ok(x));
            }
        }
        _ => {
            if let Ok(x) = Ping::decode(body) {
                assert_eq!(Ping::decode(x.frame().slice(FRAME_HEADER..)), Ok(x));
            }
        }
    }
}

/// Handshake and control messages, and the frames of backups and restores; the first byte says which.
pub fn messages(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    match which % 7 {
        0 => back::<Hello>(FrameType::Hello, body),
        1 => back::<Welcome>(FrameType::Welcome, body),
        2 => back::<Refuse>(FrameType::Refuse, body),
        3 => back::<Control>(FrameType::Control, body),
        4 => back::<Assignments>(FrameType::Control, body),
        5 => back::<BackupFrame>(FrameType::Backup, body),
        _ => back::<RestoreFrame>(FrameType::Restore, body),
    }
    if let Ok(disk) = Disk::decode(body) {
        let _ = Receiver::new(Epoch(1), Seq::ZERO, &[disk], &[]);
    }
}

fn back<M: Message + Default + PartialEq + std::fmt::Debug>(kind: FrameType, body: &[u8]) {
    if let Ok(message) = decode_message::<M>(body) {
        let frame = message_frame(kind, &message);
        assert_eq!(decode_message::<M>(&frame[FRAME_HEADER..]), Ok(message));
    }
}
