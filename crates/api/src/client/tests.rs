#![allow(clippy::unwrap_used)]
use super::*;
use crate::tls::tests::Ca;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A peer that speaks TLS as the site does and answers one request with these bytes.
async fn fake_site(ca: &Ca, answer: &'static [u8]) -> (u16, tokio::task::JoinHandle<String>) {
    let (chain, key) = ca.site();
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&chain, &key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(mut s) = acceptor.accept(tcp).await else { return String::new() };
        let mut heard = Vec::new();
        while !heard.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut b = [0; 1024];
            match s.read(&mut b).await {
                Ok(n) if n > 0 => heard.extend_from_slice(&b[..n]),
                _ => break,
            }
        }
        s.write_all(answer).await.unwrap();
        let _ = s.shutdown().await;
        String::from_utf8(heard).unwrap()
    });
    (port, heard)
}

fn client(ca: &Ca, port: u16) -> Client {
    Client::connect(&format!("https://127.0.0.1:{port}"), &Trust::CaPem(ca.pem()), Some("lb_id_secret"))
        .unwrap()
}

#[test]
fn addresses_are_read_in_every_usual_form() {
    for (text, host, port) in [
        ("https://a.example", "a.example", 8443),
        ("https://a.example/", "a.example", 8443),
        ("a.example:9000", "a.example", 9000),
        ("https://[::1]:9000", "::1", 9000),
        ("[::1]", "::1", 8443),
        ("10.0.0.1", "10.0.0.1", 8443),
    ] {
        assert_eq!(parse_url(text).unwrap(), (host.to_string(), port), "{text}");
    }
    for bad in
        ["", "http://a", "https://", "https://a:99999", "https://a:x", "https://a/v1", "https://u@a", "a b"]
    {
        assert!(matches!(parse_url(bad), Err(ClientError::Settings(_))), "{bad}");
    }
    assert_eq!(
        parse_url("http://a").unwrap_err().to_string(),
        "'http://a' is not a site's address (only https is spoken); write https://HOST:PORT"
    );
}

#[test]
fn paths_and_queries_are_escaped() {
    assert_eq!(escape("2026-11-20 03:14:15/../x?é"), "2026-11-20%2003%3A14%3A15%2F..%2Fx%3F%C3%A9");
    let mut q = Query::default();
    q.add("a", Some("1&b"));
    q.add("none", None::<u32>);
    q.add("c", Some(2));
    assert_eq!(q.on("/p"), "/p?a=1%26b&c=2");
}

#[tokio::test]
async fn a_request_carries_the_token_and_the_answer_is_typed() {
    let ca = Ca::new();
    let (port, heard) = fake_site(&ca, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await;
    assert!(client(&ca, port).mounts().await.unwrap().is_empty());
    let heard = heard.await.unwrap();
    assert!(heard.starts_with("GET /v1/mounts HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("authorization: Bearer lb_id_secret\r\n"), "{heard}");
}

#[tokio::test]
async fn every_failure_has_its_kind_and_says_what_to_do() {
    let ca = Ca::new();
    let (port, _) = fake_site(
        &ca,
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 49\r\n\r\n{\"code\":\"not-found\",\"message\":\"no\",\"hint\":\"look\"}",
    )
    .await;
    let e = client(&ca, port).servers().await.unwrap_err();
    assert!(matches!(&e, ClientError::Api(a, 404) if a.code == ErrorCode::NotFound), "{e}");
    assert_eq!(e.to_string(), "no (look)");

    let (port, _) = fake_site(&ca, b"HTTP/1.1 502 Bad\r\ncontent-length: 3\r\n\r\n<p>").await;
    let e = client(&ca, port).servers().await.unwrap_err();
    assert!(matches!(e, ClientError::Protocol { .. }), "{e}");

    let (port, heard) = fake_site(&ca, b"").await;
    let e = client(&Ca::new(), port).servers().await.unwrap_err();
    assert!(matches!(e, ClientError::Tls { .. }), "{e}");
    assert_eq!(heard.await.unwrap(), "", "the token stays home");

    // A listener that was closed again: nothing answers on its port.
    let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = l.local_addr().unwrap().port();
    drop(l);
    let e = client(&ca, port).servers().await.unwrap_err();
    assert_eq!(
        e.to_string(),
        format!(
            "cannot reach the site at https://127.0.0.1:{port}: nothing listens there; \
             check that `lifeboat serve` runs there and that address and port are right"
        )
    );
}

#[tokio::test]
async fn a_silent_or_endless_site_is_given_up() {
    let ca = Ca::new();
    let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = l.local_addr().unwrap().port();
    let e = client(&ca, port).with_timeout(Duration::from_millis(100)).servers().await.unwrap_err();
    assert!(matches!(e, ClientError::Protocol { .. } | ClientError::Unreachable { .. }), "{e}");
    drop(l);

    let (port, _) = fake_site(&ca, b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n[]").await;
    let e = client(&ca, port).servers().await.unwrap_err();
    assert!(matches!(e, ClientError::Protocol { .. }), "{e}");
}
