#![allow(clippy::unwrap_used)]
use super::*;
use crate::fake::entropy;
use lifeboat_base::ManualClock;
use std::os::unix::fs::PermissionsExt;

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::default())
}

#[tokio::test]
async fn a_new_site_has_a_ca_a_store_and_one_admin_token_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let new = init(dir.path(), "dr-site", clock(), &entropy(1)).await.unwrap();
    assert!(new.admin_token.starts_with("lb_"));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    assert_eq!(load_ca(dir.path()).unwrap().fingerprint(), new.fingerprint);
    let store = open_store(dir.path(), clock()).await.unwrap();
    assert_eq!(store.meta("site").await.unwrap().as_deref(), Some("dr-site"));
    let token = store.tokens().await.unwrap().pop().unwrap();
    let secret = secret::Secret::parse_person(&new.admin_token).unwrap();
    assert!(secret.matches(&token.hash) && token.kind == TokenKind::Admin && token.expires.is_none());
    store.close().await;
    let bytes = std::fs::read(dir.path().join(STORE)).unwrap();
    let text = new.admin_token.rsplit('_').next().unwrap().as_bytes();
    assert!(!bytes.windows(text.len()).any(|w| w == text), "the secret is not in the store");
}

#[tokio::test]
async fn what_exists_is_never_overwritten() {
    for file in [CA_CERTIFICATE, CA_KEY, STORE] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file), b"precious").unwrap();
        let e = init(dir.path(), "s", clock(), &entropy(1)).await.unwrap_err();
        assert!(
            e.to_string().ends_with("exists already; use another directory, or remove the site there first")
        );
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read(dir.path().join(file)).unwrap(), b"precious");
    }
}

#[tokio::test]
async fn a_failed_start_leaves_nothing_and_a_missing_site_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    assert!(matches!(init(&none, "s", clock(), &entropy(1)).await, Err(InitError::File { .. })));
    assert!(!none.exists());
    let e = load_ca(dir.path()).unwrap_err();
    assert_eq!(
        e.to_string(),
        format!("there is no site in {}; make one with `lifeboat init`", dir.path().display())
    );
    assert!(matches!(open_store(dir.path(), clock()).await, Err(InitError::Missing(_))));
    // The store cannot be made: what was made before it goes again.
    std::fs::create_dir(dir.path().join(format!("{STORE}-wal"))).unwrap();
    assert!(init(dir.path(), "s", clock(), &entropy(1)).await.is_err());
    assert!(!dir.path().join(CA_KEY).exists() && !dir.path().join(STORE).exists());
}
