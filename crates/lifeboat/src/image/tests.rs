use super::*;
use bytes::Bytes;
use lifeboat_base::SystemClock;
use lifeboat_block::MemoryDevice;
use lifeboat_nbd::{ClientSettings, Exports, Server, ServerSettings};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

struct Silent;

impl Progress for Silent {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_draft_that_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(Draft::new(&dir.path().join("a.img"), false).unwrap());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn an_existing_file_is_kept_until_a_whole_one_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a.img");
    fs::write(&target, "old").unwrap();
    assert_eq!(Draft::new(&target, false).unwrap_err().exit, Exit::Refused);
    drop(Draft::new(&target, true).unwrap());
    assert_eq!(fs::read(&target).unwrap(), b"old");
    let draft = Draft::new(&target, true).unwrap();
    fs::write(draft.path(), "new").unwrap();
    draft.finish().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new");
    assert_eq!(names(dir.path()), ["a.img"]);
}

#[test]
fn a_device_or_directory_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Draft::new(dir.path(), true).unwrap_err().exit, Exit::Usage);
    assert_eq!(Draft::new(Path::new("/dev/null"), true).unwrap_err().exit, Exit::Usage);
}

/// A device over NBD, as a mount is.
fn mounted(dir: &Path, device: MemoryDevice) -> (Server, Client) {
    let socket = dir.join("nbd.sock");
    let exports = Exports::single(Arc::new(device));
    let server =
        Server::listen_unix(&socket, exports, ServerSettings::default(), Arc::new(SystemClock)).unwrap();
    let client = Client::connect_unix(&socket, "", &ClientSettings::default()).unwrap();
    (server, client)
}

#[test]
fn a_raw_image_is_exact_and_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let size = 64 << 20;
    let device = MemoryDevice::new(size);
    device.write(0, Bytes::from(vec![1; 4096])).unwrap();
    device.write(30 << 20, Bytes::from(vec![7; 3 << 20])).unwrap();
    device.write(size - 512, Bytes::from(vec![9; 512])).unwrap();
    let (_server, client) = mounted(dir.path(), device);
    let path = dir.path().join("a.img");
    let draft = Draft::new(&path, false).unwrap();
    copy_raw(&client, draft.path(), &Silent, &AtomicBool::new(false)).unwrap();
    draft.finish().unwrap();
    let image = fs::read(&path).unwrap();
    assert_eq!(image.len() as u64, size);
    let mut expected = vec![0; image.len()];
    client.read(0, &mut expected).unwrap();
    assert!(image == expected, "the image differs from the point");
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 8 << 20, "holes took room");
}

#[test]
fn a_cancelled_copy_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, client) = mounted(dir.path(), MemoryDevice::new(1 << 20));
    let path = dir.path().join("a.img");
    let draft = Draft::new(&path, false).unwrap();
    let stopped = copy_raw(&client, draft.path(), &Silent, &AtomicBool::new(true));
    assert!(stopped.unwrap_err().message.contains("stopped"));
    drop(draft);
    assert_eq!(names(dir.path()), ["nbd.sock"]);
}
