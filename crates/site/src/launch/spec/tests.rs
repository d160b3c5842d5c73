#![allow(clippy::unwrap_used)]

use super::*;
use lifeboat_base::SeededEntropy;

fn spec() -> RunSpec {
    let mut s = RunSpec::new(RunId::random(&SeededEntropy::new(7)), "web-1", Path::new("/runs/1"));
    s.disks.push(RunDisk {
        nbd_socket: "/mounts/1.sock".into(),
        export: "disk0".into(),
        size: 1 << 30,
        overlay: "/runs/1/disk0.qcow2".into(),
    });
    s
}

fn why(change: impl FnOnce(&mut RunSpec)) -> String {
    let mut s = spec();
    change(&mut s);
    s.validate().unwrap_err().to_string()
}

#[test]
fn a_plain_run_is_accepted_and_survives_its_json() {
    let s = spec();
    s.validate().unwrap();
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<RunSpec>(&json).unwrap(), s);
    assert!(s.mac().starts_with("52:54:00:"));
    assert!(serde_json::from_str::<RunSpec>(&json.replace("\"cpus\"", "\"cpu\"")).is_err());
}

#[test]
fn what_cannot_be_built_says_why() {
    let port = |guest_port| Forward { guest_port, host_port: None };
    assert!(why(|s| s.name = String::new()).contains("1 to 64 printable"));
    assert!(why(|s| s.disks.clear()).contains("it has no disk"));
    assert!(why(|s| s.cpus = 0).contains("1 to 255"));
    assert!(why(|s| s.memory_mib = 1).contains("16 MiB"));
    assert!(why(|s| s.disks[0].size = 1000).contains("disk 0 has 1000 bytes"));
    assert!(why(|s| s.disks.push(s.disks[0].clone())).contains("two disks share"));
    assert!(why(|s| s.dir = "runs".into()).contains("absolute"));
    assert!(why(|s| s.dir = format!("/{}", "x".repeat(100)).into()).contains("shorter directory"));
    assert!(why(|s| s.initrd = Some("/i".into())).contains("needs a kernel"));
    assert!(
        why(|s| s.network = Network::Bridge("br0,helper=/x".into())).contains("not the name of a bridge")
    );
    assert!(why(|s| s.forwards = vec![port(80), port(80)]).contains("port 80"));
    assert!(
        why(|s| {
            s.network = Network::None;
            s.forwards = vec![port(80)];
        })
        .contains("isolated and the user network only")
    );
    for mac in ["", "52:54:00:12:34", "53:54:00:12:34:56", "52:54:00:12:34:5g", "52:54:00:12:34:+6"] {
        assert!(why(|s| s.mac = Some(mac.into())).contains("network card"), "{mac}");
    }
}
