use super::*;

fn splitter(paths: &[&str], sizes: &[u64]) -> Result<()> {
    let disks = sizes.iter().map(|size| Disk { index: 0, name: "d".into(), size: *size }).collect();
    let spec = CaptureSpec::Splitter { paths: paths.iter().map(|p| (*p).to_owned()).collect(), listen: None };
    check_disks(&Assignment { disks, ..Assignment::default() }, &spec)
}

#[test]
fn an_assignment_that_makes_no_sense_is_refused_before_memory_is_asked_for() {
    assert!(splitter(&["/a", "/b"], &[512, 1024]).is_ok());
    let bad: [(&[&str], &[u64], &str); 5] = [
        (&[], &[], "0 disks"),
        (&["/a"], &[0], "0 bytes"),
        (&["/a"], &[u64::MAX], "18446744073709551615 bytes"),
        (&["/a"], &[512, 512], "1 paths for 2 disks"),
        (&["/a"; MAX_DISKS + 1], &[512; MAX_DISKS + 1], "65 disks"),
    ];
    for (paths, sizes, what) in bad {
        let e = splitter(paths, sizes).expect_err(what);
        assert!(e.to_string().contains(what), "{e}");
    }
}

#[test]
fn a_probe_that_is_not_understood_says_what_to_do() {
    let answer = answer_probe(&Probe { capture: "{\"telepathy\":{}}".into() });
    let error = answer.error.expect("an error");
    assert!(error.invalid && error.hint.contains("same version"), "{error:?}");
}

/// I1: who writes to the source while no agent is there is not seen, and not overlooked.
#[test]
fn a_file_that_was_changed_after_the_last_sign_of_life_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("disk.img");
    fs::write(&path, b"content").expect("write");
    let path = path.to_str().expect("a name");
    let changed = fs::metadata(path).and_then(|m| m.modified()).expect("a time");
    let changed = changed.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    assert!(changed_since(path, WallTime(changed - 1)));
    assert!(!changed_since(path, WallTime(changed)));
    assert!(!changed_since("/dev/null", WallTime(0)), "of a device it is not known");
}
