use super::*;

fn run(len: u64, kind: ExtentKind) -> Extent {
    Extent { len, kind }
}

#[test]
fn runs_are_joined_and_cut() {
    use ExtentKind::{Data, Hole, Zero};
    let runs = [run(8192, Hole), run(4096, Zero), run(512, Data), run(512, Hole), run(100_000, Data)];
    assert_eq!(join_runs(&runs, 20_000), [(12_288, true), (7712, false)]);
    // A device that says nothing, or nothing but emptiness, still lets a read end.
    assert_eq!(join_runs(&[], 512), [(512, false)]);
    assert_eq!(join_runs(&[run(0, Data)], 512), [(512, false)]);
}

#[test]
fn device_errors_have_their_numbers() {
    let outside = || BlockError::OutOfRange { offset: 1, len: 1, size: 1 };
    assert_eq!(errno_of(&outside(), command::READ), Errno::Invalid);
    assert_eq!(errno_of(&outside(), command::TRIM), Errno::Invalid);
    assert_eq!(errno_of(&outside(), command::WRITE), Errno::NoSpace);
    assert_eq!(errno_of(&outside(), command::WRITE_ZEROES), Errno::NoSpace);
    for (error, errno) in [
        (BlockError::ReadOnly, Errno::Permission),
        (BlockError::NoSpace, Errno::NoSpace),
        (BlockError::Shutdown, Errno::Shutdown),
        (BlockError::Corrupt("x".into()), Errno::Io),
        (BlockError::Io(io::Error::other("x")), Errno::Io),
    ] {
        assert_eq!(errno_of(&error, command::WRITE), errno);
    }
}
