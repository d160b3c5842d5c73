#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::SystemClock;

fn disk(dir: &Path) -> RunDisk {
    RunDisk {
        nbd_socket: dir.join("a mount,1.sock"),
        export: "web 1".into(),
        size: 3 << 20,
        overlay: dir.join("o,1.qcow2"),
    }
}

#[test]
fn an_overlay_is_made_once_and_needs_its_mount() {
    let dir = tempfile::tempdir().unwrap();
    let d = disk(dir.path());
    assert_eq!(Header::read(&d.overlay).unwrap(), None);
    assert!(ensure(Path::new("qemu-img"), &d, &SystemClock).unwrap());
    assert_eq!(Header::read(&d.overlay).unwrap(), Some(Header { size: 3 << 20, needs_backing: true }));
    assert!(!ensure(Path::new("qemu-img"), &d, &SystemClock).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(uri(&d).ends_with("a%20mount%2C1.sock") && uri(&d).starts_with("nbd+unix:///web%201?"));
}

#[test]
fn what_is_there_and_no_overlay_of_this_disk_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut d = disk(dir.path());
    fs::write(&d.overlay, [7; 4096]).unwrap();
    let e = ensure(Path::new("qemu-img"), &d, &SystemClock).unwrap_err().to_string();
    assert!(e.contains("is no qcow2 image; it is not overwritten"), "{e}");
    assert_eq!(fs::read(&d.overlay).unwrap(), [7; 4096]);
    fs::remove_file(&d.overlay).unwrap();
    ensure(Path::new("qemu-img"), &d, &SystemClock).unwrap();
    d.size += 512;
    let e = ensure(Path::new("qemu-img"), &d, &SystemClock).unwrap_err().to_string();
    assert!(e.contains("the disk has 3146240"), "{e}");
}

#[test]
fn no_room_or_no_tool_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut d = disk(dir.path());
    let e = ensure(Path::new("no-qemu-img"), &d, &SystemClock).unwrap_err().to_string();
    assert_eq!(e, "'no-qemu-img' was not found: install the package qemu-utils");
    d.overlay = dir.path().join("missing/o.qcow2");
    assert!(matches!(ensure(Path::new("qemu-img"), &d, &SystemClock), Err(LaunchError::Tool { .. })));
    let e = mount_answers(3, &d).unwrap_err().to_string();
    assert!(e.starts_with("disk 3 is not served at ") && e.ends_with("mount the point again"), "{e}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
