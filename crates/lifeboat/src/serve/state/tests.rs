use super::*;

#[test]
fn a_second_process_is_told_who_serves() {
    let dir = tempfile::tempdir().unwrap();
    let held = StateDir::lock(dir.path()).unwrap();
    let refused = StateDir::lock(dir.path()).unwrap_err();
    assert_eq!(refused.exit, Exit::Refused);
    assert!(refused.message.ends_with(&format!("already served by pid {}", std::process::id())), "{refused}");
    drop(held);
    StateDir::lock(dir.path()).unwrap();
}

#[test]
fn a_failed_init_takes_everything_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b");
    let fresh = Fresh::claim(&dir).unwrap();
    fs::create_dir(dir.join("keys")).unwrap();
    write_new(&dir.join("keys/k"), b"k", 0o600).unwrap();
    drop(fresh);
    assert!(!root.path().join("a").exists());
}

#[test]
fn an_empty_directory_stays_when_init_fails() {
    let root = tempfile::tempdir().unwrap();
    let fresh = Fresh::claim(root.path()).unwrap();
    write_new(&root.path().join("x"), b"x", 0o600).unwrap();
    drop(fresh);
    assert!(root.path().exists() && !root.path().join("x").exists());
}

#[test]
fn what_is_there_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("mine"), "mine").unwrap();
    assert!(Fresh::claim(root.path()).unwrap_err().message.contains("not empty: it holds mine"));
    assert_eq!(fs::read(root.path().join("mine")).unwrap(), b"mine");
    fs::rename(root.path().join("mine"), root.path().join(CONFIG)).unwrap();
    assert!(Fresh::claim(root.path()).unwrap_err().message.contains("a site"));
    assert!(root.path().join(CONFIG).exists());
}
