use super::*;

fn disk(size: u64) -> RunDisk {
    RunDisk { nbd_socket: "/m".into(), export: String::new(), size, overlay: "/o".into() }
}

#[test]
fn a_hundred_percent_is_said_only_when_all_is_done() {
    use DiskHydration::{Copying, Done, Waiting};
    let disks = [disk(1 << 40), disk(1 << 20)];
    assert_eq!(percent(&disks, &[Waiting, Waiting]), 0);
    assert_eq!(percent(&disks, &[Copying { done: 1 << 39, of: 1 << 40 }, Waiting]), 49);
    assert_eq!(percent(&disks, &[Done, Copying { done: 1 << 20, of: 1 << 20 }]), 99);
    assert_eq!(percent(&disks, &[Done, Done]), 100);
    assert_eq!(percent(&[], &[]), 100);
}
