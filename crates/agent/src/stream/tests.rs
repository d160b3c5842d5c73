use super::*;
use crate::testing::{FakeSite, content, start, until};
use lifeboat_base::limits::{AGENT_QUEUE, MIB};
use lifeboat_block::fault::{Call, Failure, Fault};
use lifeboat_block::{FaultDevice, MemoryDevice};

const SIZE: u64 = 40 * BLOCK as u64 + 512;

fn device(byte: u8) -> Arc<MemoryDevice> {
    let d = MemoryDevice::new(SIZE);
    d.write(5 * BLOCK as u64 + 100, Bytes::from(vec![byte; 3 * BLOCK])).expect("write");
    Arc::new(d)
}

fn change(device: &MemoryDevice, stream: &Stream, disk: u16, offset: u64, data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    device.write(offset, data.clone()).expect("write");
    stream.write(DiskId(disk), offset, data);
}

#[test]
fn several_disks_arrive_in_one_stream() {
    let (a, b) = (device(1), device(2));
    let site = FakeSite::new(&[SIZE, SIZE]);
    let run = start(&[SIZE, SIZE]);
    run.stream.attach(vec![a.clone(), b.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the first sync", || run.stream.status().drained);
    change(&a, &run.stream, 0, SIZE - 512, &[3; 512]);
    change(&b, &run.stream, 1, 0, &[4; 5000]);
    assert!(run.stream.drain(Duration::from_secs(60)));
    assert_eq!(site.latest(), [content(&*a), content(&*b)]);
}

/// Failure 10 and I5: no session at all, and more writes than are kept.
#[test]
fn a_capture_never_waits_for_the_network() {
    let size = 3 * AGENT_QUEUE as u64;
    let d = Arc::new(MemoryDevice::new(size));
    let site = FakeSite::new(&[size]);
    let run = start(&[size]);
    run.stream.attach(vec![d.clone()], Suspects::All);
    drop({
        let session = site.welcome(&run.stream);
        until("the first sync", || run.stream.status().drained);
        session
    });
    for i in 0..size / MIB as u64 {
        change(&d, &run.stream, 0, i * MIB as u64, &vec![i as u8 + 1; MIB]);
    }
    let points = site.points();
    let _session = site.welcome(&run.stream);
    until("the copy", || run.stream.status().drained && site.points() > points);
    assert_eq!(site.latest(), [content(&*d)]);
}

/// Failure 11.
#[test]
fn a_source_that_cannot_be_read_is_told_and_tried_again_without_a_storm() {
    let inner = device(1);
    let d = Arc::new(FaultDevice::new(inner.clone()));
    d.fail(Fault { call: Some(Call::Read), nth: 1, forever: true, failure: Failure::Eio });
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![d.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the trouble", || run.stream.trouble().is_some());
    let calls = d.calls();
    for _ in 0..500 {
        run.stream.with_sender(|_| ());
        std::thread::yield_now();
    }
    assert!(d.calls() - calls < 5, "{} reads of what cannot be read", d.calls() - calls);
    assert_eq!(site.points(), 0, "no point without the data");
    d.heal();
    until("the sync", || run.stream.status().drained);
    assert_eq!(run.stream.trouble(), None);
    assert_eq!(site.latest(), [content(&*inner)]);
}

/// A machine that is detached runs on: no point may mix what was captured with what it writes then.
#[test]
fn what_is_written_after_the_source_was_lost_is_in_no_point_before_it_is_compared() {
    let d = device(1);
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![d.clone()], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the first sync", || run.stream.status().drained);
    change(&d, &run.stream, 0, 700, b"the last write seen");
    run.stream.seal();
    let last_seen = content(&*d);
    d.write(0, Bytes::from_static(b"unseen")).expect("write");
    assert!(run.stream.drain(Duration::from_secs(60)), "what was captured is worth a moment");
    assert_eq!(site.latest(), [last_seen]);
    let points = site.points();
    run.stream.detach();
    assert!(!run.stream.drain(Duration::from_millis(300)), "there is nothing to read from");
    assert_eq!(site.points(), points);
    run.stream.attach(vec![d.clone()], Suspects::All);
    until("the comparison", || run.stream.status().drained);
    assert_eq!(site.latest(), [content(&*d)]);
}

#[test]
fn fewer_disks_than_expected_is_trouble_and_no_panic() {
    let site = FakeSite::new(&[SIZE, SIZE]);
    let run = start(&[SIZE, SIZE]);
    run.stream.attach(vec![device(1)], Suspects::All);
    let _session = site.welcome(&run.stream);
    until("the trouble", || run.stream.trouble().is_some_and(|t| t.contains("fewer disks")));
}

/// A device that says nothing of where its data is.
struct Mute(MemoryDevice);

impl BlockDevice for Mute {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.0.write(offset, data)
    }
    fn write_zeroes(&self, offset: u64, len: u64, mode: lifeboat_block::ZeroMode) -> Result<(), BlockError> {
        self.0.write_zeroes(offset, len, mode)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
    fn status(&self, _: u64, _: u64) -> Result<Vec<lifeboat_block::Extent>, BlockError> {
        Ok(Vec::new())
    }
}

#[test]
fn a_source_that_tells_no_holes_is_read() {
    assert_eq!(holes(&Mute(MemoryDevice::new(SIZE)), 0, SIZE).expect("status"), []);
}
