use super::*;
use crate::render::fixtures::{NOW, before};
use lifeboat_api::types::{BackupSet, FileChange, RetentionSpec, VaultHold};

fn backup() -> Backup {
    Backup {
        id: "4f1c22aa".repeat(4),
        set: "www".into(),
        agent: None,
        time: before(3600),
        paths: vec!["/srv/www".into()],
        files: 1200,
        bytes: 3 << 20,
        files_read: 12,
        added_bytes: 1 << 20,
        duration_ms: 2500,
        errors: vec!["/srv/www/x: vanished\u{7}".into()],
        error_count: 3,
        hold: VaultHold {
            snapshot: String::new(),
            name: None,
            keep_until: Some(NOW),
            locked_until: None,
            added_bytes: 0,
        },
    }
}

#[test]
fn a_backup_says_what_it_holds_and_what_it_does_not() {
    assert_eq!(
        made(&backup()),
        "backup 4f1c22aa of www: 1200 files, 3.0 MiB; 12 files read, 1.0 MiB added, 2.5 s\n\
         not read: 3\n  /srv/www/x: vanished \n  and 2 more\n"
    );
    let line = table(&[backup()], NOW);
    assert!(line.contains("4f1c22aa  www  this site  2025-12-31 23:00:00  60 min ago"), "{line}");
}

#[test]
fn a_set_that_failed_says_why() {
    let set = BackupSet {
        name: "www".into(),
        agent: Some("host-a".into()),
        paths: vec!["/srv/www".into()],
        exclude: vec![],
        one_file_system: false,
        schedule: None,
        retention: RetentionSpec::default(),
    };
    let info =
        BackupSetInfo { set, backups: 1, last: Some(backup()), error: Some("no route".into()), next: None };
    let text = sets(&[info], NOW, Style::PLAIN);
    assert!(text.contains("www  host-a  /srv/www  -         -     60 min ago        1  no route"), "{text}");
    assert!(text.contains("www keeps aws: every 10 min"), "{text}");
}

#[test]
fn modes_are_shown_as_everybody_knows_them() {
    let entry = |kind, mode| FileEntry {
        name: "x".into(),
        kind,
        size: 0,
        mode,
        uid: 0,
        gid: 0,
        modified: NOW,
        target: None,
    };
    for (kind, bits, text) in [
        (FileKind::File, 0o644, "-rw-r--r--"),
        (FileKind::Directory, 0o1777, "drwxrwxrwt"),
        (FileKind::File, 0o4755, "-rwsr-xr-x"),
        (FileKind::File, 0o2644, "-rw-r-Sr--"),
        (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
    ] {
        assert_eq!(mode(&entry(kind, bits)), text);
    }
    let dir = entries(&[entry(FileKind::Directory, 0o755)], Style::PLAIN);
    assert!(dir.ends_with("2026-01-01 00:00:00  x/\n"), "{dir}");
}

#[test]
fn differences_that_are_left_out_are_told_of() {
    let change =
        |path: &str| FileChange { path: path.into(), change: FileChangeKind::Added, before: 0, after: 1 };
    let mut all = FileChanges { changes: vec![change("/a"), change("/b")], truncated: false };
    assert_eq!(changes(&all, Style::PLAIN), "+ /a  (1 B)\n+ /b  (1 B)\n");
    all.truncated = true;
    let text = changes(&all, Style::PLAIN);
    assert!(
        text.ends_with(
            "only the first 2 differences are shown; mount both to see the rest: lifeboat backup mount\n"
        ),
        "{text}"
    );
    assert_eq!(changes(&FileChanges::default(), Style::PLAIN), "they are equal");
}
