use super::*;

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let s = sample();
    assert_eq!(Snapshot::decode(&s.encode().unwrap()), Ok(s.clone()));
    let none = Snapshot { body: SnapshotBody { point: None, tree: None, locked_until: None, ..s.body }, ..s };
    assert_eq!(Snapshot::decode(&none.encode().unwrap()), Ok(none));
}

#[test]
fn names_lead_back_to_what_they_name() {
    let key = Secret([1; 32]);
    let name = Snapshot::object(&Owner::Set("secret plans".into()), &SnapshotId([5; 16]), &key).unwrap();
    assert!(!name.as_str().contains("plans"));
    assert_eq!(Snapshot::id_of(&name), Some(SnapshotId([5; 16])));
    let hold = Hold::object(&SnapshotId([6; 16]), 7).unwrap();
    assert_eq!(Hold::of_object(&hold), Some((SnapshotId([6; 16]), 7)));
}

#[test]
fn the_marker_tells_damage_from_another_version() {
    let marker = encode_marker(&VaultId([4; 16]));
    assert_eq!(decode_marker(&marker).unwrap(), VaultId([4; 16]));
    let mut other = marker.clone();
    other[8] = 9;
    assert!(matches!(decode_marker(&other), Err(VaultError::Damaged { .. })));
    let crc = crc32c::crc32c(&other[..28]);
    other[28..].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(decode_marker(&other), Err(VaultError::Version { found: 9, .. })));
    assert!(matches!(decode_marker(b"something else"), Err(VaultError::NoVault(_))));
}
