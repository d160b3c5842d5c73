//! The vault's stores against a real S3 service, a failing network before it, and full or vanishing disks.
//! Rows 9, 18 and 19 of the failures a release survives.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use lifeboat_base::limits::BLOCK;
use lifeboat_base::{Clock as _, DiskId, Entropy as _, Epoch, PointId, Secret, SeededEntropy, Seq, ServerId};
use lifeboat_base::{SystemClock, SystemEntropy, WallTime};
use lifeboat_block::BlockDevice as _;
use lifeboat_e2e::{Fate, S3Proxy, S3Server, SmallDisk, TestDir, wait_for};
use lifeboat_vault::store::probe::probe;
use lifeboat_vault::store::s3::{S3Keys, S3Limits, S3Settings};
use lifeboat_vault::store::{Copies, DirStore, Part, Put, S3Store, Store};
use lifeboat_vault::{
    ChunkId, DiskRoot, Kind, ObjectName, Owner, Settings, Snapshot, SnapshotBody, Stats, StoreError, Vault,
    VaultError, VaultOptions,
};
use nix::sys::signal::Signal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const KEY: [u8; 32] = [9; 32];

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn settings(endpoint: String, bucket: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint),
        path_style: true,
        allow_http: true,
        keys: S3Keys::Given { id: "lifeboat".into(), secret: "secret".to_string().into(), token: None },
        limits: S3Limits {
            answer: Duration::from_secs(5),
            attempts: 4,
            pause: Duration::from_millis(20),
            part: S3Limits::SMALLEST_PART,
            ..S3Limits::default()
        },
        ..S3Settings::parse(&format!("s3://{bucket}/vault")).unwrap()
    }
}

fn s3(endpoint: String, bucket: &str) -> S3Store {
    S3Store::new(settings(endpoint, bucket), Arc::new(SystemEntropy)).unwrap()
}

fn direct(server: &S3Server) -> String {
    format!("http://{}", server.address())
}

fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told so</Message></Error>")
}

fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    SeededEntropy::new(seed).fill(&mut bytes);
    bytes.into()
}

fn open(store: Arc<dyn Store>) -> Result<Vault, VaultError> {
    let options = VaultOptions {
        store,
        site_keys: vec![Secret(KEY)],
        index: None,
        // Small packs: a test has many of them.
        settings: Settings { pack_bytes: 1 << 20, ..Settings::default() },
    };
    let vault = Vault::open(options, Arc::new(SystemClock), Arc::new(SystemEntropy))?;
    vault.refresh(&|_, _| {})?;
    Ok(vault)
}

fn create(store: &dyn Store) {
    Vault::create(store, &Secret(KEY), &SystemClock, &SystemEntropy).unwrap();
}

/// A disk of so many chunks, each of its own content.
fn store_disk(vault: &Vault, seed: u64, chunks: u64) -> Result<Arc<Snapshot>, VaultError> {
    let session = vault.begin(Owner::Server(ServerId::random(&SeededEntropy::new(1))))?;
    let mut map = session.map(None, chunks * BLOCK as u64)?;
    for n in 0..chunks {
        let id = if n % 7 == 0 {
            ChunkId::ZERO
        } else {
            session.put(Kind::Data, noise(seed * 1_000_000 + n, BLOCK))?
        };
        map.set(n, id)?;
    }
    let map = map.finish()?;
    let now = SystemClock.wall();
    session.commit(SnapshotBody {
        point: Some(PointId { epoch: Epoch(1), seq: Seq(seed) }),
        consistency: 0,
        source_time: now,
        site_time: now,
        disks: vec![DiskRoot { disk: DiskId(0), map, used: 0 }],
        tree: None,
        details: Vec::new(),
        stats: Stats::default(),
        locked_until: None,
    })
}

/// Every point resolves and every byte of it is what was stored; which points those are.
fn all_is_there(vault: &Vault) -> Vec<u64> {
    let mut seeds = Vec::new();
    for snapshot in vault.snapshots() {
        let seed = snapshot.body.point.unwrap().seq.0;
        let device = vault.map_device(snapshot.body.disks[0].map);
        let mut content = vec![0; BLOCK];
        for n in 0..device.size() / BLOCK as u64 {
            device.read(n * BLOCK as u64, &mut content).unwrap();
            let expected =
                if n % 7 == 0 { vec![0; BLOCK].into() } else { noise(seed * 1_000_000 + n, BLOCK) };
            assert!(content == expected, "chunk {n} of point {seed} is not what was stored");
        }
        seeds.push(seed);
    }
    seeds.sort_unstable();
    seeds
}

#[test]
fn a_real_s3_service_holds_a_vault() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(&dir);
    server.bucket("plain", false);
    server.bucket("locking", true);
    for (bucket, locks) in [("plain", false), ("locking", true)] {
        let store = s3(direct(&server), bucket);
        let verdict = probe(&store, &SystemEntropy);
        assert!(verdict.usable, "{}", verdict.text);
        assert_eq!(verdict.locks, locks, "{}", verdict.text);
        create(&store);
        let vault = open(Arc::new(store)).unwrap();
        store_disk(&vault, 1, 40).unwrap();
        let again = open(Arc::new(s3(direct(&server), bucket))).unwrap();
        assert_eq!(all_is_there(&again), [1]);
    }
    let nowhere = probe(&s3(direct(&server), "no-such-bucket"), &SystemEntropy);
    assert!(nowhere.text.contains("there is no bucket no-such-bucket: create it"), "{}", nowhere.text);
    let many = s3(direct(&server), "plain");
    for n in 0..1100 {
        many.put_new(&name(&format!("many/{n}")), Bytes::new()).unwrap();
    }
    let mut seen = 0;
    let mut count = |_| {
        seen += 1;
        ControlFlow::Continue(())
    };
    many.list("many/", &mut count).unwrap();
    assert_eq!(seen, 1100, "more than one page");
}

#[test]
fn a_locked_object_outlasts_everybody() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(&dir);
    server.bucket("locking", true);
    let store = s3(direct(&server), "locking");
    let (a, b) = (name("snapshots/a"), name("snapshots/b"));
    for object in [&a, &b] {
        store.put_new(object, Bytes::from_static(b"kept")).unwrap();
    }
    let until = SystemClock.wall().saturating_add(Duration::from_secs(3600));
    store.lock(&a, until).unwrap();
    store.lock(&a, WallTime(0)).unwrap();
    match store.delete(&a) {
        Err(StoreError::Locked { until: Some(told), .. }) => assert!(told >= until, "{told}"),
        other => panic!("a locked object was to be deleted: {other:?}"),
    }
    assert_eq!(store.get(&a, Part::All).unwrap(), "kept");
    // What is deleted without a lock is hidden: its version stays, for who has to bring it back.
    store.delete(&b).unwrap();
    assert!(matches!(store.get(&b, Part::All), Err(StoreError::NotFound(_))));
    let versions = server.plain("GET /locking?versions&prefix=vault/snapshots/b", "");
    assert!(versions.contains("<DeleteMarker>") && versions.contains("<Version>"), "{versions}");
}

#[test]
fn row_18_no_fault_of_the_service_loses_or_invents_anything() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(&dir);
    server.bucket("bucket", false);
    let proxy = S3Proxy::before(&server);
    create(&s3(direct(&server), "bucket"));
    let vault = open(Arc::new(s3(proxy.endpoint(), "bucket"))).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let asked = count.clone();
    // Every third request goes wrong, each time in another way.
    proxy.each(move |_| {
        let n = asked.fetch_add(1, Ordering::Relaxed);
        if !n.is_multiple_of(3) {
            return None;
        }
        Some(match n / 3 % 7 {
            0 => Fate::Answer(500, error("InternalError")),
            1 => Fate::Answer(503, error("SlowDown")),
            2 => Fate::DoneAndCut,
            3 => Fate::Cut,
            4 => Fate::DoneBut(503, error("SlowDown")),
            5 => Fate::Half,
            _ => Fate::Late(Duration::from_millis(300)),
        })
    });
    let mut made = Vec::new();
    for seed in 1..=6 {
        let stored = store_disk(&vault, seed, 60);
        assert!(
            stored.is_ok(),
            "one of three answers is wrong, and there are four attempts: {:?}",
            stored.err()
        );
        made.push(seed);
    }
    assert!(proxy.struck() > 20, "{} requests were struck", proxy.struck());
    assert_eq!(all_is_there(&vault), made, "through the same bad network");
    // What nobody survives is an error, and leaves no point behind.
    proxy.each(|line| line.starts_with("PUT").then(|| Fate::Answer(503, error("SlowDown"))));
    assert!(matches!(store_disk(&vault, 7, 60), Err(VaultError::Store(StoreError::Unreachable { .. }))));
    proxy.each(|line| line.starts_with("PUT").then_some(Fate::DoneAndCut));
    let unsure = store_disk(&vault, 8, 60);
    assert!(
        matches!(&unsure, Err(VaultError::Store(StoreError::Unreachable { .. })) | Ok(_)),
        "{:?}",
        unsure.err()
    );
    proxy.pass();
    store_disk(&vault, 9, 60).unwrap();
    let there = all_is_there(&open(Arc::new(s3(direct(&server), "bucket"))).unwrap());
    assert!(made.iter().chain(&[9]).all(|seed| there.contains(seed)) && !there.contains(&7), "{there:?}");
}

#[test]
fn row_19_an_upload_in_parts_that_ends_with_an_error_is_none() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(&dir);
    server.bucket("bucket", false);
    let proxy = S3Proxy::before(&server);
    let store = s3(proxy.endpoint(), "bucket");
    let (big, body) = (name("packs/big"), noise(3, 12 << 20));
    const END: &[&str] = &["POST", "uploadId="];
    proxy.next(usize::MAX, END, Fate::Answer(200, error("InternalError")));
    let failed = store.put_new(&big, body.clone()).unwrap_err();
    assert!(failed.to_string().contains("InternalError, status 200"), "{failed}");
    assert!(matches!(store.size(&big), Err(StoreError::NotFound(_))));
    let uploads = server.plain("GET /bucket?uploads", "");
    assert!(!uploads.contains("<UploadId>"), "parts stay behind: {uploads}");
    // It ended well, and says it did not: what is there tells.
    proxy.next(1, END, Fate::DoneBut(200, error("InternalError")));
    assert_eq!(store.put_new(&big, body.clone()).unwrap(), Put::Created);
    proxy.pass();
    assert_eq!(store.get(&big, Part::All).unwrap(), body);
    assert_eq!(store.put_new(&big, noise(4, 12 << 20)).unwrap(), Put::Exists);
    // Parts nobody will finish. This service says of every upload that it began in 2010.
    let begun = server.plain("POST /bucket/vault/packs/orphan?uploads", "");
    assert!(begun.contains("<UploadId>"), "{begun}");
    assert!(server.plain("GET /bucket?uploads", "").contains("packs/orphan"));
    assert_eq!(store.reap().unwrap(), 1);
    assert!(!server.plain("GET /bucket?uploads", "").contains("packs/orphan"));
}

#[test]
fn an_endpoint_that_says_nothing_is_given_up_in_time() {
    let dir = TestDir::new("s3");
    let mut server = S3Server::start(&dir);
    server.bucket("bucket", false);
    let slow = settings(direct(&server), "bucket");
    let limits = S3Limits { answer: Duration::from_millis(500), attempts: 2, ..slow.limits.clone() };
    let store = S3Store::new(S3Settings { limits, ..slow }, Arc::new(SystemEntropy)).unwrap();
    store.put_new(&name("a"), Bytes::from_static(b"x")).unwrap();
    server.process.signal(Signal::SIGSTOP);
    let silent = store.get(&name("a"), Part::All).unwrap_err();
    assert!(silent.to_string().contains("does not answer: no answer within"), "{silent}");
    server.process.signal(Signal::SIGCONT);
    wait_for("the service to answer again", Duration::from_secs(30), || {
        store.get(&name("a"), Part::All).is_ok_and(|b| b == "x")
    });
    server.process.kill();
    let refused = store.get(&name("a"), Part::All).unwrap_err();
    assert!(refused.to_string().contains("the connection is refused"), "{refused}");
}

#[test]
fn three_zones_one_of_them_s3_and_it_goes_away() {
    let dir = TestDir::new("zones");
    let mut server = S3Server::start(&dir);
    server.bucket("zone", false);
    let zones = |endpoint: String| -> Arc<Copies> {
        let directory = |zone: &str| Arc::new(DirStore::create(dir.join(zone)).unwrap()) as Arc<dyn Store>;
        let stores = vec![Arc::new(s3(endpoint, "zone")) as Arc<dyn Store>, directory("b"), directory("c")];
        Arc::new(Copies::new(stores, 2, Arc::new(SystemClock)).unwrap())
    };
    let copies = zones(direct(&server));
    create(copies.as_ref());
    let vault = open(copies.clone()).unwrap();
    store_disk(&vault, 1, 60).unwrap();
    copies.settle();
    copies.whole().unwrap();
    server.process.kill();
    store_disk(&vault, 2, 60).unwrap();
    assert_eq!(all_is_there(&vault), [1, 2]);
    assert!(!copies.health()[0].reachable);
    // Somebody who comes new while the first zone is away, too.
    let other = open(zones(direct(&server))).unwrap();
    assert_eq!(all_is_there(&other), [1, 2]);
    // A new service in its place, with nothing in it.
    let empty = S3Server::start(&dir);
    empty.bucket("zone", false);
    let copies = zones(direct(&empty));
    assert_eq!(all_is_there(&open(copies.clone()).unwrap()), [1, 2]);
    assert!(copies.whole().unwrap_err().to_string().contains("run `lifeboat vault repair`"));
    let repaired = copies.repair(&|_, _| true, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(repaired.copied > 0 && repaired.left.is_empty(), "{repaired:?}");
    copies.whole().unwrap();
    let alone = open(Arc::new(s3(direct(&empty), "zone"))).unwrap();
    assert_eq!(all_is_there(&alone), [1, 2], "the first zone by itself");
}

#[test]
fn row_9_a_full_vault_keeps_its_points_and_goes_on_when_there_is_room() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts a file system; run it as root");
    let dir = TestDir::new("full");
    let small = SmallDisk::mount(&dir, 64);
    let store = Arc::new(DirStore::create(small.path().join("vault")).unwrap());
    create(store.as_ref());
    let vault = open(store.clone()).unwrap();
    store_disk(&vault, 1, 100).unwrap();
    let filler = small.path().join("filler");
    std::fs::write(&filler, vec![1; 40 << 20]).unwrap();
    let full = store_disk(&vault, 2, 400);
    assert!(matches!(full, Err(VaultError::Store(StoreError::NoSpace(_)))), "{:?}", full.map(|s| s.id));
    assert_eq!(all_is_there(&vault), [1]);
    assert_eq!(all_is_there(&open(store.clone()).unwrap()), [1]);
    std::fs::remove_file(&filler).unwrap();
    store_disk(&vault, 3, 100).unwrap();
    assert_eq!(all_is_there(&open(store.clone()).unwrap()), [1, 3]);
    // A disk that may only be read is no reason not to read.
    let remount = |how: &str| {
        lifeboat_e2e::run(std::process::Command::new("mount").args(["-o", how]).arg(small.path()));
    };
    remount("remount,ro");
    assert!(matches!(store_disk(&vault, 4, 10), Err(VaultError::Store(StoreError::Denied { .. }))));
    assert_eq!(all_is_there(&vault), [1, 3]);
    remount("remount,rw");
}
