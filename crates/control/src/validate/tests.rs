#![allow(clippy::unwrap_used)]
use super::*;
use lifeboat_api::types::DiskBus;

#[test]
fn names_are_short_plain_and_no_ids() {
    for good in ["a", "web-1", "db.prod_2", "0", &"x".repeat(MAX_NAME)] {
        name("a server", good).unwrap();
    }
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let long = "x".repeat(MAX_NAME + 1);
    for bad in ["", "-a", ".a", "..", "A", "a b", "a/b", "../a", "a\n", "é", id, &id.replace('-', ""), &long]
    {
        assert!(name("a server", bad).is_err(), "{bad:?}");
    }
    assert_eq!(
        name("a server", "Web\n1").unwrap_err().to_string(),
        "'Web?1' cannot be the name of a server (use up to 64 lower-case letters, digits, '.', '_' and '-', \
         beginning with a letter or digit)"
    );
}

#[test]
fn captures_name_absolute_distinct_things() {
    let mirror = |qmp: &str, disks: &[&str]| CaptureSpec::Mirror {
        qmp: qmp.into(),
        disks: disks.iter().map(|d| (*d).into()).collect(),
    };
    let splitter = |paths: &[&str], listen: Option<&str>| CaptureSpec::Splitter {
        paths: paths.iter().map(|p| (*p).into()).collect(),
        listen: listen.map(Into::into),
    };
    for good in [
        mirror("/run/q", &[]),
        mirror("/run/q", &["a", "b"]),
        splitter(&["/dev/sdb"], None),
        splitter(&["/a", "/b"], Some("unix:/run/x")),
        splitter(&["/a"], Some("tcp:127.0.0.1:10809")),
    ] {
        capture(&good).unwrap();
    }
    let many: Vec<String> = (0..=MAX_DISKS).map(|i| format!("/d{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for bad in [
        mirror("run/q", &[]),
        mirror("", &[]),
        mirror(&format!("/{}", "x".repeat(MAX_SOCKET)), &[]),
        mirror("/run/q", &["a", "a"]),
        mirror("/run/q", &[""]),
        mirror("/run/q\0", &[]),
        splitter(&[], None),
        splitter(&["a"], None),
        splitter(&["/a", "/a"], None),
        splitter(&many, None),
        splitter(&["/a"], Some("udp:1")),
        splitter(&["/a"], Some("unix:x")),
    ] {
        assert_eq!(capture(&bad).unwrap_err().code, ErrorCode::Invalid, "{bad:?}");
    }
}

#[test]
fn overrides_win_and_the_result_is_checked() {
    let base = LaunchSettings { ports: vec![22], ..LaunchSettings::default() };
    let o = LaunchOverrides { cpus: Some(4), bus: Some(DiskBus::Sata), ..LaunchOverrides::default() };
    let merged = overridden(&base, &o).unwrap();
    assert_eq!(
        (merged.cpus, merged.bus, merged.memory_mib, merged.ports),
        (4, DiskBus::Sata, 1024, vec![22])
    );
    for mac in ["52:54:00:12:34:56", "AA:bb:cc:dd:ee:ff"] {
        overridden(&base, &LaunchOverrides { mac: Some(mac.into()), ..LaunchOverrides::default() }).unwrap();
    }
    for bad in [
        LaunchOverrides { cpus: Some(0), ..LaunchOverrides::default() },
        LaunchOverrides { memory_mib: Some(u64::MAX), ..LaunchOverrides::default() },
        LaunchOverrides { ports: vec![0], ..LaunchOverrides::default() },
        LaunchOverrides { ports: vec![1; 65], ..LaunchOverrides::default() },
        LaunchOverrides { mac: Some("53:54:00:12:34:56".into()), ..LaunchOverrides::default() },
        LaunchOverrides { mac: Some("52:54:00:12:34".into()), ..LaunchOverrides::default() },
        LaunchOverrides { mac: Some("+2:54:00:12:34:56".into()), ..LaunchOverrides::default() },
    ] {
        assert_eq!(overridden(&base, &bad).unwrap_err().code, ErrorCode::Invalid, "{bad:?}");
    }
}

#[test]
fn windows_have_both_ends() {
    window(&WindowSpec::default()).unwrap();
    for (seconds, bytes) in [(0, 1 << 30), (u64::MAX, 1 << 30), (60, 0)] {
        assert!(window(&WindowSpec { seconds, bytes }).is_err());
    }
}
