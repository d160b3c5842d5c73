use super::*;
use std::process::Command;

#[tokio::test]
async fn a_file_that_is_stopped_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let fetch = async |sink: Sink<'_>| {
        sink(Bytes::from_static(b"half")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the draft");
        // By then it is listened for.
        tokio::task::yield_now().await;
        let own = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &own]).status().unwrap().success());
        std::future::pending().await
    };
    let stopped = write_to(Some(&path), fetch).await.unwrap_err();
    assert_eq!(stopped.message, "stopped; nothing was written");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
