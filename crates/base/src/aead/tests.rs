use super::*;

#[test]
fn a_seal_holds_for_its_key_place_and_header_only() {
    let key = Secret([7; 32]);
    let seal = key.derive("lifeboat test 1", &[b"a"]).aead();
    let mut text = b"headtext".to_vec();
    seal.seal(3, b"aad", &mut text, 4);
    assert_eq!(text.len(), 8 + TAG);
    let open = |key: &AeadKey, number, aad: &[u8]| {
        key.open(number, aad, &mut text[4..].to_vec()).map(|t| t.to_vec())
    };
    assert_eq!(open(&seal, 3, b"aad"), Ok(b"text".to_vec()));
    assert_eq!(open(&seal, 4, b"aad"), Err(BrokenSeal));
    assert_eq!(open(&seal, 3, b"aae"), Err(BrokenSeal));
    assert_eq!(open(&key.derive("lifeboat test 1", &[b"b"]).aead(), 3, b"aad"), Err(BrokenSeal));
    let mut out = [0; 4];
    assert_eq!(seal.open_into(3, b"aad", &text[4..], &mut out), Ok(()));
    assert_eq!(&out, b"text");
    assert_eq!(seal.open_into(3, b"aad", &text[4..20], &mut out), Err(BrokenSeal));
}

#[test]
fn parts_cannot_be_shifted_into_each_other() {
    let key = Secret([1; 32]);
    let derive = |parts: &[&[u8]]| key.derive("lifeboat test 1", parts);
    assert!(derive(&[b"ab", b"c"]) != derive(&[b"a", b"bc"]));
    assert_eq!(format!("{key:?}"), "Secret(..)");
}
