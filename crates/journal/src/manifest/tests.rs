#![allow(clippy::unwrap_used)]

use super::*;
use crate::seal::JournalKey;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sample() -> Manifest {
    let listed = |n: u8, len| Listed {
        id: [n; 16],
        first: Seq(u64::from(n)),
        len,
        last: Seq(if len > 0 { u64::from(n) + 5 } else { 0 }),
        base: n == 1,
    };
    Manifest {
        journal: [9; 16],
        generation: 7,
        horizon: Seq(3),
        epoch: Epoch(2),
        created: WallTime(1_700_000_000_000_000_000),
        segments: vec![listed(1, 4096), listed(8, 0)],
        base: None,
        local: false,
    }
}

fn local() -> Manifest {
    let disk = |n, size| DiskInfo { disk: DiskId(n), size };
    let info = BaseInfo { id: [5; 16], seq: Seq(2), disks: vec![disk(0, 1 << 40), disk(3, 512)] };
    Manifest { local: true, base: Some(Base { info, clock: 77 }), ..sample() }
}

/// Manifests of every version that was ever written open for ever.
#[test]
fn golden_manifests_of_both_versions() {
    let mac = JournalKey([7; 32]).mac();
    for (manifest, golden) in
        [(sample(), include_str!("golden/v1.hex")), (local(), include_str!("golden/v2.hex"))]
    {
        let bytes = manifest.encode(&mac);
        assert_eq!(hex(&bytes), golden.trim());
        assert_eq!(Manifest::decode(&bytes, &mac).unwrap(), manifest);
    }
    let without = Manifest { base: None, ..local() };
    assert_eq!(Manifest::decode(&without.encode(&mac), &mac).unwrap(), without);
}

#[test]
fn a_manifest_that_was_changed_anywhere_is_refused() {
    let mac = JournalKey([7; 32]).mac();
    let bytes = local().encode(&mac);
    for at in 0..bytes.len() {
        let mut b = bytes.clone();
        b[at] ^= 1 << (at % 8);
        assert!(Manifest::decode(&b, &mac).is_err(), "byte {at}");
        assert!(Manifest::decode(&bytes[..at], &mac).is_err(), "cut at {at}");
    }
    let other = JournalKey([8; 32]).mac();
    assert!(matches!(Manifest::decode(&bytes, &other), Err(JournalError::WrongKey)));
}
