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
use soulbox_edge::{EdgeConfig, tls::server_config};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Made {
    server: Arc<rustls::ServerConfig>,
    certificate: String,
}

fn make() -> Made {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "*.box.test".to_owned()])
            .unwrap();
    let certificate = made.cert.pem();
    let server = server_config(
        certificate.as_bytes(),
        made.signing_key.serialize_pem().as_bytes(),
    )
    .unwrap();
    Made {
        server,
        certificate,
    }
}

async fn connect(world: &World, made: &Made, alpn: &[&str]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(world.address).await.unwrap();
    let name = ServerName::try_from("api.box.test").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap()
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
