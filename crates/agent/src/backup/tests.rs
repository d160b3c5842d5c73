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
