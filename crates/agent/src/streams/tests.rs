use super::*;
use crate::testing::{FakeSite, Session, content, start, until};
use bytes::Bytes;
use lifeboat_base::DiskId;
use lifeboat_block::{BlockDevice, MemoryDevice};
use lifeboat_replicate::sender::Suspects;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZE: u64 = 1 << 20;

fn id(n: u8) -> ServerId {
    ServerId::from_slice(&[n; 16]).expect("an id")
}

struct Member {
    device: Arc<MemoryDevice>,
    site: Arc<FakeSite>,
    run: crate::testing::Running,
    _session: Session,
}

fn member(streams: &Streams, n: u8) -> Member {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let site = FakeSite::new(&[SIZE]);
    let run = start(&[SIZE]);
    run.stream.attach(vec![device.clone()], Suspects::All);
    let session = site.welcome(&run.stream);
    until("the first sync", || run.stream.status().drained);
    streams.insert(id(n), Arc::clone(&run.stream));
    Member { device, site, run, _session: session }
}

fn write(m: &Member, offset: u64, data: &'static [u8]) {
    m.device.write(offset, Bytes::from_static(data)).expect("write");
    m.run.stream.write(DiskId(0), offset, Bytes::from_static(data));
}

fn hold(servers: &[u8], barrier: u64, limit_ms: u32) -> Hold {
    Hold { barrier, servers: servers.iter().map(|n| id(*n).as_bytes().to_vec()).collect(), limit_ms }
}

/// What depends on a write of one member is behind the barrier of the other too.
#[test]
fn no_write_completes_between_hold_and_cut() {
    let streams = Streams::default();
    let (a, b) = (member(&streams, 1), member(&streams, 2));
    write(&a, 0, b"before");
    assert_eq!(streams.hold(&hold(&[1, 2], 7, 2000)), HoldResult::default());
    let (a_images, b_images) = (content(&*a.device), content(&*b.device));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write(&a, 4096, b"held");
            done.store(true, Ordering::SeqCst);
            write(&b, 4096, b"depends on it");
        });
        until("the writer waits at the source", || content(&*a.device) != a_images);
        assert!(!done.load(Ordering::SeqCst));
        let result = streams.cut(&Cut { barrier: 7, abandon: false });
        assert_eq!((result.cuts.len(), &result.error[..]), (2, ""), "{result:?}");
        assert!(result.cuts.iter().all(|c| c.seq > 0));
    });
    for (m, image) in [(&a, &a_images), (&b, &b_images)] {
        assert!(m.run.stream.drain(std::time::Duration::from_secs(60)));
        assert!(m.site.all_points().iter().any(|p| p[0] == *image), "the moment of the cut is a point");
    }
}

#[test]
fn a_hold_ends_by_itself_and_the_cut_after_it_is_refused() {
    let streams = Streams::default();
    let a = member(&streams, 1);
    assert_eq!(streams.hold(&hold(&[1], 7, 30)), HoldResult::default());
    write(&a, 0, b"goes on when the time is over");
    let result = streams.cut(&Cut { barrier: 7, abandon: false });
    assert!(result.cuts.is_empty() && result.error.contains("too long"), "{result:?}");
    // And once more: nothing is left of it.
    assert!(streams.cut(&Cut { barrier: 7, abandon: false }).error.contains("nothing is held"));
}

#[test]
fn either_all_are_held_or_none() {
    let streams = Streams::default();
    let a = member(&streams, 1);
    let result = streams.hold(&hold(&[1, 9], 7, 2000));
    assert!(result.error.contains("not captured here"), "{result:?}");
    write(&a, 0, b"is not held");
    // A member that catches up cannot cut.
    a.run.stream.suspect(DiskId(0), 0, SIZE);
    let result = streams.hold(&hold(&[1], 8, 2000));
    let caught_up = result.error.is_empty();
    assert!(caught_up || result.error.contains("catching up"), "{result:?}");
    assert!(!streams.hold(&hold(&[], 9, 1)).error.is_empty());
    assert!(!streams.hold(&hold(&[1; MAX_GROUP + 1], 9, 1)).error.is_empty());
}

#[test]
fn an_abandoned_barrier_lets_writes_go_on() {
    let streams = Streams::default();
    let a = member(&streams, 1);
    assert_eq!(streams.hold(&hold(&[1], 7, 2000)), HoldResult::default());
    assert!(streams.cut(&Cut { barrier: 8, abandon: true }).error.contains("nothing is held"));
    let points = a.site.points();
    assert_eq!(streams.cut(&Cut { barrier: 7, abandon: true }), CutResult::default());
    write(&a, 0, b"on");
    assert!(a.run.stream.drain(std::time::Duration::from_secs(60)));
    assert!(a.site.points() > points);
}
