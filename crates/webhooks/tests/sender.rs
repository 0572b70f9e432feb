//! The sender against real receivers on this machine: good ones, bad ones, slow ones and none.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use soulbox_secrets::{Key, Secrets, Value};
use soulbox_store::{Delivery, DeliveryState, Order, SandboxRecord, Store, Webhook};
use soulbox_types::{
    BuildId, EventKind, ExecutionId, Limits, OnTimeout, SandboxId, TeamId, TemplateId, Timestamp,
    WebhookId,
};
use soulbox_webhooks::{Places, Settings, Webhooks, message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A request as it came.
struct Received {
    head: String,
    body: Vec<u8>,
    socket: TcpStream,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let line = lines.find(|line| line.to_ascii_lowercase().starts_with(name));
        line.unwrap().split_once(':').unwrap().1.trim()
    }

    async fn answer(&mut self, status: &str) {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.socket.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// A receiver: every request comes out of the channel, for the test to answer or not.
async fn receiver() -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move { drop(tell.send(read(socket).await)) });
        }
    });
    (address, told)
}

async fn read(mut socket: TcpStream) -> Received {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut received = Received {
        body: bytes[end..].to_vec(),
        head,
        socket,
    };
    let length: usize = received.header("content-length").parse().unwrap();
    while received.body.len() < length {
        let more = received.socket.read_buf(&mut received.body).await.unwrap();
        assert!(more > 0);
    }
    received
}

struct World {
    store: Store,
    secrets: Secrets,
    team: TeamId,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("soulbox.db")).await.unwrap();
        let team = store.default_team().await.unwrap().id;
        let key = Key::parse(&"ab".repeat(32)).unwrap();
        let secrets = Secrets::open(store.clone(), key).await.unwrap();
        Self {
            store,
            secrets,
            team,
            _dir: dir,
        }
    }

    /// Waits are a thousandth of the usual ones.
    fn start(&self, private: &[&str]) -> Webhooks {
        let private = private.iter().map(|text| text.parse().unwrap()).collect();
        let settings = Settings {
            first_wait: Duration::from_millis(3),
            patience: Duration::from_millis(800),
            ..Settings::new(Places::new(private))
        };
        Webhooks::start(self.store.clone(), self.secrets.clone(), settings)
    }

    async fn wants(&self, url: String) -> WebhookId {
        let id = WebhookId::random();
        let secret = Value::new("s3cret");
        let webhook = Webhook {
            sealed: self.secrets.seal_for_webhook(&self.team, &id, &secret),
            id,
            team: self.team.clone(),
            name: "w".into(),
            url,
            enabled: true,
            kinds: vec![EventKind::Created],
            created_at: Timestamp::now(),
        };
        assert!(self.store.add_webhook(&webhook, 16).await.unwrap());
        webhook.id
    }

    async fn event(&self) {
        let record = SandboxRecord {
            id: SandboxId::random(),
            team: self.team.clone(),
            template_id: TemplateId::random(),
            build_id: BuildId::random(),
            execution_id: ExecutionId::random(),
            alias: None,
            metadata: None,
            started_at: Timestamp::now(),
            end_at: Timestamp::now(),
            on_timeout: OnTimeout::Kill,
            auto_pause_memory: true,
            auto_resume: false,
            auto_resume_timeout_seconds: 300,
            limits: Limits::STANDARD,
            envd_version: "0.6.0".into(),
            allow_internet_access: None,
            network: None,
            allow_public_traffic: true,
            mask_request_host: None,
            https_ports: Vec::new(),
            volume_mounts: serde_json::json!([]),
            state: soulbox_store::RecordState::Running,
            pause: None,
            forked_from: None,
        };
        self.store.insert_sandbox(&record).await.unwrap();
    }

    /// The newest delivery of a webhook, once it is as wanted.
    async fn delivery(&self, id: &WebhookId, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
        let begun = std::time::Instant::now();
        loop {
            let page = (0, 1);
            let found = self
                .store
                .deliveries(&self.team, id, Order::Descending, page)
                .await;
            if let Some(delivery) = found.unwrap().pop().filter(&wanted) {
                return delivery;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "waited too long");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn told_until_the_receiver_says_yes() {
    let world = World::new().await;
    let (address, mut received) = receiver().await;
    let id = world.wants(format!("http://{address}/hook?a=b")).await;
    // Recorded before there is a sender.
    world.event().await;
    let sender = world.start(&["127.0.0.1"]);
    let mut first = received.recv().await.unwrap();
    assert!(
        first.head.starts_with("POST /hook?a=b HTTP/1.1\r\n"),
        "{}",
        first.head
    );
    assert_eq!(first.header("host"), address.to_string());
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("e2b-webhook-id"), id.as_str());
    assert_eq!(first.header("e2b-signature-version"), "v1");
    assert_eq!(
        first.header("e2b-signature:"),
        message::signature("s3cret", &first.body)
    );
    let ours = message::hmac_signature("s3cret", &first.body);
    assert_eq!(first.header("soulbox-signature"), ours);
    first.answer("500 No").await;
    let mut second = received.recv().await.unwrap();
    assert_eq!(
        second.header("e2b-delivery-id"),
        first.header("e2b-delivery-id")
    );
    assert_eq!(second.body, first.body);
    second.answer("204 Yes").await;
    let done = world
        .delivery(&id, |one| one.state != DeliveryState::Waiting)
        .await;
    assert_eq!((done.state, done.tries), (DeliveryState::Delivered, 2));
    assert_eq!((done.last_status, done.last_error), (Some(204), None));
    sender.shutdown().await;
}

#[tokio::test]
async fn what_is_under_way_when_the_server_ends_is_sent_again_by_the_next() {
    let world = World::new().await;
    let (address, mut received) = receiver().await;
    let id = world.wants(format!("http://{address}/")).await;
    let sender = world.start(&["127.0.0.1"]);
    world.event().await;
    let silent = received.recv().await.unwrap();
    sender.shutdown().await;
    let next = world.start(&["127.0.0.1"]);
    let mut again = received.recv().await.unwrap();
    assert_eq!(
        again.header("e2b-delivery-id"),
        silent.header("e2b-delivery-id")
    );
    again.answer("200 OK").await;
    world
        .delivery(&id, |one| one.state == DeliveryState::Delivered)
        .await;
    next.shutdown().await;
}

#[tokio::test]
async fn redirections_are_not_followed_and_tries_end() {
    let world = World::new().await;
    let (address, mut received) = receiver().await;
    let (elsewhere, mut nobody) = receiver().await;
    let id = world.wants(format!("http://{address}/")).await;
    let sender = world.start(&["127.0.0.0/8"]);
    world.event().await;
    for _ in 0..soulbox_webhooks::schedule::TRIES {
        let mut request = received.recv().await.unwrap();
        let answer = format!("307 There\r\nLocation: http://{elsewhere}/");
        request.answer(&answer).await;
    }
    let done = world
        .delivery(&id, |one| one.state == DeliveryState::Failed)
        .await;
    assert_eq!(
        (done.tries, done.last_status, done.next_try_at),
        (8, Some(307), None)
    );
    assert!(
        done.last_error
            .unwrap()
            .contains("redirections are not followed")
    );
    assert!(nobody.try_recv().is_err() && received.try_recv().is_err());
    sender.shutdown().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_nobody() {
    let world = World::new().await;
    let (slow, mut held) = receiver().await;
    let (quick, mut received) = receiver().await;
    let hangs = world.wants(format!("http://{slow}/")).await;
    let works = world.wants(format!("http://{quick}/")).await;
    let sender = world.start(&["127.0.0.1"]);
    let mut open = Vec::new();
    for _ in 0..12 {
        world.event().await;
        received.recv().await.unwrap().answer("200 OK").await;
        while let Ok(request) = held.try_recv() {
            open.push(request);
        }
    }
    world
        .delivery(&works, |one| one.state == DeliveryState::Delivered)
        .await;
    // As many as it may have, until their time is over.
    assert!(open.len() <= 4, "{}", open.len());
    let tried = world.delivery(&hangs, |one| one.tries > 0).await;
    assert!(tried.last_error.unwrap().contains("no answer within"));
    sender.shutdown().await;
}

#[tokio::test]
async fn what_is_not_public_is_not_connected_to() {
    let world = World::new().await;
    let (address, mut received) = receiver().await;
    let literal = world.wants(format!("http://{address}/")).await;
    let named = world
        .wants(format!("http://localhost:{}/", address.port()))
        .await;
    let sender = world.start(&["10.0.0.0/8", "hooks.lan"]);
    world.event().await;
    for id in [&literal, &named] {
        let refused = world
            .delivery(id, |one| one.state == DeliveryState::Failed)
            .await;
        let error = refused.last_error.unwrap();
        assert!(
            error.contains("is at an address that is not public"),
            "{error}"
        );
        assert!(error.contains("FIX: "), "{error}");
    }
    assert!(received.try_recv().is_err());
    sender.shutdown().await;
}
