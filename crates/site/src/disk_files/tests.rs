//! Real file systems, looked at through the kernel. Without root or the tools there is nothing to look at.
#![allow(clippy::unwrap_used)]

use super::look::Look;
use super::*;
use lifeboat_block::{BlockDevice, FileDevice};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// A disk with one ext4 partition that holds `tree`.
fn disk(dir: &Path, tree: &Path) -> Option<Arc<dyn BlockDevice>> {
    let can = rustix::process::geteuid().is_root()
        && Path::new("/dev/fuse").exists()
        && Path::new("/dev/loop-control").exists();
    if !can {
        return None;
    }
    let (inner, image) = (dir.join("inner"), dir.join("disk"));
    std::fs::File::create(&inner).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-d"]).arg(tree).arg(&inner).status().ok()?;
    assert!(made.success());
    let mut table = vec![0; 1 << 20];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&(16u32 << 11).to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    table.extend(std::fs::read(&inner).unwrap());
    std::fs::write(&image, table).unwrap();
    Some(Arc::new(FileDevice::open(&image, true).unwrap()))
}

fn text(root: &look::Mounted, path: &str) -> Vec<u8> {
    let mut text = Vec::new();
    root.file(path).unwrap().read_to_end(&mut text).unwrap();
    text
}

/// Row 34: what a disk's names and links lead to is on the disk, or nowhere.
#[test]
fn files_of_a_disk_are_listed_and_read_and_nothing_leads_outside() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(tree.path().join("etc")).unwrap();
    std::fs::write(tree.path().join("etc/hostname"), "web-1\n").unwrap();
    std::fs::write(tree.path().join("large"), vec![5; 3 << 20]).unwrap();
    symlink("/etc/hostname", tree.path().join("absolute")).unwrap();
    symlink("../../../../../../etc/passwd", tree.path().join("up")).unwrap();
    let Some(device) = disk(dir.path(), tree.path()) else { return };
    let before = std::fs::read(dir.path().join("disk")).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let look = Look::new(vec![(0, device)]).unwrap();
    assert_eq!(look.parts().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["disk0p1"]);

    let root = look.mounted("disk0p1").unwrap();
    let entries = root.entries("").unwrap();
    let shown: Vec<_> = entries.iter().map(|e| (e.name.as_str(), e.kind)).collect();
    let expected = [
        ("absolute", FileKind::Symlink),
        ("etc", FileKind::Directory),
        ("large", FileKind::File),
        ("lost+found", FileKind::Directory),
        ("up", FileKind::Symlink),
    ];
    assert_eq!(shown, expected);
    assert_eq!(entries[0].target.as_deref(), Some("/etc/hostname"));
    assert_eq!(root.entries("etc/hostname").unwrap()[0].size, 6);
    assert_eq!(text(&root, "etc/hostname"), b"web-1\n");
    assert!(text(&root, "large") == vec![5; 3 << 20]);
    assert_eq!(text(&root, "absolute"), b"web-1\n");
    for outside in ["up", "../etc/passwd", "/../../etc/passwd", "etc/../../../etc/passwd", "none"] {
        assert_eq!(root.file(outside).unwrap_err().code, ErrorCode::NotFound, "{outside}");
    }
    assert_eq!(root.file("etc").unwrap_err().code, ErrorCode::Invalid);
    let error = look.mounted("disk0p2").err().unwrap().to_string();
    assert_eq!(error, "there is no 'disk0p2' in this point (it has: disk0p1)");
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts, "in no mount table");
    drop(root);
    drop(look);
    assert_eq!(std::fs::read(dir.path().join("disk")).unwrap(), before, "the point is never written");
}

/// A disk that asks for a panic on errors is not given one: this kernel runs the site.
#[test]
fn a_disk_does_not_decide_what_an_error_does_here() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(tree.path().join("x"), "x").unwrap();
    let Some(device) = disk(dir.path(), tree.path()) else { return };
    let writable = FileDevice::open(&dir.path().join("disk"), false).unwrap();
    let tuned = Command::new("tune2fs").args(["-e", "panic"]).arg(dir.path().join("inner")).output();
    if !tuned.is_ok_and(|t| t.status.success()) {
        return;
    }
    let inner = std::fs::read(dir.path().join("inner")).unwrap();
    writable.write(1 << 20, inner[..1 << 16].to_vec().into()).unwrap();
    let look = Look::new(vec![(0, device)]).unwrap();
    let root = look.mounted("disk0p1").unwrap();
    assert_eq!(text(&root, "x"), b"x");
}

/// A disk whose file system the kernel refuses: named, with what to do instead.
#[test]
fn a_file_system_that_cannot_be_mounted_is_named() {
    let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(tree.path().join("old"), "old").unwrap();
    let Some(device) = disk(dir.path(), tree.path()) else { return };
    // Features no kernel knows.
    let writable = FileDevice::open(&dir.path().join("disk"), false).unwrap();
    writable.write((1 << 20) + 1024 + 0x60, vec![0xff; 4].into()).unwrap();
    let look = Look::new(vec![(0, device)]).unwrap();
    let error = look.mounted("disk0p1").err().unwrap();
    assert!(error.message.starts_with("cannot look into disk0p1, which holds ext4: "), "{error}");
    assert!(error.hint.unwrap().contains("lifeboat mount"));
}

#[test]
fn what_is_not_looked_at_is_closed_and_only_so_many_are_open() {
    let files = DiskFiles::default();
    let look = || Arc::new(Look::new(Vec::new()).unwrap());
    let ids: Vec<ServerId> = (0..6u8).map(|n| ServerId::from_slice(&[n; 16]).unwrap()).collect();
    let point = PointId { epoch: lifeboat_base::Epoch(1), seq: lifeboat_base::Seq(1) };
    for (n, id) in ids.iter().enumerate() {
        files.keep(*id, point, &look(), Duration::from_secs(n as u64));
    }
    assert_eq!(files.0.lock().len(), MOST);
    assert!(files.find(ids[0], point, Duration::from_secs(6)).is_none());
    let held = files.find(ids[3], point, Duration::from_secs(6)).unwrap();
    files.sweep(Duration::from_secs(1000));
    assert_eq!(files.0.lock().len(), 1, "what is in use stays");
    drop(held);
    files.sweep(Duration::from_secs(1000));
    assert!(files.0.lock().is_empty());
}

#[test]
fn a_path_is_a_partition_and_what_is_in_it() {
    assert_eq!(split(""), ("", ""));
    assert_eq!(split("/disk0p1"), ("disk0p1", ""));
    assert_eq!(split("disk0p1/etc/../x"), ("disk0p1", "etc/../x"));
}
