//! The one port: every request of every client enters here and goes to the control plane or into a sandbox.
//!
//! Suggested reading order: [`decide`] (whose request is it), [`answer`] (what the edge says itself), [`rewrite`]
//! (what changes on the way), `proxy` and `errand` (the way), `server` and `connection` (the clients).
//! The edge knows neither templates nor SQL: it learns the way to a sandbox from [`Routes`].

pub mod answer;
mod body;
mod connection;
mod control;
pub mod decide;
mod errand;
mod gate;
mod guard;
mod h2_streams;
mod lent;
mod pool;
pub mod preview;
mod proxy;
pub mod rewrite;
mod server;
pub mod tls;
mod tunnel;
mod upstream;
mod within;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use soulbox_driver::BoxFuture;
use soulbox_driver::route::{Route, Woken};
use soulbox_types::SandboxId;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use body::BoxError;
pub use lent::ClientBody;
pub use within::Within;

/// Knows the way to every running sandbox.
pub trait Routes: Send + Sync {
    /// The way to this sandbox, if it can be reached now. Asked once per request: must be quick.
    fn route(&self, id: &SandboxId) -> Option<Arc<Route>>;

    /// Brings a paused sandbox back, if it wants to be woken by traffic. Takes as long as that takes.
    fn wake<'a>(&'a self, id: &'a SandboxId, admits: Admits) -> BoxFuture<'a, Woken>;
}

/// Says whether the request that wants to wake a sandbox may: asked with the sandbox's secrets.
pub type Admits = Box<dyn FnOnce(Secrets<'_>) -> bool + Send>;

/// What callers of a sandbox have to show.
#[expect(missing_debug_implementations, reason = "no log ever shows them")]
#[derive(Clone, Copy)]
pub struct Secrets<'a> {
    /// To envd.
    pub envd: &'a str,
    /// To every other port, when these are not public.
    pub traffic: Option<&'a str>,
}

/// Address of the client, among the extensions of a request to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub SocketAddr);

/// Among the extensions of a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

/// What can be set.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// Domain whose `api.` is the control plane and whose other names are sandboxes. In lower case, without port.
    pub domain: Option<String>,
    /// Most client connections at a time; one more is answered 503.
    pub max_connections: usize,
    /// Most open requests of one sandbox, if limited; one more is answered 429.
    pub max_requests_per_sandbox: Option<usize>,
    /// How long requests may still run after the shutdown has been asked for.
    pub drain: Duration,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            domain: None,
            max_connections: 16_384,
            max_requests_per_sandbox: None,
            drain: Duration::from_secs(5),
        }
    }
}

/// The edge. Copies share their pools, so that several listeners can be served.
#[derive(Debug, Clone)]
pub struct Edge {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    routes: Arc<dyn Routes>,
    control: Box<dyn control::Control>,
    config: EdgeConfig,
    pools: Arc<pool::Pools>,
    tasks: TaskTracker,
    /// Cuts what still runs when the time to drain is over.
    hard_stop: CancellationToken,
}

impl Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// Makes an edge in front of `control`, the service of the control plane (an `axum::Router` is one).
    pub fn new<S, B>(routes: Arc<dyn Routes>, control: S, config: EdgeConfig) -> Self
    where
        S: tower::Service<Request<ClientBody>, Response = Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut config = config;
        config.domain = config.domain.map(|domain| domain.to_ascii_lowercase());
        let inner = Inner {
            routes,
            control: Box::new(control::Adapter(control)),
            config,
            pools: Arc::default(),
            tasks: TaskTracker::new(),
            hard_stop: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Accepts and serves clients until `shutdown` is cancelled. The task ends when every request has ended or the
    /// time to drain is over. Sandboxes are not touched.
    pub fn serve(
        &self,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        let clients = server::Clients {
            listener,
            tls,
            within: None,
        };
        tokio::spawn(server::serve(Arc::clone(&self.inner), clients, shutdown))
    }

    /// The same for clients that are sandboxes, of whom `within` says what they may ask for.
    pub fn serve_within(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        within: Arc<dyn Within>,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        let clients = server::Clients {
            listener,
            tls: Some(tls),
            within: Some(within),
        };
        tokio::spawn(server::serve(Arc::clone(&self.inner), clients, shutdown))
    }
}
