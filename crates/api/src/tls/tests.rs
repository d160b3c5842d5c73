#![allow(clippy::unwrap_used)]
use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut p = CertificateParams::default();
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Self(CertifiedIssuer::self_signed(p, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Chain `[leaf, CA]` and key.
    pub(crate) fn leaf(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut p = CertificateParams::new(vec![name.to_string()]).unwrap();
        p.extended_key_usages = vec![usage];
        let cert = p.signed_by(&key, &self.0).unwrap();
        (format!("{}{}", cert.pem(), self.pem()), key.serialize_pem())
    }

    pub(crate) fn site(&self) -> (String, String) {
        self.leaf(SITE_NAME, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

/// Client's and server's view of one handshake and one byte each way.
async fn meet(client: ClientConfig, server: ServerConfig) -> (Result<(), String>, Result<(), String>) {
    let (a, b) = tokio::io::duplex(1 << 16);
    let c = async {
        let mut s =
            TlsConnector::from(Arc::new(client)).connect(site_name(), a).await.map_err(|e| e.to_string())?;
        s.write_all(b"x").await.map_err(|e| e.to_string())?;
        s.read_u8().await.map(drop).map_err(|e| e.to_string())
    };
    let s = async {
        let mut s = TlsAcceptor::from(Arc::new(server)).accept(b).await.map_err(|e| e.to_string())?;
        s.read_u8().await.map_err(|e| e.to_string())?;
        s.write_all(b"y").await.map_err(|e| e.to_string())
    };
    tokio::join!(c, s)
}

#[test]
fn fingerprints_round_trip_and_refuse_nonsense() {
    let f = Fingerprint::of(b"abc");
    assert_eq!(f.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(f.to_string().to_uppercase().parse(), Ok(f));
    let colons: Vec<String> = f.0.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(colons.join(":").parse(), Ok(f));
    for bad in ["", "ba", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
        assert_eq!(bad.parse::<Fingerprint>(), Err(TlsError::Fingerprint), "{bad}");
    }
}

#[tokio::test]
async fn a_client_that_knows_only_the_fingerprint_accepts_its_site_and_no_other() {
    let (ca, other) = (Ca::new(), Ca::new());
    let pin = Fingerprint::of_pem(&ca.pem()).unwrap();
    let site = |c: &Ca| {
        let (chain, key) = c.site();
        server_config(&chain, &key).unwrap()
    };
    let (c, s) = meet(client_config_pinned(pin).unwrap(), site(&ca)).await;
    assert_eq!((c, s), (Ok(()), Ok(())));
    let (c, _) = meet(client_config_pinned(pin).unwrap(), site(&other)).await;
    assert!(c.unwrap_err().contains("UnknownIssuer"));

    // A stranger's leaf beside our CA, as anyone who has seen the chain can present it.
    let (leaf, key) = other.site();
    let first = leaf.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_string();
    let forged = server_config(&format!("{first}{}", ca.pem()), &key).unwrap();
    let (c, _) = meet(client_config_pinned(pin).unwrap(), forged).await;
    assert!(c.is_err(), "a leaf that the CA did not sign must be refused");
}

#[tokio::test]
async fn an_agents_certificate_cannot_pose_as_the_site() {
    let ca = Ca::new();
    let pin = Fingerprint::of_pem(&ca.pem()).unwrap();
    let agents_usage = ca.leaf(SITE_NAME, ExtendedKeyUsagePurpose::ClientAuth);
    let other_name = ca.leaf("a.agent.lifeboat", ExtendedKeyUsagePurpose::ServerAuth);
    for (chain, key) in [agents_usage, other_name] {
        for client in [client_config_pinned(pin).unwrap(), client_config(&ca.pem()).unwrap()] {
            let (c, _) = meet(client, server_config(&chain, &key).unwrap()).await;
            assert!(c.is_err());
        }
    }
}

#[tokio::test]
async fn mutual_tls_lets_in_only_certificates_of_the_site() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (chain, key) = ca.site();
    let server = || server_config_mutual(&chain, &key, &ca.pem()).unwrap();
    let (mine, mine_key) = ca.leaf("a.agent.lifeboat", ExtendedKeyUsagePurpose::ClientAuth);
    let (c, s) = meet(client_config_mutual(&ca.pem(), &mine, &mine_key).unwrap(), server()).await;
    assert_eq!((c, s), (Ok(()), Ok(())));

    let (theirs, their_key) = other.leaf("a.agent.lifeboat", ExtendedKeyUsagePurpose::ClientAuth);
    let (_, s) = meet(client_config_mutual(&ca.pem(), &theirs, &their_key).unwrap(), server()).await;
    assert!(s.is_err());
    let (_, s) = meet(client_config(&ca.pem()).unwrap(), server()).await;
    assert!(s.is_err(), "no certificate at all");
}

#[test]
fn unreadable_material_is_a_named_error() {
    assert!(matches!(client_config("nonsense"), Err(TlsError::Certificate(_))));
    let ca = Ca::new();
    let (chain, _) = ca.site();
    assert!(matches!(server_config(&chain, "nonsense"), Err(TlsError::Key(_))));
    let (_, other_key) = ca.site();
    assert!(
        matches!(server_config(&chain, &other_key), Err(TlsError::Setup(_))),
        "key of another certificate"
    );
}
