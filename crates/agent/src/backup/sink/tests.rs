use super::*;
use std::sync::Arc;

fn content(n: u32, len: usize) -> (Hash, Bytes) {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    let bytes = Bytes::from(bytes);
    (blake3::hash(&bytes), bytes)
}

fn offer(frame: BackupFrame) -> BackupOffer {
    match frame.body {
        Some(backup::Body::Offer(offer)) => offer,
        other => panic!("{other:?}"),
    }
}

/// A site that lacks everything: what is in memory meanwhile stays within the window.
#[tokio::test]
async fn what_is_not_answered_is_bounded_and_everything_arrives_in_order() {
    let (sink, mut offers) = Sink::new(None);
    let sink = Arc::new(sink);
    let (out, mut blobs) = mpsc::channel::<BackupFrame>(4);
    let putting = {
        let sink = Arc::clone(&sink);
        tokio::task::spawn_blocking(move || {
            for n in 0..200 {
                let (hash, bytes) = content(n, 512 << 10);
                sink.put(BlobKind::File, hash, bytes).unwrap();
            }
            sink.finish().unwrap();
        })
    };
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(frame) = blobs.recv().await {
            let Some(backup::Body::Blob(blob)) = frame.body else { panic!() };
            seen.push(u32::from_le_bytes(blob.content[..4].try_into().unwrap()));
        }
        seen
    });
    let mut answered = 0;
    while answered < 200 {
        let offer = offer(offers.recv().await.unwrap());
        let held = sink.window.lock().bytes;
        assert!(held <= BACKUP_WINDOW, "{held}");
        let needed = (0..offer.blobs.len() as u32).collect();
        answered += offer.blobs.len();
        sink.answered(&BackupNeeded { blobs: needed }, &out).await.unwrap();
    }
    putting.await.unwrap();
    drop(out);
    assert_eq!(reading.await.unwrap(), (0..200).collect::<Vec<_>>());
    assert_eq!(sink.window.lock().bytes, 0);
}

#[tokio::test]
async fn answers_that_answer_nothing_are_refused() {
    let (sink, _offers) = Sink::new(None);
    let (out, _blobs) = mpsc::channel(4);
    let error = sink.answered(&BackupNeeded::default(), &out).await.unwrap_err().to_string();
    assert_eq!(error, "the site answered what was not offered");
    let (hash, bytes) = content(1, 3 << 20);
    sink.put(BlobKind::File, hash, bytes).unwrap();
    let error = sink.answered(&BackupNeeded { blobs: vec![1] }, &out).await.unwrap_err().to_string();
    assert_eq!(error, "the site asked for what was not offered");
}

#[tokio::test]
async fn a_session_that_ends_lets_nobody_wait() {
    let (sink, _offers) = Sink::new(None);
    let sink = Arc::new(sink);
    let putting = {
        let sink = Arc::clone(&sink);
        tokio::task::spawn_blocking(move || {
            (0..1000).try_for_each(|n| {
                let (hash, bytes) = content(n, 512 << 10);
                sink.put(BlobKind::File, hash, bytes)
            })
        })
    };
    sink.close();
    assert!(putting.await.unwrap().is_err());
    assert!(sink.finish().is_err());
}

/// A tree that is too large is not kept in memory: an agent also replicates.
#[tokio::test]
async fn what_is_remembered_of_a_tree_is_bounded() {
    let (sink, _offers) = Sink::new(None);
    sink.set_root(blake3::hash(b"root"));
    let (_, blob) = content(1, 1 << 20);
    for n in 0..(MAX_REMEMBERED_TREE >> 20) {
        sink.remember(blake3::hash(&n.to_le_bytes()), &blob).unwrap();
    }
    assert!(sink.walked().is_some());
    sink.remember(blake3::hash(b"one more"), &blob).unwrap();
    assert!(sink.walked().is_none() && sink.trees.is_empty());
}

/// A file may hold the very bytes a directory is stored as: both are offered, as what they are.
#[tokio::test]
async fn content_that_is_a_tree_elsewhere_does_not_stand_for_it() {
    let (sink, mut offers) = Sink::new(None);
    let hash = lifeboat_files::tree::Directory::store(&[], &MemoryBlobs::default()).unwrap();
    let empty = Bytes::from_static(b"LT\x01\x01");
    assert_eq!(blake3::hash(&empty), hash);
    sink.put(BlobKind::File, hash, empty.clone()).unwrap();
    assert!(sink.has(BlobKind::File, &hash).unwrap() && !sink.has(BlobKind::Tree, &hash).unwrap());
    sink.put(BlobKind::Tree, hash, empty).unwrap();
    sink.offer(&mut sink.window.lock()).unwrap();
    let offered = offer(offers.recv().await.unwrap());
    assert_eq!(offered.blobs.iter().map(|b| b.tree).collect::<Vec<_>>(), [false, true]);
}
