use super::*;
use crate::testing::Rig;
use crate::vault::{Settings, Vault, VaultOptions};
use std::sync::Arc;

fn open(rig: &Rig, keys: &[[u8; 32]]) -> Result<Vault, VaultError> {
    let options = VaultOptions {
        store: rig.store.clone(),
        site_keys: keys.iter().map(|k| Secret(*k)).collect(),
        index: None,
        settings: Settings::default(),
    };
    Vault::open(options, rig.clock.clone(), rig.entropy.clone())
}

#[test]
fn a_half_finished_rotation_leaves_both_keys_working() {
    let rig = Rig::new();
    let (old, new) = (Rig::SITE_KEY, [77; 32]);
    assert!(matches!(open(&rig, &[new]), Err(VaultError::WrongKey)));
    let generation = rig.vault.rotate_key(&Secret(new)).unwrap();
    assert_eq!(generation, 2);
    // The site has both until it has let go of the old one.
    let vault = open(&rig, &[old, new]).unwrap();
    assert_eq!(vault.keys(), rig.vault.keys());
    assert!(open(&rig, &[new]).is_ok());
    assert!(matches!(open(&rig, &[old]), Err(VaultError::WrongKey)));
    vault.drop_old_keys().unwrap();
    assert!(matches!(open(&rig, &[old]), Err(VaultError::WrongKey)));
    assert!(open(&rig, &[new]).is_ok());
}

#[test]
fn what_was_sealed_before_a_rotation_stays_readable() {
    let rig = Rig::new();
    let one = rig.snapshot(&[(0, 1)]);
    rig.vault.rotate_key(&Secret(Rig::SITE_KEY)).unwrap();
    let two = rig.snapshot(&[(0, 1), (1, 2)]);
    let vault = open(&rig, &[Rig::SITE_KEY]).unwrap();
    let done = vault.refresh(&|_, _| ()).unwrap();
    assert_eq!((done.snapshots_added, done.damaged.len()), (2, 0));
    for s in [one, two] {
        let device = vault.device(&s, lifeboat_base::DiskId(0)).unwrap();
        let mut byte = [0];
        lifeboat_block::BlockDevice::read(&device, 100, &mut byte).unwrap();
        assert_eq!(byte, [1]);
    }
    let generations: Vec<u32> = vault.index().packs().unwrap().iter().map(|p| p.generation).collect();
    assert!(generations.contains(&1) && generations.contains(&2));
}

#[test]
fn two_who_rotate_at_once_do_not_lose_a_key() {
    let rig = Rig::new();
    let other = open(&rig, &[Rig::SITE_KEY]).unwrap();
    rig.vault.rotate_key(&Secret(Rig::SITE_KEY)).unwrap();
    assert!(matches!(other.rotate_key(&Secret(Rig::SITE_KEY)), Err(VaultError::Fenced(_))));
    assert_eq!(Arc::strong_count(&other.shared), 1);
}

#[test]
fn a_process_that_was_there_before_a_rotation_goes_on() {
    let rig = Rig::new();
    let other = open(&rig, &[Rig::SITE_KEY]).unwrap();
    rig.vault.rotate_key(&Secret(Rig::SITE_KEY)).unwrap();
    let s = rig.snapshot(&[(0, 1)]);
    let done = other.refresh(&|_, _| ()).unwrap();
    assert_eq!((done.snapshots_added, done.damaged), (1, vec![]));
    let device = other.device(&s, lifeboat_base::DiskId(0)).unwrap();
    lifeboat_block::BlockDevice::read(&device, 0, &mut [0; 10]).unwrap();
}

#[test]
fn a_vault_that_lost_its_marker_is_not_made_anew() {
    let rig = Rig::new();
    rig.snapshot(&[(0, 1)]);
    rig.store.remove(&crate::vault::marker());
    let made = Vault::create(&*rig.store, &Secret([1; 32]), &*rig.clock, &*rig.entropy);
    assert!(matches!(made, Err(VaultError::Damaged { .. })), "{made:?}");
    // But one that was never finished is.
    let store = crate::store::MemoryStore::new("cut");
    store.put_new(&ObjectName::new("keys/00000001").unwrap(), Bytes::from_static(b"half")).unwrap();
    Vault::create(&store, &Secret([1; 32]), &*rig.clock, &*rig.entropy).unwrap();
}
