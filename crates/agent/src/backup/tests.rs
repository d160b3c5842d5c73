//! What is told of a backup.

use super::*;
use lifeboat_files::report::Problems;
use prost::Message;

/// A hundred long paths are cut to what a frame may hold; the count tells of the rest.
#[test]
fn what_is_told_of_problems_fits_into_a_frame() {
    let problems = Problems::default();
    for n in 0..100 {
        problems.add("\u{30d5}".repeat(4096).as_bytes(), n);
    }
    let walked = Walked {
        root: blake3::hash(b"root"),
        files: 0,
        directories: 0,
        bytes: 0,
        files_read: 0,
        bytes_read: 0,
        problems: problems.take(),
    };
    let done = done(walked);
    assert!(done.problems.len() > 10 && done.problem_count == 100, "{}", done.problems.len());
    let frame = frame(backup::Body::Done(done));
    assert!(frame.encoded_len() < MAX_BACKUP_FRAME, "{}", frame.encoded_len());
}

/// A walk that hangs on a dead file system keeps its place when its session ends, and gives it back when it goes on.
#[tokio::test]
async fn a_backup_is_over_when_its_walk_is() {
    let (here, there) = tokio::io::duplex(64 << 10);
    let (mut reader, mut writer) = tokio::io::split(there);
    let (go_on, held) = std::sync::mpsc::channel();
    let making = tokio::spawn(async move {
        let hang = move |_: &Sink, _: &Monitor| {
            held.recv()?;
            bail!("it goes on")
        };
        make(&mut reader, &mut writer, None, hang).await.map(|(_, files)| files)
    });
    drop(here);
    // As much as ending without waiting for the walk would take, and more.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!making.is_finished());
    go_on.send(()).unwrap();
    assert!(making.await.unwrap().is_err());
}
