//! Bodies as they flow: order, duplex, backpressure, and every way a stream can break off.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program"
)]

mod common;

use std::time::Duration;

use common::{
    DATA, Frame, GOAWAY, HEADERS, INTERNAL_ERROR, RST_STREAM, Raw, RawH2, SETTINGS, WINDOW_UPDATE,
    World, request, soon,
};
use soulbox_edge::EdgeConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn accept(server: &TcpListener) -> Raw {
    Raw::new(soon("accept", server.accept()).await.unwrap().0)
}

/// The peer has closed: a read ends, cleanly or not.
async fn gone(raw: &mut Raw) {
    while raw.more().await {}
}

#[tokio::test]
async fn an_answer_arrives_piece_by_piece() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/", 8080, "")).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    // Headers alone come through before any body.
    inside.send(CHUNKED).await;
    client.head().await;
    for piece in ["one", "two", "three"] {
        inside
            .send(&format!("{:x}\r\n{piece}\r\n", piece.len()))
            .await;
        assert_eq!(client.chunk().await.unwrap(), piece.as_bytes());
    }
    inside.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    let mut client = world.client().await;
    client
        .send(&request(
            "POST",
            "/stream",
            49983,
            "Transfer-Encoding: chunked\r\n",
        ))
        .await;
    let mut inside = accept(&server).await;
    inside.head().await;
    // The answer begins before the request has ended, and the two then take turns.
    inside.send(CHUNKED).await;
    client.head().await;
    for piece in ["a", "bb", "ccc"] {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        client.send(&chunk).await;
        assert_eq!(inside.chunk().await.unwrap(), piece.as_bytes());
        inside.send(&chunk).await;
        assert_eq!(client.chunk().await.unwrap(), piece.as_bytes());
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(inside.chunk().await.unwrap(), b"");
    inside.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_stream_without_answer_stays_open() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    let mut client = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/process.Process/StreamInput"),
        ("e2b-sandbox-id", common::ID),
        ("e2b-sandbox-port", "49983"),
    ];
    client.open(1, &fields, false).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    for piece in ["start", "data"] {
        client.frame(DATA, 0, 1, piece.as_bytes()).await;
        assert_eq!(inside.chunk().await.unwrap(), piece.as_bytes());
    }
    client.frame(DATA, 1, 1, b"").await;
    assert_eq!(inside.chunk().await.unwrap(), b"");
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    let data = client.wait(DATA, 1).await;
    assert_eq!(
        (data.payload.as_slice(), data.flags & 1),
        (b"{}".as_slice(), 1),
        "the end comes with the data"
    );
}

#[tokio::test]
async fn a_kill_aborts_http1_and_health_is_502_by_then() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    let mut client = world.client().await;
    client
        .send(&request(
            "POST",
            "/process.Process/Start",
            49983,
            "Content-Length: 0\r\n",
        ))
        .await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside.send(&format!("{CHUNKED}5\r\nstart\r\n")).await;
    client.head().await;
    assert_eq!(client.chunk().await.unwrap(), b"start");
    world.kill();
    assert_eq!(client.chunk().await, None, "no final chunk");
    let answer = world.get(49983, "/health", "").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("was not found"));
    gone(&mut inside).await;
}

#[tokio::test]
async fn a_kill_resets_http2_with_internal_error_and_no_goaway() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    let mut client = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
    client.get(1, "/process", "49983").await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside.send(&format!("{CHUNKED}5\r\nstart\r\n")).await;
    assert_eq!(client.wait(DATA, 1).await.payload, b"start");
    // Another stream, of which not even the head has come: it only looks.
    client.get(3, "/other", "49983").await;
    accept(&server).await.head().await;
    world.kill();
    let (mut reset, mut answered) = (false, false);
    while !(reset && answered) {
        let frame = client.next().await.unwrap();
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        if frame.kind == RST_STREAM {
            assert_eq!(
                (frame.stream, frame.payload.as_slice()),
                (1, INTERNAL_ERROR.as_slice())
            );
            reset = true;
        } else if frame.kind == DATA {
            assert_eq!(frame.stream, 3, "{frame:?}");
            answered = true;
        }
    }
    client.get(5, "/health", "49983").await;
    let body = client.wait(DATA, 5).await;
    assert!(
        String::from_utf8(body.payload)
            .unwrap()
            .contains("was not found"),
        "the connection serves on"
    );
}

#[tokio::test]
async fn a_kill_before_the_head_breaks_off_too() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    let mut client = world.client().await;
    let headers = "Content-Length: 0\r\n";
    client.send(&request("POST", "/", 49983, headers)).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    world.kill();
    assert!(!client.more().await, "no answer at all");
    gone(&mut inside).await;
}

#[tokio::test]
async fn a_kill_answers_those_who_only_look() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/health", 49983, "")).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    world.kill();
    let answer = client.answer().await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("The sandbox was not found"));
    gone(&mut inside).await;
    // And the connection serves on.
    client
        .send("GET /again HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_break_inside_is_never_a_clean_end() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    for head in [CHUNKED, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"] {
        let mut client = world.client().await;
        client.send(&request("GET", "/", 8080, "")).await;
        let mut inside = accept(&server).await;
        inside.head().await;
        inside.send(&format!("{head}3\r\nabc\r\n")).await;
        client.head().await;
        drop(inside);
        let mut rest = Vec::new();
        soon("rest", client.socket.read_to_end(&mut rest))
            .await
            .unwrap_or(0);
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");

        let mut client = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
        client.get(1, "/", "8080").await;
        let mut inside = accept(&server).await;
        inside.head().await;
        inside.send(&format!("{head}3\r\nabc\r\n")).await;
        client.wait(DATA, 1).await;
        drop(inside);
        assert_eq!(client.wait(RST_STREAM, 1).await.payload, INTERNAL_ERROR);
    }
}

#[tokio::test]
async fn no_answer_from_inside_is_502() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/", 8080, "")).await;
    accept(&server).await.head().await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.text()),
        (502, "Failed to route request to sandbox\n")
    );
    client.send(&request("GET", "/", 8080, "")).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside.send("this is not HTTP\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 502);
}

#[tokio::test]
async fn an_upload_that_stops_half_way_is_not_taken_for_whole() {
    let world = World::start().await;
    let server = world.raw_server(49983).await;
    for header in [
        "Content-Length: 1000000\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut client = world.client().await;
        client.send(&request("POST", "/files", 49983, header)).await;
        client.send("5\r\nhello\r\n").await;
        let mut inside = accept(&server).await;
        inside.until("hello").await;
        drop(client);
        gone(&mut inside).await;
        assert!(!inside.buffer.ends_with(b"0\r\n\r\n"), "no final chunk");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_inside() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    // While the head is awaited, and while a silent answer is open; over both protocols.
    for answered in [false, true] {
        let mut client = world.client().await;
        client.send(&request("GET", "/", 8080, "")).await;
        let mut inside = accept(&server).await;
        inside.head().await;
        if answered {
            inside.send(CHUNKED).await;
            client.head().await;
        }
        drop(client);
        gone(&mut inside).await;

        let mut client = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
        client.get(1, "/", "8080").await;
        let mut inside = accept(&server).await;
        inside.head().await;
        if answered {
            inside.send(CHUNKED).await;
            client.wait(HEADERS, 1).await;
        }
        client.frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
        gone(&mut inside).await;
    }
}

/// Writes until the other side takes no more for a while; tells how much went.
async fn fill(inside: &mut Raw) -> usize {
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    loop {
        match tokio::time::timeout(Duration::from_millis(500), inside.socket.write(&block)).await {
            Ok(n) => sent += n.unwrap(),
            Err(_) => return sent,
        }
    }
}

#[tokio::test]
async fn a_slow_reader_slows_the_server_inside_and_is_cut_with_the_sandbox() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/", 8080, "")).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        .await;
    // Socket buffers of the kernel on both hops, and ours in between.
    let sent = fill(&mut inside).await;
    assert!(
        sent < 32 * 1024 * 1024,
        "{sent} bytes were taken for a client that does not read"
    );
    world.kill();
    gone(&mut inside).await;
    client.head().await;
    let mut total = 0;
    let mut block = vec![0; 1 << 20];
    loop {
        match soon("rest", client.socket.read(&mut block)).await {
            Ok(0) | Err(_) => break,
            Ok(n) => total += n,
        }
    }
    assert!(total < 100_000_000, "cut, not finished");
}

#[tokio::test]
async fn an_http2_client_that_does_not_read_holds_little_and_is_given_up() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
    client.get(1, "/", "8080").await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        .await;
    let sent = fill(&mut inside).await;
    assert!(
        sent < 32 * 1024 * 1024,
        "{sent} bytes were taken for a client whose window is full"
    );
    world.kill();
    // The window never opens; after the grace the stream is reset all the same.
    client.wait(RST_STREAM, 1).await;
    gone(&mut inside).await;
}

#[tokio::test]
async fn http2_prior_knowledge_in_small_pieces() {
    let world = World::start().await;
    world.mirror(8080).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r" {
        socket.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    socket.write_all(b"\n").await.unwrap();
    let mut client = RawH2 {
        raw: Raw::new(socket),
    };
    client.frame(SETTINGS, 0, 0, &[]).await;
    let settings = client.next().await.unwrap();
    assert_eq!(settings.kind, SETTINGS);
    let streams = settings
        .payload
        .chunks(6)
        .find(|s| s[..2] == [0, 3])
        .unwrap();
    assert!(u32::from_be_bytes([streams[2], streams[3], streams[4], streams[5]]) >= 100);
    client.get(1, "/p?q", "8080").await;
    let body = String::from_utf8(client.wait(DATA, 1).await.payload).unwrap();
    assert!(
        body.starts_with("GET /p?q HTTP/1.1\n") && body.contains("host: localhost:3000\n"),
        "{body}"
    );
}

#[tokio::test]
async fn http2_gets_no_empty_data_frames() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
    client
        .frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())
        .await;
    client.get(1, "/", "8080").await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside.send(CHUNKED).await;
    for _ in 0..300 {
        inside.send("1\r\nx\r\n").await;
    }
    inside.send("0\r\n\r\n").await;
    let mut got = 0;
    loop {
        let Frame { payload, flags, .. } = client.wait(DATA, 1).await;
        got += payload.len();
        assert!(
            !payload.is_empty() || flags & 1 == 1,
            "an empty frame that ends nothing"
        );
        if flags & 1 == 1 {
            break;
        }
    }
    assert_eq!(got, 300);
}

#[tokio::test]
async fn many_small_requests_share_one_connection() {
    let world = World::start().await;
    world.mirror(8080).await;
    let mut client = world.client().await;
    for i in 0..1000 {
        client
            .send(&request("GET", &format!("/{i}"), 8080, ""))
            .await;
        assert!(
            client
                .answer()
                .await
                .text()
                .starts_with(&format!("GET /{i} "))
        );
    }
    assert_eq!(world.dials(), 1);
    let head = request("HEAD", "/", 8080, "");
    client.send(&head).await;
    let answer = client.head().await;
    assert!(common::header(&answer, "content-length").is_some());
    client
        .send(&request("POST", "/", 8080, "Content-Length: 3\r\n"))
        .await;
    client.send("abc").await;
    assert!(client.answer().await.text().ends_with("abc"));
    assert_eq!(world.dials(), 1, "HEAD and POST leave the connection whole");
}

#[tokio::test]
async fn as_many_connections_rest_as_there_were_requests_at_once() {
    const MANY: usize = 100;
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let (mut clients, mut inside) = (Vec::new(), Vec::new());
    for _ in 0..MANY {
        let mut client = world.client().await;
        client.send(&request("GET", "/", 8080, "")).await;
        clients.push(client);
        inside.push(accept(&server).await);
    }
    for _ in 0..3 {
        for raw in &mut inside {
            raw.head().await;
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
        for client in &mut clients {
            assert_eq!(client.answer().await.text(), "ok");
        }
        for client in &mut clients {
            client.send(&request("GET", "/", 8080, "")).await;
        }
    }
    for raw in &mut inside {
        raw.head().await;
    }
    assert_eq!(world.dials(), MANY);
}

#[tokio::test]
async fn a_connection_that_died_in_the_pool_is_replaced() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    for _ in 0..3 {
        // With a body, so that a second try after sending would be forbidden.
        client
            .send(&request("POST", "/", 8080, "Content-Length: 1\r\n"))
            .await;
        client.send("x").await;
        let mut inside = accept(&server).await;
        inside.until("\r\n\r\nx").await;
        inside
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        drop(inside);
        assert_eq!(client.answer().await.text(), "ok");
        // Until the close has arrived at the edge.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_close_at_the_moment_of_sending_is_tried_again_once() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/1", 8080, "")).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.answer().await.text(), "ok");
    client.send(&request("GET", "/2", 8080, "")).await;
    inside.head().await;
    drop(inside);
    let mut inside = accept(&server).await;
    assert!(inside.head().await.starts_with("GET /2 "));
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.answer().await.text(), "ok");
    client
        .send(&request("POST", "/3", 8080, "Content-Length: 1\r\n"))
        .await;
    client.send("x").await;
    inside.until("\r\n\r\nx").await;
    drop(inside);
    assert_eq!(
        client.answer().await.status,
        502,
        "a request with effects is not sent twice"
    );
}

#[tokio::test]
async fn pooled_connections_close_with_the_route() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/", 8080, "")).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    client.answer().await;
    world.kill();
    gone(&mut inside).await;
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Ws: 1\r\n\r\n";

#[tokio::test]
async fn upgrades_are_tunnels() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/ws", 8080, UPGRADE)).await;
    let mut inside = accept(&server).await;
    let head = inside.head().await.to_ascii_lowercase();
    assert!(
        head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    // The first bytes of the new protocol may come with the head.
    inside.send(&format!("{SWITCH}early")).await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && common::header(&head, "x-ws") == Some("1"),
        "{head}"
    );
    assert_eq!(common::header(&head, "upgrade"), Some("websocket"));
    client.until("early").await;
    for _ in 0..10 {
        client.send("ping").await;
        inside.until("ping").await;
        inside.send("pong").await;
        client.until("pong").await;
    }
    // One half ends, the other goes on.
    client.socket.shutdown().await.unwrap();
    assert!(!inside.more().await);
    inside.send("bye").await;
    client.until("bye").await;
    drop(inside);
    gone(&mut client).await;
}

#[tokio::test]
async fn tunnels_are_cut_with_the_sandbox() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/ws", 8080, UPGRADE)).await;
    let mut inside = accept(&server).await;
    inside.head().await;
    inside.send(SWITCH).await;
    client.head().await;
    world.kill();
    gone(&mut client).await;
    gone(&mut inside).await;
}

#[tokio::test]
async fn an_upgrade_may_be_declined() {
    let world = World::start().await;
    world.mirror(8080).await;
    let mut client = world.client().await;
    client.send(&request("GET", "/ws", 8080, UPGRADE)).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(&request("GET", "/next", 8080, "")).await;
    assert!(client.answer().await.text().starts_with("GET /next"));
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_cuts_what_stays() {
    let config = EdgeConfig {
        drain: Duration::from_millis(700),
        ..EdgeConfig::default()
    };
    let world = World::with(config, None, |_| {}).await;
    let server = world.raw_server(8080).await;
    let mut idle = world.client().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.answer().await;
    let mut short = world.client().await;
    short.send(&request("GET", "/short", 8080, "")).await;
    let mut short_inside = accept(&server).await;
    short_inside.head().await;
    let mut long = RawH2::new(TcpStream::connect(world.address).await.unwrap()).await;
    long.get(1, "/long", "8080").await;
    let mut long_inside = accept(&server).await;
    long_inside.head().await;
    long_inside.send(CHUNKED).await;
    long.wait(HEADERS, 1).await;

    world.shutdown.cancel();
    gone(&mut idle).await;
    assert!(
        TcpStream::connect(world.address).await.is_err(),
        "nobody new is let in"
    );
    short_inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(short.answer().await.text(), "ok");
    gone(&mut short).await;
    long_inside.send("4\r\nmore\r\n").await;
    assert_eq!(
        long.wait(DATA, 1).await.payload,
        b"more",
        "and no GOAWAY before it"
    );
    soon("drain", world.server).await.unwrap();
    gone(&mut long.raw).await;
    gone(&mut long_inside).await;
}
