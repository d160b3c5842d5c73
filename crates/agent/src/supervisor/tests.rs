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
