use super::*;
use crate::store::probe::probe;
use crate::store::tests::{keeps_its_promises, listing, name};
use lifeboat_base::{SeededEntropy, SystemEntropy};
use server::{Act, KEY, SECRET, Server};
use std::time::Duration;

mod faults;
mod locks;
mod parts;
mod server;

/// Short, so that giving up takes no time.
fn limits() -> S3Limits {
    S3Limits {
        connect: Duration::from_secs(2),
        answer: Duration::from_millis(500),
        slowest: 1 << 30,
        attempts: 3,
        pause: Duration::from_millis(1),
        total: Duration::from_secs(10),
        part: S3Limits::SMALLEST_PART,
    }
}

fn settings(server: &Server) -> S3Settings {
    S3Settings {
        endpoint: Some(format!("http://{}", server.address)),
        path_style: true,
        allow_http: true,
        keys: S3Keys::Given { id: KEY.into(), secret: SECRET.to_string().into(), token: None },
        // For a fault there has to be time to answer without one.
        limits: S3Limits { answer: Duration::from_secs(20), ..limits() },
        ..S3Settings::parse("s3://bucket/some/prefix").unwrap()
    }
}

fn open(settings: S3Settings) -> S3Store {
    S3Store::new(settings, Arc::new(SeededEntropy::new(1))).unwrap()
}

fn store(server: &Server) -> S3Store {
    open(settings(server))
}

fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>told so</Message></Error>")
}

#[test]
fn it_keeps_its_promises() {
    let server = Server::start();
    keeps_its_promises(&store(&server));
    let whole = open(S3Settings { prefix: String::new(), ..settings(&server) });
    keeps_its_promises(&whole);
}

#[test]
fn a_good_bucket_passes_the_probe() {
    let server = Server::start();
    let store = store(&server);
    let verdict = probe(&store, &SystemEntropy);
    assert!(verdict.usable, "{}", verdict.text);
    assert_eq!(verdict.store, format!("s3://bucket/some/prefix at http://{}", server.address));
    assert_eq!(listing(&store, ""), []);
}

#[test]
fn a_bucket_without_conditional_writes_cannot_hold_a_vault() {
    let server = Server::with(false, None);
    server.fault(usize::MAX, Method::PUT, "", Act::Forget("if-none-match"));
    let verdict = probe(&store(&server), &SystemEntropy);
    assert!(!verdict.usable);
    assert!(verdict.text.contains("it accepts a second write of one name"), "{}", verdict.text);
}

#[test]
fn two_prefixes_of_one_bucket_do_not_see_each_other() {
    let server = Server::start();
    let one = open(S3Settings { prefix: "one".into(), ..settings(&server) });
    let two = open(S3Settings { prefix: "one2".into(), ..settings(&server) });
    one.put_new(&name("a"), Bytes::from_static(b"1")).unwrap();
    two.put_new(&name("b"), Bytes::from_static(b"2")).unwrap();
    assert_eq!(listing(&one, ""), [("a".into(), 1)]);
    assert_eq!(listing(&two, ""), [("b".into(), 1)]);
}

#[test]
fn what_is_wrong_with_the_settings_is_said() {
    let server = Server::start();
    let why = |settings: S3Settings| {
        let verdict = match S3Store::new(settings, Arc::new(SeededEntropy::new(1))) {
            Ok(store) => probe(&store, &SystemEntropy).text,
            Err(e) => e.to_string(),
        };
        assert!(!verdict.contains(SECRET) && !verdict.contains("other-secret"));
        verdict
    };
    let good = settings(&server);
    let keys = |id: &str, secret: &str| S3Keys::Given {
        id: id.into(),
        secret: secret.to_string().into(),
        token: None,
    };
    let text = why(S3Settings { keys: keys(KEY, "other-secret"), ..good.clone() });
    assert!(text.contains("the secret access key is not the right one"), "{text}");
    server.fault(1, Method::PUT, "/nothing-here/", Act::Answer(404, error("NoSuchBucket")));
    let text = why(S3Settings { bucket: "nothing-here".into(), ..good.clone() });
    assert!(text.contains("there is no bucket nothing-here: create it, or correct the name"), "{text}");
    let text = why(S3Settings { endpoint: Some("http://127.0.0.1:1".into()), ..good.clone() });
    assert!(text.contains("the connection is refused: check the endpoint and its port"), "{text}");
    let text = why(S3Settings { endpoint: Some("http://nowhere.invalid".into()), ..good.clone() });
    assert!(text.contains("does not answer"), "{text}");
    let text = why(S3Settings { allow_http: false, ..good.clone() });
    assert!(text.contains("is not encrypted: use https, or set allow_http"), "{text}");
    let text = why(S3Settings { endpoint: Some("ftp://x".into()), ..good.clone() });
    assert!(text.contains("is no endpoint"), "{text}");
    let text = why(S3Settings { ca: Some(b"no pem".to_vec()), ..good.clone() });
    assert!(text.contains("(ca)"), "{text}");
    let missing = S3Keys::File { path: "/nothing/here".into(), profile: "default".into() };
    let text = why(S3Settings { keys: missing, ..good });
    assert!(text.contains("cannot read the access keys in /nothing/here"), "{text}");
    for (url, wrong) in [
        ("https://x", "does not begin with s3://"),
        ("s3://a", "no name of a bucket"),
        ("s3://bu cket", "no name of a bucket"),
        ("s3://bucket/../x", "cannot be a prefix"),
        ("s3://bucket/UP", "cannot be a prefix"),
    ] {
        let text = S3Settings::parse(url).unwrap_err();
        assert!(text.contains(wrong), "{url}: {text}");
    }
    assert_eq!(S3Settings::parse("s3://bucket/a/b/").unwrap().prefix, "a/b");
}

#[test]
fn where_a_bucket_is() {
    let settings = S3Settings { region: "eu-central-1".into(), ..S3Settings::parse("s3://boats/v").unwrap() };
    assert_eq!(settings.bucket_url(), "https://boats.s3.eu-central-1.amazonaws.com");
    let path = S3Settings { path_style: true, ..settings.clone() };
    assert_eq!(path.bucket_url(), "https://s3.eu-central-1.amazonaws.com/boats");
    let own = S3Settings { endpoint: Some("https://s3.example:9000/".into()), ..path };
    assert_eq!(own.bucket_url(), "https://s3.example:9000/boats");
    assert_eq!(S3Settings { path_style: false, ..own }.bucket_url(), "https://boats.s3.example:9000");
    assert!(
        format!("{:?}", S3Keys::Given { id: "i".into(), secret: "s".to_string().into(), token: None })
            == "Given(i)"
    );
}

#[test]
fn access_keys_in_a_file_are_read_for_each_request() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let write = |secret: &str| {
        let other = "[other]\naws_access_key_id = x\naws_secret_access_key = y\n";
        let own = format!("[lifeboat]\n aws_access_key_id={KEY}\naws_secret_access_key = {secret}\n");
        std::fs::write(&path, format!("{other}{own}")).unwrap();
    };
    write("not-yet");
    let keys = S3Keys::File { path: path.clone(), profile: "lifeboat".into() };
    let store = open(S3Settings { keys, ..settings(&server) });
    assert!(matches!(store.put_new(&name("a"), Bytes::new()), Err(StoreError::Denied { .. })));
    write(SECRET);
    store.put_new(&name("a"), Bytes::new()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let away = store.size(&name("a")).unwrap_err();
    assert!(away.to_string().contains("there are no access keys"), "{away}");
}

#[test]
fn an_own_authority_is_trusted_where_it_is_named() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let server = Server::with(true, Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))));
    let endpoint = Some(format!("https://localhost:{}", server.address.port()));
    let secure = S3Settings { endpoint, allow_http: false, ..settings(&server) };
    let trusted = S3Settings { ca: Some(made.cert.pem().into_bytes()), ..secure.clone() };
    let verdict = probe(&open(trusted), &SystemEntropy);
    assert!(verdict.usable, "{}", verdict.text);
    let verdict = probe(&open(secure), &SystemEntropy);
    assert!(
        verdict.text.contains("its certificate is not trusted: name the authority's file"),
        "{}",
        verdict.text
    );
}
