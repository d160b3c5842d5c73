#![allow(clippy::unwrap_used)]
use super::*;
use zeroize::Zeroizing;

fn content() -> KitContent {
    let source = KitSource {
        site: "dr-1".into(),
        vault_key: Zeroizing::new("ab".repeat(32)),
        ca_certificate: "CERT".into(),
        ca_key: Zeroizing::new("SECRET-CA-KEY".into()),
        places: vec![KitPlace { location: "s3://backup/dr-1".into(), ..KitPlace::default() }],
        quorum: 1,
    };
    KitContent::new(&source, &"0f".repeat(16), WallTime(1_700_000_000_000_000_000))
}

fn passphrase(text: &str) -> KitSecret {
    KitSecret::Passphrase(Zeroizing::new(text.into()))
}

/// Cheaper work than a person's kit has, so that the table below takes no minutes.
fn sealed(content: &[u8], secret: &str) -> String {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(secret.to_string()));
    recipient.set_work_factor(4);
    age::encrypt_and_armor(&recipient, content).unwrap()
}

#[test]
fn a_kit_opens_with_its_passphrase_and_with_no_other() {
    let text = content().seal(&KitRequest::Passphrase("twelve words or so".into())).unwrap();
    assert_eq!(open(&text, &passphrase("twelve words or so")).unwrap(), content());
    assert!(matches!(open(&text, &passphrase("something else!")), Err(KitError::WrongSecret)));
}

#[test]
fn a_kit_for_a_recipient_opens_with_its_identity_only() {
    use age::secrecy::ExposeSecret;
    let (mine, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let text = content().seal(&KitRequest::Recipient(mine.to_public().to_string())).unwrap();
    let file = |i: &age::x25519::Identity| {
        KitSecret::Identity(Zeroizing::new(format!("# created: now\n{}\n", i.to_string().expose_secret())))
    };
    assert_eq!(open(&text, &file(&mine)).unwrap(), content());
    assert!(matches!(open(&text, &file(&other)), Err(KitError::WrongSecret)));
    assert!(matches!(
        open(&text, &KitSecret::Identity(Zeroizing::new("no".into()))),
        Err(KitError::NoKit(_))
    ));
}

#[test]
fn the_words_before_the_armor_tell_what_to_do_and_no_secret() {
    let text = content().seal(&KitRequest::Passphrase("twelve words or so".into())).unwrap();
    let (words, armor) = text.split_once(BEGIN).unwrap();
    assert!(words.contains("lifeboat vault attach s3://backup/dr-1 --kit"), "{words}");
    assert!(words.contains("the passphrase it was made with"), "{words}");
    for secret in ["SECRET-CA-KEY", &"ab".repeat(32), "CERT"] {
        assert!(!words.contains(secret) && !armor.contains(secret));
    }
    let mut far = content();
    far.places[0].endpoint = Some("https://s3.example.org".into());
    far.places[0].path_style = true;
    assert!(far.words("x").contains(" --dir /srv/lifeboat --endpoint https://s3.example.org --path-style\n"));
    // What stands there is for people: changing it changes nothing.
    let lied = text.replace("s3://backup/dr-1", "s3://thief/there");
    assert_eq!(open(&lied, &passphrase("twelve words or so")).unwrap().places, content().places);
}

#[test]
fn what_cannot_be_made_says_why() {
    let short = content().seal(&KitRequest::Passphrase("eleven char".into())).unwrap_err();
    assert_eq!(short.to_string(), "the passphrase is shorter than 12 characters; use several words");
    assert!(matches!(content().seal(&KitRequest::Recipient("age1x".into())), Err(KitError::Recipient(_))));
}

#[test]
fn damaged_and_foreign_kits_are_named_errors() {
    let good = sealed(&serde_json::to_vec(&content()).unwrap(), "p");
    assert_eq!(open(&good, &passphrase("p")).unwrap(), content());
    assert!(matches!(open("hello", &passphrase("p")), Err(KitError::NoKit(_))));
    assert!(matches!(open(&sealed(b"{}", "p"), &passphrase("p")), Err(KitError::NoKit(_))));
    let later = sealed(br#"{"format": 2}"#, "p");
    assert!(matches!(open(&later, &passphrase("p")), Err(KitError::Newer(2))));
    let lines: Vec<&str> = good.lines().collect();
    for n in 1..lines.len() - 1 {
        let mut cut = lines.clone();
        cut.remove(n);
        assert!(open(&cut.join("\n"), &passphrase("p")).is_err(), "without line {n}");
        let flipped: String = lines[n].chars().map(|c| if c == 'A' { 'B' } else { c }).collect();
        if flipped != lines[n] {
            let mut bad = lines.clone();
            bad[n] = &flipped;
            assert!(open(&bad.join("\n"), &passphrase("p")).is_err(), "line {n} changed");
        }
    }
}

/// Format 1 as version 0.1.0 wrote it: whatever comes later opens it.
#[test]
fn a_kit_of_format_1_opens_for_ever() {
    let kit = open(include_str!("kit-1.golden"), &passphrase("twelve words or so")).unwrap();
    assert_eq!((kit.format, kit.site.as_str()), (1, "dr-1"));
    assert_eq!(kit.vault, "011b354f70a5f24b69bc4b783cdf1b91");
    assert_eq!(kit.places[0].location, "/srv/lifeboat/vault");
    let ca = crate::ca::Ca::load(&kit.ca_certificate, &kit.ca_key).unwrap();
    assert_eq!(
        ca.fingerprint().to_string(),
        "b562c8bc0edd9f952bd5a14d4b2f9de160ea3982f766bc1bb0a5f81ae7198aba"
    );
    assert_eq!((kit.vault_key.len(), kit.quorum), (64, 1));
}
