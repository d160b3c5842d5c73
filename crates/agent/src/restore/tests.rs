//! A site that says what the test's story needs.

use super::*;
use lifeboat_base::SystemClock;
use lifeboat_files::blob::MemoryBlobs;
use lifeboat_files::exclude::Exclude;
use lifeboat_files::walk::{WalkOptions, walk};
use lifeboat_files::{BlobKind, BlobSource};
use lifeboat_replicate::message::restore::{RestoreBlob, RestoreGet};
use lifeboat_replicate::message::{Refuse, RefuseCode};
use lifeboat_replicate::shell::read_frame;
use lifeboat_replicate::wire::{FRAME_HEADER, put_header};
use prost::Message;
use std::path::Path;
use std::time::Duration;
use tokio::io::DuplexStream;

const PATIENCE: Duration = Duration::from_secs(60);

struct Story {
    source: tempfile::TempDir,
    target: tempfile::TempDir,
    blobs: MemoryBlobs,
    root: Hash,
}

impl Story {
    fn new(files: u32) -> Self {
        let source = tempfile::tempdir().unwrap();
        for n in 0..files {
            let directory = source.path().join(format!("d{}", n % 7));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(format!("{n}")), n.to_le_bytes().repeat(500)).unwrap();
        }
        let blobs = MemoryBlobs::default();
        let options = WalkOptions {
            paths: vec![source.path().to_path_buf()],
            exclude: Exclude::new(&[], &[]).unwrap(),
            one_file_system: false,
            readers: 1,
        };
        let walked = walk(&options, None, &blobs, &Monitor::default(), &SystemClock).unwrap();
        let target = tempfile::tempdir().unwrap();
        Self { source, target, blobs, root: walked.root }
    }

    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            paths: Vec::new(),
            target: self.target.path().into(),
            overwrite: false,
            verify: true,
            writers: 2,
        }
    }

    /// A restore, and the site's end of its session.
    fn begin(&self) -> (JoinHandle<Result<u64>>, DuplexStream) {
        let (here, there) = tokio::io::duplex(64 << 10);
        (tokio::spawn(bring(there, self.root, self.options())), here)
    }

    fn back(&self) -> std::path::PathBuf {
        self.target.path().join(self.source.path().strip_prefix("/").unwrap())
    }

    fn answer(&self, hash: &[u8]) -> RestoreBlob {
        let id = Hash::from_bytes(hash.try_into().unwrap());
        let content = [BlobKind::File, BlobKind::Tree].iter().find_map(|k| self.blobs.get(*k, &id).ok());
        RestoreBlob { hash: hash.to_vec(), content: content.unwrap(), missing: false, error: String::new() }
    }

    /// Gives everything that is asked for, as `change` makes it, until there is another word.
    async fn serve(&self, line: &mut DuplexStream, change: impl Fn(RestoreBlob) -> RestoreBlob) -> Body {
        loop {
            match hear(line).await {
                Body::Get(RestoreGet { blobs }) => {
                    for blob in blobs {
                        say(line, Body::Blob(change(self.answer(&blob.hash)))).await;
                    }
                }
                other => return other,
            }
        }
    }
}

async fn say(line: &mut DuplexStream, body: Body) {
    write_message(line, FrameType::Restore, &frame(body)).await.unwrap();
}

async fn hear(line: &mut DuplexStream) -> Body {
    loop {
        let (kind, body) = read_frame(line, MAX_BACKUP_FRAME, PATIENCE).await.unwrap();
        assert_eq!(kind, FrameType::Restore);
        match RestoreFrame::decode(body).unwrap().body.unwrap() {
            Body::Progress(_) => {}
            body => return body,
        }
    }
}

async fn ended(restoring: JoinHandle<Result<u64>>) -> Result<u64> {
    tokio::time::timeout(PATIENCE, restoring).await.unwrap().unwrap()
}

fn files_below(path: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .map(|e| e.unwrap())
        .map(|e| if e.file_type().unwrap().is_dir() { files_below(&e.path()) } else { 1 })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_written_from_what_the_site_gives() {
    let story = Story::new(300);
    let (restoring, mut line) = story.begin();
    let Body::Done(done) = story.serve(&mut line, |b| b).await else { panic!() };
    assert_eq!((done.files, done.verified, done.problem_count), (300, 300, 0), "{done:?}");
    say(&mut line, Body::End(BackupEnd::default())).await;
    assert_eq!(ended(restoring).await.unwrap(), 300);
    for n in [0u32, 17, 299] {
        let path = format!("d{}/{n}", n % 7);
        assert_eq!(std::fs::read(story.back().join(path)).unwrap(), n.to_le_bytes().repeat(500));
    }
}

/// Many small files do not cost a round trip each: a site that answers only what it has heard in one go is asked seldom.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_do_not_cost_a_round_trip_each() {
    let story = Story::new(1000);
    let (restoring, mut line) = story.begin();
    let (mut rounds, mut waiting) = (0, Vec::new());
    loop {
        // A round is over when nothing more is asked for meanwhile. Frames here are small and come whole.
        match tokio::time::timeout(Duration::from_millis(50), hear(&mut line)).await {
            Ok(Body::Get(get)) => waiting.extend(get.blobs),
            Ok(Body::Done(_)) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                rounds += usize::from(!waiting.is_empty());
                for blob in waiting.drain(..) {
                    say(&mut line, Body::Blob(story.answer(&blob.hash))).await;
                }
            }
        }
    }
    assert!(rounds < 40, "{rounds} round trips for 1000 files");
    say(&mut line, Body::End(BackupEnd::default())).await;
    assert_eq!(ended(restoring).await.unwrap(), 1000);
}

/// I3: content that is not what the tree names is named, nothing of it is written, and the rest comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_hash_is_wrong_is_named_and_nothing_of_it_is_written() {
    let story = Story::new(20);
    let (restoring, mut line) = story.begin();
    let wrong = 7u32.to_le_bytes().repeat(500);
    let spoil = |mut blob: RestoreBlob| {
        if blob.content[..] == wrong[..] {
            blob.content = vec![9; 2000].into();
        }
        blob
    };
    let Body::Done(done) = story.serve(&mut line, spoil).await else { panic!() };
    assert_eq!(done.files, 19);
    // When it was written, and when it was looked for.
    assert_eq!(done.problem_count, 2, "{done:?}");
    assert!(
        done.problems[0].contains("/d0/7: ") && done.problems[0].contains("is not what was stored"),
        "{done:?}"
    );
    say(&mut line, Body::End(BackupEnd::default())).await;
    ended(restoring).await.unwrap();
    assert!(!story.back().join("d0/7").exists());
    assert_eq!(files_below(story.target.path()), 19, "no temporary file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_end_the_restore_with_a_reason() {
    let story = Story::new(3);
    let other =
        RestoreBlob { hash: vec![1; 32], content: vec![1].into(), missing: false, error: String::new() };
    let hostile = [
        (Body::Blob(other.clone()), "the site sent what was not asked for"),
        (Body::Blob(RestoreBlob { hash: vec![1; 33], ..other }), "a hash of the wrong length"),
        (Body::Get(RestoreGet::default()), "the site sent an unexpected request"),
        (Body::Done(RestoreDone::default()), "the site sent an unexpected result"),
        (Body::End(BackupEnd { error: "it was cancelled".into() }), "it was cancelled"),
    ];
    for (body, expected) in hostile {
        let (restoring, mut line) = story.begin();
        say(&mut line, body).await;
        let error = format!("{:#}", ended(restoring).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    let mut header = bytes::BytesMut::new();
    put_header(&mut header, FrameType::Restore, MAX_BACKUP_FRAME + 1);
    let refuse = Refuse { code: RefuseCode::Shutdown as i32, message: "the site goes down".into() };
    let frames = [
        (header.to_vec(), "is over the limit"),
        (lifeboat_replicate::wire::message_frame(FrameType::Refuse, &refuse).to_vec(), "the site goes down"),
        (vec![0, 0, 0, 0, FrameType::Backup as u8, 0, 0, 0], "unexpected Backup"),
        (vec![0, 0, 0, 0, 77, 0, 0, 0], "frame type 77 is unknown"),
        ([&[2, 0, 0, 0, FrameType::Restore as u8, 0, 0, 0][..], &[0xff, 0xff]].concat(), "decode"),
    ];
    for (bytes, expected) in frames {
        assert!(bytes.len() >= FRAME_HEADER);
        let (restoring, mut line) = story.begin();
        tokio::io::AsyncWriteExt::write_all(&mut line, &bytes).await.unwrap();
        let error = format!("{:#}", ended(restoring).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(files_below(story.target.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_ends_the_restore_and_keeps_what_is_whole() {
    let story = Story::new(200);
    let (restoring, mut line) = story.begin();
    let mut given = 0;
    while given < 60 {
        let Body::Get(get) = hear(&mut line).await else { panic!() };
        for blob in get.blobs {
            given += 1;
            say(&mut line, Body::Blob(story.answer(&blob.hash))).await;
        }
    }
    drop(line);
    assert!(ended(restoring).await.is_err());
    for n in 0..200u32 {
        if let Ok(content) = std::fs::read(story.back().join(format!("d{}/{n}", n % 7))) {
            assert_eq!(content, n.to_le_bytes().repeat(500));
        }
    }
    let names = std::process::Command::new("find").arg(story.target.path()).output().unwrap();
    assert!(!String::from_utf8_lossy(&names.stdout).contains(".lifeboat-"), "no temporary file is left");
    // Again, to the same place: what is there stays and is said, the rest comes.
    let (restoring, mut line) = story.begin();
    let Body::Done(done) = story.serve(&mut line, |b| b).await else { panic!() };
    say(&mut line, Body::End(BackupEnd::default())).await;
    ended(restoring).await.unwrap();
    assert_eq!(done.files + done.problem_count, 200, "{done:?}");
    assert_eq!(files_below(story.target.path()), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_be_used_is_told() {
    let story = Story::new(1);
    let (mut line, there) = tokio::io::duplex(64 << 10);
    let options = RestoreOptions { target: "/no/such/place".into(), ..story.options() };
    let restoring = tokio::spawn(bring(there, story.root, options));
    let Body::End(end) = story.serve(&mut line, |b| b).await else { panic!() };
    assert!(end.error.contains("/no/such/place: cannot be restored to"), "{end:?}");
    drop(line);
    assert!(ended(restoring).await.is_err());
}

#[test]
fn what_is_asked_has_to_be_understood() {
    let asked = |root: usize, request: &str| Restore { job: 1, root: vec![0; root], request: request.into() };
    let good = r#"{"backup": "a", "target": "/x", "verify": true}"#;
    assert!(understood(&asked(32, good)).unwrap().1.verify);
    let why = |r: Restore| understood(&r).map(drop).unwrap_err();
    assert_eq!(why(asked(31, good)), "the root's hash has the wrong length");
    assert!(why(asked(32, "{}")).starts_with("this agent does not understand the request: "));
    assert_eq!(why(asked(32, r#"{"backup": "a", "target": "x"}"#)), "the target is not absolute");
}
