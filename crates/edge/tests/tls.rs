//! TLS towards clients with ALPN, and towards servers inside.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program"
)]

mod common;

use std::sync::Arc;

use common::{DATA, Raw, RawH2, World, request};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use soulbox_edge::EdgeConfig;
use soulbox_edge::tls::{Authority, AuthorityTexts, Certificates, Given, server_config};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Made {
    server: Arc<rustls::ServerConfig>,
    given: Arc<Given>,
    certificate: String,
}

fn texts() -> (String, String) {
    let names = vec!["localhost".to_owned(), "*.box.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn make() -> Made {
    let (certificate, key) = texts();
    let given = Arc::new(Given::new(certificate.as_bytes(), key.as_bytes()).unwrap());
    Made {
        server: server_config(Certificates::Given(Arc::clone(&given))),
        given,
        certificate,
    }
}

async fn connect(world: &World, made: &Made, alpn: &[&str]) -> TlsStream<TcpStream> {
    let connecting = try_connect(world, &made.certificate, "api.box.test", alpn);
    connecting.await.unwrap()
}

async fn try_connect(
    world: &World,
    trusted: &str,
    name: &'static str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(world.address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

#[tokio::test]
async fn a_new_certificate_is_used_from_the_next_connection_on() {
    let made = make();
    let world = World::with(EdgeConfig::default(), Some(made.server.clone()), |_| {}).await;
    let before = connect(&world, &made, &["http/1.1"]).await;
    let (certificate, key) = texts();
    made.given
        .replace(certificate.as_bytes(), key.as_bytes())
        .unwrap();
    let old = try_connect(&world, &made.certificate, "api.box.test", &[]).await;
    assert!(old.is_err(), "the old one is not shown any more");
    let new = try_connect(&world, &certificate, "api.box.test", &[]).await;
    for stream in [before, new.unwrap()] {
        let mut client = Raw::new(stream);
        client
            .send("GET /teams HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.text(), "control GET /teams");
    }
}

#[tokio::test]
async fn a_private_authority_makes_a_certificate_for_each_name_below_its_domain() {
    let texts = AuthorityTexts::generate("box.test").unwrap();
    let authority = Arc::new(Authority::of("box.test", texts).unwrap());
    let trusted = authority.certificate_pem().to_owned();
    let server = server_config(Certificates::Private(authority));
    let world = World::with(EdgeConfig::default(), Some(server), |_| {}).await;
    for name in ["api.box.test", "box.test", "8080-iabc.box.test"] {
        assert!(
            try_connect(&world, &trusted, name, &[]).await.is_ok(),
            "{name}"
        );
    }
    for name in ["example.com", "a.b.box.test", "127.0.0.1"] {
        assert!(
            try_connect(&world, &trusted, name, &[]).await.is_err(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let made = make();
    let config = EdgeConfig {
        domain: Some("Box.Test".into()),
        ..EdgeConfig::default()
    };
    let world = World::with(config, Some(made.server.clone()), |_| {}).await;
    world.mirror(8080).await;

    for alpn in [&["http/1.1"][..], &[]] {
        let stream = connect(&world, &made, alpn).await;
        let mut client = Raw::new(stream);
        client
            .send("GET /teams HTTP/1.1\r\nHost: api.box.test\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.text(), "control GET /teams");
        client
            .send(&format!(
                "GET /x HTTP/1.1\r\nHost: 8080-{}.box.test\r\n\r\n",
                common::ID
            ))
            .await;
        assert!(client.answer().await.text().starts_with("GET /x HTTP/1.1"));
        client
            .send("GET /x HTTP/1.1\r\nHost: wrong.box.test\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.text(), "Invalid host\n");
    }

    let stream = connect(&world, &made, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = RawH2::new(stream).await;
    client.get(1, "/over-h2", "8080").await;
    assert!(
        client
            .wait(DATA, 1)
            .await
            .payload
            .starts_with(b"GET /over-h2 HTTP/1.1")
    );
}

#[tokio::test]
async fn ports_that_speak_tls_inside_are_reached_without_verification() {
    let made = make();
    let world = World::with(EdgeConfig::default(), None, |route| {
        route.https_ports = vec![8443];
    })
    .await;
    let server = world.raw_server(8443).await;
    let acceptor = TlsAcceptor::from(made.server);
    tokio::spawn(async move {
        let (socket, _) = server.accept().await.unwrap();
        let mut inside = Raw::new(acceptor.accept(socket).await.unwrap());
        for _ in 0..2 {
            inside.head().await;
            inside
                .send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
                .await;
        }
    });
    let mut client = world.client().await;
    for _ in 0..2 {
        client.send(&request("GET", "/", 8443, "")).await;
        assert_eq!(client.answer().await.text(), "secret");
    }
    assert_eq!(world.dials(), 1);
}
