#![allow(clippy::unwrap_used)]
use super::*;
use crate::fake::{csr, entropy};
use lifeboat_base::{Clock, ManualClock};

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn now() -> WallTime {
    ManualClock::default().wall()
}

fn ca() -> Ca {
    Ca::create("test", now(), &entropy(1)).unwrap().0
}

#[test]
fn an_agents_certificate_carries_our_names_and_not_what_it_asked_for() {
    let (ca, rng) = (ca(), entropy(2));
    let agent = AgentId::random(&rng);
    let issued = ca.agent(&csr(), agent, AGENT_LIFE, now(), &rng).unwrap();
    let leaf = der(&issued.chain);
    let read = PeerCertificate::read(&leaf).unwrap();
    assert_eq!(read.agent, agent);
    assert_eq!(read.not_after, now().saturating_add(AGENT_LIFE));
    assert!(read.not_before < now());
    let (_, cert) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert_eq!(cert.raw_serial_as_string().replace(':', ""), issued.serial);
    assert!(!cert.is_ca());
    assert!(!format!("{:?}", cert.subject_alternative_name()).contains("site.lifeboat"));
    assert_eq!(issued.chain.matches("BEGIN CERTIFICATE").count(), 2, "the chain ends in the CA");
    let (_, own) = x509_parser::pem::parse_x509_pem(ca.pem().as_bytes()).unwrap();
    cert.verify_signature(Some(own.parse_x509().unwrap().public_key())).unwrap();
    assert!(cert.key_usage().unwrap().is_none(), "QEMU is its client");
}

#[test]
fn bad_requests_are_refused() {
    let (ca, rng) = (ca(), entropy(3));
    let agent = AgentId::random(&rng);
    let good = csr();
    let mut forged = der_of_request(&good);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = rewrap(&forged);
    for (what, bad) in
        [("nonsense", "x".to_string()), ("too large", "x".repeat(limits::MAX_CSR + 1)), ("forged", forged)]
    {
        let e = ca.agent(&bad, agent, AGENT_LIFE, now(), &rng).unwrap_err();
        assert!(matches!(e, CaError::Request(_)), "{what}: {e}");
    }
    ca.agent(&rewrap(&der_of_request(&good)), agent, AGENT_LIFE, now(), &rng).unwrap();
}

fn der_of_request(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn rewrap(der: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let c = ALPHABET[(n >> (18 - 6 * i) & 63) as usize] as char;
            text.push(if i <= chunk.len() { c } else { '=' });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

#[test]
fn an_authority_is_read_back_whole_or_not_at_all() {
    let (made, pem, key) = Ca::create("test", now(), &entropy(4)).unwrap();
    let read = Ca::load(&pem, &key).unwrap();
    assert_eq!((read.fingerprint(), read.expires()), (made.fingerprint(), now().saturating_add(CA_LIFE)));
    assert_eq!(read.fingerprint(), Fingerprint::of_pem(&pem).unwrap());
    let (_, _, other) = Ca::create("test", now(), &entropy(5)).unwrap();
    for (pem, key) in
        [(pem.as_str(), other.as_str()), ("x", &key), (&pem, "x"), (&pem[..pem.len() / 2], &key)]
    {
        assert!(matches!(Ca::load(pem, key), Err(CaError::Damaged(_))));
    }
}

#[test]
fn the_sites_certificate_has_its_names_and_is_no_agents() {
    let names = ["dr.example".to_string(), "10.1.2.3".into(), "localhost".into()];
    let site = ca().server(&names, now(), &entropy(6)).unwrap();
    let leaf = der(&site.chain);
    assert_eq!(PeerCertificate::read(&leaf), None);
    let (_, cert) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let shown = format!("{:?}", cert.subject_alternative_name());
    for name in ["site.lifeboat", "dr.example", "[10, 1, 2, 3]"] {
        assert!(shown.contains(name), "{name} in {shown}");
    }
    assert!(ca().server(&["no\u{fc}".into()], now(), &entropy(7)).is_err());
}

#[test]
fn garbage_is_no_certificate() {
    for bad in [&b""[..], b"x", &[0x30, 0x82, 0xff, 0xff], &der(ca().pem())] {
        assert_eq!(PeerCertificate::read(bad), None);
    }
}
