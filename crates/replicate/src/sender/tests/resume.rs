//! Resuming by tracking, the spool, verification, and those who wait for a barrier.

use super::*;
use lifeboat_base::limits::MAX_TOUCHED;

/// The site's side of a resume: only what tracking suspects is read, and what it does not is not.
#[test]
fn after_a_restart_only_suspects_are_read() {
    let mut w = World::new(1 << 30);
    w.settle();
    for _ in 0..6 {
        w.rotate();
        w.settle();
    }
    assert!(w.tracking.persisted.is_empty(), "all of it is at the site");
    w.write(4 * BLOCK as u64 + 9, b"on its way");
    w.restart_agent(1 << 30, 0);
    w.settle();
    w.check();
    assert_eq!(w.sender.status().hashed_bytes, BLOCK as u64);
    assert_eq!(w.sender.status().sent_bytes, BLOCK as u64);
}

/// A site that went back in time is not believed to have what it once acknowledged.
#[test]
fn tracking_is_not_believed_by_a_site_that_lost_records() {
    for (durable, follows) in [(Seq(2), true), (Seq(1000), false)] {
        let mut sender = Sender::new(Epoch(1), &[SIZE]);
        sender.attached(Suspects::Only { ranges: Vec::new(), floor: Seq(3) });
        let welcome = Welcomed { durable, has_content: true, same_writer: false, follows };
        sender.connected(now(), &welcome);
        assert_eq!(sender.dirty_bytes(), SIZE, "{durable} {follows}");
    }
    // In the other order: the site spoke before the source was attached.
    let mut sender = Sender::new(Epoch(1), &[SIZE]);
    sender.connected(
        now(),
        &Welcomed { durable: Seq(9), has_content: true, same_writer: false, follows: true },
    );
    sender.attached(Suspects::Only { ranges: vec![(DISK, 5, 1)], floor: Seq(9) });
    assert_eq!(sender.dirty_bytes(), BLOCK as u64);
}

/// Failure 16: points of a cut link are kept in the spool, up to its bound, and memory stays bounded.
#[test]
fn a_cut_link_costs_no_point_while_the_spool_has_room() {
    let mut w = World::new(200_000);
    w.sender.set_spool_limit(1 << 30);
    w.settle();
    w.disconnect();
    let points = w.cut.len();
    for i in 0..1500u64 {
        // Incompressible, so that frames are as large as what they carry.
        let mut x = i + 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        let data: Vec<u8> = std::iter::repeat_with(&mut next).take(40_000).collect();
        w.write((i * 7919) % (SIZE - 40_000), &data);
        w.tick();
        w.encode();
        w.encode();
    }
    let status = w.sender.status();
    assert!(status.spool_bytes > 10 << 20, "{status:?}");
    assert_eq!(status.phase, Phase::Live, "nothing was lost");
    assert!(w.cut.len() >= points + 1400);
    w.settle();
    w.check();
    assert!(w.site.barriers.len() >= w.cut.len() - 2, "every point arrived");
    assert!(w.spool.is_empty() || w.sender.spool_released() == w.slots);
}

#[test]
fn a_difference_that_nobody_captured_is_found_named_and_mended() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.source[5 * BLOCK + 77] ^= 1;
    w.sender.verify(42);
    for _ in 0..200 {
        w.begin_read();
        w.end_read(false);
        w.encode();
        w.transmit();
        w.answer();
        w.ack();
        w.tick();
    }
    let report = w.sender.verify_report().expect("a report");
    assert!(report.over, "{report:?}");
    assert_eq!((report.id, report.different_bytes, report.done_bytes), (42, BLOCK as u64, SIZE));
    let r = report.different[0];
    assert_eq!((report.different.len(), r.disk, r.offset, r.len), (1, 0, 5 * BLOCK as u64, BLOCK as u64));
    w.settle();
    assert_eq!(w.site.disk, w.source, "the copy was mended");
}

#[test]
fn a_verification_under_writes_finds_nothing() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.sender.verify(1);
    for i in 0..600u64 {
        w.write((i * 7919) % (SIZE - 5000), &[i as u8; 5000]);
        w.begin_read();
        w.write((i * 104_729) % (SIZE - 5000), &[!i as u8; 5000]);
        w.end_read(i % 2 == 0);
        w.encode();
        w.transmit();
        w.answer();
        w.ack();
        w.tick();
    }
    w.settle();
    w.check();
    let report = w.sender.verify_report().expect("a report");
    assert_eq!((report.different_bytes, &report.error[..]), (0, ""));
}

/// The promise of a synchronous flush.
#[test]
fn a_ticket_passes_when_the_site_has_its_barrier_and_not_before() {
    let mut w = World::new(1 << 30);
    assert_eq!(w.sender.ticket(now()), None, "nothing is promised before the first copy");
    w.settle();
    w.write(10, b"flushed");
    let ticket = w.sender.ticket(now()).expect("live");
    w.cut.push(w.source.clone());
    assert_eq!(w.sender.passed(ticket), Passed::NotYet);
    w.encode();
    w.encode();
    assert!(w.sender.last_framed() >= ticket.seq());
    w.transmit();
    assert_eq!(w.sender.passed(ticket), Passed::NotYet);
    w.ack();
    assert_eq!(w.sender.passed(ticket), Passed::Yes);
    assert!(w.site.barriers.values().any(|b| *b == w.source), "a point holds the write");
}

#[test]
fn a_ticket_is_lost_with_the_queue() {
    let mut w = World::new(10_000);
    w.settle();
    w.write(10, b"flushed");
    let ticket = w.sender.ticket(now()).expect("live");
    w.write(3 * BLOCK as u64, &[1; 20_000]);
    assert_eq!(w.sender.passed(ticket), Passed::Lost);
    assert_eq!(w.sender.ticket(now()), None);
}

/// A server to which nothing is written proves its RPO by points.
#[test]
fn an_idle_stream_cuts_a_canary_barrier() {
    let mut w = World::new(1 << 30);
    w.settle();
    let points = w.cut.len();
    for _ in 0..CANARY_TICKS + 1 {
        w.tick();
    }
    assert_eq!(w.cut.len(), points + 1);
}

/// Memory of a read under a storm of small writes stays bounded.
#[test]
fn a_read_that_is_written_over_too_often_is_made_again() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.sender.suspect(DISK, 0, SIZE);
    w.begin_read();
    for i in 0..2 * MAX_TOUCHED as u64 {
        w.write(8 * BLOCK as u64 + i * 101, b"x");
        assert!(w.sender.pending.iter().all(|p| p.touched.len() <= MAX_TOUCHED));
    }
    w.reading.clear();
    w.settle();
    w.check();
}

/// A mirror's first writes come before its disks can be read.
#[test]
fn what_is_captured_before_the_source_is_attached_is_suspect() {
    let mut w = World::new(1 << 30);
    w.settle();
    for _ in 0..6 {
        w.rotate();
        w.settle();
    }
    w.disconnect();
    w.sender = Sender::new(Epoch(1), &[SIZE]);
    w.write(7 * BLOCK as u64, b"early");
    w.sender.attached(Suspects::Only { ranges: Vec::new(), floor: w.tracking.floor });
    w.restarted = true;
    w.settle();
    w.check();
    assert_eq!(w.sender.status().hashed_bytes, BLOCK as u64);
    let mut sender = Sender::new(Epoch(1), &[SIZE]);
    for _ in 0..=MAX_EARLY {
        sender.zero(now(), DISK, 0, 1);
    }
    sender.attached(Suspects::Only { ranges: Vec::new(), floor: Seq(0) });
    assert_eq!(sender.dirty_bytes(), SIZE);
}

/// An acknowledgement of what goes to a branch confirms nothing: the guest's commit would be in a line nobody runs.
#[test]
fn on_a_branch_no_flush_is_confirmed() {
    let mut w = World::new(1 << 30);
    w.settle();
    w.write(10, b"flushed");
    let ticket = w.sender.ticket(now()).expect("live");
    w.cut.push(w.source.clone());
    w.disconnect();
    w.connect();
    w.sender.on_branch();
    for _ in 0..4 {
        w.encode();
        w.transmit();
        w.ack();
    }
    assert_eq!(w.sender.passed(ticket), Passed::Lost);
    assert_eq!(w.sender.ticket(now()), None);
    assert!(!w.sender.is_live());
}

/// A copy that has nothing of the source does not make the list of doubts grow with the disk.
#[test]
fn doubts_of_a_verification_are_bounded() {
    use super::super::verify::{MAX_DOUBTS, most_doubts};
    assert!(most_doubts(1 << 33) <= MAX_DOUBTS + (SYNC_TASK / BLOCK as u64) as usize);
}
