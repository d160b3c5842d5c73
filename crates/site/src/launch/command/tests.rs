#![allow(clippy::unwrap_used)]

use super::*;
use crate::launch::accel::{Accel, AccelKind};
use crate::launch::record::Forwarded;
use crate::launch::spec::RunSpec;
use lifeboat_base::{RunId, SeededEntropy, WallTime};

fn record(disks: usize, change: impl FnOnce(&mut RunSpec)) -> RunRecord {
    let mut spec = RunSpec::new(RunId::random(&SeededEntropy::new(1)), "web,1", Path::new("/r,1"));
    for n in 0..disks {
        spec.disks.push(RunDisk {
            nbd_socket: "/m,1/m.sock".into(),
            export: format!("disk{n}"),
            size: 1 << 20,
            overlay: format!("/r,1/disk{n}.qcow2").into(),
        });
    }
    change(&mut spec);
    let accel = Accel { kind: AccelKind::Tcg, reason: String::new() };
    let forwards = vec![Forwarded { guest_port: 80, host_port: 4080 }];
    RunRecord::new(spec, forwards, accel, "boot".into(), WallTime(0))
}

fn args(record: &RunRecord, host: &HostFacts) -> Vec<String> {
    arguments(record, &RunPaths::new(&record.spec.dir), host)
}

fn values<'a>(args: &'a [String], option: &str) -> Vec<&'a str> {
    args.windows(2).filter(|w| w[0] == option).map(|w| w[1].as_str()).collect()
}

fn jsons(args: &[String], option: &str) -> Vec<Value> {
    values(args, option).iter().map(|v| serde_json::from_str(v).unwrap()).collect()
}

#[test]
fn commas_in_names_and_paths_stay_part_of_them() {
    let a = args(&record(1, |_| {}), &HostFacts::default());
    assert_eq!(values(&a, "-name"), ["guest=web,,1"]);
    assert_eq!(values(&a, "-chardev")[0], "socket,id=qmp,path=/r,,1/qmp.sock,server=on,wait=off");
    let nodes = jsons(&a, "-blockdev");
    assert_eq!(nodes[0]["server"]["path"], "/m,1/m.sock");
    assert_eq!(nodes[1]["file"]["filename"], "/r,1/disk0.qcow2");
}

#[test]
fn a_mount_is_read_only_and_waited_for() {
    let nodes = jsons(&args(&record(1, |_| {}), &HostFacts::default()), "-blockdev");
    assert_eq!((&nodes[0]["read-only"], &nodes[0]["reconnect-delay"]), (&json!(true), &json!(600)));
    assert_eq!((&nodes[1]["backing"], &nodes[1]["cache"]["no-flush"]), (&json!("mount0"), &json!(false)));
}

#[test]
fn a_hydrated_disk_has_nothing_below() {
    let host = HostFacts { needs_mount: vec![false, true], ..HostFacts::default() };
    let nodes = jsons(&args(&record(2, |_| {}), &host), "-blockdev");
    let names: Vec<_> = nodes.iter().map(|n| n["node-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["disk0", "mount1", "disk1"]);
    assert_eq!(nodes[0]["backing"], Value::Null);
}

#[test]
fn an_isolated_guest_is_restricted_and_still_forwarded() {
    for (network, restrict) in [(Network::Isolated, true), (Network::User, false)] {
        let a = args(&record(1, |s| s.network = network), &HostFacts::default());
        let net = &jsons(&a, "-netdev")[0];
        assert_eq!(net["restrict"], restrict);
        assert_eq!(net["hostfwd"], json!([{"str": "tcp:127.0.0.1:4080-:80"}]));
    }
    let none = args(&record(1, |s| s.network = Network::None), &HostFacts::default());
    assert!(values(&none, "-netdev").is_empty() && !none.iter().any(|a| a.contains("nic0")));
}

#[test]
fn sixty_four_disks_have_a_place_each_on_every_bus() {
    for bus in [DiskBus::Virtio, DiskBus::Scsi, DiskBus::Sata] {
        let a = args(&record(64, |s| s.bus = bus), &HostFacts::default());
        let places: std::collections::BTreeSet<String> = jsons(&a, "-device")
            .iter()
            .filter(|d| d.get("drive").is_some())
            .map(|d| format!("{}/{}/{}", d["bus"], d["addr"], d["scsi-id"]))
            .collect();
        assert_eq!(places.len(), 64, "{bus:?}");
    }
}

#[test]
fn the_sandbox_lets_the_bridge_helper_start_and_nothing_else() {
    let host = HostFacts { sandbox: true, ..HostFacts::default() };
    let usual = args(&record(1, |_| {}), &host);
    assert!(values(&usual, "-sandbox")[0].contains("spawn=deny"));
    let bridge = args(&record(1, |s| s.network = Network::Bridge("br0".into())), &host);
    assert!(!values(&bridge, "-sandbox")[0].contains("spawn"));
    assert!(values(&args(&record(1, |_| {}), &HostFacts::default()), "-sandbox").is_empty());
}

#[test]
fn firmware_kernel_and_extra_arguments_are_passed() {
    let host = HostFacts { uefi_code: Some("/fw/code.fd".into()), ..HostFacts::default() };
    let a = args(
        &record(0, |s| {
            s.kernel = Some("/k".into());
            s.initrd = Some("/i".into());
            s.append = Some("console=ttyS0,115200".into());
            s.extra = vec!["-device".into(), "pvpanic".into()];
        }),
        &host,
    );
    assert_eq!(values(&a, "-machine"), ["q35,pflash0=uefi-code,pflash1=uefi-vars"]);
    assert_eq!((values(&a, "-kernel"), values(&a, "-append")), (vec!["/k"], vec!["console=ttyS0,115200"]));
    assert_eq!(a.last().unwrap(), "pvpanic");
}
