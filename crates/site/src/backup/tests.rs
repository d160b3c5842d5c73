//! A site with a vault that backs its own host up.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::port::SiteHandle;
use crate::testing::{PATIENCE, World, open_site_with};
use crate::vault::VaultSettings;
use lifeboat_api::types::{
    FileChangeKind, FileChanges, FileKind, HoldRequest, RestoreRequest, VaultJobState,
};
use lifeboat_base::Secret;
use lifeboat_vault::ObjectName;
use lifeboat_vault::store::memory::{Fault, MemoryStore, Method};
use std::fs;
use std::sync::atomic::AtomicBool;

const KEY: [u8; 32] = [6; 32];

pub(crate) struct Rig {
    pub w: World,
    pub store: Arc<MemoryStore>,
    /// What is backed up.
    pub files: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Self {
        let mut w = World::new();
        let store = Arc::new(MemoryStore::new("memory"));
        w.clock.set_wall(WallTime(1_790_000_000_000_000_000));
        Vault::create(&*store, &Secret(KEY), &*w.clock, &*w.entropy).unwrap();
        let files = tempfile::tempdir().unwrap();
        w.site = Self::open(&w, &store, files.path());
        Self { w, store, files }
    }

    fn open(w: &World, store: &Arc<MemoryStore>, files: &Path) -> SiteHandle {
        let settings = VaultSettings {
            index: None,
            directories: vec![files.join("zone-c")],
            ..VaultSettings::new(store.clone(), vec![Secret(KEY)], PathBuf::new())
        };
        let site = open_site_with(w.dir.path(), &w.clock, &w.entropy, Some(settings));
        site.set_control(w.control.clone());
        site.vault.open_now().unwrap();
        site
    }

    pub fn restart(&mut self) {
        self.w.site = Self::open(&self.w, &self.store, self.files.path());
    }

    pub fn site(&self) -> &Arc<Site> {
        &self.w.site.0
    }

    pub fn root(&self) -> PathBuf {
        self.files.path().canonicalize().unwrap()
    }

    pub fn set(&self, name: &str) -> BackupSet {
        BackupSet {
            name: name.into(),
            agent: None,
            paths: vec![self.root().display().to_string()],
            exclude: vec!["*.tmp".into()],
            one_file_system: false,
            schedule: None,
            retention: RetentionSpec::default(),
        }
    }

    pub fn define(&self, set: BackupSet) {
        self.site().backups.ensure(&[set]).unwrap();
    }

    pub async fn ended(&self, id: &str) -> VaultJob {
        let wait = async {
            loop {
                let job = self.site().vault.jobs.get(id).unwrap();
                if job.state != VaultJobState::Running {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    pub async fn back_up(&self, set: &str) -> Backup {
        let job = self.site().start_backup(set).unwrap();
        match self.ended(&job.id).await {
            VaultJob { result: Some(VaultJobResult::Backup(made)), .. } => made,
            job => panic!("{job:?}"),
        }
    }

    async fn restore(&self, request: RestoreRequest) -> VaultJob {
        let job = self.site().start_restore(request).unwrap();
        self.ended(&job.id).await
    }

    fn path(&self, name: &str) -> String {
        self.root().join(name).display().to_string()
    }
}

pub(crate) fn request(backup: &str, target: &Path) -> RestoreRequest {
    RestoreRequest {
        backup: backup.into(),
        paths: Vec::new(),
        target: target.display().to_string(),
        agent: None,
        overwrite: false,
        verify: true,
    }
}

async fn read(content: Result<lifeboat_api::port::Content, PortError>) -> Result<Vec<u8>, PortError> {
    let (mut content, mut out) = (content?, Vec::new());
    while let Some(piece) = content.recv().await {
        out.extend_from_slice(&piece?);
    }
    Ok(out)
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_listed_read_compared_and_brought_back() {
    let rig = Rig::new();
    // Long after the files were written.
    rig.w.clock.set_wall(WallTime(4_000_000_000_000_000_000));
    fs::create_dir(rig.root().join("sub")).unwrap();
    fs::write(rig.root().join("sub/a"), "first").unwrap();
    fs::write(rig.root().join("large"), vec![7; 3_000_000]).unwrap();
    fs::write(rig.root().join("left.tmp"), "out").unwrap();
    rig.define(rig.set("home"));
    let first = rig.back_up("home").await;
    assert_eq!((first.files, first.files_read, first.error_count), (2, 2, 0), "{first:?}");
    fs::write(rig.root().join("sub/a"), "second!").unwrap();
    fs::write(rig.root().join("sub/b"), "new").unwrap();
    rig.w.clock.advance(Duration::from_secs(60));
    let second = rig.back_up("home").await;
    assert_eq!((second.files, second.files_read), (3, 2), "only what changed is read");

    let backups = &rig.site().backups;
    let made = backups.list(Some("home")).unwrap();
    assert_eq!(made.iter().map(|b| &b.id).collect::<Vec<_>>(), [&second.id, &first.id]);
    assert_eq!(backups.sets()[0].backups, 2);
    assert_eq!(backups.backup(&first.id[..8]).unwrap().id, first.id);
    let entries = backups.entries("home", &rig.path("sub")).unwrap();
    let shown: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.kind, e.size)).collect();
    assert_eq!(shown, [("a", FileKind::File, 7), ("b", FileKind::File, 3)]);
    let content = backups.content(&first.id, &rig.path("sub/a")).await;
    assert_eq!(read(content).await.unwrap(), b"first");
    assert!(read(backups.content("home", &rig.path("large")).await).await.unwrap() == vec![7; 3_000_000]);

    let FileChanges { changes, truncated } = backups.compare(&first.id, &second.id).unwrap();
    assert!(!truncated);
    let sub = rig.path("sub");
    let of = |path: &str| changes.iter().find(|c| c.path == format!("{sub}{path}")).map(|c| c.change);
    assert_eq!(of("/a"), Some(FileChangeKind::Content));
    assert_eq!(of("/b"), Some(FileChangeKind::Added));
    assert_eq!(of(""), Some(FileChangeKind::Metadata));

    let target = tempfile::tempdir().unwrap();
    let job = rig.restore(request(&first.id, target.path())).await;
    let Some(VaultJobResult::Restore(report)) = &job.result else { panic!("{job:?}") };
    assert_eq!((report.files, report.verified, report.error_count), (2, 2, 0), "{report:?}");
    let back = target.path().join(rig.root().strip_prefix("/").unwrap());
    assert_eq!(fs::read(back.join("sub/a")).unwrap(), b"first");
    assert!(!back.join("left.tmp").exists());
    assert!(rig.site().backups.in_use().is_empty(), "nothing is held any more");
}

/// What cannot be had is an error with the next step in it, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said() {
    let rig = Rig::new();
    let backups = &rig.site().backups;
    let said = |e: PortError| (e.code, e.to_string());
    assert_eq!(
        said(rig.site().start_backup("no").unwrap_err()),
        (ErrorCode::NotFound, "there is no backup set 'no' (list them: lifeboat backup sets)".into())
    );
    assert_eq!(
        said(backups.backup("deadbeef").unwrap_err()),
        (ErrorCode::NotFound, "there is no backup 'deadbeef' (list them: lifeboat backup list)".into())
    );
    for wrong in [
        BackupSet { paths: vec!["etc".into()], ..rig.set("a") },
        BackupSet { paths: Vec::new(), ..rig.set("a") },
        BackupSet { name: String::new(), ..rig.set("a") },
        BackupSet { schedule: Some("every day".into()), ..rig.set("a") },
        BackupSet { exclude: vec!["a{b".into()], ..rig.set("a") },
    ] {
        assert_eq!(backups.ensure(&[wrong]).unwrap_err().code, ErrorCode::Invalid);
    }
    assert!(backups.sets().is_empty());
    rig.define(BackupSet { paths: vec!["/no/such/path".into()], ..rig.set("a") });
    let job = rig.site().start_backup("a").unwrap();
    let job = rig.ended(&job.id).await;
    assert_eq!(job.state, VaultJobState::Failed);
    assert!(job.error.unwrap().contains("nothing to back up: /no/such/path"));
    assert!(backups.sets()[0].error.is_some());
    assert!(backups.list(None).unwrap().is_empty(), "nothing half done counts");
    fs::write(rig.root().join("x"), "x").unwrap();
    rig.define(rig.set("a"));
    rig.back_up("a").await;
    assert!(backups.sets()[0].error.is_none());
    let lost = read(backups.content("a", "/no/such").await).await.unwrap_err();
    assert_eq!(lost.code, ErrorCode::NotFound);
    let up = backups.entries("a", "/../etc").unwrap_err();
    assert_eq!(up.code, ErrorCode::Invalid);
    let job = rig.restore(request("a", Path::new("relative"))).await;
    assert_eq!(job.state, VaultJobState::Failed);
}

/// Rows 35, 36: nobody deletes what is locked, and what is named stays until it is released.
#[tokio::test(flavor = "multi_thread")]
async fn names_and_locks_keep_a_backup_and_a_lock_refuses_everybody() {
    let rig = Rig::new();
    fs::write(rig.root().join("x"), "x").unwrap();
    let retention = RetentionSpec { lock_seconds: 100, ..RetentionSpec::default() };
    rig.define(BackupSet { retention, ..rig.set("a") });
    let made = rig.back_up("a").await;
    assert!(made.hold.locked_until.is_some());
    let backups = &rig.site().backups;
    let refused = backups.delete(&made.id).unwrap_err();
    assert!(refused.code == ErrorCode::Conflict && refused.message.contains("locked until"), "{refused}");
    let named = HoldRequest { name: Some("keep".into()), ..HoldRequest::default() };
    assert_eq!(backups.hold(&made.id, &named).unwrap().hold.name.as_deref(), Some("keep"));
    let shorter = HoldRequest { lock_seconds: Some(1), ..HoldRequest::default() };
    assert_eq!(backups.hold(&made.id, &shorter).unwrap().hold.locked_until, made.hold.locked_until);
    rig.w.clock.advance(Duration::from_secs(200));
    assert!(backups.delete(&made.id).unwrap_err().message.contains("is named 'keep'"));
    let release = HoldRequest { release: true, ..HoldRequest::default() };
    backups.hold(&made.id, &release).unwrap();
    assert!(backups.delete("a").is_err(), "a set's name means another backup each time");
    backups.delete(&made.id).unwrap();
    assert!(backups.list(None).unwrap().is_empty());
}

/// Rows 9, 18: a store that fails, or fills up, gives no half of a backup; the next one is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_at_any_call_leaves_no_half_backup() {
    let rig = Rig::new();
    for n in 0..20u8 {
        fs::write(rig.root().join(format!("{n}")), vec![n; 50_000]).unwrap();
    }
    rig.define(rig.set("a"));
    let mut failures = 0;
    for attempt in 2.. {
        // Each call fails in both ways before the next one is tried.
        let fault = if attempt % 2 == 0 { Fault::Before } else { Fault::LostReply };
        let (from, failing) = (rig.store.calls(), attempt / 2);
        rig.store.fail(from + failing, fault);
        let job = rig.site().start_backup("a").unwrap();
        let job = rig.ended(&job.id).await;
        if job.state == VaultJobState::Succeeded && rig.store.calls() < from + failing {
            break;
        }
        failures += usize::from(job.state == VaultJobState::Failed);
        // Every one that is listed can be read to its last byte.
        for backup in rig.site().backups.list(None).unwrap() {
            for n in 0..20u8 {
                let content = rig.site().backups.content(&backup.id, &rig.path(&n.to_string())).await;
                assert!(read(content).await.unwrap() == vec![n; 50_000], "attempt {attempt}");
            }
        }
        assert!(attempt < 200);
    }
    assert!(failures > 1, "{failures}");
    // The last fault still waits for its call.
    for _ in 0..3 {
        let job = rig.site().start_backup("a").unwrap();
        rig.ended(&job.id).await;
    }
    rig.store.set_room(Some(rig.store.used() + 10));
    fs::write(rig.root().join("big"), noise(500_000)).unwrap();
    let job = rig.site().start_backup("a").unwrap();
    let job = rig.ended(&job.id).await;
    assert_eq!(job.state, VaultJobState::Failed);
    assert!(job.error.as_ref().unwrap().contains("no space is left"), "{job:?}");
    rig.store.set_room(None);
    assert_eq!(rig.back_up("a").await.error_count, 0);
}

/// Row 20, for trees: a pruner that does not wait for a stalled backup makes it begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_a_pruner_ended_begins_anew() {
    let rig = Rig::new();
    fs::write(rig.root().join("x"), "x").unwrap();
    rig.define(rig.set("a"));
    let once = Arc::new(AtomicBool::new(false));
    let (flag, store) = (Arc::clone(&once), Arc::downgrade(&rig.store));
    rig.store.on_call(move |call| {
        // A tombstone in the snapshot's place, just before it is put there.
        let manifest = call.method == Method::Put && call.name.starts_with("snapshots/");
        if manifest
            && !flag.swap(true, Ordering::SeqCst)
            && let Some(store) = store.upgrade()
        {
            let name = ObjectName::new(&call.name).unwrap();
            store.overwrite(&name, bytes::Bytes::from_static(b"tombstone"));
        }
    });
    let made = rig.back_up("a").await;
    assert!(once.load(Ordering::SeqCst));
    assert_eq!(rig.site().backups.list(None).unwrap().len(), 1);
    assert_eq!(made.files, 1);
}

/// I3, row 6: damage is named and never data; everything else of the backup is still there.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_content_is_named_and_the_rest_comes_back() {
    let mut rig = Rig::new();
    fs::write(rig.root().join("a"), noise(400_000)).unwrap();
    rig.define(rig.set("first"));
    rig.back_up("first").await;
    let packs = rig.store.names().into_iter().filter(|n| n.as_str().starts_with("packs/"));
    let large = packs.max_by_key(|n| rig.store.peek(n).unwrap().len()).unwrap();
    fs::write(rig.root().join("b"), "small").unwrap();
    rig.w.clock.advance(Duration::from_secs(60));
    rig.back_up("first").await;
    assert!(rig.store.damage(&large, 8 * 1000));
    rig.restart();
    let target = tempfile::tempdir().unwrap();
    let job = rig.restore(RestoreRequest { verify: false, ..request("first", target.path()) }).await;
    let Some(VaultJobResult::Restore(report)) = &job.result else { panic!("{job:?}") };
    assert_eq!((report.files, report.error_count), (1, 1), "{report:?}");
    assert!(report.errors[0].contains("/a: ") && report.errors[0].contains("is damaged"), "{report:?}");
    let back = target.path().join(rig.root().strip_prefix("/").unwrap());
    assert!(!back.join("a").exists() && back.join("b").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_backup_is_seen_and_stays_until_it_is_unmounted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let rig = Rig::new();
    fs::write(rig.root().join("x"), "seen").unwrap();
    rig.define(rig.set("a"));
    let made = rig.back_up("a").await;
    let at = tempfile::tempdir().unwrap();
    let directory = at.path().display().to_string();
    let backups = &rig.site().backups;
    backups.mount("a", &directory).unwrap();
    backups.mount(&made.id, &directory).unwrap();
    let inside = at.path().join(rig.root().strip_prefix("/").unwrap());
    assert_eq!(fs::read(inside.join("x")).unwrap(), b"seen");
    assert!(backups.delete(&made.id).unwrap_err().message.contains("is being read"));
    fs::write(rig.root().join("x"), "newer").unwrap();
    rig.w.clock.advance(Duration::from_secs(60));
    let newer = rig.back_up("a").await;
    assert!(backups.mount(&newer.id, &directory).unwrap_err().message.contains("is mounted there"));
    backups.unmount(&directory).unwrap();
    assert_eq!(backups.unmount(&directory).unwrap_err().code, ErrorCode::NotFound);
    assert!(backups.in_use().is_empty());
    assert_eq!(fs::read_dir(at.path()).unwrap().count(), 0);
    let used = rig.root().display().to_string();
    assert!(backups.mount("a", &used).unwrap_err().message.contains("it is not empty"));
    assert!(backups.mount("a", "relative").is_err());
}

/// The site's own directory is in no backup of its host, even where it is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_sites_own_directory_is_left_out() {
    let rig = Rig::new();
    let own = rig.w.dir.path().canonicalize().unwrap();
    fs::write(own.join("secret"), "key").unwrap();
    fs::write(rig.root().join("x"), "x").unwrap();
    // A copy of the vault, in the middle of what is backed up.
    fs::create_dir(rig.root().join("zone-c")).unwrap();
    fs::write(rig.root().join("zone-c/pack"), "sealed").unwrap();
    let secret = own.join("secret").display().to_string();
    let paths = vec![own.display().to_string(), secret.clone(), rig.root().display().to_string()];
    rig.define(BackupSet { paths, ..rig.set("a") });
    let made = rig.back_up("a").await;
    assert_eq!((made.files, made.error_count), (1, 2), "{made:?}");
    assert!(made.errors.iter().all(|e| e.contains("is left out: Lifeboat keeps its own state")), "{made:?}");
    assert!(made.errors.iter().any(|e| e.contains("zone-c")), "{made:?}");
    assert!(rig.site().backups.entries("a", &secret).is_err());
}
