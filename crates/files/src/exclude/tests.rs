use super::*;

fn exclude(patterns: &[&str]) -> Exclude {
    let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_string()).collect();
    Exclude::new(&patterns, &[]).unwrap()
}

#[test]
fn patterns_are_those_of_gitignore_from_the_root_on() {
    let e = exclude(&["*.o", "!keep.o", "/var/cache", "node_modules/", "**/tmp/*"]);
    for (path, directory, out) in [
        ("/a/b.o", false, true),
        ("/a/keep.o", false, false),
        ("/var/cache", true, true),
        ("/x/var/cache", true, false),
        ("/p/node_modules", true, true),
        ("/p/node_modules", false, false),
        ("/p/tmp/x", false, true),
        ("/p/tmp", true, false),
    ] {
        assert_eq!(e.matches(path.as_bytes(), directory), out, "{path}");
    }
}

#[test]
fn a_pattern_that_is_none_is_named() {
    let error = Exclude::new(&["a{b".into()], &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot leave out 'a{b'"), "{error}");
    assert!(Exclude::new(&vec!["a".into(); MAX_PATTERNS + 1], &[]).is_err());
}
