use super::*;
use lifeboat_base::SeededEntropy;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

#[test]
fn i3_an_object_opens_in_its_own_place_only() {
    let (vault, key) = (VaultId([1; 16]), Secret([2; 32]));
    let entropy = SeededEntropy::new(1);
    for text in [b"short".to_vec(), vec![7; 10_000]] {
        let sealed = seal(ObjectType::Hold, (3, &key), &vault, &name("holds/a"), &text, &entropy);
        let opened = |vault: &VaultId, n: &str, bytes: &[u8], key: &Secret| {
            open(vault, &name(n), bytes, |generation| (generation == 3).then(|| key.clone()))
        };
        assert_eq!(opened(&vault, "holds/a", &sealed, &key).unwrap(), (ObjectType::Hold, text.clone()));
        assert!(opened(&vault, "holds/b", &sealed, &key).is_err(), "another name");
        assert!(opened(&VaultId([2; 16]), "holds/a", &sealed, &key).is_err(), "another vault");
        assert!(opened(&vault, "holds/a", &sealed, &Secret([3; 32])).is_err(), "another key");
        for at in 0..sealed.len() {
            let mut bad = sealed.to_vec();
            bad[at] ^= 1;
            assert!(opened(&vault, "holds/a", &bad, &key).is_err(), "bit of byte {at}");
            assert!(opened(&vault, "holds/a", &sealed[..at], &key).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn two_seals_of_one_name_share_no_key() {
    let (vault, key) = (VaultId([1; 16]), Secret([2; 32]));
    let entropy = SeededEntropy::new(1);
    let one = seal(ObjectType::Epoch, (1, &key), &vault, &name("prune/1"), b"a text", &entropy);
    let two = seal(ObjectType::Epoch, (1, &key), &vault, &name("prune/1"), b"a text", &entropy);
    assert_ne!(one[HEADER..], two[HEADER..]);
}
