//! Counts and times for Prometheus: one recorder per process, shown by a listener of its own.
//!
//! The listener is not the API's: metrics need no key, and so must not share a port that may face the world.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Upper bounds of every `*_seconds` histogram: from a fast unary call to a slow create.
const SECONDS_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// How often what histograms have gathered is folded; without it they grow until somebody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Somebody was first, or the recorder refuses its own settings.
    #[error("the metrics recorder cannot be installed")]
    Install(#[source] metrics_exporter_prometheus::BuildError),
    /// The address is taken or not ours.
    #[error("cannot listen for metrics on {address}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// The process's metrics.
#[derive(Clone)]
pub struct Recorder {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Makes the `metrics` macros of this process count from now on.
    ///
    /// # Errors
    /// When a recorder is installed already.
    pub fn install() -> Result<Self, MetricsError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(MetricsError::Install)?;
        Ok(Self { handle })
    }

    /// Everything counted so far, in the text form of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Serves `GET /metrics` on `address` until `shutdown`; returns the address in use.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(
        &self,
        address: SocketAddr,
        shutdown: CancellationToken,
    ) -> Result<SocketAddr, MetricsError> {
        let listen = |source| MetricsError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let this = self.clone();
        let _detached = crate::task::spawn("metrics-listener", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = this.accept(&listener) => {}
                () = this.upkeep() => {}
            }
        });
        Ok(bound)
    }

    async fn upkeep(&self) {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            self.handle.run_upkeep();
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: give others time to close some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let this = self.clone();
            let _detached = crate::task::spawn("metrics-connection", async move {
                let service = service_fn(move |request| {
                    let answer = this.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!("metrics connection ended: {}", crate::chain(&error));
                }
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => (StatusCode::OK, self.render()),
            (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(
            hyper::header::CONTENT_TYPE,
            hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_scrape_sees_what_was_counted() {
        let recorder = Recorder::install().unwrap();
        ::metrics::counter!("soulbox_test_things_total").increment(3);
        ::metrics::histogram!("soulbox_test_wait_seconds").record(0.003);
        let shutdown = CancellationToken::new();
        let address = recorder
            .serve(([127, 0, 0, 1], 0).into(), shutdown.clone())
            .await
            .unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("soulbox_test_things_total 3"), "{text}");
        assert!(
            text.contains("soulbox_test_wait_seconds_bucket{le=\"0.004\"} 1"),
            "{text}"
        );
        shutdown.cancel();
    }
}
