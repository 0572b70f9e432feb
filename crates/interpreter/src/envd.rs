//! What the daemon of the sandbox says: which sandbox this is, and its variables.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The daemon answers from memory.
const DEADLINE: Duration = Duration::from_secs(3);
/// The header with the token that its answer takes.
pub(crate) const TOKEN: &str = "x-access-token";

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Envd {
    pub(crate) address: String,
    /// A file that names the sandbox. Its contents change when another sandbox goes on from the same memory.
    pub(crate) identity: PathBuf,
}

/// Why it did not say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvdError {
    #[error("envd cannot be reached")]
    Connect(#[from] std::io::Error),
    #[error("envd breaks off")]
    Http(#[from] hyper::Error),
    #[error("envd answers with {0}")]
    Status(StatusCode),
    #[error("envd's variables are no JSON")]
    Json(#[from] serde_json::Error),
    #[error("envd does not answer")]
    Silent,
    #[error("the request could not be made")]
    Request(#[from] hyper::http::Error),
}

impl Envd {
    /// Which sandbox this is; empty outside of one.
    pub(crate) fn identity(&self) -> String {
        std::fs::read_to_string(&self.identity).unwrap_or_default()
    }

    /// The variables of the sandbox.
    pub(crate) async fn variables(
        &self,
        token: Option<&str>,
    ) -> Result<BTreeMap<String, String>, EnvdError> {
        tokio::time::timeout(DEADLINE, self.ask(token))
            .await
            .map_err(|_| EnvdError::Silent)?
    }

    async fn ask(&self, token: Option<&str>) -> Result<BTreeMap<String, String>, EnvdError> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; what breaks it is seen by the request.
        let connection = tokio::spawn(connection);
        let mut request = Request::get("/envs").header("host", "localhost");
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        let reply = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        if reply.status() != StatusCode::OK {
            return Err(EnvdError::Status(reply.status()));
        }
        let body = reply.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok(serde_json::from_slice(&body)?)
    }
}
