//! Backups of files as their users meet them, and single files out of a disk's point.

#![allow(clippy::unwrap_used, reason = "tests")]

use lifeboat_e2e::site::SOON;
use lifeboat_e2e::{End, Place, Plan, Proxy, Site, TestDir, run, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn wait_vault(site: &Site) {
    wait_for("the vault to be ready", SOON, || site.json(&["vault", "status"])["state"] == "ready");
}

fn id(backup: &Value) -> String {
    backup["id"].as_str().unwrap().to_string()
}

/// Where a restored tree has what was at `path`.
fn under(target: &Path, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").unwrap())
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(root.join("plain"), vec![3; 300_000]).unwrap();
    fs::write(root.join("sub/deep/small"), "small\n").unwrap();
    fs::write(root.join("left.tmp"), "not this").unwrap();
    fs::hard_link(root.join("plain"), root.join("sub/second")).unwrap();
    symlink("../plain", root.join("sub/link")).unwrap();
    fs::set_permissions(root.join("sub/deep/small"), fs::Permissions::from_mode(0o4750)).unwrap();
    settle(&root.join("sub/deep/small"));
}

/// Waits until a file is older than a file system's tick: one that just changed is read again by the next backup.
fn settle(file: &Path) {
    let changed = fs::metadata(file).unwrap().ctime();
    let probe = tempfile::NamedTempFile::new().unwrap();
    wait_for("the files to be older than a tick", SOON, || {
        fs::write(probe.path(), "x").unwrap();
        fs::metadata(probe.path()).unwrap().ctime() > changed + 3
    });
}

/// What `diff -r` and `stat` see.
fn same_tree(a: &Path, b: &Path) {
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(a).arg(b));
    let list = |root: &Path| {
        let mut find = Command::new("find");
        find.arg(".").args(["-printf", "%P %y %m %U %G %T@ %l\n"]).current_dir(root);
        let out = find.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut lines: Vec<_> = String::from_utf8_lossy(&out.stdout).lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(list(a), list(b));
}

/// A new user backs a directory of the site's host up, changes it, and gets everything back.
#[test]
fn a_directory_is_backed_up_compared_read_mounted_and_brought_back() {
    let dir = TestDir::new("backup-local");
    let site = Site::start(dir.path(), "site", &Place::host());
    wait_vault(&site);
    let data = dir.join("data");
    tree(&data);
    site.ok(&["backup", "create", text(&data), "--name", "data", "--exclude", "*.tmp"]);
    let when = fs::metadata(&data).unwrap().modified().unwrap();
    fs::remove_file(data.join("left.tmp")).unwrap();
    let first = site.json(&["backup", "list", "data"])[0].clone();
    assert_eq!((first["files"].as_u64(), first["error_count"].as_u64()), (Some(4), Some(0)), "{first}");
    let kept = dir.join("kept");
    run(Command::new("cp").arg("-a").arg(&data).arg(&kept));
    fs::File::open(&kept).unwrap().set_modified(when).unwrap();

    fs::write(data.join("sub/deep/small"), "changed\n").unwrap();
    fs::write(data.join("new"), "new\n").unwrap();
    site.ok(&["backup", "run", "data"]);
    let listed = site.json(&["backup", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let second = &listed[0];
    assert_eq!(second["files_read"], 2, "only what changed is read: {second}");
    let changes = site.json(&["backup", "diff", &id(&first), &id(second)]);
    let of = |name: &str| {
        let path = format!("{}/{name}", text(&data));
        let all = changes["changes"].as_array().unwrap();
        all.iter().find(|c| c["path"] == *path).map(|c| c["change"].as_str().unwrap().to_string())
    };
    assert_eq!(of("new").as_deref(), Some("added"));
    assert_eq!(of("sub/deep/small").as_deref(), Some("content"));
    assert_eq!(of("plain"), None);
    let small = data.join("sub/deep/small");
    assert_eq!(site.ok(&["backup", "dump", &id(&first)[..8], text(&small)]), "small\n");
    assert_eq!(site.ok(&["backup", "dump", "data", text(&small)]), "changed\n");
    let shown = site.ok(&["backup", "ls", "data", text(&data.join("sub"))]);
    assert!(shown.contains("second") && shown.contains("link") && shown.contains("../plain"), "{shown}");

    let target = dir.join("target");
    fs::create_dir(&target).unwrap();
    site.ok(&["backup", "restore", &id(&first), "--to", text(&target), "--verify"]);
    same_tree(&under(&target, &data), &kept);
    let back = under(&target, &data);
    assert_eq!(
        fs::metadata(back.join("plain")).unwrap().ino(),
        fs::metadata(back.join("sub/second")).unwrap().ino()
    );
    // To where it was: what is there stays, unless it is to be replaced.
    let again = site.cli(&["backup", "restore", &id(&first), "--to", "/", "--path", text(&small)]);
    assert!(
        again.stdout.contains("is there already") || again.stderr.contains("is there already"),
        "{again:?}"
    );
    assert_eq!(fs::read(&small).unwrap(), b"changed\n");
    site.ok(&[
        "backup",
        "restore",
        &id(&first),
        "--to",
        "/",
        "--path",
        text(&small),
        "--overwrite",
        "--verify",
    ]);
    assert_eq!(fs::read(&small).unwrap(), b"small\n");

    let at = dir.join("at");
    fs::create_dir(&at).unwrap();
    site.ok(&["backup", "mount", &id(&first), text(&at)]);
    same_tree(&under(&at, &data), &kept);
    site.refuses(4, "being read", &["backup", "delete", &id(&first), "--yes"]);
    site.ok(&["backup", "unmount", text(&at)]);
    site.ok(&["backup", "hold", &id(&first), "--name", "before"]);
    site.refuses(4, "is named 'before'", &["backup", "delete", &id(&first), "--yes"]);
    site.ok(&["backup", "hold", &id(&first), "--release"]);
    site.ok(&["backup", "delete", &id(&first), "--yes"]);
    assert_eq!(site.json(&["backup", "list"]).as_array().unwrap().len(), 1);
    site.refuses(3, "there is no backup", &["backup", "show", &id(&first)]);
}

/// A site that dies while a backup is mounted leaves nothing that cannot be used again, and no half of a backup.
#[test]
fn a_site_that_dies_leaves_no_half_backup_and_no_dead_mount() {
    let dir = TestDir::new("backup-kill");
    let mut site = Site::start(dir.path(), "site", &Place::host());
    wait_vault(&site);
    let data = dir.join("data");
    tree(&data);
    site.ok(&["backup", "create", text(&data), "--name", "data"]);
    let at = dir.join("at");
    fs::create_dir(&at).unwrap();
    site.ok(&["backup", "mount", "data", text(&at)]);
    for n in 0..40u8 {
        let content: Vec<u8> =
            (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> (n % 24)) as u8 ^ n).collect();
        fs::write(data.join(format!("large-{n}")), content).unwrap();
    }
    site.ok(&["backup", "create", text(&data), "--name", "data", "--detach"]);
    wait_for("the backup to be under way", SOON, || {
        let jobs = site.json(&["vault", "jobs"]);
        jobs[0]["kind"] == "backup" && (jobs[0]["done"].as_u64() > Some(0) || jobs[0]["state"] != "running")
    });
    site.process.kill();
    assert!(fs::read_dir(&at).is_err(), "a dead mount answers with errors");
    site.restart();
    wait_vault(&site);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "the dead mount was taken away");
    let listed = site.json(&["backup", "list", "data"]);
    for backup in listed.as_array().unwrap() {
        let target = dir.join(&id(backup));
        fs::create_dir(&target).unwrap();
        site.ok(&["backup", "restore", &id(backup), "--to", text(&target), "--verify"]);
    }
    site.ok(&["backup", "run", "data"]);
    let target = dir.join("target");
    fs::create_dir(&target).unwrap();
    site.ok(&["backup", "restore", "data", "--to", text(&target), "--verify"]);
    same_tree(&under(&target, &data), &data);
    site.ok(&["backup", "mount", "data", text(&at)]);
    site.process.terminate(Duration::from_secs(30));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "a site that stops unmounts");
}

/// Through an agent: the same, and what it remembers is proven before it is built on.
#[test]
fn an_agent_backs_its_host_up_and_a_dead_one_leaves_nothing_half_done() {
    let dir = TestDir::new("backup-agent");
    let site = Site::start(dir.path(), "site", &Place::host());
    let mut agent = site.agent(dir.path(), "source", &Place::host());
    wait_vault(&site);
    let data = dir.join("data");
    tree(&data);
    site.ok(&["backup", "create", text(&data), "--name", "remote", "--agent", "source"]);
    site.ok(&["backup", "run", "remote"]);
    let listed = site.json(&["backup", "list", "remote"]);
    assert_eq!(listed[1]["files"], 5, "{listed}");
    assert_eq!(
        (listed[0]["files"].as_u64(), listed[0]["files_read"].as_u64()),
        (Some(5), Some(0)),
        "{listed}"
    );
    // Another backup than the one it remembers is the newest: everything is read, and nothing is wrong.
    site.ok(&["backup", "delete", &id(&listed[0]), "--yes"]);
    fs::write(data.join("new"), "new\n").unwrap();
    site.ok(&["backup", "run", "remote"]);
    let target = dir.join("target");
    fs::create_dir(&target).unwrap();
    site.ok(&["backup", "restore", "remote", "--to", text(&target), "--verify"]);
    same_tree(&under(&target, &data), &data);

    for n in 0..40u8 {
        let content: Vec<u8> =
            (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> (n % 24)) as u8 ^ n).collect();
        fs::write(data.join(format!("large-{n}")), content).unwrap();
    }
    let before = site.json(&["backup", "list", "remote"]).as_array().unwrap().len();
    site.ok(&["backup", "run", "remote", "--detach"]);
    wait_for("the backup to be under way", SOON, || {
        let job = site.json(&["vault", "jobs"])[0].clone();
        job["kind"] == "backup" && (job["done"].as_u64() > Some(0) || job["state"] != "running")
    });
    agent.process.kill();
    wait_for("the backup to end", SOON, || site.json(&["vault", "jobs"])[0]["state"] != "running");
    let jobs = site.json(&["vault", "jobs"]);
    let made = usize::from(jobs[0]["state"] == "succeeded");
    assert_eq!(site.json(&["backup", "list", "remote"]).as_array().unwrap().len(), before + made);
    let refused = site.cli(&["backup", "run", "remote"]);
    assert!(refused.code != 0 && refused.stderr.contains("not connected"), "{refused:?}");
    agent.restart();
    agent.wait_connected(&site);
    site.ok(&["backup", "run", "remote"]);
    let newer = dir.join("newer");
    fs::create_dir(&newer).unwrap();
    site.ok(&["backup", "restore", "remote", "--to", text(&newer), "--verify"]);
    same_tree(&under(&newer, &data), &data);
}

/// What only a whole restore brings back: owners, attributes, holes, and many small files.
fn rich_tree(root: &Path) {
    tree(root);
    fs::write(root.join("owned"), "of somebody else\n").unwrap();
    std::os::unix::fs::chown(root.join("owned"), Some(1234), Some(4321)).unwrap();
    std::os::unix::fs::lchown(root.join("sub/link"), Some(12), Some(34)).unwrap();
    rustix::fs::setxattr(root.join("owned"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 100 << 20).unwrap();
    for n in 0..2000u32 {
        let directory = root.join(format!("many/{}/{}", n % 10, n % 100));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(n.to_string()), n.to_le_bytes()).unwrap();
    }
}

fn same_rich_tree(back: &Path, data: &Path) {
    same_tree(back, data);
    let (plain, second) = (fs::metadata(back.join("plain")).unwrap(), back.join("sub/second"));
    assert_eq!(plain.ino(), fs::metadata(second).unwrap().ino(), "a hard link is one again");
    assert!(fs::metadata(back.join("sparse")).unwrap().blocks() < 4096, "holes are holes");
    let mut note = [0; 16];
    let len = rustix::fs::getxattr(back.join("owned"), "user.note", &mut note[..]).unwrap();
    assert_eq!(&note[..len], b"kept");
}

/// What was lost on an agent's host comes back there, without anybody's copying it; another's host takes it as well.
#[test]
fn a_backup_is_brought_back_to_an_agents_host() {
    let dir = TestDir::new("backup-restore-agent");
    let site = Site::start(dir.path(), "site", &Place::host());
    let mut agent = site.agent(dir.path(), "source", &Place::host());
    wait_vault(&site);
    let data = dir.join("data");
    rich_tree(&data);
    site.ok(&["backup", "create", text(&data), "--name", "remote", "--agent", "source"]);
    let kept = dir.join("kept");
    fs::rename(&data, &kept).unwrap();

    // On the site's host / is another's place.
    site.refuses(4, "--agent NAME", &["backup", "restore", "remote", "--to", "/"]);
    site.refuses(3, "there is no agent", &["backup", "restore", "remote", "--to", "/", "--agent", "no"]);
    let home =
        ["backup", "restore", "remote", "--to", "/", "--path", text(&data), "--agent", "source", "--verify"];
    let shown = site.ok(&home);
    assert!(shown.contains("read back and equal"), "{shown}");
    same_rich_tree(&data, &kept);
    let job = site.json(&["vault", "jobs"])[0].clone();
    assert_eq!(
        (job["kind"].as_str(), job["subject"].as_str()),
        (Some("restore"), Some("remote to / on source"))
    );
    let report = &job["result"];
    assert_eq!(report["error_count"], 0, "{job}");
    assert!(report["files"].as_u64() > Some(2000) && report["verified"] == report["files"], "{job}");

    // What is there stays, and is replaced when that is asked for.
    fs::write(data.join("owned"), "changed\n").unwrap();
    let again = site.cli(&[
        "backup",
        "restore",
        "remote",
        "--to",
        "/",
        "--path",
        text(&data.join("owned")),
        "--agent",
        "source",
    ]);
    assert!(
        again.stdout.contains("is there already") || again.stderr.contains("is there already"),
        "{again:?}"
    );
    assert_eq!(fs::read(data.join("owned")).unwrap(), b"changed\n");
    site.ok(&[&home[..], &["--overwrite"]].concat());
    same_rich_tree(&data, &kept);

    // Elsewhere; and what is the site's own.
    let elsewhere = dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    site.ok(&["backup", "restore", "remote", "--to", text(&elsewhere), "--agent", "source", "--verify"]);
    same_rich_tree(&under(&elsewhere, &data), &kept);
    site.ok(&["backup", "create", text(&kept.join("sub")), "--name", "own"]);
    site.ok(&["backup", "restore", "own", "--to", text(&elsewhere), "--agent", "source", "--verify"]);
    same_tree(&under(&elsewhere, &kept.join("sub")), &kept.join("sub"));

    // The host's owner has the last word.
    agent.process.terminate(Duration::from_secs(30));
    agent.restart_with(&["--no-restore"]);
    agent.wait_connected(&site);
    let refused = site.cli(&[&home[..], &["--overwrite"]].concat());
    assert!(refused.code != 0 && refused.stderr.contains("--no-restore"), "{refused:?}");
    let audit = site.json(&["audit"]).to_string();
    assert!(audit.contains("to / on the host of agent 'source'"), "{audit}");
}

/// Over a far link many small files do not cost a round trip each; where it is lost, what is there stays, and is not all.
#[test]
fn a_restore_over_a_far_link_is_not_slow_and_a_lost_one_says_what_to_do() {
    let dir = TestDir::new("backup-restore-far");
    let site = Site::start(dir.path(), "site", &Place::host());
    let link = Proxy::start(site.replication().parse().unwrap());
    let mut agent = site.agent_by(dir.path(), "source", &Place::host(), &link.address().to_string());
    wait_vault(&site);
    let data = dir.join("data");
    rich_tree(&data);
    site.ok(&["backup", "create", text(&data), "--name", "own"]);
    let to = |name: &str| {
        let target = dir.join(name);
        fs::create_dir(&target).unwrap();
        target
    };
    // 40 ms there and back.
    link.set(Plan::Delay(Duration::from_millis(20)));
    let far = to("far");
    let began = lifeboat_sim::clock::unix_ms();
    site.ok(&["backup", "restore", "own", "--to", text(&far), "--agent", "source"]);
    let took = lifeboat_sim::clock::unix_ms() - began;
    assert!(took < 20_000, "2000 files took {took} ms; a round trip for each is 80 s");
    same_rich_tree(&under(&far, &data), &data);

    link.set(Plan::Throttle(40_000));
    let cut = to("cut");
    site.ok(&["backup", "restore", "own", "--to", text(&cut), "--agent", "source", "--detach"]);
    wait_for("the restore to be under way", SOON, || {
        site.json(&["vault", "jobs"])[0]["done"].as_u64() > Some(0)
    });
    link.drop_all(End::Reset);
    wait_for("the restore to end", SOON, || site.json(&["vault", "jobs"])[0]["state"] != "running");
    let job = site.json(&["vault", "jobs"])[0].clone();
    assert_eq!(job["state"], "failed", "{job}");
    let why = job["error"].as_str().unwrap();
    assert!(why.contains("session ended before the restore did") && why.contains("--overwrite"), "{why}");
    link.set(Plan::Pass);
    agent.wait_connected(&site);
    site.ok(&[
        "backup",
        "restore",
        "own",
        "--to",
        text(&cut),
        "--agent",
        "source",
        "--overwrite",
        "--verify",
    ]);
    same_rich_tree(&under(&cut, &data), &data);
}

/// Loop devices over a disk that is looked into.
fn loops() -> usize {
    let of = |n: usize| fs::read_to_string(format!("/sys/block/loop{n}/loop/backing_file"));
    (0..256).filter(|n| of(*n).is_ok_and(|t| t.trim() == "/disk")).count()
}

/// Single files out of a point of a disk; nothing of it is left, not even when the site is killed meanwhile.
#[test]
fn single_files_come_out_of_a_disks_point() {
    let dir = TestDir::new("disk-files");
    let mut site = Site::start(dir.path(), "site", &Place::host());
    let _agent = site.agent(dir.path(), "source", &Place::host());
    let (files, disk) = (dir.join("files"), dir.join("disk.img"));
    fs::create_dir_all(files.join("etc")).unwrap();
    fs::write(files.join("etc/hostname"), "web-1\n").unwrap();
    symlink("../../../etc/passwd", files.join("up")).unwrap();
    fs::write(files.join("large"), vec![7; 40 << 20]).unwrap();
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&files).arg(&disk));
    site.ok(&["protect", "web-1", "--agent", "source", "--export", text(&disk)]);
    site.wait_ready("web-1");
    site.wait_caught_up("web-1");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let shown = site.ok(&["files", "web-1", "ls"]);
    assert!(shown.contains("disk0"), "{shown}");
    let shown = site.ok(&["files", "web-1", "ls", "disk0/etc"]);
    assert!(shown.contains("hostname"), "{shown}");
    assert_eq!(site.ok(&["files", "web-1", "get", "disk0/etc/hostname"]), "web-1\n");
    let to = dir.join("got");
    site.ok(&["files", "web-1", "get", "disk0/etc/hostname", "-o", text(&to)]);
    assert_eq!(fs::read(&to).unwrap(), b"web-1\n");
    for path in ["disk0/up", "disk0/../etc/passwd", "disk0/none"] {
        assert_ne!(site.cli(&["files", "web-1", "get", path]).code, 0, "{path}");
    }
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts, "nothing is in a mount table");
    assert!(loops() > 0, "it is looked into");
    // In the middle of it.
    let out = dir.join("part");
    let mut reading =
        site.command(&["files", "web-1", "get", "disk0/large", "-o", text(&out)]).spawn().unwrap();
    wait_for("the file to arrive", SOON, || fs::metadata(&out).is_ok_and(|m| m.len() > 0));
    site.process.kill();
    reading.wait().unwrap();
    wait_for("the kernel to take everything away", SOON, || loops() == 0);
    site.restart();
    wait_for("the journal to be open again", SOON, || site.cli(&["files", "web-1", "ls", "/"]).code == 0);
    assert_eq!(site.ok(&["files", "web-1", "get", "disk0/etc/hostname"]), "web-1\n");
}
