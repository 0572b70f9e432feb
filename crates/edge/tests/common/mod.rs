//! An edge on loopback before fake sandboxes, and small raw clients that hide nothing from a test.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test programs; tests may panic"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use soulbox_driver::route::{Route, Woken};
use soulbox_driver::{BoxFuture, DialError, DriverError, Guest, GuestStats, OomKill, SavedLayer};
use soulbox_edge::{Admits, ClientBody, Edge, EdgeConfig, Routes};
use soulbox_types::{Limits, NetworkMode, SandboxId, SandboxSpec, TemplateId, TemplateImage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const ID: &str = "iabc123";

/// Long enough that only a hang reaches it.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("hangs: {what}"))
}

#[derive(Debug)]
pub struct FakeGuest {
    spec: SandboxSpec,
    pub ports: Mutex<HashMap<u16, SocketAddr>>,
    pub dials: AtomicUsize,
}

impl Guest for FakeGuest {
    fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    fn dial(&self, port: u16) -> BoxFuture<'_, Result<TcpStream, DialError>> {
        Box::pin(async move {
            self.dials.fetch_add(1, Ordering::SeqCst);
            let address = self.ports.lock().unwrap().get(&port).copied();
            let address = address.ok_or(DialError::PortClosed { port })?;
            TcpStream::connect(address)
                .await
                .map_err(|source| DialError::Io { port, source })
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<GuestStats, DriverError>> {
        Box::pin(async { Ok(GuestStats::default()) })
    }

    fn oom_kills(&self) -> broadcast::Receiver<OomKill> {
        broadcast::Sender::new(1).subscribe()
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async { Ok(()) })
    }

    fn freeze(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async { Ok(()) })
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async { Ok(()) })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        Box::pin(async { Ok(None) })
    }

    fn save(&self) -> BoxFuture<'_, Result<Option<SavedLayer>, DriverError>> {
        Box::pin(async { Ok(None) })
    }
}

#[derive(Default)]
pub struct FakeRoutes(pub Mutex<HashMap<SandboxId, Arc<Route>>>);

impl Routes for FakeRoutes {
    fn route(&self, id: &SandboxId) -> Option<Arc<Route>> {
        self.0.lock().unwrap().get(id).cloned()
    }

    fn wake<'a>(&'a self, _: &'a SandboxId, _: Admits) -> BoxFuture<'a, Woken> {
        Box::pin(async { Woken::Nobody })
    }
}

pub struct World {
    pub address: SocketAddr,
    pub routes: Arc<FakeRoutes>,
    pub guest: Arc<FakeGuest>,
    pub closed: CancellationToken,
    pub shutdown: CancellationToken,
    pub server: JoinHandle<()>,
}

impl World {
    pub async fn start() -> Self {
        Self::with(EdgeConfig::default(), None, |_| {}).await
    }

    pub async fn with(
        config: EdgeConfig,
        tls: Option<Arc<rustls::ServerConfig>>,
        change: impl FnOnce(&mut Route),
    ) -> Self {
        let guest = Arc::new(FakeGuest {
            spec: SandboxSpec {
                id: ID.parse().unwrap(),
                image: TemplateImage {
                    template_id: TemplateId::random(),
                    layers: Vec::new(),
                    default_user: "user".into(),
                    default_workdir: None,
                },
                limits: Limits::STANDARD,
                network: NetworkMode::Offline,
                env_vars: std::collections::BTreeMap::new(),
                envd_access_token: "envd".into(),
                volumes: Vec::new(),
                team: None,
            },
            ports: Mutex::default(),
            dials: AtomicUsize::new(0),
        });
        let closed = CancellationToken::new();
        let mut route = Route {
            sandbox_id: ID.parse().unwrap(),
            guest: guest.clone(),
            closed: closed.clone(),
            execution: 1,
            envd_access_token: "envd".into(),
            traffic_access_token: None,
            mask_request_host: None,
            https_ports: Vec::new(),
        };
        change(&mut route);
        let routes = Arc::new(FakeRoutes::default());
        routes
            .0
            .lock()
            .unwrap()
            .insert(route.sandbox_id.clone(), Arc::new(route));
        let control = tower::service_fn(|request: Request<ClientBody>| async move {
            let text = format!("control {} {}", request.method(), request.uri().path());
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
        });
        let edge = Edge::new(routes.clone(), control, config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = edge.serve(listener, tls, shutdown.clone());
        Self {
            address,
            routes,
            guest,
            closed,
            shutdown,
            server,
        }
    }

    /// Kills the sandbox in the order that the contract asks for.
    pub fn kill(&self) {
        self.routes.0.lock().unwrap().clear();
        self.closed.cancel();
    }

    pub fn dials(&self) -> usize {
        self.guest.dials.load(Ordering::SeqCst)
    }

    pub fn open_port(&self, port: u16, address: SocketAddr) {
        self.guest.ports.lock().unwrap().insert(port, address);
    }

    /// A raw server in the sandbox; the test accepts its connections.
    pub async fn raw_server(&self, port: u16) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.open_port(port, listener.local_addr().unwrap());
        listener
    }

    /// An HTTP server in the sandbox that answers with what it was asked.
    pub async fn mirror(&self, port: u16) {
        let listener = self.raw_server(port).await;
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let service = service_fn(mirror);
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
    }

    pub async fn client(&self) -> Raw {
        Raw::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own, with the routing headers for `port`.
    pub async fn get(&self, port: u16, path: &str, headers: &str) -> Answer {
        let mut client = self.client().await;
        client.send(&request("GET", path, port, headers)).await;
        client.answer().await
    }
}

async fn mirror(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    use http_body_util::BodyExt as _;
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&body));
    Ok(Response::new(Full::new(text.into())))
}

/// The head of a request for the sandbox.
pub fn request(method: &str, path: &str, port: u16, headers: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:3000\r\nE2b-Sandbox-Id: {ID}\r\nE2b-Sandbox-Port: {port}\r\n{headers}\r\n"
    )
}

/// A response read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// False when the connection ended before the body did.
    pub complete: bool,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A peer that speaks HTTP/1.1 byte by byte, from either side.
pub struct Raw<S = TcpStream> {
    pub socket: S,
    pub buffer: Vec<u8>,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Raw<S> {
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads more; false at the end of the connection, however it comes.
    pub async fn more(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        let n = soon("read", self.socket.read(&mut chunk))
            .await
            .unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..n]);
        n > 0
    }

    pub async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self
                .buffer
                .windows(mark.len())
                .position(|w| w == mark.as_bytes())
            {
                let rest = self.buffer.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(
                self.more().await,
                "ended before {mark:?}: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// One chunk of a chunked body; `None` when the connection ends first.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let size = std::str::from_utf8(&self.buffer[..at]).unwrap();
                let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
                if self.buffer.len() >= at + 2 + size + 2 {
                    let chunk = self.buffer[at + 2..at + 2 + size].to_vec();
                    self.buffer.drain(..at + 2 + size + 2);
                    return Some(chunk);
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut body, mut complete) = (Vec::new(), true);
        if header(&head, "transfer-encoding").is_some() {
            loop {
                match self.chunk().await {
                    None => {
                        complete = false;
                        break;
                    }
                    Some(chunk) if chunk.is_empty() => break,
                    Some(chunk) => body.extend(chunk),
                }
            }
        } else if let Some(length) = header(&head, "content-length") {
            let length: usize = length.parse().unwrap();
            while complete && self.buffer.len() < length {
                complete = self.more().await;
            }
            let take = length.min(self.buffer.len());
            body = self.buffer.drain(..take).collect();
        } else {
            while self.more().await {}
            body = std::mem::take(&mut self.buffer);
        }
        Answer {
            status,
            head,
            body,
            complete,
        }
    }
}

/// One frame of HTTP/2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const INTERNAL_ERROR: [u8; 4] = [0, 0, 0, 2];

/// A client that speaks HTTP/2 frame by frame. It never sends window updates unless told.
pub struct RawH2<S = TcpStream> {
    pub raw: Raw<S>,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> RawH2<S> {
    pub async fn new(socket: S) -> Self {
        let mut raw = Raw::new(socket);
        raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut this = Self { raw };
        this.frame(SETTINGS, 0, 0, &[]).await;
        this
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.raw.socket.write_all(&bytes).await.unwrap();
    }

    /// Opens a stream; literal fields without indexing need no table (RFC 7541 §6.2.2).
    pub async fn open(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127);
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        self.frame(HEADERS, 4 | u8::from(end), stream, &block).await;
    }

    pub async fn get(&mut self, stream: u32, path: &str, port: &str) {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "localhost:3000"),
            (":path", path),
            ("e2b-sandbox-id", ID),
            ("e2b-sandbox-port", port),
        ];
        self.open(stream, &fields, true).await;
    }

    /// The next frame; `None` when the connection ends.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let buffer = &mut self.raw.buffer;
            if buffer.len() >= 9 {
                let length = usize::from(buffer[0]) << 16
                    | usize::from(buffer[1]) << 8
                    | usize::from(buffer[2]);
                if buffer.len() >= 9 + length {
                    let frame: Vec<u8> = buffer.drain(..9 + length).collect();
                    return Some(Frame {
                        kind: frame[3],
                        flags: frame[4],
                        stream: u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]),
                        payload: frame[9..].to_vec(),
                    });
                }
            }
            if !self.raw.more().await {
                return None;
            }
        }
    }

    /// The next frame of this kind on this stream.
    pub async fn wait(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self
                .next()
                .await
                .unwrap_or_else(|| panic!("ended before frame {kind} of {stream}"));
            assert!(
                frame.kind == kind || frame.kind != GOAWAY,
                "GOAWAY: {frame:?}"
            );
            if frame.kind == kind && frame.stream == stream {
                return frame;
            }
        }
    }
}
