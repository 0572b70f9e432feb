//! What comes of an order when the authority's server refuses, over real TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use soulbox_acme::{Failure, Order, Peer, Present, new_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Nobody comes so far.
struct Never;

impl Present for Never {
    async fn present(&self, value: &str) -> Result<(), String> {
        Err(format!("a record {value} before there is an account"))
    }
}

/// A server that gives answers, one after the other, which may name its address; its directory, and the certificate to
/// trust.
async fn authority(answers: impl FnOnce(&str) -> Vec<String>) -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::from(signing_key))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let answers = answers(&base);
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us is gone.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            // To the end of its head; bodies are not looked at.
            let mut request = Vec::new();
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            // Whoever has read enough may be gone.
            if stream.write_all(answer.as_bytes()).await.is_ok() {
                stream.shutdown().await.ok();
            }
        }
    });
    (format!("{base}/dir"), cert.pem())
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

async fn refused(answers: impl FnOnce(&str) -> Vec<String>) -> (String, Option<Duration>) {
    let (directory, trusted) = authority(answers).await;
    let peer = Peer::new(trusted.as_bytes()).unwrap();
    let account_key = new_key().unwrap();
    let order = Order {
        directory: &directory,
        contact: None,
        domain: "box.test",
        account_key: &account_key,
    };
    let Failure { error, told } = order.obtain(&peer, &Never).await.unwrap_err();
    (error.to_string(), told)
}

#[tokio::test]
async fn a_busy_authority_says_when_to_come_again() {
    let busy = answer(
        "503 Service Unavailable",
        "content-type: text/html\r\nretry-after: 77\r\n",
        "<p>busy</p>",
    );
    let (error, told) = refused(|_| vec![busy]).await;
    assert!(
        error.ends_with("/dir answers 503 Service Unavailable"),
        "{error}"
    );
    assert_eq!(told, Some(Duration::from_secs(77)));
}

#[tokio::test]
async fn a_limit_is_told_in_the_authoritys_words() {
    let answers = |base: &str| {
        let places = ["newNonce", "newAccount", "newOrder"];
        let places = places.map(|name| format!("\"{name}\":\"{base}/{name}\""));
        let problem = "urn:ietf:params:acme:error:rateLimited";
        let problem = format!("{{\"type\":\"{problem}\",\"detail\":\"too many accounts\"}}");
        let headers = "content-type: application/problem+json\r\nretry-after: 7200\r\n";
        vec![
            answer("200 OK", "", &format!("{{{}}}", places.join(","))),
            answer("200 OK", "replay-nonce: abc\r\n", ""),
            answer("429 Too Many Requests", headers, &problem),
        ]
    };
    let (error, told) = refused(answers).await;
    assert!(error.contains("too many accounts"), "{error}");
    assert_eq!(told, Some(Duration::from_secs(7200)));
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let long = answer("200 OK", "", &" ".repeat(3 << 20));
    let (error, _) = refused(|_| vec![long]).await;
    assert!(error.contains("length limit exceeded"), "{error}");
}

#[tokio::test]
async fn redirections_are_not_followed() {
    let elsewhere = |base: &str| {
        let to = format!("location: {base}/other\r\n");
        vec![answer("302 Found", &to, ""), answer("200 OK", "", "{}")]
    };
    let (error, _) = refused(elsewhere).await;
    assert!(error.ends_with("/dir answers 302 Found"), "{error}");
}

#[tokio::test]
async fn who_is_not_trusted_is_not_asked() {
    let (directory, _) = authority(|_| vec![answer("200 OK", "", "{}")]).await;
    let (_, of_another) = authority(|_| Vec::new()).await;
    let peer = Peer::new(of_another.as_bytes()).unwrap();
    let account_key = new_key().unwrap();
    let order = Order {
        directory: &directory,
        contact: None,
        domain: "box.test",
        account_key: &account_key,
    };
    let Failure { error, told } = order.obtain(&peer, &Never).await.unwrap_err();
    assert!(error.to_string().contains("localhost"), "{error}");
    assert_eq!(told, None);
}
