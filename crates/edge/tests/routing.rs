//! Who gets a request, what the edge says itself, and what changes on the way.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program"
)]

mod common;

use std::time::{Duration, Instant};

use common::{ID, World, request};
use soulbox_edge::EdgeConfig;
use soulbox_edge::preview::Base;
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn control_plane_and_sandbox_share_the_port() {
    let world = World::start().await;
    world.mirror(8080).await;
    let mut client = world.client().await;
    client
        .send("GET /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "control GET /v2/sandboxes");
    // The same connection may serve both.
    client.send(&request("GET", "/a?b=c", 8080, "")).await;
    assert!(
        client
            .answer()
            .await
            .text()
            .starts_with("GET /a?b=c HTTP/1.1\n")
    );
    client
        .send(&format!(
            "GET /x HTTP/1.1\r\nHost: 8080-{ID}.any.example:3000\r\n\r\n"
        ))
        .await;
    let answer = client.answer().await;
    assert!(
        answer
            .text()
            .contains(&format!("host: 8080-{ID}.any.example:3000\n")),
        "{}",
        answer.text()
    );
    client
        .send(&format!(
            "GET http://8080-{ID}.x/abs HTTP/1.1\r\nHost: 8080-{ID}.x\r\n\r\n"
        ))
        .await;
    assert!(
        client
            .answer()
            .await
            .text()
            .starts_with("GET /abs HTTP/1.1\n"),
        "absolute form becomes origin form"
    );
}

#[tokio::test]
async fn bad_addresses_are_400_in_plain_text() {
    let world = World::start().await;
    let cases = [
        (
            format!("Host: localhost\r\nE2b-Sandbox-Id: {ID}\r\n"),
            "missing header\n",
        ),
        (
            "Host: localhost\r\nE2b-Sandbox-Port: 80\r\n".to_owned(),
            "missing header\n",
        ),
        (
            format!("Host: localhost\r\nE2b-Sandbox-Id: {ID}\r\nE2b-Sandbox-Port: x\r\n"),
            "Invalid sandbox port\n",
        ),
        (
            "Host: localhost\r\nE2b-Sandbox-Id: I/X\r\nE2b-Sandbox-Port: 80\r\n".to_owned(),
            "Invalid sandbox ID\n",
        ),
        (format!("Host: 70000-{ID}.x\r\n"), "Invalid sandbox port\n"),
    ];
    for (headers, text) in cases {
        let mut client = world.client().await;
        client
            .send(&format!("GET / HTTP/1.1\r\n{headers}\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (400, text), "{headers}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn unknown_sandboxes_and_closed_ports_are_502() {
    let world = World::start().await;
    let mut client = world.client().await;
    client
        .send("GET /health HTTP/1.1\r\nHost: 49983-igone.x\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502);
    assert_eq!(
        answer.text(),
        r#"{"sandboxId":"igone","message":"The sandbox was not found","code":502}"#
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    client
        .send("GET / HTTP/1.1\r\nHost: 80-igone.x\r\nUser-Agent: Mozilla/5.0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (502, Some("text/html; charset=utf-8"))
    );

    let closed = |port: u16| {
        format!(
            r#"{{"sandboxId":"{ID}","message":"The sandbox is running but port is not open","port":{port},"code":502}}"#
        )
    };
    let begun = Instant::now();
    assert_eq!(world.get(49983, "/health", "").await.text(), closed(49983));
    assert!(
        begun.elapsed() < Duration::from_millis(90),
        "envd's port is not tried again"
    );
    assert_eq!(world.dials(), 1);
    let begun = Instant::now();
    assert_eq!(world.get(3000, "/", "").await.text(), closed(3000));
    assert!(
        begun.elapsed() >= Duration::from_millis(1000),
        "100 + 200 + 300 + 400 ms"
    );
    assert_eq!(world.dials(), 1 + 5);
}

/// Requests with bodies that are answered without being read: by the edge, and by the control plane.
const UNREAD: [&str; 2] = ["49983-igone.x", "api.x"];

#[tokio::test]
async fn a_refused_body_that_comes_late_does_not_cost_the_connection() {
    let world = World::start().await;
    for host in UNREAD {
        let mut client = world.client().await;
        let head = format!("POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\n");
        client.send(&head).await;
        // An edge that does not wait for the body would have answered and ended by then.
        let early = tokio::time::timeout(Duration::from_millis(100), client.more()).await;
        assert!(early.is_err(), "{host}: answered before the body was there");
        client.send("body").await;
        let first = client.answer().await;
        assert_eq!(first.header("connection"), None, "{host}");
        client.send(&head).await;
        client.send("body").await;
        assert_eq!(client.answer().await.status, first.status, "{host}");
    }
}

#[tokio::test]
async fn an_answer_whose_connection_ends_says_so() {
    let world = World::start().await;
    let more = " ".repeat(3 * 1024 * 1024);
    for host in UNREAD {
        for (what, headers, body) in [
            ("never comes", "Content-Length: 4\r\n", ""),
            (
                "waits to be asked for",
                "Content-Length: 4\r\nExpect: 100-continue\r\n",
                "",
            ),
            ("is long", "Content-Length: 3145728\r\n", more.as_str()),
        ] {
            let mut client = world.client().await;
            client
                .send(&format!(
                    "POST /x HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"
                ))
                .await;
            // The edge may have ended it by then.
            let _refused = client.socket.write_all(body.as_bytes()).await;
            let answer = client.answer().await;
            assert_eq!(answer.header("connection"), Some("close"), "{host}: {what}");
        }
    }
}

#[tokio::test]
async fn a_port_that_opens_late_is_reached() {
    let world = World::start().await;
    let (answer, ()) = tokio::join!(world.get(3000, "/late", ""), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        world.mirror(3000).await;
    });
    assert!(answer.text().starts_with("GET /late"));
}

#[tokio::test]
async fn a_sandbox_killed_while_its_port_is_awaited_is_not_found() {
    let world = World::start().await;
    let (answer, ()) = tokio::join!(world.get(3000, "/", ""), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        world.kill();
    });
    assert!(answer.text().contains("was not found"), "{}", answer.text());
}

#[tokio::test]
async fn envds_own_routes_are_reserved() {
    let world = World::start().await;
    world.mirror(49983).await;
    world.mirror(8080).await;
    let answer = world.get(49983, "//x/../%69nit", "").await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.text(),
        r#"{"message":"This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL","path":"/init","code":404}"#
    );
    assert_eq!(world.get(8080, "/init", "").await.status, 200);
    assert_eq!(world.get(49983, "/health", "").await.status, 200);
}

#[tokio::test]
async fn private_sandboxes_ask_for_the_traffic_token() {
    let world = World::with(EdgeConfig::default(), None, |route| {
        route.traffic_access_token = Some("s3cret".into());
    })
    .await;
    world.mirror(8080).await;
    world.mirror(49983).await;
    let answer = world.get(8080, "/", "").await;
    assert_eq!(
        (
            answer.status,
            answer
                .text()
                .contains("'e2b-traffic-access-token' is missing")
        ),
        (403, true)
    );
    let answer = world
        .get(8080, "/", "E2B-Traffic-Access-Token: nope\r\n")
        .await;
    assert_eq!(
        (
            answer.status,
            answer
                .text()
                .contains("'e2b-traffic-access-token' is invalid")
        ),
        (403, true)
    );
    let answer = world
        .get(8080, "/", "E2B-Traffic-Access-Token: s3cret\r\n")
        .await;
    assert!(
        answer.text().contains("e2b-traffic-access-token: s3cret\n"),
        "forwarded unchanged"
    );
    assert_eq!(
        world.get(49983, "/health", "").await.status,
        200,
        "envd has a token of its own"
    );
}

#[tokio::test]
async fn a_signed_address_opens_its_port_and_nothing_of_it_goes_inside() {
    let world = World::with(EdgeConfig::default(), None, |route| {
        route.traffic_access_token = Some("s3cret".into());
    })
    .await;
    world.mirror(8080).await;
    world.mirror(8081).await;
    let base = Base {
        https: false,
        domain: "localhost".into(),
    };
    let target = |expires: i64| {
        let address = base.address(
            &common::ID.parse().unwrap(),
            8080,
            Some(("s3cret", expires)),
        );
        address.split_once(".localhost/").unwrap().1.to_owned()
    };
    let (good, late) = (target(i64::MAX), target(1));
    let answer = world.get(8080, &format!("/page{good}&a=1"), "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("GET /page?a=1 HTTP/1.1"));
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    let pair = cookie.split(';').next().unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");

    let with_cookie = format!("Cookie: own=1; {pair}\r\n");
    let answer = world.get(8080, "/next", &with_cookie).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
    assert!(
        answer.text().contains("cookie: own=1\n"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("soulbox_preview"));

    for (port, path, headers, code) in [
        (8080, late.as_str(), "", "preview_url_expired"),
        (8080, "/?soulbox_preview=1.00", "", "preview_url_invalid"),
        (8081, good.as_str(), "", "preview_url_invalid"),
        (8081, "/", with_cookie.as_str(), "preview_url_invalid"),
    ] {
        let path = format!("/{}", path.trim_start_matches('/'));
        let answer = world.get(port, &path, headers).await;
        assert_eq!(answer.status, 403);
        assert!(answer.text().contains(code), "{}", answer.text());
        assert!(answer.text().contains("FIX:"));
    }
    let both = "E2B-Traffic-Access-Token: nope\r\n";
    let answer = world.get(8080, &format!("/{good}"), both).await;
    assert_eq!(answer.status, 403, "a wrong token is not made good");
}

#[tokio::test]
async fn the_host_can_be_masked() {
    let world = World::with(EdgeConfig::default(), None, |route| {
        route.mask_request_host = Some("localhost:${PORT}".into());
    })
    .await;
    world.mirror(8080).await;
    world.mirror(49983).await;
    let answer = world.get(8080, "/", "").await;
    assert!(
        answer.text().contains("host: localhost:8080\n"),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("x-forwarded-host: localhost:3000\n"));
    let answer = world.get(49983, "/", "").await;
    assert!(
        answer.text().contains("host: localhost:3000\n") && !answer.text().contains("x-forwarded")
    );
}

#[tokio::test]
async fn open_requests_of_a_sandbox_can_be_limited() {
    let config = EdgeConfig {
        max_requests_per_sandbox: Some(1),
        ..EdgeConfig::default()
    };
    let world = World::with(config, None, |_| {}).await;
    let server = world.raw_server(8080).await;
    let mut first = world.client().await;
    first.send(&request("GET", "/", 8080, "")).await;
    let (socket, _) = server.accept().await.unwrap();
    let mut inside = common::Raw::new(socket);
    inside.head().await;
    let answer = world.get(8080, "/", "").await;
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.text(),
        format!(
            r#"{{"sandboxId":"{ID}","message":"The sandbox has too many concurrent incoming connections (limit: 1)","connectionLimit":1,"code":429}}"#
        )
    );
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(first.answer().await.text(), "ok");
    first.send(&request("GET", "/", 8080, "")).await;
    inside.head().await;
    inside
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(first.answer().await.text(), "ok", "the place is free again");
}

#[tokio::test]
async fn connections_are_limited_with_a_clear_answer() {
    let config = EdgeConfig {
        max_connections: 1,
        ..EdgeConfig::default()
    };
    let world = World::with(config, None, |_| {}).await;
    let mut first = world.client().await;
    first
        .send("GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(first.answer().await.status, 200);
    let mut second = world.client().await;
    second
        .send("GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let answer = second.answer().await;
    assert_eq!((answer.status, answer.complete), (503, true));
    assert!(answer.text().contains("FIX:"));
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let world = World::start().await;
    let server = world.raw_server(8080).await;
    let mut client = world.client().await;
    let headers = "Connection: keep-alive, X-Private\r\nX-Private: 1\r\nX-Public: 1\r\nKeep-Alive: timeout=9\r\nUpgrade: h2c\r\n\
                   Proxy-Connection: keep-alive\r\nTE: trailers\r\nExpect: 100-continue\r\nContent-Length: 2\r\n";
    client.send(&request("POST", "/", 8080, headers)).await;
    let (socket, _) = server.accept().await.unwrap();
    let mut inside = common::Raw::new(socket);
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("ab").await;
    let head = inside.until("\r\n\r\nab").await.to_ascii_lowercase();
    for gone in [
        "connection:",
        "x-private",
        "keep-alive",
        "upgrade",
        "expect",
        "transfer-encoding",
    ] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    for kept in [
        "x-public: 1",
        "te: trailers",
        "content-length: 2",
        "host: localhost:3000",
    ] {
        assert!(head.contains(kept), "{kept} not in {head}");
    }
    inside
        .send("HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\nContent-Length: 0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.header("x-hop").is_none() && answer.header("connection").is_none());
    assert_eq!(answer.header("x-end"), Some("1"));
    client
        .send("GET /again HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(
        client.answer().await.text(),
        "control GET /again",
        "the client's connection lives on"
    );
}
