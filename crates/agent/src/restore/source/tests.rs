use super::*;
use lifeboat_files::blob::MemoryBlobs;
use lifeboat_files::tree::{Directory, Entry, EntryKind, Meta, Origin};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

fn content(n: u32, len: usize) -> (Hash, Bytes) {
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    let bytes = Bytes::from(bytes);
    (blake3::hash(&bytes), bytes)
}

fn blob(hash: &Hash, content: &Bytes) -> RestoreBlob {
    RestoreBlob {
        hash: hash.as_bytes().to_vec(),
        content: content.clone(),
        missing: false,
        error: String::new(),
    }
}

fn hashes(get: Option<RestoreGet>) -> Vec<Hash> {
    let blobs = get.map(|g| g.blobs).unwrap_or_default();
    blobs.iter().map(|b| Hash::from_bytes(b.hash[..].try_into().unwrap())).collect()
}

fn everything(source: &Source) -> Vec<Hash> {
    let mut all = Vec::new();
    loop {
        match hashes(source.asks()) {
            more if more.is_empty() => return all,
            more => all.extend(more),
        }
    }
}

/// What waits until it asks for something.
fn read(source: &Arc<Source>, kind: BlobKind, hash: Hash) -> JoinHandle<Result<Bytes, BlobError>> {
    let source = Arc::clone(source);
    std::thread::spawn(move || source.get(kind, &hash))
}

fn asked_for(source: &Source) -> Vec<Hash> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let asked = async {
            loop {
                match hashes(source.asks()) {
                    more if more.is_empty() => source.asked.notified().await,
                    more => return more,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap()
    })
}

#[test]
fn many_requests_are_under_way_and_what_is_held_is_bounded() {
    let source = Arc::new(Source::default());
    let all: Vec<_> = (0..200).map(|n| content(n, 512 << 10)).collect();
    for (hash, bytes) in &all {
        source.ahead(BlobKind::File, hash, bytes.len() as u64);
    }
    let mut out = everything(&source);
    assert_eq!(out.len(), RESTORE_WINDOW / (512 << 10), "as many as there is room for, before one came");
    let mut came = 0;
    for (hash, bytes) in &all {
        // All that is under way comes before the first of it is read.
        for hash in out.drain(..) {
            let (_, bytes) = all.iter().find(|(h, _)| *h == hash).unwrap();
            source.came(blob(&hash, bytes)).unwrap();
            came += 1;
        }
        assert!(source.held().1 <= RESTORE_WINDOW, "{:?}", source.held());
        assert_eq!(source.get(BlobKind::File, hash).unwrap(), bytes);
        out = everything(&source);
    }
    assert_eq!((came, source.held()), (200, (0, 0)));
}

#[test]
fn what_is_read_and_was_not_announced_is_asked_for_at_once() {
    let source = Arc::new(Source::default());
    for n in 0..100 {
        let (hash, bytes) = content(n, 1 << 20);
        source.ahead(BlobKind::File, &hash, bytes.len() as u64);
    }
    everything(&source);
    let (hash, bytes) = content(1000, 10);
    let reading = [read(&source, BlobKind::File, hash), read(&source, BlobKind::File, hash)];
    assert_eq!(asked_for(&source), [hash], "though the window is full, and once");
    // Both wait before it comes, or else the second asks again.
    while source.window.lock().slots[&hash].waiting < 2 {
        std::thread::yield_now();
    }
    source.came(blob(&hash, &bytes)).unwrap();
    for reading in reading {
        assert_eq!(reading.join().unwrap().unwrap(), bytes);
    }
}

/// A directory that is announced brings those below it, before anybody asks.
#[test]
fn directories_come_ahead_of_who_reads_them() {
    let directory = |entries: &[(&str, Hash)]| {
        let entry = |(name, hash): &(&str, Hash)| Entry {
            name: name.as_bytes().to_vec(),
            kind: EntryKind::Directory(*hash),
            meta: Meta::default(),
            origin: Origin::default(),
        };
        let blobs = MemoryBlobs::default();
        let entries: Vec<Entry> = entries.iter().map(entry).collect();
        let hash = Directory::store(&entries, &blobs).unwrap();
        (hash, blobs.get(BlobKind::Tree, &hash).unwrap())
    };
    let empty = directory(&[]);
    let middle = directory(&[("x", empty.0)]);
    let root = directory(&[("a", middle.0), ("b", content(1, 10).0)]);
    let source = Arc::new(Source::default());
    source.ahead(BlobKind::Tree, &root.0, 0);
    assert_eq!(everything(&source), [root.0]);
    source.came(blob(&root.0, &root.1)).unwrap();
    assert_eq!(everything(&source), [middle.0, content(1, 10).0], "in the order in which they are read");
    source.came(blob(&middle.0, &middle.1)).unwrap();
    assert_eq!(everything(&source), [empty.0]);
    source.came(blob(&empty.0, &empty.1)).unwrap();
    for (hash, bytes) in [&root, &middle, &empty] {
        assert_eq!(source.get(BlobKind::Tree, hash).unwrap(), bytes);
    }
    assert!(everything(&source).is_empty(), "nothing is asked for twice");
}

#[test]
fn trees_under_way_are_bounded() {
    let source = Source::default();
    for n in 0..20_000 {
        source.ahead(BlobKind::Tree, &content(n, 10).0, 0);
    }
    assert_eq!(everything(&source).len(), RESTORE_TREES);
    assert!(source.window.lock().slots.len() <= QUEUED + RESTORE_TREES);
}

/// I3: nothing is given out that does not have the hash it was asked by, and what cannot be had says why.
#[test]
fn wrong_content_is_an_error_and_never_data() {
    let source = Arc::new(Source::default());
    let (hash, bytes) = content(1, 100);
    let cases = [
        (blob(&hash, &content(2, 100).1), "is not what was stored"),
        (blob(&hash, &bytes.slice(..99)), "is not what was stored"),
        (blob(&hash, &Bytes::new()), "is not what was stored"),
        (RestoreBlob { missing: true, ..blob(&hash, &Bytes::new()) }, "is not there"),
        (RestoreBlob { error: "the store is away".into(), ..blob(&hash, &bytes) }, "the store is away"),
    ];
    for (answer, expected) in cases {
        let reading = read(&source, BlobKind::File, hash);
        assert_eq!(asked_for(&source), [hash]);
        source.came(answer).unwrap();
        let error = reading.join().unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(source.held(), (0, 0));
}

#[test]
fn answers_that_answer_nothing_are_refused() {
    let source = Source::default();
    let (hash, bytes) = content(1, 100);
    let refused = |blob| source.came(blob).unwrap_err().to_string();
    assert_eq!(refused(blob(&hash, &bytes)), "the site sent what was not asked for");
    source.ahead(BlobKind::File, &hash, 100);
    assert_eq!(refused(blob(&hash, &bytes)), "the site sent what was not asked for", "not before it is");
    everything(&source);
    let large = Bytes::from(vec![0; MAX_BLOB + 1]);
    assert_eq!(refused(blob(&hash, &large)), format!("the site sent a blob of {} bytes", MAX_BLOB + 1));
    let short = RestoreBlob { hash: vec![0; 31], ..blob(&hash, &bytes) };
    assert_eq!(refused(short), "the site sent a hash of the wrong length");
    source.came(blob(&hash, &bytes)).unwrap();
    assert_eq!(refused(blob(&hash, &bytes)), "the site sent what was not asked for", "nor twice");
}

#[test]
fn a_session_that_ends_lets_nobody_wait() {
    let source = Arc::new(Source::default());
    let (hash, _) = content(1, 100);
    let reading = read(&source, BlobKind::File, hash);
    asked_for(&source);
    source.close();
    assert_eq!(reading.join().unwrap().unwrap_err().to_string(), "the session with the site ended");
    assert!(source.get(BlobKind::Tree, &hash).is_err());
}

/// What was announced and is never read does not keep the rest from coming ahead.
#[test]
fn what_nobody_reads_makes_room() {
    let source = Source::default();
    for n in 0..(RESTORE_WINDOW >> 20) as u32 {
        let (hash, bytes) = content(n, 1 << 20);
        source.ahead(BlobKind::File, &hash, bytes.len() as u64);
        everything(&source);
        source.came(blob(&hash, &bytes)).unwrap();
    }
    let (next, _) = content(100, 1 << 20);
    source.ahead(BlobKind::File, &next, 1 << 20);
    assert!(everything(&source).is_empty(), "the window is full");
    for n in 0..2 * STALE as u32 {
        source.ahead(BlobKind::File, &content(1000 + n, 10).0, 10);
    }
    assert!(everything(&source).contains(&next));
    assert!(source.held().1 < RESTORE_WINDOW / 4);
}
