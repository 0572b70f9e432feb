//! Requests and answers over kept connections, and the one mapping from what goes wrong to [`ClientError`].

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;

use crate::endpoint::SandboxAddress;
use crate::tls::{Connector, Dial, connector};
use crate::{ClientError, Code, Endpoint};

/// A request's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of everything that is answered at once. A create may wait for its turn; the wire's own limit is 60 s.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// More than this is no answer of ours.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The client's connections.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client<Connector, Body>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl Http {
    /// No connection yet.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let secure = endpoint.api_url.starts_with("https://")
            || match &endpoint.sandboxes {
                SandboxAddress::Url(url) => url.starts_with("https://"),
                SandboxAddress::Domain(_) => true,
            };
        let tls = match secure {
            true => Some(
                connector(endpoint.ca_file.as_deref())
                    .map_err(|reason| ClientError::request("set up HTTPS", reason))?,
            ),
            false => None,
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Self::over(Connector::Network { tcp, tls }))
    }

    /// Connections that somebody else makes.
    pub(crate) fn through(dial: Dial) -> Self {
        Self::over(Connector::Through(dial))
    }

    fn over(connector: Connector) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }

    /// Sends a request; the answer's body is still to come. No deadline: streams may be silent for hours.
    pub(crate) async fn send(
        &self,
        operation: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ClientError> {
        let authority = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                ClientError::Unreachable {
                    authority,
                    source: error.into(),
                }
            } else {
                ClientError::broken(operation, error)
            }
        })
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub(crate) async fn call(
        &self,
        operation: &str,
        request: Request<Body>,
    ) -> Result<(StatusCode, ::http::HeaderMap, Bytes), ClientError> {
        let whole = async {
            let response = self.send(operation, request).await?;
            let (parts, body) = response.into_parts();
            Ok((
                parts.status,
                parts.headers,
                read_all(operation, body).await?,
            ))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout {
                operation: operation.to_owned(),
                after: ANSWER_TIMEOUT,
            }),
        }
    }
}

/// A body that is all there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Reads a body to its end.
pub(crate) async fn read_all(operation: &str, body: Incoming) -> Result<Bytes, ClientError> {
    match http_body_util::Limited::new(body, MAX_ANSWER_BYTES)
        .collect()
        .await
    {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(ClientError::broken(operation, error)),
    }
}

/// Reads an answer's JSON.
pub(crate) fn json<T: DeserializeOwned>(operation: &str, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::answer(operation, error))
}

/// What a server said no with. Bodies of control plane, proxy and envd have `code` as a number, Connect's as a word.
pub(crate) fn refusal(operation: &str, status: StatusCode, body: &[u8]) -> ClientError {
    #[derive(serde::Deserialize)]
    struct Said {
        code: Option<serde_json::Value>,
        message: Option<String>,
        error_code: Option<String>,
    }
    let said: Option<Said> = serde_json::from_slice(body).ok();
    let code = match said.as_ref().and_then(|said| said.code.as_ref()) {
        Some(serde_json::Value::String(word)) => Code::Rpc(word.clone()),
        _ => Code::Http(status.as_u16()),
    };
    let message = said
        .as_ref()
        .and_then(|said| said.message.clone())
        .unwrap_or_else(|| {
            let text: String = String::from_utf8_lossy(body)
                .trim()
                .chars()
                .take(300)
                .collect();
            if text.is_empty() {
                status
                    .canonical_reason()
                    .unwrap_or("no reason given")
                    .to_owned()
            } else {
                text
            }
        });
    let error_code = said.and_then(|said| said.error_code);
    ClientError::Refused {
        operation: operation.to_owned(),
        code,
        message,
        error_code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> (Code, String) {
        match refusal(
            "test",
            StatusCode::from_u16(status).unwrap(),
            body.as_bytes(),
        ) {
            ClientError::Refused { code, message, .. } => (code, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_of_refusal() {
        assert_eq!(
            said(404, r#"{"code":404,"message":"gone"}"#),
            (Code::Http(404), "gone".to_owned())
        );
        assert_eq!(
            said(404, r#"{"code":"not_found","message":"gone"}"#),
            (Code::Rpc("not_found".to_owned()), "gone".to_owned())
        );
        assert_eq!(
            said(502, "<html>bad</html>"),
            (Code::Http(502), "<html>bad</html>".to_owned())
        );
        assert_eq!(
            said(503, ""),
            (Code::Http(503), "Service Unavailable".to_owned())
        );
    }
}
