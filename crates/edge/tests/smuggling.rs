//! Requests that two readers could understand differently, byte by byte.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program"
)]

mod common;

use common::{ID, Raw, World};

/// Sends bytes as they are and tells what came back until the connection ended or the first answer was complete.
async fn refused(world: &World, bytes: &str) {
    let mut client = world.client().await;
    client.send(bytes).await;
    let answer = client.answer().await;
    assert!(
        (400..=505).contains(&answer.status),
        "{bytes:?} got {}",
        answer.head
    );
    assert_eq!(world.dials(), 0, "{bytes:?} reached the sandbox");
}

#[tokio::test]
async fn ambiguous_requests_never_reach_a_sandbox() {
    let world = World::start().await;
    world.mirror(8080).await;
    let to = format!("E2b-Sandbox-Id: {ID}\r\nE2b-Sandbox-Port: 8080\r\n");
    let cases = [
        format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{to}\r\n"),
        format!("GET / HTTP/1.1\r\n{to}\r\n"),
        format!("GET http://a/ HTTP/1.1\r\nHost: b\r\n{to}\r\n"),
        format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n{to}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{to}E2b-Sandbox-Id: iother\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{to}E2b-Sandbox-Port: 80\r\n\r\n"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{to}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"
        ),
        format!("POST / HTTP/1.1\r\nHost: a\r\n{to}Content-Length: +3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\nHost: a\r\n{to}Content-Length: 3, 3\r\n\r\nabc"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{to}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("POST / HTTP/1.1\r\nHost: a\r\n{to}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{to}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("POST / HTTP/1.0\r\nHost: a\r\n{to}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{to}X: a\0b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{to}X : a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{to}X: a\r\n folded\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n{to}X: a\rb\r\n\r\n"),
        format!("GET /\x01 HTTP/1.1\r\nHost: a\r\n{to}\r\n"),
        format!("GET /a b HTTP/1.1\r\nHost: a\r\n{to}\r\n"),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{to}X: {}\r\n\r\n",
            "y".repeat(70_000)
        ),
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n{to}\r\n",
            "y".repeat(70_000)
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{to}{}\r\n",
            "X: y\r\n".repeat(200)
        ),
    ];
    for case in &cases {
        refused(&world, case).await;
    }
}

/// hyper lets `Transfer-Encoding` win, as RFC 9112 §6.3 allows; then nothing after the body may count as a request.
#[tokio::test]
async fn length_and_chunks_together_carry_exactly_one_request() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    for order in [
        ["Content-Length: 60", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 60"],
    ] {
        let mut client = world.client().await;
        let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = common::request(
            "POST",
            "/",
            8080,
            &format!("{}\r\n{}\r\n", order[0], order[1]),
        );
        client
            .send(&format!("{head}3\r\nabc\r\n0\r\n\r\n{hidden}"))
            .await;
        let (socket, _) = server.accept().await.unwrap();
        let mut inside = Raw::new(socket);
        let seen = inside.until("0\r\n\r\n").await;
        assert!(
            !seen.to_ascii_lowercase().contains("content-length"),
            "{seen}"
        );
        inside
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.answer().await.text(), "ok");
        while client.more().await {}
        assert!(
            client.buffer.is_empty(),
            "the hidden request was answered: {:?}",
            String::from_utf8_lossy(&client.buffer)
        );
        assert!(inside.buffer.is_empty());
    }
}

/// A body may hold whatever it likes.
#[tokio::test]
async fn a_request_inside_a_body_stays_a_body() {
    let world = World::start().await;
    world.mirror(8080).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = world.client().await;
    let head = common::request(
        "POST",
        "/",
        8080,
        &format!("Content-Length: {}\r\n", hidden.len()),
    );
    client.send(&format!("{head}{hidden}")).await;
    assert!(client.answer().await.text().ends_with(hidden));
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "control GET /next");
}
