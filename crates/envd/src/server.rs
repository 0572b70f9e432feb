//! The listener and its connections: HTTP/1.1 and h2c on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::idle::Work;
use crate::route::Endpoints;

mod strangers;

use strangers::{Stranger, Strangers};

const BACKLOG: u32 = 1024;
/// Longer than every hop in front keeps an idle connection, so that none of them reuses one that is closing.
const IDLE: Duration = Duration::from_secs(640);
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(15);
/// More wait in the backlog: descriptors must be left for processes and files.
const CONNECTIONS_MAX: usize = 4096;
/// Of those, connections that have shown no valid token. When there is one more, the oldest of them is closed: every
/// program inside can connect, and none may keep the owner out by saying nothing.
const STRANGERS_MAX: usize = 1024;
const STREAMS_MAX: u32 = 1000;
const HEADERS_MAX: u32 = 64 * 1024;
/// Of one HTTP/1.1 connection: bounds its headers, and what is read and written at once.
const BUFFER_MAX: usize = 256 * 1024;

/// Opens the port.
///
/// # Errors
/// When it is taken.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, endpoints: Endpoints) -> ! {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(BUFFER_MAX);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_PATIENCE)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Strangers::new(STRANGERS_MAX);
    loop {
        // Never closed, so there is always a place sooner or later.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let stranger = strangers.admit();
                let number = stranger.number();
                let connection = connection(http.clone(), stream, endpoints.clone(), stranger);
                let task = tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
                strangers.note(number, task.abort_handle());
            }
            // Out of descriptors or memory: the connections that are there must end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(
    http: Builder<TokioExecutor>,
    stream: TcpStream,
    endpoints: Endpoints,
    stranger: Stranger,
) {
    // Small frames must leave at once; a socket that refuses this still works.
    drop(stream.set_nodelay(true));
    let _work = Work;
    let service = service_fn(|request| {
        if endpoints.knows(&request) {
            stranger.is_known();
        }
        let endpoints = endpoints.clone();
        async move { endpoints.answer(request).await }
    });
    // A connection that breaks is its client's to notice; nothing here depends on how it ended.
    drop(http.serve_connection(TokioIo::new(stream), service).await);
}
