use super::*;
use crate::wire::{Ack, Ping};
use lifeboat_base::limits::MAX_FRAME;
use lifeboat_base::{Seq, WallTime};

fn run<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(f)
}

const SILENCE: Duration = Duration::from_millis(400);

/// Failure 12 and 16: a frame that takes longer than the silence allowed, because the link is slow.
#[test]
fn a_slow_frame_is_not_silence() {
    run(async {
        let (mut near, mut far) = tokio::io::duplex(1);
        let frame = Ping { seq: Seq(7), time: WallTime(1), lag_bytes: 0, live: false }.frame();
        let sending = tokio::spawn(async move {
            for byte in frame.chunks(1) {
                far.write_all(byte).await.expect("write");
                tokio::time::sleep(SILENCE / 20).await;
            }
            far
        });
        let (kind, body) = read_frame(&mut near, MAX_FRAME, SILENCE).await.expect("a slow peer is a peer");
        assert_eq!(kind, FrameType::Ping);
        assert_eq!(Ping::decode(body).expect("ping").seq, Seq(7));
        drop(sending.await);
    });
}

#[test]
fn a_peer_that_stops_in_the_middle_is_silent() {
    run(async {
        let (mut near, mut far) = tokio::io::duplex(64);
        let frame = Ack::default().frame();
        far.write_all(&frame[..frame.len() - 1]).await.expect("write");
        let outcome = read_frame(&mut near, MAX_FRAME, Duration::from_millis(30)).await;
        assert!(matches!(outcome, Err(ShellError::Silent(_))), "{outcome:?}");
    });
}

/// The same the other way: a peer that takes little at a time is there, one that takes nothing is not.
#[test]
fn a_frame_that_is_taken_slowly_is_taken() {
    run(async {
        let (near, mut far) = tokio::io::duplex(1);
        let mut near = near;
        let frame = Ping { seq: Seq(7), time: WallTime(1), lag_bytes: 0, live: false }.frame();
        let len = frame.len();
        let sending =
            tokio::spawn(async move { write_patiently(&mut near, &frame, SILENCE).await.map(|()| near) });
        let mut byte = [0; 1];
        for _ in 0..len {
            far.read_exact(&mut byte).await.expect("read");
            tokio::time::sleep(SILENCE / 20).await;
        }
        let mut near = sending.await.expect("task").expect("a slow peer is a peer");
        let outcome = write_patiently(&mut near, &[0; 64], Duration::from_millis(30)).await;
        assert!(matches!(outcome, Err(ShellError::Silent(_))), "{outcome:?}");
    });
}
