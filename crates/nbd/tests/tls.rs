//! TLS over TCP: what it protects, and that everything works through it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, SIZE, TestDevice, eventually};
use lifeboat_base::SystemClock;
use lifeboat_block::{BlockDevice, MemoryDevice};
use lifeboat_nbd::proto::handshake::InfoRequest;
use lifeboat_nbd::proto::{option, option_reply};
use lifeboat_nbd::{Client, ClientSettings, ClientTls, Exports, NbdError, Server, ServerSettings};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Site {
    server: Server,
    device: Arc<TestDevice>,
    authority: rcgen::Certificate,
}

/// A server on loopback whose certificate says `localhost`.
fn site() -> Site {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&params, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let device = Arc::new(TestDevice::new());
    let exports = Exports::single(Arc::clone(&device) as Arc<dyn BlockDevice>);
    let settings = ServerSettings { tls: Some(Arc::new(config)), ..ServerSettings::default() };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::listen_tcp(address, exports, settings, Arc::new(SystemClock)).unwrap();
    Site { server, device, authority }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Site {
    fn settings(&self, name: &str) -> ClientSettings {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let tls = Some(ClientTls { config: Arc::new(config), server });
        ClientSettings { tls, silence: PATIENCE, ..ClientSettings::default() }
    }

    fn connect(&self, settings: &ClientSettings) -> Result<Client, NbdError> {
        Client::connect_tcp(self.server.local_addr().unwrap(), "", settings)
    }

    /// A stream that has been greeted and has sent its flags.
    fn greeted(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream
    }
}

#[test]
fn everything_works_through_tls() {
    let site = site();
    let client = site.connect(&site.settings("localhost")).unwrap();
    let data: Vec<u8> = (0..5_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    client.write(12_345, data.clone().into()).unwrap();
    let mut back = vec![0; data.len()];
    client.read(12_345, &mut back).unwrap();
    assert!(back == data);
    client.flush().unwrap();
    // A flush that takes its time is answered from the other thread, through the same session.
    site.device.hold_flushes(true);
    std::thread::scope(|s| {
        let flush = s.spawn(|| client.flush());
        eventually("the flush at the device", || site.device.flushes.load(Ordering::SeqCst) == 2);
        let other = site.connect(&site.settings("localhost")).unwrap();
        other.read(12_345, &mut back).unwrap();
        assert!(back == data);
        site.device.hold_flushes(false);
        flush.join().unwrap().unwrap();
    });
    client.disconnect();
    assert_eq!(site.server.shutdown(PATIENCE), Ok(()));
}

#[test]
fn nothing_is_told_without_tls() {
    let site = site();
    let mut peer = site.greeted();
    let mut ask = |option: u32, data: &[u8]| {
        let mut out = Vec::new();
        lifeboat_nbd::proto::handshake::put_option(&mut out, option, data);
        peer.write_all(&out).unwrap();
        let mut head = [0; 20];
        peer.read_exact(&mut head).unwrap();
        let reply = lifeboat_nbd::proto::handshake::OptionReplyHeader::parse(&head).unwrap();
        peer.read_exact(&mut vec![0; reply.len as usize]).unwrap();
        reply.kind
    };
    let go = InfoRequest { name: String::new(), wanted: vec![] }.build();
    for (option, data) in [
        (option::LIST, &b""[..]),
        (option::GO, &go),
        (option::INFO, &go),
        (option::STRUCTURED_REPLY, b""),
        (99, b""),
    ] {
        assert_eq!(ask(option, data), option_reply::ERR_TLS_REQD, "option {option}");
    }
    assert_eq!(ask(option::ABORT, b""), option_reply::ACK);

    let error = site.connect(&ClientSettings::default()).err().unwrap().to_string();
    assert_eq!(
        error,
        r#"the NBD server refuses export "": it wants TLS (this server speaks to nobody without TLS)"#
    );
    let mut peer = site.greeted();
    peer.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    assert_eq!(peer.read(&mut [0; 64]).unwrap_or(0), 0, "EXPORT_NAME ends the connection");
}

#[test]
fn words_smuggled_in_before_the_handshake_are_not_heard() {
    let site = site();
    let mut peer = site.greeted();
    // STARTTLS and, in the same breath, LIST.
    peer.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0IHAVEOPT\0\0\0\x03\0\0\0\0").unwrap();
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn a_name_that_does_not_match_or_a_peer_that_speaks_no_tls_ends_there() {
    let site = site();
    let error = site.connect(&site.settings("elsewhere")).err().unwrap().to_string();
    assert!(error.starts_with("the NBD connection failed: invalid peer certificate"), "{error}");

    let mut peer = site.greeted();
    peer.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0").unwrap();
    peer.read_exact(&mut [0; 20]).unwrap();
    let _ = peer.write_all(&[0x55; 4096]);
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(site.server.wait_idle(PATIENCE));
}

#[test]
fn tls_is_refused_to_a_client_where_there_is_none() {
    let exports = Exports::single(Arc::new(MemoryDevice::new(SIZE)));
    let address = "127.0.0.1:0".parse().unwrap();
    let plain =
        Server::listen_tcp(address, exports, ServerSettings::default(), Arc::new(SystemClock)).unwrap();
    let settings = site().settings("localhost");
    let error = Client::connect_tcp(plain.local_addr().unwrap(), "", &settings).err().unwrap().to_string();
    assert_eq!(error, r#"the NBD server refuses export "": it has no TLS (this server has no TLS)"#);
}

#[test]
fn shutdown_ends_with_a_tls_client_that_takes_nothing() {
    let site = site();
    site.device.inner.write(0, vec![1; 1 << 20].into()).unwrap();
    let client = site.connect(&site.settings("localhost")).unwrap();
    // In the middle of its handshake, silent.
    let mut stuck = site.greeted();
    stuck.write_all(b"IHAVEOPT\0\0\0\x05\0\0\0\0\x16").unwrap();
    assert_eq!(site.server.shutdown(Duration::from_millis(100)), Ok(()));
    assert!(client.flush().is_err());
}

/// libnbd brings another TLS and another NBD.
#[test]
fn nbdcopy_and_nbdinfo_accept_the_tls() {
    let site = site();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca-cert.pem"), site.authority.pem()).unwrap();
    let data: Vec<u8> = (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    site.device.inner.write(0, data.clone().into()).unwrap();
    let uri = format!(
        "nbds://localhost:{}/?tls-certificates={}",
        site.server.local_addr().unwrap().port(),
        dir.path().display()
    );
    let out = dir.path().join("out");
    for tool in [vec!["nbdinfo", "--json"], vec!["nbdcopy", "--"]] {
        let mut run = Command::new(tool[0]);
        run.args(&tool[1..]).arg(&uri);
        if tool[0] == "nbdcopy" {
            run.arg(&out);
        }
        let result =
            run.output().unwrap_or_else(|e| panic!("cannot run {}, is libnbd-bin installed? {e}", tool[0]));
        assert!(result.status.success(), "{tool:?}: {}", String::from_utf8_lossy(&result.stderr));
    }
    assert!(std::fs::read(out).unwrap() == data);
    // One that does not ask for TLS gets nothing.
    let plain = Command::new("nbdinfo").arg(uri.replace("nbds:", "nbd:")).output().unwrap();
    assert!(!plain.status.success());
}
